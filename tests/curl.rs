//! Real curl against the node.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Node, pattern, skipped};

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn uploads_of_all_sizes_arrive_whole_and_small_ones_at_once() {
    let Some(node) = node_with_curl() else { return };
    let file = node.file("/upload");
    for length in [0, 1, 64 << 10, 5 << 20, 300 << 20] {
        let content = pattern(length);
        fs::write(&file, &content).unwrap();
        let begun = Instant::now();
        curl(&["-T", path(&file), &url(&node, "/dev1/up")]);
        let took = begun.elapsed();
        assert!(length > 5 << 20 || took < Duration::from_secs(1), "{length} bytes took {took:?}");
        assert!(node.content("/dev1/up") == content, "{length} bytes differ");
    }
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn uploads_that_wait_for_continue_never_wait_long() {
    let Some(node) = node_with_curl() else { return };
    let file = node.file("/upload");
    fs::write(&file, pattern(2 << 20)).unwrap();
    let begun = Instant::now();
    curl(&["-H", "Expect: 100-continue", "-T", path(&file), &url(&node, "/dev1/up")]);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[test]
fn uploads_from_a_pipe_come_chunked() {
    let Some(node) = node_with_curl() else { return };
    for length in [0, 1, 3 << 20] {
        let content = pattern(length);
        let mut child = command(&["-T", "-", &url(&node, "/dev1/piped")])
            .stdin(Stdio::piped())
            .spawn()
            .expect("curl starts");
        child.stdin.take().expect("piped").write_all(&content).unwrap();
        assert!(child.wait_with_output().unwrap().status.success());
        assert!(node.content("/dev1/piped") == content, "{length} bytes differ");
    }
}

#[test]
fn a_download_resumes_where_it_stopped() {
    let Some(node) = node_with_curl() else { return };
    let content = pattern(5 << 20);
    node.store("/dev1/down", &content);
    let partly = node.file("/partly");
    fs::write(&partly, &content[..1_234_567]).unwrap();
    curl(&["-C", "-", "-o", path(&partly), &url(&node, "/dev1/down")]);
    assert!(fs::read(&partly).unwrap() == content);
}

#[test]
fn ranges_are_the_bytes_asked_for() {
    let Some(node) = node_with_curl() else { return };
    let content = pattern(1 << 20);
    node.store("/dev1/down", &content);
    let whole = content.len();
    for (range, expected) in [
        ("0-0", &content[..1]),
        ("1000-70000", &content[1000..=70_000]),
        ("1000000-", &content[1_000_000..]),
        ("-5000", &content[whole - 5000..]),
        ("5-9999999", &content[5..]),
    ] {
        let output = curl(&["-r", range, &url(&node, "/dev1/down")]);
        assert!(output.stdout == expected, "{range} differs");
    }
}

#[test]
fn many_files_go_over_one_connection() {
    let Some(node) = node_with_curl() else { return };
    let mut lines = String::new();
    for n in 0..200 {
        fs::write(node.file(&format!("/local{n}")), format!("file {n}")).unwrap();
        let (file, url) = (node.file(&format!("/local{n}")), url(&node, &format!("/dev1/f{n}")));
        lines += &format!("upload-file = \"{}\"\nurl = \"{url}\"\n", file.display());
    }
    File::create(node.file("/curlrc")).unwrap().write_all(lines.as_bytes()).unwrap();
    let output = curl(&["-K", path(&node.file("/curlrc")), "-w", "%{num_connects}"]);
    let connects = String::from_utf8_lossy(&output.stdout).matches('1').count();
    assert_eq!(connects, 1, "{output:?}");
    for n in 0..200 {
        assert_eq!(node.content(&format!("/dev1/f{n}")), format!("file {n}").into_bytes());
    }
}

#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn a_refused_upload_ends_at_once() {
    let Some(node) = node_with_curl() else { return };
    let file = node.file("/upload");
    fs::write(&file, pattern(20 << 20)).unwrap();
    let begun = Instant::now();
    let arguments = ["-w", "%{http_code}", "-T", path(&file), &url(&node, "/dev9/up")];
    let output = command(&arguments).output().expect("curl starts");
    assert!(output.stdout.ends_with(b"404"), "{output:?}");
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

fn node_with_curl() -> Option<Node> {
    if Command::new("curl").arg("--version").output().is_err() {
        skipped("no curl here");
        return None;
    }
    Some(Node::start())
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "-q", "--noproxy", "*", "--max-time", "60"]).args(arguments);
    command
}

fn curl(arguments: &[&str]) -> Output {
    let output = command(arguments).arg("--fail").output().expect("curl starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "curl {arguments:?}: {stderr}");
    output
}

fn url(node: &Node, path: &str) -> String {
    format!("http://{}{path}", node.http())
}

fn path(file: &Path) -> &str {
    file.to_str().expect("temporary folders have plain names")
}
