//! Files on their way to a peer: by a disk thread, or by the loop while all their pages are in
//! memory.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use log::Level;

use crate::disk::failed::is_of_disk;
use crate::disk::faults::{self, Access};
use crate::disk::hot_files::{Extent, OpenFile};
use crate::disk::path::DevPath;
use crate::http::head::Request;
use crate::ids::DeviceKey;
use crate::scoreboard::DeviceSlot;
use crate::sys::socket;

/// Most bytes that one sendfile call is asked for.
const WINDOW: u64 = 1024 * 1024;

/// A file being sent.
#[derive(Debug)]
pub struct Transfer {
    file: Arc<OpenFile>,
    /// Named in the log when the file shrinks.
    path: DevPath,
    /// What is left of it.
    rest: Extent,
    /// Whether the connection lives on afterwards.
    keep: bool,
    /// The answer's head, as far as it is not sent.
    head: Vec<u8>,
}

/// How far a transfer came.
#[derive(Debug)]
pub enum Pumped {
    /// All is sent.
    Done,
    /// The peer does not take more now.
    Blocked,
    /// So much for one turn.
    Enough,
    /// The file ended before its size: nothing sensible can follow.
    Shrunk,
    /// The peer is gone, or the disk failed.
    Failed(io::Error),
}

/// A file being sent by the loop, with the request in case a disk thread must take over.
#[derive(Debug)]
pub struct Sending {
    transfer: Transfer,
    request: Request,
    /// The peer did not take more when it was last tried.
    waits: bool,
}

impl Transfer {
    /// A transfer whose head, if any is left, goes first.
    pub fn new(
        file: Arc<OpenFile>,
        path: DevPath,
        rest: Extent,
        keep: bool,
        head: Vec<u8>,
    ) -> Self {
        Transfer { file, path, rest, keep, head }
    }

    /// Sends until done, blocked, or `budget` bytes are through. `send` moves bytes of the file.
    pub fn pump(
        &mut self,
        to: BorrowedFd<'_>,
        budget: u64,
        send: impl Fn(&OpenFile, u64, usize) -> io::Result<usize>,
    ) -> Pumped {
        let mut budget = budget;
        if !self.head.is_empty() {
            match socket::send(to, &self.head, self.rest.len > 0) {
                Ok(n) => drop(self.head.drain(..n)),
                Err(e) => return blocked_or_failed(e),
            }
            if !self.head.is_empty() {
                return Pumped::Blocked;
            }
        }
        while self.rest.len > 0 {
            if budget == 0 {
                return Pumped::Enough;
            }
            let count = self.rest.len.min(WINDOW).min(budget);
            match send(&self.file, self.rest.offset, count as usize) {
                Ok(0) => return Pumped::Shrunk,
                Ok(n) => {
                    self.rest.offset += n as u64;
                    self.rest.len -= n as u64;
                    budget -= n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return blocked_or_failed(e),
            }
        }
        Pumped::Done
    }

    /// What it is a transfer of.
    pub fn path(&self) -> &DevPath {
        &self.path
    }

    /// How many bytes are left, without those of the head.
    pub fn left(&self) -> u64 {
        self.rest.len
    }

    /// Whether the connection lives on afterwards.
    pub fn keeps(&self) -> bool {
        self.keep
    }

    /// Gives the file back.
    pub fn into_file(self) -> Arc<OpenFile> {
        self.file
    }
}

impl Sending {
    /// One whose pages have just been seen.
    pub fn new(transfer: Transfer, request: Request) -> Sending {
        Sending { transfer, request, waits: false }
    }

    /// What it is a transfer of.
    pub fn path(&self) -> &DevPath {
        &self.transfer.path
    }

    /// Whether it goes on only when the peer takes more.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// The peer takes nothing now: by the time it does, the pages may have gone.
    pub fn note_wait(&mut self) {
        self.waits = true;
    }

    /// Whether the next pages are in memory, where they have been seen a moment ago or are now.
    pub fn is_in_memory(&self) -> bool {
        !self.waits || self.transfer.file.is_resident(self.transfer.rest.offset)
    }

