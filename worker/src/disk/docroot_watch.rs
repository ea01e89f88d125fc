//! Tells at once that a docroot has got or lost a device: inotify(7). It is a hint. Where there is
//! no inotify, and on network filesystems, none comes, and whoever lists docroots does so by the
//! clock too.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::disk::on_disk::OnDisk;
use crate::disk::path::DevId;

/// What waits for changes of docroots' names; one for all docroots of a worker.
#[derive(Debug)]
pub struct DocrootWatch(Option<Inotify>);

impl DocrootWatch {
    /// Asks the kernel for it. Watches nothing yet, and touches no disk. Without inotify it never will.
    pub fn start() -> DocrootWatch {
        let made = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        DocrootWatch(made.inspect_err(|e| log::debug!("no inotify: {e}")).ok())
    }

    /// What becomes readable when there is something to [`DocrootWatch::take`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Watches the folder that has the docroot's name now. Before each listing: one that has been
    /// replaced is another folder, one that is watched already stays so.
    pub fn add(&self, _: &OnDisk, docroot: &Path) {
        let names = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO;
        let itself = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        let flags = names | itself | AddWatchFlags::IN_ONLYDIR;
        if let Some(Err(e)) = self.0.as_ref().map(|inotify| inotify.add_watch(docroot, flags)) {
            log::debug!("{}: not watched: {e}", docroot.display());
        }
    }

    /// True when devices may have come or gone since the last call. Never waits.
    pub fn take(&self) -> bool {
        let Some(inotify) = &self.0 else { return false };
        let mut news = false;
        loop {
            match inotify.read_events() {
                // Files right under the docroot come and go: they are no news.
                Ok(events) => {
                    news |= events.iter().any(|e| e.name.as_deref().is_none_or(is_device));
                }
                Err(Errno::EINTR) => {}
                Err(_) => return news,
            }
        }
    }
}

fn is_device(name: &OsStr) -> bool {
    DevId::from_component(name.as_encoded_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn devices_that_come_and_go_are_told_of_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        let watch = DocrootWatch::start();
        fs::create_dir(name("dev1")).unwrap();
        watch.add(&OnDisk::in_test(), folder.path());
        assert!(!watch.take());
        fs::create_dir(name("dev2")).unwrap();
        assert!(watch.take());
        assert!(!watch.take());
        fs::write(name("file"), "x").unwrap();
        fs::create_dir(name("dev01")).unwrap();
        fs::rename(name("file"), name("devil")).unwrap();
        assert!(!watch.take());
        fs::rename(name("dev1"), name("old")).unwrap();
        assert!(watch.take());
        std::os::unix::fs::symlink("/nowhere", name("dev3")).unwrap();
        assert!(watch.take());
        fs::remove_file(name("dev3")).unwrap();
        assert!(watch.take());
    }

    #[test]
    fn docroot_that_is_replaced_is_told_of_and_watched_again() {
        let folder = tempfile::tempdir().unwrap();
        let (docroot, away) = (folder.path().join("root"), folder.path().join("away"));
        let (watch, on) = (DocrootWatch::start(), OnDisk::in_test());
        watch.add(&on, &docroot);
        fs::create_dir(&docroot).unwrap();
        watch.add(&on, &docroot);
        fs::rename(&docroot, &away).unwrap();
        assert!(watch.take());
        fs::create_dir(&docroot).unwrap();
        watch.add(&on, &docroot);
        watch.add(&on, &docroot);
        fs::create_dir(docroot.join("dev1")).unwrap();
        assert!(watch.take());
        assert!(!watch.take());
    }
}
