//! A device with files of a known kind, and what is made wrong with them.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use serde_json::Value;
use tempfile::TempDir;

use super::{Told, command, exists, lines, pairs, relative, scrub};
use crate::harness::skipped;
use crate::load::Chance;

/// How many files the large tree has, and how often its scrub is killed.
const LARGE: u64 = 100_000;
const KILLS: u32 = 20;
/// The longest life of a scrub that is killed.
const LIFE: usize = 1200;

/// A device's folder. The files that are right are a few bytes long and old.
pub struct Tree {
    _folder: TempDir,
    device: PathBuf,
    expected: Vec<(String, String)>,
}

/// The path of a file below its device.
pub fn below(fid: u64) -> String {
    relative(fid)
}

/// Makes a file as old as it takes to be judged.
pub fn aged(path: &Path) {
    let time = SystemTime::now() - Duration::from_secs(3600);
    File::open(path).unwrap().set_modified(time).unwrap();
}

impl Tree {
    /// With files 1 to `count`.
    pub fn make(name: &str, count: u64) -> Tree {
        // In memory, where there is such a place: on a disk a scrub gives way to other tests.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("rmogstored-").tempdir_in(place).unwrap();
        let device = folder.path().join(name);
        fs::create_dir(&device).unwrap();
        let tree = Tree { _folder: folder, device, expected: Vec::new() };
        for fid in 1..=count {
            tree.write(&below(fid), format!("file {fid}").as_bytes());
        }
        tree
    }

    /// Its folder.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// The same as an argument.
    pub fn name(&self) -> &str {
        self.device.to_str().unwrap()
    }

    /// Writes a file of the past.
    pub fn write(&self, path: &str, content: &[u8]) {
        let path = self.place(path);
        fs::write(&path, content).unwrap();
        aged(&path);
    }

    /// What a scrub must find, sorted.
    pub fn expected(&self) -> Vec<(String, String)> {
        let mut expected = self.expected.clone();
        expected.sort();
        expected
    }

    /// Seven kinds of damage, spread over the files that there are.
    pub fn damage(&mut self) {
        // What a crash leaves of a file: its name, or its name and size.
        for path in [below(3), "0/000/777/0000777001.fid".to_owned()] {
            self.write(&path, b"");
            self.expect("empty", &path);
        }
        self.write("0/000/777/0000777002.fid", b"some");
        let torn = File::options().append(true).open(self.device.join("0/000/777/0000777002.fid"));
        torn.unwrap().set_len(1 << 20).unwrap();
        aged(&self.device.join("0/000/777/0000777002.fid"));
        self.expect("hole", "0/000/777/0000777002.fid");
        for path in [
            "0/000/778/0000777003.fid",
            "0000777004.fid",
            "0/000/0000777005.fid",
            "old/0/000/777/0000777006.fid",
            "lost+found/0000777007.fid",
        ] {
            self.write(path, b"misplaced");
            self.expect("misplaced", path);
        }
        for path in [
            "0/000/000/note",
            "0/000/777/12.fid",
            "0/000/777/0000777008.FID",
            "lost+found/#123",
            "0/000/777/x/more",
            "old/note",
        ] {
            self.write(path, b"stray");
        }
        for path in [
            "0/000/000/note",
            "0/000/777/12.fid",
            "0/000/777/0000777008.FID",
            "lost+found/#123",
            "0/000/777/x",
            "old",
        ] {
            self.expect("stray", path);
        }
        for path in [".rmogstored_tmp/2147483000.1", "0/000/777/0000777009.fid.77.tmp", "usage.77"]
        {
            self.write(path, b"left");
            self.expect("leftover", path);
        }
        self.wrong_types();
        self.forbid();
        for folder in ["0/000/777/x", "old"] {
            aged(&self.device.join(folder));
        }
    }

    fn wrong_types(&mut self) {
        let [link, fifo, folder, lost] = ["0000777010", "0000777011", "0000777012", "lost"]
            .map(|name| format!("0/000/777/{name}.fid"));
        symlink("0000777001.fid", self.place(&link)).unwrap();
        mkfifo(&self.place(&fifo), Mode::S_IRWXU).unwrap();
        fs::create_dir(self.place(&folder)).unwrap();
        symlink("/nowhere", self.place(&lost)).unwrap();
        for path in [link, fifo, folder, lost] {
            self.expect("wrong_type", &path);
        }
    }

    /// A node that runs as somebody, whose usage file it is, and files that are another's.
    fn forbid(&mut self) {
        if !geteuid().is_root() {
            return skipped("in part: not root, so no files of another user");
        }
        self.write("usage", b"");
        chown(self.device.join("usage"), Some(12345), Some(12345)).unwrap();
        for (path, mode) in [("0/000/777/0000777013.fid", 0o640), ("0/000/777/0000777014.fid", 0)] {
            self.write(path, b"forbidden");
            fs::set_permissions(self.device.join(path), PermissionsExt::from_mode(mode)).unwrap();
            self.expect("forbidden", path);
        }
    }

