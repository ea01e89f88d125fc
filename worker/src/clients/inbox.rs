//! Inboxes: how a connection, or a device's directory, gets from one worker to another. One packet
//! each, with the descriptor riding along: unix(7), SCM_RIGHTS over SOCK_SEQPACKET.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use crate::disk::device_dir::Traits;
use crate::disk::disk_fd::DiskFd;
use crate::spec::{DeviceKey, Service, SiteId, WorkerId};
use crate::sys::socket;

/// Longest unread input that travels with a connection: a full read buffer behind a partial head.
pub const MOST_INPUT: usize = 256 * 1024;
const HEADER: usize = 8;
/// So few descriptors left are scarce, whatever the limit.
const FEW: u64 = 64;

/// What arrives in an inbox.
#[derive(Debug)]
pub enum Parcel {
    /// A connection with what was read from it and not yet answered.
    Connection {
        /// Its socket.
        socket: OwnedFd,
        /// What is spoken on it.
        service: Service,
        /// Which docroot it is about.
        site: SiteId,
        /// Unread input.
        input: Vec<u8>,
    },
    /// A worker would like a device's directory, for reads that do not block.
    WantDir {
        /// Which device.
        device: DeviceKey,
        /// Who asks.
        from: WorkerId,
    },
    /// The directory asked for.
    Dir {
        /// Which device.
        device: DeviceKey,
        /// A path descriptor of it; `None`: nothing is read in a loop there.
        fd: Option<DiskFd>,
        /// What a loop may do there.
        traits: Traits,
    },
}

const CONNECTION: u8 = b'c';
const WANT_DIR: u8 = b'w';
const DIR: u8 = b'd';

/// The receiving end of a worker's own inbox.
#[derive(Debug)]
pub struct Inbox {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// Something may be in it.
    waits: bool,
    /// Something is in it, for which there is no descriptor now.
    starved: bool,
    /// What is in it is for whoever comes next.
    left: bool,
    /// Descriptors from this number on are few: what is received may find no room.
    scarce_from: RawFd,
    /// The last one was such a one.
    careful: bool,
}

impl Inbox {
    /// The inbox behind a descriptor, which outlives the worker: something may be in it already.
    /// The worker may have so many descriptors.
    pub fn new(fd: OwnedFd, descriptors: u64) -> Inbox {
        let scarce_from = descriptors.saturating_sub((descriptors / 4).max(FEW));
        Inbox {
            fd,
            // Zeroed by the kernel page by page: what no parcel needs takes no memory.
            buffer: vec![0; MOST_INPUT + 64],
            waits: false,
            starved: false,
            left: false,
            scarce_from: RawFd::try_from(scarce_from).unwrap_or(RawFd::MAX),
            careful: true,
        }
    }

    /// The number of a descriptor that has just been opened: the lowest that was free, proc(5)
    /// and open(2). When few are left, none is received without making sure of it.
    pub fn note_descriptor(&mut self, number: RawFd) {
        self.careful = number >= self.scarce_from;
    }

    /// There is no descriptor for what is next: it stays, until something has been closed.
    pub fn wait_for_room(&mut self) {
        (self.waits, self.starved) = (false, true);
    }

    /// Nobody has it next: it is this worker's again.
    pub fn take_back(&mut self) {
        self.waits |= std::mem::take(&mut self.left);
    }

    /// A descriptor has been closed.
    pub fn note_room(&mut self) {
        self.waits |= std::mem::take(&mut self.starved);
    }

    /// Something has come, or may have.
    pub fn note_arrival(&mut self) {
        self.waits = !self.left;
    }

    /// From now on what is in it, and what comes, is for whoever has the slot next.
    pub fn leave(&mut self) {
        (self.waits, self.starved, self.left) = (false, false, true);
    }

    /// Whether something may be in it that can be taken now.
    pub fn is_ready(&self) -> bool {
        self.waits
    }

    /// Whether something may be in it.
    pub fn may_have_more(&self) -> bool {
        self.waits || self.starved
    }

