//! What is noted of one request while it is served, where somebody wants to know: the access log,
//! the log of slow operations. Shared by the loop and the disk thread that has the request.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64};
use std::time::{Duration, Instant};

use crate::clock;
use crate::ids::DeviceKey;

/// How many parts there are.
pub const PARTS: usize = 7;

/// What the time of a request goes into. At each moment it is one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// The loop has it.
    Loop = 0,
    /// It waits for a disk thread.
    Queue = 1,
    /// Files and folders are opened and looked up.
    Open = 2,
    /// A file is read.
    Read = 3,
    /// A file is written.
    Write = 4,
    /// A file gets its name, or loses it; with what `fsync` asks for.
    Commit = 5,
    /// The peer is to send or take something.
    Peer = 6,
}

/// What a request says of itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The first line, as it came.
    pub line: Vec<u8>,
    /// Referer.
    pub referer: Option<Vec<u8>>,
    /// User-Agent.
    pub agent: Option<Vec<u8>>,
    /// The path, once it has passed the checks.
    pub path: Option<String>,
    /// The device that it is on.
    pub device: Option<DeviceKey>,
}

/// One request. Times are microseconds since it began.
#[derive(Debug)]
pub struct Trace {
    asked: Asked,
    peer: SocketAddr,
    /// Since 1970.
    time: Duration,
    began: Instant,
    /// 0: not answered.
    status: AtomicU16,
    sent: AtomicU64,
    received: AtomicU64,
    on_disk: AtomicBool,
    part: AtomicU8,
    since: AtomicU64,
    spent: [AtomicU64; PARTS],
}

impl Trace {
    /// A request whose head has just been read.
    pub fn begin(asked: Asked, peer: SocketAddr) -> Trace {
        Trace {
            asked,
            peer,
            time: clock::unix_time(),
            began: clock::instant(),
            status: AtomicU16::default(),
            sent: AtomicU64::default(),
            received: AtomicU64::default(),
            on_disk: AtomicBool::default(),
            part: AtomicU8::new(Part::Loop as u8),
            since: AtomicU64::default(),
            spent: Default::default(),
        }
    }

    /// What the request says.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Who has sent it.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// When it began, since 1970.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// From now on its time goes into this.
    pub fn enter(&self, part: Part) {
        let now = clock::instant().saturating_duration_since(self.began).as_micros() as u64;
        let before = self.part.swap(part as u8, Relaxed);
        let since = self.since.swap(now, Relaxed);
        if let Some(spent) = self.spent.get(usize::from(before)) {
            spent.fetch_add(now.saturating_sub(since), Relaxed);
        }
        if part == Part::Queue {
            self.on_disk.store(true, Relaxed);
        }
    }

    /// An answer, or the beginning of one that [`Trace::add_sent`] goes on with: its head, and what
    /// of its body is behind that.
    pub fn note_answer(&self, answer: &[u8]) {
        let digits = answer.get(b"HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let status = digits.and_then(|digits| digits.parse().ok());
        self.status.store(status.unwrap_or(0), Relaxed);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let body = end.map_or(0, |end| answer.len() - end - 4);
        self.add_sent(body as u64);
    }

    /// So much more of the answer's body is sent.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// So much more of the request's body has come.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// The answer's code; `None`: there was none.
    pub fn status(&self) -> Option<u16> {
        Some(self.status.load(Relaxed)).filter(|status| *status != 0)
    }

    /// Bytes of the answer's body.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Bytes of the request's body.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Whether a disk thread has had it.
    pub fn was_on_disk(&self) -> bool {
        self.on_disk.load(Relaxed)
    }

    /// What its time went into until [`Trace::enter`] was called last.
    pub fn spent(&self, part: Part) -> Duration {
        Duration::from_micros(self.spent[part as usize].load(Relaxed))
    }

    /// All of it.
    pub fn took(&self) -> Duration {
        Duration::from_micros(self.since.load(Relaxed))
    }

    /// Without what the peer needed.
    pub fn own_time(&self) -> Duration {
        self.took().saturating_sub(self.spent(Part::Peer))
    }
}

impl Part {
    /// All that a disk thread is in, or waits for.
    pub const ALL: [Part; PARTS] =
        [Part::Queue, Part::Open, Part::Read, Part::Write, Part::Commit, Part::Peer, Part::Loop];

    /// As the log has it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Loop => "loop",
            Part::Queue => "queue",
            Part::Open => "open",
            Part::Read => "read",
            Part::Write => "write",
            Part::Commit => "commit",
            Part::Peer => "peer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn trace() -> Trace {
        Trace::begin(Asked::default(), SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    #[test]
    fn each_moment_belongs_to_one_part() {
        let trace = trace();
        trace.enter(Part::Queue);
        thread::sleep(Duration::from_millis(3));
        trace.enter(Part::Peer);
        thread::sleep(Duration::from_millis(2));
        trace.enter(Part::Loop);
        assert!(trace.spent(Part::Queue) >= Duration::from_millis(3));
        assert!(trace.spent(Part::Peer) >= Duration::from_millis(2));
        let sum: Duration = Part::ALL.iter().map(|part| trace.spent(*part)).sum();
        assert_eq!(sum, trace.took());
        assert_eq!(trace.own_time(), trace.took() - trace.spent(Part::Peer));
        assert!(trace.was_on_disk());
    }

    #[test]
    fn an_answer_tells_its_code_and_its_body() {
        let trace = trace();
        assert_eq!((trace.status(), trace.sent()), (None, 0));
        trace.note_answer(b"HTTP/1.1 206 Partial Content\r\nA: b\r\n\r\nhello");
        trace.add_sent(7);
        assert_eq!((trace.status(), trace.sent()), (Some(206), 12));
        assert!(!trace.was_on_disk());
    }
}
