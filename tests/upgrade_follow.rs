//! Connections follow: from a master to its successor, from workers to those that replace them.
//! Nobody is closed who is between two requests.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chain::{Chain, is_gone};
use crate::harness::{Client, Node, STATUS_FD, Setup, until};
use crate::load::{Link, process};

/// One connection of each kind, all between two requests.
pub struct Kept {
    fresh: Client,
    /// One of them.
    pub used: Client,
    old: Client,
    half_head: Client,
    side: Client,
    half_line: Client,
    watcher: Client,
}

impl Kept {
    /// The node has `/dev1/a` then.
    pub fn of(node: &Node) -> Kept {
        node.store("/dev1/a", "a");
        let mut watcher = node.sidechannel();
        watcher.send("watch\n");
        watcher.line();
        let mut kept = Kept {
            fresh: node.client(),
            used: node.client(),
            old: node.client(),
            half_head: node.client(),
            side: node.sidechannel(),
            half_line: node.sidechannel(),
            watcher,
        };
        kept.begin();
        kept
    }

    /// The first halves of what [`Kept::go_on`] ends.
    pub fn begin(&mut self) {
        self.half_head.ask("GET / HTTP/1.1\r\n\r\nGET /dev1/a HT").expect(200);
        self.half_line.send("size /dev1/no\nsize /dev");
        assert_eq!(self.half_line.line(), "/dev1/no -1\r\n");
    }

    /// Each is asked for something, and has to be kept again.
    pub fn go_on(&mut self) {
        self.fresh.ask("GET /dev1/a HTTP/1.1\r\n\r\n").expect_and(200, "keep-alive");
        self.used.put("/dev2/b", "b").expect_and(201, "keep-alive");
        let old = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        self.old.ask(old).expect_and(200, "keep-alive");
        let answer = self.half_head.ask("TP/1.1\r\n\r\n").expect_and(200, "keep-alive");
        assert_eq!(answer.body, b"a");
        self.side.send("size /dev1/a\n");
        assert_eq!(self.side.line(), "/dev1/a 1\r\n");
        self.half_line.send("1/a\n");
        assert_eq!(self.half_line.line(), "/dev1/a 1\r\n");
        self.watcher.take_through(b".\n");
        self.watcher.take_through(b".\n");
    }
}

#[test]
fn connections_between_requests_follow_an_upgrade() {
    for workers in ["device", "cpu", "1"] {
        let chain = Chain::start(Setup::new().workers(workers));
        let mut kept = Kept::of(&chain.node);
        for _ in 0..3 {
            chain.upgrade();
            kept.go_on();
            kept.begin();
        }
    }
}

#[test]
fn connections_between_requests_follow_a_reload() {
    for workers in ["device", "1"] {
        let node = Setup::new().workers(workers).start();
        let mut kept = Kept::of(&node);
        for round in 0..3 {
            let old = node.workers();
            node.signal(Signal::SIGHUP);
            node.event_after(0, "reloaded");
            until("the old workers to go", || old.iter().all(|pid| is_gone(*pid)));
            kept.go_on();
            kept.begin();
            assert!(node.all_events("reloaded").len() > round);
        }
    }
}

/// The old master dies in the middle: its workers know the way.
#[test]
fn connections_follow_though_the_old_master_is_killed() {
    let chain = Chain::start(Setup::new());
    let mut kept = Kept::of(&chain.node);
    let (old, _) = chain.begin_upgrade();
    let workers = process::children_of(old);
    kill(old, Signal::SIGKILL).unwrap();
    let new = chain.master();
    until("its workers to go", || {
        workers.iter().filter(|pid| **pid != new).all(|pid| is_gone(*pid))
    });
    kept.go_on();
}

/// What they were promised by one that goes before its time is taken back by nobody: the old
/// workers serve on.
#[test]
fn roll_back_before_the_quit_is_not_noticed() {
    let chain = Chain::start(Setup::new());
    let mut kept = Kept::of(&chain.node);
    for signal in [Signal::SIGQUIT, Signal::SIGKILL] {
        let (_, new) = chain.begin_upgrade();
        let seen = chain.seen();
        kill(new, signal).unwrap();
        chain.node.event_after(seen, "upgrade_failed");
        kept.go_on();
        kept.begin();
    }
    chain.upgrade();
    kept.go_on();
}

