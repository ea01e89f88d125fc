//! Usage files, devices that come and go, mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{
    Client, Lines, LoopDisk, Node, STATUS_FD, Setup, can_mount, names_in, shell, skipped, until,
};

/// Devices and mounts that come and go.
mod devices;
/// What a usage file says, and df.
mod numbers;

use numbers::{Usage, df, df_line, equals_df, fresh_usage, later_usage, usage_text};

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
