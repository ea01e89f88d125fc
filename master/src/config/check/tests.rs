use super::*;
use crate::config::Entry;
use rmogstored_worker::spec::Service;
use std::fs;
use tempfile::TempDir;

mod round_trip;

/// A scratch folder with a docroot, and what is asked of it.
struct Case {
    dir: TempDir,
    options: Options,
}

fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    Case { dir, options: Options::default() }
}

impl Case {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn option(mut self, key: Key, value: &str) -> Self {
        let value = value.replace("$DIR", self.dir.path().to_str().unwrap());
        self.options.entries.push(Entry { key, value, origin: Origin::CommandLine });
        self
    }

    /// A file of that name; `$DIR` in it is the scratch folder.
    fn file(mut self, name: &str, content: &str) -> Self {
        let content = content.replace("$DIR", self.dir.path().to_str().unwrap());
        fs::write(self.path(name), content).unwrap();
        self.options.files.push(self.path(name).into());
        self
    }

    fn multi(mut self) -> Self {
        self.options.multi = true;
        self
    }

    fn search_path(mut self, path: &str) -> Self {
        self.options.search_path = Some(path.into());
        self
    }

    fn config(&self) -> Config {
        load(&self.options).unwrap().config
    }

    fn warnings(&self) -> Vec<String> {
        self.shown(load(&self.options).unwrap().warnings)
    }

    fn problems(&self) -> Vec<String> {
        self.shown(load(&self.options).unwrap_err())
    }

    fn shown(&self, problems: Vec<Problem>) -> Vec<String> {
        let dir = self.dir.path().to_str().unwrap();
        problems.iter().map(|p| p.to_string().replace(dir, "$DIR")).collect()
    }

    fn listeners(&self) -> Vec<(Service, String)> {
        let sites = self.config().sites;
        sites[0].listeners.iter().map(|l| (l.service, l.address.to_string())).collect()
    }
}

fn with_docroot() -> Case {
    case().option(Key::Docroot, "$DIR/root")
}

#[test]
fn defaults_are_those_of_the_old_daemons() {
    let case = with_docroot();
    let config = case.config();
    let meant = [(Service::Http, "0.0.0.0:7500"), (Service::Mgmt, "0.0.0.0:7501")];
    assert_eq!(case.listeners(), meant.map(|(service, address)| (service, address.to_owned())));
    let seconds = Duration::from_secs;
    let settings = Settings {
        maxconns: 10_000,
        header_timeout: seconds(60),
        body_timeout: seconds(60),
        idle_timeout: seconds(0),
        stall_timeout: seconds(5),
        drain_timeout: seconds(3600),
        aio_threads: 10,
        max_queue: 1024,
        fsync: Default::default(),
        accesslog: None,
        slow_log: seconds(0),
    };
    assert_eq!(config.settings, settings);
    assert_eq!(config.workers, Workers::Device);
    assert_eq!((config.pidfile, config.status_fd, config.status_socket), (None, None, None));
    assert_eq!(config.status_listen, None);
    assert!(!config.daemonize);
}

#[test]
fn missing_default_docroot_is_an_error() {
    if Path::new("/var/mogdata").exists() {
        println!("SKIPPED: this machine has /var/mogdata");
        return;
    }
    assert_eq!(case().problems(), ["E: docroot=/var/mogdata does not exist"]);
}

#[test]
fn docroot_must_be_a_folder() {
    let missing = case().option(Key::Docroot, "$DIR/none");
    assert_eq!(missing.problems(), ["E: docroot=$DIR/none does not exist (command line)"]);
    let file = case().file("m.conf", "\ndocroot = $DIR/m.conf\n");
    assert_eq!(file.problems(), ["E: docroot=$DIR/m.conf is not a folder ($DIR/m.conf:2)"]);
}

#[test]
fn docroot_loses_dots_and_trailing_slashes() {
    let case = case().option(Key::Docroot, "$DIR//root/.//");
    assert_eq!(case.config().sites[0].docroot.as_os_str(), case.path("root").as_str());
}

