//! Usage files, devices that come and go, mounts.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{
    Client, Lines, LoopDisk, Node, STATUS_FD, Setup, can_mount, names_in, shell, skipped, until,
    until_some,
};
use crate::load::Link;

const KEYS: [&str; 7] = ["available", "device", "disk", "time", "total", "use", "used"];
/// Within so long the node finds out by itself what has become of its devices.
const NOTICED: Duration = Duration::from_secs(10);

#[test]
fn usage_is_exactly_seven_lines() {
    let node = Setup::new().shell("umask 027").start();
    for device in ["/dev1", "/dev2"] {
        let text = usage_text(&node, device);
        let usage = Usage::parse(&text);
        let source = df(&shell(&df_line(&node, device)).unwrap());
        assert_eq!(usage.get("device"), source.device);
        assert_eq!(usage.get("disk"), node.file(device).to_str().unwrap());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(usage.number("time").abs_diff(now) < 30, "{text}");
        let path = format!("{device}/usage");
        until("the file", || node.file(&path).exists());
        Usage::parse(&String::from_utf8(node.content(&path)).unwrap());
        assert_eq!(fs::metadata(node.file(&path)).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names_in(&node.file(device)), ["usage"], "nothing else is written");
    }
}

#[test]
fn head_size_and_digest_of_it_agree() {
    let node = Node::start();
    usage_text(&node, "/dev2");
    let (mut http, mut side) = (node.client(), node.sidechannel());
    until("three answers from one look at the disk", || {
        let text = http.get("/dev2/usage").expect_and(200, "keep-alive").body;
        let head = http.head("/dev2/usage").expect(200);
        let length = head.header("Content-Length").map(str::to_owned);
        side.send("size /dev2/usage\nMD5 /dev2/usage\nSHA-1 /dev2/usage fsck\n");
        let lines = [side.line(), side.line(), side.line()];
        if http.get("/dev2/usage").expect(200).body != text {
            return false;
        }
        assert_eq!(length, Some(text.len().to_string()));
        assert_eq!(lines[0], format!("/dev2/usage {}\r\n", text.len()));
        assert_eq!(lines[1], format!("/dev2/usage MD5={}\r\n", digest("md5sum", &text)));
        assert_eq!(lines[2], format!("/dev2/usage SHA-1={}\r\n", digest("sha1sum", &text)));
        true
    });
}

#[test]
fn numbers_are_those_of_df_within_what_changed() {
    // Other tests write to the same filesystem all the time.
    const CHANGED: u64 = 2 << 20;
    let node = Setup::new().env("MOG_DISK_USAGE_INTERVAL", "1").start();
    let before = df(&shell(&df_line(&node, "/dev1")).unwrap());
    let usage = fresh_usage(&node, "/dev1");
    let after = df(&shell(&df_line(&node, "/dev1")).unwrap());
    for (key, ours) in [("used", usage.number("used")), ("available", usage.number("available"))] {
        let theirs = [before.number(key), after.number(key)];
        let low = theirs[0].min(theirs[1]).saturating_sub(CHANGED);
        let high = theirs[0].max(theirs[1]) + CHANGED;
        assert!((low..=high).contains(&ours), "{key}: {ours}, df {theirs:?}");
    }
}

#[test]
fn numbers_of_a_quiet_disk_are_exactly_those_of_df() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let disk = match LoopDisk::make(32) {
        Ok(disk) => disk,
        Err(error) => return skipped(&format!("no loop device: {error}")),
    };
    let node = Setup::new()
        .env("MOG_DISK_USAGE_INTERVAL", "1")
        .mount(&format!("mount {} {{dir}}/dev1", disk.device))
        .mount("mount -t tmpfs -o size=4m tmpfs {dir}/dev2")
        .start();
    for (path, kib) in [("/dev1/a", 5000), ("/dev1/b", 3000), ("/dev2/a", 700)] {
        node.client().put(path, vec![7; kib << 10]).expect(201);
        let device = &path[..5];
        equals_df(&node, device);
    }
    assert_eq!(fresh_usage(&node, "/dev1").get("device"), disk.device);
    assert_eq!(fresh_usage(&node, "/dev2").get("device"), "tmpfs");
    node.client().delete("/dev1/a").expect(204);
    equals_df(&node, "/dev1");
}

