//! The way back from a disk thread to the loop: outcomes in a queue, of which the loop is told when
//! there is something to do about them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::Waker;

use crate::disk::loan::Loan;
use crate::disk::operation::Outcome;
use crate::sys::socket;

/// A connection as disk threads know it: its place among the worker's, which another may have by
/// the time, and its loan, which no other ever has.
#[derive(Debug)]
pub struct Client {
    /// Its key in the loop.
    pub key: usize,
    /// Who may speak on it.
    pub loan: Arc<Loan>,
}

/// An outcome on its way to the loop.
#[derive(Debug)]
pub struct Done {
    /// The connection; `None` when none waits.
    pub client: Option<Client>,
    /// What came of it.
    pub outcome: Outcome,
}

/// A connection's socket, shared by the loop and the disk thread that borrows it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// The loop knows of something to read, so it waits for the outcome.
    wanted: AtomicBool,
}

impl Socket {
    /// A socket that nobody has borrowed.
    pub fn new(fd: OwnedFd) -> Socket {
        Socket { fd, wanted: AtomicBool::new(false) }
    }

    /// Takes the connection away from the thread that has borrowed it, by its descriptor: what
    /// that thread still does with the old one, it does to nobody.
    pub fn reclaim(&self) -> io::Result<Socket> {
        socket::move_away(self.fd.as_fd()).map(Socket::new)
    }

    /// To be said by the loop: at the beginning of an operation whether there is something to
    /// read, and again when there is.
    pub fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Relaxed);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Outcomes that the loop has not seen yet.
#[derive(Debug)]
pub struct Completions {
    queue: Mutex<Queue>,
    waker: Waker,
}

#[derive(Debug)]
struct Queue {
    done: Vec<Done>,
    /// The loop has been woken for them.
    woken: bool,
}

impl Completions {
    /// An empty queue that wakes the loop through `waker`.
    pub fn new(waker: Waker) -> Completions {
        Completions { queue: Mutex::new(Queue { done: Vec::new(), woken: false }), waker }
    }

    /// Adds an outcome; wakes the loop unless it has been woken for an earlier one already.
    /// `quiet`, a socket: there is nothing to do until the peer sends something, which wakes the
    /// loop anyway. If the loop knows of something by now, it is woken.
    pub fn push(&self, done: Done, quiet: Option<Arc<Socket>>) {
        let mut queue = self.lock();
        queue.done.push(done);
        // The loop says what it wants before it takes the lock: it finds the outcome, or we find
        // what it has said.
        let urgent = quiet.is_none_or(|socket| socket.wanted.load(Relaxed));
        let wake = urgent && !std::mem::replace(&mut queue.woken, true);
        drop(queue);
        if wake && let Err(e) = self.waker.wake() {
            log::error!("cannot wake the event loop: {e}");
        }
    }

    /// Takes all that is there, leaving `empty` in its place.
    pub fn swap(&self, empty: &mut Vec<Done>) {
        let mut queue = self.lock();
        queue.woken = false;
        std::mem::swap(&mut queue.done, empty);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    fn done() -> Done {
        Done { client: None, outcome: Outcome::Finished }
    }

    fn lent(wanted: bool) -> Option<Arc<Socket>> {
        let socket = Socket::new(UnixStream::pair().unwrap().0.into());
        socket.set_wanted(wanted);
        Some(Arc::new(socket))
    }

    #[test]
    fn reclaimed_connection_is_out_of_the_borrower_s_reach() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let borrowed = Socket::new(ours.into());
        let back = borrowed.reclaim().unwrap();
        assert!(socket::send(borrowed.as_fd(), b"stray", false).is_err());
        socket::send(back.as_fd(), b"answer", false).unwrap();
        drop(back);
        let mut text = String::new();
        io::Read::read_to_string(&mut peer, &mut text).unwrap();
        assert_eq!(text, "answer", "and its end reaches the peer though the borrower lives");
    }

    fn wakes(poll: &mut Poll) -> bool {
        let mut events = Events::with_capacity(1);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn loop_is_woken_once_and_for_what_it_has_to_do() {
        let mut poll = Poll::new().unwrap();
        let completions = Completions::new(Waker::new(poll.registry(), Token(0)).unwrap());
        completions.push(done(), lent(false));
        assert!(!wakes(&mut poll), "nothing to do");
        completions.push(done(), None);
        assert!(wakes(&mut poll), "behind one that is quiet");
        completions.push(done(), lent(true));
        assert!(!wakes(&mut poll), "woken already");
        let mut all = Vec::new();
        completions.swap(&mut all);
        assert_eq!(all.len(), 3);
        completions.push(done(), lent(true));
        assert!(wakes(&mut poll), "there is something to read");
    }
}
