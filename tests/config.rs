//! Command line and configuration, as an operator meets them.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::Signal;

use crate::harness::{Client, Ended, Node, STATUS_FD, Setup};

const LOCAL: [&str; 2] = ["--httplisten=127.0.0.1:0", "--mgmtlisten=127.0.0.1:0"];

#[test]
fn version_and_help_are_printed() {
    for option in ["-V", "--version"] {
        let ended = Setup::bare().arg(option).run();
        assert_eq!(ended.code, Some(0));
        assert!(said(&ended).starts_with(&format!("rmogstored {}", env!("CARGO_PKG_VERSION"))));
    }
    for option in ["-?", "--help"] {
        let ended = Setup::bare().arg(option).run();
        assert_eq!(ended.code, Some(0));
        assert!(said(&ended).contains("--httplisten") && said(&ended).contains("--docroot"));
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [&["--no-such-option"][..], &["--docroot"], &["stray"]] {
        let setup = arguments.iter().fold(Setup::bare(), |setup, argument| setup.arg(argument));
        let ended = setup.run();
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(!said(&ended).is_empty());
    }
}

#[test]
fn a_docroot_that_does_not_exist_is_an_error() {
    fails(Setup::bare().arg("--docroot={dir}/missing").arg(LOCAL[0]), &["missing"]);
}

#[test]
fn without_listeners_both_defaults_are_taken() {
    let shown = checked(Setup::bare().arg("--docroot={dir}"));
    for line in ["httplisten = 0.0.0.0:7500", "mgmtlisten = 0.0.0.0:7501", "maxconns = 10000"] {
        assert!(shown.contains(line), "no {line:?} in\n{shown}");
    }
}

#[test]
fn with_a_listener_no_default_is_added() {
    let shown = checked(Setup::bare().arg("--docroot={dir}").arg("--mgmtlisten=127.0.0.1:7999"));
    assert!(shown.contains("mgmtlisten = 127.0.0.1:7999") && !shown.contains("7500"), "{shown}");
}

#[test]
fn addresses_have_four_forms() {
    for (written, meant) in [
        ("127.0.0.1:1234", "127.0.0.1:1234"),
        (":1234", "0.0.0.0:1234"),
        ("1234", "0.0.0.0:1234"),
        ("[::1]:1234", "[::1]:1234"),
    ] {
        let shown =
            checked(Setup::bare().arg("--docroot={dir}").arg(&format!("--httplisten={written}")));
        assert!(shown.contains(&format!("httplisten = {meant}")), "{written}:\n{shown}");
    }
    for written in ["", "a", "1.2.3:80", "127.0.0.1:", "127.0.0.1:65536", "::1:80", "[::1]"] {
        let setup = Setup::bare().arg("--docroot={dir}").arg(&format!("--httplisten={written}"));
        let ended = setup.arg("--check-config").run();
        assert!(matches!(ended.code, Some(1 | 2)), "{written}: {ended:?}");
    }
}

#[test]
fn ipv6_is_served() {
    let node = Setup::new().http("[::1]:0").start();
    assert!(node.http().is_ipv6());
    node.client().stays_open();
}

#[test]
fn a_file_may_give_everything() {
    let text = "# a comment\n\n  docroot = {dir}  \nhttplisten=127.0.0.1:0\n\
                mgmtlisten = 127.0.0.1:0\nhttpgetlisten = 127.0.0.1:0\nmaxconns = 100\n\
                workers = 1";
    let node = Setup::bare().config(text).arg(STATUS_FD).start();
    node.client().stays_open();
    node.sidechannel();
    Client::connect(node.address("httpget")).stays_open();
}

#[test]
fn an_unknown_key_is_a_warning_with_file_line_and_nearest_key() {
    let setup = Setup::bare().config("docroot = {dir}\nhtplisten = 127.0.0.1:0\n");
    let ended = setup.arg("--check-config").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in ["node.conf", "2", "htplisten", "httplisten"] {
        let warned =
            ended.stderr.lines().any(|line| line.contains("htplisten") && line.contains(part));
        assert!(warned, "no {part:?}: {ended:?}");
    }
}

#[test]
fn a_bad_value_is_an_error_with_file_and_line() {
    for line in [
        "httplisten = nonsense",
        "maxconns = many",
        "workers = none",
        "header_timeout = soon",
        "aio_threads = 0",
        "aio_threads = 101",
    ] {
        let ended = fails(
            Setup::bare().config(&format!("docroot = {{dir}}\n\n{line}\n")),
            &["node.conf", "3"],
        );
        let key = line.split(' ').next().expect("a key");
        assert!(said(&ended).contains(key), "{ended:?}");
    }
}

#[test]
fn a_missing_file_is_an_error() {
    fails(Setup::bare().arg("--config={dir}/none.conf"), &["none.conf"]);
}

#[test]
fn errors_are_found_before_anything_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::bare()
        .arg(&format!("--httplisten={address}"))
        .config("docroot = {dir}\nworkers = many\n");
    let ended = fails(setup, &["workers"]);
    assert!(!said(&ended).contains("in use"), "{ended:?}");
}

