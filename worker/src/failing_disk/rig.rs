//! A device in a folder, and requests that are served in the test's own thread, as a disk thread
//! would, so that its calls can be counted and made to fail.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use log::{Level, LevelFilter, Log, Metadata, Record};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use nix::poll::{PollFd, PollFlags, poll};
use tempfile::TempDir;

use crate::disk::completions::Socket;
use crate::disk::device::Device;
use crate::disk::loan::{Loan, Style};
use crate::disk::on_disk::OnDisk;
use crate::disk::operation::{Answered, Op, Outcome};
use crate::disk::pool::{Job, Progress};
use crate::disk::recent_folder;
use crate::disk::work::{Borrowed, Context, Work};
use crate::event_loop::FIRST_CONN;
use crate::http::delete::Delete;
use crate::http::head::{HeadScan, Method, Parsed, Request, Target, parse};
use crate::http::put::Put;
use crate::scoreboard::Scoreboard;
use crate::spec::{DeviceKey, Fsync, SiteId, WorkerId};
use crate::sys::disk::faults::{self, Fault};

const KEY: DeviceKey = DeviceKey { site: SiteId(0), devid: 1 };

/// Such a device, and what serves it.
pub struct Rig {
    docroot: TempDir,
    context: Arc<Context>,
    poll: Poll,
    /// The filesystem has O_TMPFILE, as far as is known.
    anonymous: bool,
}

/// What became of one request.
#[derive(Debug)]
pub struct Told {
    /// The status of its answer; 0: the connection was closed.
    pub status: u16,
    /// Lines of the log.
    pub lines: Vec<String>,
    /// The call that failed.
    pub struck: Option<&'static str>,
}

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps each thread's lines apart.
struct Ears;

impl Log for Ears {
    fn enabled(&self, facts: &Metadata<'_>) -> bool {
        facts.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

impl Rig {
    /// In a new folder below this one.
    pub fn new(below: &Path, fsync: Fsync, anonymous: bool) -> Rig {
        let _ = log::set_logger(&Ears); // Another test has done so.
        log::set_max_level(LevelFilter::Info);
        let docroot = tempfile::tempdir_in(below).unwrap();
        fs::create_dir(docroot.path().join("dev1")).unwrap();
        let (board, poll) = (Scoreboard::new().unwrap(), Poll::new().unwrap());
        let (id, waker) = (WorkerId(0), Token(0));
        let context = Context::new(board, id, fsync, poll.registry(), waker).unwrap();
        Rig { docroot, context: Arc::new(context), poll, anonymous }
    }

    /// The device's folder.
    pub fn dev1(&self) -> PathBuf {
        self.docroot.path().join("dev1")
    }

    /// Serves a request of which the n-th call on the disk goes wrong. The device is open, and
    /// closed afterwards.
    pub fn ask(&self, head: &str, body: &[u8], (n, fault, lasts): (usize, Fault, bool)) -> Told {
        let on = OnDisk::in_test();
        let device = Arc::new(Device::new(KEY, self.docroot.path(), false));
        device.dir(&on).unwrap().set_anonymous_files(self.anonymous);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut source = SourceFd(&ours.as_raw_fd());
        let token = Token(FIRST_CONN);
        self.poll.registry().register(&mut source, token, Interest::READABLE).unwrap();
        let Parsed::Complete { request, .. } = parse(head.as_bytes(), &mut HeadScan::default())
        else {
            panic!("{head}");
        };
        LINES.take();
        let status = thread::scope(|scope| {
            let mut sender = theirs.try_clone().unwrap();
            scope.spawn(move || sender.write_all(body)); // It may be refused on the way.
            faults::from_call(n, fault, lasts);
            self.serve(&on, device, ours, request)
        });
        let (struck, lines) = (faults::end(), LINES.take());
        let mut answer = String::new();
        let _ = theirs.read_to_string(&mut answer); // What was not read of the body makes it a reset.
        let sent = answer.get(9..12).and_then(|number| number.parse().ok());
        Told { status: status.or(sent).unwrap_or(0), lines, struck }
    }

    /// The status of one that was refused.
    fn serve(
        &self,
        on: &OnDisk,
        device: Arc<Device>,
        socket: UnixStream,
        request: Request,
    ) -> Option<u16> {
        let (socket, progress) = (Arc::new(Socket::new(socket.into())), Progress::in_test());
        let mut op = operation(request);
        loop {
            let loan = Arc::new(Loan::new(KEY, Style::Http(false), op.stage(), 0, false));
            let (peer, socket) = (([127, 0, 0, 1], 1).into(), Arc::clone(&socket));
            let (token, more_input) = (FIRST_CONN, false);
            let lent =
                Borrowed { key: 0, token, socket: Arc::clone(&socket), peer, more_input, loan };
            let (device, context) = (Arc::clone(&device), Arc::clone(&self.context));
            let mut work = Some(Work::for_connection(lent, device, context, op));
            while let Some(now) = work.take() {
                work = now.run(on, &progress);
            }
            recent_folder::forget(on); // As a thread does that has nothing else to do.
            let mut done = Vec::new();
            self.context.take_outcomes(&mut done);
            op = match done.pop().map(|done| done.outcome) {
                // What has been sent, and nothing else to do: the loop is not told.
                None | Some(Outcome::Answered(Answered { .. })) => return None,
                Some(Outcome::Refused(op)) => {
                    let refused = Put::of(op).unwrap().refused();
                    return Some(refused.unwrap().status.code());
                }
                Some(Outcome::Blocked { op, .. }) => op,
                other => panic!("{other:?}"),
            };
            poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], 10_000u16).unwrap();
        }
    }
}

fn operation(request: Request) -> Op {
    let Target::Path(path) = request.target else { panic!("{request:?}") };
    match request.method {
        Method::Put => Box::new(Put::new(path, request, Vec::new())),
        _ => {
            let (keep, conditions) = (request.keep_alive, request.conditions);
            Box::new(Delete::new(path, keep, conditions))
        }
    }
}
