//! How far a scrub is: bars on standard error, one for each device, when that is a terminal.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::statvfs::fstatvfs;

const LINE: &str = "{prefix:>8} {bar:24} {percent:>3}% {bytes:>11} {bytes_per_sec:>13}  {msg}";

/// All bars.
#[derive(Clone)]
pub struct Progress(MultiProgress);

impl Progress {
    /// None are shown where nobody looks.
    pub fn new() -> Progress {
        let terminal = io::stderr().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Progress(MultiProgress::with_draw_target(target))
    }

    /// Does something that writes to the terminal, with the bars out of its way.
    pub fn suspended<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// The bar of a device. What its file system has in use is taken for what is to be read, which
    /// is too much where there is something else on it.
    pub fn bar(&self, devid: u32, device: impl std::os::fd::AsFd) -> ProgressBar {
        let used = fstatvfs(device).map_or(0, |facts| {
            facts.blocks().saturating_sub(facts.blocks_free()) * facts.fragment_size()
        });
        let bar = self.0.add(ProgressBar::new(used));
        if let Ok(style) = ProgressStyle::with_template(LINE) {
            bar.set_style(style);
        }
        bar.set_prefix(format!("dev{devid}"));
        if !self.0.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        bar
    }
}
