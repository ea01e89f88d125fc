use super::*;
use clap::CommandFactory;
use clap::error::ErrorKind;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(format!("rmogstored {line}").split_whitespace())
}

fn options(line: &str) -> Options {
    parse(line).unwrap().options(None)
}

fn pairs(line: &str) -> Vec<(Key, String)> {
    options(line).entries.into_iter().map(|e| (e.key, e.value)).collect()
}

#[test]
fn table_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn options_of_the_old_daemons_are_taken() {
    let line = "-d -s -c /a --httplisten=1 --mgmtlisten 2 --docroot=/d --maxconns=3 \
        --pidfile=/p --server=none -W4";
    let meant = [
        (Key::Daemonize, ""),
        (Key::Docroot, "/d"),
        (Key::Maxconns, "3"),
        (Key::Pidfile, "/p"),
        (Key::Server, "none"),
        (Key::WorkerProcesses, "4"),
        (Key::Httplisten, "1"),
        (Key::Mgmtlisten, "2"),
    ];
    assert_eq!(pairs(line), meant.map(|(key, value)| (key, value.to_owned())));
    assert_eq!(options(line).files, [PathBuf::from("/a")]);
    let long = "--daemonize --skipconfig --config=/a --multi --config=/b --worker-processes=4";
    assert!(options(long).multi);
    assert_eq!(options(long).files.len(), 2);
}

#[test]
fn each_new_key_is_an_option_with_dashes() {
    for key in [
        "workers",
        "header_timeout",
        "body_timeout",
        "idle_timeout",
        "stall_timeout",
        "drain_timeout",
        "status_fd",
        "status_socket",
        "statuslisten",
        "max_queue",
        "fsync",
        "aio_threads",
        "user",
        "group",
        "upgrade_timeout",
        "accesslog",
        "accesslog_format",
        "accesslog_only",
        "slow_log",
        "loglevel",
        "logformat",
        "logfile",
    ] {
        let meant = (Key::named(key).unwrap(), "7".to_owned());
        assert_eq!(pairs(&format!("--{}=7", key.replace('_', "-"))), [meant]);
    }
}

#[test]
fn listeners_may_be_given_more_than_once() {
    assert_eq!(pairs("--httplisten=1 --httplisten=2").len(), 2);
}

#[test]
fn unknown_options_and_missing_values_are_usage_errors() {
    for line in ["--nonsense", "--docroot", "-W", "stray"] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn an_option_may_be_given_again() {
    assert_eq!(pairs("--maxconns=1 --maxconns=2").len(), 2, "the last one counts: `load`");
    assert_eq!(pairs("-d -d"), [(Key::Daemonize, ""); 2].map(|(k, v)| (k, v.to_owned())));
    assert_eq!(options("-ss --multi --multi").repeated, ["multi", "skipconfig"]);
    let Task::Quickstart(folder, _) = parse("--quickstart=/a --quickstart").unwrap().task() else {
        panic!("no quickstart")
    };
    assert_eq!(folder, None);
    assert!(parse("status --json --json /s").is_ok());
}

#[test]
fn version_is_one_line() {
    for line in ["-V", "--version"] {
        let shown = parse(line).unwrap_err();
        assert_eq!(shown.to_string(), concat!("rmogstored ", env!("CARGO_PKG_VERSION"), "\n"));
        assert_eq!(shown.exit_code(), 0);
    }
}

#[test]
fn help_has_three_names() {
    for line in ["-?", "-h", "--help"] {
        let shown = parse(line).unwrap_err();
        assert_eq!((shown.kind(), shown.exit_code()), (ErrorKind::DisplayHelp, 0));
        assert!(shown.to_string().contains("--drain-timeout"), "{line}");
    }
    for line in ["status -?", "status --help", "upgrade -h", "device -h"] {
        let shown = parse(line).unwrap_err();
        assert_eq!((shown.kind(), shown.exit_code()), (ErrorKind::DisplayHelp, 0), "{line}");
        assert!(shown.to_string().contains("--status-socket"), "{line}");
    }
}

#[test]
fn quickstart_takes_its_folder_after_an_equals_sign_only() {
    let folder = |line| match parse(line).unwrap().task() {
        Task::Quickstart(folder, _) => folder,
        other => panic!("{other:?}"),
    };
    assert_eq!(folder("--quickstart"), None);
    assert_eq!(folder("--quickstart=/q --httplisten=0"), Some("/q".into()));
    assert!(parse("--quickstart /q").is_err());
    for other in ["--docroot=/d", "-c /c", "--multi", "-d", "--check-config", "--server=none"] {
        assert!(parse(&format!("--quickstart {other}")).is_err(), "{other}");
    }
}

#[test]
fn commands_take_the_node_they_are_about() {
    let task = |line| parse(line).unwrap().task();
    let socket = PathBuf::from("/s");
    let shown = Task::Status { json: true, follow: false, socket: socket.clone() };
    assert_eq!(task("status --json /s"), shown);
    assert_eq!(task("upgrade /s"), Task::Upgrade(socket.clone()));
    let device = "dev1".to_owned();
    let request = Request::ForgetMount(device.clone());
    let told = Task::Tell { request, socket: socket.clone() };
    assert_eq!(task("device --forget dev1 /s"), told);
    let request = Request::ClearFailing(device);
    assert_eq!(task("device --clear dev1 /s"), Task::Tell { request, socket });
    let socket = PathBuf::from(command::DEFAULT_SOCKET);
    let shown = Task::Status { json: false, follow: true, socket: socket.clone() };
    assert_eq!(task("status --follow"), shown);
    assert_eq!(task("upgrade"), Task::Upgrade(socket.clone()));
    let request = Request::ForgetMount("dev1".to_owned());
    assert_eq!(task("device --forget dev1"), Task::Tell { request, socket });
    for line in [
        "scrub",
        "device /s",
        "device",
        "device --forget dev1 --clear dev1 /s",
        "status /a /b",
        "--docroot=/d status /s",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn check_config_is_a_task_of_its_own() {
    assert!(matches!(parse("--check-config").unwrap().task(), Task::CheckConfig(_)));
    assert!(matches!(parse("").unwrap().task(), Task::Serve(_)));
}
