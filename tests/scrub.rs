//! `rmogstored scrub`.

/// Beside a node: its stalled devices, its clients.
mod beside;
/// A tree with known damage.
mod tree;
/// Bytes that a disk does not give back.
mod unreadable;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::harness::{fid_path, skipped};
use crate::status::check;
use tree::{Tree, aged, below};

/// A scrub that has not been started.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new(crate::harness::binary());
    command.arg("scrub").args(words).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a scrub told.
#[derive(Debug)]
struct Told {
    code: Option<i32>,
    /// Without the last one.
    findings: Vec<Value>,
    /// The last line.
    summary: Value,
    stderr: String,
}

impl Told {
    fn by(output: &Output) -> Told {
        let mut findings = lines(&String::from_utf8_lossy(&output.stdout));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let summary = findings.pop().unwrap_or_else(|| panic!("no summary: {stderr}"));
        assert_eq!(summary["kind"], "summary", "{stderr}");
        Told { code: output.status.code(), findings, summary, stderr }
    }

    /// Kind and path of each finding, sorted.
    fn pairs(&self) -> Vec<(String, String)> {
        pairs(&self.findings)
    }
}

fn scrub(words: &[&str]) -> Told {
    Told::by(&command(words).output().unwrap())
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a whole line of JSON")).collect()
}

fn pairs(findings: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut pairs: Vec<_> =
        findings.iter().map(|it| (text(&it["kind"]), text(&it["path"]))).collect();
    pairs.sort();
    pairs
}

#[test]
fn clean_tree_is_clean() {
    let tree = Tree::make("dev7", 50);
    // What is a node's, a tracker's or the file system's own business.
    fs::create_dir_all(tree.device().join("lost+found")).unwrap();
    for own in
        ["usage", "test-write/test-write-3", &format!(".rmogstored_tmp/{}.1", std::process::id())]
    {
        tree.write(own, b"x");
    }
    // Somebody may be in the middle of something.
    let young = tree.device().join(below(51));
    fs::write(&young, "").unwrap();
    let told = scrub(&[tree.name()]);
    assert_eq!((told.code, told.pairs()), (Some(0), Vec::new()));
    assert_eq!(told.stderr, "");
    let summary = &told.summary;
    assert_eq!((&summary["files"], &summary["unsettled"]), (&51.into(), &1.into()), "{summary}");
    assert_eq!(summary["complete"], true);
    aged(&young);
    let told = scrub(&[tree.name()]);
    assert_eq!((told.code, told.findings.len()), (Some(1), 1), "{told:?}");
    assert_eq!(told.findings[0]["fid"], 51);
}

#[test]
fn schema_is_true_of_each_line() {
    let mut tree = Tree::make("dev7", 20);
    tree.damage();
    let missing = tree.device().with_file_name("dev9");
    let told = scrub(&[tree.name(), missing.to_str().unwrap()]);
    assert_eq!(told.code, Some(1));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/schema/scrub.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for line in told.findings.iter().chain([&told.summary]) {
        check(&schema, line, "", &mut wrong);
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(told.findings.len() > 7, "{told:?}");
}

#[test]
fn device_list_has_each_bad_copy_once() {
    let tree = Tree::make("dev7", 20);
    tree.write(&below(21), b"");
    tree.write("0/000/001/0000000022.fid", b"");
    tree.write("0/000/000/note", b"");
    let output = command(&["--device-list", tree.name()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "21 7\n22 7\n");
    let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(summary["found"]["empty"], 2, "{summary}");
}

#[test]
fn lines_of_several_devices_do_not_mix() {
    let tree = Tree::make("dev1", 1);
    let names: Vec<String> = (1..=4)
        .map(|device| {
            let folder = tree.device().with_file_name(format!("dev{device}"));
            for fid in 1..=2000 {
                let file = folder.join(below(fid));
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, "").unwrap();
                aged(&file);
            }
            folder.to_str().unwrap().to_owned()
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let told = scrub(&names);
    assert_eq!((told.code, told.findings.len()), (Some(1), 8000));
    assert_eq!(told.summary["found"]["empty"], 8000);
}

#[test]
fn what_is_no_device_is_wrong_usage_and_what_is_not_there_is_told() {
    let tree = Tree::make("dev7", 3);
    let folder = tree.device().parent().unwrap().to_str().unwrap().to_owned();
    for words in [vec![&*folder], vec![tree.name(), tree.name()], vec!["--rate=0", tree.name()]] {
        let output = command(&words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{words:?}");
    }
    let told = scrub(&[&format!("{folder}/dev8"), tree.name()]);
    assert_eq!((told.code, &told.summary["files"]), (Some(3), &3.into()), "{told:?}");
    assert_eq!(told.pairs(), [("skipped".to_owned(), format!("{folder}/dev8"))]);
    let state = tree.device().with_file_name("state");
    fs::write(&state, "not a state").unwrap();
    let words = ["--since-state", state.to_str().unwrap(), tree.name()];
    assert_eq!(command(&words).output().unwrap().status.code(), Some(3));
}

#[test]
fn rate_is_kept() {
    let tree = Tree::make("dev7", 1);
    tree.write(&below(2), &vec![1; 3 << 20]);
    let begun = Instant::now();
    let told = scrub(&["--rate=2", tree.name()]);
    assert_eq!(told.code, Some(0), "{told:?}");
    // All but the first piece, of a megabyte, have to wait.
    assert!(begun.elapsed().as_secs_f64() > 1.0, "{:?}", begun.elapsed());
}

#[test]
fn second_scrub_of_a_device_stays_away() {
    let tree = Tree::make("dev7", 1);
    tree.write(&below(2), &vec![1; 3 << 20]);
    let state = tree.device().with_file_name("state");
    let mut first =
        command(&["--rate=0.01", "--since-state", state.to_str().unwrap(), tree.name()]);
    let mut first = first.spawn().unwrap();
    crate::harness::until("the first file", || {
        fs::read_to_string(&state).is_ok_and(|text| text.contains("0000000001.fid"))
    });
    let told = scrub(&[tree.name()]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(told.code, Some(3), "{told:?}");
    assert_eq!(told.findings[0]["why"], "another scrub is at it");
}

/// In a terminal made by script(1); elsewhere nothing but lines is written, as the others see.
#[test]
fn terminal_gets_a_bar() {
    let tree = Tree::make("dev7", 500);
    let binary = crate::harness::binary();
    let line = format!("{} scrub {}", binary.to_str().unwrap(), tree.name());
    let mut script = Command::new("script");
    script.args(["-qefc", &line, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let Ok(mut child) = script.spawn() else { return skipped("no script(1)") };
    let mut shown = String::new();
    child.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    assert!(child.wait().unwrap().success(), "{shown:?}");
    assert!(shown.contains("dev7 ") && shown.contains('%'), "{shown:?}");
    assert!(shown.contains(r#"{"kind":"summary""#), "{shown:?}");
}

/// The path below the device.
fn relative(fid: u64) -> String {
    fid_path(1, fid).trim_start_matches("/dev1/").to_owned()
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
