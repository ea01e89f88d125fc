//! Files for logrotate, systemd-sysusers and systemd-tmpfiles.

use std::fs;

use nix::unistd::geteuid;

use super::{contrib, output, scratch, shipped, tool};
use crate::harness::skipped;

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
