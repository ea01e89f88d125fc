use super::*;
use crate::supervise::counters::Counters;
use rmogstored_worker::scoreboard::Scoreboard;

fn reply(request: &str) -> Option<(Reply, usize)> {
    let facts = Facts::new(Scoreboard::new().unwrap(), Counters::default());
    answer(request.as_bytes(), &facts)
}

fn text(request: &str) -> (String, Then) {
    let (reply, _) = reply(request).unwrap();
    (String::from_utf8(reply.bytes).unwrap(), reply.then)
}

#[test]
fn each_path_has_its_answer() {
    for (path, status) in [
        ("/", 200),
        ("/metrics", 200),
        ("/metrics?name=x", 200),
        ("/healthz", 200),
        ("/readyz", 503),
        ("/status.json", 503),
        ("/metrics/", 404),
        ("/dev1/usage", 404),
        ("/../etc/passwd", 404),
    ] {
        for method in ["GET", "HEAD"] {
            let (text, then) = text(&format!("{method} {path} HTTP/1.1\r\nHost: n\r\n\r\n"));
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {text}");
            assert_eq!(then, Then::Keep, "{path}");
            assert_eq!(text.ends_with("\r\n\r\n"), method == "HEAD", "{path}: {text}");
        }
        for method in ["PUT", "DELETE", "POST", "MKCOL", "OPTIONS"] {
            let (text, _) = text(&format!("{method} {path} HTTP/1.1\r\nHost: n\r\n\r\n"));
            assert!(text.starts_with("HTTP/1.1 405 "), "{method} {path}: {text}");
        }
    }
}

#[test]
fn connection_lives_on_unless_it_cannot() {
    assert_eq!(text("GET / HTTP/1.0\r\n\r\n").1, Then::Close);
    assert_eq!(text("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").1, Then::Close);
    assert_eq!(text("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello").1, Then::Close);
    assert_eq!(text("GET /events HTTP/1.1\r\n\r\n").1, Then::Stream);
    assert_eq!(text("nonsense\r\n\r\n").1, Then::Close);
    assert_eq!(reply("GET / HTTP/1.1\r\nHost"), None);
    let (_, len) = reply("GET / HTTP/1.1\r\n\r\nGET /").unwrap();
    assert_eq!(len, 18);
    let (_, len) = reply("GET /healthz?a=b%20c HTTP/1.1\r\n\r\nGET /?x").unwrap();
    assert_eq!(len, 33);
    assert_eq!(reply("GET /healthz?a=b HTTP/1"), None);
}

#[test]
fn metrics_come_in_the_format_that_was_asked_for() {
    let (plain, _) = text("GET /metrics HTTP/1.1\r\n\r\n");
    assert!(plain.contains("version=0.0.4") && plain.contains("\nrmogstored_requests_total 0\n"));
    assert!(plain.contains("# TYPE rmogstored_requests_total counter\n"), "{plain}");
    let (open, _) = text("GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n");
    assert!(open.contains("openmetrics-text") && open.ends_with("# EOF\n"), "{open}");
    assert!(open.contains("# TYPE rmogstored_requests counter\n"), "{open}");
}
