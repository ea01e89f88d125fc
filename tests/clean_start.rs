//! What a parent leaves to the node without meaning to: signals, descriptors, limits, timers, and
//! a system without the usual files. rmogstored(8), "What is inherited".

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use crate::chain::is_gone;
use crate::harness::{DEADLINE, Setup, can_mount, shell, skipped, until, until_some};

/// A daemon of its own.
mod detached;

use detached::Detached;

/// A process's descriptors from 3 on, as /proc shows what they are.
fn open_in(pid: Pid) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let shown = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        let to = fs::read_link(entry.path()).ok()?;
        (number > 2).then(|| to.to_string_lossy().into_owned())
    });
    shown.collect()
}

/// The command's exit status, or a panic if it does not end.
fn ends(command: &mut Command) -> std::process::Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    receiver
        .recv_timeout(DEADLINE)
        .unwrap_or_else(|_| {
            let _ = kill(pid, Signal::SIGKILL);
            panic!("{command:?} does not end, or what it started keeps its output open")
        })
        .unwrap()
}

#[test]
fn daemonize_returns_0_though_the_parent_ignores_the_end_of_children() {
    let node = Detached::folder();
    let script = "exec env --ignore-signal=CHLD \"$0\" \"$@\" -d";
    let ended = ends(&mut node.command(&["sh", "-ec"], script));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    node.serves();
    node.quit();
}

#[test]
fn a_node_with_too_few_descriptors_for_its_workers_says_so_and_ends() {
    for limit in 8..30 {
        let node = Detached::folder();
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\" -d");
        let ended = ends(&mut node.command(&["sh", "-ec"], &script));
        if ended.status.success() {
            return node.quit();
        }
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(
            String::from_utf8_lossy(&ended.stderr).contains("Too many open files"),
            "{ended:?}"
        );
    }
    panic!("30 descriptors are not enough");
}

/// `7>&1 | cat` in a shell: cat ends when nobody has the pipe any more.
#[test]
fn daemon_keeps_no_descriptor_of_strangers() {
    let node = Detached::folder();
    let script = "exec 7>&1 20>&1 200>&2 9<{dir}; exec \"$0\" \"$@\" -d";
    let ended = ends(&mut node.command(&["bash", "-ec"], script));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    node.serves();
    node.quit();
}

/// close_range(2) missing, forbidden, and with /proc hidden besides.
#[test]
fn strangers_are_closed_without_close_range_and_without_proc() {
    if shell("strace -o /dev/null true").is_err() {
        return skipped("strace is not there or may not trace");
    }
    for (error, hidden) in [("ENOSYS", false), ("EPERM", false), ("EPERM", true)] {
        if hidden && !can_mount() {
            return skipped("no mounts here: without /proc in part");
        }
        let mut setup = Setup::new().workers("1");
        if hidden {
            setup = setup.mount("mount -t tmpfs none /proc");
        }
        let trace = format!(
            "exec 6</dev/zero 7</dev/zero\nexec strace -D -o /dev/null -e trace=close_range \
             -e inject=close_range:error={error} \"$0\" \"$@\" 9>&1 1>&2 3<&0 </dev/null"
        );
        let node = setup.shell(&trace).start();
        let pid = node.event("ready")["pid"].as_i64().unwrap();
        let open = open_in(Pid::from_raw(pid as i32));
        assert!(!open.iter().any(|to| to == "/dev/zero"), "{error}: {open:?}");
        node.client().stays_open();
    }
}

#[test]
fn announced_listeners_and_the_status_pipe_survive_and_strangers_do_not() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let node = Setup::new()
        .http(&address.to_string())
        .env("CMOGSTORED_FD", "3")
        .inherit(listener)
        .shell("exec 6</dev/zero 8</dev/zero")
        .start();
    assert_eq!(node.http(), address);
    for pid in node.workers().into_iter().chain([node.pid()]) {
        let open = open_in(pid);
        assert!(!open.iter().any(|to| to == "/dev/zero"), "{open:?}");
    }
}

