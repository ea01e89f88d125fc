//! A *real disk that misbehaves*: ext4, XFS or btrfs on a loop device over the one file of a small
//! FUSE filesystem, which hangs, crawls, fails and records as it is told. What the kernel does
//! with a block device that stops answering it does with this one.
//!
//! Tests must not touch its files while it hangs, except in a thread that may wait.

mod attach;
mod conduct;
mod files;
mod image;
mod node;
mod platter;
mod record;
mod watch;

pub use attach::alone_in_a_namespace;
pub use conduct::{EVERYTHING, Op, Which};
pub use files::{Tree, holes};
pub use image::Image;
pub use node::{RealSick, on_real_disks};
pub use record::{Event, Recording};
pub use watch::LoopWatch;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fuser::Errno;

use self::attach::Attached;
use self::platter::Platter;
use super::{shell, until};

/// The size of a disk that is large enough, in MiB; what is not written takes no room.
pub const ENOUGH: u64 = 2048;

/// A filesystem that real nodes have on their disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// With a journal of metadata.
    Ext4,
    /// Takes a file's lock for reading where others do not.
    Xfs,
    /// Reads folders when they are opened.
    Btrfs,
}

/// One disk. Dropping it lets everything go that hangs on it, whatever the test came to; the loop
/// device goes with its last mount.
pub struct RealDisk {
    kind: FsKind,
    platter: Platter,
    attached: Attached,
}

/// See [`RealDisk::mended_at_last`].
pub struct MendedAtLast<'a>(&'a RealDisk);

impl Drop for MendedAtLast<'_> {
    fn drop(&mut self) {
        self.0.mend();
    }
}

impl FsKind {
    /// As mount and mkfs call it.
    pub fn name(self) -> &'static str {
        match self {
            FsKind::Ext4 => "ext4",
            FsKind::Xfs => "xfs",
            FsKind::Btrfs => "btrfs",
        }
    }

    fn make(self) -> &'static str {
        match self {
            FsKind::Ext4 => "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            FsKind::Xfs => "mkfs.xfs -q -f -K",
            FsKind::Btrfs => "mkfs.btrfs -q -f -K",
        }
    }

    fn options(self) -> &'static str {
        match self {
            FsKind::Ext4 => "noatime,noinit_itable",
            // A copy of a disk has the identity of the first.
            FsKind::Xfs => "noatime,nouuid",
            FsKind::Btrfs => "noatime",
        }
    }
}

impl RealDisk {
    /// What this machine lacks for such disks; a test is skipped with this reason.
    pub fn missing(kind: FsKind) -> Option<String> {
        attach::missing(kind.name())
    }

    /// A new one of so many MiB, with an empty filesystem.
    pub fn make(kind: FsKind, mebibytes: u64) -> RealDisk {
        RealDisk::make_with(kind, mebibytes, "")
    }

    /// The same, with more options of mkfs.
    pub fn make_with(kind: FsKind, mebibytes: u64, options: &str) -> RealDisk {
        let disk = RealDisk::of_image(kind, Image::new(mebibytes << 20));
        let made = shell(&format!("{} {options} {}", kind.make(), disk.device()));
        made.unwrap_or_else(|error| panic!("{error}"));
        disk
    }

    /// One that has this content.
    pub fn of_image(kind: FsKind, image: Image) -> RealDisk {
        let platter = Platter::new(image);
        let attached = Attached::new(platter.clone());
        let attached = attached.unwrap_or_else(|error| panic!("{error}"));
        let clock = platter.clone();
        thread::spawn(move || clock.keep_time());
        RealDisk { kind, platter, attached }
    }

    /// Its filesystem.
    pub fn kind(&self) -> FsKind {
        self.kind
    }

    /// `/dev/loopN`
    pub fn device(&self) -> &str {
        &self.attached.device
    }

    /// A line of shell that mounts it, for [`super::Setup::mount`] and the like.
    pub fn mount_at(&self, folder: &str) -> String {
        let (kind, options) = (self.kind.name(), self.kind.options());
        format!("mount -t {kind} -o {options} {} {folder}", self.device())
    }