#[test]
fn one_listener_turns_the_defaults_off() {
    for (key, service) in [
        (Key::Httplisten, Service::Http),
        (Key::Httpgetlisten, Service::HttpGet),
        (Key::Mgmtlisten, Service::Mgmt),
    ] {
        let case = with_docroot().file("m.conf", &format!("{} = :80", key.name()));
        assert_eq!(case.listeners(), [(service, "0.0.0.0:80".to_owned())]);
    }
}

#[test]
fn an_option_replaces_the_files_value() {
    let case = with_docroot()
        .file("m.conf", "maxconns = 7\nhttplisten = 1\nhttplisten = 2\nmgmtlisten = 3\n")
        .option(Key::Maxconns, "8")
        .option(Key::Httplisten, "4");
    assert_eq!(case.config().settings.maxconns, 8);
    let meant = [(Service::Http, "0.0.0.0:4"), (Service::Mgmt, "0.0.0.0:3")];
    assert_eq!(case.listeners(), meant.map(|(service, address)| (service, address.to_owned())));
}

#[test]
fn files_of_the_old_daemons_load_unchanged() {
    let perl = "#comment\n\nmaxconns = 10000\nhttplisten = 0.0.0.0:7500 # http\n\
        mgmtlisten=127.0.0.1:7501\ndocroot = $DIR/root\ndaemonize = 1\nserverbin = /usr/bin/perl\n\
        server = perlbal\niostat = 0\npidfile = $DIR/pid\n";
    let case = case().file("perl.conf", perl).search_path("/bin");
    let warned = [
        "W: using internal HTTP for 'server = perlbal' instead ($DIR/perl.conf:9)",
        "W: serverbin = /usr/bin/perl ignored ($DIR/perl.conf:8)",
    ];
    assert_eq!(case.warnings(), warned);
    assert!(case.config().daemonize);
    let c = "daemonize\niostat\nhttpgetlisten = 7600\ndocroot = $DIR/root\nmgmtlisten = :7501";
    let case = self::case().file("c.conf", c).search_path("/bin");
    assert_eq!(case.warnings(), [""; 0]);
    assert_eq!(case.listeners().len(), 2);
}

#[test]
fn unknown_keys_are_told_but_do_no_harm() {
    let case = with_docroot().file("m.conf", "maxcons = 5");
    let meant = "W: unknown key 'maxcons' ignored, did you mean 'maxconns'? ($DIR/m.conf:1)";
    assert_eq!(case.warnings(), [meant]);
}

#[test]
fn every_bad_value_is_told_at_once_with_its_place() {
    let case = with_docroot()
        .file("m.conf", "maxconns = many\nhttplisten = x\n\nheader_timeout = 0\naio_threads=101")
        .option(Key::MaxQueue, "0")
        .option(Key::Workers, "all");
    let problems = case.problems();
    for meant in [
        "E: maxconns: 'many' is not a number from 1 to 10000000 ($DIR/m.conf:1)",
        "E: httplisten: 'x' is not an address: write IP:PORT, :PORT, PORT or [IPv6]:PORT ($DIR/m.conf:2)",
        "E: header_timeout: '0' must be more than 0 ($DIR/m.conf:4)",
        "E: aio_threads: '101' is not a number from 1 to 100 ($DIR/m.conf:5)",
        "E: max_queue: '0' is not a number from 1 to 1000000 (command line)",
        "E: workers: 'all' is neither device, cpu nor a number from 1 to 512 (command line)",
    ] {
        assert!(problems.contains(&meant.to_owned()), "{meant}\n{problems:#?}");
    }
    assert_eq!(problems.len(), 6);
}

#[test]
fn another_server_is_not_understood() {
    let text = "E: 'server = apache' not understood by rmogstored";
    let by_option = with_docroot().option(Key::Server, "apache");
    assert_eq!(by_option.problems(), [format!("{text} (command line)")]);
    let by_file = with_docroot().file("m.conf", "server = apache");
    assert_eq!(by_file.problems(), [format!("{text} ($DIR/m.conf:1)")]);
}

