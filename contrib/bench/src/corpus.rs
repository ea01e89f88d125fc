//! The files: what each number's name and content is. One block of random bytes holds every
//! content: number N's begins some way into it, so neighbours differ everywhere.

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Failure, Outcome};

/// So many contents there are of each size.
pub const VARIANTS: u64 = 61;
/// Bytes from the beginning of one content to that of the next one.
const APART: usize = 64;

/// Files of one size, numbered in sequence.
#[derive(Debug, Clone, Copy)]
pub struct Set {
    /// Number of the first one.
    pub first: u64,
    /// How many there are.
    pub count: u64,
    /// Bytes of each.
    pub size: usize,
}

/// What GETs ask for, by size.
pub const SMALL: Set = Set { first: 0, count: 1000, size: 4 << 10 };
/// 64 KiB each.
pub const MEDIUM: Set = Set { first: 1000, count: 64, size: 64 << 10 };
/// 1 MiB each.
pub const LARGE: Set = Set { first: 2000, count: 16, size: 1 << 20 };
/// 64 MiB each.
pub const HUGE: Set = Set { first: 3000, count: 2, size: 64 << 20 };
/// Names in a folder that exists, of files that do not.
pub const MISSING: Set = Set { first: 1500, count: 500, size: 0 };

/// The name of a file, as MogileFS gives it.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// The N of devN.
    pub device: usize,
    /// The file's number.
    pub number: u64,
}

/// The contents, and the folder that holds the files.
pub struct Corpus {
    bytes: Vec<u8>,
    docroot: PathBuf,
}

impl Corpus {
    /// Fills the docroot with the files of these sets, on device 1.
    pub fn create(docroot: &Path, sets: &[Set]) -> Outcome<Corpus> {
        let bytes = random(HUGE.size + VARIANTS as usize * APART);
        let corpus = Corpus { bytes, docroot: docroot.to_owned() };
        for set in sets {
            corpus.make_folders(set.first, set.count)?;
            for number in set.first..set.first + set.count {
                let file = corpus.file(number);
                fs::write(&file, corpus.content(number, set.size))
                    .context(format!("cannot write {}", file.display()))?;
            }
        }
        Ok(corpus)
    }

    /// Where a content lies within [`Corpus::bytes`].
    pub fn place(number: u64, size: usize) -> Range<usize> {
        let begin = (number % VARIANTS) as usize * APART;
        begin..begin + size
    }

    /// What all contents are pieces of.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of a file.
    pub fn content(&self, number: u64, size: usize) -> &[u8] {
        &self.bytes[Corpus::place(number, size)]
    }

    /// The file itself, not by way of a server.
    pub fn file(&self, number: u64) -> PathBuf {
        self.docroot.join(&path(number).to_string()[1..])
    }

    /// Makes the folders that files of these numbers are in.
    pub fn make_folders(&self, first: u64, count: u64) -> Outcome<()> {
        for folder in self.folders(first, count) {
            fs::create_dir_all(&folder).context(format!("cannot make {}", folder.display()))?;
        }
        Ok(())
    }

    /// Reads every `step`th file and compares it.
    pub fn compare(&self, first: u64, count: u64, size: usize, step: usize) -> Outcome<()> {
        for number in (first..first + count).step_by(step) {
            let file = self.file(number);
            let found = fs::read(&file).context(format!("cannot read {}", file.display()))?;
            if found != self.content(number, size) {
                return Err(Failure::new(format!("{} has the wrong content", file.display())));
            }
        }
        Ok(())
    }

    /// Fails if one of these files is there.
    pub fn absent(&self, first: u64, count: u64) -> Outcome<()> {
        for number in first..first + count {
            let file = self.file(number);
            if file.symlink_metadata().is_ok() {
                return Err(Failure::new(format!("{} is still there", file.display())));
            }
        }
        Ok(())
    }

    /// Takes files and their folders away again.
    pub fn remove(&self, first: u64, count: u64) -> Outcome<()> {
        for number in first..first + count {
            let file = self.file(number);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).context(format!("cannot remove {}", file.display()));
                }
                _ => {}
            }
        }
        for folder in self.folders(first, count) {
            fs::remove_dir(&folder).context(format!("cannot remove {}", folder.display()))?;
        }
        Ok(())
    }

    fn folders(&self, first: u64, count: u64) -> impl Iterator<Item = PathBuf> {
        let last = (first + count).saturating_sub(1);
        (first / 1000..=last / 1000).map(|thousand| {
            let mut folder = self.file(thousand * 1000);
            folder.pop();
            folder
        })
    }
}

/// The name of a file on device 1.
pub fn path(number: u64) -> Name {
    Name { device: 1, number }
}

impl Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Name { device, number } = *self;
        let (b, mmm) = (number / 1_000_000_000, number / 1_000_000 % 1000);
        let ttt = number / 1000 % 1000;
        write!(f, "/dev{device}/{b}/{mmm:03}/{ttt:03}/{number:010}.fid")
    }
}

/// Bytes that no two places share. Not secret, only different.
fn random(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_mogilefs() {
        assert_eq!(path(123).to_string(), "/dev1/0/000/000/0000000123.fid");
        assert_eq!(
            Name { device: 7, number: 1_234_567_890 }.to_string(),
            "/dev7/1/234/567/1234567890.fid"
        );
    }

    #[test]
    fn neighbours_have_different_contents_everywhere() {
        let bytes = random(VARIANTS as usize * APART + 4096);
        let [one, two] = [5, 6].map(|number| &bytes[Corpus::place(number, 4096)]);
        assert!(one.chunks(16).zip(two.chunks(16)).all(|(one, two)| one != two));
    }

    #[test]
    fn sets_do_not_overlap() {
        let mut end = 0;
        for set in [SMALL, MEDIUM, MISSING, LARGE, HUGE] {
            assert!(set.first >= end);
            end = set.first + set.count;
        }
        assert_eq!(MISSING.first / 1000, MEDIUM.first / 1000, "in a folder that is there");
    }
}
