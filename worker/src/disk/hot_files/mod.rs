//! Files that were asked for again within a short time stay open for a second: a hot file then
//! costs no open and no close. Loop thread only.
//!
//! An entry is looked at whenever it is used: fstat(2) tells of a file that was removed, replaced,
//! rewritten or grown, by whomever; what a shared mapping writes shows when the kernel notes its
//! time, or most of a second later. Only a file that was renamed is not told from one that was not,
//! for most of a second. The clock's work gives up what does not count soon after: an open file
//! keeps the blocks of a removed one, and a disk mounted.

mod content;
mod open_file;
mod recent;

use std::sync::Arc;

use slab::Slab;

pub use open_file::{Facts, OpenFile};
use recent::Recent;

use crate::disk::path::DevPath;
use crate::spec::SiteId;

/// Milliseconds that a file counts. It is closed at the next tick, less than a second after it was
/// opened. The device's directory, which is of no use meanwhile, is let go after a second: until
/// then a file that is still hot must have been opened again.
const LIFE_MS: u64 = 750;
/// Places in a set: a hash chooses the set, any place in it will do.
const WAYS: usize = 8;
/// Most files kept, whatever the process may open.
const MOST: usize = 2048;

/// A part of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its first byte.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

/// The files that are kept.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    entries: Slab<Entry>,
    sets: Vec<[Place; WAYS]>,
    recent: Recent,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// A part of the path's hash, so that few others are looked at.
    tag: u16,
    /// The entry's key plus one; 0: the place is free.
    entry: u16,
}

#[derive(Debug)]
struct Entry {
    site: SiteId,
    path: DevPath,
    until: u64,
    file: Arc<OpenFile>,
}

/// A file that is kept no more, for its device to close.
#[derive(Debug)]
pub(crate) struct Dropped {
    pub(crate) site: SiteId,
    pub(crate) path: DevPath,
    pub(crate) file: Arc<OpenFile>,
}

impl OpenFiles {
    /// Room for an eighth of the descriptors that the process may have: RLIMIT_NOFILE, getrlimit(2).
    /// Where they are very few, connections need all of them.
    pub(crate) fn new(descriptors: u64) -> OpenFiles {
        let most = (descriptors / 8).min(MOST as u64) as usize;
        let sets = vec![[Place::default(); WAYS]; most / WAYS];
        OpenFiles { entries: Slab::new(), sets, recent: Recent::new() }
    }

    /// The file of a path, if it is kept and still counts.
    pub(crate) fn get(&self, site: SiteId, path: &DevPath, now: u64) -> Option<Arc<OpenFile>> {
        if self.entries.is_empty() {
            return None;
        }
        let (_, key) = self.find(site, path, path.hash())?;
        let entry = &self.entries[key];
        let good = now < entry.until && entry.file.is_as_it_was();
        good.then(|| Arc::clone(&entry.file))
    }

    /// Keeps a file just opened, if its path has been asked for before. Returns the one that had
    /// to make room.
    pub(crate) fn keep(
        &mut self,
        site: SiteId,
        path: &DevPath,
        file: &Arc<OpenFile>,
        now: u64,
    ) -> Option<Dropped> {
        let hash = path.hash();
        if self.sets.is_empty() || !self.recent.was_asked_for(hash) {
            return None;
        }
        let set = self.set_of(hash);
        let way = match self.find(site, path, hash) {
            Some((way, _)) => way,
            None => self.oldest_way(set),
        };
        let dropped = self.remove(set, way);
        let entry = Entry { site, path: *path, until: now + LIFE_MS, file: Arc::clone(file) };
        let entry = self.entries.insert(entry) as u16 + 1;
        self.sets[set][way] = Place { tag: tag_of(hash), entry };
        dropped
    }

    /// Gives a file up before its time.
    pub(crate) fn forget(&mut self, site: SiteId, path: &DevPath) -> Option<Dropped> {
        if self.entries.is_empty() {
            return None;
        }
        let hash = path.hash();
        let (way, _) = self.find(site, path, hash)?;
        self.remove(self.set_of(hash), way)
    }

