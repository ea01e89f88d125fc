//! Who may speak on a connection that a disk thread has: the thread, until the loop takes the
//! connection back because the disk does not answer. Both ask one atomic. DESIGN.md, "Stall clock".

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use crate::ids::DeviceKey;
use crate::trace::Trace;

/// Nothing has been said or received: an answer can still be given.
const FRESH: u8 = 0;
/// In the middle of an answer, or of a body.
const BEGUN: u8 = 1;
/// In a call that changes what others see.
const COMMITTING: u8 = 2;
/// The thread is done: its outcome is on the way.
const DONE: u8 = 3;
/// The loop has taken the connection back.
const TAKEN: u8 = 4;

/// One operation of a connection in the hands of disk threads.
#[derive(Debug)]
pub struct Loan {
    state: AtomicU8,
    /// The device whose threads have it.
    device: DeviceKey,
    /// How it is answered if the disk does not.
    style: Style,
    /// When it was lent, on the loop's clock.
    since: u64,
    /// It is answered soon, whatever the disk does: usage before its first numbers.
    urgent: bool,
    /// What is noted of the request, if somebody wants to know.
    trace: Option<Arc<Trace>>,
}

/// How far an operation has come, as others must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// An answer can still be given.
    Fresh,
    /// In the middle of an answer, or of a body.
    Begun,
    /// In a call that changes what others see: the outcome is not known.
    Committing,
}

/// How an operation is answered by the loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// 503, and whether the connection lives on.
    Http(bool),
    /// A line of the sidechannel, about this device.
    Line(DeviceKey),
}

impl Loan {
    /// An operation about to be lent.
    pub fn new(device: DeviceKey, style: Style, stage: Stage, since: u64, urgent: bool) -> Loan {
        let state = AtomicU8::new(number(stage));
        Loan { state, device, style, since, urgent, trace: None }
    }

    /// The same, of a request that is noted.
    pub fn traced(self, trace: Option<Arc<Trace>>) -> Loan {
        Loan { trace, ..self }
    }

    /// What is noted of the request, if somebody wants to know.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_deref()
    }

    /// The device whose threads have it.
    pub fn device(&self) -> DeviceKey {
        self.device
    }

    /// How it is answered if the disk does not.
    pub fn style(&self) -> Style {
        self.style
    }

    /// When it was lent, on the loop's clock, if it is to be answered soon whatever the disk does.
    pub fn urgent_since(&self) -> Option<u64> {
        self.urgent.then_some(self.since)
    }

    /// Thread: the operation goes on to a stage, if it is still the thread's.
    pub fn enter(&self, stage: Stage) -> bool {
        self.set(number(stage))
    }

    /// Thread: true when the loop has taken the connection back.
    pub fn is_taken(&self) -> bool {
        self.state.load(Acquire) == TAKEN
    }

    /// Thread: the outcome is about to be told. False: to nobody.
    pub fn finish(&self) -> bool {
        self.set(DONE)
    }

    /// Loop: takes the connection back, and learns how far the thread had come. `None`: it is
    /// done, and its outcome on the way.
    pub fn take(&self) -> Option<Stage> {
        let update = |state| (state != DONE).then_some(TAKEN);
        match self.state.fetch_update(AcqRel, Acquire, update).ok()? {
            FRESH => Some(Stage::Fresh),
            COMMITTING => Some(Stage::Committing),
            _ => Some(Stage::Begun),
        }
    }

    fn set(&self, to: u8) -> bool {
        self.state.fetch_update(AcqRel, Acquire, |state| (state != TAKEN).then_some(to)).is_ok()
    }
}

fn number(stage: Stage) -> u8 {
    match stage {
        Stage::Fresh => FRESH,
        Stage::Begun => BEGUN,
        Stage::Committing => COMMITTING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SiteId;

    fn loan(stage: Stage) -> Loan {
        let device = DeviceKey { site: SiteId(0), devid: 1 };
        Loan::new(device, Style::Line(device), stage, 0, false)
    }

    #[test]
    fn nothing_goes_on_once_the_loop_has_taken_it() {
        for stage in [Stage::Fresh, Stage::Begun, Stage::Committing] {
            let loan = loan(Stage::Fresh);
            assert!(loan.enter(stage));
            assert_eq!(loan.take(), Some(stage));
            assert!(loan.is_taken() && !loan.enter(Stage::Committing) && !loan.finish());
        }
    }

    #[test]
    fn what_is_done_is_not_taken() {
        let loan = loan(Stage::Begun);
        assert!(loan.finish());
        assert_eq!(loan.take(), None);
        assert!(!loan.is_taken());
    }

    #[test]
    fn it_is_either_finished_or_taken_never_both() {
        for _ in 0..1000 {
            let loan = loan(Stage::Fresh);
            let (finished, taken) = std::thread::scope(|scope| {
                let finished = scope.spawn(|| loan.enter(Stage::Committing) && loan.finish());
                let taken = loan.take();
                (finished.join().unwrap(), taken)
            });
            assert_ne!(finished, taken.is_some());
        }
    }
}