#[test]
fn server_none_leaves_the_sidechannel_alone() {
    let meant = [(Service::Mgmt, "0.0.0.0:7501".to_owned())];
    assert_eq!(with_docroot().option(Key::Server, "none").listeners(), meant);
    let all = "server = none\nhttplisten = 1\nhttpgetlisten = 2\nmgmtlisten = 7501\n";
    assert_eq!(with_docroot().file("m.conf", all).listeners(), meant);
    let http = with_docroot().option(Key::Server, "none").option(Key::Httplisten, "1");
    assert_eq!(http.problems(), ["E: no listener: 'server = none' needs mgmtlisten"]);
}

#[test]
fn two_spellings_of_workers_must_agree() {
    let same = with_docroot().file("m.conf", "workers = 2").option(Key::WorkerProcesses, "2");
    assert_eq!(same.config().workers, Workers::Count(2));
    let other = with_docroot().file("m.conf", "workers = cpu").option(Key::WorkerProcesses, "2");
    let meant = "E: workers = cpu contradicts worker_processes = 2 (command line) ($DIR/m.conf:1)";
    assert_eq!(other.problems(), [meant]);
}

#[test]
fn docroot_and_pidfile_must_be_one_path_in_both_places() {
    let text = "docroot = $DIR/root\npidfile = $DIR/pid\n";
    let same = case()
        .file("m.conf", text)
        .option(Key::Docroot, "$DIR/./root/")
        .option(Key::Pidfile, "$DIR/root/../pid");
    assert_eq!(same.config().sites.len(), 1);
    let other = with_docroot().file("m.conf", text).option(Key::Pidfile, "$DIR/other");
    let meant = "E: pidfile=$DIR/other is not the same path as pidfile=$DIR/pid ($DIR/m.conf:2) (command line)";
    assert_eq!(other.problems(), [meant]);
    let root = case().file("m.conf", text).option(Key::Docroot, "$DIR");
    assert!(root.problems()[0].starts_with("E: docroot=$DIR is not the same path as docroot="));
}

#[test]
fn pidfile_needs_its_folder() {
    let case = with_docroot().option(Key::Pidfile, "$DIR/none/pid");
    let meant = "E: pidfile=$DIR/none/pid: its folder does not exist (command line)";
    assert_eq!(case.problems(), [meant]);
    let case = with_docroot().option(Key::Pidfile, "$DIR/root");
    assert_eq!(case.problems(), ["E: pidfile=$DIR/root is a folder (command line)"]);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let mut case = with_docroot();
    case.options.files.push(case.path("none").into());
    let meant = "E: config=$DIR/none: No such file or directory (os error 2) (command line)";
    assert_eq!(case.problems(), [meant]);
}

#[test]
fn several_files_need_multi() {
    let case = with_docroot().file("a", "").file("b", "");
    assert!(case.problems()[0].contains("--multi"), "{:?}", case.problems());
}

#[test]
fn multi_serves_several_docroots() {
    let case = case()
        .multi()
        .file("a", "docroot = $DIR/root\nhttplisten = 1\nmaxconns = 5")
        .file("b", "docroot = $DIR\nmgmtlisten = 2\nhttplisten = 3\nserver = none\nmaxconns = 5");
    let config = case.config();
    assert_eq!(config.settings.maxconns, 5);
    let sites = &config.sites;
    assert_eq!(
        [&sites[0].docroot, &sites[1].docroot],
        [Path::new(&case.path("root")), case.dir.path()]
    );
    assert_eq!(sites[0].listeners[0].service, Service::Http);
    assert_eq!(sites[1].listeners.iter().map(|l| l.service).collect::<Vec<_>>(), [Service::Mgmt]);
}

#[test]
fn multi_wants_docroot_and_listener_in_each_file() {
    let case = case().multi().file("a", "httplisten = 1").file("b", "docroot = $DIR/root");
    assert_eq!(case.problems(), ["E: $DIR/a: no docroot", "E: $DIR/b: no listener"]);
    let none = self::case().multi().problems();
    assert_eq!(none, ["E: --multi needs at least one --config (command line)"]);
}

