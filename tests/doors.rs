//! What a kernel has not or a sandbox forbids, and the ways that are taken then. contrib/doc/reference.md, "closed".

use std::process::{Command, Stdio};

use nix::libc;
use nix::unistd::{chown, geteuid};
use serde_json::Value;

use crate::harness::{
    Client, Node, Setup, can_mount, content_md5, fid_path, has_python, pattern, shell, skipped,
    until_some,
};

/// Linux 6.5; the same on every architecture that the tests know.
const SYS_CACHESTAT: i64 = 451;
/// So that a large upload is paced.
const LARGE: usize = 40 << 20;

/// What the first worker has found closed.
fn closed(node: &Node) -> Vec<String> {
    let status = node.status();
    let names = status["workers"][0]["closed"].as_array().cloned().unwrap_or_default();
    names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What a tracker and its clients do all day, on two devices.
fn does_all_that_a_node_does(node: &Node) {
    let (mut client, mut lines) = (node.client(), node.sidechannel());
    for device in [1, 2] {
        let path = fid_path(device, 4711);
        for content in ["first", "second content"] {
            let md5 = format!("Content-MD5: {}\r\n", content_md5(content));
            client.put_with(&path, &md5, content).expect_and(201, "keep-alive");
            for _ in 0..3 {
                assert_eq!(client.get(&path).expect(200).body, content.as_bytes());
            }
        }
        client.put_with(&path, "Content-Range: bytes 0-5/*\r\n", "SECOND").expect(201);
        assert_eq!(client.get(&path).expect(200).body, b"SECOND content");
        assert_eq!(ask(&mut lines, &format!("size {path}")), format!("{path} 14\r\n"));
        for fsck in ["", " fsck"] {
            let answer = ask(&mut lines, &format!("MD5 {path}{fsck}"));
            assert_eq!(answer, format!("{path} MD5=ca95016cfe2bd0a7671c0ab30f938b60\r\n"));
        }
        client.delete(&path).expect(204);
        client.get(&path).expect(404);
        client.delete(&path).expect(404);
    }
    let (path, content) = (fid_path(1, 1), pattern(LARGE));
    client.put(&path, &content).expect(201);
    assert!(client.get(&path).expect(200).body == content);
}

fn ask(sidechannel: &mut Client, line: &str) -> String {
    sidechannel.send(format!("{line}\n"));
    sidechannel.line()
}

/// In a sandbox that answers these calls with an error, all is done, and each door shown.
fn is_as_good_as_missing(calls: &[i64], doors: &[&str]) {
    is_done_without(calls, doors, &[]);
}

fn is_done_without(calls: &[i64], doors: &[&str], args: &[&str]) {
    if !has_python() {
        return skipped("no python3");
    }
    for errno in [libc::EPERM, libc::ENOSYS] {
        let setup = Setup::new().workers("device").refused(calls, errno);
        let node = args.iter().fold(setup, |setup, arg| setup.arg(arg)).start();
        does_all_that_a_node_does(&node);
        let found = closed(&node);
        assert!(doors.iter().all(|door| found.iter().any(|it| it == door)), "{found:?}");
        if !found.is_empty() {
            node.logs(&format!("forbids: {}", found.join(", ")));
            assert_eq!(node.logged("forbids: "), 1, "once for all workers");
        }
        assert_eq!(node.logged(" error: "), 0);
    }
}

#[test]
fn openat2_refused_by_a_sandbox_is_as_good_as_missing() {
    is_as_good_as_missing(&[libc::SYS_openat2], &["openat2", "resolve_cached"]);
}

#[test]
fn linkat_refused_by_a_sandbox_is_as_good_as_missing() {
    is_as_good_as_missing(&[libc::SYS_linkat], &["tmpfile", "linkat", "linkat_proc"]);
}

#[test]
fn preadv2_refused_by_a_sandbox_is_as_good_as_missing() {
    is_as_good_as_missing(&[libc::SYS_preadv2], &["preadv2"]);
}

#[test]
fn cachestat_refused_by_a_sandbox_is_as_good_as_missing() {
    is_as_good_as_missing(&[SYS_CACHESTAT], &["cachestat"]);
}

#[test]
fn priorities_refused_by_a_sandbox_are_as_good_as_missing() {
    let calls = [libc::SYS_ioprio_set, libc::SYS_sched_setattr, libc::SYS_sched_setscheduler];
    let doors = ["ioprio_set", "sched_setscheduler", "sched_setattr"];
    is_as_good_as_missing(&calls, &doors);
}

#[test]
fn sync_file_range_refused_by_a_sandbox_is_as_good_as_missing() {
    is_as_good_as_missing(&[libc::SYS_sync_file_range], &["sync_file_range"]);
}

#[test]
fn splice_refused_by_a_sandbox_is_as_good_as_missing() {
    is_as_good_as_missing(&[libc::SYS_splice], &["splice"]);
}

/// `SystemCallFilter=~@sync` of a unit.
#[test]
fn all_that_waits_for_a_disk_refused_by_a_sandbox_is_done_without() {
    let calls = [
        libc::SYS_sync_file_range,
        libc::SYS_fdatasync,
        libc::SYS_fsync,
        libc::SYS_syncfs,
        libc::SYS_sync,
    ];
    is_as_good_as_missing(&calls, &["sync_file_range"]);
}

/// `SystemCallFilter=~@resources` of a unit; older systemd counts prlimit64 among them.
#[test]
fn limits_that_a_sandbox_does_not_tell_are_taken_for_the_usual_ones() {
    let calls = [libc::SYS_prlimit64, libc::SYS_setrlimit, libc::SYS_setpriority];
    is_as_good_as_missing(&calls, &[]);
}

#[test]
fn a_filesystem_that_a_sandbox_does_not_tell_is_taken_for_any() {
    is_as_good_as_missing(&[libc::SYS_fstatfs], &[]);
}

/// The journal is not told of either: fdatasync and syncfs do.
#[test]
fn a_filesystem_that_a_sandbox_does_not_tell_is_flushed_as_any() {
    for mode in ["--fsync=file", "--fsync=batch"] {
        is_done_without(&[libc::SYS_fstatfs], &[], &[mode]);
        is_done_without(&[libc::SYS_fstatfs, libc::SYS_sync_file_range], &[], &[mode]);
    }
}

#[test]
fn all_that_is_newer_than_linux_5_refused_at_once_is_as_good_as_missing() {
    let calls = [
        libc::SYS_openat2,
        libc::SYS_preadv2,
        SYS_CACHESTAT,
        libc::SYS_statx,
        libc::SYS_renameat2,
        libc::SYS_close_range,
        libc::SYS_sync_file_range,
    ];
    let doors = ["openat2", "preadv2", "cachestat", "statx", "renameat2", "sync_file_range"];
    is_as_good_as_missing(&calls, &doors);
}

/// A file that its owner may not open is 403 whatever the sandbox says of openat2.
#[test]
fn a_file_that_may_not_be_read_stays_403_with_and_without_openat2() {
    use std::os::unix::fs::PermissionsExt;
    for doors in ["", "openat2"] {
        let node = Setup::new().env("RMOGSTORED_CLOSED", doors).without_privilege().start();
        let path = fid_path(1, 1);
        node.store(&path, "x");
        std::fs::set_permissions(node.file(&path), std::fs::Permissions::from_mode(0o0)).unwrap();
        node.client().get(&path).expect(403);
        assert_eq!(closed(&node).contains(&"openat2".to_owned()), !doors.is_empty());
    }
}

/// Each other way, by the whole HTTP suite: this program once more for each door, which the nodes
/// find closed in their environment.
#[test]
#[ignore = "the HTTP suite a dozen times; .ci/run has it"]
fn behind_every_closed_door_the_http_suite_passes() {
    for doors in [
        "openat2",
        "resolve_cached",
        "preadv2",
        "cachestat",
        "preadv2,cachestat",
        "statx",
        "tmpfile",
        "linkat",
        "linkat,linkat_proc",
        "tmpfile,renameat2",
        "sync_file_range",
        "ioprio_set,sched_setscheduler,sched_setattr",
    ] {
        let node = Setup::new().env("RMOGSTORED_CLOSED", doors).start();
        let found = closed(&node);
        assert!(doors.split(',').all(|door| found.iter().any(|it| it == door)), "{found:?}");
        drop(node);
        let mut suite = Command::new(std::env::current_exe().unwrap());
        suite.args(["http_", "--quiet"]).env("RMOGSTORED_CLOSED", doors).stdin(Stdio::null());
        let done = suite.output().unwrap();
        let told = String::from_utf8_lossy(&done.stdout);
        println!("{doors}: {}", told.lines().rfind(|line| !line.is_empty()).unwrap_or_default());
        assert!(done.status.success(), "with {doors} closed:\n{told}");
        assert!(told.contains(" passed") && !told.contains(" 0 passed"), "{told}");
    }
}

#[test]
fn small_files_on_tmpfs_wait_for_a_thread_and_status_says_so() {
    if !can_mount() {
        return skipped("no mount namespaces here");
    }
    let node = Setup::new().mount("mount -t tmpfs none {dir}/dev1").start();
    let (path, mut client) = (fid_path(1, 1), node.client());
    client.put(&path, "x").expect(201);
    let known = until_some("a look at the device", || {
        client.get(&path).expect(200);
        node.status()["devices"][0]["inline_reads"].as_bool()
    });
    assert!(!known);
}

/// As in a cgroup that may have so many tasks and no more: none is left for a disk thread
/// when the master and its worker are there.
#[test]
fn a_node_that_can_start_no_thread_says_so_once_with_a_count_and_recovers() {
    if !geteuid().is_root() {
        return skipped("not root");
    }
    let setup = Setup::new().workers("1");
    let user = 60_514 + std::process::id() % 64; // Nobody's, as systemd has it.
    for folder in ["", "dev1", "dev2"] {
        let folder = setup.folder().join(folder);
        chown(&folder, Some(user.into()), Some(user.into())).unwrap();
    }
    let (user, limit) = (format!("--reuid={user}"), "--nproc=2:1000");
    let node = setup.through(&["setpriv", &user, "--clear-groups", "prlimit", limit]).start();
    let (mut client, mut lines) = (node.client(), node.sidechannel());
    for number in 0..300 {
        client.get(&fid_path(1 + number % 2, 1)).expect(503);
    }
    assert_eq!(ask(&mut lines, "size /dev1/a"), "ERR device 1 has no thread\r\n");
    assert_eq!(ask(&mut lines, "MD5 /dev2/a fsck"), "ERR device 2 has no thread\r\n");
    node.logs("no thread could be started for ");
    assert!(node.logged("no thread could be started") <= 4, "a line for each request");
    let rest = node.logs(" times more in ");
    assert!(rest.contains("no thread could be started: "), "{rest}");
    for worker in node.workers() {
        shell(&format!("setpriv {user} --clear-groups prlimit --nproc=1000 --pid {worker}"))
            .unwrap();
    }
    client.put(&fid_path(1, 1), "x").expect(201);
    assert_eq!(ask(&mut lines, "size /dev2/a"), "/dev2/a -1\r\n");
    assert_eq!(client.get(&fid_path(1, 1)).expect(200).body, b"x");
}
