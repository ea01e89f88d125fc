//! Where findings go: standard output, a line at a time whichever thread it comes from.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::finding::{Finding, Kind, Summary};
use super::progress::Progress;

/// The report of one run.
pub struct Report {
    list: bool,
    progress: Progress,
    /// The last file of each device that is on the list: it may have two faults.
    listed: Mutex<HashMap<u32, u64>>,
}

impl Report {
    /// `list`: `FID DEVID` of each bad copy instead of JSON.
    pub fn new(list: bool, progress: Progress) -> Report {
        Report { list, progress, listed: Mutex::default() }
    }

    /// Tells of a finding. It has been written when this returns, so that a state that is saved
    /// later is never ahead of what was told.
    pub fn tell(&self, finding: &Finding) -> io::Result<()> {
        if self.list {
            if finding.kind == Kind::Skipped {
                self.complain(&format!("{}: {}", finding.path, finding.why));
            }
            return self.list(finding);
        }
        self.write(&line(finding)?)
    }

    /// The last line; with a list it is not for those who read the list.
    pub fn sum_up(&self, summary: &Summary<'_>) -> io::Result<()> {
        let line = line(summary)?;
        if self.list {
            self.progress.suspended(|| io::stderr().write_all(&line))
        } else {
            self.write(&line)
        }
    }

    /// A sentence for the operator.
    pub fn complain(&self, sentence: &str) {
        self.progress.suspended(|| {
            let _ = writeln!(io::stderr(), "E: {sentence}");
        });
    }

    fn list(&self, finding: &Finding) -> io::Result<()> {
        let Some(fid) = finding.fid.filter(|_| finding.kind.is_bad_copy()) else { return Ok(()) };
        {
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            if listed.insert(finding.devid, fid) == Some(fid) {
                return Ok(());
            }
        }
        self.write(format!("{fid} {}\n", finding.devid).as_bytes())
    }

    /// One call for a line, and the lock of standard output around it.
    fn write(&self, line: &[u8]) -> io::Result<()> {
        self.progress.suspended(|| {
            let mut out = io::stdout().lock();
            out.write_all(line)?;
            out.flush()
        })
    }
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}
