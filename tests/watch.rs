//! `watch`: the stream of disk load.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::harness::{
    Client, DEADLINE, LoopDisk, Node, Setup, can_mount, disk_of, narrow_connection, skipped, until,
    until_some,
};

/// Groups of one moment come within so long of one another.
const TOGETHER: Duration = Duration::from_millis(200);
/// What a watcher that does not read may have pending.
const MOST_PENDING: usize = 64 * 1024;

#[test]
fn a_group_has_a_line_per_device_in_order_and_a_dot() {
    let node = Setup::new().devices(11).start();
    let lines = ["watch\n", "WATCH\r\n", "WaTcH\n"];
    let mut clients = lines.map(|line| watcher(&node, line));
    for round in 0..6 {
        let devices: Vec<u32> =
            group(&mut clients[round % 3]).iter().map(|(device, _)| *device).collect();
        assert_eq!(devices, (1..=11).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn groups_come_once_a_second() {
    let node = Node::start();
    let mut client = watcher(&node, "watch\n");
    group(&mut client);
    let begun = Instant::now();
    for count in 1..=4 {
        group(&mut client);
        let off = begun.elapsed().abs_diff(Duration::from_secs(count));
        assert!(off < Duration::from_millis(500), "group {count} is off by {off:?}");
    }
}

#[test]
fn later_input_is_thrown_away_and_earlier_answers_come_first() {
    let node = Node::start();
    let mut client = watcher(&node, "size /dev1/no\nwatch\nsize /dev1/no\nwatch\nno such\n");
    assert_eq!(client.line(), "/dev1/no -1\r\n");
    group(&mut client);
    client.send("x".repeat(100_000));
    client.send("\nshutdown\n");
    (0..2).for_each(|_| assert_eq!(group(&mut client).len(), 2));
    node.client().stays_open();
}

#[test]
fn devices_on_one_filesystem_report_the_same_number() {
    let node = Setup::new().devices(3).start();
    if disk_of(node.docroot()).is_none() {
        return skipped("the temporary folder is not on a local disk");
    }
    let mut client = watcher(&node, "watch\n");
    until("a number", || group(&mut client)[0].1.is_some());
    for _ in 0..2 {
        let load: Vec<_> = group(&mut client).into_iter().map(|(_, load)| load).collect();
        assert!(load.iter().all(|number| number.is_some() && *number == load[0]), "{load:?}");
    }
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn four_hundred_watchers_get_their_groups_together() {
    const ROUNDS: usize = 5;
    allow_descriptors(4096);
    let node = Setup::new().devices(4).workers("3").start();
    let mut watchers: Vec<Watcher> = (0..400).map(|_| Watcher::new(&node)).collect();
    let begun = Instant::now();
    while watchers.iter().any(|watcher| watcher.groups.len() < ROUNDS + 1) {
        assert!(begun.elapsed() < DEADLINE, "groups are missing");
        read_all(&mut watchers, begun);
    }
    let spread = |round: Duration| {
        let near = |at: &&Duration| at.abs_diff(round) < Duration::from_millis(500);
        let times: Vec<Duration> = watchers
            .iter()
            .map(|watcher| {
                let found: Vec<_> = watcher.groups.iter().filter(near).collect();
                assert_eq!(found.len(), 1, "at {round:?} of {:?}", watcher.groups);
                *found[0]
            })
            .collect();
        *times.iter().max().unwrap() - *times.iter().min().unwrap()
    };
    // The second group of whoever came last: from there on all are there.
    let first = watchers.iter().map(|watcher| watcher.groups[0]).max().unwrap();
    let rounds = (0..ROUNDS as u32 - 1).map(|second| first + second * Duration::from_secs(1));
    let mut spreads: Vec<Duration> = rounds.map(spread).collect();
    spreads.sort();
    println!("400 watchers: all within {spreads:?}");
    // This machine may be busy with other tests for a moment, the node is not.
    assert!(spreads[spreads.len() / 2] <= TOGETHER, "{spreads:?}");
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_watcher_that_never_reads_is_dropped_at_64_kib_and_nobody_notices() {
    let setup = Setup::new();
    // Long groups, so that it does not take minutes.
    let folders = (0..800).map(|n| setup.folder().join(format!("dev{}", 16_770_000 + n)));
    let folders: Vec<_> = folders.collect();
    folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
    let node = setup.workers("1").env("MOG_DISK_USAGE_INTERVAL", "3600").start();
    // So many disk threads at once leave a small machine no time for anything else.
    let looked_at = || folders.iter().all(|folder| folder.join("usage").exists());
    until("all devices to be looked at", looked_at);
    let mut client = node.client();
    let mut witness = watcher(&node, "watch\n");
    let mut length = bytes_of(&group(&mut witness));
    assert!(length > 8000, "all devices are watched");
    let mut lazy = narrow_connection(node.address("mgmt"));
    lazy.write_all(b"watch\n").unwrap();
    until("both to watch", || connections(&node) == 3);
    let (mut sent, mut last) = (0, Instant::now());
    while connections(&node) == 3 {
        length = bytes_of(&group(&mut witness));
        sent += length;
        // One a second; a busy test machine may delay them.
        let gap = last.elapsed();
        assert!(gap < Duration::from_secs(5), "the other one waited for {gap:?}");
        last = Instant::now();
        client.stays_open();
        assert!(sent < 4 << 20, "it is still there after {sent} bytes");
    }
    let mut delivered = Vec::new();
    lazy.set_read_timeout(Some(DEADLINE)).unwrap();
    lazy.read_to_end(&mut delivered).unwrap();
    let pending = sent - delivered.len();
    println!("dropped with {pending} bytes pending, {} in the kernel", delivered.len());
    let most = MOST_PENDING + 2 * length;
    assert!(pending > MOST_PENDING - length && pending <= most, "{pending} bytes pending");
    group(&mut witness);
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn load_of_a_loop_device_rises_with_dd_and_falls_when_it_ends() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let disk = match LoopDisk::make(128) {
        Ok(disk) => disk,
        Err(error) => return skipped(&format!("no loop device: {error}")),
    };
    let node = Setup::new().mount(&format!("mount {} {{dir}}/dev1", disk.device)).start();
    let mut client = watcher(&node, "watch\n");
    let mut load = || group(&mut client)[0].1.unwrap_or(0.0);
    let over = AtomicBool::new(false);
    let dd = |number: usize| {
        let file = format!("{{dir}}/dev1/x{number}");
        format!("dd if=/dev/zero of={file} bs=32k count=900 oflag=direct conv=notrunc 2>&1")
    };
    thread::scope(|scope| {
        // One by itself waits for a processor more than for the disk when others want them.
        for number in 0..3 {
            let (node, over) = (&node, &over);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    node.in_its_mounts(&dd(number)).unwrap();
                }
            });
        }
        let high = (0..12).map(|_| load()).find(|load| *load > 30.0);
        over.store(true, Relaxed);
        println!("load under dd: {high:?}");
        assert!(high.is_some(), "dd keeps the disk busy, and it does not show");
    });
    let low = (0..12).map(|_| load()).find(|load| *load < 10.0);
    assert!(low.is_some(), "it is still busy");
}

#[test]
fn the_operator_s_command_is_used_and_started_again_when_it_ends() {
    let setup = Setup::new();
    let Some(disk) = disk_of(setup.folder()) else {
        return skipped("the temporary folder is not on a local disk");
    };
    let node = setup.env("MOG_IOSTAT_CMD", &iostat(&disk)).start();
    let mut client = watcher(&node, "watch\n");
    let mut seen = Vec::new();
    until("three runs", || {
        let group = group(&mut client);
        assert_eq!(group[0].1, group[1].1, "both devices are on {disk}");
        seen.extend(group[0].1.filter(|load| seen.last() != Some(load)));
        seen.len() == 3
    });
    // The first reports of a run are over when the third comes.
    let whole: Vec<f64> = seen.iter().map(|load| load.fract()).collect();
    assert!(whole.iter().all(|part| (part - 0.25).abs() < 0.001), "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
    let runs = fs::read_to_string(node.docroot().join("runs")).unwrap().lines().count();
    assert!(runs >= 3, "{runs} runs for {seen:?}");
}

#[test]
fn the_operator_s_command_ends_with_the_node() {
    let command = "echo $$ >{dir}/pid; exec cat {dir}/fifo";
    let mut node = Setup::new().shell("mkfifo {dir}/fifo").env("MOG_IOSTAT_CMD", command).start();
    let mut client = watcher(&node, "watch\n");
    let pid = until_some("the command", || {
        let text = fs::read_to_string(node.docroot().join("pid")).ok()?;
        text.trim().parse::<u32>().ok()
    });
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    group(&mut client);
    node.signal(nix::sys::signal::Signal::SIGQUIT);
    client.rest();
    assert_eq!(node.wait_for_exit().code(), Some(0));
    until("the command to go", || !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn watchers_get_their_end_on_quit() {
    let mut node = Setup::new().workers("2").start();
    let mut clients: Vec<Client> = (0..8).map(|_| watcher(&node, "watch\n")).collect();
    clients.iter_mut().for_each(|client| assert_eq!(group(client).len(), 2));
    node.signal(nix::sys::signal::Signal::SIGQUIT);
    for client in &mut clients {
        client.rest();
    }
    drop(clients);
    assert_eq!(node.wait_for_exit().code(), Some(0));
}

/// Prints as iostat(1) does: two reports, the busy per cent in the second one.
fn iostat(disk: &str) -> String {
    let header = "Device            r/s     w/s   %util";
    format!(
        "echo x >>{{dir}}/runs; n=$(wc -l <{{dir}}/runs); \
         echo 'Linux 6.1.0 (host)  01/01/26  _x86_64_  (2 CPU)'; echo; \
         echo '{header}'; echo 'nosuch  1.00  2.00  99.00'; echo; \
         echo '{header}'; echo \"{disk}  0.50  1.25  $n.25\"; echo 'nosuch  1.00  2.00  99.00'; echo"
    )
}

/// A connection that has asked for the stream.
fn watcher(node: &Node, line: &str) -> Client {
    let mut client = node.sidechannel();
    client.send(line);
    client
}

/// Reads one group and insists on its format.
fn group(client: &mut Client) -> Vec<(u32, Option<f64>)> {
    let mut lines = Vec::new();
    loop {
        let line = client.line();
        if line == ".\n" {
            return lines;
        }
        lines.push(entry(&line));
    }
}

/// `DEVID\tUTIL\n`
fn entry(line: &str) -> (u32, Option<f64>) {
    let fields = line.strip_suffix('\n').and_then(|line| line.split_once('\t'));
    let (device, load) = fields.unwrap_or_else(|| panic!("not a line of a group: {line:?}"));
    let number = (load != "-").then(|| {
        let (whole, part) = load.split_once('.').unwrap_or_else(|| panic!("{line:?}"));
        let digits = whole.chars().chain(part.chars()).all(|c| c.is_ascii_digit());
        assert!(digits && part.len() == 2 && !whole.is_empty(), "{line:?}");
        load.parse().unwrap()
    });
    assert!(number.is_none_or(|number: f64| number <= 100.0), "{line:?}");
    (device.parse().unwrap(), number)
}

/// How long a group was on the wire.
fn bytes_of(group: &[(u32, Option<f64>)]) -> usize {
    let line = |(device, load): &(u32, Option<f64>)| match load {
        Some(load) => format!("{device}\t{load:.2}\n").len(),
        None => format!("{device}\t-\n").len(),
    };
    group.iter().map(line).sum::<usize>() + ".\n".len()
}

/// One of many watchers: when its groups have come, since the program of all tests began.
struct Watcher {
    stream: TcpStream,
    unread: Vec<u8>,
    groups: Vec<Duration>,
}

impl Watcher {
    fn new(node: &Node) -> Watcher {
        let mut stream = TcpStream::connect(node.address("mgmt")).unwrap();
        stream.write_all(b"watch\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        Watcher { stream, unread: Vec::new(), groups: Vec::new() }
    }

    fn read(&mut self, now: Duration) {
        let mut room = [0; 4096];
        match self.stream.read(&mut room) {
            Ok(0) => panic!("a watcher's connection has ended"),
            Ok(length) => self.unread.extend(&room[..length]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        while let Some(at) = self.unread.windows(3).position(|part| part == b"\n.\n") {
            self.unread.drain(..at + 3);
            self.groups.push(now);
        }
    }
}

/// Waits until something comes, and reads it.
fn read_all(watchers: &mut [Watcher], begun: Instant) {
    let mut asked: Vec<PollFd> = watchers
        .iter()
        .map(|watcher| PollFd::new(watcher.stream.as_fd(), PollFlags::POLLIN))
        .collect();
    poll(&mut asked, PollTimeout::from(1000_u16)).unwrap();
    let ready: Vec<bool> = asked.iter().map(|fd| fd.any() == Some(true)).collect();
    let now = begun.elapsed();
    for (watcher, _) in watchers.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
        watcher.read(now);
    }
}

fn connections(node: &Node) -> u64 {
    let status = node.status();
    let workers = status["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["connections"].as_u64().unwrap()).sum()
}

fn allow_descriptors(wanted: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted.min(hard)), hard).unwrap();
}
