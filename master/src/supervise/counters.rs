//! What the node has done, through upgrades: each of the two nodes has the other's board. A
//! predecessor's counters go on here; a successor's, if the upgrade is taken back, do in its
//! predecessor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rmogstored_worker::control::Channel;
use rmogstored_worker::scoreboard::{Layout, OtherBoard, Scoreboard, Totals};

use crate::succession::Message;

/// So long after its master a predecessor's workers have gone, too.
const ORPHANS_GO_WITHIN: Duration = Duration::from_secs(10);

/// The boards.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// This node's, where it is in a file.
    own: Option<OwnedFd>,
    /// The predecessor has it.
    said: bool,
    predecessor: Option<OtherBoard>,
    /// Its counters do not rise any more then.
    final_at: Option<Instant>,
    successor: Option<OtherBoard>,
    /// What was done by those who are gone.
    settled: Totals,
}

/// Whose board one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Predecessor,
    Successor,
}

/// A board that an upgrade's other node can have, if there can be one.
pub(super) fn board() -> io::Result<(Scoreboard, Counters)> {
    match Scoreboard::in_file() {
        Ok((board, file)) => Ok((board, Counters { own: Some(file), ..Counters::default() })),
        Err(e) => {
            log::info!("totals will not go on in an upgrade: memfd_create: {e}");
            Ok((Scoreboard::new()?, Counters::default()))
        }
    }
}

impl Counters {
    /// Tells the other node of this one's board. It has room: nothing else was said yet.
    pub(super) fn say_to(&self, other: &Channel) {
        let Some(own) = &self.own else { return };
        let message = Message::Counters { layout: Layout::own() };
        if let Err(e) = other.send(&message, Some(own.as_fd())) {
            log::warn!("upgrade: totals do not go on: {e}");
        }
    }

    /// The same, the first time.
    pub(super) fn say_once_to(&mut self, other: &Channel) {
        if !self.said {
            self.said = true;
            self.say_to(other);
        }
    }

    /// The other node's.
    pub(super) fn hear(&mut self, from: Whose, board: OtherBoard) {
        match from {
            Whose::Predecessor => self.predecessor = Some(board),
            Whose::Successor => self.successor = Some(board),
        }
    }

    /// Brings what was done before up to date.
    pub(super) fn look(&mut self, board: &Scoreboard, now: Instant) {
        let Some(predecessor) = &self.predecessor else { return };
        match read(predecessor) {
            // Nothing ever falls, whatever is read.
            Ok(totals) => board.set_past(&board.past().at_least(&self.settled.plus(&totals))),
            Err(e) => {
                log::warn!("upgrade: the predecessor's totals: {e}");
                self.predecessor = None;
            }
        }
        if self.final_at.is_some_and(|at| at <= now) {
            (self.predecessor, self.settled) = (None, board.past());
        }
    }

    /// What the node has done in all, of this moment, though the master may stand still.
    pub(crate) fn totals(&self, board: &Scoreboard) -> Totals {
        let read = self.predecessor.as_ref().and_then(|other| read(other).ok());
        let before = read.map(|read| self.settled.plus(&read)).unwrap_or_default();
        board.totals_with(&board.past().at_least(&before))
    }

    /// For a process that reads and is read by no other node.
    pub(super) fn for_reader(self) -> Counters {
        Counters { own: None, successor: None, ..self }
    }

    /// Its master has gone.
    pub(super) fn predecessor_gone(&mut self, now: Instant) {
        self.final_at = Some(now + ORPHANS_GO_WITHIN);
    }

    /// The successor has gone, and the upgrade with it.
    pub(super) fn lose_successor(&mut self, board: &Scoreboard) {
        let Some(successor) = self.successor.take() else { return };
        match successor.workers() {
            Ok(totals) => self.settle(board, &totals),
            Err(e) => log::warn!("upgrade: the successor's totals: {e}"),
        }
    }

    /// A slot is given anew; what it counted of its old worker's crashes stays in the totals.
    pub(super) fn note_restarts(&mut self, board: &Scoreboard, restarts: u64) {
        self.settle(board, &Totals { restarts, ..Totals::default() });
    }

    fn settle(&mut self, board: &Scoreboard, done: &Totals) {
        self.settled = self.settled.plus(done);
        board.set_past(&board.past().plus(done));
    }
}

/// What the other node and those before it have done.
fn read(other: &OtherBoard) -> io::Result<Totals> {
    Ok(other.past()?.plus(&other.workers()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmogstored_worker::spec::WorkerId;
    use std::sync::atomic::Ordering::Relaxed;

    fn requests(requests: u64) -> Totals {
        Totals { requests, ..Totals::default() }
    }

    /// What one node's board is to another.
    fn seen(counters: &Counters) -> OtherBoard {
        let own = counters.own.as_ref().unwrap().try_clone().unwrap();
        OtherBoard::new(own, Layout::own())
    }

    #[test]
    fn totals_go_on_through_upgrades_and_back() {
        let nodes: Vec<_> = (0..3).map(|_| board().unwrap()).collect();
        let [(first, of_first), (second, mut of_second), (third, mut of_third)] =
            nodes.try_into().unwrap();
        let work = |board: &Scoreboard, count| {
            board.worker(WorkerId(3)).requests.fetch_add(count, Relaxed);
        };
        let now = Instant::now();
        work(&first, 10);
        of_second.hear(Whose::Predecessor, seen(&of_first));
        of_second.look(&second, now);
        assert_eq!(second.totals(), requests(10));
        work(&first, 5);
        work(&second, 100);
        of_second.look(&second, now);
        assert_eq!(second.totals(), requests(115));
        of_second.predecessor_gone(now);
        work(&first, 1);
        of_second.look(&second, now + ORPHANS_GO_WITHIN);
        assert_eq!(second.totals(), requests(116));
        work(&first, 1000);
        of_second.look(&second, now + ORPHANS_GO_WITHIN);
        assert_eq!(second.totals(), requests(116), "it was final");
        // An upgrade that is taken back.
        of_third.hear(Whose::Predecessor, seen(&of_second));
        of_second.hear(Whose::Successor, seen(&of_third));
        of_third.look(&third, now);
        work(&third, 4);
        assert_eq!(third.totals(), requests(120));
        of_second.lose_successor(&second);
        of_second.lose_successor(&second);
        assert_eq!(second.totals(), requests(120));
        of_second.note_restarts(&second, 2);
        of_second.look(&second, now);
        assert_eq!(second.totals(), Totals { restarts: 2, ..requests(120) });
    }
}
