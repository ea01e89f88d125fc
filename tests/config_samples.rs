//! The sample of a configuration file in contrib/ loads, and what it says about defaults is true.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Group, User, getegid, geteuid};
use rmogstored_master::config::Key;

use crate::harness::skipped;

/// Keys that are given an example, having no default; `server` prints nothing of its own.
const WITHOUT_DEFAULT: [&str; 11] = [
    "logfile",
    "accesslog",
    "httpgetlisten",
    "server",
    "daemonize",
    "pidfile",
    "user",
    "group",
    "status_socket",
    "statuslisten",
    "require_mount",
];
/// What the sample says of user and group, who are on few machines.
const USER: &str = "user = mogstored";
const GROUP: &str = "group = mogstored";

/// The sample with its absolute paths moved into `folder`.
fn sample(folder: &Path) -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/mogstored.conf");
    for name in ["mogdata", "rmogstored"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let folder = folder.to_str().unwrap();
    let text = fs::read_to_string(shipped).unwrap();
    text.replace("/var/", &format!("{folder}/")).replace("/run/", &format!("{folder}/"))
}

/// The commented settings: a `#` with no blank behind it.
fn commented(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    lines.filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// The effective settings, where the content loads without a word.
fn effective(folder: &Path, content: &str) -> String {
    let file = folder.join("m.conf");
    fs::write(&file, content).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rmogstored"))
        .arg("--check-config")
        .arg("--config")
        .arg(&file)
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{content}");
    assert!(output.status.success(), "{content}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn sample_loads_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    let settings = effective(folder.path(), &text);
    assert!(settings.starts_with(&format!("docroot = {}/mogdata\n", folder.path().display())));
    assert!(settings.contains("httplisten = 0.0.0.0:7500\nmgmtlisten = 0.0.0.0:7501\n"));
}

#[test]
fn sample_names_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: Vec<&str> = text.split(|c| !is_name(c)).collect();
    for key in Key::all() {
        assert!(words.contains(&key.name()), "{} is not in the sample", key.name());
    }
}

#[test]
fn each_commented_line_loads_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    assert!(commented(&text).count() >= 12);
    for line in commented(&text).filter(|line| ![USER, GROUP].contains(line)) {
        effective(folder.path(), &format!("{text}\n{line}\n"));
    }
}

#[test]
fn user_and_group_load_once_their_names_are_of_this_machine() {
    let (Ok(Some(user)), Ok(Some(group))) = (User::from_uid(geteuid()), Group::from_gid(getegid()))
    else {
        return skipped("this user or its group has no name");
    };
    let folder = tempfile::tempdir().unwrap();
    let mut text = sample(folder.path());
    for (line, name) in [(USER, user.name), (GROUP, group.name)] {
        let (key, _) = line.split_once(" = ").unwrap();
        let own = format!("{key} = {name}");
        assert!(commented(&text).any(|commented| commented == line), "{line}");
        text = text.replace(&format!("#{line}\n"), &format!("{own}\n"));
        let settings = effective(folder.path(), &text);
        assert!(settings.lines().any(|line| line == own), "{settings}");
    }
}

#[test]
fn commented_values_are_the_defaults_and_none_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    let settings = effective(folder.path(), &text);
    let told: Vec<&str> = commented(&text)
        .filter(|line| !WITHOUT_DEFAULT.contains(&line.split(" = ").next().unwrap_or_default()))
        .collect();
    for line in &told {
        assert!(settings.lines().any(|default| default == *line), "{line} is no default");
    }
    for default in settings.lines().filter(|line| !text.lines().any(|given| given == *line)) {
        assert!(told.contains(&default), "{default} is not in the sample");
    }
}
