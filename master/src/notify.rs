//! Telling systemd how it goes: sd_notify(3). Without `NOTIFY_SOCKET` nothing happens.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// The variable that says which process systemd's watchdog watches.
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// A shorter interval of the watchdog is taken for this one.
const SHORTEST: Duration = Duration::from_millis(300);

/// Every worker accepts connections.
pub fn ready() {
    tell(&format!("READY=1\nMAINPID={}", std::process::id()));
}

/// The successor is the main process from now on. A predecessor says so itself, for systemd may
/// listen to nobody but the main process that it knows (`NotifyAccess=main`). False: not told.
pub fn succeeded_by(pid: i32) -> bool {
    tell(&format!("MAINPID={pid}"))
}

/// A reload has begun; [`ready`] ends it. The time is what `Type=notify-reload` asks for.
pub fn reloading() {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.num_microseconds());
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
}

/// The drain has begun.
pub fn stopping() {
    tell("STOPPING=1");
}

/// systemd's watchdog, if it watches this process.
#[derive(Debug)]
pub struct Watchdog {
    interval: Option<Duration>,
    next: Instant,
}

impl Watchdog {
    /// As the environment says. A successor's predecessor has set `WATCHDOG_PID` for it.
    pub fn new(now: Instant) -> Watchdog {
        let own = match std::env::var(WATCHDOG_PID) {
            Ok(pid) => pid == std::process::id().to_string(),
            Err(_) => true,
        };
        let interval = std::env::var("WATCHDOG_USEC").ok().filter(|_| own);
        let interval = interval.and_then(|usec| usec.parse().ok()).map(Duration::from_micros);
        let interval = interval.filter(|i| !i.is_zero()).map(|i| i.max(SHORTEST));
        Watchdog { interval, next: now }
    }

    /// Feeds it when it is due, unless something is wrong.
    pub fn feed(&mut self, now: Instant, well: bool) {
        let Some(interval) = self.interval else { return };
        if now >= self.next {
            self.next = now + interval / 3;
            if well {
                tell("WATCHDOG=1");
            }
        }
    }

    /// When [`Watchdog::feed`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.interval.map(|_| self.next)
    }
}

/// Nobody who listens is told once: a watchdog is fed several times a second. False if somebody is
/// to be told and was not.
fn tell(state: &str) -> bool {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
    let Some(name) = name else { return true };
    let sent = send(&name, state);
    match &sent {
        Ok(()) => IS_TOLD.store(false, Relaxed),
        Err(_) if IS_TOLD.swap(true, Relaxed) => {}
        Err(e) => log::warn!("NOTIFY_SOCKET {}: {e}", name.display()),
    }
    sent.is_ok()
}

/// A name that begins with `@` is in the abstract namespace.
fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> Vec<u8> {
        let mut text = [0; 64];
        let len = socket.recv(&mut text).unwrap();
        text[..len].to_vec()
    }

    #[test]
    fn state_arrives_at_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(received(&systemd), b"READY=1");
    }

    #[test]
    fn state_arrives_at_an_abstract_name() {
        let name = format!("rmogstored-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let systemd = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(received(&systemd), b"STOPPING=1");
    }
}