/// WINCH gives them to the successor, and when that is told to go they come back.
#[test]
fn connections_come_back_when_an_upgrade_is_taken_back() {
    for workers in ["device", "cpu", "1"] {
        let chain = Chain::start(Setup::new().workers(workers));
        let mut kept = Kept::of(&chain.node);
        for _ in 0..2 {
            let (old, new) = chain.begin_upgrade();
            kill(old, Signal::SIGWINCH).unwrap();
            workers_go(old, new);
            kept.go_on();
            kept.begin();
            let seen = chain.seen();
            kill(old, Signal::SIGHUP).unwrap();
            chain.node.event_after(seen, "reloaded");
            kill(new, Signal::SIGQUIT).unwrap();
            chain.node.event_after(seen, "upgrade_failed");
            kept.go_on();
            kept.begin();
        }
    }
}

/// The workers of a master, which has a successor among its children.
fn workers_go(master: Pid, successor: Pid) {
    until("the workers to go", || {
        process::children_of(master).iter().all(|pid| *pid == successor || is_gone(*pid))
    });
}

/// What the successor has accepted by itself goes to its predecessor.
#[test]
fn connections_of_a_successor_that_goes_are_with_its_predecessor() {
    let chain = Chain::start(Setup::new());
    chain.node.store("/dev1/a", "a");
    let (_, new) = chain.begin_upgrade();
    let mut clients: Vec<_> = (0..40).map(|_| chain.node.client()).collect();
    clients.iter_mut().for_each(Client::stays_open);
    let seen = chain.seen();
    kill(new, Signal::SIGQUIT).unwrap();
    chain.node.event_after(seen, "upgrade_failed");
    clients.iter_mut().for_each(Client::stays_open);
}

/// Both nodes of an upgrade are told to go: nothing goes to and fro between them.
#[test]
fn connections_of_two_nodes_that_go_end_with_them() {
    for signal in [Signal::SIGQUIT, Signal::SIGTERM] {
        let mut chain = Chain::start(Setup::new());
        chain.node.store("/dev1/a", "a");
        let mut kept = Kept::of(&chain.node);
        let (old, new) = chain.begin_upgrade();
        let workers: Vec<_> = [old, new]
            .into_iter()
            .flat_map(process::children_of)
            .filter(|pid| *pid != new)
            .collect();
        let spent = || workers.iter().map(|pid| process::cpu_seconds(*pid)).sum::<f64>();
        let before = spent();
        [old, new].into_iter().for_each(|pid| kill(pid, signal).unwrap());
        assert!(kept.half_head.is_silent_for(Duration::from_millis(300)));
        let answer = kept.half_head.ask("TP/1.1\r\n\r\n").expect(200);
        assert_eq!(answer.body, b"a");
        kept.half_head.closes();
        let took = spent() - before;
        assert!(took < 0.15, "{took} s of processor time");
        drop(kept);
        assert_eq!(chain.node.wait_for_exit().code(), Some(0));
        until("the successor to go", || is_gone(new));
    }
}

/// Both go, and the old one's workers do not know it of the new one's yet: what they give them in
/// that moment is not lost.
#[test]
fn connections_given_to_workers_that_go_at_that_moment_are_answered() {
    let in_time = (0..5).any(|_| {
        let mut chain = Chain::start(Setup::new());
        chain.node.store("/dev1/a", "a");
        let mut uploads: Vec<_> = (0..6).map(|_| chain.node.client()).collect();
        for upload in &mut uploads {
            upload.send("PUT /dev2/b HTTP/1.1\r\nContent-Length: 2\r\n\r\nb");
        }
        let (old, new) = chain.begin_upgrade();
        kill(old, Signal::SIGQUIT).unwrap();
        chain.node.event("draining");
        // One of the successor's workers stays, the other one has nothing to stay for.
        let mut held = chain.node.client();
        held.ask("GET / HTTP/1.1\r\n\r\nPUT /dev2/c HTTP/1.1\r\nContent-Length: 2\r\n\r\nc")
            .expect(200);
        let began = Instant::now();
        // Nobody tells its workers now.
        kill(old, Signal::SIGSTOP).unwrap();
        kill(new, Signal::SIGQUIT).unwrap();
        let mut answers = Vec::new();
        assert!(uploads[0].is_silent_for(Duration::from_millis(100)));
        for upload in &mut uploads {
            answers.push(upload.ask("bGET /dev1/a HT").status);
        }
        let in_time = began.elapsed() < Duration::from_millis(300);
        if in_time {
            assert_eq!(answers, [201; 6]);
            for upload in &mut uploads {
                assert_eq!(upload.ask("TP/1.1\r\n\r\n").expect(200).body, b"a");
            }
        }
        kill(old, Signal::SIGCONT).unwrap();
        drop((uploads, held));
        assert_eq!(chain.node.wait_for_exit().code(), Some(0));
        until("the successor to go", || is_gone(new));
        in_time
    });
    assert!(in_time, "this machine is too slow to show it");
}