#[test]
fn multi_refuses_what_would_be_meant_for_one_docroot() {
    for (key, value) in [(Key::Docroot, "$DIR"), (Key::Httplisten, "5"), (Key::Mgmtlisten, "5")] {
        let case =
            case().multi().file("a", "docroot = $DIR/root\nhttplisten = 1").option(key, value);
        let meant = format!("E: --{} cannot be used with --multi (command line)", key.name());
        assert_eq!(case.problems(), [meant]);
    }
}

#[test]
fn multi_refuses_the_same_docroot_twice() {
    let case = case()
        .multi()
        .file("a", "docroot = $DIR/root\nhttplisten = 1")
        .file("b", "docroot = $DIR/root\nhttplisten = 2");
    let meant = "E: docroot=$DIR/root is already that of $DIR/a:1 ($DIR/b:1)";
    assert_eq!(case.problems(), [meant]);
}

#[test]
fn multi_sees_one_docroot_behind_a_symlink() {
    let case = case().file("a", "docroot = $DIR/root\nhttplisten = 1");
    std::os::unix::fs::symlink(case.path("root"), case.path("link")).unwrap();
    let case = case.multi().file("b", "docroot = $DIR/link\nhttplisten = 2");
    assert!(case.problems()[0].starts_with("E: docroot=$DIR/link is already that of $DIR/a:1"));
}

#[test]
fn multi_files_must_agree_on_what_the_node_has_once() {
    let case = case()
        .multi()
        .file("a", "docroot = $DIR/root\nhttplisten = 1\nmaxconns = 5\n")
        .file("b", "docroot = $DIR\nhttplisten = 2\nmaxconns = 6\n");
    let meant = "E: maxconns=6 contradicts maxconns=5 ($DIR/a:3) ($DIR/b:3)";
    assert_eq!(case.problems(), [meant]);
}

#[test]
fn an_address_belongs_to_one_listener() {
    let case = with_docroot().file("m.conf", "httplisten = :5\nmgmtlisten = 0.0.0.0:5\n");
    let meant = "E: 0.0.0.0:5 is given to more than one listener ($DIR/m.conf:2)";
    assert_eq!(case.problems(), [meant]);
    let free = with_docroot().option(Key::Httplisten, "0").option(Key::Mgmtlisten, "0");
    assert_eq!(free.listeners().len(), 2);
}

#[test]
fn daemonize_refuses_relative_paths() {
    const TAIL: &str = "E: relative paths are incompatible with --daemonize and SIGUSR2 upgrades";
    let case = case().option(Key::Daemonize, "").option(Key::Docroot, ".").search_path("/bin");
    let meant = "E: docroot=. must use an absolute path (command line)";
    assert_eq!(case.problems(), [meant, TAIL]);
    let case = with_docroot().file("m.conf", "daemonize = 1\npidfile = pid").search_path("/bin");
    let meant = "E: pidfile=pid must use an absolute path ($DIR/m.conf:2)";
    assert_eq!(case.problems(), [meant, TAIL]);
    let mut case = with_docroot().option(Key::Daemonize, "");
    case.options.files.push("Cargo.toml".into());
    let meant = "E: config=Cargo.toml must use an absolute path (command line)".to_owned();
    assert!(case.problems().contains(&meant));
    assert_eq!(case.problems().last().unwrap(), TAIL);
}

#[test]
fn daemonize_refuses_a_relative_element_in_path() {
    for path in ["/bin:bin", "/bin:", ".:/bin"] {
        let case = with_docroot().option(Key::Daemonize, "").search_path(path);
        let meant = format!("E: PATH environment contains relative path: {path}");
        assert_eq!(case.problems()[0], meant);
        assert!(case.problems()[1].ends_with("--daemonize and SIGUSR2 upgrades"));
    }
    let foreground = with_docroot().search_path("bin");
    assert!(!foreground.config().daemonize);
}

#[test]
fn each_prefix_of_a_file_loads_or_says_why_not() {
    let whole = "daemonize = no\ndocroot = $DIR/root # é\nhttplisten = [::1]:75\nidle_timeout = 1.5m\n\
        server = perlbal\nstatus_socket = /tmp/é\n";
    for end in (0..=whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        let case = case().file("m.conf", &whole[..end]);
        if let Err(problems) = load(&case.options) {
            assert!(problems.iter().any(Problem::is_error));
        }
    }
}