#[test]
fn server_none_is_the_sidechannel_only() {
    let node = Setup::new().config("server = none\n").start();
    assert!(node.all_events("listening").iter().all(|event| event["service"] == "mgmt"));
    node.sidechannel();
}

#[test]
fn server_perlbal_is_served_by_ourselves_with_a_warning() {
    let node = Setup::new().arg("--server=perlbal").start();
    node.logs("W: using internal HTTP for 'server = perlbal' instead");
    node.client().stays_open();
}

#[test]
fn another_server_is_an_error() {
    let text = "E: 'server = apache' not understood by rmogstored";
    fails(Setup::new().config("server = apache\n"), &[text]);
}

#[test]
fn serverbin_is_ignored_with_a_warning() {
    let node = Setup::new().config("serverbin = /usr/bin/perlbal\n").start();
    node.logs("W: serverbin = /usr/bin/perlbal ignored");
}

#[test]
fn files_of_the_older_daemons_load_unchanged() {
    let perl = "daemonize = 1\nhttplisten = 0.0.0.0:7500\nmgmtlisten = 0.0.0.0:7501\n\
                docroot = {dir}\niostat = 1\nmaxconns = 10000\n";
    let old = "# node 7\ndaemonize\niostat\nserver = none\ndocroot={dir}\npidfile = {dir}/pid\n";
    for text in [perl, old] {
        checked(Setup::bare().config(text));
    }
}

#[test]
fn skipconfig_is_accepted() {
    for option in ["-s", "--skipconfig"] {
        Setup::new().arg(option).start().client().stays_open();
    }
}

#[test]
fn worker_processes_is_the_compatible_spelling() {
    for option in ["-W3", "--worker-processes=3"] {
        assert_eq!(Setup::new().arg(option).start().workers().len(), 3);
    }
    fails(Setup::new().arg("-W3").workers("2"), &["workers"]);
}

#[test]
fn several_files_need_multi() {
    let setup = Setup::bare().config_named("a.conf", "docroot={dir}/dev1\n");
    fails(setup.config_named("b.conf", "docroot={dir}/dev2\n"), &["--multi"]);
}

#[test]
fn multi_serves_several_docroots() {
    let node = multi("docroot={dir}/x", "docroot={dir}/y").arg(STATUS_FD).start();
    let mut clients = http_listeners(&node)
        .into_iter()
        .map(|(docroot, address)| (docroot, Client::connect(address)));
    let (first, mut one) = clients.next().expect("two");
    let (second, mut other) = clients.next().expect("two");
    assert!(first.ends_with("/x") && second.ends_with("/y"), "{first} {second}");
    one.put("/dev1/a", "x").expect(201);
    other.get("/dev1/a").expect(404);
    other.put("/dev1/a", "y").expect(201);
    assert_eq!(one.get("/dev1/a").body, b"x");
    assert_eq!(node.content("/y/dev1/a"), b"y");
}

#[test]
fn multi_takes_no_docroot_or_listener_from_the_command_line() {
    for option in ["--docroot={dir}", LOCAL[0], LOCAL[1]] {
        let name = option.split('=').next().expect("a name");
        fails(multi("docroot={dir}/x", "docroot={dir}/y").arg(option), &[name]);
    }
}

#[test]
fn multi_wants_a_docroot_and_a_listener_in_each_file() {
    fails(multi("docroot={dir}/x", ""), &["b.conf", "docroot"]);
    let setup = Setup::bare().arg("--multi").config_named("c.conf", "docroot = {dir}\n");
    fails(setup, &["c.conf"]);
}

#[test]
fn multi_wants_different_docroots() {
    let ended = fails(multi("docroot={dir}/x", "docroot={dir}/x"), &["docroot"]);
    assert!(said(&ended).contains("/x"), "{ended:?}");
}

#[test]
fn docroot_and_pidfile_of_file_and_command_line_must_be_the_same() {
    let setup = || Setup::bare().arg(LOCAL[0]).arg("--docroot={dir}");
    checked(setup().config("docroot = {dir}\n"));
    fails(setup().config("docroot = {dir}/dev1\n"), &["docroot"]);
    checked(setup().arg("--pidfile={dir}/pid").config("pidfile = {dir}/pid\n"));
    fails(setup().arg("--pidfile={dir}/pid").config("pidfile = {dir}/other\n"), &["pidfile"]);
}

#[test]
fn otherwise_the_command_line_wins() {
    let setup = Setup::bare().arg("--docroot={dir}").arg("--maxconns=7").arg(LOCAL[0]);
    let shown = checked(setup.config("maxconns = 99\n"));
    assert!(shown.contains("maxconns = 7\n"), "{shown}");
}

#[test]
fn daemonize_takes_absolute_paths_only() {
    let ending = "relative paths are incompatible with --daemonize and SIGUSR2 upgrades";
    let setup = || Setup::bare().shell("cd {dir}").arg(LOCAL[0]).arg("--daemonize");
    fails(setup().arg("--docroot=."), &["docroot=. must use an absolute path", ending]);
    let pidfile = setup().arg("--docroot={dir}").arg("--pidfile=pid");
    fails(pidfile, &["pidfile=pid must use an absolute path", ending]);
    let path = setup().arg("--docroot={dir}").shell("PATH=bin:$PATH");
    fails(path, &["PATH environment contains relative path: bin", ending]);
}

