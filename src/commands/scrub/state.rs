//! The state file: how far a pass over each device has come. Written whole under another name and
//! then renamed, so that a kill or a power cut leaves the old one or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::finding::Totals;
use super::walk::Position;

/// Raised when a field goes or changes its meaning.
const VERSION: u32 = 1;

/// How far the passes have come, shared by the devices' threads.
pub struct State {
    file: Option<PathBuf>,
    content: Mutex<Content>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Content {
    version: u32,
    devices: Vec<Pass>,
}

/// A pass over one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// The device's folder.
    pub device: PathBuf,
    /// The file system that was there.
    pub filesystem: String,
    /// When it began, in seconds since 1970.
    pub begun: u64,
    /// When it came to its end.
    pub finished: Option<u64>,
    /// The last name that was looked at, by [`Position::text`].
    pub position: String,
    /// What it has seen so far.
    pub totals: Totals,
    /// This run is at it.
    #[serde(skip)]
    pub current: bool,
}

impl State {
    /// Reads the file; there may be none yet.
    pub fn load(file: Option<PathBuf>) -> io::Result<State> {
        let text = match &file {
            Some(file) => match fs::read_to_string(file) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                read => Some(read?),
            },
            None => None,
        };
        let none = Content { version: VERSION, devices: Vec::new() };
        let content = text.as_deref().map_or(Ok(none), parse)?;
        Ok(State { file, content: Mutex::new(content) })
    }

    /// The pass over a device: the one that was interrupted, or a new one. One that has come to
    /// its end, or was over another file system, is forgotten.
    pub fn begin(&self, device: &Path, filesystem: &str) -> Pass {
        let mut content = self.lock();
        let known = content.devices.iter().position(|pass| pass.device == device);
        let goes_on = |pass: &Pass| pass.finished.is_none() && pass.filesystem == filesystem;
        if let Some(pass) = known.map(|at| &mut content.devices[at]).filter(|pass| goes_on(pass)) {
            pass.current = true;
            return pass.clone();
        }
        let pass = Pass {
            device: device.to_owned(),
            filesystem: filesystem.to_owned(),
            begun: now(),
            finished: None,
            position: String::new(),
            totals: Totals::default(),
            current: true,
        };
        match known {
            Some(at) => content.devices[at] = pass.clone(),
            None => content.devices.push(pass.clone()),
        }
        pass
    }

    /// Notes that a device's pass has come so far.
    pub fn reached(&self, device: &Path, position: &Position, change: impl FnOnce(&mut Totals)) {
        self.with(device, |pass| {
            pass.position = position.text();
            change(&mut pass.totals);
        });
    }

    /// Notes that a device's pass has come to its end.
    pub fn finished(&self, device: &Path) {
        self.with(device, |pass| pass.finished = Some(now()));
    }

    /// What a device's pass has seen so far; nothing when this run has not got at the device.
    pub fn totals(&self, device: &Path) -> Totals {
        let content = self.lock();
        let pass = content.devices.iter().find(|pass| pass.current && pass.device == device);
        pass.map(|pass| pass.totals.clone()).unwrap_or_default()
    }

    /// Writes the file, if there is to be one.
    pub fn save(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let text = {
            let content = self.lock();
            serde_json::to_string_pretty(&*content).map_err(io::Error::other)?
        };
        write_whole(file, text.as_bytes())
    }

    fn with(&self, device: &Path, change: impl FnOnce(&mut Pass)) {
        let mut content = self.lock();
        if let Some(pass) = content.devices.iter_mut().find(|pass| pass.device == device) {
            change(pass);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Where it is to go on.
    pub fn resume(&self) -> Position {
        Position::parse(&self.position).unwrap_or_default()
    }
}

fn parse(text: &str) -> io::Result<Content> {
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let head: Head =
        serde_json::from_str(text).map_err(|e| wrong(format!("no state file: {e}")))?;
    if head.version != VERSION {
        return Err(wrong(format!("version {}, not {VERSION}", head.version)));
    }
    let content: Content = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    match content.devices.iter().find(|pass| Position::parse(&pass.position).is_none()) {
        Some(pass) => Err(wrong(format!("'{}' is no position", pass.position))),
        None => Ok(content),
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::scrub::finding::Kind;

    fn state(folder: &tempfile::TempDir) -> State {
        State::load(Some(folder.path().join("state"))).unwrap()
    }

    #[test]
    fn an_interrupted_pass_goes_on_and_a_finished_one_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let device = Path::new("/d/dev1");
        let first = state(&folder);
        assert_eq!(first.begin(device, "a").position, "");
        let position = Position::parse("0/000/000/0000000001.fid").unwrap();
        first.reached(device, &position, |totals| {
            totals.files = 7;
            totals.found.insert(Kind::Empty, 2);
        });
        first.save().unwrap();
        let second = state(&folder);
        let pass = second.begin(device, "a");
        assert_eq!((pass.resume(), &pass.totals), (position, &first.totals(device)));
        assert_eq!(pass.totals.found[&Kind::Empty], 2);
        second.finished(device);
        second.save().unwrap();
        let third = state(&folder);
        let pass = third.begin(device, "a");
        assert_eq!((pass.position.as_str(), pass.totals), ("", Totals::default()));
    }

    #[test]
    fn another_filesystem_is_another_pass() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        let device = Path::new("/d/dev1");
        state.begin(device, "a");
        state.reached(device, &Position::parse("0/000").unwrap(), |_| ());
        assert_eq!(state.begin(device, "a").position, "0/000");
        assert_eq!(state.begin(device, "b").position, "");
    }

    #[test]
    fn what_is_no_state_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        for text in ["", "{}", "[]", r#"{"version": 2, "devices": []}"#, "key = value"] {
            fs::write(&file, text).unwrap();
            assert!(State::load(Some(file.clone())).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }
}
