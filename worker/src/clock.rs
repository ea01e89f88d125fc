//! The clocks: nobody else reads one.

mod date;

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

pub use date::HttpDate;

/// The clock of a loop, as it was when it was last looked at.
#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    /// What [`Clock::monotonic`] was then.
    monotonic_then: u64,
    now: u64,
    second: u64,
    date: HttpDate,
}

impl Clock {
    /// Starts at 0.
    pub(crate) fn start() -> io::Result<Clock> {
        let monotonic_then = monotonic_ms()?;
        let (now, second, date) = (0, 0, HttpDate::EPOCH);
        Ok(Clock { began: Instant::now(), monotonic_then, now, second, date })
    }

    /// Looks at the clocks.
    pub(crate) fn look(&mut self) {
        self.now = self.began.elapsed().as_millis() as u64;
        let second = unix_time().as_secs();
        if second != self.second {
            self.second = second;
            self.date = HttpDate::from_unix(second as i64);
        }
    }

    /// Milliseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// CLOCK_MONOTONIC in milliseconds: the clock of heartbeats, which all processes see alike.
    pub(crate) fn monotonic(&self) -> u64 {
        self.monotonic_then + self.now
    }

    /// The time, as a Date header shows it.
    pub(crate) fn date(&self) -> &HttpDate {
        &self.date
    }

    /// Goes forward by so much, for tests.
    #[cfg(test)]
    pub(crate) fn set(&mut self, now: u64) {
        self.now = now;
    }
}

/// Since 1970.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The time, as a Date header shows it.
pub fn date_now() -> HttpDate {
    HttpDate::from_unix(unix_time().as_secs() as i64)
}

/// A moment, to be told from others of this process.
pub fn instant() -> Instant {
    Instant::now()
}

/// CLOCK_MONOTONIC, which all processes see alike, a few milliseconds late at most; and cheap.
pub fn coarse() -> Duration {
    ClockId::CLOCK_MONOTONIC_COARSE.now().map_or(Duration::ZERO, Duration::from)
}

/// Processor time of all threads of this process until now.
pub(crate) fn processor_time() -> Option<Duration> {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().ok().map(Duration::from)
}

/// CLOCK_MONOTONIC in milliseconds.
pub(crate) fn monotonic_ms() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_two_times_go_on_together() {
        let mut clock = Clock::start().unwrap();
        let before = clock.monotonic();
        std::thread::sleep(Duration::from_millis(2));
        clock.look();
        assert!(clock.now() >= 2);
        assert_eq!(clock.monotonic() - before, clock.now());
        assert_ne!(*clock.date(), HttpDate::EPOCH);
    }
}
