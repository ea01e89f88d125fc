//! The units: well-formed, as locked up as README.md there says, and fit for what the node does.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use super::{INSTALLED, NODE, contrib, output, scratch, shipped, tool};
use crate::harness::{Client, can_mount, skipped, until, until_some};

/// The units as they would be installed, with the executable that there is.
fn units() -> TempDir {
    let folder = scratch();
    let service = shipped("systemd/rmogstored.service");
    assert!(service.contains(INSTALLED));
    fs::write(folder.path().join("rmogstored.service"), service.replace(INSTALLED, NODE)).unwrap();
    fs::copy(contrib("systemd/rmogstored.socket"), folder.path().join("rmogstored.socket"))
        .unwrap();
    folder
}

fn with_drop_in(folder: &TempDir) {
    let place = folder.path().join("rmogstored.service.d");
    fs::create_dir(&place).unwrap();
    let drop_in = "rmogstored.service.d/separate-user.conf";
    fs::copy(contrib("systemd").join(drop_in), folder.path().join(drop_in)).unwrap();
}

fn analyze(folder: &TempDir, args: &[&str]) -> Option<String> {
    let mut analyze = tool("systemd-analyze")?;
    analyze.current_dir(folder.path());
    Some(output(analyze, args))
}

fn exposure(folder: &TempDir) -> Option<f64> {
    let text = analyze(folder, &["security", "--offline=true", "./rmogstored.service"])?;
    let line = text.lines().find(|line| line.contains("Overall exposure level"));
    let score = line.and_then(|line| line.rsplit(": ").next()?.split(' ').next()?.parse().ok());
    Some(score.unwrap_or_else(|| panic!("no score in {text}")))
}

/// The number in README.md's row.
fn recorded(row: &str) -> f64 {
    let text = shipped("systemd/README.md");
    let mut rows = text.lines().filter_map(|line| line.strip_prefix(&format!("| {row} | ")));
    rows.find_map(|rest| rest.strip_suffix(" |")?.parse().ok()).unwrap()
}

#[test]
fn units_are_well_formed() {
    let folder = units();
    let args = ["verify", "--man=no", "./rmogstored.service", "./rmogstored.socket"];
    let Some(text) = analyze(&folder, &args) else { return };
    assert_eq!(text, "");
    with_drop_in(&folder);
    assert_eq!(analyze(&folder, &args).unwrap(), "");
}

#[test]
fn units_are_as_locked_up_as_the_readme_says() {
    let folder = units();
    let Some(score) = exposure(&folder) else { return };
    println!("exposure {score}");
    assert!(score <= recorded("`rmogstored.service`"), "{score}");
    with_drop_in(&folder);
    let score = exposure(&folder).unwrap();
    assert!(score <= recorded("with `separate-user.conf`"), "{score}");
}

/// The system calls that one filter line allows or forbids, groups resolved.
fn calls(line: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left: Vec<String> = line.split(' ').map(str::to_owned).collect();
    while let Some(name) = left.pop() {
        if name.starts_with('@') {
            let text = output(tool("systemd-analyze").unwrap(), ["syscall-filter", &name]);
            let members = text.lines().filter_map(|line| line.strip_prefix("    "));
            left.extend(members.filter(|line| !line.starts_with('#')).map(str::to_owned));
        } else {
            found.insert(name);
        }
    }
    found
}

/// What is left of the filter lines of a unit.
fn filter(unit: &str) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        match line.strip_prefix('~') {
            Some(line) => allowed = &allowed - &calls(line),
            None if line.is_empty() => allowed.clear(),
            None => allowed.extend(calls(line)),
        }
    }
    allowed
}

/// The calls that strace counted: the last word of each row.
fn counted(text: &str) -> BTreeSet<String> {
    let rows =
        text.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    let names = rows.filter_map(|line| line.split_whitespace().last());
    names.filter(|name| *name != "total").map(str::to_owned).collect()
}

