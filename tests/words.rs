//! What an operator reads when something is wrong: the thing is named, and what can be done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::harness::{Ended, Node, Setup, binary, can_mount, skipped};

/// Ends with 1, and says this.
fn refuses(setup: Setup, words: &[&str]) -> Ended {
    let ended = setup.run();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for text in words {
        assert!(ended.stderr.contains(text), "no {text:?}: {ended:?}");
    }
    ended
}

fn small() -> Setup {
    Setup::bare().arg("--docroot={dir}").arg("--mgmtlisten=127.0.0.1:0")
}

#[test]
fn an_option_given_again_counts_with_a_warning() {
    let setup = small().arg("--maxconns=5").arg("--maxconns=6").arg("--check-config");
    let ended = setup.arg("--docroot=/nonexistent").arg("--docroot={dir}").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("maxconns = 6"), "{ended:?}");
    for text in [
        "W: maxconns is given again, ignored is '5' (command line)",
        "W: docroot is given again, ignored is '/nonexistent' (command line)",
    ] {
        assert!(ended.stderr.contains(text), "{ended:?}");
    }
    let setup = small().arg("-d").arg("-d").arg("-s").arg("-s").arg("--check-config");
    let ended = setup.arg("--check-config").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for name in ["daemonize", "--skipconfig", "--check-config"] {
        assert!(ended.stderr.contains(&format!("W: {name} is given again")), "{ended:?}");
    }
}

/// As getopt_long(3) does for the older daemons: `--daemon` is in many an init script.
#[test]
fn the_beginning_of_an_option_s_name_is_enough_where_it_is_clear() {
    let ended = small().arg("--maxc=5").arg("--daemon").arg("--check").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("maxconns = 5\n"), "{ended:?}");
    assert!(ended.stdout.contains("daemonize"), "{ended:?}");
    let ended = small().arg("--m=1").run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn a_byte_order_mark_hides_no_line() {
    let ended = Setup::bare().config("\u{feff}docroot = {dir}\r\n").arg("--check-config").run();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(!ended.stdout.contains("/var/mogdata"), "{ended:?}");
}

#[test]
fn addresses_that_cannot_be_listened_on_are_told_why() {
    let listening = |address: &str| small().arg(&format!("--httplisten={address}"));
    let words = ["'[::ffff:127.0.0.1]:7500' is an IPv4 address: write 127.0.0.1:7500"];
    refuses(listening("[::ffff:127.0.0.1]:7500"), &words);
    refuses(listening("224.0.0.1:7500"), &["'224.0.0.1:7500' is the address of many"]);
    let words = ["cannot listen on 192.0.2.1:7500", "no interface of this machine has this"];
    refuses(listening("192.0.2.1:7500"), &words);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refuses(listening(&address), &[&address, "another process listens there"]);
}

#[test]
fn files_that_are_of_the_wrong_kind_are_told_so() {
    refuses(small().arg("--pidfile=/dev/null"), &["pidfile=/dev/null: it is no regular file"]);
    let setup = small().arg("--status-socket={dir}/none/socket");
    refuses(setup, &["cannot make the status socket", ": its folder does not exist"]);
    let setup = Setup::bare().arg("--config=/dev/zero");
    refuses(setup, &["config=/dev/zero: more than 1 MiB is no configuration"]);
    let setup = small().shell("exec 4</dev/null").arg("--status-fd=4");
    refuses(setup, &["status_fd = 4 is not a descriptor open for writing"]);
    let setup = Setup::bare().shell("export TMPDIR=/nonexistent").arg("--quickstart");
    refuses(setup, &["quickstart: /nonexistent: No such file"]);
}

#[test]
fn docroot_that_cannot_be_listed_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o311)).unwrap();
    let setup = Setup::bare().without_privilege().arg("--mgmtlisten=127.0.0.1:0");
    let setup = setup.arg(&format!("--docroot={}", folder.path().display()));
    refuses(setup, &["docroot=", "cannot be listed: Permission denied"]);
}

