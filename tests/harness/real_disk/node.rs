//! A node with one real disk that can be broken.

use std::path::{Path, PathBuf};
use std::thread;

use super::{ENOUGH, FsKind, RealDisk};
use crate::harness::{MODES, Node, Setup, skipped};

/// A node whose dev1 is such a disk, mounted in the node's own namespace; dev2 to dev4 are
/// folders.
pub struct RealSick {
    /// The node, which ends first, though not before the disk is mended.
    pub node: Node,
    /// What dev1 is on.
    pub disk: RealDisk,
    /// One of [`MODES`].
    pub workers: &'static str,
    /// What the disk has.
    pub kind: FsKind,
}

impl RealSick {
    /// Starts it with further arguments; `prepare` fills the disk before, and nothing of that
    /// stays in memory.
    pub fn start(
        kind: FsKind,
        workers: &'static str,
        args: &[&str],
        prepare: impl FnOnce(&Path) + Send,
    ) -> RealSick {
        let disk = RealDisk::make(kind, ENOUGH);
        disk.inside(prepare);
        RealSick::start_on(disk, workers, args)
    }

    /// Starts it on a disk that there is.
    pub fn start_on(disk: RealDisk, workers: &'static str, args: &[&str]) -> RealSick {
        let setup = Setup::new().devices(4).workers(workers).mount(&disk.mount_at("{dir}/dev1"));
        let setup = args.iter().fold(setup, |setup, arg| setup.arg(arg));
        RealSick { node: setup.start(), kind: disk.kind(), disk, workers }
    }

    /// The disk's folder as this process reaches it.
    pub fn dev1(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.node.pid());
        Path::new(&root).join(self.node.docroot().strip_prefix("/").expect("absolute")).join("dev1")
    }

    /// What tells a failure of this one from the others'.
    pub fn name(&self) -> String {
        format!("{}, workers={}", self.kind.name(), self.workers)
    }
}

impl Drop for RealSick {
    fn drop(&mut self) {
        self.disk.mend();
    }
}

/// Runs a test once for each filesystem in each of [`MODES`], the modes at the same time, or
/// tells why not.
pub fn on_real_disks(
    kinds: &[FsKind],
    args: &[&str],
    prepare: impl Fn(&Path) + Sync,
    test: impl Fn(&RealSick) + Sync,
) {
    for kind in kinds {
        if let Some(reason) = RealDisk::missing(*kind) {
            skipped(&reason);
            continue;
        }
        thread::scope(|scope| {
            for workers in MODES {
                let (prepare, test) = (&prepare, &test);
                scope.spawn(move || test(&RealSick::start(*kind, workers, args, prepare)));
            }
        });
    }
}
