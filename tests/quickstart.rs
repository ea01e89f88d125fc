//! `--quickstart`: a node to try out.

use std::process::Command;

use crate::harness::{STATUS_FD, Setup, skipped};

#[test]
fn the_printed_curl_lines_work_when_pasted() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skipped("no curl here");
    }
    let node = quickstart().start();
    let lines = curl_lines(&node, 3);
    std::fs::write(node.file("/.curlrc"), "max-time = 10\nnoproxy = *\n").unwrap();
    for line in &lines {
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", line]).env("CURL_HOME", node.docroot()).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!text.contains("404") && !text.contains("400"), "{line}: {text}");
    }
}

#[test]
fn the_printed_lines_have_the_real_port() {
    let node = quickstart().start();
    let lines = curl_lines(&node, 3);
    let port = node.http().port().to_string();
    assert!(lines.iter().all(|line| line.contains(&port)), "{lines:#?}");
}

#[test]
fn it_makes_a_folder_with_two_devices() {
    let node = quickstart().start();
    assert!(node.file("/quick/dev1").is_dir() && node.file("/quick/dev2").is_dir());
    assert_eq!(node.client().put("/dev2/a", "a").status, 201);
    assert_eq!(node.content("/quick/dev2/a"), b"a");
}

#[test]
fn without_a_folder_it_makes_a_temporary_one() {
    let node = Setup::bare()
        .arg("--quickstart")
        .arg("--httplisten=127.0.0.1:0")
        .arg("--mgmtlisten=127.0.0.1:0")
        .arg(STATUS_FD)
        .env("TMPDIR", "{dir}")
        .start();
    assert_eq!(node.client().put("/dev1/a", "a").status, 201);
    assert_eq!(node.client().get("/dev1/a").body, b"a");
    assert!(!node.file("/dev1/a").exists(), "it took a folder that was there");
}

fn quickstart() -> Setup {
    Setup::bare()
        .arg("--quickstart={dir}/quick")
        .arg("--httplisten=127.0.0.1:0")
        .arg("--mgmtlisten=127.0.0.1:0")
        .arg(STATUS_FD)
}

/// The lines for pasting, once so many have been printed.
fn curl_lines(node: &crate::harness::Node, count: usize) -> Vec<String> {
    let lines = || {
        let all = node.stderr.so_far().into_iter();
        let lines = all.map(|line| line.trim().trim_start_matches("$ ").to_owned());
        lines.filter(|line| line.starts_with("curl ")).collect::<Vec<_>>()
    };
    crate::harness::until("the curl lines", || lines().len() >= count);
    lines()
}