#[test]
fn alarm_of_the_parent_does_not_ring() {
    if shell("python3 -c 1").is_err() {
        return skipped("no python3");
    }
    let script = "exec python3 -c 'import os,signal,sys; signal.setitimer(0, 0.8); \
        os.execv(sys.argv[1], sys.argv[1:])' \"$0\" \"$@\" 9>&1 1>&2 </dev/null";
    let mut node = Setup::new().shell(script).start();
    // The timer is past when two looks at the devices have been taken.
    let begun = Instant::now();
    until("the alarm's time to pass", || begun.elapsed() > Duration::from_millis(1200));
    node.client().stays_open();
    node.signal(Signal::SIGQUIT);
    assert_eq!(node.wait_for_exit().code(), Some(0));
}

/// Makes a folder that hides /dev: a null device, and a place for a syslog.
fn bare_dev(folder: &Path) -> Result<String, String> {
    let dev = folder.join("dev-of-its-own");
    fs::create_dir_all(&dev).map_err(|e| e.to_string())?;
    let dev = dev.to_str().unwrap().to_owned();
    shell(&format!("mknod -m 666 {dev}/null c 1 3"))?;
    Ok(dev)
}

fn has_bare_dev() -> bool {
    let folder = tempfile::tempdir().unwrap();
    geteuid().is_root() && can_mount() && bare_dev(folder.path()).is_ok()
}

/// Every text that has come so far.
fn received(syslog: &UnixDatagram) -> Vec<String> {
    syslog.set_nonblocking(true).unwrap();
    let mut buffer = [0; 8192];
    let next = || syslog.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec());
    std::iter::from_fn(next).map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
}

/// Waits until there has been a message for each of `texts`.
fn hears(syslog: &UnixDatagram, texts: &[&str]) {
    let mut all = Vec::new();
    until(&format!("{texts:?}"), || {
        all.extend(received(syslog));
        texts.iter().all(|text| all.iter().any(|message: &String| message.contains(text)))
    });
}

#[test]
fn syslog_that_comes_late_goes_and_comes_again_gets_the_lines() {
    if !has_bare_dev() {
        return skipped("no device nodes or mounts here");
    }
    let node = Detached::folder();
    let dev = bare_dev(node.folder.path()).unwrap();
    let script = format!("mount --bind {dev} /dev; exec \"$0\" \"$@\" -d");
    let ended = ends(&mut node.command(&["unshare", "-m", "sh", "-ec"], &script));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let at = format!("{dev}/log");
    for _ in 0..2 {
        let syslog = UnixDatagram::bind(&at).unwrap();
        kill(node.pid().unwrap(), Signal::SIGHUP).unwrap();
        hears(&syslog, &["log lines lost", "reloaded"]);
        drop(syslog);
        fs::remove_file(&at).unwrap();
        // Lost, and told when the next one is there.
        reload(&node);
    }
    // A successor that starts while there is none.
    node.upgrade();
    let syslog = UnixDatagram::bind(&at).unwrap();
    kill(node.pid().unwrap(), Signal::SIGHUP).unwrap();
    hears(&syslog, &["reloaded"]);
    node.serves();
    node.quit();
}

