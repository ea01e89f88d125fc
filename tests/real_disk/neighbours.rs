//! What the clients of the other disks notice: dev2 to dev4 are well.

use std::time::{Duration, Instant};

use crate::harness::{Client, Node};

/// What an answer may take beside a disk that hangs.
pub const AT_ONCE: Duration = Duration::from_millis(50);
/// Beyond this it is not the noise of a busy machine.
const TOO_LONG: Duration = Duration::from_secs(1);
/// Until a test gives up on the node.
const PATIENCE: Duration = Duration::from_secs(3);
const TURNS: usize = 8;
const TURN: Duration = Duration::from_millis(150);

/// What the best of a few turns of load came to: nothing else makes a node faster.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Requests.
    pub per_second: f64,
    /// Of the times that an answer took.
    pub p99: Duration,
}

/// A client that does not wait long.
pub fn client(node: &Node) -> Client {
    let client = node.client();
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Asks the other devices for so long, on old connections and new ones, and insists that they
/// answer at once.
pub fn are_untouched_for(node: &Node, time: Duration, who: &str) {
    let begun = Instant::now();
    let mut times = Vec::new();
    let mut old = client(node);
    while begun.elapsed() < time || times.len() < 40 {
        for device in 2..=4 {
            let (mut fresh, mut late) = (client(node), client(node));
            let (kept, usage) = (format!("/dev{device}/kept"), format!("/dev{device}/usage"));
            for (client, path) in [(&mut old, &kept), (&mut fresh, &kept), (&mut late, &usage)] {
                let asked = Instant::now();
                client.get(path).expect(200);
                times.push(asked.elapsed());
                if asked.elapsed() > AT_ONCE {
                    println!(
                        "{who}: {path} after {:?} took {:?}",
                        begun.elapsed(),
                        asked.elapsed()
                    );
                }
            }
        }
        std::thread::sleep(Duration::from_millis(5)); // The pace.
    }
    times.sort();
    let (most, slowest) = (times[times.len() * 19 / 20], times[times.len() - 1]);
    println!("{who}: 19 of 20 within {most:?}, slowest {slowest:?}");
    assert!(most < AT_ONCE && slowest < TOO_LONG, "{who}: {most:?}, slowest {slowest:?}");
}

/// Asks dev2 for a file as fast as one client can.
pub fn measure(node: &Node) -> Load {
    let turns: Vec<_> = (0..TURNS).map(|_| turn(node)).collect();
    let per_second = turns.iter().map(|turn| turn.per_second).fold(0.0, f64::max);
    let p99 = turns.iter().map(|turn| turn.p99).min().expect("some turns");
    Load { per_second, p99 }
}

fn turn(node: &Node) -> Load {
    let (begun, mut client) = (Instant::now(), client(node));
    let mut times = Vec::new();
    while begun.elapsed() < TURN {
        let asked = Instant::now();
        client.get("/dev2/kept").expect(200);
        times.push(asked.elapsed());
    }
    let per_second = times.len() as f64 / begun.elapsed().as_secs_f64();
    times.sort();
    Load { per_second, p99: times[times.len() * 99 / 100] }
}
