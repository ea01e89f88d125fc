//! A filesystem in memory whose operations hang, crawl or fail on command: a disk that can be
//! broken and mended. An operation that hangs has been read by the filesystem and not been
//! answered, so that the kernel keeps its thread in uninterruptible sleep, SIGKILL or not.
//!
//! It runs in threads of the test. Tests must not touch its folder while it hangs.

mod disk;
mod tree;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use disk::Disk;
use fuser::{BackgroundSession, Config};
use nix::mount::{MntFlags, umount2};

use super::{Node, Setup, skipped};

/// The ways in which devices are shared out over workers.
pub const MODES: [&str; 3] = ["device", "cpu", "1"];

/// Nothing is cached: each look at a name asks the filesystem.
const UNCACHED: Duration = Duration::ZERO;
/// What was looked at once is known.
const CACHED: Duration = Duration::from_secs(3600);

/// What an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Names, facts, numbers, lists.
    Look,
    /// Content of files.
    Read,
    /// Anything that changes something.
    Change,
}

/// What becomes of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are done.
    Work,
    /// They wait for another mode.
    Hang,
    /// They are done after so long.
    Crawl(Duration),
    /// They fail: EIO.
    Fail,
}

/// A mounted filesystem. Dropping it lets go whatever hangs, and unmounts it.
pub struct SlowFs {
    disk: Disk,
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
}

/// A node whose dev1 is such a filesystem; dev2 to dev4 are real folders.
pub struct Sick {
    /// Ends before the node, so that nothing of it hangs when it is told to go.
    pub disk: SlowFs,
    /// The node.
    pub node: Node,
    /// Its mode: one of [`MODES`].
    pub workers: &'static str,
}

impl Sick {
    /// Starts it with further arguments.
    pub fn start(workers: &'static str, args: &[&str]) -> Sick {
        let setup = Setup::new().devices(4).workers(workers);
        let setup = args.iter().fold(setup, |setup, arg| setup.arg(arg));
        let disk = SlowFs::mount(&setup.folder().join("dev1"));
        Sick { disk, node: setup.start(), workers }
    }
}

/// Runs a test once for each of [`MODES`], at the same time, or tells why not. When one fails the
/// others are still waited for.
pub fn in_each_mode(args: &[&str], test: impl Fn(&Sick) + Sync) {
    if !has_fuse() {
        return skipped("not root, or no /dev/fuse");
    }
    thread::scope(|scope| {
        for workers in MODES {
            let test = &test;
            scope.spawn(move || test(&Sick::start(workers, args)));
        }
    });
}

/// True where such a filesystem can be mounted.
pub fn has_fuse() -> bool {
    nix::unistd::geteuid().is_root()
        && std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok()
}

impl SlowFs {
    /// Mounts a new, empty one that works.
    pub fn mount(mountpoint: &Path) -> SlowFs {
        SlowFs::mount_with(mountpoint, UNCACHED)
    }

    /// As [`SlowFs::mount`], but the kernel keeps names and facts: what was looked at once is
    /// opened without a look.
    pub fn mount_cached(mountpoint: &Path) -> SlowFs {
        SlowFs::mount_with(mountpoint, CACHED)
    }

    fn mount_with(mountpoint: &Path, lifetime: Duration) -> SlowFs {
        let disk = Disk::new(lifetime);
        let session = fuser::spawn_mount(disk.clone(), mountpoint, &Config::default());
        let session = Some(session.expect("root mounts on a folder"));
        SlowFs { disk, mountpoint: mountpoint.to_owned(), session }
    }

    /// Sets what becomes of all operations from now on, and of those that hang.
    pub fn set(&self, mode: Mode) {
        self.set_only(&[Kind::Look, Kind::Read, Kind::Change], mode);
    }

    /// The same for some kinds only.
    pub fn set_only(&self, kinds: &[Kind], mode: Mode) {
        self.disk.set(kinds, mode);
    }

    /// How many operations hang now.
    pub fn held(&self) -> usize {
        self.disk.held()
    }
}

impl Drop for SlowFs {
    fn drop(&mut self) {
        self.set(Mode::Work);
        // Lazily: a node that still runs may have files open. An error would mean that the test
        // has unmounted it already.
        let _ = umount2(&self.mountpoint, MntFlags::MNT_DETACH);
        // Its thread ends with the last open file.
        drop(self.session.take());
    }
}
