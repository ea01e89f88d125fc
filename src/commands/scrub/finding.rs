//! What a scrub tells: findings, and the summary at the end. contrib/schema/scrub.schema.json
//! describes both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The kernel could not open, read or list it.
    Unreadable,
    /// A file of no bytes.
    Empty,
    /// A file of which a part was never written.
    Hole,
    /// A file of the cluster that is not where it belongs.
    Misplaced,
    /// A name that no node reads or writes.
    Stray,
    /// A temporary name whose maker is gone.
    Leftover,
    /// A link, FIFO, socket or folder in a file's place.
    WrongType,
    /// The node's user may not read it.
    Forbidden,
    /// A whole device that was not looked at, or not to its end.
    Skipped,
}

impl Kind {
    /// Whether the copy of a file that it is about cannot be served as it should.
    pub fn is_bad_copy(self) -> bool {
        !matches!(self, Kind::Stray | Kind::Leftover | Kind::Skipped)
    }
}

/// One line. Fields that do not apply are left out.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// Where.
    pub path: String,
    /// On which device.
    pub devid: u32,
    /// The file's number, where its name is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fid: Option<u64>,
    /// The operator's sentence.
    pub why: String,
    /// Where in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What the kernel said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// How long the file is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How many bytes of disk it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated: Option<u64>,
}

/// Findings by kind.
pub type Counts = BTreeMap<Kind, u64>;

/// What has been done; of a pass that was interrupted, before that too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Files of the cluster that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Names too young to be judged: a client or a tool may still be writing there.
    pub unsettled: u64,
    /// Files that did not hold still, however often they were looked at.
    pub changing: u64,
    /// Findings by kind.
    pub found: Counts,
}

impl Totals {
    /// Adds another device's.
    pub fn add(&mut self, other: &Totals) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.unsettled += other.unsettled;
        self.changing += other.changing;
        for (kind, count) in &other.found {
            *self.found.entry(*kind).or_default() += count;
        }
    }

    /// Whether anything was found.
    pub fn is_clean(&self) -> bool {
        self.found.keys().all(|kind| *kind == Kind::Skipped)
    }
}

/// The last line.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    kind: &'static str,
    complete: bool,
    seconds: f64,
    #[serde(flatten)]
    totals: &'a Totals,
}

impl<'a> Summary<'a> {
    /// Of all devices. `complete`: every one was looked at to its end.
    pub fn new(complete: bool, seconds: f64, totals: &'a Totals) -> Summary<'a> {
        let seconds = (seconds * 1000.0).round() / 1000.0;
        Summary { kind: "summary", complete, seconds, totals }
    }
}
