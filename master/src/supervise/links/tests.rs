use super::*;
use rmogstored_worker::spec::{Service, SiteId};
use rmogstored_worker::sys::socket::{receive_with_fd, send_with_fd};

const A: WorkerId = WorkerId(0);
const B: WorkerId = WorkerId(1);

#[test]
fn new_inbox_is_announced_to_the_workers_that_are_there() {
    let mut links = Links::default();
    links.add(A).unwrap();
    let (master, worker) = Channel::pair().unwrap();
    links.connect(A, master);
    links.add(B).unwrap();
    let (message, fd) = worker.receive::<Down>().unwrap().unwrap();
    assert_eq!(message, Down::Peer { worker: 1 });
    send_with_fd(fd.unwrap().as_fd(), &[b"x"], None).unwrap();
    let (inbox, peers) = links.into_ends(B).unwrap();
    assert_eq!(receive_with_fd(inbox.as_fd(), &mut [0; 8]).unwrap().0, 1);
    assert_eq!(peers.iter().map(|peer| peer.worker).collect::<Vec<_>>(), [A]);
}

/// Fills the channel to a worker that does not read.
fn with_full_channel() -> (Links, Channel) {
    let mut links = Links::default();
    links.add(A).unwrap();
    let (master, worker) = Channel::pair().unwrap();
    while master.send(&Down::Accept, None).is_ok() {}
    links.connect(A, master);
    (links, worker)
}

/// Reads all, past what the channel was filled with.
fn heard(links: &mut Links, worker: &Channel) -> Vec<Down> {
    let (mut heard, mut all_sent) = (Vec::new(), false);
    loop {
        match worker.receive::<Down>() {
            Ok(Some((Down::Accept, _))) => {}
            Ok(Some((message, _))) => heard.push(message),
            _ if all_sent => return heard,
            _ => all_sent = links.flush(),
        }
    }
}

#[test]
fn slow_reader_is_told_the_latest_of_each_kind() {
    let (mut links, worker) = with_full_channel();
    for threads in 1..=100_000 {
        links.send(A, &Down::AioThreads { threads });
        links.send(A, &Down::ReopenLog { log: Log::Access });
    }
    links.send(A, &Down::Drain { shared: false });
    links.add(B).unwrap();
    (1..=5).for_each(|threads| links.send(A, &Down::AioThreads { threads }));
    assert!(!links.flush());
    let expected = [
        Down::Peer { worker: 1 },
        Down::AioThreads { threads: 5 },
        Down::ReopenLog { log: Log::Access },
        Down::Drain { shared: false },
    ];
    assert_eq!(heard(&mut links, &worker), expected);
}

#[test]
fn each_worker_is_told_of_each_heir_and_so_is_one_that_comes_later() {
    let mut links = Links::default();
    links.add(A).unwrap();
    let (master, worker) = Channel::pair().unwrap();
    links.connect(A, master);
    let (inbox, _receiver) = seqpacket_pair().unwrap();
    links.add_heir(3, inbox, Vec::new(), vec![route(1)]);
    let told = Down::Heir { heir: 3, routes: vec![route(1)] };
    assert!(worker.receive::<Down>().unwrap().is_some_and(|m| m.0 == told && m.1.is_some()));
    links.disconnect(A).unwrap();
    let (master, worker) = Channel::pair().unwrap();
    links.connect(A, master);
    assert!(links.flush());
    assert_eq!(worker.receive::<Down>().unwrap().unwrap().0, told);
    links.forget_heirs();
    assert_eq!(worker.receive::<Down>().unwrap().unwrap().0, Down::NoHeir { heir: 3 });
    links.disconnect(A).unwrap();
    let (master, worker) = Channel::pair().unwrap();
    links.connect(A, master);
    links.remove_heir(3);
    assert!(links.flush());
    assert!(worker.receive::<Down>().is_err(), "there is nothing to say");
}

fn route(heir_site: u8) -> Route {
    let address = ([127, 0, 0, 1], 7500).into();
    Route { service: Service::Http, site: 0, address, heir_site }
}

#[test]
fn slow_reader_hears_what_an_heir_has_come_to() {
    let (mut links, worker) = with_full_channel();
    for number in [3, 5, 7] {
        links.add_heir(number, seqpacket_pair().unwrap().0, Vec::new(), vec![route(1)]);
    }
    links.remove_heir(3);
    links.find_routes(|_| vec![route(2)]);
    links.remove_heir(7);
    links.add_heir(7, seqpacket_pair().unwrap().0, Vec::new(), vec![route(3)]);
    let told = |heir, site| Down::Heir { heir, routes: vec![route(site)] };
    assert_eq!(heard(&mut links, &worker), [told(5, 2), told(7, 3)]);
    links.remove_heir(5);
    links.forget_heirs();
    let gone = |heir| Down::NoHeir { heir };
    assert_eq!(heard(&mut links, &worker), [gone(5), gone(7)]);
}

