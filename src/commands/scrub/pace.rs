//! How fast a device is read: a token bucket for `--rate`, and giving way to the disk's neighbours.

use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use super::control::{Control, Halt};
use super::neighbours::Neighbours;
use super::read::PIECE;

/// What is read at once beside others, who wait for the end of it.
const SMALL_PIECE: usize = 128 << 10;
/// The longest sleep before the next look whether to stop.
const NAP: Duration = Duration::from_millis(100);

/// The pace of one device's thread.
pub struct Pace {
    bucket: Option<Bucket>,
    neighbours: Neighbours,
    began: Instant,
    took: Duration,
}

impl Pace {
    /// For a device; `rate` in bytes per second.
    pub fn new(device: BorrowedFd<'_>, rate: Option<u64>) -> Pace {
        let bucket = rate.map(|rate| Bucket::new(rate, Instant::now()));
        let (began, took) = (Instant::now(), Duration::ZERO);
        Pace { bucket, neighbours: Neighbours::of(device), began, took }
    }

    /// Returns when the disk may be used again.
    pub fn wait(&mut self, control: &Control) -> Result<(), Halt> {
        self.took = self.began.elapsed();
        control.check()?;
        while let Some(time) = self.bucket.as_mut().and_then(|it| it.debt(Instant::now())) {
            thread::sleep(time.min(NAP));
            control.check()?;
        }
        self.neighbours.give_way(self.took, control)?;
        self.began = Instant::now();
        Ok(())
    }

    /// How much to read at once.
    pub fn piece(&self) -> usize {
        if self.neighbours.are_there() { SMALL_PIECE } else { PIECE }
    }

    /// Notes that so many bytes were read.
    pub fn spent(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.bucket {
            bucket.tokens -= bytes as f64;
        }
    }
}

/// Fills with time, up to what a tenth of a second brings; may be overdrawn by one piece.
struct Bucket {
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: u64, now: Instant) -> Bucket {
        Bucket { rate: rate as f64, tokens: 0.0, filled: now }
    }

    /// How long until it is not overdrawn; `None`: it is not.
    fn debt(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.rate / 10.0);
        self.filled = now;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_lets_through_its_rate_and_saves_little() {
        let begun = Instant::now();
        let at = |seconds: f64| begun + Duration::from_secs_f64(seconds);
        let mut bucket = Bucket::new(1_000_000, begun);
        assert_eq!(bucket.debt(begun), None);
        bucket.tokens -= 500_000.0;
        let debt = bucket.debt(begun).unwrap();
        assert!((debt.as_secs_f64() - 0.5).abs() < 1e-6, "{debt:?}");
        assert!(bucket.debt(at(0.49)).is_some());
        assert_eq!(bucket.debt(at(0.5)), None);
        // An hour of rest is no hour of credit.
        assert_eq!(bucket.debt(at(3600.0)), None);
        bucket.tokens -= 1_000_000.0;
        let debt = bucket.debt(at(3600.0)).unwrap();
        assert!((debt.as_secs_f64() - 0.9).abs() < 1e-6, "{debt:?}");
    }
}