#[test]
fn a_full_device_has_its_numbers_in_memory_alone() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = Setup::new()
        .env("MOG_DISK_USAGE_INTERVAL", "1")
        .mount("mount -t tmpfs -o size=1m tmpfs {dir}/dev1")
        .shell("head -c 2m /dev/zero 2>/dev/null >{dir}/dev1/fill || true")
        .start();
    let usage = later_usage(&node, "/dev1", 2);
    assert_eq!((usage.get("available"), usage.get("use")), ("0", "100%"));
    assert_eq!((usage.number("used"), usage.number("total")), (1024, 1024));
    assert_eq!(node.client().put("/dev1/a", vec![1; 9999]).status, 507);
    assert_eq!(node.in_its_mounts("ls -A {dir}/dev1").unwrap(), "fill\n", "not even a part");
    // Room again: the file comes back.
    assert_eq!(node.client().delete("/dev1/fill").status, 204);
    until("the file", || node.in_its_mounts("grep -q '^use: ' {dir}/dev1/usage").is_ok());
    logged_once(&node, "usage file");
}

#[test]
fn a_read_only_device_has_its_numbers_in_memory_alone() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = Setup::new()
        .env("MOG_DISK_USAGE_INTERVAL", "1")
        .mount("mount -t tmpfs -o size=1m tmpfs {dir}/dev1")
        .shell("echo content >{dir}/dev1/a; mount -o remount,ro {dir}/dev1")
        .start();
    let usage = later_usage(&node, "/dev1", 2);
    assert_eq!(usage.number("total"), 1024);
    let mut client = node.client();
    assert_eq!(client.get("/dev1/a").expect(200).body, b"content\n");
    assert_eq!(client.put("/dev1/b", "b").status, 500);
    assert_eq!(node.in_its_mounts("ls -A {dir}/dev1").unwrap(), "a\n");
    logged_once(&node, "usage file");
}

#[test]
fn mode_000_means_do_not_write_here() {
    let setup = Setup::new().env("MOG_DISK_USAGE_INTERVAL", "1");
    let file = setup.folder().join("dev1/usage");
    fs::write(&file, "the operator's own").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    let node = setup.start();
    let usage = later_usage(&node, "/dev1", 2);
    assert_eq!(usage.get("disk"), node.file("/dev1").to_str().unwrap());
    let now = fs::metadata(&file).unwrap();
    assert_eq!((now.ino(), now.len(), now.mode() & 0o777), (inode, 18, 0));
    assert_eq!(names_in(&node.file("/dev1")), ["usage"]);
    let log = node.stderr.so_far().join("\n");
    assert!(!log.contains("error") && !log.contains("warn") && !log.contains("usage"), "{log}");
    // And with the mode back, it is written again.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    until("the file", || fs::read_to_string(&file).is_ok_and(|text| text.contains("\nuse: ")));
}

#[test]
fn devices_that_come_and_go_are_noticed() {
    for workers in ["device", "2"] {
        let setup = Setup::new().workers(workers).env("MOG_DISK_USAGE_INTERVAL", "1");
        let node = setup.start();
        let status = |path: &str| status_on_a_new_connection(&node, path);
        usage_text(&node, "/dev2");
        let begun = Instant::now();
        fs::create_dir(node.file("/dev3")).unwrap();
        fs::rename(node.file("/dev2"), node.file("/old")).unwrap();
        until("dev3 to have a usage file", || {
            node.file("/dev3/usage").exists() && status("/dev3/usage") == Some(200)
        });
        until("dev2 to be forgotten", || status("/dev2/usage") == Some(404));
        until("dev2 not to be watched", || watched(&node) == [1, 3]);
        assert!(begun.elapsed() < NOTICED, "{:?}, {workers}", begun.elapsed());
        let mut client = node.client();
        client.put("/dev3/a", "a").expect(201);
        assert_eq!(client.put("/dev2/a", "a").status, 404);
        assert!(!node.file("/dev2").exists());
        fs::rename(node.file("/old"), node.file("/dev2")).unwrap();
        let begun = Instant::now();
        until("dev2 to be back", || status("/dev2/usage") == Some(200));
        assert!(begun.elapsed() < NOTICED, "{:?}, {workers}", begun.elapsed());
    }
}