/// The successor does not listen there any more: who is idle is closed, who asks is told, and
/// nobody uses a processor for it.
#[test]
fn connections_that_nobody_listens_for_are_closed_politely() {
    let base = "httplisten = 127.0.0.1:0\nmgmtlisten = 127.0.0.1:0\ndocroot = {dir}\n";
    let with = format!("{base}httpgetlisten = 127.0.0.1:0\n");
    let setup = Setup::bare().arg(STATUS_FD).config(&with);
    let chain = Chain::start(setup);
    let at = chain.node.address("httpget");
    let mut kept = Kept::of(&chain.node);
    let (mut idle, mut used, mut half) =
        (Client::connect(at), Client::connect(at), Client::connect(at));
    half.ask("GET / HTTP/1.1\r\n\r\nGET / HT").expect(200);
    let without = base.replace("{dir}", chain.node.docroot().to_str().unwrap());
    fs::write(chain.path("node.conf"), without).unwrap();
    let (old, new) = chain.begin_upgrade();
    used.stays_open();
    let workers = process::children_of(old);
    let spent = || workers.iter().map(|pid| process::cpu_seconds(*pid)).sum::<f64>();
    let before = spent();
    kill(old, Signal::SIGQUIT).unwrap();
    until("an answer that says so", || {
        used.get("/dev1/a").expect(200).header("Connection") == Some("close")
    });
    used.closes();
    idle.closes();
    kept.go_on();
    let took = spent() - before;
    assert!(took < 0.15, "{took} s of processor time for one that has not ended its head");
    half.ask("TP/1.1\r\n\r\n").expect_and(200, "close");
    half.closes();
    until("the old master to go", || is_gone(old));
    assert_eq!(chain.master(), new);
}

/// Clients that never reconnect, and are never told to.
pub struct Faithful {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Faithful {
    /// So many, which ask all the time.
    pub fn start(node: &Node, count: usize) -> Faithful {
        node.store("/dev1/busy", vec![b'a'; 10_000]);
        let (stop, answered) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let client = |number: usize| {
            let (mut link, stop) = (Link::open(node.http()), Arc::clone(&stop));
            let answered = Arc::clone(&answered);
            thread::spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (request, status) = request(number, round);
                    let reply = link.ask(request.as_bytes());
                    let reply = reply.unwrap_or_else(|e| panic!("{number}, {round}: {e}"));
                    assert_eq!((reply.status, reply.keep), (status, true), "{number}, {round}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..count).map(client).collect();
        Faithful { stop, answered, clients }
    }

    /// None of them has failed.
    pub fn is_well(&self) {
        assert!(self.clients.iter().all(|client| !client.is_finished()), "one has ended");
    }

    /// Waits for 50 answers more.
    pub fn goes_on(&self) {
        let so_far = self.answered.load(Ordering::Relaxed);
        until("more answers", || {
            self.is_well();
            self.answered.load(Ordering::Relaxed) > so_far + 50
        });
    }

    /// How many answers they have had.
    pub fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        self.answered.load(Ordering::Relaxed)
    }
}

fn request(number: usize, round: usize) -> (String, u16) {
    let device = 1 + round % 2;
    match (number + round) % 4 {
        0 => ("GET /dev1/busy HTTP/1.1\r\n\r\n".into(), 200),
        1 => ("GET /dev2/no HTTP/1.1\r\n\r\n".into(), 404),
        2 => (format!("PUT /dev{device}/c{number} HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"), 201),
        _ => ("GET / HTTP/1.1\r\n\r\n".into(), 200),
    }
}

#[test]
fn busy_connections_live_through_upgrades_and_reloads() {
    for workers in ["device", "1"] {
        let chain = Chain::start(Setup::new().workers(workers));
        let load = Faithful::start(&chain.node, 8);
        for _ in 0..10 {
            load.goes_on();
            chain.upgrade();
            load.goes_on();
            let seen = chain.seen();
            kill(chain.master(), Signal::SIGHUP).unwrap();
            chain.node.event_after(seen, "reloaded");
        }
        println!("{workers}: {} requests answered", load.end());
    }
}

#[test]
fn a_thousand_idle_connections_follow_within_two_seconds() {
    let chain = Chain::start(Setup::new());
    let mut clients: Vec<_> = (0..1000).map(|_| chain.node.client()).collect();
    clients.iter_mut().step_by(10).for_each(Client::stays_open);
    let (old, _) = chain.begin_upgrade();
    let begun = Instant::now();
    kill(old, Signal::SIGQUIT).unwrap();
    until("the old master to go", || is_gone(old));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    clients.iter_mut().for_each(Client::stays_open);
}
