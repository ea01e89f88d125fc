//! 5: a device that was a mount, and what becomes of that knowledge.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::unistd::Pid;

use crate::chain::Chain;
use crate::harness::{
    DEADLINE, Mode, Node, STATUS_FD, Setup, SlowFs, binary, can_mount, has_fuse, names_in, skipped,
    until,
};
use crate::load::process;

const MODES: [&str; 2] = ["device", "2"];
/// A folder is opened anew, and a docroot listed, at such intervals.
const NOTICED: Duration = Duration::from_secs(10);

/// A node whose dev1 was mounted and is a bare folder now: the one that this process sees too.
fn with_unmounted(test: impl Fn(&Chain) + Sync) {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    std::thread::scope(|scope| {
        for workers in MODES {
            let test = &test;
            scope.spawn(move || {
                let setup = Setup::new().workers(workers).env("MOG_DISK_USAGE_INTERVAL", "1");
                let setup = setup.mount("mount -t tmpfs -o size=8m disk {dir}/dev1");
                let chain = Chain::start(setup);
                chain.node.client().put("/dev1/there", "x").expect(201);
                unmount(&chain.node, "{dir}/dev1");
                refused(&chain.node, "/dev1", "/dev1");
                test(&chain);
            });
        }
    });
}

/// Waits until nobody is at it any more.
fn unmount(node: &Node, folder: &str) {
    until("it to be unmounted", || node.in_its_mounts(&format!("umount {folder}")).is_ok());
}

/// Every worker says so, nothing is stored there, and others are served.
fn refused(node: &Node, device: &str, bare: &str) {
    for n in 0..10 {
        node.client().put(&format!("{device}/new{n}"), "lost").expect(503);
        node.client().get(&format!("{device}/there")).expect(503);
    }
    assert_eq!(names_in(&node.file(bare)), [""; 0]);
    node.client().put("/dev2/new", "new").expect(201);
}

fn stored(node: &Node, path: &str) {
    let begun = Instant::now();
    until("it to be stored", || node.client().put(path, "x").status == 201);
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
}

fn forget(node: &Node, device: &str) -> Output {
    let socket = node.file("status.sock");
    Command::new(binary()).args(["device", "--forget", device]).arg(socket).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn it_stays_refused_after_a_reload() {
    with_unmounted(|chain| {
        for _ in 0..2 {
            let seen = chain.seen();
            chain.node.signal(Signal::SIGHUP);
            chain.node.event_after(seen, "reloaded");
            refused(&chain.node, "/dev1", "/dev1");
        }
    });
}

#[test]
fn it_stays_refused_when_the_workers_are_killed() {
    with_unmounted(|chain| {
        let node = &chain.node;
        let before = node.workers();
        before.iter().for_each(|worker| kill(*worker, Signal::SIGKILL).unwrap());
        until("new workers", || {
            let now = node.workers();
            now.len() == before.len() && now.iter().all(|pid| !before.contains(pid))
        });
        refused(node, "/dev1", "/dev1");
        assert_eq!(node.status()["devices"][0]["state"], "unmounted");
    });
}

#[test]
fn it_stays_refused_after_an_upgrade() {
    with_unmounted(|chain| {
        let (old, new) = chain.begin_upgrade();
        refused(&chain.node, "/dev1", "/dev1");
        kill(old, Signal::SIGQUIT).unwrap();
        until("the old master to go", || crate::chain::is_gone(old));
        refused(&chain.node, "/dev1", "/dev1");
        let status = chain.node.status();
        assert_eq!(status["pid"], new.as_raw());
        assert_eq!(status["devices"][0]["state"], "unmounted");
        chain.upgrade();
        refused(&chain.node, "/dev1", "/dev1");
    });
}

#[test]
fn it_stays_refused_after_an_upgrade_that_is_rolled_back() {
    with_unmounted(|chain| {
        let (_, new) = chain.begin_upgrade();
        let seen = chain.seen();
        kill(new, Signal::SIGQUIT).unwrap();
        chain.node.event_after(seen, "upgrade_failed");
        refused(&chain.node, "/dev1", "/dev1");
        chain.node.in_its_mounts("mount -t tmpfs -o size=8m disk {dir}/dev1").unwrap();
        stored(&chain.node, "/dev1/again");
        assert_eq!(names_in(&chain.node.file("/dev1")), [""; 0]);
    });
}

#[test]
fn the_operator_may_say_that_the_folder_is_the_device() {
    with_unmounted(|chain| {
        let node = &chain.node;
        let unknown = forget(node, "dev77");
        assert_eq!(
            (unknown.status.code(), said(&unknown).contains("no device dev77")),
            (Some(1), true)
        );
        // The socket's mode keeps others away; should it not, they are told.
        fs::set_permissions(node.docroot(), fs::Permissions::from_mode(0o711)).unwrap();
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(node.file("status.sock"), open).unwrap();
        let stranger = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(chain.path("rmogstored"))
            .args(["device", "--forget", "dev1"])
            .arg(node.file("status.sock"))
            .output()
            .unwrap();
        assert!(said(&stranger).contains("only root"), "{stranger:?}");
        refused(node, "/dev1", "/dev1");
        let path = node.file("/dev1").to_str().unwrap().to_owned();
        let done = forget(node, &path);
        assert!(done.status.success(), "{done:?}");
        node.client().put("/dev1/new", "new").expect(201);
        assert!(node.file("/dev1/new").exists());
        assert_eq!(node.status()["devices"][0]["state"], "ok");
        node.signal(Signal::SIGHUP);
        node.event("reloaded");
        node.client().put("/dev1/newer", "new").expect(201);
    });
}

#[test]
fn a_folder_that_is_made_anew_is_the_device() {
    with_unmounted(|chain| {
        let node = &chain.node;
        fs::remove_dir(node.file("/dev1")).unwrap();
        node.logs("dev1 is gone");
        fs::create_dir(node.file("/dev1")).unwrap();
        stored(node, "/dev1/new");
    });
}

/// One end with a name that says nothing keeps nobody, and does not stay for ever.
#[test]
fn whoever_connects_is_given_the_status_whatever_others_ask() {
    let node = Node::start();
    let name = format!("rmogstored-request-test-{}", std::process::id());
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).unwrap();
    let path = node.file("status.sock");
    connect(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    let mut silent = UnixStream::from(fd);
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    silent.write_all(b"{\"forget_mount\":").unwrap();
    for _ in 0..3 {
        assert_eq!(node.status()["version"], 1);
        assert!(said(&forget(&node, "dev9")).contains("no device dev9"));
    }
    let mut answer = String::new();
    silent.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "", "it was given up");
}