#[test]
fn a_folder_made_after_the_start_shows_at_once() {
    for workers in ["device", "2"] {
        let node = Setup::new().workers(workers).start();
        // By the clock alone each would take two seconds: it is made just after a look.
        let fastest = (3..=10).map(|device| {
            let (begun, name) = (Instant::now(), format!("dev{device}"));
            fs::create_dir(node.file(&format!("/{name}"))).unwrap();
            until("it to be known", || is_listed(&node, &name));
            begun.elapsed()
        });
        let fastest = fastest.min().unwrap();
        println!("{workers}: {fastest:?}");
        assert!(fastest < Duration::from_secs(1), "{fastest:?}, {workers}");
    }
}

#[test]
fn without_a_sidechannel_there_is_no_usage_unless_there_is_a_file() {
    let node = Setup::bare()
        .env("MOG_DISK_USAGE_INTERVAL", "1")
        .arg("--docroot={dir}")
        .arg("--httplisten=127.0.0.1:0")
        .arg(STATUS_FD)
        .start();
    let mut client = node.client();
    client.put("/dev1/a", "a").expect(201);
    assert_eq!(client.get("/dev1/usage").expect_and(404, "keep-alive").body, b"");
    assert!(client.is_silent_for(Duration::from_millis(1500)));
    assert_eq!(client.head("/dev1/usage").status, 404);
    assert!(!node.file("/dev1/usage").exists(), "it was written nevertheless");
    node.store("/dev1/usage", "somebody's");
    assert_eq!(client.get("/dev1/usage").expect(200).body, b"somebody's");
}

#[test]
fn it_is_answered_without_a_system_call_on_the_device() {
    if shell("strace -o /dev/null true").is_err() {
        return skipped("strace is not there or may not trace");
    }
    const COUNT: usize = 500;
    // One look at the start, none while it is watched.
    let node = Setup::new().env("MOG_DISK_USAGE_INTERVAL", "1000").start();
    usage_text(&node, "/dev1");
    until("the first looks to be over", || {
        node.file("/dev1/usage").exists() && node.file("/dev2/usage").exists()
    });
    let mut clients: Vec<Client> = (0..4).map(|_| node.client()).collect();
    clients.iter_mut().for_each(Client::stays_open);
    let mut side = node.sidechannel();
    let docroot = node.docroot().to_str().unwrap();
    let touches =
        |line: &&str| line.contains(docroot) || line.contains("usage") || line.contains("statfs");
    // What the start has left to do may show in the first round; in one round nothing must.
    let mut rounds = (0..5).map(|_| {
        let trace = traced(&node, || {
            for round in 0..COUNT {
                let client = &mut clients[round % 4];
                assert_eq!(client.get("/dev1/usage").status, 200);
                assert_eq!(client.head("/dev2/usage").status, 200);
                side.send("size /dev1/usage\nMD5 /dev2/usage\n");
                assert!(side.line().len() + side.line().len() > 40);
            }
        });
        let sent = trace.lines().filter(|line| line.contains("send")).count();
        assert!(sent >= COUNT, "only {sent} answers were seen:\n{trace}");
        trace.lines().filter(touches).map(str::to_owned).collect::<Vec<String>>()
    });
    let quiet = rounds.by_ref().find(Vec::is_empty);
    assert!(quiet.is_some(), "the device was touched in every round");
}

#[test]
fn the_file_is_never_seen_half_written() {
    let node = Setup::new().env("MOG_DISK_USAGE_INTERVAL", "1").start();
    let file = node.file("/dev1/usage");
    until("the file", || file.exists());
    let (mut times, mut reads) = (Vec::new(), 0);
    until("four versions of the file", || {
        for _ in 0..200 {
            let text = fs::read_to_string(&file).expect("it never goes");
            times.push(Usage::parse(&text).number("time"));
            reads += 1;
        }
        times.dedup();
        times.len() >= 4
    });
    println!("{reads} reads of {} versions", times.len());
    assert!(times.is_sorted());
}