    /// Takes the next parcel; `None`: there is none now. Errors as [`receive`], and `EMFILE`: it is
    /// there still, since there is no descriptor for what it carries.
    pub fn take_next(&mut self) -> Option<io::Result<Parcel>> {
        if !self.waits {
            return None;
        }
        let next = match self.careful {
            true => receive_or_leave(self.fd.as_fd(), &mut self.buffer),
            false => receive(self.fd.as_fd(), &mut self.buffer),
        };
        let next = next.transpose();
        self.waits = next.is_some();
        next
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sends a connection. `WouldBlock`: the inbox is full.
pub fn send_connection(
    inbox: BorrowedFd<'_>,
    connection: BorrowedFd<'_>,
    service: Service,
    site: SiteId,
    input: &[u8],
) -> io::Result<()> {
    let service = match service {
        Service::Http => 0,
        Service::HttpGet => 1,
        Service::Mgmt => 2,
    };
    let header = [CONNECTION, service, site.0, 0, 0, 0, 0, 0];
    socket::send_with_fd(inbox, &[&header, input], Some(connection))
}

/// Whether an inbox takes nothing for now: it is full, or the kernel is short of memory or has too
/// many descriptors under way. Its worker is there.
pub fn is_full(error: &io::Error) -> bool {
    let short = [libc::ENOBUFS, libc::ENOMEM, libc::ETOOMANYREFS];
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error().is_some_and(|number| short.contains(&number))
}

/// Asks a device's owner for its directory.
pub fn ask_for_dir(inbox: BorrowedFd<'_>, device: DeviceKey, from: WorkerId) -> io::Result<()> {
    let [low, high] = from.0.to_le_bytes();
    socket::send_with_fd(inbox, &[&device_header(WANT_DIR, device, low, high)], None)
}

/// Answers [`Parcel::WantDir`].
pub fn send_dir(
    inbox: BorrowedFd<'_>,
    device: DeviceKey,
    dir: Option<BorrowedFd<'_>>,
    traits: Traits,
) -> io::Result<()> {
    let (atime, unlocked) = (traits.updates_atime.into(), traits.sends_unlocked.into());
    let header = device_header(DIR, device, atime, unlocked);
    socket::send_with_fd(inbox, &[&header], dir)
}

/// Takes the next parcel. `Ok(None)`: there is none. `InvalidData`: one was there, but not whole
/// (for lack of room its descriptor could not be received, so the connection is closed already).
pub fn receive(inbox: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Parcel>> {
    let received = socket::receive_with_fd(inbox, buffer);
    unpack(received, buffer)
}

/// The same where descriptors are few. `EMFILE`: there is none for the next parcel, which stays.
fn receive_or_leave(inbox: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Parcel>> {
    let received = socket::receive_with_fd_or_leave(inbox, buffer);
    unpack(received, buffer)
}

fn unpack(
    received: io::Result<(usize, Option<OwnedFd>)>,
    buffer: &[u8],
) -> io::Result<Option<Parcel>> {
    let (len, fd) = match received {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        other => other?,
    };
    if len == 0 {
        return Ok(None); // All senders are gone.
    }
    match parse(&buffer[..len], fd) {
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "a parcel that is not whole")),
        parcel => Ok(parcel),
    }
}

fn device_header(kind: u8, device: DeviceKey, a: u8, b: u8) -> [u8; HEADER] {
    let [d0, d1, d2, d3] = device.devid.to_le_bytes();
    [kind, device.site.0, a, b, d0, d1, d2, d3]
}

fn parse(packet: &[u8], fd: Option<OwnedFd>) -> Option<Parcel> {
    let (&[kind, b1, b2, b3, d0, d1, d2, d3], input) = packet.split_first_chunk::<HEADER>()?;
    let device = DeviceKey { site: SiteId(b1), devid: u32::from_le_bytes([d0, d1, d2, d3]) };
    match (kind, fd) {
        (CONNECTION, Some(socket)) => {
            let service = [Service::Http, Service::HttpGet, Service::Mgmt].get(usize::from(b1))?;
            let (site, input) = (SiteId(b2), input.to_vec());
            Some(Parcel::Connection { socket, service: *service, site, input })
        }
        (WANT_DIR, None) => {
            Some(Parcel::WantDir { device, from: WorkerId(u16::from_le_bytes([b2, b3])) })
        }
        (DIR, fd) => {
            let (updates_atime, sends_unlocked) = (b2 != 0, b3 != 0);
            let traits = Traits { inline_reads: fd.is_some(), updates_atime, sends_unlocked };
            Some(Parcel::Dir { device, fd: fd.map(DiskFd::new), traits })
        }
        (_, fd) => {
            // Whatever it is, nobody here knows whether its last close may wait.
            fd.map(DiskFd::new).into_iter().for_each(DiskFd::close_elsewhere);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn pass(send: impl FnOnce(BorrowedFd<'_>)) -> Option<Parcel> {
        let (a, b) = socket::seqpacket_pair().unwrap();
        send(a.as_fd());
        receive(b.as_fd(), &mut vec![0; MOST_INPUT + HEADER]).unwrap()
    }

    #[test]
    fn connection_travels_with_all_its_input() {
        let (_keep, passed) = std::os::unix::net::UnixStream::pair().unwrap();
        let text = vec![b'x'; 128 * 1024];
        let parcel = pass(|inbox| {
            socket::widen(inbox, 1024 * 1024);
            send_connection(inbox, passed.as_fd(), Service::HttpGet, SiteId(3), &text).unwrap();
        });
        let Some(Parcel::Connection { service, site, input, .. }) = parcel else {
            panic!("{parcel:?}")
        };
        assert_eq!((service, site, input), (Service::HttpGet, SiteId(3), text));
    }

    #[test]
    fn directory_is_asked_for_and_sent() {
        let device = DeviceKey { site: SiteId(1), devid: 16_777_215 };
        let asked = pass(|inbox| ask_for_dir(inbox, device, WorkerId(300)).unwrap());
        assert!(
            matches!(asked, Some(Parcel::WantDir { device: d, from: WorkerId(300) }) if d == device)
        );
        let dir = std::fs::File::open("/").unwrap();
        let traits = Traits { inline_reads: true, updates_atime: true, sends_unlocked: false };
        let sent = pass(|inbox| send_dir(inbox, device, Some(dir.as_fd()), traits).unwrap());
        let Some(Parcel::Dir { device: d, fd: Some(fd), traits: t }) = sent else {
            panic!("{sent:?}")
        };
        assert_eq!((d, t), (device, traits));
        fd.close_elsewhere();
        let none = pass(|inbox| send_dir(inbox, device, None, Traits::default()).unwrap());
        assert!(matches!(none, Some(Parcel::Dir { fd: None, .. })));
    }

    #[test]
    fn empty_inbox_is_told_from_a_torn_parcel() {
        assert!(pass(|_| ()).is_none());
        for torn in [&b"c"[..], b"c0000000", b"x0000000"] {
            let (a, b) = socket::seqpacket_pair().unwrap();
            socket::send_with_fd(a.as_fd(), &[torn], None).unwrap();
            assert!(receive(b.as_fd(), &mut [0; 64]).is_err());
        }
    }
}
