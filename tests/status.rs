//! `rmogstored status` and `rmogstored upgrade`.

use std::fs;
use std::io::Read;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::chain::{Chain, Load, is_gone};
use crate::harness::{Lines, Node, Setup, binary, can_mount, skipped, until};

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn socket(node: &Node) -> String {
    node.file("status.sock").to_str().unwrap().to_owned()
}

#[test]
fn table_shows_workers_devices_and_rates() {
    let node = Setup::new().workers("device").start();
    let load = Load::start(&node, 2);
    let shown = run(&["status", &socket(&node)]);
    load.saw_nothing();
    let table = text(&shown.stdout);
    assert!(shown.status.success(), "{table}");
    assert!(table.starts_with("node running PID "), "{table}");
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    let served = rows.iter().filter(|row| row.get(2) == Some(&"running") && row.len() == 11);
    let rates: Vec<f64> = served.map(|row| row[6].parse().unwrap()).collect();
    assert_eq!(rates.len(), 2, "{table}");
    assert!(rates.iter().sum::<f64>() > 1.0, "{table}");
    assert!(rows.iter().any(|row| row.first() == Some(&"dev2") && row[2] == "ok"), "{table}");
}

#[test]
fn commands_are_about_the_unit_s_node_when_none_is_named() {
    if !can_mount() {
        return skipped("no mount namespaces here");
    }
    let setup = Setup::new().mount("mount -t tmpfs none /run && mkdir /run/rmogstored");
    let node = setup.arg("--status-socket=/run/rmogstored/status.sock").start();
    let run = |words: &str| {
        node.in_its_mounts(&format!("{} {words} 2>&1 || true", binary().to_str().unwrap()))
    };
    let document: Value = serde_json::from_str(&run("status --json").unwrap()).unwrap();
    assert_eq!(document["pid"], node.pid().as_raw());
    let told = run("device --clear dev1").unwrap();
    assert!(told.contains("dev1"), "{told}");
    node.in_its_mounts("rm /run/rmogstored/status.sock").unwrap();
    let lost = run("upgrade").unwrap();
    let words = "E: /run/rmogstored/status.sock: there is no such socket or file";
    assert!(lost.contains(words), "{lost}");
}

#[test]
fn json_is_the_document_and_the_schema_is_true_of_it() {
    let node = Setup::new().workers("device").start();
    let shown = run(&["status", "--json", &socket(&node)]);
    let document: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/schema/status.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    check(&schema, &document, "", &mut wrong);
    assert_eq!(wrong, Vec::<String>::new());
    let mut lame = document.clone();
    lame["workers"][0]["pid"] = "7".into();
    check(&schema, &lame, "", &mut wrong);
    assert_eq!(wrong.len(), 1, "the check finds nothing wrong");
}

/// As much of JSON Schema as the schema uses, and that each field is described in it.
pub fn check(schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = &schema["type"];
    let fits = |name: &Value| name == kind || (name == "number" && kind == "integer");
    if !fits(types) && !types.as_array().is_some_and(|types| types.iter().any(fits)) {
        wrong.push(format!("{at} is {kind}, not {types}"));
    }
    let listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    if !listed || schema.get("const").is_some_and(|only| only != value) {
        wrong.push(format!("{at} is {value}"));
    }
    for item in value.as_array().into_iter().flatten() {
        check(&schema["items"], item, &format!("{at}[]"), wrong);
    }
    let Some(fields) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            wrong.push(format!("{at} has no {name}"));
        }
    }
    for (name, field) in fields {
        match schema["properties"].get(name) {
            Some(schema) => check(schema, field, &format!("{at}.{name}"), wrong),
            None => wrong.push(format!("{at}.{name} is not described")),
        }
    }
}

#[test]
fn follow_goes_on_until_it_is_interrupted() {
    let node = Node::start();
    for words in [&["status", "--follow"][..], &["status", "--json", "--follow"]] {
        let mut child = command(&[words, &[&socket(&node)]].concat()).spawn().unwrap();
        let lines = Lines::gather(child.stdout.take().unwrap());
        let pid = node.pid().to_string();
        until("two looks", || {
            lines.so_far().iter().filter(|line| line.contains(&pid)).count() >= 2
        });
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        assert!(child.wait().unwrap().success());
        let shown = lines.until_end().join("\n");
        assert!(!shown.contains('\x1b'), "no terminal, no control characters: {shown:?}");
    }
}

