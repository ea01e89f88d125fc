//! The monitor's process: it comes and goes with its node, and harms nobody.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::{OPTION, get, is_there, metrics, monitor, node, pid, sample, status, text, watched};
use crate::harness::{Client, STATUS_FD, Setup, until};

#[test]
fn without_the_option_there_is_none() {
    let node = Setup::new().start();
    assert!(node.all_events("monitor_started").is_empty());
    let listeners = node.status()["listeners"].clone();
    assert!(listeners.as_array().unwrap().iter().all(|l| l["service"] != "status"));
}

#[test]
fn title_names_it_and_it_has_nothing_open_but_what_it_needs() {
    let node = node();
    let pid = pid(&node);
    let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(title.trim_end_matches('\0'), "rmogstored: monitor");
    let open = |fd: &fs::DirEntry| fs::read_link(fd.path()).unwrap_or_default();
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    let other = all.filter(|fd| fd.file_name().to_str().unwrap().parse::<u32>().unwrap() > 2);
    let stderr = fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
    // The log's copy of standard error is known.
    let other = other.map(|fd| open(&fd)).filter(|name| *name != stderr);
    let other: Vec<String> = other.map(|name| name.display().to_string()).collect();
    let sockets = other.iter().filter(|name| name.starts_with("socket:")).count();
    let epoll = other.iter().filter(|name| **name == "anon_inode:[eventpoll]").count();
    // The listener, the link, and the local syslog's where there is one.
    assert!((2..=3).contains(&sockets) && epoll == 1, "{other:?}");
    assert_eq!(sockets + epoll, other.len(), "{other:?}");
}

#[test]
fn killed_one_is_replaced_and_the_node_does_not_notice() {
    let node = node();
    node.client().get("/").expect(200);
    let workers = node.workers();
    for _ in 0..3 {
        let (old, known) = (pid(&node), node.events.so_far().len());
        kill(old, Signal::SIGKILL).unwrap();
        let exited = node.event_after(known, "monitor_exited");
        assert_eq!((&exited["pid"], &exited["signal"]), (&old.as_raw().into(), &9.into()));
        node.event_after(known, "monitor_started");
        assert_ne!(pid(&node), old);
        assert_eq!(text(&get(&node, "/healthz")), "ok\n");
        assert_eq!(sample(&metrics(&node), "rmogstored_requests_total"), Some(1.0));
    }
    assert_eq!(node.workers(), workers);
}

#[test]
fn quit_ends_it_and_until_then_it_says_that_the_node_drains() {
    let mut node = node();
    let mut slow = node.client();
    slow.send("PUT /dev1/slow HTTP/1.1\r\nContent-Length: 4\r\n\r\nab");
    until("the upload has begun", || node.status()["totals"]["requests"] == 1);
    node.signal(Signal::SIGQUIT);
    node.event("draining");
    until("the monitor knows", || get(&node, "/readyz").status == 503);
    assert_eq!(text(&get(&node, "/readyz")), "the node is draining\n");
    assert_eq!(text(&get(&node, "/healthz")), "ok\n");
    let pid = pid(&node);
    slow.send("cd");
    assert_eq!(slow.answer().status, 201);
    assert!(node.wait_for_exit().success());
    until("it has gone", || !is_there(pid));
}

#[test]
fn stopped_one_holds_up_no_quit() {
    let mut node = node();
    let pid = pid(&node);
    kill(pid, Signal::SIGSTOP).unwrap();
    node.signal(Signal::SIGQUIT);
    assert!(node.wait_for_exit().success());
    until("it has gone", || !is_there(pid));
}

#[test]
fn it_goes_with_a_master_that_is_killed() {
    let mut node = node();
    let pid = pid(&node);
    node.signal(Signal::SIGKILL);
    node.wait_for_exit();
    until("it has gone", || !is_there(pid));
}

#[test]
fn it_answers_while_the_master_stands_still() {
    let node = node();
    node.signal(Signal::SIGSTOP);
    let mut client = node.client();
    for count in 1..=5 {
        client.get("/").expect(200);
        let requests = sample(&metrics(&node), "rmogstored_requests_total");
        assert_eq!(requests, Some(f64::from(count)));
        assert_eq!(status(&node)["totals"]["requests"], count);
    }
    until("its silence is told", || {
        sample(&metrics(&node), "rmogstored_master_silence_seconds").unwrap() > 1.2
    });
    node.signal(Signal::SIGCONT);
}

