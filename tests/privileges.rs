//! `user` and `group`: the master binds and opens as root, the workers give it up for good.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, User, geteuid};

use crate::harness::{Node, Setup, skipped, until};

fn nobody() -> Option<User> {
    let nobody = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root());
    if nobody.is_none() {
        skipped("not root, or no user nobody");
    }
    nobody
}

/// A node whose workers run as nobody, who owns the devices.
fn start(user: &User) -> Node {
    let setup = Setup::new().arg("--user=nobody").workers("device");
    let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
    for folder in ["", "dev1", "dev2"] {
        chown(setup.folder().join(folder), uid, gid).unwrap();
    }
    setup.start()
}

fn field(pid: Pid, name: &str) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn workers_have_no_privileges_and_the_master_keeps_its_own() {
    let Some(user) = nobody() else { return };
    let node = start(&user);
    for worker in node.workers() {
        let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
        assert_eq!(field(worker, "Uid"), vec![uid; 4]);
        assert_eq!(field(worker, "Gid"), vec![gid; 4]);
        assert_eq!(field(worker, "NoNewPrivs"), ["1"]);
        for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(worker, capabilities), ["0000000000000000"], "{capabilities}");
        }
        let groups = field(worker, "Groups");
        assert!(!groups.contains(&"0".to_owned()), "{groups:?}");
    }
    assert_eq!(field(node.pid(), "Uid"), ["0"; 4]);
}

#[test]
fn files_are_the_user_s_and_hot_and_cold_reads_work() {
    let Some(user) = nobody() else { return };
    let node = start(&user);
    let mut client = node.client();
    client.put("/dev1/0/000/000/0000000001.fid", "mine").expect(201);
    let found = fs::metadata(node.file("/dev1/0/000/000/0000000001.fid")).unwrap();
    assert_eq!((found.uid(), found.gid()), (user.uid.as_raw(), user.gid.as_raw()));
    for _ in 0..3 {
        assert_eq!(client.get("/dev1/0/000/000/0000000001.fid").body, b"mine");
    }
    // Of another user, readable by all: O_NOATIME is refused.
    node.store("/dev2/roots", "root's");
    for _ in 0..3 {
        assert_eq!(client.get("/dev2/roots").body, b"root's");
    }
    fs::set_permissions(node.file("/dev2/roots"), fs::Permissions::from_mode(0o600)).unwrap();
    client.get("/dev2/roots").expect(403);
    node.stderr.find("the refusal in the log", |line| {
        line.contains("warn: GET /dev2/roots: Permission denied").then_some(())
    });
    for _ in 0..50 {
        client.get("/dev2/roots").expect(403);
    }
    let told = node.stderr.so_far().iter().filter(|line| line.contains("/dev2/roots")).count();
    assert!(told < 10, "{told} lines");
}

#[test]
fn replaced_workers_have_no_privileges_either() {
    let Some(user) = nobody() else { return };
    let node = start(&user);
    let seen = node.events.so_far().len();
    nix::sys::signal::kill(node.workers()[0], Signal::SIGKILL).unwrap();
    node.event_after(seen, "worker_started");
    let old = node.workers();
    node.signal(Signal::SIGHUP);
    node.event_after(seen, "reloaded");
    until("the old workers to go", || node.workers().iter().all(|pid| !old.contains(pid)));
    for worker in node.workers() {
        assert_eq!(field(worker, "Uid")[0], user.uid.to_string());
    }
    node.client().put("/dev1/a", "x").expect(201);
}

#[test]
fn names_that_do_not_exist_are_configuration_errors() {
    let ended = Setup::new().arg("--user=no-such-user").run();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("E: user = no-such-user: there is no such user"), "{ended:?}");
    let ended = Setup::new().arg("--group=nogroup").run();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("E: group = nogroup needs user"), "{ended:?}");
}
