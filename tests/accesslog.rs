//! `accesslog`: who did what, and that no line is forged, broken, lost or there twice.

mod rotation;
mod slow;
mod trouble;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::thread;

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use serde_json::Value;

use crate::harness::{Client, Node, Setup, fid_path, skipped, until_some};

const FORMATS: [&str; 2] = ["combined", "json"];

fn setup() -> Setup {
    Setup::new().arg("--accesslog={dir}/access.log")
}

fn file(node: &Node) -> PathBuf {
    node.docroot().join("access.log")
}

/// The lines, once there are so many; each with its end.
fn lines(node: &Node, count: usize) -> Vec<String> {
    let file = file(node);
    let lines = until_some("lines of the access log", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        (text.lines().count() >= count && text.ends_with('\n'))
            .then(|| text.lines().map(str::to_owned).collect::<Vec<_>>())
    });
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

fn objects(node: &Node, count: usize) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).unwrap();
    lines(node, count).iter().map(parse).collect()
}

#[test]
fn who_deleted_this_fid() {
    for workers in ["1", "device"] {
        let node = setup().workers(workers).start();
        let path = fid_path(1, 7);
        node.client().put(&path, "gone soon").expect(201);
        let mut culprit = node.client();
        culprit.send(format!("DELETE {path} HTTP/1.1\r\nUser-Agent: cron job\r\n\r\n"));
        culprit.answer().expect(204);
        node.client().get(&path).expect(404);
        let lines = lines(&node, 3);
        let found: Vec<_> = lines.iter().filter(|line| line.contains("DELETE")).collect();
        let [line] = found.as_slice() else { panic!("{lines:#?}") };
        assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
        assert!(line.contains(&format!(r#""DELETE {path} HTTP/1.1" 204 0 "-" "cron job" 0 "#)));
        assert!(line.contains(" dev1 disk "), "{line}");
    }
}

#[test]
fn json_tells_the_same_by_name() {
    let node = setup().arg("--accesslog-format=json").workers("device").start();
    let path = fid_path(2, 7);
    let mut client = node.client();
    let port = client.stream().local_addr().unwrap().port();
    client.put(&path, "eleven byte").expect(201);
    client.get_with(&path, "Range: bytes=0-2\r\nReferer: http://x/\r\n").expect(206);
    client.head(&path).expect(200);
    client.get("/dev1/nothing").expect(404);
    let objects = objects(&node, 4);
    let of = |method: &str, status: u16| {
        let is_it = |o: &&Value| o["method"] == method && o["status"] == status;
        objects.iter().find(is_it).unwrap_or_else(|| panic!("{objects:#?}"))
    };
    let put = of("PUT", 201);
    assert_eq!((&put["received"], &put["bytes"]), (&11.into(), &0.into()));
    assert_eq!((&put["device"], &put["way"]), (&"dev2".into(), &"disk".into()));
    assert_eq!((&put["peer"], &put["port"]), (&"127.0.0.1".into(), &port.into()));
    assert_eq!(put["path"], path);
    assert!(put["us"].as_u64().unwrap() > 0);
    let get = of("GET", 206);
    assert_eq!((&get["bytes"], &get["referer"]), (&3.into(), &"http://x/".into()));
    assert_eq!(of("HEAD", 200)["bytes"], 0);
    assert_eq!(of("GET", 404)["path"], "/dev1/nothing");
}

#[test]
fn bytes_of_large_answers_are_those_that_went() {
    let node = setup().arg("--accesslog-format=json").start();
    node.client().put(&fid_path(1, 7), vec![b'x'; 3_000_000]).expect(201);
    node.client().put(&fid_path(1, 8), vec![b'x'; 300_000]).expect(201);
    for fid in [7, 8] {
        node.client().get(&fid_path(1, fid)).expect(200);
    }
    let mut all: Vec<_> = objects(&node, 4)
        .iter()
        .map(|o| (o["received"].as_u64().unwrap(), o["bytes"].as_u64().unwrap()))
        .collect();
    all.sort_unstable();
    assert_eq!(all, [(0, 300_000), (0, 3_000_000), (300_000, 0), (3_000_000, 0)]);
}

#[test]
fn nothing_that_a_peer_sends_forges_a_line() {
    for format in FORMATS {
        let node = setup().arg(&format!("--accesslog-format={format}")).start();
        let forged = r#"" 200 0 "-" "-" 0 1 dev1 disk 0"#;
        let agents: [&[u8]; 5] = [
            forged.as_bytes(),
            b"\\\" \\",
            b"\xff\xfe",
            "\u{2028}\u{85}é".as_bytes(),
            b"tab\there",
        ];
        for agent in agents {
            let head = b"GET /dev1/a HTTP/1.1\r\nUser-Agent: ";
            node.client().ask([head, agent, b"\r\n\r\n"].concat()).expect(404);
        }
        let targets: [&[u8]; 4] =
            [b"/dev1/\"x", b"/dev1/\x1b[2J", b"/dev1/a\n127.0.0.1 - -", b"/dev1/\xc3\xa9"];
        for target in targets {
            let request = [b"DELETE ", target, b" HTTP/1.1\r\n\r\n"].concat();
            node.client().ask(request).expect(400);
        }
        node.client().ask("NONSENSE\r\n\r\n").expect(400);
        node.client().ask([vec![b'A'; 70_000], b"\r\n\r\n".to_vec()].concat()).expect(400);
        for line in lines(&node, 11) {
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
            match format {
                "json" => drop(serde_json::from_str::<Value>(&line).unwrap()),
                _ => assert_eq!(quotes(&line), 6, "{line}"),
            }
            assert!(line.len() < 4096);
        }
    }
}

/// Quotes that no backslash takes the meaning from.
fn quotes(line: &str) -> usize {
    let (mut count, mut chars) = (0, line.chars());
    while let Some(char) = chars.next() {
        match char {
            '\\' => drop(chars.next()),
            '"' => count += 1,
            _ => {}
        }
    }
    count
}

#[test]
fn only_what_is_wanted_has_a_line() {
    let cases: [(&[&str], &[&str]); 4] = [
        (&["writes"], &["PUT 201", "DELETE 204", "DELETE 404"]),
        (&["errors"], &["DELETE 404", "GET 404"]),
        (&["errors,writes"], &["PUT 201", "DELETE 204", "DELETE 404", "GET 404"]),
        (&["errors", "writes"], &["PUT 201", "DELETE 204", "DELETE 404", "GET 404"]),
    ];
    for (words, meant) in cases {
        let setup = setup().arg("--accesslog-format=json");
        let add = |setup: Setup, word: &&str| setup.arg(&format!("--accesslog-only={word}"));
        let node = words.iter().fold(setup, add).start();
        let mut client = node.client();
        client.put("/dev1/a", "a").expect(201);
        client.get("/dev1/a").expect(200);
        client.delete("/dev1/a").expect(204);
        client.delete("/dev1/a").expect(404);
        client.get("/dev1/a").expect(404);
        let told = |o: &Value| format!("{} {}", o["method"].as_str().unwrap(), o["status"]);
        let told: Vec<_> = objects(&node, meant.len()).iter().map(told).collect();
        assert_eq!(told, meant, "{words:?}");
    }
}

/// Each connection asks for both devices in turn, so that it goes from worker to worker.
fn ask(client: &mut Client, number: u64) {
    client.get(&fid_path(1 + (number % 2) as u32, number)).expect(404);
}

#[test]
fn a_thousand_requests_over_several_workers_are_a_thousand_lines() {
    let node = setup().arg("--accesslog-format=json").workers("2").start();
    thread::scope(|scope| {
        for thread in 0..5 {
            let mut client = node.client();
            scope.spawn(move || (0..200).for_each(|n| ask(&mut client, thread * 200 + n)));
        }
    });
    let objects = objects(&node, 1000);
    let mut paths: Vec<_> = objects.iter().map(|o| o["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), 1000, "each once, handed over or not");
    let mut workers: Vec<_> = objects.iter().map(|o| o["worker"].as_u64().unwrap()).collect();
    workers.sort_unstable();
    workers.dedup();
    assert_eq!(workers, [0, 1]);
    assert_eq!(node.status()["totals"]["accesslog_lost"], 0);
}

#[test]
fn pipelined_requests_have_a_line_each() {
    let node = setup().start();
    node.store("/dev1/a", "content");
    let get = "GET /dev1/a HTTP/1.1\r\n\r\n";
    let put = "PUT /dev1/b HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
    let many = [get, put, get, "GET / HTTP/1.1\r\n\r\n", put, get].concat();
    let mut client = node.client();
    client.send(many.repeat(20));
    (0..120).for_each(|_| assert!(client.answer().status < 300));
    let lines = lines(&node, 120);
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count(r#""GET /dev1/a HTTP/1.1" 200 7 "#), 60);
    assert_eq!(count(r#""PUT /dev1/b HTTP/1.1" 201 0 "-" "-" 1 "#), 40);
    assert_eq!(count(r#""GET / HTTP/1.1" 200 0 "#), 20);
}

#[test]
fn an_upload_that_its_peer_gave_up_has_a_line_without_a_status() {
    let node = setup().start();
    let mut client = node.client();
    client.send("PUT /dev1/a HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf");
    client.finish_sending();
    client.rest();
    let [line] = lines(&node, 1).try_into().unwrap();
    assert!(line.contains(r#""PUT /dev1/a HTTP/1.1" - 0 "-" "-" 4 "#), "{line}");
}

#[test]
fn a_quit_at_once_loses_no_line() {
    let mut node = setup().workers("2").start();
    let mut client = node.client();
    (0..50).for_each(|n| ask(&mut client, n));
    node.signal(Signal::SIGQUIT);
    assert!(node.wait_for_exit().success());
    assert_eq!(fs::read_to_string(file(&node)).unwrap().lines().count(), 50);
}

#[test]
fn workers_without_privileges_write_what_the_master_has_opened() {
    let nobody = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root());
    let Some(nobody) = nobody else { return skipped("not root, or no user nobody") };
    let setup = setup().arg("--user=nobody");
    let (uid, gid) = (Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw()));
    for device in ["dev1", "dev2"] {
        chown(setup.folder().join(device), uid, gid).unwrap();
    }
    fs::set_permissions(setup.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let node = setup.start();
    node.client().get("/dev1/a").expect(404);
    lines(&node, 1);
    assert_eq!(fs::metadata(file(&node)).unwrap().permissions().mode() & 0o777, 0o640);
    // Nor could they open it: the folder is not theirs.
    fs::rename(file(&node), node.docroot().join("old.log")).unwrap();
    node.signal(Signal::SIGUSR1);
    node.logs("access.log is open again");
    node.client().get("/dev1/b").expect(404);
    assert!(lines(&node, 1)[0].contains("/dev1/b"));
}

#[test]
fn what_cannot_be_opened_or_understood_is_an_error() {
    let told = |setup: Setup| {
        let ended = setup.run();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        ended.stderr
    };
    let text = told(Setup::new().arg("--accesslog={dir}/missing/log"));
    assert!(text.contains("cannot open the log ") && text.contains("No such file"), "{text}");
    let text = told(setup().arg("--accesslog-only=slow"));
    assert!(text.contains("accesslog_only = slow needs slow_log"), "{text}");
    let text = told(setup().arg("--accesslog-format=common"));
    assert!(text.contains("accesslog_format: 'common' is neither combined nor json"), "{text}");
}