#[test]
fn idle_connections_by_the_hundred_and_a_slow_reader_keep_nobody_from_an_answer() {
    let node = node();
    let idle: Vec<Client> = (0..200).map(|_| monitor(&node)).collect();
    let slow = monitor(&node);
    let request = "GET /status.json HTTP/1.1\r\n\r\n".repeat(2000);
    slow.stream().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let _ = slow.stream().write(request.as_bytes());
    for _ in 0..10 {
        assert_eq!(text(&get(&node, "/healthz")), "ok\n");
        node.client().get("/").expect(200);
    }
    let open = fs::read_dir(format!("/proc/{}/fd", pid(&node))).unwrap().count();
    assert!(open < 80, "{open} descriptors");
    drop(idle);
}

#[test]
fn heads_without_an_end_are_dropped() {
    let node = node();
    let mut client = monitor(&node);
    client.send("GET / HTTP/1.1\r\n");
    while client.try_send(format!("X: {}\r\n", "x".repeat(1000))) {}
    assert_eq!(text(&get(&node, "/healthz")), "ok\n");
}

#[test]
fn hup_adds_moves_and_removes_it() {
    let text_of = |line: &str| format!("docroot = {{dir}}\nhttplisten = 127.0.0.1:0\n{line}\n");
    let setup = Setup::bare().arg(STATUS_FD).config(&text_of(""));
    let node = setup.start();
    let folder = node.docroot().to_owned();
    let reload = |line: &str| {
        let text = text_of(line).replace("{dir}", folder.to_str().unwrap());
        fs::write(folder.join("node.conf"), text).unwrap();
        let known = node.events.so_far().len();
        node.signal(Signal::SIGHUP);
        node.event_after(known, "reloaded");
        known
    };
    let healthy = |address: &str| {
        let mut client = Client::connect(address.parse().unwrap());
        assert_eq!(client.get("/healthz").status, 200, "{address}");
    };
    let known = reload("statuslisten = 127.0.0.1:0");
    node.event_after(known, "monitor_started");
    let listening = node.all_events("listening");
    let first = listening.iter().find(|l| l["service"] == "status").unwrap();
    let first = first["address"].as_str().unwrap().to_owned();
    healthy(&first);
    let pid_before = pid(&node);
    reload("statuslisten = 127.0.0.1:0");
    healthy(&first);
    assert_eq!(pid(&node), pid_before, "nothing has changed for it");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let known = reload(&format!("statuslisten = {free}"));
    node.event_after(known, "monitor_started");
    healthy(&free);
    until("the old address is let go", || TcpListener::bind(&first).is_ok());
    let known = reload("");
    node.event_after(known, "monitor_exited");
    until("the address is let go", || TcpListener::bind(&free).is_ok());
    // One that cannot be had refuses the reload, and changes nothing.
    let known = reload(&format!("statuslisten = {free}"));
    node.event_after(known, "monitor_started");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("statuslisten = {}", taken.local_addr().unwrap());
    let text = text_of(&line).replace("{dir}", folder.to_str().unwrap());
    fs::write(folder.join("node.conf"), text).unwrap();
    node.signal(Signal::SIGHUP);
    node.event("reload_failed");
    healthy(&free);
}

#[test]
fn in_an_upgrade_the_successor_answers_on_the_same_address() {
    let node = watched(Setup::new().arg(OPTION).arg("--pidfile={dir}/pid"));
    let (address, old) = (node.address("status"), pid(&node));
    let mut client = node.client();
    client.get("/").expect(200);
    node.signal(Signal::SIGUSR2);
    let ready = node.event("upgrade_ready");
    until("the old one has gone", || !is_there(old));
    let told = super::metrics_at(address);
    assert_eq!(sample(&told, "rmogstored_requests_total"), Some(1.0));
    assert_eq!(sample(&told, "rmogstored_generation"), Some(2.0));
    let successor = nix::unistd::Pid::from_raw(ready["pid"].as_i64().unwrap() as i32);
    // Taken back: the old master has one again.
    let known = node.events.so_far().len();
    kill(successor, Signal::SIGKILL).unwrap();
    node.event_after(known, "upgrade_failed");
    node.event_after(known, "monitor_started");
    client.get("/").expect(200);
    let told = super::metrics_at(address);
    assert_eq!(sample(&told, "rmogstored_generation"), Some(1.0));
    assert_eq!(sample(&told, "rmogstored_requests_total"), Some(2.0));
}
