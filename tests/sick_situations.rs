//! Fourteen things that go wrong, and what each way of looking at a node says of them: status, event,
//! metrics, the page's document, log. contrib/doc/drills.md tells operators the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::chain::Chain;
use crate::harness::{
    Client, Kind, Mode, Node, Setup, SlowFs, can_mount, has_fuse, skipped, until, until_some,
};
use crate::stall::owner;

const WATCHED: &str = "--statuslisten=127.0.0.1:0";

/// What is seen of a device that has this state, in each place.
fn device_is(node: &Node, state: &str) {
    let dev1 = |document: &Value| {
        let devices = document["devices"].as_array()?.iter();
        Some(devices.clone().find(|it| it["device"] == "dev1")?["state"].as_str()?.to_owned())
    };
    until(&format!("{state} in the status"), || dev1(&node.status()).as_deref() == Some(state));
    until(&format!("{state} on the page"), || dev1(&page(node)).as_deref() == Some(state));
    let sample = |line: &str| {
        let of = line.strip_prefix("rmogstored_device_state{")?.strip_prefix("device=\"dev1\",")?;
        of.contains(&format!("state=\"{state}\"")).then(|| of.ends_with(" 1.0"))
    };
    until(&format!("{state} in the metrics"), || {
        scrape(node).lines().find_map(sample) == Some(true)
    });
    if state != "ok" {
        let kind = format!("device_{}", state.replace('-', "_"));
        assert_eq!(node.event(&kind)["device"], "dev1");
    }
}

fn ask(node: &Node, path: &str) -> String {
    let answer = Client::connect(node.address("status")).get(path);
    String::from_utf8(answer.body).unwrap()
}

fn page(node: &Node) -> Value {
    serde_json::from_str(&ask(node, "/status.json")).unwrap()
}

fn scrape(node: &Node) -> String {
    ask(node, "/metrics")
}

/// The sum of the samples of a name.
fn metric(node: &Node, name: &str) -> f64 {
    let text = scrape(node);
    let of_name =
        |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let values = text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}

fn start(setup: Setup) -> Node {
    setup.arg(WATCHED).env("MOG_DISK_USAGE_INTERVAL", "1").start()
}

/// dev1 is a filesystem in memory with these options.
fn in_memory(options: &str) -> Option<Node> {
    if !can_mount() {
        skipped("mounting needs root");
        return None;
    }
    let mount = format!("mount -t tmpfs -o {options} none {{dir}}/dev1");
    Some(start(Setup::new().mount(&mount)))
}

/// dev1 can be broken. The disk must end before the node: it comes last.
fn breakable(args: &[&str]) -> Option<(Node, SlowFs)> {
    if !has_fuse() {
        skipped("not root, or no /dev/fuse");
        return None;
    }
    let setup = args.iter().fold(Setup::new(), |setup, arg| setup.arg(arg));
    let disk = SlowFs::mount(&setup.folder().join("dev1"));
    let node = start(setup);
    node.client().put("/dev1/a", "a").expect(201);
    Some((node, disk))
}

#[test]
fn stopped_worker() {
    let node = start(Setup::new());
    let worker = owner(&node, "dev1");
    kill(worker, Signal::SIGSTOP).unwrap();
    let is_stuck = |document: &Value| {
        document["workers"].as_array().unwrap().iter().any(|worker| worker["state"] == "stuck")
    };
    until("it in the status", || is_stuck(&node.status()));
    until("it on the page", || is_stuck(&page(&node)));
    until("its age in the metrics", || {
        metric(&node, "rmogstored_worker_heartbeat_age_seconds") > 2.5
    });
    kill(worker, Signal::SIGCONT).unwrap();
    until("it to go on", || !is_stuck(&node.status()));
}

#[test]
fn dead_worker() {
    let node = start(Setup::new());
    let worker = owner(&node, "dev1");
    kill(worker, Signal::SIGKILL).unwrap();
    let exited = node.event("worker_exited");
    assert_eq!(exited["pid"].as_i64(), Some(worker.as_raw().into()));
    let restarts = |document: &Value| {
        let workers = document["workers"].as_array().unwrap();
        workers.iter().filter_map(|worker| worker["restarts"].as_u64()).sum::<u64>()
    };
    until("it in the status", || restarts(&node.status()) == 1);
    until("it on the page", || restarts(&page(&node)) == 1);
    until("it in the metrics", || metric(&node, "rmogstored_worker_respawns_total") == 1.0);
    node.logs("SIGKILL");
}

#[test]
fn read_that_hangs() {
    let Some((node, disk)) = breakable(&["--stall-timeout=0.5"]) else { return };
    disk.set_only(&[Kind::Read], Mode::Hang);
    node.client().get("/dev1/a").expect(503);
    device_is(&node, "stalled");
    assert_eq!(metric(&node, "rmogstored_device_stalls_total"), 1.0);
    assert!(metric(&node, "rmogstored_device_oldest_operation_seconds") > 0.4);
    node.logs("dev1 is stalled: a disk operation has taken");
    disk.set(Mode::Work);
    device_is(&node, "ok");
    assert_eq!(node.event("device_recovered")["from"], "stalled");
}

#[test]
fn write_that_hangs() {
    let Some((node, disk)) = breakable(&["--stall-timeout=0.5"]) else { return };
    disk.set_only(&[Kind::Change], Mode::Hang);
    let mut client = node.client();
    client.try_send("PUT /dev1/b HTTP/1.1\r\nContent-Length: 1\r\n\r\nb");
    device_is(&node, "stalled");
    node.client().put("/dev1/c", "c").expect(503);
    node.logs("dev1 is stalled: a disk operation has taken");
    disk.set(Mode::Work);
    device_is(&node, "ok");
}

