//! Listening sockets left open by an earlier process: `CMOGSTORED_FD`, also set for a successor,
//! and systemd's `LISTEN_FDS`. PROTOCOL.md section 8.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::process;
use std::sync::OnceLock;

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use rmogstored_worker::sys::socket::adopt_inherited;

use crate::sys::{self, FIRST};

/// The variable that names inherited descriptors, known to cmogstored as well.
pub const VARIABLE: &str = "CMOGSTORED_FD";
/// Far more than anybody announces: a larger count is none.
const MOST_DESCRIPTORS: RawFd = 1 << 16;

/// The process that was started, which a daemon is a grandchild of.
static STARTED_AS: OnceLock<u32> = OnceLock::new();

/// An inherited socket and the address it is bound to.
#[derive(Debug)]
pub struct Inherited {
    /// The socket.
    pub fd: OwnedFd,
    /// `None`: not an internet socket.
    pub address: Option<SocketAddr>,
}

/// What is wrong with the announced descriptors.
#[derive(Debug, PartialEq, Eq)]
pub enum InheritError {
    /// A byte that is neither a digit nor a comma.
    InvalidByte {
        /// The variable.
        variable: &'static str,
        /// The byte.
        byte: u8,
    },
    /// An empty element, or a number that is no descriptor's.
    Parse {
        /// The variable.
        variable: &'static str,
        /// All of its value.
        value: String,
    },
    /// Not open, or not a socket.
    NotASocket {
        /// The variable.
        variable: &'static str,
        /// The descriptor.
        fd: RawFd,
        /// Why, as the system says it.
        reason: String,
    },
}

/// True when an earlier process left its listeners: the node then does not daemonize again.
pub fn announced() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// The numbers that the environment announces, as far as it can be understood: [`take`] tells
/// what is wrong with it.
pub(crate) fn announced_descriptors() -> BTreeSet<RawFd> {
    let listed = env::var_os(VARIABLE).unwrap_or_default();
    let listed = listed.as_bytes().split(|b| *b == b',').filter_map(number);
    listed.chain(from_systemd().unwrap_or_default()).collect()
}

/// Takes over all sockets that the environment announces, and the announcements with them.
pub fn take() -> Result<Vec<Inherited>, InheritError> {
    let mut all = Vec::new();
    if let Some(value) = env::var_os(VARIABLE) {
        for fd in parse(value.as_bytes())? {
            all.push(adopt(VARIABLE, fd)?);
        }
    }
    for fd in from_systemd()? {
        all.push(adopt("LISTEN_FDS", fd)?);
    }
    for name in [VARIABLE, "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        sys::forget_variable(name);
    }
    Ok(all)
}

/// The descriptors of `CMOGSTORED_FD=3,7,...`, each once.
fn parse(value: &[u8]) -> Result<BTreeSet<RawFd>, InheritError> {
    let strange = value.iter().find(|b| !b.is_ascii_digit() && **b != b',');
    if let Some(&byte) = strange {
        return Err(InheritError::InvalidByte { variable: VARIABLE, byte });
    }
    let all = value.split(|b| *b == b',').map(number).collect::<Option<_>>();
    all.ok_or_else(|| unparsed(VARIABLE, value))
}

