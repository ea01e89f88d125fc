//! The recorded values: how they are kept, and when a new one is too far from its record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::callgrind::first_line;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions.json");
/// How far a value may be from its record, in per cent.
const MARGIN: u64 = 5;
const AGAIN: &str = "to record what is right now: UPDATE=1 cargo test --test tests instructions::requests -- --ignored";

/// Instructions per request of each script, and what they depend on besides the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub made_with: String,
    pub scripts: BTreeMap<String, u64>,
}

/// What became of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Close,
    /// The recorded values are those of another toolchain, and say nothing.
    NotComparable(String),
    /// The message for who made the change.
    TooFar(String),
}

impl Record {
    /// The shipped one.
    pub fn load() -> Record {
        let text = fs::read_to_string(FILE).expect("it is part of the project");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let scripts = value["scripts"].as_object().expect("an object").iter();
        let scripts = scripts.map(|(name, count)| (name.clone(), count.as_u64().expect("a count")));
        let made_with = value["made_with"].as_str().expect("a string").to_owned();
        Record { made_with, scripts: scripts.collect() }
    }

    /// Makes this the shipped one.
    pub fn save(&self) {
        let scripts: Map<_, _> =
            self.scripts.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
        let value = json!({ "made_with": self.made_with, "scripts": scripts });
        fs::write(FILE, format!("{value:#}\n")).expect("the file can be written");
    }

    /// A gain beyond the margin is too far as well, so that it is not lost again unnoticed.
    pub fn compare(&self, new: &Record) -> Verdict {
        if self.made_with != new.made_with {
            let (old, new) = (&self.made_with, &new.made_with);
            return Verdict::NotComparable(format!("recorded with {old}; this is {new}"));
        }
        let names = self.scripts.keys().chain(new.scripts.keys());
        let names: BTreeSet<_> = names.collect();
        let mut message = String::new();
        for name in names {
            match (self.scripts.get(name), new.scripts.get(name)) {
                (Some(old), Some(new)) if old.abs_diff(*new) * 100 <= old * MARGIN => {}
                (Some(old), Some(new)) => {
                    let change = per_cent(*old, *new);
                    writeln!(message, "{name}: {old} -> {new} ({change:+.1}%)").unwrap();
                }
                (old, new) => writeln!(message, "{name}: {old:?} -> {new:?}").unwrap(),
            }
        }
        if message.is_empty() {
            return Verdict::Close;
        }
        Verdict::TooFar(format!(
            "instructions per request, off by more than {MARGIN}%:\n{message}{AGAIN}"
        ))
    }
}

/// All that changes the counts of unchanged code. The compiler is the one that made the binary.
pub fn toolchain(binary: &Path) -> String {
    let arch = std::env::consts::ARCH;
    let rustc = compiler(&fs::read(binary).expect("the binary can be read"));
    let libc = first_line("getconf", &["GNU_LIBC_VERSION"]).unwrap_or("unknown libc".into());
    let valgrind = first_line("valgrind", &["--version"]).expect("it was there before");
    format!("{arch}, {rustc}, {libc}, {valgrind}")
}

/// What a compiler says of itself in the section `.comment` of the program.
fn compiler(program: &[u8]) -> String {
    const MARK: &[u8] = b"\0rustc version ";
    let at = program.windows(MARK.len()).rposition(|part| part == MARK);
    let text = at.map_or(&b"unknown rustc"[..], |at| &program[at + 1..]);
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).replace("rustc version", "rustc")
}

fn per_cent(old: u64, new: u64) -> f64 {
    (new as f64 / old as f64 - 1.0) * 100.0
}

fn record(made_with: &str, scripts: &[(&str, u64)]) -> Record {
    let scripts = scripts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    Record { made_with: made_with.to_owned(), scripts }
}

#[test]
fn more_than_five_per_cent_either_way_is_too_far() {
    let old = record("a", &[("read", 1000)]);
    for (count, close) in [(1000, true), (1050, true), (1051, false), (950, true), (949, false)] {
        let verdict = old.compare(&record("a", &[("read", count)]));
        assert_eq!(verdict == Verdict::Close, close, "{count}: {verdict:?}");
    }
    let Verdict::TooFar(message) = old.compare(&record("a", &[("read", 1234)])) else { panic!() };
    assert!(message.contains("read: 1000 -> 1234 (+23.4%)"), "{message}");
}

#[test]
fn scripts_that_only_one_side_has_are_too_far() {
    let (one, two) = (record("a", &[("x", 1)]), record("a", &[("x", 1), ("y", 1)]));
    assert!(matches!(one.compare(&two), Verdict::TooFar(_)));
    assert!(matches!(two.compare(&one), Verdict::TooFar(_)));
}

#[test]
fn another_toolchain_is_not_compared() {
    let verdict = record("a", &[("x", 1)]).compare(&record("b", &[("x", 2)]));
    assert!(matches!(verdict, Verdict::NotComparable(_)), "{verdict:?}");
}

#[test]
fn a_program_names_its_compiler() {
    assert_eq!(compiler(b"x\0rustc version 1.2.3 (abc)\0Linker"), "rustc 1.2.3 (abc)");
    assert_eq!(compiler(b"x"), "unknown rustc");
}
