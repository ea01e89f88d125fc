//! What a virtual machine does with free memory while we measure.

use std::fs;

/// Parameters of `mm/page_reporting.c`, which not every kernel has, and what they are to be: how
/// long pages must be free until the host gets them back, in milliseconds, and how many MiB may
/// wait for that. Both are the largest values there may be, or more memory than there is.
const PARAMETERS: [(&str, &str); 2] = [
    ("/sys/module/page_reporting/parameters/min_free_ms", "60000"),
    ("/sys/module/page_reporting/parameters/max_waiting_mib", "1048576"),
];

/// Keeps free page reporting from giving memory back to the host between two slices: whoever gets
/// such a page next waits for the host, which has made slices of large PUTs cost up to six times as
/// much, now for one server, now for another.
#[derive(Debug)]
pub struct Kept(Vec<(&'static str, String)>);

impl Kept {
    /// From now on; without privileges, or where there is no such thing, nothing happens.
    pub fn new() -> Kept {
        let set = |(file, wanted)| {
            let before = fs::read_to_string(file).ok()?;
            fs::write(file, wanted).is_ok().then_some((file, before))
        };
        Kept(PARAMETERS.into_iter().filter_map(set).collect())
    }

    /// Whether this one does it.
    pub fn is_kept(&self) -> bool {
        !self.0.is_empty()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for (file, before) in &self.0 {
            let _ = fs::write(file, before.trim());
        }
    }
}

/// Whether memory is kept, by whomever.
pub fn is_kept() -> bool {
    let (file, wanted) = PARAMETERS[0];
    fs::read_to_string(file).is_ok_and(|value| value.trim() == wanted)
}
