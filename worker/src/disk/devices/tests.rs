use super::*;
use crate::disk::completions::Socket;
use crate::disk::loan::{Loan, Stage, Style};
use crate::disk::on_disk::OnDisk;
use crate::disk::operation::{Operation, Outcome, Turn, Turned};
use crate::disk::work::Borrowed;
use crate::spec::Fsync;
use mio::{Poll, Token};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

const ME: WorkerId = WorkerId(0);
const SITE: SiteId = SiteId(0);
const DOCROOT: DeviceKey = DeviceKey { site: SITE, devid: 0 };
const DEV1: DeviceKey = DeviceKey { site: SITE, devid: 1 };
const DEV2: DeviceKey = DeviceKey { site: SITE, devid: 2 };
const TIMEOUT: Duration = Duration::from_secs(60);

/// The docroot and dev1 are ours, dev2 is another's.
fn bench() -> (Devices, Scoreboard, impl Sized) {
    OnDisk::in_test();
    let docroot = tempfile::tempdir().unwrap();
    std::fs::create_dir(docroot.path().join("dev1")).unwrap();
    let (board, poll) = (Scoreboard::new().unwrap(), Poll::new().unwrap());
    let context = Context::new(board, ME, Fsync::Off, poll.registry(), Token(0)).unwrap();
    for (key, owner) in [(DOCROOT, 0), (DEV1, 0), (DEV2, 1)] {
        board.list_device(key, WorkerId(owner)).unwrap();
    }
    let site = Site { docroot: docroot.path().into(), usage: true, require_mount: false };
    let devices = Devices::new(ME, vec![site], Arc::new(context), 1, TIMEOUT);
    (devices, board, (docroot, poll))
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn names_that_nobody_listed_are_the_docroot_s_and_not_remembered() {
    let (mut devices, _board, _rest) = bench();
    let made_up = DeviceKey { devid: 9_999_999, ..DOCROOT };
    assert_eq!(devices.owner(DEV2), WorkerId(1));
    assert_eq!(devices.owner(made_up), ME);
    assert_eq!(devices.pool_key(made_up), DOCROOT);
    assert_eq!(devices.pool_key(DEV2), DEV2);
    devices.get(made_up);
    devices.get(DEV1);
    assert!(devices.at_hand(made_up).is_none() && devices.at_hand(DEV1).is_some());
    assert!(devices.has_site(SITE) && !devices.has_site(SiteId(1)));
}

#[test]
fn nothing_is_looked_for_on_a_disk_that_may_hang() {
    let (devices, board, _rest) = bench();
    let slot = board.device(DEV1).unwrap();
    assert!(devices.may_look(DEV1, 1000));
    slot.oldest_began.store(1000, Relaxed);
    assert!(!devices.may_look(DEV1, 60_000), "something has been going on for long");
    slot.oldest_began.store(0, Relaxed);
    slot.set_state(DeviceState::Stalled);
    assert!(devices.is_stalled(DEV1) && !devices.may_look(DEV1, 1000));
    assert!(!devices.may_look(DeviceKey { devid: 7, ..DOCROOT }, 1000), "there is none");
}

#[test]
fn usage_is_told_of_a_device_that_is_well_and_has_numbers() {
    let (devices, board, _rest) = bench();
    let path = DevPath::parse(b"/dev1/usage").unwrap();
    let slot = board.device(DEV1).unwrap();
    assert!(devices.has_usage(SITE, &path) && devices.usage_at_hand(SITE, &path).is_none());
    let usage = Usage { available: 5, total: 10, used: 5, time: 1, source: "-".into() };
    slot.publish(&usage, None);
    let (_, text) = devices.usage_at_hand(SITE, &path).unwrap();
    assert!(text.contains("available: 5"), "{text}");
    slot.set_state(DeviceState::Stalled);
    assert!(devices.usage_at_hand(SITE, &path).is_none());
}

#[test]
fn looks_at_usage_are_taken_of_what_is_ours() {
    let (mut devices, board, _rest) = bench();
    devices.look_at_usage(1000);
    until("no look", || board.device(DEV1).unwrap().usage().is_some());
    until("it does not end", || devices.are_idle());
    assert!(!devices.is_busy(DEV2) && !devices.has_answered(DEV2), "another worker's");
}

#[test]
fn inherited_mark_goes_when_the_disk_has_answered() {
    let (mut devices, board, _rest) = bench();
    let clock = Clock::start().unwrap();
    let slot = board.device(DEV1).unwrap();
    slot.set_state(DeviceState::Stalled);
    assert!(devices.read_stall_clocks(TIMEOUT, &clock).is_empty());
    assert_eq!(slot.state(), DeviceState::Stalled);
    devices.try_inherited_stalls();
    until("no answer", || devices.has_answered(DEV1) && devices.are_idle());
    assert!(devices.read_stall_clocks(TIMEOUT, &clock).is_empty());
    assert_eq!(slot.state(), DeviceState::Ok);
}

/// Waits until it is let go.
#[derive(Debug)]
struct Stuck(DevPath, Receiver<()>);

impl Operation for Stuck {
    fn run(self: Box<Self>, _: &Turn<'_>) -> Turned {
        let _ = self.1.recv_timeout(Duration::from_secs(10));
        Turned::Over(Outcome::Broken)
    }

    fn path(&self) -> &DevPath {
        &self.0
    }

    fn style(&self, _: DeviceKey) -> Style {
        Style::Http(false)
    }
}

#[test]
fn who_waits_for_a_disk_that_does_not_answer_waits_in_vain() {
    let (mut devices, board, _rest) = bench();
    let (clock, short) = (Clock::start().unwrap(), Duration::from_millis(1));
    let (device, slot) = (devices.get(DEV1), board.device(DEV1).unwrap());
    devices.in_background(&device, Task::Refresh);
    until("no answer", || devices.has_answered(DEV1) && devices.are_idle());
    let (release, waits) = channel();
    let op = Box::new(Stuck(DevPath::parse(b"/dev1/a").unwrap(), waits));
    let (ours, _peer) = UnixStream::pair().unwrap();
    let borrowed = Borrowed {
        key: 0,
        token: 0,
        socket: Arc::new(Socket::new(ours.into())),
        peer: ([127, 0, 0, 1], 1).into(),
        more_input: false,
        loan: Arc::new(Loan::new(DEV1, Style::Http(false), Stage::Fresh, 0, false)),
    };
    let context = Arc::clone(&devices.context);
    devices.submit(Work::for_connection(borrowed, device, context, op), 1).unwrap();
    assert!(devices.have_work());
    until("it is called stalled", || {
        let waiting = devices.read_stall_clocks(short, &clock);
        waiting.iter().any(|waiting| matches!(waiting, InVain::All(DEV1)))
    });
    assert_eq!(slot.state(), DeviceState::Stalled);
    assert!(devices.is_busy(DEV1) && devices.are_all_dead_for(short));
    assert!(!devices.have_work(), "none that will come back");
    release.send(()).unwrap();
    until("it has ended", || devices.are_idle());
    assert!(!devices.are_all_dead_for(Duration::ZERO), "nothing is under way");
    assert!(devices.read_stall_clocks(TIMEOUT, &clock).is_empty());
    assert_eq!(slot.state(), DeviceState::Ok);
}