    /// Gives up those that do not count any more.
    pub(crate) fn sweep(&mut self, now: u64) -> Vec<Dropped> {
        let over = |entry: &Entry| now >= entry.until || !entry.file.is_as_it_was();
        let over: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| over(entry))
            .map(|(_, entry)| (entry.site, entry.path))
            .collect();
        over.iter().filter_map(|(site, path)| self.forget(*site, path)).collect()
    }

    /// True when none is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn find(&self, site: SiteId, path: &DevPath, hash: u64) -> Option<(usize, usize)> {
        let tag = tag_of(hash);
        let places = self.sets[self.set_of(hash)].iter().enumerate();
        let mut like = places
            .filter(|(_, place)| place.tag == tag && place.entry != 0)
            .map(|(way, place)| (way, usize::from(place.entry) - 1));
        like.find(|(_, key)| {
            let entry = &self.entries[*key];
            entry.path == *path && entry.site == site
        })
    }

    fn set_of(&self, hash: u64) -> usize {
        hash as usize % self.sets.len()
    }

    /// A free place, or that of the file that has been kept longest.
    fn oldest_way(&self, set: usize) -> usize {
        let until = |place: &Place| match place.entry {
            0 => 0,
            entry => self.entries[usize::from(entry) - 1].until,
        };
        let places = self.sets[set].iter().enumerate();
        places.min_by_key(|(_, place)| until(place)).map_or(0, |(way, _)| way)
    }

    fn remove(&mut self, set: usize, way: usize) -> Option<Dropped> {
        let entry = std::mem::take(&mut self.sets[set][way]).entry;
        let key = usize::from(entry.checked_sub(1)?);
        let Entry { site, path, file, .. } = self.entries.try_remove(key)?;
        Some(Dropped { site, path, file })
    }
}

