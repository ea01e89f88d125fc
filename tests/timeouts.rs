//! Time and pressure.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Client, Node, Setup, pattern, until};

const SHORT: Duration = Duration::from_millis(300);
/// Below this, a connection was closed for another reason than its timeout.
const NOT_BEFORE: Duration = Duration::from_millis(200);
/// Connections idle for so long may be closed to make room.
const IDLE_ENOUGH: Duration = Duration::from_secs(5);

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_head_that_does_not_end_is_cut_off() {
    let node = Setup::new().arg("--header-timeout=0.3").start();
    let mut client = node.client();
    let begun = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost:");
    client.rest();
    assert!(begun.elapsed() > NOT_BEFORE && begun.elapsed() < 10 * SHORT, "{:?}", begun.elapsed());
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_head_that_drips_gets_no_more_time() {
    let node = Setup::new().arg("--header-timeout=0.3").start();
    let mut client = node.client();
    let begun = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost:");
    while client.is_silent_for(Duration::from_millis(50)) && client.try_send("x") {
        assert!(begun.elapsed() < 10 * SHORT, "each byte bought more time");
    }
    assert!(begun.elapsed() > NOT_BEFORE);
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn the_second_head_of_a_connection_has_its_own_time() {
    let node = Setup::new().arg("--header-timeout=0.3").start();
    let mut client = node.client();
    for _ in 0..3 {
        client.stays_open();
        assert!(client.is_silent_for(SHORT), "idle time counted as part of a head");
    }
    client.send("GET");
    client.rest();
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_body_that_stops_is_cut_off_and_leaves_nothing() {
    let node = Setup::new().arg("--body-timeout=0.3").start();
    let mut client = node.client();
    let begun = Instant::now();
    client.send("PUT /dev1/a HTTP/1.1\r\nContent-Length: 100\r\n\r\nhello");
    client.rest();
    assert!(begun.elapsed() > NOT_BEFORE && begun.elapsed() < 10 * SHORT, "{:?}", begun.elapsed());
    node.logs("PUT /dev1/a failed from");
    assert!(!node.file("/dev1/a").exists());
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_body_that_keeps_coming_has_all_the_time_it_needs() {
    let node = Setup::new().arg("--body-timeout=0.3").start();
    let mut client = node.client();
    client.send("PUT /dev1/a HTTP/1.1\r\nContent-Length: 9\r\n\r\n");
    for byte in b"slow body" {
        assert!(client.is_silent_for(Duration::from_millis(100)));
        client.send([*byte]);
    }
    client.answer().expect_and(201, "keep-alive");
    assert_eq!(node.content("/dev1/a"), b"slow body");
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_client_that_reads_nothing_of_its_answer_is_cut_off() {
    let node = Setup::new().arg("--body-timeout=0.3").start();
    let size = 256 << 20;
    File::create(node.file("/dev1/big")).unwrap().set_len(size).unwrap();
    let mut client = node.client();
    client.send("GET /dev1/big HTTP/1.1\r\n\r\n");
    client.take_through(b"\r\n\r\n");
    until("the node to have no connection", || connections(&node) == 0);
    assert!((client.rest().len() as u64) < size);
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_client_that_keeps_reading_has_all_the_time_it_needs() {
    let node = Setup::new().arg("--body-timeout=0.3").start();
    let size = 64 << 20;
    File::create(node.file("/dev1/big")).unwrap().set_len(size).unwrap();
    let mut client = node.client();
    client.send("GET /dev1/big HTTP/1.1\r\n\r\n");
    client.take_through(b"\r\n\r\n");
    let (mut pacer, pieces) = (node.client(), 16);
    for _ in 0..pieces {
        client.take(size as usize / pieces);
        assert!(pacer.is_silent_for(Duration::from_millis(50)));
    }
    client.stays_open();
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn idle_connections_are_closed_after_idle_timeout() {
    let node = Setup::new().arg("--idle-timeout=0.3").start();
    let (mut fresh, mut used) = (node.client(), node.client());
    used.stays_open();
    let begun = Instant::now();
    used.closes();
    assert!(begun.elapsed() > NOT_BEFORE && begun.elapsed() < 10 * SHORT, "{:?}", begun.elapsed());
    fresh.closes();
}

#[test]
fn idle_connections_stay_without_idle_timeout() {
    let node = Setup::new().arg("--header-timeout=0.2").arg("--body-timeout=0.2").start();
    let (mut fresh, mut used) = (node.client(), node.client());
    used.stays_open();
    assert!(used.is_silent_for(Duration::from_secs(1)) && fresh.is_silent_for(SHORT));
    used.stays_open();
    fresh.stays_open();
}

#[test]
fn the_sidechannel_never_idles_out() {
    let node = Setup::new().arg("--idle-timeout=0.2").arg("--header-timeout=0.2").start();
    let mut client = node.sidechannel();
    assert!(client.is_silent_for(Duration::from_secs(1)));
    client.send("size /dev1/none\r\n");
    assert_eq!(client.line(), "/dev1/none -1\r\n");
}

#[test]
fn the_longest_idle_connections_make_room_at_maxconns() {
    let node = Setup::new().workers("1").arg("--maxconns=8").start();
    let begun = Instant::now();
    let mut idle: Vec<Client> = (0..8).map(|_| node.client()).collect();
    idle.iter_mut().for_each(Client::stays_open);
    idle[1].send("GET /half-a-head");
    let mut late = node.client();
    late.stays_open();
    assert!(begun.elapsed() >= IDLE_ENOUGH, "closed after {:?} of idleness", begun.elapsed());
    idle[0].closes();
    assert!(processor_time(&node) < Duration::from_secs(2), "accepting spins");
    (0..20).for_each(|_| late.stays_open());
}

#[test]
fn requests_in_progress_are_never_closed_for_others() {
    let node = Setup::new().workers("1").arg("--maxconns=4").start();
    let mut writers: Vec<Client> = (0..3).map(|_| node.client()).collect();
    for (n, writer) in writers.iter_mut().enumerate() {
        writer.send(format!("PUT /dev1/w{n} HTTP/1.1\r\nContent-Length: 2\r\n\r\na"));
    }
    let mut idle = node.client();
    idle.stays_open();
    node.client().stays_open();
    idle.closes();
    for writer in &mut writers {
        writer.ask("b").expect_and(201, "keep-alive");
    }
}

#[test]
fn twenty_descriptors_do_for_a_single_worker() {
    let node = Setup::new().shell("ulimit -n 20").workers("1").start();
    let content = pattern(200_000);
    node.client().put("/dev1/a", &content).expect(201);
    for _ in 0..100 {
        let mut client = node.client();
        assert!(client.get("/dev1/a").expect(200).body == content);
        client.put("/dev2/b", "b").expect(201);
    }
    assert!(node.all_events("worker_exited").is_empty());
}

#[test]
fn out_of_descriptors_the_longest_idle_connections_make_room() {
    let node = Setup::new().shell("ulimit -n 20").workers("1").start();
    node.store("/dev1/a", "a");
    let mut clients: Vec<Client> = (0..15).map(|_| node.client()).collect();
    for client in &mut clients {
        client.send("GET /dev1/a HTTP/1.1\r\n\r\n");
    }
    let served = clients.iter_mut().map(|client| client.answer().status);
    assert!(served.collect::<Vec<_>>().iter().all(|status| [200, 503].contains(status)));
    assert!(processor_time(&node) < Duration::from_secs(3), "accepting spins");
    drop(clients);
    let mut last = node.client();
    assert_eq!(last.get("/dev1/a").expect(200).body, b"a");
    assert_eq!(last.put("/dev1/b", "b").status, 201);
}

#[test]
fn the_backlog_holds_1024_connections() {
    let room = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, room.1.min(8192), room.1).unwrap();
    let node = Setup::new().workers("1").start();
    let workers = node.workers();
    workers.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
    let connect = |_| TcpStream::connect_timeout(&node.http(), Duration::from_secs(1)).is_ok();
    let waiting = (0..1024).map(|n| (n, TcpStream::connect_timeout(&node.http(), 3 * SHORT)));
    let waiting: Vec<_> = waiting.map(|(n, made)| made.map_err(|error| (n, error))).collect();
    workers.iter().for_each(|pid| kill(*pid, Signal::SIGCONT).unwrap());
    let refused = waiting.iter().find_map(|made| made.as_ref().err());
    assert!(refused.is_none(), "{refused:?}");
    drop(waiting);
    assert!(connect(()));
    node.client().stays_open();
}

#[test]
fn accepted_sockets_have_keepalive_on() {
    let node = Node::start();
    let mut clients = [node.client(), node.sidechannel()];
    clients[0].stays_open();
    for (client, near) in clients.iter().zip([node.http(), node.address("mgmt")]) {
        let far = client.stream().local_addr().unwrap();
        until("a keepalive timer", || timer(near, far) == Some("02".to_owned()));
    }
}

/// The kind of timer that the kernel runs for a connection, as /proc/net/tcp tells: 02 is
/// keepalive once nothing is unacknowledged.
fn timer(near: SocketAddr, far: SocketAddr) -> Option<String> {
    let text = fs::read_to_string("/proc/net/tcp").unwrap();
    let ports = [format!(":{:04X}", near.port()), format!(":{:04X}", far.port())];
    let fields = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found =
        fields.filter(|field| field[1].ends_with(&ports[0]) && field[2].ends_with(&ports[1]));
    found.next().map(|field| field[5][..2].to_owned())
}

fn connections(node: &Node) -> u64 {
    let status = node.status();
    let workers = status["workers"].as_array().expect("a list");
    workers.iter().filter_map(|worker| worker["connections"].as_u64()).sum()
}

/// What the node's processes have used of the processor.
fn processor_time(node: &Node) -> Duration {
    let pids = node.workers().into_iter().chain([node.pid()]);
    pids.map(ticks).sum::<u32>() * Duration::from_millis(10)
}

/// User and system time in the hundredths of a second that Linux shows everywhere.
fn ticks(pid: Pid) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u32>().expect("a number")).sum()
}