#[test]
fn system_call_filter_allows_what_the_node_does() {
    if tool("systemd-analyze").is_none() {
        return;
    }
    let Some(mut strace) = tool("strace") else { return };
    let folder = scratch();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("data/dev1")).unwrap();
    let addresses = free_addresses();
    strace
        // The node is our child, the tracer is on its own.
        .args(["-D", "-f", "-c", "-S", "name", "-o"])
        .arg(path("calls"))
        .arg(NODE)
        .arg(format!("--docroot={}", path("data").display()))
        .arg(format!("--pidfile={}", path("node.pid").display()))
        .arg(format!("--status-socket={}", path("status.sock").display()))
        .arg(format!("--httplisten={}", addresses[0]))
        .arg(format!("--mgmtlisten={}", addresses[1]))
        .stderr(Stdio::null());
    let mut node = Process(strace.spawn().unwrap());
    until("the pid file", || path("node.pid").exists());
    exercise(addresses[0], addresses[1]);
    let pid = Pid::from_raw(node.0.id().cast_signed());
    let mut side = Client::connect(addresses[1]);
    side.send("watch\r\n");
    side.take_through(b".\n");
    kill(pid, Signal::SIGHUP).unwrap();
    until("the new workers", || generation(&path("status.sock")) == Some(2));
    side.take_through(b".\n"); // from one of them
    until("the node to serve", || serves(addresses[0]));
    kill(pid, Signal::SIGTERM).unwrap();
    node.ends();
    let report = || fs::read_to_string(path("calls")).ok().filter(|text| text.ends_with("total\n"));
    let made = counted(&until_some("strace's report", report));
    assert!(made.contains("openat2") && made.len() > 30, "{made:?}");
    for unit in ["systemd/rmogstored.service", "systemd/rmogstored.service.d/separate-user.conf"] {
        let refused = &made - &filter(&shipped(unit));
        // Asked once, to make sure that privileges are gone for good: EPERM is the answer wanted.
        let refused: Vec<_> = refused.iter().filter(|name| *name != "setresuid").collect();
        assert!(refused.is_empty(), "{unit} refuses {refused:?}");
    }
}

/// The generation that all workers are of, as the status socket tells it.
fn generation(socket: &Path) -> Option<u64> {
    let mut document = String::new();
    UnixStream::connect(socket).ok()?.read_to_string(&mut document).ok()?;
    let document: serde_json::Value = serde_json::from_str(&document).ok()?;
    let workers = document["workers"].as_array()?;
    let generations: Option<Vec<u64>> =
        workers.iter().map(|worker| worker["generation"].as_u64()).collect();
    generations.filter(|all| all.windows(2).all(|pair| pair[0] == pair[1]))?.first().copied()
}

fn serves(http: SocketAddr) -> bool {
    let mut answer = [0; 12];
    std::net::TcpStream::connect(http).is_ok_and(|mut stream| {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
    })
}

/// A bit of everything.
fn exercise(http: SocketAddr, mgmt: SocketAddr) {
    let mut client = Client::connect(http);
    let path = "/dev1/0/000/000/0000000001.fid";
    for length in [10, 3_000_000] {
        client.put(path, vec![b'x'; length]).expect(201);
        client.get(path).expect(200);
    }
    let mut side = Client::connect(mgmt);
    side.send(format!("MD5 {path} fsck\r\nwatch\r\n"));
    assert!(side.line().contains("MD5="));
    side.take_through(b".\n");
    client.delete(path).expect(204);
}

fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn ends(&mut self) {
        until_some("the end of a process", || self.0.try_wait().unwrap());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn node_starts_with_the_first_connection_to_systemd_s_sockets() {
    let Some(mut activate) = tool("systemd-socket-activate") else { return };
    let folder = scratch();
    fs::create_dir(folder.path().join("dev1")).unwrap();
    let [http, mgmt] = free_addresses();
    activate
        .args([format!("--listen={http}"), format!("--listen={mgmt}"), NODE.to_owned()])
        .arg(format!("--docroot={}", folder.path().display()))
        .args([format!("--httplisten={http}"), format!("--mgmtlisten={mgmt}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // It becomes the node.
    let mut node = Process(activate.spawn().unwrap());
    until("systemd's sockets", || listens(mgmt));
    Client::connect(http).get("/").expect(200);
    let mut side = Client::connect(mgmt);
    side.send("size /nothing\r\n");
    assert_eq!(side.line(), "/nothing -1\r\n");
    kill(Pid::from_raw(node.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    node.ends();
}

/// Looks without connecting: a connection would start the node.
fn listens(address: SocketAddr) -> bool {
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
    })
}

/// What `ProtectSystem=strict` and `ReadWritePaths=` do: a namespace that receives the host's
/// mounts, read-only but for the docroot. The host's side is a shell, to be told of mounts.
#[test]
fn disks_mounted_later_reach_the_node_in_its_sandbox() {
    if !geteuid().is_root() || !can_mount() {
        return skipped("needs root in a namespace where mounts can be made");
    }
    let folder = scratch();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [http, mgmt] = free_addresses();
    let sandbox = "mount --rbind mogdata mogdata; mount -o remount,bind,ro .; \
        exec \"$NODE\" --docroot=\"$PWD/mogdata\" --httplisten=$HTTP --mgmtlisten=$MGMT";
    let host = format!(
        "set -e; mount -t tmpfs none \"$PWD\"; cd \"$PWD\"; mkdir -p mogdata/dev1; \
         mount --make-shared .; \
         unshare -m --propagation slave sh -ec 'cd \"$PWD\"; {sandbox}' & node=$!; \
         while read -r line; do eval \"$line\"; done; kill -TERM $node; wait $node"
    );
    let mut shell = Command::new("unshare");
    // Whatever happens, nothing outlives the shell.
    shell.args(["-m", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &host]);
    shell.current_dir(folder.path()).stdout(Stdio::null());
    shell.env("NODE", NODE).env("HTTP", http.to_string()).env("MGMT", mgmt.to_string());
    shell.env("PWD", folder.path()).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut host = Process(shell.spawn().unwrap());
    let mut stdin = host.0.stdin.take().unwrap();
    until("the node", || std::net::TcpStream::connect(http).is_ok());
    let path = "/dev1/0/000/000/0000000001.fid";
    Client::connect(http).put(path, "below the mount").expect(201);

    writeln!(stdin, "mount -t tmpfs none mogdata/dev1").unwrap();
    until("the new disk", || Client::connect(http).get(path).status == 404);
    Client::connect(http).put(path, "on the mount").expect(201);
    assert_eq!(Client::connect(http).get(path).expect(200).body, b"on the mount");

    // An idle disk can be taken away; the node lets go of it after a second or two.
    let outside = scratch();
    let away = outside.path().join("away");
    let line = format!("until umount mogdata/dev1; do sleep 0.1; done; touch {}", away.display());
    writeln!(stdin, "{line}").unwrap();
    until("the unmounted disk", || away.exists());
    // The bare mount point is not written to; another disk is used again.
    Client::connect(http).put(path, "nowhere").expect(503);
    writeln!(stdin, "mount -t tmpfs none mogdata/dev1").unwrap();
    until("another disk", || Client::connect(http).get(path).status == 404);
    drop(stdin);
    host.ends();
}

/// A node as the drop-in has it cannot be tried without systemd; its privileges can.
#[test]
fn root_with_the_drop_in_s_capabilities_can_be_the_master() {
    if !geteuid().is_root() || tool("setpriv").is_none() {
        return skipped("needs root and setpriv");
    }
    let drop_in = shipped("systemd/rmogstored.service.d/separate-user.conf");
    let line = drop_in.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let kept: Vec<String> = line.unwrap().split(' ').map(capability).collect();
    let set = format!("-all,{}", kept.join(","));
    let folder = scratch();
    fs::create_dir(folder.path().join("dev1")).unwrap();
    for place in [folder.path().to_owned(), folder.path().join("dev1")] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let [http, mgmt] = free_addresses();
    let mut node = Command::new("setpriv");
    node.arg("--no-new-privs")
        .arg(format!("--bounding-set={set}"))
        .arg(NODE)
        .arg(format!("--docroot={}", folder.path().display()))
        .args([format!("--httplisten={http}"), format!("--mgmtlisten={mgmt}")])
        .args(["--user=nobody", "--workers=1"])
        .stderr(Stdio::null());
    let mut node = Process(node.spawn().unwrap());
    until("the node", || std::net::TcpStream::connect(http).is_ok());
    exercise(http, mgmt);
    let pid = Pid::from_raw(node.0.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    node.ends();
}

/// setpriv's spelling.
fn capability(name: &str) -> String {
    let name = name.strip_prefix("CAP_").unwrap();
    format!("+{}", name.to_ascii_lowercase())
}