#[test]
fn an_idle_device_can_be_unmounted_and_another_one_mounted() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    for workers in ["device", "2"] {
        let node = Setup::new()
            .workers(workers)
            .env("MOG_DISK_USAGE_INTERVAL", "1")
            .mount("mount -t tmpfs -o size=2m first {dir}/dev1")
            .start();
        let mut client = node.client();
        client.put("/dev1/a", "first").expect(201);
        for _ in 0..50 {
            assert_eq!(client.get("/dev1/a").expect(200).body, b"first");
        }
        assert_eq!(usage_of(&node, "/dev1").get("device"), "first");
        let begun = Instant::now();
        until("it to be unmounted", || node.in_its_mounts("umount {dir}/dev1").is_ok());
        println!("unmounted after {:?}", begun.elapsed());
        node.in_its_mounts("mount -t tmpfs -o size=3m second {dir}/dev1").unwrap();
        node.in_its_mounts("echo second >{dir}/dev1/b").unwrap();
        let begun = Instant::now();
        until("the new disk to be used", || client.get("/dev1/b").status == 200);
        until("its numbers", || usage_of(&node, "/dev1").number("total") == 3072);
        until("its name", || usage_of(&node, "/dev1").get("device") == "second");
        assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
        client.put("/dev1/c", "c").expect(201);
        node.in_its_mounts("grep -q c {dir}/dev1/c").unwrap();
    }
}

#[test]
fn a_disk_mounted_onto_a_busy_device_is_used() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let node = Setup::new().mount("true").start();
    let (mut client, mut side) = (node.client(), node.sidechannel());
    client.put("/dev1/a", "below").expect(201);
    assert_eq!(client.get("/dev1/a").expect(200).body, b"below");
    node.in_its_mounts("mount -t tmpfs -o size=3m above {dir}/dev1; echo above >{dir}/dev1/a")
        .unwrap();
    let begun = Instant::now();
    // Never idle: reads and writes go on all the time.
    until("the disk to be used for reads", || client.get("/dev1/a").expect(200).body == b"above\n");
    until("the disk to be used for writes", || {
        client.put("/dev1/w", "w").expect(201);
        node.in_its_mounts("test -e {dir}/dev1/w").is_ok()
    });
    until("the disk to be used by the sidechannel", || {
        side.send("size /dev1/a\nMD5 /dev1/a\n");
        let (size, md5) = (side.line(), side.line());
        size == "/dev1/a 6\r\n" && md5.contains(&digest("md5sum", b"above\n"))
    });
    until("its numbers", || usage_of(&node, "/dev1").number("total") == 3072);
    println!("used after {:?}", begun.elapsed());
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    drop(client);
    until("it to be unmounted", || node.in_its_mounts("umount {dir}/dev1").is_ok());
    // A disk is missing: what lies below it is neither shown nor added to.
    let mut client = node.client();
    // What is stored in the folder below could not be found again once the disk is back.
    until("the bare mount point to be refused", || client.get("/dev1/a").status == 503);
    client.put("/dev1/b", "b").expect(503);
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    node.in_its_mounts("mount -t tmpfs -o size=3m above {dir}/dev1; echo back >{dir}/dev1/a")
        .unwrap();
    until("the disk to be back", || client.get("/dev1/a").body == b"back\n");
    assert!(!node.file("/dev1/b").exists(), "stored below the mount");
}

/// The seven lines, taken apart.
struct Usage(HashMap<String, String>);

impl Usage {
    /// Insists on everything that can be told from the text alone.
    fn parse(text: &str) -> Usage {
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        assert!(text.ends_with('\n'), "{text:?}");
        let pairs = lines.iter().map(|line| line.split_once(": "));
        let pairs: Option<Vec<(&str, &str)>> = pairs.collect();
        let pairs = pairs.unwrap_or_else(|| panic!("not KEY: VALUE: {text:?}"));
        let keys: Vec<&str> = pairs.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, KEYS, "{text:?}");
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let usage = Usage(pairs.into_iter().map(owned).collect());
        let (total, used) = (usage.number("total"), usage.number("used"));
        assert!(used > 0 && total == used + usage.number("available"), "{text:?}");
        assert_eq!(usage.get("use"), format!("{}%", (used * 100).div_ceil(total)), "{text:?}");
        usage
    }

    fn get(&self, key: &str) -> &str {
        &self.0[key]
    }

    fn number(&self, key: &str) -> u64 {
        let value = self.get(key);
        value.parse().unwrap_or_else(|_| panic!("{key} is {value:?}"))
    }
}

/// The usage file's text over HTTP, once there has been a first look.
fn usage_text(node: &Node, device: &str) -> String {
    let mut client = node.client();
    let text = until_some("a first look", || {
        let answer = client.get(&format!("{device}/usage"));
        (answer.status == 200).then_some(answer.body)
    });
    String::from_utf8(text).unwrap()
}

