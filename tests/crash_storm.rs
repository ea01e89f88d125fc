//! A worker that dies at once every time: the others serve, and it costs little.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::chain::Chain;
use crate::harness::{Setup, skipped, until};

#[test]
fn worker_that_dies_at_once_every_time_is_forked_less_and_less() {
    let setup = Setup::new().devices(3).workers("device");
    let folder = setup.folder().to_owned();
    let Some(library) = Chain::deadly_library(&folder, "rmogstored-w0") else {
        return skipped("no C compiler");
    };
    let node = setup.env("LD_PRELOAD", library.to_str().unwrap()).start();
    node.store("/dev2/a", "x");
    fs::write(folder.join("die"), "").unwrap();
    kill(node.workers()[0], Signal::SIGKILL).unwrap();
    let deaths = || -> Vec<f64> {
        let exits = node.all_events("worker_exited");
        exits.iter().filter_map(|event| event["time"].as_f64()).collect()
    };
    until("eight deaths", || deaths().len() >= 8);
    let times = deaths();
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.windows(2).skip(1).all(|pair| pair[1] > pair[0] * 0.9), "{gaps:?}");
    assert!(gaps[6] > 0.9, "{gaps:?}");
    for _ in 0..10 {
        assert_eq!(node.client().get("/dev2/a").body, b"x");
    }
    let worker = node.status()["workers"][0].clone();
    assert_eq!(worker["state"], "down", "{worker}");
    assert!(worker["restarts"].as_u64().unwrap() >= 8, "{worker}");
    let lines = node.stderr.so_far().len();
    assert!(lines < 40, "{lines} lines");
    fs::remove_file(folder.join("die")).unwrap();
    let seen = node.events.so_far().len();
    node.event_after(seen, "worker_started");
    assert!(crate::harness::DEADLINE > Duration::from_secs(10), "the delay ends at ten seconds");
}
