//! Unix sockets that pass descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, setsockopt, socketpair, sockopt,
};

use super::check;

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

/// Sends what the socket takes now; `more` says that more follows at once.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], more: bool) -> io::Result<usize> {
    // nix has no name for it.
    let more = MsgFlags::from_bits_retain(if more { libc::MSG_MORE } else { 0 });
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT | more;
    loop {
        match nix::sys::socket::send(socket.as_raw_fd(), bytes, flags) {
            Err(nix::Error::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// True when bytes of the peer are there and have not been read.
pub fn has_input(socket: BorrowedFd<'_>) -> bool {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    nix::sys::socket::recv(socket.as_raw_fd(), &mut [0], flags).is_ok_and(|n| n > 0)
}

/// Receives what is there now. 0: the peer has shut down its writing side.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match nix::sys::socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Err(nix::Error::EINTR) => {}
            other => return Ok(other?),
        }
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
    let (len, fd, _) = receive_packet(socket, buffer, MsgFlags::empty())?;
    Ok((len, fd))
}

/// The same where there may be no room for a descriptor, which would be lost. `EMFILE`: there is
/// none, and the packet is still there. One more system call.
pub fn receive_with_fd_or_leave(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let (len, fd, lost) = receive_packet(socket, buffer, MsgFlags::MSG_PEEK)?;
    if lost {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    // The descriptor is there: the packet goes, with its own.
    receive(socket, &mut [])?;
    Ok((len, fd))
}

/// The length of a packet, its descriptor, and whether that did not fit.
fn receive_packet(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    more: MsgFlags,
) -> io::Result<(usize, Option<OwnedFd>, bool)> {
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT | more;
    let packet = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(packet) => break packet,
        }
    };
    let lost = packet.flags.contains(MsgFlags::MSG_CTRUNC);
    let mut fd = None;
    // nix refuses to look at what was cut; a descriptor for which there was no room is not there.
    for message in packet.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(fds) = message {
            fd = fds.first().map(|&raw| adopt(raw));
        }
    }
    if packet.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "packet longer than the buffer"));
    }
    Ok((packet.bytes, fd, lost))
}

/// Adds a listening socket to an epoll set so that one connection wakes one of the processes
/// that wait for it: EPOLLEXCLUSIVE, level-triggered, epoll_ctl(2).
#[expect(unsafe_code, reason = "mio cannot set EPOLLEXCLUSIVE")]
pub fn watch_exclusively(
    epoll: &impl AsRawFd,
    listener: BorrowedFd<'_>,
    token: usize,
) -> io::Result<()> {
    let events = (libc::EPOLLIN | libc::EPOLLEXCLUSIVE) as u32;
    let mut event = libc::epoll_event { events, u64: token as u64 };
    // SAFETY: `event` outlives the call.
    let result = unsafe {
        let (epoll, listener) = (epoll.as_raw_fd(), listener.as_raw_fd());
        libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, listener, &raw mut event)
    };
    check(result.into()).map(|_| ())
}

/// Changes what an epoll set reports of a socket, edge-triggered: epoll_ctl(2). Interest in both
/// directions reports anew what is ready; no interest reports errors only.
#[expect(unsafe_code, reason = "mio cannot be interested in nothing")]
pub fn change_interest(
    epoll: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    token: usize,
    interested: bool,
) -> io::Result<()> {
    let both = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP;
    let events = if interested { both | libc::EPOLLET } else { libc::EPOLLET } as u32;
    let mut event = libc::epoll_event { events, u64: token as u64 };
    // SAFETY: `event` outlives the call.
    let result = unsafe {
        let (epoll, socket) = (epoll.as_raw_fd(), socket.as_raw_fd());
        libc::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, socket, &raw mut event)
    };
    check(result.into()).map(|_| ())
}

/// Takes the next connection from a listener: accept4(2), non-blocking and close-on-exec.
#[expect(unsafe_code, reason = "accept4 with the peer's address")]
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: plain bytes, for which zero is valid.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: address and length are valid for the call; an address that does not fit is cut.
    let fd = unsafe {
        libc::accept4(listener.as_raw_fd(), (&raw mut address).cast(), &raw mut len, flags)
    };
    let fd = check(fd.into())? as RawFd;
    Ok((adopt(fd), unpack(&address)))
}

/// The address of the other side; unspecified when the connection is broken already.
#[expect(unsafe_code, reason = "getpeername into the same structure as accept4")]
pub fn peer_address(socket: BorrowedFd<'_>) -> SocketAddr {
    // SAFETY: plain bytes, for which zero is valid.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // SAFETY: address and length are valid for the call; an address that does not fit is cut.
    unsafe { libc::getpeername(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
    unpack(&address)
}

/// Milliseconds since data last came from the peer: `tcpi_last_data_recv`, tcp(7).
#[expect(unsafe_code, reason = "TCP_INFO")]
pub fn last_data_received(socket: BorrowedFd<'_>) -> Option<u32> {
    // SAFETY: plain integers, for which zero is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    (result == 0).then_some(info.tcpi_last_data_recv)
}

/// Reads an address of either family from the larger of the two structures.
fn unpack(address: &libc::sockaddr_in6) -> SocketAddr {
    let port = u16::from_be(address.sin6_port);
    let ip = if i32::from(address.sin6_family) == libc::AF_INET6 {
        IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr)).to_canonical()
    } else {
        // In `sockaddr_in` the IPv4 address lies where `sockaddr_in6` has the flow label.
        IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin6_flowinfo)))
    };
    SocketAddr::new(ip, port)
}

/// Takes a listening socket that an earlier process left open under this number.
///
/// `None`: no such descriptor is open, or it is one that this process has opened since: those
/// are all close-on-exec, which nothing that has come through execve(2) can be.
#[expect(unsafe_code, reason = "descriptors named by number come from the environment")]
pub fn adopt_inherited(raw: RawFd) -> Option<OwnedFd> {
    // SAFETY: borrowed only for the call that asks whether it is open at all.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    let flags = nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_GETFD).ok()?;
    (flags & libc::FD_CLOEXEC == 0).then(|| adopt(raw))
}

/// Gives an open socket a new number and puts a socket that is connected to nobody under the old
/// one, at once: dup3(2). Who still holds the old number cannot reach the peer any more.
#[expect(unsafe_code, reason = "dup3 onto a number that others hold too")]
pub fn move_away(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let nobody = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let moved = socket.try_clone_to_owned()?;
    // SAFETY: takes integers only; the old number stays open all the time, as its owner expects.
    let result = unsafe { libc::dup3(nobody.as_raw_fd(), socket.as_raw_fd(), libc::O_CLOEXEC) };
    check(result.into()).map(|_| moved)
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