/// In a terminal made by script(1), what was entered is left again.
#[test]
fn follow_leaves_the_terminal_as_it_was() {
    let node = Node::start();
    let line = format!("exec {} status --follow {}", binary().to_str().unwrap(), socket(&node));
    let mut script = Command::new("script");
    script.args(["-qefc", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = script.spawn() else {
        return skipped("no script(1)");
    };
    let mut out = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    let mut piece = [0; 4096];
    while !text(&shown).contains("node running") {
        let length = out.read(&mut piece).unwrap();
        assert!(length > 0, "{}", text(&shown));
        shown.extend(&piece[..length]);
    }
    // Ctrl-C as the terminal's driver sees it.
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\x03").unwrap();
    out.read_to_end(&mut shown).unwrap();
    let shown = text(&shown);
    assert!(child.wait().unwrap().success(), "{shown:?}");
    assert!(shown.contains("\x1b[?1049h") && shown.contains("\x1b[?25l"), "{shown:?}");
    assert!(shown.trim_end().ends_with("\x1b[?25h\x1b[?1049l"), "{shown:?}");
}

#[test]
fn status_of_no_node_is_an_error() {
    let shown = run(&["status", "/nonexistent/socket"]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stderr).starts_with("E: /nonexistent/socket: "));
}

#[test]
fn upgrade_command_replaces_the_master_by_socket_and_by_pid_file() {
    let chain = Chain::start(Setup::new());
    let load = Load::start(&chain.node, 2);
    for by in [socket(&chain.node), chain.path("pid").to_str().unwrap().to_owned()] {
        let old = chain.master();
        let told = run(&["upgrade", &by]);
        let out = text(&told.stdout);
        assert!(told.status.success(), "{out}{}", text(&told.stderr));
        assert!(is_gone(old));
        assert_ne!(chain.master(), old);
        assert!(out.contains(&format!("PID {} serves", chain.master())), "{out}");
    }
    load.saw_nothing();
}

#[test]
fn upgrade_command_waits_for_the_old_master_s_last_request() {
    let chain = Chain::start(Setup::new());
    let mut half = chain.node.client();
    half.ask("PUT /dev1/a HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    let mut child = command(&["upgrade", &socket(&chain.node)]).spawn().unwrap();
    let lines = Lines::gather(child.stdout.take().unwrap());
    lines.find("the drain", |line| line.contains("1 connections are left").then_some(()));
    assert!(child.try_wait().unwrap().is_none());
    half.ask("ab").expect_and(201, "keep-alive");
    assert!(child.wait().unwrap().success());
}

#[test]
fn upgrade_command_tells_why_it_failed_and_leaves_the_old_master() {
    let chain = Chain::start(Setup::new());
    chain.replace_by_script("exit 3");
    let by_socket = run(&["upgrade", &socket(&chain.node)]);
    assert_eq!(by_socket.status.code(), Some(1));
    let told = text(&by_socket.stderr);
    assert!(told.contains("exited with status 3 before it was ready"), "{told}");
    fs::remove_file(chain.path("rmogstored")).unwrap();
    let by_pidfile = run(&["upgrade", chain.path("pid").to_str().unwrap()]);
    assert_eq!(by_pidfile.status.code(), Some(1));
    assert!(text(&by_pidfile.stderr).contains("did not start"), "{}", text(&by_pidfile.stderr));
    assert_eq!(chain.master(), chain.node.pid());
    chain.node.client().stays_open();
    let nobody = run(&["upgrade", "/nonexistent/pid"]);
    assert_eq!(nobody.status.code(), Some(1));
}

#[test]
fn upgrade_command_that_is_interrupted_leaves_the_old_master() {
    let chain = Chain::start(Setup::new());
    chain.replace_by_script("exec sleep 60");
    let mut child = command(&["upgrade", &socket(&chain.node)]).spawn().unwrap();
    chain.node.event("upgrade_started");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    chain.node.client().stays_open();
    assert!(!is_gone(chain.node.pid()));
}
