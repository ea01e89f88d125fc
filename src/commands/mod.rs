//! The commands about a node that runs already, and about its files.
//!
//! | module | holds |
//! |---|---|
//! | [`device`] | `rmogstored device`: what the operator knows better |
//! | [`status`] | `rmogstored status`: a table, or the JSON document |
//! | [`scrub`] | `rmogstored scrub`: every file is read and judged |
//! | [`upgrade`] | `rmogstored upgrade`: the steps of an upgrade, in order |
//! | `table` | two looks at a node into a table |

pub mod device;
pub mod scrub;
pub mod status;
mod table;
pub mod upgrade;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use rmogstored_master::report::request::{Answer, NAME, Request};
use rmogstored_master::report::status::{Document, VERSION};

/// Far more than a document has.
const LARGEST: usize = 64 << 20;
/// A master that hangs is told from a slow one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The document's text, as a node's status socket gives it. Errors say what is wrong with the
/// socket, not its path.
fn read_text(socket: &Path) -> io::Result<String> {
    let stream = connect(socket, None).map_err(|e| explained(socket, e))?;
    read_to_end(socket, stream)
}

/// Has the node do something, and hears what it says to that.
fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let name = [NAME, format!("{}-{now}", std::process::id()).as_bytes()].concat();
    let own = UnixAddr::new_abstract(&name)?;
    let mut stream = connect(socket, Some(own)).map_err(|e| explained(socket, e))?;
    let line = serde_json::to_string(request)? + "\n";
    stream.write_all(line.as_bytes()).map_err(|e| explained(socket, e))?;
    let text = read_to_end(socket, stream)?;
    let other = |_| io::Error::other("the node that runs there knows no such request");
    serde_json::from_str(&text).map_err(other)
}

fn read_to_end(socket: &Path, mut stream: UnixStream) -> io::Result<String> {
    let until = Instant::now() + PATIENCE;
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 << 10]);
    loop {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece).map_err(|e| explained(socket, e))? {
            0 => break,
            length => bytes.extend_from_slice(&piece[..length]),
        }
        if bytes.len() > LARGEST {
            return Err(io::Error::other("what answers there is no node"));
        }
    }
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// A node that stands still may have a full backlog: connecting has its time too, which the
/// standard library's does not.
fn connect(path: &Path, own: Option<UnixAddr>) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let patience = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
    setsockopt(&fd, sockopt::SendTimeout, &patience)?;
    if let Some(own) = own {
        socket::bind(fd.as_raw_fd(), &own)?;
    }
    socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd.into())
}

/// The errno in the words of what was tried.
fn explained(socket: &Path, error: io::Error) -> io::Error {
    let is_socket = || fs::metadata(socket).is_ok_and(|found| found.file_type().is_socket());
    let text = match error.kind() {
        ErrorKind::NotFound => {
            "there is no such socket: the node does not run, or has another \
            --status-socket"
        }
        ErrorKind::ConnectionRefused if !is_socket() => "this is no socket",
        ErrorKind::ConnectionRefused => "nobody answers: the node has ended",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            return io::Error::other(format!(
                "the node does not answer within {} s: its master stands still",
                PATIENCE.as_secs()
            ));
        }
        ErrorKind::PermissionDenied => "no permission to use this socket: be the node's user",
        _ if error.raw_os_error() == Some(Errno::EPROTOTYPE as i32) => "this is no node's socket",
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

/// The document itself.
fn read(socket: &Path) -> io::Result<Document> {
    parsed(&read_text(socket)?)
}

/// The document, and the process that answers: 0 where it cannot be seen from here.
fn read_with_peer(socket: &Path) -> io::Result<(Document, Pid)> {
    let stream = connect(socket, None).map_err(|e| explained(socket, e))?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
    let document = parsed(&read_to_end(socket, stream)?)?;
    Ok((document, Pid::from_raw(peer.pid())))
}

fn parsed(text: &str) -> io::Result<Document> {
    if text.is_empty() {
        return Err(io::Error::other("the node closed the connection without an answer"));
    }
    let other = |e| io::Error::other(format!("not a document of version {VERSION}: {e}"));
    serde_json::from_str(text).map_err(other)
}

/// Tells of Ctrl-C from now on: it ends a wait instead of the process.
fn interrupts() -> Result<Receiver<()>, ctrlc::Error> {
    let (sender, receiver) = channel();
    // The receiver is gone when nobody waits any more.
    ctrlc::set_handler(move || {
        let _ = sender.send(());
    })?;
    Ok(receiver)
}
