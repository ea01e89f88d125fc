//! Unix sockets that pass descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, setsockopt, socketpair, sockopt,
};

/// A connected pair of SOCK_SEQPACKET sockets: packets keep their borders, and each may carry a
/// descriptor. Non-blocking, close-on-exec.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Makes room for `bytes` of packets in flight: as much as the kernel lets this user have.
pub fn widen(socket: BorrowedFd<'_>, bytes: usize) {
    if setsockopt(&socket, sockopt::SndBufForce, &bytes).is_err() {
        let _ = setsockopt(&socket, sockopt::SndBuf, &bytes);
    }
}

/// Sends the parts as one packet, with a descriptor if given.
pub fn send_with_fd(
    socket: BorrowedFd<'_>,
    parts: &[&[u8]],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let parts: Vec<IoSlice> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let raw: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None) {
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one packet and the descriptor it carried. Length 0: the other side is gone.
/// A packet longer than `buffer` is an error, not a silent cut.
pub fn receive_with_fd(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let packet = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(packet) => break packet,
        }
    };
    let mut fd = None;
    for message in packet.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            fd = fds.first().map(|&raw| adopt(raw));
        }
    }
    if packet.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "packet longer than the buffer"));
    }
    Ok((packet.bytes, fd))
}

/// Takes a listening socket that an earlier process left open under this number.
///
/// `None`: no such descriptor is open.
#[expect(unsafe_code, reason = "descriptors named by number come from the environment")]
pub fn adopt_inherited(raw: RawFd) -> Option<OwnedFd> {
    // SAFETY: borrowed only for the call that asks whether it is open at all.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_GETFD).ok()?;
    Some(adopt(raw))
}

/// Duplicates a descriptor, close-on-exec.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

#[expect(unsafe_code, reason = "received descriptors come as plain numbers")]
fn adopt(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor, or the parent process left it to us;
    // nothing else in this process owns it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
