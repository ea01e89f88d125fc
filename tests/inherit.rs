//! Listening sockets from outside.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signal::{Signal, kill};

use crate::harness::{Client, INHERITED_FD, Setup, until, until_some};

#[test]
fn a_listener_whose_address_matches_is_taken_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut early = Client::connect(address);
    let node = Setup::new()
        .http(&address.to_string())
        .env("CMOGSTORED_FD", INHERITED_FD)
        .inherit(listener)
        .start();
    assert_eq!(node.http(), address);
    early.stays_open();
    node.client().stays_open();
    node.sidechannel();
}

#[test]
fn a_listener_that_matches_nothing_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let node = Setup::new().env("CMOGSTORED_FD", INHERITED_FD).inherit(listener).start();
    assert_ne!(node.http(), address);
    until("a refusal", || TcpStream::connect(address).is_err());
    node.client().stays_open();
}

#[test]
fn a_listener_that_is_made_blocking_again_hangs_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, sharer) = (listener.local_addr().unwrap(), listener.try_clone().unwrap());
    let node = Setup::new()
        .workers("2")
        .http(&address.to_string())
        .env("CMOGSTORED_FD", INHERITED_FD)
        .inherit(listener)
        .start();
    let mut first = node.client();
    for _ in 0..50 {
        sharer.set_nonblocking(false).unwrap();
        node.client().stays_open();
        first.stays_open();
    }
}

/// The kernel wakes one worker for a connection. Should that one be killed before it accepts, the
/// connection does not wait for its replacement. This process stands in for the one woken.
#[test]
fn a_connection_that_nobody_took_is_accepted_when_a_worker_dies() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, shared) = (listener.local_addr().unwrap(), listener.try_clone().unwrap());
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let wanted = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
    epoll.add(&shared, EpollEvent::new(wanted, 0)).unwrap();
    let node = Setup::new()
        .workers("2")
        .http(&address.to_string())
        .env("CMOGSTORED_FD", INHERITED_FD)
        .inherit(listener)
        .start();
    let die = || {
        let seen = node.events.so_far().len();
        kill(node.workers()[0], Signal::SIGKILL).unwrap();
        seen
    };
    // Its replacement then takes 400 ms.
    for _ in 0..3 {
        node.event_after(die(), "worker_started");
    }
    let found = AtomicBool::new(false);
    let mut client = thread::scope(|scope| {
        scope.spawn(|| {
            while !found.load(SeqCst) {
                epoll.wait(&mut [EpollEvent::empty()], 100_u16).unwrap();
            }
        });
        // Those that come while the thread does not wait wake a worker.
        let client = until_some("this process to be woken", || {
            let mut client = Client::connect(address);
            client.send("GET / HTTP/1.0\r\n\r\n");
            client.is_silent_for(Duration::from_millis(100)).then_some(client)
        });
        found.store(true, SeqCst);
        client
    });
    let seen = die();
    client.answer().expect(200);
    let told = node.events.so_far();
    let started = told[seen..].iter().any(|line| line.contains("worker_started"));
    assert!(!started, "it waited for the next process");
}

#[test]
fn listeners_may_come_from_systemd() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let node = Setup::new()
        .http(&address.to_string())
        .shell("export LISTEN_FDS=1 LISTEN_PID=$$")
        .inherit(listener)
        .start();
    assert_eq!(node.http(), address);
    node.client().stays_open();
}

#[test]
fn an_invalid_byte_is_an_error() {
    for (text, byte) in [("3;4", ";"), ("x", "x"), ("3, 4", " "), ("-3", "-"), ("+3", "+")] {
        let ended = Setup::new().env("CMOGSTORED_FD", text).run();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let number = byte.as_bytes()[0].to_string();
        let says = |what: &str| ended.stderr.contains(&format!("invalid byte: {what}"));
        assert!(says(byte) || says(&number), "{ended:?}");
    }
}

#[test]
fn a_number_that_is_no_descriptor_is_an_error() {
    for text in ["99999999999999999999", "2147483648", "", ",", "3,", ",3", "3,,4", "3,4,,"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ended = Setup::new().env("CMOGSTORED_FD", text).inherit(listener).run();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("failed to parse"), "{ended:?}");
    }
}

#[test]
fn a_count_of_systemd_s_that_is_none_is_an_error() {
    for text in ["x", "-1", "+1", "", "99999999999999999999"] {
        let line = format!("export LISTEN_FDS='{text}' LISTEN_PID=$$");
        let ended = Setup::new().shell(&line).run();
        assert_eq!(ended.code, Some(1), "{text}: {ended:?}");
        assert!(ended.stderr.contains(&format!("LISTEN_FDS={text}: failed to parse")), "{ended:?}");
    }
}

#[test]
fn a_descriptor_that_is_no_socket_is_an_error() {
    // 3 and 4 are the first that a process opens for itself.
    for text in ["0", "3", "4", "200"] {
        let ended = Setup::new().env("CMOGSTORED_FD", text).run();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("getsockname"), "{ended:?}");
        assert!(ended.stderr.contains("failed"), "{ended:?}");
    }
}

#[test]
fn an_address_that_is_taken_is_an_error_before_anything_is_forked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ended = Setup::new().arg(&format!("--mgmtlisten={address}")).run();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&address.to_string()), "{ended:?}");
    assert!(ended.stderr.contains("in use"), "{ended:?}");
    assert!(!ended.stdout.contains("worker_started"), "{ended:?}");
}