/// Digits alone: `parse` takes a sign as well.
fn number(text: &[u8]) -> Option<RawFd> {
    let text = str::from_utf8(text).ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn unparsed(variable: &'static str, value: &[u8]) -> InheritError {
    InheritError::Parse { variable, value: value.escape_ascii().to_string() }
}

/// systemd's descriptors, if they are meant for this process and not for one that started it. A
/// daemon is not the process that was started, but does that one's work.
fn from_systemd() -> Result<Range<RawFd>, InheritError> {
    let (Some(count), Some(pid)) = (env::var_os("LISTEN_FDS"), env::var_os("LISTEN_PID")) else {
        return Ok(0..0);
    };
    let own = [process::id(), started_as()].map(RawFd::try_from);
    if !number(pid.as_bytes()).is_some_and(|pid| own.contains(&Ok(pid))) {
        return Ok(0..0);
    }
    let last = number(count.as_bytes()).and_then(|count| FIRST.checked_add(count));
    let last = last.filter(|last| *last <= MOST_DESCRIPTORS);
    Ok(FIRST..last.ok_or_else(|| unparsed("LISTEN_FDS", count.as_bytes()))?)
}

/// The id of the process that was started, if this is called first there.
pub(crate) fn started_as() -> u32 {
    *STARTED_AS.get_or_init(process::id)
}

fn adopt(variable: &'static str, number: RawFd) -> Result<Inherited, InheritError> {
    let refused =
        |e: io::Error| InheritError::NotASocket { variable, fd: number, reason: e.to_string() };
    let closed = || refused(nix::Error::EBADF.into());
    let fd = adopt_inherited(number).ok_or_else(closed)?;
    let name = getsockname::<SockaddrStorage>(fd.as_raw_fd()).map_err(|e| refused(e.into()))?;
    Ok(Inherited { address: internet_address(&name), fd })
}

/// The address as the standard library has it; `None` for other families.
pub(crate) fn internet_address(name: &SockaddrStorage) -> Option<SocketAddr> {
    match name.family()? {
        AddressFamily::Inet => name.as_sockaddr_in().map(|&v4| SocketAddr::V4(v4.into())),
        AddressFamily::Inet6 => name.as_sockaddr_in6().map(|&v6| SocketAddr::V6(v6.into())),
        _ => None,
    }
}

impl fmt::Display for InheritError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InheritError::InvalidByte { variable, byte } => {
                write!(f, "{variable}: invalid byte: {byte}")
            }
            InheritError::Parse { variable, value } => {
                write!(f, "{variable}={value}: failed to parse")
            }
            InheritError::NotASocket { variable, fd, reason } => {
                write!(f, "{variable}: getsockname for descriptor {fd} failed: {reason}")
            }
        }
    }
}

impl std::error::Error for InheritError {}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    fn message(value: &str) -> String {
        parse(value.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn descriptors_are_listed_once_each() {
        assert_eq!(parse(b"3").unwrap(), BTreeSet::from([3]));
        assert_eq!(parse(b"7,3,7").unwrap(), BTreeSet::from([3, 7]));
    }

    #[test]
    fn strange_byte_is_named_by_its_number() {
        assert_eq!(message("3,x"), "CMOGSTORED_FD: invalid byte: 120");
        assert_eq!(message("-3"), "CMOGSTORED_FD: invalid byte: 45");
        assert_eq!(message("3 ,4"), "CMOGSTORED_FD: invalid byte: 32");
        assert_eq!(message("+3"), "CMOGSTORED_FD: invalid byte: 43");
        assert_eq!(parse(b"3,\xff").unwrap_err().to_string(), "CMOGSTORED_FD: invalid byte: 255");
    }

    #[test]
    fn what_is_no_number_fails_to_parse() {
        for value in ["", ",", "3,", "3,,", "3,,4", ",3", "2147483648", "99999999999999999999"] {
            assert_eq!(message(value), format!("CMOGSTORED_FD={value}: failed to parse"));
        }
    }

    #[test]
    fn descriptor_that_is_not_open_fails_getsockname() {
        let error = adopt(VARIABLE, 999_999).unwrap_err().to_string();
        assert!(error.contains("getsockname for descriptor 999999 failed"), "{error}");
    }

    #[test]
    fn pipe_fails_getsockname() {
        let (reader, _writer) = io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let raw = std::os::fd::IntoRawFd::into_raw_fd(reader);
        let error = adopt(VARIABLE, raw).unwrap_err().to_string();
        assert!(error.contains("failed"), "{error}");
        assert!(error.contains("socket"), "{error}");
    }

    #[test]
    fn descriptor_that_was_opened_since_is_not_taken() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let error = adopt(VARIABLE, reader.as_raw_fd()).unwrap_err().to_string();
        assert!(error.contains("Bad file descriptor"), "{error}");
        writer.write_all(b"x").unwrap();
        reader.read_exact(&mut [0]).unwrap();
    }
}
