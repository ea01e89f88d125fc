//! What is shipped for Prometheus and Grafana speaks of metrics that a real node has.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Client, Setup, skipped};

const DASHBOARD: &str = "grafana/rmogstored.json";
const ALERTS: &str = "prometheus/alerts.yml";

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

fn shipped(name: &str) -> String {
    fs::read_to_string(contrib(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn dashboard() -> Value {
    serde_json::from_str(&shipped(DASHBOARD)).unwrap()
}

/// The node's metrics that a text speaks of.
fn named(text: &str) -> BTreeSet<String> {
    let starts = text.match_indices("rmogstored_").map(|(at, _)| &text[at..]);
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    starts.map(|rest| rest.split(|letter| !is_part(letter)).next().unwrap().to_owned()).collect()
}

/// What a node has that has done some work.
fn offered() -> BTreeSet<String> {
    let node = Setup::new().arg("--statuslisten=127.0.0.1:0").start();
    node.client().put("/dev1/a", "content").expect(201);
    node.client().get("/dev1/a").expect(200);
    node.client().get("/dev1/b").expect(404);
    let text = Client::connect(node.address("status")).get("/metrics").expect(200).body;
    let text = String::from_utf8(text).unwrap();
    // What has no sample yet has a type all the same.
    let lines = text.lines().map(|line| line.strip_prefix("# TYPE ").unwrap_or(line));
    let named = lines.filter(|line| !line.starts_with('#'));
    named.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

#[test]
fn each_metric_that_is_spoken_of_exists() {
    let offered = offered();
    for name in [DASHBOARD, ALERTS, "prometheus/alerts_test.yml"] {
        let named = named(&shipped(name));
        assert!(named.len() > 10, "{name}: {named:?}");
        let unknown: Vec<_> = named.difference(&offered).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?} are none of {offered:#?}");
    }
}

fn promtool() -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join("promtool").is_file()) {
        skipped("promtool is not installed");
        return None;
    }
    Some(Command::new("promtool"))
}

fn passes(args: &[&str], file: &Path) -> String {
    let Some(mut promtool) = promtool() else { return String::new() };
    let output = promtool.args(args).arg(file).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn alerts_fire_when_they_are_due_and_not_before() {
    passes(&["check", "rules"], &contrib(ALERTS));
    passes(&["test", "rules"], &contrib("prometheus/alerts_test.yml"));
    passes(&["check", "config"], &contrib("prometheus/scrape.yml"));
}

#[test]
fn each_alert_is_tested() {
    let tests = shipped("prometheus/alerts_test.yml");
    let alerts = shipped(ALERTS);
    let names: Vec<_> = alerts.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 15, "{names:?}");
    let untested: Vec<_> = names.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(untested.is_empty(), "{untested:?}");
}

#[test]
fn panels_of_the_dashboard_have_numbers_and_places_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert!(panels.len() > 20 && ids.len() == panels.len(), "{ids:?}");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for cell in (0..at("w") * at("h")).map(|n| (at("x") + n % at("w"), at("y") + n / at("w"))) {
            assert!(taken.insert(cell), "{} lies on another", panel["title"]);
        }
    }
}

/// Prometheus itself reads them, with values for what Grafana fills in.
#[test]
fn expressions_of_the_dashboard_are_sound() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    let mut count = 0;
    for target in targets.chain(dashboard["annotations"]["list"].as_array().unwrap()) {
        let text = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
        let text = text.replace("$job", "a").replace("$instance", ".*");
        count += 1;
        let expression = serde_json::to_string(&text).unwrap();
        writeln!(rules, "      - {{record: 'r{count}', expr: {expression}}}").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    fs::write(&file, rules).unwrap();
    let told = passes(&["check", "rules"], &file);
    assert!(told.is_empty() || told.contains(&format!("{count} rules found")), "{told}");
}
