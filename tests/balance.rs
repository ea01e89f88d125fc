//! Connections are spread over workers, and none of them wakes more than one.

use crate::harness::{Client, Node, Setup, until};
use crate::load::{process, total, worker_numbers};

const CONNECTIONS: usize = 200;
/// What each of two workers must hold of them.
const FAIR: u64 = 80;
const ROUNDS: u64 = 50;

#[test]
fn connections_made_one_by_one_are_spread_over_two_workers() {
    let node = Setup::new().workers("2").start();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = node.client();
            client.stays_open();
            client
        })
        .collect();
    check_balance(&node, clients);
}

#[test]
fn connections_made_at_once_are_spread_over_two_workers() {
    let node = Setup::new().workers("2").start();
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| node.client()).collect();
    clients.iter_mut().for_each(Client::stays_open);
    check_balance(&node, clients);
}

fn check_balance(node: &Node, mut clients: Vec<Client>) {
    let held = worker_numbers(node, "connections");
    assert_eq!(held.iter().sum::<u64>(), CONNECTIONS as u64, "{held:?}");
    assert!(held.iter().all(|number| *number >= FAIR), "{held:?}");
    clients.iter_mut().for_each(Client::stays_open);
    drop(clients);
    until("the connections to be gone", || total(node, "connections") == 0);
}

/// `wakeups` counts the times epoll_wait(2) returned with something to do. A worker by itself
/// shows what a connection costs. Workers that the kernel wakes in vain it mostly sends back to
/// sleep by itself: they are found by how often they slept.
#[test]
fn a_connection_wakes_one_worker_of_four() {
    let (alone, _) = wakeups_of_connections("1");
    let (together, in_vain) = wakeups_of_connections("4");
    println!("{alone} wake-ups, {together} with four workers; {in_vain} woke most of them");
    assert!(alone >= 2 * ROUNDS, "at least to accept and to read: {alone}");
    assert!(together * 4 <= alone * 5, "{together} wake-ups with four workers, {alone} with one");
    assert!(in_vain < ROUNDS / 2, "{in_vain} of {ROUNDS} connections woke most workers");
}

/// All wake-ups of connections one after the other, and how many of these woke three workers or
/// more. A few may: each worker wakes once a second by itself.
fn wakeups_of_connections(workers: &str) -> (u64, u64) {
    let node = Setup::new().workers(workers).start();
    let begun = total(&node, "wakeups");
    let mut in_vain = 0;
    for round in 1..=ROUNDS {
        let before = sleeps(&node);
        let mut client = node.client();
        until("the connection to be accepted", || total(&node, "accepted") == round);
        client.stays_open();
        drop(client);
        until("the connection to be gone", || total(&node, "connections") == 0);
        let woken = sleeps(&node).into_iter().zip(before).filter(|(after, before)| after > before);
        in_vain += u64::from(woken.count() > 2);
    }
    (total(&node, "wakeups") - begun, in_vain)
}

fn sleeps(node: &Node) -> Vec<u64> {
    node.workers().into_iter().map(process::sleeps).collect()
}