#[test]
fn read_only_disk() {
    let Some(node) = in_memory("size=1m") else { return };
    node.client().put("/dev1/a", "a").expect(201);
    node.in_its_mounts("mount -o remount,ro {dir}/dev1").unwrap();
    node.client().put("/dev1/b", "b").expect(500);
    device_is(&node, "read-only");
    node.logs("dev1 is mounted read-only");
    assert_eq!(metric(&node, "rmogstored_device_failed_requests_total"), 1.0);
}

#[test]
fn full_disk() {
    let Some(node) = in_memory("size=1m") else { return };
    node.in_its_mounts("dd if=/dev/zero of={dir}/dev1/filler bs=4k || true").unwrap();
    node.client().put("/dev1/b", "b").expect(507);
    device_is(&node, "full");
    node.logs("No space left");
    until("its count", || metric(&node, "rmogstored_device_errors_total") == 1.0);
}

#[test]
fn disk_without_inodes() {
    let Some(node) = in_memory("size=1m,nr_inodes=8") else { return };
    let statuses = (0..9).map(|n| node.client().put(&format!("/dev1/f{n}"), "x").status);
    assert_eq!(statuses.max(), Some(507));
    device_is(&node, "full");
    node.logs("No space left");
    until("it in the metrics", || metric(&node, "rmogstored_device_inodes_free") >= 0.0);
    let text = scrape(&node);
    assert!(text.contains("rmogstored_device_inodes_free{device=\"dev1\""), "{text}");
}

#[test]
fn unmounted_disk() {
    let Some(node) = in_memory("size=1m") else { return };
    node.client().put("/dev1/a", "a").expect(201);
    node.in_its_mounts("umount -l {dir}/dev1").unwrap();
    until("it to be missed", || node.client().get("/dev1/a").status == 503);
    device_is(&node, "unmounted");
    node.logs("dev1");
}

#[test]
fn device_of_another_owner() {
    let setup = Setup::new();
    let dev1 = setup.folder().join("dev1");
    fs::set_permissions(&dev1, fs::Permissions::from_mode(0o555)).unwrap();
    let node = start(setup.without_privilege());
    node.client().put("/dev1/a", "a").expect(403);
    node.logs("Permission denied");
    node.client().put("/dev2/a", "a").expect(201);
}

#[test]
fn disk_that_cannot_be_read() {
    let Some((node, disk)) = breakable(&[]) else { return };
    disk.set_only(&[Kind::Read], Mode::Fail);
    for _ in 0..6 {
        node.client().get("/dev1/a").expect(500);
    }
    device_is(&node, "failing");
    node.logs("Input/output error");
    assert!(metric(&node, "rmogstored_device_errors_total") >= 5.0);
    let faults = scrape(&node);
    assert!(faults.lines().any(|line| line.contains("kind=\"read\"") && !line.ends_with(" 0")));
}

#[test]
fn disk_that_cannot_be_written() {
    let Some((node, disk)) = breakable(&[]) else { return };
    disk.set_only(&[Kind::Change], Mode::Fail);
    for _ in 0..6 {
        node.client().put("/dev1/b", "b").expect(500);
    }
    device_is(&node, "failing");
    node.logs("Input/output error");
    let faults = scrape(&node);
    assert!(faults.lines().any(|line| line.contains("kind=\"write\"") && !line.ends_with(" 0")));
}

#[test]
fn no_devices() {
    let setup = Setup::new();
    for name in ["dev1", "dev2"] {
        fs::remove_dir(setup.folder().join(name)).unwrap();
    }
    let node = start(setup);
    assert_eq!(node.status()["devices"].as_array().unwrap().len(), 0);
    assert_eq!(page(&node)["devices"].as_array().unwrap().len(), 0);
    assert!(!scrape(&node).contains("rmogstored_device_state{"));
    let ready = Client::connect(node.address("status")).get("/readyz").expect(503);
    assert!(String::from_utf8_lossy(&ready.body).contains("device"));
    node.logs("devN");
}

#[test]
fn reload_that_fails() {
    let node = start(Setup::new().config("maxconns = 100\n"));
    fs::write(node.docroot().join("node.conf"), "maxconns = none\n").unwrap();
    node.signal(Signal::SIGHUP);
    let failed = node.event("reload_failed");
    assert!(failed["reason"].as_str().unwrap().contains("maxconns: 'none'"), "{failed}");
    let told = until_some("it on the page", || {
        let page = page(&node);
        let mut events = page["events"].as_array()?.iter();
        events.find(|event| event["event"] == "reload_failed").cloned()
    });
    assert_eq!(told["reason"], failed["reason"]);
    node.logs("reload failed");
    assert_eq!(metric(&node, "rmogstored_generation"), 1.0);
}

#[test]
fn successor_that_fails() {
    let chain = Chain::start(Setup::new().arg(WATCHED));
    chain.replace_by_script("echo libfoo.so.7: cannot open >&2\nexit 3");
    chain.node.signal(Signal::SIGUSR2);
    let reason = chain.node.event("upgrade_failed")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("libfoo.so.7"), "{reason}");
    let node = &chain.node;
    until("it in the status", || node.status()["upgrade"]["failures"] == 1);
    until("it on the page", || page(node)["upgrade"]["failures"] == 1);
    until("it in the metrics", || metric(node, "rmogstored_upgrade_failures_total") == 1.0);
    node.logs("libfoo.so.7");
}