#[test]
fn daemonize_without_a_null_device_names_it() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    // Bare of everything once the shell has done its redirections.
    let become_node = "exec 9>&1 3<&0\nmount -t tmpfs none /dev\nexec \"$0\" \"$@\"";
    let setup = small().arg("-d").mount(become_node);
    refuses(setup, &["daemonize: /dev/null: No such file"]);
}

fn command(words: &[&str]) -> (Option<i32>, String) {
    let ended = Command::new(binary()).args(words).output().unwrap();
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[test]
fn status_says_what_is_wrong_with_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("file"), "").unwrap();
    drop(UnixListener::bind(at("left")).unwrap());
    let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
    for (name, text) in [
        ("none", "there is no such socket: the node does not run"),
        ("file", "this is no socket"),
        ("left", "nobody answers: the node has ended"),
        ("datagrams", "this is no node's socket"),
    ] {
        let (code, said) = command(&["status", &at(name)]);
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(said.starts_with(&format!("E: {}: {text}", at(name))), "{name}: {said}");
    }
}

#[test]
fn status_of_a_master_that_stands_still_says_so() {
    let node = Node::start();
    node.signal(Signal::SIGSTOP);
    let socket = node.docroot().join("status.sock");
    let (code, said) = command(&["status", socket.to_str().unwrap()]);
    node.signal(Signal::SIGCONT);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("status.sock: the node does not answer within 10 s"), "{said}");
}

#[test]
fn status_without_room_for_its_output_does_not_blame_the_node() {
    let node = Node::start();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let socket = node.docroot().join("status.sock");
    let ended = Command::new(binary()).arg("status").arg(socket).stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.starts_with("E: standard output: No space left"), "{said}");
}

#[test]
fn user_and_group_may_be_numbers() {
    if !geteuid().is_root() {
        return skipped("not root");
    }
    let setup = Setup::new().arg("--user=54321").arg("--group=65432");
    fs::set_permissions(setup.folder(), fs::Permissions::from_mode(0o777)).unwrap();
    for device in ["dev1", "dev2"] {
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(setup.folder().join(device), mode).unwrap();
    }
    let node = setup.start();
    node.client().put("/dev1/a", "mine").expect(201);
    let found = fs::metadata(node.file("/dev1/a")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((found.uid(), found.gid()), (54321, 65432));
    let words = ["user = 54321: this number has no group of its own: set group"];
    refuses(small().arg("--user=54321"), &words);
    for user in ["4294967295", "-1", "+0"] {
        let words = [format!("user = {user}: there is no such user")];
        refuses(small().arg(&format!("--user={user}")), &[&words[0]]);
    }
}

#[test]
fn a_service_manager_that_does_not_listen_is_told_of_once() {
    let socket = "/nonexistent/notify";
    let node = Setup::new().env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "1").start();
    let ready = node.all_events("ready").len();
    for generation in 2..5 {
        node.signal(Signal::SIGHUP);
        node.logs(&format!("reloaded: generation {generation}"));
    }
    assert_eq!((ready, node.logged(socket)), (1, 1));
    let node = Setup::new().env("NOTIFY_SOCKET", "").start();
    assert_eq!(node.logged("NOTIFY_SOCKET"), 0);
}

#[test]
fn an_interval_that_is_no_number_is_told() {
    for odd in ["x", "0", "-1", "0.5", "", "99999999999999999999"] {
        let node = Setup::new().env("MOG_DISK_USAGE_INTERVAL", odd).start();
        node.logs(&format!("MOG_DISK_USAGE_INTERVAL: '{odd}' is not a number of seconds, ignored"));
    }
    let node = Setup::new().env("MOG_DISK_USAGE_INTERVAL", " 5 ").start();
    assert_eq!(node.logged("MOG_DISK_USAGE_INTERVAL"), 0);
}
