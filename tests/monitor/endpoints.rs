//! What is answered where.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{get, metrics, monitor, node, sample, status, text};
use crate::harness::{fid_path, skipped, until};

#[test]
fn each_endpoint_answers_get_and_head_and_nothing_else() {
    let node = node();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/status.json", "application/json"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
    ] {
        let mut client = monitor(&node);
        let answer = client.get(path).expect_and(200, "keep-alive");
        assert_eq!(answer.header("Content-Type"), Some(kind), "{path}");
        let head = client.head(path).expect_and(200, "keep-alive");
        assert_eq!(head.header("Content-Type"), Some(kind), "{path}");
        for method in ["PUT", "DELETE", "POST"] {
            let request = format!("{method} {path} HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi");
            let answer = monitor(&node).ask(request);
            assert_eq!((answer.status, answer.header("Connection")), (405, Some("close")));
        }
    }
    assert_eq!(get(&node, "/dev1").status, 404);
    assert_eq!(text(&get(&node, "/healthz")), "ok\n");
    let page = get(&node, "/");
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
        connect-src 'self'; img-src data:";
    assert_eq!(page.header("Content-Security-Policy"), Some(policy));
    assert!(text(&page).contains("rmogstored"));
}

#[test]
fn status_is_the_document_with_the_numbers_of_this_moment_and_the_last_events() {
    let node = node();
    let (mut client, path) = (node.client(), fid_path(1, 7));
    client.put(&path, "content").expect(201);
    client.get(&path).expect(200);
    let (told, asked) = (status(&node), node.status());
    for key in ["version", "pid", "generation", "state", "upgrade", "listeners"] {
        assert_eq!(told[key], asked[key], "{key}");
    }
    assert_eq!(told["totals"]["requests"], 2);
    let address = node.address("status").to_string();
    let listener = serde_json::json!({"service": "status", "address": address, "docroot": ""});
    assert!(told["listeners"].as_array().unwrap().contains(&listener));
    assert_eq!(told["software"], env!("CARGO_PKG_VERSION"));
    assert_eq!(told["host"], nix::unistd::gethostname().unwrap().to_str().unwrap());
    let events: Vec<_> = told["events"].as_array().unwrap().iter().collect();
    let ready = events.iter().find(|event| event["event"] == "ready").unwrap();
    assert_eq!(ready["pid"], asked["pid"]);
    for time in [&ready["time"], &told["time"]] {
        let time = time.as_str().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z') && time.contains('T'), "{time}");
    }
    let device = told["devices"].as_array().unwrap().iter().find(|d| d["device"] == "dev1");
    assert!(device.unwrap()["total_kib"].as_u64().unwrap() > 0);
}

#[test]
fn metrics_have_numbers_of_node_workers_and_devices() {
    let node = node();
    until("the devices were looked at", || {
        sample(&metrics(&node), &format!("rmogstored_device_size_bytes{}", labels(&node, "")))
            .is_some()
    });
    let before = metrics(&node);
    let mut client = node.client();
    client.put("/dev1/x", "12345").expect(201);
    client.get("/dev1/x").expect(200);
    client.get("/dev1/none").expect(404);
    let after = metrics(&node);
    let grown = |name: &str| sample(&after, name).unwrap() - sample(&before, name).unwrap();
    assert_eq!(grown("rmogstored_requests_total"), 3.0);
    assert_eq!(grown("rmogstored_received_bytes_total"), 5.0);
    assert_eq!(grown("rmogstored_sent_bytes_total"), 5.0);
    assert_eq!(grown("rmogstored_connections_accepted_total"), 1.0);
    let value = |name: &str| sample(&after, name).unwrap();
    assert_eq!(value("rmogstored_workers{state=\"running\"}"), 2.0);
    assert_eq!(value("rmogstored_node_state{state=\"running\"}"), 1.0);
    assert_eq!(value("rmogstored_node_state{state=\"draining\"}"), 0.0);
    assert_eq!(value(&format!("rmogstored_device_state{}", labels(&node, ",state=\"ok\""))), 1.0);
    assert_eq!(value(&format!("rmogstored_device_state{}", labels(&node, ",state=\"full\""))), 0.0);
    let used = value(&format!("rmogstored_device_used_bytes{}", labels(&node, "")));
    let free = value(&format!("rmogstored_device_available_bytes{}", labels(&node, "")));
    let size = value(&format!("rmogstored_device_size_bytes{}", labels(&node, "")));
    assert_eq!(used + free, size);
    assert!(value("rmogstored_master_silence_seconds") < 10.0);
    let version = format!("rmogstored_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&version), 1.0);
}

fn labels(node: &crate::harness::Node, more: &str) -> String {
    format!("{{device=\"dev1\",docroot=\"{}\"{more}}}", node.docroot().display())
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return skipped("no promtool");
    }
    let node = node();
    node.client().put("/dev1/x", "12345").expect(201);
    let mut check = Command::new("promtool");
    check.args(["check", "metrics", "--extended"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut check = check.stderr(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(metrics(&node).as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    assert!(!output.stdout.is_empty(), "it has seen nothing");
}

#[test]
fn openmetrics_comes_to_those_who_ask_for_it() {
    let node = node();
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3\r\n";
    let answer = monitor(&node).get_with("/metrics", accept).expect(200);
    let kind = answer.header("Content-Type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    assert!(text(&answer).ends_with("# EOF\n"));
}
