//! What contrib/ ships for packagers: it says what is true, and it works.

/// Man pages and completions that are made from the option table.
mod generated;
/// The LSB init script, run for real.
mod init_script;
/// What the man pages say.
mod man;
/// Whom the OpenRC script signals.
mod openrc;
/// logrotate, sysusers, tmpfiles.
mod system_files;
/// Units, their sandbox, socket activation.
mod systemd;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::harness::skipped;

/// The program that the shipped files are about.
const NODE: &str = env!("CARGO_BIN_EXE_rmogstored");
/// Where the shipped files expect it.
const INSTALLED: &str = "/usr/local/bin/rmogstored";

/// A shipped file's place.
fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

/// A shipped file's content.
fn shipped(name: &str) -> String {
    fs::read_to_string(contrib(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A scratch folder that other users may enter.
fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("rmogstored-").tempdir().unwrap()
}

/// A command that is looked for where administrators' programs are too; `None`, and the reason
/// printed, where there is none.
fn tool(name: &str) -> Option<Command> {
    let path = format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let there = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if !there {
        skipped(&format!("{name} is not installed"));
        return None;
    }
    let mut command = Command::new(name);
    command.env("PATH", path).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    Some(command)
}

/// What a command writes, standard error behind standard output; it must succeed.
fn output<I: AsRef<OsStr>>(mut command: Command, args: impl IntoIterator<Item = I>) -> String {
    let output = command.args(args).output().unwrap();
    let text = written(&output);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

fn written(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}