// --- require_mount -------------------------------------------------------------------------

#[test]
fn where_mounts_are_required_a_bare_folder_is_refused_from_the_start() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    for given in ["--require-mount", "--config={dir}/c"] {
        let setup = Setup::new().arg(given).env("MOG_DISK_USAGE_INTERVAL", "1");
        fs::write(setup.folder().join("c"), "require_mount = yes\n").unwrap();
        fs::write(setup.folder().join("file"), "x").unwrap();
        let node = setup.mount("mount -t tmpfs -o size=8m disk {dir}/dev2").start();
        refused(&node, "/dev1", "/dev1");
        assert_eq!(node.status()["devices"][0]["state"], "unmounted");
        assert_ne!(node.client().get("/dev1/usage").status, 200);
        node.client().get("/file").expect(200);
        node.logs("dev1 is no mount, as require_mount demands");
        let asked = forget(&node, "dev1");
        assert!(said(&asked).contains("stays refused: require_mount"), "{asked:?}");
        refused(&node, "/dev1", "/dev1");
        node.in_its_mounts("mount -t tmpfs -o size=8m disk {dir}/dev1").unwrap();
        stored(&node, "/dev1/new");
        node.logs("dev1 is mounted now");
        assert_eq!(names_in(&node.file("/dev1")), [""; 0]);
    }
}

// --- links -----------------------------------------------------------------------------------

/// A node whose docroot is a filesystem of its own and whose dev1 is a link out of it, to
/// `{dir}/LINK`; `{dir}/MOUNT` is a mount.
fn linked(mount: &str, link: &str) -> Node {
    let words = [
        "--docroot={dir}/root",
        "--httplisten=127.0.0.1:0",
        "--mgmtlisten=127.0.0.1:0",
        "--status-socket={dir}/status.sock",
        STATUS_FD,
    ];
    let setup = words.into_iter().fold(Setup::bare(), |setup, word| setup.arg(word));
    let setup = setup.env("MOG_DISK_USAGE_INTERVAL", "1");
    for folder in ["root", mount, link] {
        fs::create_dir_all(setup.folder().join(folder)).unwrap();
    }
    let line = format!(
        "mount -t tmpfs root {{dir}}/root; mount -t tmpfs disk {{dir}}/{mount}\n\
         mkdir -p {{dir}}/root/dev2 {{dir}}/{link}; ln -s {{dir}}/{link} {{dir}}/root/dev1"
    );
    setup.mount(&line).start()
}

#[test]
fn a_link_to_a_mount_or_into_one_is_refused_when_that_is_unmounted() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    for link in ["disk", "disk/below/dev1"] {
        let node = linked("disk", link);
        node.client().put("/dev1/there", "x").expect(201);
        unmount(&node, "{dir}/disk");
        refused(&node, "/dev1", link);
        node.in_its_mounts(&format!("mount -t tmpfs disk {{dir}}/disk; mkdir -p {{dir}}/{link}"))
            .unwrap();
        stored(&node, "/dev1/again");
        assert_eq!(names_in(&node.file(link)), [""; 0]);
    }
}