    /// Mounts it where nobody sees it, works there, and unmounts it: nothing of it is in memory
    /// afterwards.
    pub fn inside<T: Send>(&self, work: impl FnOnce(&Path) -> T + Send) -> T {
        let inside = || {
            alone_in_a_namespace()?;
            let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
            let name = folder.path().to_string_lossy().into_owned();
            shell(&self.mount_at(&name))?;
            let result = catch_unwind(AssertUnwindSafe(|| work(folder.path())));
            let result = result.unwrap_or_else(|panic| {
                self.mend(); // The folder goes now, and must not wait.
                resume_unwind(panic)
            });
            // A process that another thread starts has this one's files until it is itself.
            until("the unmount", || shell(&format!("umount {name}")).is_ok());
            Ok(result)
        };
        let result = thread::scope(|scope| scope.spawn(inside).join());
        let result = result.unwrap_or_else(|panic| resume_unwind(panic));
        result.unwrap_or_else(|error: String| panic!("{error}"))
    }

    /// Operations of these kinds hang from now on.
    pub fn hang(&self, ops: &[Op]) {
        self.platter.conduct(|conduct| ops.iter().for_each(|op| conduct.hang(*op, true)));
    }

    /// They do so no more, and what has hung is done.
    pub fn release(&self, ops: &[Op]) {
        self.platter.release(ops);
    }

    /// A sound disk from now on: nothing hangs, fails, or takes long.
    pub fn mend(&self) {
        self.platter.mend();
    }

    /// Mends it when the guard is dropped: for scopes with threads that may wait for it.
    pub fn mended_at_last(&self) -> MendedAtLast<'_> {
        MendedAtLast(self)
    }

    /// Serves the first `served` of each `of` operations of a kind; the others hang.
    pub fn share(&self, op: Op, served: u64, of: u64) {
        self.platter.conduct(|conduct| conduct.share(op, served, of));
    }

    /// The next ones of a kind hang, so many; later ones do not.
    pub fn hang_next(&self, op: Op, count: u64) {
        self.platter.conduct(|conduct| conduct.hang_next(op, count));
    }

    /// Makes chosen operations fail.
    pub fn fail(&self, op: Op, which: Which, errno: Errno) {
        self.platter.conduct(|conduct| conduct.fail(op, which, errno));
    }

    /// Bytes per second, reads and writes together.
    pub fn bandwidth(&self, bytes: u64) {
        self.platter.conduct(|conduct| conduct.bandwidth(bytes));
    }

    /// Each read and write takes so long, and so many are done side by side.
    pub fn latency(&self, each: Duration, side_by_side: usize) {
        self.platter.conduct(|conduct| conduct.latency(each, side_by_side, Instant::now()));
    }

    /// Each flush takes so long, during which the loop device does nothing else.
    pub fn flush_takes(&self, time: Duration) {
        self.platter.conduct(|conduct| conduct.flush_takes(time));
    }

    /// How many operations of a kind hang now.
    pub fn held(&self, op: Op) -> usize {
        self.platter.held(op)
    }

    /// Waits until so many hang.
    pub fn wait_for_held(&self, op: Op, count: usize) {
        self.platter.wait_for_held(op, count);
    }

    /// How many operations of a kind were done so far.
    pub fn served(&self, op: Op) -> u64 {
        self.platter.served(op)
    }

    /// How many operations of a kind have failed so far.
    pub fn failed(&self, op: Op) -> u64 {
        self.platter.failed(op)
    }

    /// Its content now.
    pub fn image(&self) -> Image {
        self.platter.image()
    }

    /// Records all writes and flushes from now on; its content now counts as safe.
    pub fn record(&self) {
        self.platter.record();
    }

    /// How many events are recorded so far. Whoever learns that something is safe, and asks then,
    /// knows that the events before this place were enough for it.
    pub fn recorded(&self) -> usize {
        self.platter.recorded()
    }

    /// What was recorded; nothing before [`RealDisk::record`].
    pub fn recording(&self) -> Option<Recording> {
        self.platter.recording()
    }
}

impl Drop for RealDisk {
    fn drop(&mut self) {
        self.platter.mend();
        drop(self.attached.user.take());
        // A node that was just ended may still unmount it; writes that wait are not to wait long.
        let served = &self.attached.served;
        if thread::panicking() {
            self.platter.end();
        } else {
            until("the last mount to be gone", || served.is_finished());
        }
        self.platter.end();
    }
}
