//! Files for logrotate, systemd-sysusers and systemd-tmpfiles.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;

use super::{contrib, output, scratch, shipped, tool};
use crate::harness::skipped;

/// What is run after a rotation, with another pid file.
fn after_rotation(pidfile: &Path) {
    let file = shipped("logrotate/rmogstored");
    let script = file.split("postrotate\n").nth(1).unwrap().split("endscript").next().unwrap();
    let script = script.replace("/run/rmogstored/rmogstored.pid", pidfile.to_str().unwrap());
    let script = script.replace("/usr/lib/rsyslog/rsyslog-rotate", "true");
    assert!(Command::new("/bin/sh").args(["-ec", &script]).status().unwrap().success());
}

/// USR1 ends a process that does not expect it.
#[test]
fn rotation_signals_no_stranger() {
    let folder = scratch();
    let mut stranger = Command::new("sleep").arg("100").spawn().unwrap();
    let pidfile = folder.path().join("pid");
    for content in [stranger.id().to_string(), String::new(), "x".to_owned()] {
        fs::write(&pidfile, content).unwrap();
        after_rotation(&pidfile);
    }
    after_rotation(&folder.path().join("none"));
    let was_left_alone = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(was_left_alone);
}

#[test]
fn logrotate_takes_its_file() {
    let Some(logrotate) = tool("logrotate") else { return };
    let folder = scratch();
    // It refuses a file that others may write, as a clone of the project may be.
    let file = folder.path().join("rmogstored");
    fs::write(&file, shipped("logrotate/rmogstored")).unwrap();
    let state = folder.path().join("state");
    let args = ["--debug".as_ref(), "--state".as_ref(), state.as_os_str(), file.as_os_str()];
    let text = output(logrotate, args);
    assert!(text.contains("/var/log/rmogstored.log"), "{text}");
    assert!(!text.contains("error"), "{text}");
}

#[test]
fn user_and_folders_are_made() {
    if !geteuid().is_root() {
        return skipped("making users in a folder needs root");
    }
    let (Some(sysusers), Some(tmpfiles)) = (tool("systemd-sysusers"), tool("systemd-tmpfiles"))
    else {
        return;
    };
    let folder = scratch();
    let root = format!("--root={}", folder.path().display());
    fs::create_dir(folder.path().join("etc")).unwrap();
    let place = |name: &str| contrib(name).into_os_string();
    output(sysusers, [root.clone().into(), place("sysusers.d/rmogstored.conf")]);
    let users = fs::read_to_string(folder.path().join("etc/passwd")).unwrap();
    assert!(users.contains("mogstored:"), "{users}");
    output(tmpfiles, [root.into(), "--create".into(), place("tmpfiles.d/rmogstored.conf")]);
    assert!(folder.path().join("run/rmogstored").is_dir());
    assert!(folder.path().join("var/mogdata").is_dir());
}