#[test]
fn log_file_and_status_file_at_their_limit_lose_lines_and_tell_how_many() {
    let node = Detached::folder();
    let script = "ulimit -f 1; exec \"$0\" \"$@\" --status-fd=4 2>>{dir}/log 4>>{dir}/events";
    let mut child = node.command(&["bash", "-ec"], script).spawn().unwrap();
    until("the node to serve", || node.pid().is_some() && status_answers(&node));
    let length = |name: &str| fs::metadata(node.folder.path().join(name)).unwrap().len();
    for turn in 1.. {
        if length("log") == 1024 && length("events") == 1024 {
            break;
        }
        assert!(turn < 40, "the files do not fill");
        reload(&node);
    }
    reload(&node);
    for name in ["log", "events"] {
        fs::write(node.folder.path().join(name), "").unwrap();
    }
    let text = |name: &str| fs::read_to_string(node.folder.path().join(name)).unwrap();
    reload(&node);
    until("the loss to be told", || text("log").contains("log lines lost"));
    let events = text("events");
    let lost = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lost: Vec<_> = lost.filter(|event| event["event"] == "lost").collect();
    assert!(!lost.is_empty() && lost[0]["lines"].as_u64().unwrap() > 0, "{events}");
    node.quit();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn status_answers(node: &Detached) -> bool {
    UnixStream::connect(node.folder.path().join("status.sock")).is_ok()
        && node.status()["state"] == "running"
}

/// HUP, and the wait until it is done.
fn reload(node: &Detached) {
    let generation = node.status()["generation"].as_u64().unwrap();
    kill(node.pid().unwrap(), Signal::SIGHUP).unwrap();
    until("a reload", || node.status()["generation"].as_u64().unwrap() > generation);
}

/// A parent that does everything wrong. The timer rings after half a second, if it may.
const HOSTILE: &str = include_str!("clean_start/hostile.py");

/// In the foreground and detached; with the standard streams and without.
#[test]
fn node_of_a_hostile_parent_serves_upgrades_and_ends_in_order() {
    if shell("python3 -c 1").is_err() {
        return skipped("no python3");
    }
    let bare = has_bare_dev();
    if !bare {
        skipped("no device nodes or mounts here: with /proc and /dev/log, in part");
    }
    for (detached, closed) in [(false, "open"), (false, "closed"), (true, "open"), (true, "closed")]
    {
        let node = Detached::folder();
        fs::write(node.folder.path().join("hostile.py"), HOSTILE).unwrap();
        let mut script = String::new();
        if bare {
            let dev = bare_dev(node.folder.path()).unwrap();
            script = format!("mount --bind {dev} /dev; mount -t tmpfs none /proc;");
        }
        let flag = if detached { "-d" } else { "" };
        script += &format!(
            "exec python3 {{dir}}/hostile.py {closed} {{dir}} \"$0\" \"$@\" {flag} \
             2>{{dir}}/said"
        );
        let words: &[&str] = if bare { &["unshare", "-m", "sh", "-ec"] } else { &["sh", "-ec"] };
        let mut child = node.command(words, &script).spawn().unwrap();
        let said = || fs::read_to_string(node.folder.path().join("said")).unwrap_or_default();
        if detached {
            let code = until_some("the command to end", || child.try_wait().unwrap());
            assert_eq!(code.code(), Some(0), "{closed}: {}", said());
        }
        until("the node to serve", || {
            let ended = !detached && child.try_wait().unwrap().is_some();
            assert!(!ended, "{closed}: it ended: {}", said());
            node.pid().is_some() && status_answers(&node)
        });
        let begun = Instant::now();
        until("the alarm's time to pass", || begun.elapsed() > Duration::from_millis(600));
        node.serves();
        let first = node.pid().unwrap();
        for pid in masters_and_workers(&node) {
            inherits_nothing_odd(pid);
        }
        node.upgrade();
        node.serves();
        if !detached {
            let code = until_some("the first master to end", || child.try_wait().unwrap());
            assert_eq!(code.code(), Some(0), "{closed}: {}", said());
        }
        assert!(is_gone(first));
        for pid in masters_and_workers(&node) {
            inherits_nothing_odd(pid);
        }
        node.quit();
    }
}

fn masters_and_workers(node: &Detached) -> Vec<Pid> {
    let status = node.status();
    let workers = status["workers"].as_array().unwrap().iter();
    let pids = workers.filter_map(|worker| worker["pid"].as_i64());
    pids.map(|pid| Pid::from_raw(pid as i32)).chain(node.pid()).collect()
}

fn inherits_nothing_odd(pid: Pid) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let bit = |signal: Signal| 1_u64 << (signal as i32 - 1);
    let may = [
        Signal::SIGPIPE,
        Signal::SIGXFSZ,
        // A worker ignores what is meant for the master.
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ];
    // 32 and 33 are the C library's own.
    let may = may.into_iter().map(bit).fold(0b11 << 31, |all, one| all | one);
    assert_eq!(mask("SigIgn:") & !may, 0, "{pid}: {status}");
    let must = bit(Signal::SIGPIPE) | bit(Signal::SIGXFSZ);
    assert_eq!(mask("SigIgn:") & must, must, "{pid}: {status}");
    let blocked = mask("SigBlk:");
    for signal in [Signal::SIGSEGV, Signal::SIGALRM, Signal::SIGTSTP, Signal::SIGABRT] {
        assert_eq!(blocked & bit(signal), 0, "{pid} blocks {signal}");
    }
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let strays: Vec<i32> = numbers.filter(|number| (50..100).contains(number)).collect();
    let shown: Vec<_> = strays
        .iter()
        .filter_map(|number| fs::read_link(format!("/proc/{pid}/fd/{number}")).ok())
        .filter(|to| to == Path::new("/dev/null"))
        .collect();
    assert_eq!(shown, Vec::<std::path::PathBuf>::new(), "{pid}");
}
