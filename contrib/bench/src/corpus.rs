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

/// Files of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// Number of the first one.
    pub first: u64,
    /// From one number to the next one.
    pub apart: u64,
    /// How many there are.
    pub count: u64,
    /// Bytes of each.
    pub size: usize,
}

/// What GETs ask for, by size.
pub const SMALL: Set = Set { first: 0, apart: 1, count: 1000, size: 4 << 10 };
/// 64 KiB each.
pub const MEDIUM: Set = Set { first: 1000, apart: 1, count: 64, size: 64 << 10 };
/// 1 MiB each.
pub const LARGE: Set = Set { first: 2000, apart: 1, count: 16, size: 1 << 20 };
/// 64 MiB each.
pub const HUGE: Set = Set { first: 3000, apart: 1, count: 2, size: 64 << 20 };
/// More than a server keeps open, asked for in turn; all in the page cache.
pub const MANY: Set = Set { first: 1_000_000, apart: 1, count: 100_000, size: 4 << 10 };
/// Names in a folder that exists, of files that do not.
pub const MISSING: Set = Set { first: 1500, apart: 1, count: 500, size: 0 };

/// The name of a file, as MogileFS gives it.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// The N of devN.
    pub device: u64,
    /// The file's number.
    pub number: u64,
}

/// The contents, and the folder that holds the files.
pub struct Corpus {
    bytes: Vec<u8>,
    docroot: PathBuf,
    devices: u64,
}

impl Set {
    /// Its numbers.
    pub fn numbers(self) -> impl Iterator<Item = u64> {
        (0..self.count).map(move |index| self.first + index * self.apart)
    }
}

impl Corpus {
    /// Fills the docroot with the files of these sets, in turns on each of so many devices.
    pub fn create(docroot: &Path, devices: u64, sets: &[Set]) -> Outcome<Corpus> {
        let largest = sets.iter().map(|set| set.size).max().unwrap_or_default();
        let bytes = random(largest + VARIANTS as usize * APART);
        let corpus = Corpus { bytes, docroot: docroot.to_owned(), devices };
        for set in sets {
            for number in set.numbers() {
                let file = corpus.file(number);
                if let Some(folder) = file.parent() {
                    fs::create_dir_all(folder).context(folder.display())?;
                }
                fs::write(&file, corpus.content(number, set.size))
                    .context(format!("cannot write {}", file.display()))?;
            }
        }
        Ok(corpus)
    }

    /// On which device a file is, and its name there.
    pub fn name(&self, number: u64) -> Name {
        Name::on(self.devices, number)
    }

    /// How many devices there are.
    pub fn devices(&self) -> u64 {
        self.devices
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
        self.docroot.join(&self.name(number).to_string()[1..])
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

    /// A thousand numbers have a folder on each device.
    fn folders(&self, first: u64, count: u64) -> impl Iterator<Item = PathBuf> {
        let last = (first + count).saturating_sub(1);
        let devices = 1..=self.devices;
        (first / 1000..=last / 1000).flat_map(move |thousand| {
            devices.clone().map(move |device| {
                let name = Name { device, number: thousand * 1000 };
                let mut folder = self.docroot.join(&name.to_string()[1..]);
                folder.pop();
                folder
            })
        })
    }
}

impl Name {
    /// Where files are that are spread over so many devices.
    pub fn on(devices: u64, number: u64) -> Name {
        Name { device: 1 + number % devices, number }
    }
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
        assert_eq!(Name::on(1, 123).to_string(), "/dev1/0/000/000/0000000123.fid");
        assert_eq!(
            Name { device: 7, number: 1_234_567_890 }.to_string(),
            "/dev7/1/234/567/1234567890.fid"
        );
    }

    #[test]
    fn files_are_spread_over_devices() {
        let devices: Vec<u64> = (10..15).map(|number| Name::on(3, number).device).collect();
        assert_eq!(devices, [2, 3, 1, 2, 3]);
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
        for set in [SMALL, MEDIUM, MISSING, LARGE, HUGE, MANY] {
            assert!(set.first >= end);
            end = set.first + set.count;
        }
        assert_eq!(MISSING.first / 1000, MEDIUM.first / 1000, "in a folder that is there");
    }
}