/// The devices that the master knows.
fn is_listed(node: &Node, name: &str) -> bool {
    node.status()["devices"].as_array().unwrap().iter().any(|device| device["device"] == name)
}

/// `None` when the connection was lost: the worker of a device that has gone closes those that it
/// holds.
fn status_on_a_new_connection(node: &Node, path: &str) -> Option<u16> {
    let request = format!("GET {path} HTTP/1.1\r\n\r\n");
    Link::open(node.http()).ask(request.as_bytes()).ok().map(|reply| reply.status)
}

fn usage_of(node: &Node, device: &str) -> Usage {
    Usage::parse(&usage_text(node, device))
}

/// A look at the disk that began after this call.
fn fresh_usage(node: &Node, device: &str) -> Usage {
    later_usage(node, device, 2)
}

/// The numbers once their time has moved on by so many seconds.
fn later_usage(node: &Node, device: &str, seconds: u64) -> Usage {
    let first = usage_of(node, device).number("time");
    until_some("a later look", || {
        let usage = usage_of(node, device);
        (usage.number("time") >= first + seconds).then_some(usage)
    })
}

/// A line of `df -P -k`.
struct Df {
    device: String,
    numbers: HashMap<&'static str, u64>,
    per_cent: String,
}

impl Df {
    fn number(&self, key: &str) -> u64 {
        self.numbers[key]
    }
}

fn df_line(node: &Node, device: &str) -> String {
    format!("df -P -k {}", node.file(device).display())
}

/// Filesystem, 1024-blocks, Used, Available, Capacity, Mounted on.
fn df(output: &str) -> Df {
    let fields: Vec<&str> = output.lines().nth(1).unwrap().split_whitespace().collect();
    let number = |at: usize| fields[at].parse().unwrap();
    Df {
        device: fields[0].to_owned(),
        numbers: HashMap::from([("used", number(2)), ("available", number(3))]),
        per_cent: fields[4].to_owned(),
    }
}

/// The filesystem is at rest but for the usage file itself, whose size does not change.
fn equals_df(node: &Node, device: &str) {
    until("what df says", || {
        let usage = fresh_usage(node, device);
        let theirs = df(&node.in_its_mounts(&format!("df -P -k {{dir}}{device}")).unwrap());
        let numbers = ["used", "available"].map(|key| usage.number(key) == theirs.number(key));
        let same = numbers == [true, true];
        assert!(!same || usage.get("use") == theirs.per_cent, "{:?}", usage.0);
        same
    });
}

/// The device ids of a group of `watch`.
fn watched(node: &Node) -> Vec<u32> {
    let mut client = node.sidechannel();
    client.send("watch\n");
    let lines = std::iter::from_fn(|| Some(client.line()).filter(|line| line != ".\n"));
    lines.map(|line| line.split('\t').next().unwrap().parse().unwrap()).collect()
}

/// What is wrong with a device is said when it begins, not at every look.
fn logged_once(node: &Node, text: &str) {
    let log = node.stderr.so_far();
    let count = log.iter().filter(|line| line.contains(text) && line.contains("dev1")).count();
    assert!(count <= 1, "{log:#?}");
}

/// As md5sum(1) and its like print it.
fn digest(command: &str, text: &[u8]) -> String {
    let mut child = Command::new(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, text).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap().stdout;
    String::from_utf8(output).unwrap().split(' ').next().unwrap().to_owned()
}

/// What strace(1) sees of all workers, descriptors by their paths, while something is done.
fn traced(node: &Node, work: impl FnOnce()) -> String {
    let output = tempfile::NamedTempFile::new().unwrap();
    let workers: Vec<String> = node.workers().iter().map(Pid::to_string).collect();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "0", "-o"]).arg(output.path());
    for pid in &workers {
        strace.args(["-p", pid]);
    }
    let mut child = strace.stderr(Stdio::piped()).spawn().unwrap();
    let said = Lines::gather(child.stderr.take().unwrap());
    for pid in &workers {
        said.find("each worker", |line| line.contains(&format!("{pid} attached")).then_some(()));
    }
    work();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    child.wait().unwrap();
    fs::read_to_string(output.path()).unwrap()
}
