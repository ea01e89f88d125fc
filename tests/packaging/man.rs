//! The man pages say what the program does: every option and key, with the real defaults.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use rmogstored_master::config::Key;

use super::generated::table;
use super::{NODE, contrib, output, scratch, shipped, tool};

/// Options that are about the command line itself, no settings.
const NO_KEYS: [&str; 7] =
    ["check-config", "config", "help", "multi", "quickstart", "skipconfig", "version"];
/// Keys that a file alone may have.
const FILE_ONLY: [&str; 3] = ["httpgetlisten", "iostat", "serverbin"];
/// Defaults that `--check-config` does not print: it prints what there is instead.
const NOT_PRINTED: [&str; 6] =
    ["accesslog_format", "server", "daemonize", "skipconfig", "iostat", "require_mount"];

/// The settings of mogstored.conf(5) with their defaults; `None` where the page gives none.
fn documented() -> BTreeMap<String, Option<String>> {
    let page = plain(&shipped("man/mogstored.conf.5"));
    let settings = page.split(".SH SETTINGS").nth(1).unwrap();
    let settings = settings.split(".SH ").next().unwrap();
    let entries = settings.split(".TP\n").skip(1);
    entries.map(entry).collect()
}

fn entry(text: &str) -> (String, Option<String>) {
    let name = text.split([' ', '\n']).next().unwrap();
    let default = text.split("Default: ").nth(1).map(|rest| {
        let end = rest.find(".\n").unwrap_or_else(|| panic!("{name}: no end of {rest}"));
        rest[..end].to_owned()
    });
    (name.to_owned(), default.filter(|default| default != "none"))
}

/// Without fonts and escapes, which are few in these pages.
fn plain(page: &str) -> String {
    page.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "").replace("\\-", "-")
}

/// What the program takes when nothing is said, except for the docroot.
fn defaults() -> BTreeMap<String, Vec<String>> {
    let folder = scratch();
    let docroot = format!("--docroot={}", folder.path().display());
    let text = output(Command::new(NODE), ["--check-config", &docroot]);
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(" = ")) {
        settings.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    settings.insert("docroot".to_owned(), vec!["/var/mogdata".to_owned()]);
    settings
}

#[test]
fn every_option_is_in_the_manual() {
    let page = plain(&shipped("man/rmogstored.8"));
    let names = table()
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .map(str::to_owned)
        .collect::<Vec<_>>();
    assert!(names.len() > 20);
    for name in names {
        assert!(page.contains(&format!("--{name}")), "--{name}");
    }
}

#[test]
fn every_key_is_in_the_manual_and_nothing_else() {
    let documented = documented();
    let table = table();
    let options = table.get_arguments().filter_map(|arg| arg.get_long());
    let keys = options.filter(|name| !NO_KEYS.contains(name)).map(|name| name.replace('-', "_"));
    for key in keys.chain(FILE_ONLY.map(str::to_owned)) {
        assert!(documented.contains_key(&key), "{key} is not documented");
    }
    for key in documented.keys() {
        assert!(Key::named(key).is_some(), "{key} is no key");
    }
    // Every key that there is, by whatever name, is one of these.
    assert_eq!(documented.len(), Key::all().count());
}

#[test]
fn defaults_in_the_manual_are_the_program_s() {
    let (documented, defaults) = (documented(), defaults());
    for (key, default) in &documented {
        let real = defaults.get(key).map(|values| values.join(" "));
        if !NOT_PRINTED.contains(&key.as_str()) {
            assert_eq!(real, *default, "{key}");
        }
    }
    for key in defaults.keys() {
        assert!(documented.contains_key(key), "{key}");
    }
}

#[test]
fn defaults_in_the_options_are_the_program_s() {
    let defaults = defaults();
    for argument in table().get_arguments() {
        let Some(name) = argument.get_long() else { continue };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let Some(told) = help.split("[default: ").nth(1) else { continue };
        let told = told.split([']', ',']).next().unwrap();
        let real = defaults.get(&name.replace('-', "_")).map(|values| values.join(" "));
        assert!(real.is_none_or(|real| real == told), "--{name}: {told}");
    }
}

#[test]
fn variables_and_signals_are_in_the_manual() {
    let page = plain(&shipped("man/rmogstored.8"));
    for word in [
        "CMOGSTORED_FD",
        "LISTEN_FDS",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "MOG_IOSTAT_CMD",
        "MOG_DISK_USAGE_INTERVAL",
        "QUIT",
        "TERM",
        "USR1",
        "USR2",
        "WINCH",
        "HUP",
        ".oldbin",
    ] {
        assert!(page.contains(word), "{word}");
    }
}

#[test]
fn example_of_the_manual_loads() {
    let folder = scratch();
    let page = shipped("man/mogstored.conf.5");
    let example = page.split(".SH EXAMPLE").nth(1).unwrap();
    let example = example.split(".EX\n").nth(1).unwrap().split(".EE").next().unwrap();
    let docroot = folder.path().join("mogdata");
    fs::create_dir(&docroot).unwrap();
    let text = plain(example)
        .replace("/var/mogdata", docroot.to_str().unwrap())
        .replace("/run/", &format!("{}/", folder.path().display()));
    let file = folder.path().join("m.conf");
    fs::write(&file, text).unwrap();
    let config = format!("--config={}", file.display());
    let settings = output(Command::new(NODE), ["--check-config", &config]);
    assert!(!settings.contains("W: "), "{settings}");
}

#[test]
fn man_formats_the_pages_without_a_warning() {
    for page in ["man/rmogstored.8", "man/mogstored.conf.5"] {
        let Some(mut man) = tool("man") else { return };
        man.env("MANROFFSEQ", "").env("MANWIDTH", "80");
        let output = man
            .args(["--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l"])
            .arg(contrib(page))
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{page}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page}");
        assert!(output.stdout.len() > 2000, "{page}");
    }
}