    /// Sends what is in memory, up to `budget` bytes. Returns how many went, too.
    pub fn pump(&mut self, to: BorrowedFd<'_>, budget: u64) -> (Pumped, u64) {
        let before = self.transfer.left();
        let pumped = self
            .transfer
            .pump(to, budget, |file, offset, count| file.send_resident(to, offset, count));
        self.waits = matches!(pumped, Pumped::Blocked);
        (pumped, before - self.transfer.left())
    }

    /// Whether the connection lives on afterwards.
    pub fn keeps(&self) -> bool {
        self.transfer.keep
    }

    /// Gives the file back.
    pub fn into_file(self) -> Arc<OpenFile> {
        self.transfer.file
    }

    /// What a disk thread needs to take over.
    pub fn into_parts(self) -> (Transfer, Request) {
        (self.transfer, self.request)
    }
}

fn blocked_or_failed(e: io::Error) -> Pumped {
    match e.kind() {
        io::ErrorKind::WouldBlock => Pumped::Blocked,
        _ => Pumped::Failed(e),
    }
}

/// Logs why a transfer cannot be completed; a peer that went away is not worth a line.
pub fn log_broken(device: DeviceKey, slot: Option<&DeviceSlot>, path: &DevPath, why: &Pumped) {
    let path_text = path.as_str();
    match why {
        Pumped::Shrunk => {
            let line = format_args!("GET {path_text}: the file became shorter while it was sent");
            faults::note(device, slot, Access::Read, Level::Error, None, line);
        }
        Pumped::Failed(e) if e.raw_os_error().is_some_and(is_of_disk) => {
            let line = format_args!("GET {path_text}: {e}");
            faults::note(device, slot, Access::Read, Level::Error, e.raw_os_error(), line);
        }
        Pumped::Failed(e) => log::debug!("GET {}: {e}", path.as_str()),
        Pumped::Done | Pumped::Blocked | Pumped::Enough => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::disk::disk_fd::DiskFd;
    use crate::disk::on_disk::OnDisk;

    fn transfer(size: u64, head: &[u8]) -> Transfer {
        let on = OnDisk::in_test();
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let fd = DiskFd::new(file.into());
        let stat = fd.stat(&on).unwrap();
        let file = Arc::new(OpenFile::new(fd, &stat, None, false));
        let path = DevPath::parse(b"/dev1/a").unwrap();
        Transfer::new(file, path, Extent { offset: 0, len: size }, true, head.to_vec())
    }

    #[test]
    fn the_head_goes_first_and_a_turn_ends_with_its_budget() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let mut transfer = transfer(10, b"head");
        assert!(matches!(transfer.pump(socket.as_fd(), 6, |_, _, n| Ok(n.min(4))), Pumped::Enough));
        assert_eq!(transfer.left(), 4);
        let mut head = [0; 4];
        peer.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"head");
        let places = std::cell::RefCell::new(Vec::new());
        let note = |_: &OpenFile, at, n| {
            places.borrow_mut().push((at, n));
            Ok(n)
        };
        assert!(matches!(transfer.pump(socket.as_fd(), 6, note), Pumped::Done));
        assert_eq!(places.into_inner(), [(6, 4)], "it goes on where it was");
    }

    #[test]
    fn a_file_that_became_shorter_and_a_peer_that_is_full_end_it_differently() {
        let (_peer, socket) = UnixStream::pair().unwrap();
        let mut transfer = transfer(10, b"");
        let full = |_: &OpenFile, _, _| Err(io::ErrorKind::WouldBlock.into());
        assert!(matches!(transfer.pump(socket.as_fd(), 99, full), Pumped::Blocked));
        assert!(matches!(transfer.pump(socket.as_fd(), 99, |_, _, _| Ok(0)), Pumped::Shrunk));
        let failed = |_: &OpenFile, _, _| Err(io::Error::from_raw_os_error(libc::EIO));
        assert!(matches!(transfer.pump(socket.as_fd(), 99, failed), Pumped::Failed(_)));
        assert_eq!((transfer.left(), transfer.keeps()), (10, true));
    }

    #[test]
    fn pages_are_looked_for_again_only_after_a_wait() {
        // Of a hole no page is in memory.
        let mut sending = Sending::new(transfer(8192, b""), Request::default());
        assert!(!sending.waits() && sending.is_in_memory(), "they have just been seen");
        sending.note_wait();
        assert!(sending.waits() && !sending.is_in_memory());
    }
}
