//! What was written, by key: which of several places wins, and which may not differ.

use std::ffi::OsString;
use std::fs;
use std::path::{self, Path, PathBuf};

use super::parse::{Entry, Key};
use super::problem::{Origin, Problem};
use super::values;

/// What was written on the command line. Kept by the master, which loads it again on SIGHUP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The configuration files, in order.
    pub files: Vec<PathBuf>,
    /// Each file describes a docroot of its own.
    pub multi: bool,
    /// The settings among the options.
    pub entries: Vec<Entry>,
    /// Options that are no settings and were given more than once.
    pub repeated: Vec<String>,
    /// The environment's PATH: an upgrade finds its executable there.
    pub search_path: Option<OsString>,
}

/// The work of [`load`](super::load): its input, what was read, what was found wrong.
pub(super) struct Check<'a> {
    pub options: &'a Options,
    pub files: Vec<(PathBuf, Vec<Entry>)>,
    pub problems: Vec<Problem>,
}

/// A checked value and where it was written.
pub(super) struct Found<T> {
    pub value: T,
    pub written: String,
    pub origin: Origin,
}

impl Check<'_> {
    pub(super) fn error(&mut self, text: impl Into<String>, origin: Option<Origin>) {
        self.problems.push(Problem::error(text, origin));
    }

    pub(super) fn warn(&mut self, text: impl Into<String>, origin: Option<Origin>) {
        self.problems.push(Problem::warning(text, origin));
    }

    /// Every entry of that key: the files' in order, then the command line's.
    pub(super) fn written(&self, key: Key) -> Vec<Entry> {
        let files = self.files.iter().flat_map(|(_, entries)| entries);
        files.chain(&self.options.entries).filter(|e| e.key == key).cloned().collect()
    }

    /// The command line's entries of that key, else the file's.
    pub(super) fn nearest(&self, key: Key) -> Vec<Entry> {
        let options = of_key(&self.options.entries, key);
        if options.is_empty() { self.written(key) } else { options }
    }

    pub(super) fn single<T: PartialEq>(
        &mut self,
        key: Key,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.found(key, convert).map(|found| found.value)
    }

    /// The command line wins over the files; the files must agree with each other, except on
    /// `server`, which each may set for its own docroot.
    pub(super) fn found<T: PartialEq>(
        &mut self,
        key: Key,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Found<T>> {
        let mut last: Option<Found<T>> = None;
        for entry in self.written(key) {
            let Some(found) = self.convert(&entry, &convert) else { continue };
            if let Some(earlier) = &last
                && found.origin != Origin::CommandLine
                && found.value != earlier.value
            {
                let (name, written) = (key.name(), &earlier.written);
                let text = format!(
                    "{name}={} contradicts {name}={written} ({})",
                    found.written, earlier.origin
                );
                self.error(text, Some(found.origin.clone()));
            }
            last = Some(found);
        }
        last
    }

    /// A path that may be written in several places, but then must be the same.
    pub(super) fn same_path(&mut self, key: Key) -> Option<Found<PathBuf>> {
        let mut last: Option<Found<PathBuf>> = None;
        for entry in self.written(key) {
            let Some(found) = self.convert(&entry, values::path) else { continue };
            if let Some(earlier) = &last
                && real(&earlier.value) != real(&found.value)
            {
                let (name, written) = (key.name(), &earlier.written);
                let text = format!(
                    "{name}={} is not the same path as {name}={written} ({})",
                    found.written, earlier.origin
                );
                self.error(text, Some(found.origin.clone()));
            }
            last = Some(found);
        }
        last
    }

    pub(super) fn option<T>(
        &mut self,
        key: Key,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.in_file(&self.options.entries, key, convert).map(|found| found.value)
    }

    pub(super) fn in_file<T>(
        &mut self,
        entries: &[Entry],
        key: Key,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Found<T>> {
        let entry = entries.iter().find(|e| e.key == key)?;
        self.convert(entry, convert)
    }

    pub(super) fn convert<T>(
        &mut self,
        entry: &Entry,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Found<T>> {
        let Entry { key, value, origin } = entry;
        match convert(value) {
            Ok(converted) => {
                Some(Found { value: converted, written: value.clone(), origin: origin.clone() })
            }
            // Its text is fixed by PROTOCOL.md, and names the key itself.
            Err(text) if *key == Key::Server => {
                self.error(text, Some(origin.clone()));
                None
            }
            Err(text) => {
                self.error(format!("{}: {text}", key.name()), Some(origin.clone()));
                None
            }
        }
    }
}

pub(super) fn of_key(entries: &[Entry], key: Key) -> Vec<Entry> {
    entries.iter().filter(|e| e.key == key).cloned().collect()
}

/// The path from the root on, without `.` and doubled or trailing slashes. Symlinks stay.
pub(super) fn absolute(path: PathBuf) -> PathBuf {
    path::absolute(&path).unwrap_or(path).components().collect()
}

/// For comparison: symlinks resolved, also those above a file that does not exist yet.
fn real(path: &Path) -> PathBuf {
    let path = absolute(path.to_owned());
    if let Ok(real) = fs::canonicalize(&path) {
        return real;
    }
    match (path.parent().map(fs::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path,
    }
}
