//! What a virtual machine does with free memory while we measure.

use std::fs;

/// How long pages must be free until the host gets them back, in milliseconds. Not every kernel has
/// this parameter of `mm/page_reporting.c`.
const LEAST_FREE: &str = "/sys/module/page_reporting/parameters/min_free_ms";
/// Longer than a slice, and the largest value there may be.
const LONG: &str = "60000";

/// Keeps free page reporting from giving memory back to the host between two slices: whoever gets
/// such a page next waits for the host, which has made slices of large PUTs cost up to six times as
/// much, now for one server, now for another.
#[derive(Debug)]
pub struct Kept(Option<String>);

impl Kept {
    /// From now on; without privileges, or where there is no such thing, nothing happens.
    pub fn new() -> Kept {
        let before = fs::read_to_string(LEAST_FREE).ok();
        Kept(before.filter(|_| fs::write(LEAST_FREE, LONG).is_ok()))
    }

    /// Whether this one does it.
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = fs::write(LEAST_FREE, before.trim());
        }
    }
}

/// Whether memory is kept, by whomever.
pub fn is_kept() -> bool {
    fs::read_to_string(LEAST_FREE).is_ok_and(|value| value.trim() == LONG)
}
