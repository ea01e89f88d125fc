//! How little memory a worker needs. What is counted: [`process::private_memory`].

use std::thread;

use crate::harness::{Client, Node, Setup, skipped};
use crate::load::{memory_at_rest, process, total};

/// What a worker may have for itself at rest.
const AT_REST: u64 = 4 * 1024 * 1024;
const CONNECTIONS: usize = 5000;
/// What an idle connection may cost outside the kernel.
const PER_CONNECTION: u64 = 600;

#[test]
fn a_worker_at_rest_has_less_than_four_mib() {
    let node = Setup::new().workers("device").start();
    check_rest(&node, "that has just started");
    let body = vec![7; 1024 * 1024];
    thread::scope(|scope| {
        for number in 0..8 {
            let (mut client, body) = (node.client(), &body);
            scope.spawn(move || work(&mut client, number, body));
        }
    });
    check_rest(&node, "after work");
}

#[test]
fn an_idle_connection_costs_less_than_600_bytes() {
    if !process::allow_descriptors(CONNECTIONS as u64 + 1000) {
        return skipped("the limit of descriptors is too low for 5,000 connections");
    }
    let node = Setup::new().workers("1").start();
    node.store("/dev1/small", "x");
    let open = || {
        let mut client = node.client();
        client.get("/dev1/small").expect(200);
        client
    };
    // What the first ones cost once and for all is not theirs alone.
    let warm: Vec<_> = (0..20).map(|_| open()).collect();
    let before = process::private_memory(node.workers()[0]);
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
    assert_eq!(total(&node, "connections"), (CONNECTIONS + warm.len()) as u64);
    let after = process::private_memory(node.workers()[0]);
    let each = after.saturating_sub(before) / CONNECTIONS as u64;
    println!("{each} bytes for each idle connection");
    assert!(each < PER_CONNECTION, "{each} bytes for each idle connection");
    clients.iter_mut().step_by(50).for_each(Client::stays_open);
}

fn work(client: &mut Client, number: u32, body: &[u8]) {
    for round in 0..10 {
        let path = format!("/dev{}/{number}-{round}", 1 + (number + round) % 2);
        client.put(&path, body).expect(201);
        assert!(client.get(&path).expect(200).body == body);
    }
}

fn check_rest(node: &Node, which: &str) {
    let most = memory_at_rest(node).into_iter().max().expect("there are workers");
    println!("{} KiB: a worker {which}", most / 1024);
    assert!(most < AT_REST, "{} KiB: a worker {which}", most / 1024);
}