#[test]
fn what_changes_nothing_is_not_sent() {
    let mut links = Links::default();
    links.add(A).unwrap();
    let (master, worker) = Channel::pair().unwrap();
    links.connect(A, master);
    for _ in 0..10_000 {
        links.send(A, &Down::AioThreads { threads: 5 });
        links.send(A, &Down::Drain { shared: false });
    }
    assert_eq!(
        heard(&mut links, &worker),
        [Down::AioThreads { threads: 5 }, Down::Drain { shared: false }]
    );
    // A new process of the slot knows nothing yet.
    links.disconnect(A).unwrap();
    let (master, worker) = Channel::pair().unwrap();
    links.connect(A, master);
    links.send(A, &Down::Drain { shared: false });
    assert_eq!(heard(&mut links, &worker), [Down::Drain { shared: false }]);
}

/// Back to what was told last while the channel was full: nothing is left to be said.
#[test]
fn change_of_mind_and_back_is_no_message() {
    let (mut links, worker) = with_full_channel();
    links.links.get_mut(&A).unwrap().wanted.told_threads = Some(5);
    links.send(A, &Down::AioThreads { threads: 6 });
    links.send(A, &Down::AioThreads { threads: 5 });
    assert_eq!(heard(&mut links, &worker), []);
}

#[test]
fn connections_that_wait_for_a_worker_that_has_gone_are_passed_on() {
    let mut links = Links::default();
    links.add(A).unwrap();
    links.add(B).unwrap();
    let (_client, connection) = std::os::unix::net::UnixStream::pair().unwrap();
    for text in [b"GET /1", b"GET /2"] {
        let (to, of) = (links.links[&A].sender.as_fd(), connection.as_fd());
        inbox::send_connection(to, of, Service::Http, SiteId(0), text).unwrap();
    }
    links.remove(A);
    assert_eq!(links.pass_on(&[B]), [(B, 2)]);
    let mut buffer = vec![0; 1 << 16];
    for text in [b"GET /1", b"GET /2"] {
        let parcel = inbox::receive(links.links[&B].receiver.as_fd(), &mut buffer).unwrap();
        let Some(Parcel::Connection { input, .. }) = parcel else { panic!("{parcel:?}") };
        assert_eq!(input, text);
    }
    links.remove(B);
    assert_eq!(links.pass_on(&[]), []);
    assert!(!links.has_waiting(), "there was nothing in it");
}

#[test]
fn connections_wait_for_one_that_serves_while_none_does() {
    let mut links = Links::default();
    links.add(A).unwrap();
    let (_client, connection) = std::os::unix::net::UnixStream::pair().unwrap();
    let to = links.inbox_of(A).unwrap();
    inbox::send_connection(to, connection.as_fd(), Service::Http, SiteId(0), b"GE").unwrap();
    links.remove_processless();
    assert!(links.pass_on(&[]).is_empty() && links.has_waiting());
    links.pass_on_to_other_node();
    assert!(links.has_waiting(), "there is none");
    links.add(B).unwrap();
    assert_eq!(links.pass_on(&[B]), [(B, 1)]);
    let parcel = inbox::receive(links.links[&B].receiver.as_fd(), &mut [0; 100]).unwrap();
    assert!(matches!(parcel, Some(Parcel::Connection { .. })) && !links.has_waiting());
}

#[test]
fn connections_that_find_no_room_wait_on() {
    let mut links = Links::default();
    links.add(A).unwrap();
    links.add(B).unwrap();
    let (_client, connection) = std::os::unix::net::UnixStream::pair().unwrap();
    let send = |to: BorrowedFd<'_>| {
        inbox::send_connection(to, connection.as_fd(), Service::Http, SiteId(0), &[0; 1024])
    };
    (0..5).for_each(|_| send(links.inbox_of(A).unwrap()).unwrap());
    while send(links.inbox_of(B).unwrap()).is_ok() {}
    links.remove(A);
    assert_eq!(links.pass_on(&[B]), [(B, 0)]);
    assert!(links.has_waiting());
    let mut buffer = vec![0; 4096];
    (0..3).for_each(|_| {
        assert!(inbox::receive(links.links[&B].receiver.as_fd(), &mut buffer).unwrap().is_some());
    });
    let given = links.pass_on(&[B])[0].1;
    assert!((1..5).contains(&given) && links.has_waiting(), "{given}");
    while inbox::receive(links.links[&B].receiver.as_fd(), &mut buffer).unwrap().is_some() {}
    assert_eq!(links.pass_on(&[B]), [(B, 5 - given)], "none was lost");
    assert!(!links.has_waiting());
}
