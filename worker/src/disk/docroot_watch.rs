//! Tells at once that a docroot has got or lost a device: inotify(7). It is a hint. Where there is
//! no inotify, on network filesystems and for a docroot whose disk hangs, none comes, and whoever
//! lists docroots does so by the clock too.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::disk::path::DevId;

/// A docroot that could not be watched, or has been replaced, is looked for so often.
const RETRY: Duration = Duration::from_secs(2);
const STACK: usize = 128 * 1024;

/// A thread that waits for changes of a docroot's names. It ends with the next change, or within
/// two seconds, after this has been dropped.
#[derive(Debug)]
pub struct DocrootWatch {
    changed: Arc<AtomicBool>,
}

impl DocrootWatch {
    /// Starts the thread, which alone touches the docroot. `wake` is called from there after each
    /// change.
    pub fn start(docroot: &Path, wake: impl Fn() + Send + 'static) -> DocrootWatch {
        let changed = Arc::new(AtomicBool::new(false));
        let hint = Hint { changed: Arc::downgrade(&changed), wake };
        let docroot = docroot.to_owned();
        let work = move || watch(&docroot, &hint);
        let thread = thread::Builder::new().name("docroot".into()).stack_size(STACK);
        if let Err(e) = thread.spawn(work) {
            log::debug!("no thread to watch a docroot in: {e}");
        }
        DocrootWatch { changed }
    }

    /// True when something has changed since [`DocrootWatch::take`].
    pub fn is_hinted(&self) -> bool {
        self.changed.load(Acquire)
    }

    /// True when something has changed since the last call.
    pub fn take(&self) -> bool {
        self.changed.swap(false, AcqRel)
    }
}

struct Hint<W> {
    changed: Weak<AtomicBool>,
    wake: W,
}

impl<W: Fn()> Hint<W> {
    /// False when nobody wants to know any more.
    fn give(&self) -> bool {
        let Some(changed) = self.changed.upgrade() else { return false };
        changed.store(true, Release);
        (self.wake)();
        true
    }

    fn is_wanted(&self) -> bool {
        self.changed.strong_count() > 0
    }
}

fn watch(docroot: &Path, hint: &Hint<impl Fn()>) {
    while hint.is_wanted() {
        match watch_once(docroot, hint) {
            // Its names may have changed before it was watched again.
            Ok(()) => {
                hint.give();
            }
            Err(e) => log::debug!("{}: not watched: {e}", docroot.display()),
        }
        thread::sleep(RETRY);
    }
}

/// Until the docroot is another folder, or nobody wants to know. An error: it cannot be watched.
fn watch_once(docroot: &Path, hint: &Hint<impl Fn()>) -> nix::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let names = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO;
    let itself = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
    inotify.add_watch(docroot, names | itself | AddWatchFlags::IN_ONLYDIR)?;
    // What was made before this moment, and after the last listing, would not be told of.
    while hint.give() {
        loop {
            let events = match inotify.read_events() {
                Err(Errno::EINTR) => continue,
                events => events?,
            };
            let lost = itself | AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_UNMOUNT;
            if events.iter().any(|event| event.mask.intersects(lost)) {
                return Ok(());
            }
            let overflow = |mask: AddWatchFlags| mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
            if events.iter().any(|event| overflow(event.mask) || is_device(event.name.as_deref())) {
                break;
            }
        }
    }
    Ok(())
}

/// Files right under the docroot come and go: they are no news.
fn is_device(name: Option<&OsStr>) -> bool {
    name.is_some_and(|name| DevId::from_component(name.as_encoded_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::mpsc::{Receiver, channel};

    const DEADLINE: Duration = Duration::from_secs(20);

    fn watched(docroot: &Path) -> (DocrootWatch, Receiver<()>) {
        let (sender, receiver) = channel();
        let wake = move || sender.send(()).unwrap_or_default();
        (DocrootWatch::start(docroot, wake), receiver)
    }

    fn changes(watch: &DocrootWatch, woken: &Receiver<()>) {
        woken.recv_timeout(DEADLINE).expect("a hint");
        assert!(watch.take());
        assert!(!watch.take());
    }

    #[test]
    fn devices_that_come_and_go_are_told_of_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        let (watch, woken) = watched(folder.path());
        changes(&watch, &woken); // It is watched from now on.
        fs::create_dir(name("dev1")).unwrap();
        changes(&watch, &woken);
        fs::write(name("file"), "x").unwrap();
        fs::create_dir(name("dev01")).unwrap();
        fs::rename(name("file"), name("devil")).unwrap();
        fs::rename(name("dev1"), name("old")).unwrap();
        changes(&watch, &woken);
        std::os::unix::fs::symlink("/nowhere", name("dev2")).unwrap();
        changes(&watch, &woken);
        fs::remove_file(name("dev2")).unwrap();
        changes(&watch, &woken);
        assert!(woken.try_recv().is_err());
    }

    #[test]
    fn docroot_that_is_replaced_is_watched_again() {
        let folder = tempfile::tempdir().unwrap();
        let (docroot, away) = (folder.path().join("root"), folder.path().join("away"));
        fs::create_dir(&docroot).unwrap();
        let (watch, woken) = watched(&docroot);
        changes(&watch, &woken);
        fs::rename(&docroot, &away).unwrap();
        changes(&watch, &woken);
        fs::create_dir(&docroot).unwrap();
        changes(&watch, &woken); // Found again.
        fs::create_dir(docroot.join("dev1")).unwrap();
        changes(&watch, &woken);
    }

    #[test]
    fn docroot_that_is_not_there_yet_is_watched_later() {
        let folder = tempfile::tempdir().unwrap();
        let docroot = folder.path().join("later");
        let (watch, woken) = watched(&docroot);
        fs::create_dir(&docroot).unwrap();
        changes(&watch, &woken);
        fs::create_dir(docroot.join("dev7")).unwrap();
        changes(&watch, &woken);
    }
}