    fn expect(&mut self, kind: &str, path: &str) {
        self.expected.push((kind.to_owned(), format!("{}/{path}", self.name())));
    }

    fn place(&self, path: &str) -> PathBuf {
        let path = self.device.join(path);
        if !exists(path.parent().unwrap()) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        path
    }
}

/// The numbers of a summary that must not depend on how often the scrub was interrupted.
fn numbers(summary: &Value) -> [Value; 5] {
    ["files", "bytes", "found", "changing", "unsettled"].map(|key| summary[key].clone())
}

#[test]
fn finds_exactly_what_is_wrong_however_often_it_is_killed() {
    let mut tree = Tree::make("dev7", LARGE);
    tree.damage();
    let kinds: std::collections::BTreeSet<_> = tree.expected().into_iter().map(|it| it.0).collect();
    println!("{} kinds of damage, {} findings", kinds.len(), tree.expected().len());
    let whole = scrub(&[tree.name()]);
    println!("{} s for {} files", whole.summary["seconds"], whole.summary["files"]);
    assert_eq!(whole.pairs(), tree.expected());
    assert_eq!((whole.code, &whole.summary["complete"]), (Some(1), &true.into()));
    killed_and_resumed(&tree, &whole);
}

fn killed_and_resumed(tree: &Tree, whole: &Told) {
    let state = tree.device().with_file_name("state");
    let out = tree.device().with_file_name("out");
    // So slow that a pass takes several lives.
    let words = ["--rate=100", "--since-state", state.to_str().unwrap(), tree.name()];
    let mut chance = Chance::new(Chance::seed());
    let (mut kills, mut passes, mut here) = (0, 0, 0);
    while kills < KILLS || here > 0 {
        let append = File::options().create(true).append(true).open(&out).unwrap();
        let mut child = command(&words).stdout(append).stderr(Stdio::inherit()).spawn().unwrap();
        if kills < KILLS {
            // The moment of the kill, not a wait for anything.
            thread::sleep(Duration::from_millis(chance.below(LIFE) as u64));
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        if status.code().is_none() {
            (kills, here) = (kills + 1, here + 1);
            continue;
        }
        assert_eq!(status.code(), Some(1));
        let mut told = lines(&fs::read_to_string(&out).unwrap());
        let summary = told.pop().unwrap();
        let mut found = pairs(&told);
        found.dedup();
        assert_eq!(found, tree.expected(), "after {here} kills");
        assert_eq!(numbers(&summary), numbers(&whole.summary), "after {here} kills");
        fs::remove_file(&out).unwrap();
        (passes, here) = (passes + 1, 0);
    }
    println!("{kills} kills in {passes} passes");
}

fn written(state: &Path) -> Option<SystemTime> {
    fs::metadata(state).ok()?.modified().ok()
}

#[test]
fn signals_end_it_with_its_state_written() {
    use nix::sys::signal::{Signal, kill};
    let mut tree = Tree::make("dev7", 300);
    tree.damage();
    let whole = scrub(&[tree.name()]);
    let state = tree.device().with_file_name("state");
    let words = ["--since-state", state.to_str().unwrap(), tree.name()];
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let before = written(&state);
        let child = command(&[&["--rate=0.2"][..], &words].concat()).spawn().unwrap();
        crate::harness::until("some files", || {
            let text = fs::read_to_string(&state).unwrap_or_default();
            written(&state) != before && text.contains("0/000/000/00")
        });
        kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
        let told = Told::by(&child.wait_with_output().unwrap());
        assert_eq!((told.code, &told.summary["complete"]), (Some(code), &false.into()), "{told:?}");
        assert!(told.summary["files"].as_u64() < whole.summary["files"].as_u64(), "{told:?}");
    }
    let rest = scrub(&words);
    assert_eq!(rest.code, Some(1));
    assert_eq!(numbers(&rest.summary), numbers(&whole.summary));
    assert!(rest.findings.len() < whole.findings.len(), "it began anew: {rest:?}");
}

#[test]
fn files_that_come_and_go_are_no_findings() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let tree = Tree::make("dev7", 3000);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut fid = 0;
            while !over.load(Relaxed) {
                fid = fid % 3000 + 7;
                let path = tree.device().join(below(fid));
                match fid % 3 {
                    0 => drop(fs::remove_file(path)),
                    1 => fs::write(path, "written in place").unwrap(),
                    _ => {
                        let new = tree.device().join("0/000/000/.rmogstored_tmp.1.1");
                        fs::write(&new, "replaced").unwrap();
                        fs::rename(new, path).unwrap();
                    }
                }
            }
        });
        let _over = crate::load::Ends(&over);
        for _ in 0..5 {
            let told = scrub(&[tree.name()]);
            assert_eq!((told.code, told.pairs()), (Some(0), Vec::new()), "{told:?}");
        }
    });
}