/// Never 0, and of other bits than those that choose a set.
fn tag_of(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs::File;
    use std::io;
    use std::time::UNIX_EPOCH;

    use nix::sys::stat::fstat;

    use super::*;
    use crate::disk::disk_fd::DiskFd;
    use crate::disk::on_disk::OnDisk;
    use crate::scoreboard::Scoreboard;
    use crate::spec::{DeviceKey, WorkerId};

    const SITE: SiteId = SiteId(0);
    const ROOM: usize = 256;

    struct Bench {
        folder: tempfile::TempDir,
        board: Scoreboard,
        files: OpenFiles,
    }

    impl Bench {
        fn new() -> Bench {
            let board = Scoreboard::new().unwrap();
            board.list_device(DeviceKey { site: SITE, devid: 1 }, WorkerId(0)).unwrap();
            Bench {
                folder: tempfile::tempdir().unwrap(),
                board,
                files: OpenFiles::new(ROOM as u64 * 8),
            }
        }

        fn open(&self, path: &DevPath) -> Arc<OpenFile> {
            let slot = self.board.device(DeviceKey { site: SITE, devid: 1 }).unwrap();
            let mark = slot.mark(path.name_hash());
            let name = self.folder.path().join(path.hash().to_string());
            let file = File::options().write(true).create(true).truncate(false).open(name).unwrap();
            let stat = fstat(&file).unwrap();
            OnDisk::in_test();
            Arc::new(OpenFile::new(DiskFd::new(file.into()), &stat, Some(mark), true))
        }

        fn ask_twice(&mut self, path: &DevPath, now: u64) -> Option<Dropped> {
            let file = self.open(path);
            assert!(self.files.keep(SITE, path, &file, now).is_none());
            self.files.keep(SITE, path, &file, now)
        }
    }

    fn path(n: usize) -> DevPath {
        DevPath::parse(format!("/dev1/0/000/000/{n:010}.fid").as_bytes()).unwrap()
    }

    #[test]
    fn file_stays_from_its_second_request_on_for_a_second() {
        let mut bench = Bench::new();
        let file = bench.open(&path(1));
        assert!(bench.files.keep(SITE, &path(1), &file, 10).is_none());
        assert!(bench.files.get(SITE, &path(1), 10).is_none());
        assert!(bench.files.keep(SITE, &path(1), &file, 20).is_none());
        let last = 20 + LIFE_MS - 1;
        assert!(Arc::ptr_eq(&bench.files.get(SITE, &path(1), last).unwrap(), &file));
        assert!(bench.files.get(SiteId(1), &path(1), 20).is_none());
        assert!(bench.files.get(SITE, &path(1), last + 1).is_none());
        assert!(bench.files.sweep(last).is_empty());
        let dropped = bench.files.sweep(last + 1);
        assert_eq!(dropped.len(), 1);
        assert!(Arc::ptr_eq(&dropped[0].file, &file) && dropped[0].path == path(1));
        assert!(bench.files.is_empty());
    }

    #[test]
    fn what_was_done_to_a_file_is_seen_at_its_next_use() {
        type Change = fn(std::path::PathBuf) -> io::Result<()>;
        let changes: [Change; 4] = [
            |name| std::fs::remove_file(name),
            |name| std::fs::write(name, "longer"),
            |name| {
                std::fs::write(name.with_extension("new"), "")?;
                std::fs::rename(name.with_extension("new"), name)
            },
            |name| File::options().write(true).open(name)?.set_modified(UNIX_EPOCH),
        ];
        let mut bench = Bench::new();
        for change in changes {
            bench.ask_twice(&path(1), 0);
            assert!(bench.files.get(SITE, &path(1), 1).is_some());
            change(bench.folder.path().join(path(1).hash().to_string())).unwrap();
            assert!(bench.files.get(SITE, &path(1), 1).is_none());
            assert_eq!(bench.files.sweep(1).len(), 1);
        }
    }

    #[test]
    fn file_is_closed_in_the_loop_unless_that_frees_or_flushes_something() {
        let mut bench = Bench::new();
        let name = bench.folder.path().join(path(1).hash().to_string());
        let into_inner = |file| Arc::into_inner(file).unwrap();
        assert!(into_inner(bench.open(&path(1))).close_fresh().is_ok());
        let rewritten = into_inner(bench.open(&path(1)));
        std::fs::write(&name, "more").unwrap();
        assert!(rewritten.close_kept().is_err());
        let slot = bench.board.device(DeviceKey { site: SITE, devid: 1 }).unwrap();
        let neighbour = into_inner(bench.open(&path(1)));
        drop(slot.change(path(1).name_hash()));
        assert!(neighbour.close_fresh().is_ok(), "its counter moved for another file");
        let removed = into_inner(bench.open(&path(1)));
        drop(slot.change(path(1).name_hash()));
        std::fs::remove_file(&name).unwrap();
        assert!(removed.close_fresh().is_err());
        bench.files.forget(SITE, &path(1));
    }

    #[test]
    fn nothing_is_kept_where_descriptors_are_few() {
        let mut bench = Bench::new();
        bench.files = OpenFiles::new(20);
        assert!(bench.ask_twice(&path(1), 0).is_none());
        assert!(bench.files.is_empty());
        assert!(bench.files.get(SITE, &path(1), 0).is_none());
        assert!(bench.files.forget(SITE, &path(1)).is_none());
    }

    #[test]
    fn number_of_files_is_bounded_and_none_is_lost() {
        let mut bench = Bench::new();
        let asked = 3 * ROOM;
        let mut displaced = HashSet::new();
        for n in 0..asked {
            displaced.extend(bench.ask_twice(&path(n), n as u64 / 100).map(|d| d.path.hash()));
        }
        assert!(bench.files.entries.len() <= ROOM);
        let kept = (0..asked).filter(|n| bench.files.get(SITE, &path(*n), 0).is_some()).count();
        assert_eq!(kept, bench.files.entries.len());
        assert_eq!(kept + displaced.len(), asked);
        assert_eq!(bench.files.sweep(u64::MAX).len(), kept);
        assert!(bench.files.sets.iter().flatten().all(|place| place.entry == 0));
    }
}