#[test]
fn daemonize_takes_no_relative_config() {
    let setup = Setup::bare().shell("cd {dir}; echo docroot={dir} > relative.conf");
    let setup = setup.arg(LOCAL[0]).arg("--daemonize").arg("--config=relative.conf");
    fails(setup, &["config=relative.conf must use an absolute path"]);
}

#[test]
fn a_low_limit_of_descriptors_is_a_warning() {
    let node = Setup::new().shell("ulimit -n 64").start();
    node.logs("RLIMIT_NOFILE");
    node.client().stays_open();
}

#[test]
fn the_soft_limit_of_descriptors_is_raised() {
    let node = Setup::new().shell("ulimit -Sn 50").arg("--maxconns=200").start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("there");
    let soft: u64 = line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).expect("a number");
    assert!(soft >= 200, "{line}");
}

#[test]
fn pidfile_is_written_and_removed() {
    let mut node = Setup::new().arg("--pidfile={dir}/pid").start();
    assert_eq!(node.content("/pid"), format!("{}\n", node.pid()).into_bytes());
    node.signal(Signal::SIGTERM);
    assert_eq!(node.wait_for_exit().code(), Some(0));
    assert!(!node.file("/pid").exists());
}

#[test]
fn pidfile_of_a_dead_or_no_process_is_taken_over() {
    for content in ["", "999999999\n", "4194305\n", "4194305"] {
        let setup = Setup::new();
        fs::write(setup.folder().join("pid"), content).unwrap();
        let node = setup.arg("--pidfile={dir}/pid").start();
        assert_eq!(node.content("/pid"), format!("{}\n", node.pid()).into_bytes());
    }
}

#[test]
fn pidfile_of_a_live_process_is_an_error() {
    let setup = Setup::new();
    let own = format!("{}\n", std::process::id());
    let file = setup.folder().join("pid");
    fs::write(&file, &own).unwrap();
    let kept = tempfile::tempdir().unwrap();
    let copy = kept.path().join("pid");
    fs::hard_link(&file, &copy).unwrap();
    let text = format!("already running on PID: {}", std::process::id());
    fails(setup.arg("--pidfile={dir}/pid"), &[&text]);
    assert_eq!(fs::read_to_string(&copy).unwrap(), own, "changed");
}

#[test]
fn a_killed_workers_end_leaves_the_pidfile() {
    let node = Setup::new().workers("1").arg("--pidfile={dir}/pid").start();
    nix::sys::signal::kill(node.workers()[0], Signal::SIGTERM).unwrap();
    node.event("worker_exited");
    assert_eq!(node.content("/pid"), format!("{}\n", node.pid()).into_bytes());
}

#[test]
fn check_config_says_what_is_wrong() {
    let setup = Setup::bare().arg("--docroot={dir}/missing").arg("--check-config");
    assert_eq!(setup.run().code, Some(1));
}

#[test]
fn check_config_prints_what_can_be_loaded_again() {
    let first =
        checked(Setup::bare().arg("--docroot=/").arg("--workers=3").arg("--idle-timeout=0.5"));
    assert!(first.contains("workers = 3"), "{first}");
    assert_eq!(checked(Setup::bare().config(&first)), first);
}

/// What `--check-config` prints, insisting that it finds nothing wrong.
fn checked(setup: Setup) -> String {
    let ended = setup.arg("--check-config").run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

/// Insists on exit status 1 and on texts of the message.
fn fails(setup: Setup, texts: &[&str]) -> Ended {
    let folder = setup.folder().display().to_string();
    let ended = setup.run();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for text in texts {
        let text = text.replace("{dir}", &folder);
        assert!(said(&ended).contains(&text), "no {text:?}: {ended:?}");
    }
    ended
}

/// Standard output and error.
fn said(ended: &Ended) -> String {
    [ended.stdout.as_str(), ended.stderr.as_str()].concat()
}

/// Two files for `--multi`, both with listeners, below whose folders there is a device each.
fn multi(first: &str, second: &str) -> Setup {
    let listeners = "httplisten = 127.0.0.1:0\nmgmtlisten = 127.0.0.1:0\n";
    let setup = Setup::bare().arg("--multi");
    for site in ["x", "y"] {
        fs::create_dir_all(setup.folder().join(site).join("dev1")).unwrap();
    }
    let setup = setup.config_named("a.conf", &format!("{first}\n{listeners}"));
    setup.config_named("b.conf", &format!("{second}\n{listeners}"))
}

fn http_listeners(node: &Node) -> Vec<(String, SocketAddr)> {
    let events = node.all_events("listening").into_iter();
    let http = events.filter(|event| event["service"] == "http").map(|event| {
        let text = |key: &str| event[key].as_str().expect("text").to_owned();
        (text("docroot"), text("address").parse().expect("an address"))
    });
    let mut listeners: Vec<_> = http.collect();
    listeners.sort();
    listeners
}
