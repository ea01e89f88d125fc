//! The order in which a device's names are looked at: folder by folder, sorted by their bytes, so
//! that a position tells what lies behind and what is still to come. No link is followed.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::vec::IntoIter;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// Folders below folders that are entered; nobody's tree is so deep.
pub const DEEPEST: usize = 32;

/// A walk, and where it is.
pub struct Walk {
    levels: Vec<Level>,
    /// The folders above the names that come now.
    folders: Vec<Vec<u8>>,
    /// Where an earlier walk ended.
    after: Position,
}

struct Level {
    folder: OwnedFd,
    names: IntoIter<CString>,
    /// So far every folder is one of the position that an earlier walk reached.
    resuming: bool,
}

/// A name, and whether an earlier walk has told of it before it went into it.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in its folder.
    pub name: CString,
    /// It is a folder that was judged before, and whose content is wanted.
    pub entered_before: bool,
}

/// The names from the device to the last one looked at; an empty one at the end: a folder that
/// has been judged, and of whose content nothing has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position(Vec<Vec<u8>>);

impl Position {
    /// What was written as [`Position::text`].
    pub fn parse(text: &str) -> Option<Position> {
        let parts = text.split('/').map(unescaped).collect::<Option<Vec<_>>>()?;
        Some(Position(if text.is_empty() { Vec::new() } else { parts }))
    }

    /// As a path, bytes other than printable ASCII as `%XX`.
    pub fn text(&self) -> String {
        let part = |part: &Vec<u8>| part.iter().map(|byte| escaped(*byte)).collect::<String>();
        self.0.iter().map(part).collect::<Vec<_>>().join("/")
    }
}

impl Walk {
    /// Begins behind a position; an empty one is before everything.
    pub fn begin(device: OwnedFd, after: Position) -> io::Result<Walk> {
        let mut walk = Walk { levels: Vec::new(), folders: Vec::new(), after };
        walk.push(device, true)?;
        Ok(walk)
    }

    /// The next name; it is up to the caller to [`Walk::enter`] it.
    pub fn next(&mut self) -> Option<Entry> {
        loop {
            let level = self.levels.last_mut()?;
            if let Some(name) = level.names.next() {
                let depth = self.levels.len() - 1;
                let entered_before = self.is_resumed_in(depth, name.to_bytes());
                return Some(Entry { name, entered_before });
            }
            self.levels.pop();
            self.folders.pop();
        }
    }

    /// Goes into a folder that [`Walk::next`] gave.
    pub fn enter(&mut self, entry: &Entry) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let folder = openat(self.folder(), entry.name.as_c_str(), flags, Mode::empty())?;
        self.push(folder, entry.entered_before)?;
        self.folders.push(entry.name.to_bytes().to_vec());
        Ok(())
    }

    /// The folder in which the last name is.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.levels.last().expect("a name was given, so there is a folder").folder.as_fd()
    }

    /// The folders above the last name, below the device.
    pub fn folders(&self) -> &[Vec<u8>] {
        &self.folders
    }

    /// A name's path below the device.
    pub fn path(&self, entry: &Entry) -> PathBuf {
        let parts = self.folders.iter().map(Vec::as_slice).chain([entry.name.to_bytes()]);
        parts.map(OsStr::from_bytes).collect()
    }

    /// Where a walk stands that has done with a name, or is about to go into it.
    pub fn position(&self, entry: &Entry, about_to_enter: bool) -> Position {
        let mut parts = self.folders.clone();
        parts.push(entry.name.to_bytes().to_vec());
        parts.extend(about_to_enter.then(Vec::new));
        Position(parts)
    }

    fn is_resumed_in(&self, depth: usize, name: &[u8]) -> bool {
        let after = &self.after.0;
        self.levels[depth].resuming && depth + 1 < after.len() && after[depth] == name
    }

    fn push(&mut self, folder: OwnedFd, resuming: bool) -> io::Result<()> {
        let mut names = names(folder.try_clone()?)?;
        let resuming = resuming && self.levels.len() < self.after.0.len();
        if resuming {
            let depth = self.levels.len();
            let last = depth + 1 == self.after.0.len();
            let wanted = &self.after.0[depth];
            names.retain(|name| match name.to_bytes().cmp(wanted) {
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Equal => !last,
                std::cmp::Ordering::Greater => true,
            });
        }
        self.levels.push(Level { folder, names: names.into_iter(), resuming });
        Ok(())
    }
}

/// A folder's names, sorted.
fn names(folder: OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(folder)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn escaped(byte: u8) -> String {
    match byte {
        b'%' => "%25".to_owned(),
        b'!'..=b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    }
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::path::Path;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for path in ["a/b/1", "a/b/2", "a/c/1", "b", "c/x y/%", "d/1/2/3", "e"] {
            fs::create_dir_all(folder.path().join(path).parent().unwrap()).unwrap();
            fs::write(folder.path().join(path), "").unwrap();
        }
        folder
    }

    /// What a walk from a position on sees, and where it stands after each.
    fn seen(folder: &Path, after: &Position) -> Vec<(String, Position)> {
        let mut walk = Walk::begin(File::open(folder).unwrap().into(), after.clone()).unwrap();
        let mut seen = Vec::new();
        while let Some(entry) = walk.next() {
            let path = walk.path(&entry);
            let enter = folder.join(&path).is_dir();
            if !entry.entered_before {
                let position = walk.position(&entry, enter);
                seen.push((path.to_str().unwrap().to_owned(), position));
            }
            if enter {
                walk.enter(&entry).unwrap();
            }
        }
        seen
    }

    #[test]
    fn a_walk_goes_on_behind_every_position() {
        let folder = tree();
        let all = seen(folder.path(), &Position::default());
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 15, "{names:?}");
        assert!(names.is_sorted_by_key(|name| name.split('/').collect::<Vec<_>>()), "{names:?}");
        for (at, (name, position)) in all.iter().enumerate() {
            let again = Position::parse(&position.text()).unwrap();
            assert_eq!(again, *position);
            assert_eq!(seen(folder.path(), &again), all[at + 1..], "after {name}");
        }
    }

    #[test]
    fn a_position_that_is_gone_is_still_a_position() {
        let folder = tree();
        let all = seen(folder.path(), &Position::default());
        let after = |text| seen(folder.path(), &Position::parse(text).unwrap());
        let tail = |from: &str| {
            let at = all.iter().position(|(name, _)| name == from).unwrap();
            all[at..].to_vec()
        };
        assert_eq!(after("a/b/15"), tail("a/b/2"));
        assert_eq!(after("a/bb/1"), tail("a/c"));
        assert_eq!(after("a/z"), tail("b"));
        assert_eq!(after("b/1/2"), tail("c"), "a folder has become a file");
    }
}