/// The mount point is on a filesystem that is neither the docroot's nor the root's.
#[test]
fn a_mount_on_a_mount_is_refused_when_one_or_both_are_unmounted() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let setup = Setup::new().env("MOG_DISK_USAGE_INTERVAL", "1");
    fs::create_dir_all(setup.folder().join("outer/disk")).unwrap();
    fs::remove_dir(setup.folder().join("dev1")).unwrap();
    symlink(setup.folder().join("outer/disk"), setup.folder().join("dev1")).unwrap();
    let node = setup
        .mount("mount -t tmpfs outer {dir}/outer; mkdir {dir}/outer/disk")
        .shell("mount -t tmpfs disk {dir}/outer/disk")
        .start();
    node.client().put("/dev1/there", "x").expect(201);
    unmount(&node, "{dir}/outer/disk");
    node.client().put("/dev1/new", "lost").expect(503);
    assert_eq!(node.in_its_mounts("ls -A {dir}/outer/disk").unwrap(), "");
    unmount(&node, "{dir}/outer");
    refused(&node, "/dev1", "outer/disk");
}

/// As ever.
#[test]
fn folders_and_links_on_the_docroot_s_filesystem_are_served() {
    let setup = Setup::new();
    fs::create_dir(setup.folder().join("elsewhere")).unwrap();
    symlink("elsewhere", setup.folder().join("dev3")).unwrap();
    let node = setup.start();
    for device in 1..=3 {
        node.client().put(&format!("/dev{device}/new"), "new").expect(201);
    }
}

// --- what a successor is told ----------------------------------------------------------------

/// A disk that can hang, and the node with it.
struct Hanging {
    disk: SlowFs,
    chain: Chain,
}

impl Hanging {
    fn start(stall_timeout: &str) -> Option<Hanging> {
        if !has_fuse() {
            skipped("not root, or no /dev/fuse");
            return None;
        }
        let setup = Setup::new().workers("device").arg(&format!("--stall-timeout={stall_timeout}"));
        let disk = SlowFs::mount(&setup.folder().join("dev1"));
        let chain = Chain::start(setup);
        until("its usage", || chain.node.client().get("/dev1/usage").status == 200);
        Some(Hanging { disk, chain })
    }

    /// A successor beside the old workers, which stand still.
    fn succeed(&self) -> Vec<Pid> {
        let (old, new) = self.chain.begin_upgrade();
        assert_eq!(old, self.chain.node.pid());
        let workers = process::children_of(old).into_iter().filter(|pid| *pid != new);
        let workers: Vec<Pid> = workers.collect();
        workers.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
        workers
    }

    fn end(&self, stopped: &[Pid]) {
        self.disk.set(Mode::Work);
        stopped.iter().for_each(|pid| kill(*pid, Signal::SIGCONT).unwrap());
    }
}

#[test]
fn a_successor_has_its_predecessor_s_numbers_at_once() {
    let Some(node) = Hanging::start("60") else { return };
    let before = node.chain.node.client().get("/dev1/usage").expect(200).body;
    node.disk.set(Mode::Hang);
    let stopped = node.succeed();
    let asked = Instant::now();
    let after = node.chain.node.client().get("/dev1/usage").expect(200).body;
    println!("usage after {:?}", asked.elapsed());
    assert!(asked.elapsed() < DEADLINE / 4);
    assert_eq!(String::from_utf8_lossy(&after), String::from_utf8_lossy(&before));
    let status = node.chain.node.status();
    assert!(status["devices"][0]["total_kib"].is_u64(), "{status}");
    node.end(&stopped);
}

#[test]
fn a_successor_knows_that_a_device_has_stalled() {
    let Some(node) = Hanging::start("1") else { return };
    node.disk.set(Mode::Hang);
    let mut waiting = node.chain.node.client();
    waiting.send("GET /dev1/file HTTP/1.1\r\nHost: n\r\n\r\n");
    until("the stall", || node.chain.node.status()["devices"][0]["state"] == "stalled");
    let stopped = node.succeed();
    assert_eq!(node.chain.node.status()["devices"][0]["state"], "stalled");
    node.chain.node.client().get("/dev1/file").expect(503);
    assert!(node.chain.node.logged("dev1 is stalled") <= 1);
    node.end(&stopped);
    until("it to be well", || node.chain.node.client().get("/dev1/usage").status == 200);
}

/// What is announced may be anything.
#[test]
fn a_legacy_that_makes_no_sense_is_left_aside() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    for lie in
        ["RMOGSTORED_LEGACY=0", "RMOGSTORED_LEGACY=99", "RMOGSTORED_LEGACY=${CMOGSTORED_FD%,*}"]
    {
        let chain = Chain::start(Setup::new());
        chain.replace_by_script(&format!("export {lie}\nexec {{dir}}/real \"$@\""));
        chain.upgrade();
        chain.node.client().put("/dev1/new", "new").expect(201);
        let told = chain.node.logged("what the predecessor knew of the devices cannot be read");
        assert_eq!(told, 1, "{lie}");
    }
}
