//! The way from a file in memory to a block device, and mounts that nobody else sees.
//!
//! Other tests' nodes have mount namespaces of their own, which are copies of the test program's:
//! a mount made there would live on in them. So everything is mounted in namespaces of threads.

use std::fs::{self, File};
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use fuser::{Config, MountOption, Session};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::platter::{FILE, Platter};
use crate::harness::{has_fuse, shell};

/// A loop device that goes with its last user.
pub struct Attached {
    /// `/dev/loopN`
    pub device: String,
    /// Held until the disk is dropped.
    pub user: Option<File>,
    /// Ends when the kernel has let the file go.
    pub served: JoinHandle<()>,
}

impl Attached {
    /// Serves the platter as a file, and that file as a block device.
    pub fn new(platter: Platter) -> Result<Attached, String> {
        let (tell, told) = mpsc::channel();
        let served = thread::spawn(move || serve(platter, &tell));
        let device = told.recv().map_err(|_| "the filesystem's thread ended".to_owned())??;
        let user = File::open(&device).map_err(|error| format!("{device}: {error}"))?;
        // While somebody has it open this only says that it goes with the last one.
        shell(&format!("losetup -d {device}"))?;
        Ok(Attached { device, user: Some(user), served })
    }
}

/// Ends with the last user of the file.
fn serve(platter: Platter, tell: &mpsc::Sender<Result<String, String>>) {
    let session = alone_in_a_namespace().and_then(|()| {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("platter".to_owned())];
        let session = Session::new(platter, folder.path(), &config);
        let session = session.map_err(|error| format!("FUSE: {error}"))?;
        Ok((folder, session))
    });
    let (folder, session) = match session {
        Ok(both) => both,
        Err(why) => return drop(tell.send(Err(why))),
    };
    // It is in this thread's namespace, so that losetup started here finds the file.
    let server = thread::spawn(move || session.run());
    let file = folder.path().join(FILE);
    let line = format!("losetup --find --show --direct-io=on {}", file.display());
    let device = shell(&line).map(|name| name.trim().to_owned());
    // The loop device has the file open, which is all that it needs. An error would show below.
    let _ = umount2(folder.path(), MntFlags::MNT_DETACH);
    let _ = tell.send(device);
    let _ = server.join();
}

/// Gives this thread, and what it starts, mounts of its own.
pub fn alone_in_a_namespace() -> Result<(), String> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, flags, None::<&str>))
        .map_err(|errno| format!("a mount namespace: {errno}"))
}

/// What is missing on this machine for a disk with such a filesystem.
pub fn missing(filesystem: &str) -> Option<String> {
    if !has_fuse() {
        return Some("not root, or no /dev/fuse".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices".to_owned());
    }
    if shell(&format!("command -v mkfs.{filesystem}")).is_err() {
        return Some(format!("no mkfs.{filesystem}"));
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let loads = || shell(&format!("modprobe {filesystem}")).is_ok();
    let known = known.lines().any(|line| line.trim() == filesystem) || loads();
    (!known).then(|| format!("the kernel has no {filesystem}"))
}
