use std::os::unix::net::UnixStream;

use super::*;
use crate::disk::loan::{Stage, Style};
use crate::spec::DeviceKey;

fn conn(input: &[u8]) -> (UnixStream, Conn) {
    let (client, socket) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let peer = SocketAddr::from(([127, 0, 0, 1], 7500));
    (client, Conn::new(socket.into(), peer, Service::Http, SiteId(0), input.to_vec()))
}

fn loan() -> Arc<Loan> {
    let device = DeviceKey { site: SiteId(0), devid: 1 };
    Arc::new(Loan::new(device, Style::Http(true), Stage::Fresh, 0, false))
}

fn answered(leftover: &[u8], has_read: bool) -> Answered {
    Answered { unsent: Vec::new(), keep: false, leftover: leftover.to_vec(), has_read }
}

#[test]
fn idle_connection_takes_little_room() {
    assert!(size_of::<Conn>() <= 112, "{}", size_of::<Conn>());
}

#[test]
fn peer_keeps_address_and_port() {
    for text in ["127.0.0.1:7500", "[2001:db8::1]:65535", "[::1]:1"] {
        let address: SocketAddr = text.parse().unwrap();
        assert_eq!(Peer::new(address).address(), address);
    }
}

#[test]
fn one_that_is_lent_is_in_no_other_state_until_it_enters_one() {
    let (_client, mut conn) = conn(b"GET");
    conn.note_event(true, true, false);
    let borrowed = conn.lend(3, 4099, loan());
    assert!(borrowed.more_input && (borrowed.key, borrowed.token) == (3, 4099));
    assert!(conn.is_lent() && !conn.is_writable());
    let taken = conn.leave_state();
    assert!(matches!(taken, State::Lent(_)) && !conn.is_lent(), "a transition is no loan");
    conn.enter(taken);
    assert!(conn.is_lent());
    conn.reclaim().unwrap();
    assert!(conn.is_readable() && conn.is_writable(), "what was known may be old");
}

#[test]
fn a_waiting_operation_uses_up_what_it_waited_for() {
    let (_client, mut conn) = conn(b"");
    assert!(!conn.go_on_if_ready_for(Need::Read) && !conn.go_on_if_ready_for(Need::Write));
    conn.note_event(true, true, false);
    assert!(conn.go_on_if_ready_for(Need::Write) && conn.is_readable());
    assert!(conn.go_on_if_ready_for(Need::Read) && !conn.is_readable());
    conn.feed();
    assert!(!conn.is_ready_for(Need::Write));
}

#[test]
fn it_lingers_where_the_peer_may_still_be_sending() {
    let table: [(&[u8], &[u8], bool, Ending); 4] = [
        (b"", b"", false, Ending::Plain),
        (b"", b"", true, Ending::Lingering),
        (b"", b"GET", false, Ending::Lingering),
        (b"GET", b"", false, Ending::Lingering),
    ];
    for (input, leftover, has_read, ending) in table {
        let (_client, mut conn) = conn(input);
        assert_eq!(conn.note_answered(answered(leftover, has_read)), ending);
        assert_eq!(conn.is_readable(), has_read);
        assert_eq!(conn.input(), [input, leftover].concat());
    }
}

#[test]
fn it_is_between_requests_only_with_all_answers_sent_and_no_end_in_sight() {
    let (_client, mut conn) = conn(b"");
    assert!(conn.is_between_requests());
    conn.close_after_output(Ending::Plain);
    assert!(!conn.is_between_requests());
    conn.linger(10);
    assert!(conn.ending().is_none() && conn.is_readable());
    assert!(!conn.is_between_requests(), "that was its last");
    conn.enter(State::Watching);
    assert!(conn.is_between_requests());
}

#[test]
fn what_is_read_comes_behind_what_was_there_and_the_end_is_told_once() {
    use std::io::Write;
    let (mut client, mut conn) = conn(b"GE");
    client.write_all(b"T /").unwrap();
    assert_eq!(conn.read_more(&mut [0; 64]), Read::Nothing, "no event has told of it");
    conn.look_again();
    assert_eq!(conn.read_more(&mut [0; 64]), Read::Some(3));
    assert_eq!((conn.input(), conn.is_readable()), (&b"GET /"[..], false));
    drop(client);
    conn.note_event(false, false, true);
    assert_eq!(conn.read_more(&mut [0; 64]), Read::End);
    assert!(conn.has_ended() && !conn.is_readable());
}
