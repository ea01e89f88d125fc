//! What the node says of itself: `loglevel`, `logformat`, `logfile`; and the syslog.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::harness::{DEADLINE, Node, Setup, can_mount, skipped, until};

fn file(node: &Node) -> PathBuf {
    node.docroot().join("node.log")
}

fn text(node: &Node) -> String {
    fs::read_to_string(file(node)).unwrap_or_default()
}

#[test]
fn level_says_how_much_and_a_reload_changes_it() {
    let node = Setup::new().config("loglevel = error\n").start();
    assert_eq!(node.logged("ready: "), 0, "{:?}", node.stderr.so_far());
    fs::write(node.docroot().join("node.conf"), "loglevel = debug\n").unwrap();
    node.signal(Signal::SIGHUP);
    node.event("reloaded");
    node.logs("reloaded: generation 2");
    node.logs(" debug: ");
    assert_eq!(node.logged(" info: reloading"), 0, "that was said before");
}

#[test]
fn json_lines_have_level_and_text() {
    let node = Setup::new().arg("--logformat=json").start();
    let line = node.logs("ready: ");
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&value["level"], &value["pid"]), (&"info".into(), &node.pid().as_raw().into()));
    assert!(value["text"].as_str().unwrap().starts_with("ready: "), "{line}");
    let valid = |line: &String| serde_json::from_str::<Value>(line).is_ok();
    assert!(node.stderr.so_far().iter().all(valid));
}

#[test]
fn file_has_all_and_is_opened_again_in_master_and_workers() {
    let node = Setup::new().arg("--logfile={dir}/node.log").start();
    until("its first lines", || text(&node).contains("ready: "));
    assert_eq!(node.stderr.so_far(), Vec::<String>::new());
    let old = node.docroot().join("old.log");
    fs::rename(file(&node), &old).unwrap();
    node.signal(Signal::SIGUSR1);
    until("another file", || text(&node).contains("node.log is open again"));
    // What a worker says, and what the master says of it.
    let mut client = node.client();
    client.send("PUT /dev1/a HTTP/1.1\r\nContent-Length: 2\r\n\r\nx");
    client.finish_sending();
    client.rest();
    until("a worker's line", || text(&node).contains("PUT /dev1/a failed from 127.0.0.1:"));
    kill(node.workers()[0], Signal::SIGKILL).unwrap();
    until("the master's line", || text(&node).contains("was ended by SIGKILL"));
    assert!(!fs::read_to_string(old).unwrap().contains("failed from"));
}

#[test]
fn file_that_cannot_be_opened_ends_the_start_and_not_a_node() {
    let ended = Setup::new().arg("--logfile={dir}/missing/log").run();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("E: cannot open the log "), "{}", ended.stderr);
    let node = Setup::new().config("logfile = {dir}/node.log\n").start();
    let elsewhere = format!("logfile = {}/missing/log\n", node.docroot().display());
    fs::write(node.docroot().join("node.conf"), elsewhere).unwrap();
    node.signal(Signal::SIGHUP);
    let failed = node.event("reload_failed");
    assert!(failed["reason"].as_str().unwrap().contains("cannot open the log "), "{failed}");
    until("the log goes on", || text(&node).contains("reload failed, nothing changes"));
}

#[test]
fn access_lines_go_to_syslog_alone() {
    if !can_mount() {
        return skipped("no mount namespaces");
    }
    let setup = Setup::new().arg("--accesslog=syslog").arg("--loglevel=error");
    let syslog = UnixDatagram::bind(setup.folder().join("log.sock")).unwrap();
    syslog.set_read_timeout(Some(DEADLINE)).unwrap();
    let mounts = "mount -t tmpfs none /mnt; touch /mnt/null /mnt/log; \
                  mount --bind /dev/null /mnt/null; mount --bind {dir}/log.sock /mnt/log; \
                  mount --rbind /mnt /dev";
    let node = setup.mount(mounts).start();
    node.client().get("/dev1/a").expect(404);
    let mut buffer = [0; 8192];
    let length = syslog.recv(&mut buffer).unwrap();
    let message = String::from_utf8_lossy(&buffer[..length]);
    assert!(message.starts_with("<30>"), "{message}");
    assert!(message.contains("]: 127.0.0.1 - - ["), "{message}");
    assert!(message.contains(r#""GET /dev1/a HTTP/1.1" 404 0 "#), "{message}");
    assert_eq!(node.logged("GET /dev1/a"), 0);
    // A syslog that has gone loses lines, which are counted.
    drop(syslog);
    node.client().get("/dev1/a").expect(404);
    until("a lost line", || node.status()["workers"].to_string().contains("\"accesslog_lost\":1"));
}
