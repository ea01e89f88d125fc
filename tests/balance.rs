//! Connections are spread over workers, and none of them wakes more than one.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use crate::harness::{Client, Node, Setup, fid_path, until};
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

/// Requests for the devices of one worker bring connections to it; they do not stay there for ever.
#[test]
fn connections_that_came_together_at_one_worker_are_spread_again() {
    let node = Setup::new().workers("2").start();
    node.store("/dev1/hot", "hot");
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| node.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.put(&format!("/dev1/f{number}"), "x").expect(201);
    }
    until("connections to be spread", || {
        let held = worker_numbers(&node, "connections");
        held.iter().all(|number| *number >= FAIR)
    });
    for client in &mut clients {
        assert_eq!(client.get("/dev1/hot").body, b"hot");
    }
    assert_eq!(worker_numbers(&node, "connections").iter().sum::<u64>(), CONNECTIONS as u64);
}

/// More workers than processors would only take turns: those that wait for none of the disk
/// threads of the others go where most are.
#[test]
fn few_connections_gather_at_as_many_workers_as_there_are_processors() {
    let lanes = available_parallelism().map_or(1, NonZeroUsize::get).max(2);
    let devices = lanes + 3;
    let node = Setup::new().devices(devices).workers(&devices.to_string()).start();
    node.store("/dev1/hot", "hot");
    let mut clients: Vec<_> = (0..devices * 4).map(|_| node.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.put(&format!("/dev{}/f{number}", number % devices + 1), "x").expect(201);
    }
    until("connections to gather", || {
        let held = worker_numbers(&node, "connections");
        held.iter().sum::<u64>() == clients.len() as u64
            && held.iter().filter(|number| **number > 0).count() == lanes
    });
    for client in &mut clients {
        assert_eq!(client.get("/dev1/hot").body, b"hot");
    }
}

/// A worker that has no directory of a device gets it with the first request, not a second later.
#[test]
fn first_reads_of_a_device_bring_few_connections_to_its_worker() {
    let (node, hot) = (Setup::new().workers("2").start(), fid_path(1, 1));
    node.store(&hot, "hot");
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| node.client()).collect();
    clients.iter_mut().for_each(Client::stays_open);
    let before = total(&node, "handed_over");
    for client in &mut clients {
        assert_eq!(client.get(&hot).body, b"hot");
    }
    let moved = total(&node, "handed_over") - before;
    assert!(moved < 20, "{moved} of {CONNECTIONS} connections were moved");
}

/// However few processors there are, no worker is filled while others have room.
#[test]
fn more_workers_are_used_when_there_are_many_connections() {
    const DESCRIPTORS: u64 = 250;
    const MANY: usize = 600;
    let node = Setup::new().workers("4").shell(&format!("ulimit -n {DESCRIPTORS}")).start();
    let mut clients: Vec<_> = (0..MANY).map(|_| node.client()).collect();
    clients.iter_mut().for_each(Client::stays_open);
    let held = worker_numbers(&node, "connections");
    assert_eq!(held.iter().sum::<u64>(), MANY as u64, "{held:?}");
    assert!(held.iter().all(|number| *number < DESCRIPTORS * 3 / 4), "{held:?}");
    clients.iter_mut().for_each(Client::stays_open);
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
