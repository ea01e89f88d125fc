//! The process under test: the master, with a worker that only says what it is told to say.

use std::env;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use rmogstored_master::config::{Config, ListenerConfig, SiteConfig, Workers};
use rmogstored_master::invocation::Invocation;
use rmogstored_master::{Hooks, run as run_master};
use rmogstored_worker::control::{Down, Up};
use rmogstored_worker::disk::docroot;
use rmogstored_worker::scoreboard::{DeviceState, WorkerState};
use rmogstored_worker::spec::{Service, Settings, WorkerSpec};
use rmogstored_worker::sys::signal::Signals;

/// Descriptors that the process was started with.
static BEFORE: OnceLock<usize> = OnceLock::new();

/// Runs the node that the environment describes.
pub fn run() -> i32 {
    BEFORE.get_or_init(descriptors);
    let on_ready = Box::new(|all: &[rmogstored_master::Listening]| {
        say(&format!("on_ready: {}", all[0].address));
    });
    let hooks = Hooks {
        worker,
        in_worker: || say("in_worker"),
        on_ready: Some(on_ready),
        reload: Box::new(|| Ok(config())),
        reopen_logs: || say("reopen_logs"),
        reopen_log: drop,
        invocation: Invocation::capture(),
    };
    run_master(config(), hooks).unwrap_or_else(|e| {
        say(&e.to_string());
        1
    })
}

/// In one write: the processes share standard error.
fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn config() -> Config {
    let address = variable("NODE_LISTEN").parse().unwrap();
    Config {
        sites: vec![SiteConfig {
            require_mount: false,
            docroot: variable("NODE_DOCROOT").into(),
            listeners: vec![ListenerConfig { service: Service::Http, address }],
        }],
        workers: variable("NODE_WORKERS").parse().map_or(Workers::Device, Workers::Count),
        settings: Settings {
            maxconns: 10,
            header_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            stall_timeout: Duration::ZERO,
            drain_timeout: Duration::from_millis(variable("NODE_DRAIN_MS").parse().unwrap()),
            aio_threads: 10,
            max_queue: 10,
            fsync: Default::default(),
            accesslog: None,
            slow_log: Duration::ZERO,
        },
        pidfile: None,
        log: Default::default(),
        identity: None,
        upgrade_timeout: Duration::from_secs(5),
        daemonize: false,
        status_fd: Some(1),
        status_socket: Some(PathBuf::from(variable("NODE_DOCROOT")).join("status")),
        status_listen: None,
    }
}

/// Behaves as `NODE_WORKER` says; see the tests.
fn worker(spec: WorkerSpec) -> i32 {
    let behaviour = variable("NODE_WORKER");
    if behaviour == "fails" && spec.id.0 == 1 {
        return 7;
    }
    let signals = Signals::new(&[Signal::SIGQUIT]).unwrap();
    let slot = spec.board.worker(spec.id);
    slot.note_path(b"/dev1/last");
    slot.set_state(WorkerState::Running);
    if behaviour == "tells" {
        say(&format!("descriptors: {}", descriptors() - BEFORE.get().unwrap()));
    }
    spec.control.send(&Up::Ready, None).unwrap();
    match behaviour.as_str() {
        "dies" if spec.id.0 == 0 => nix::sys::signal::raise(Signal::SIGKILL).unwrap(),
        "crashes" => return 3,
        "stalls" => mark_devices(&spec, DeviceState::Stalled),
        "shuts-down" => {
            let peer = "a client".to_owned();
            spec.control.send(&Up::Shutdown { peer }, None).unwrap();
        }
        "sets-threads" if spec.id.0 == 0 => {
            spec.control.send(&Up::AioThreads { threads: 33 }, None).unwrap();
        }
        _ => {}
    }
    serve(&spec, &signals, behaviour == "stubborn")
}

/// As the owner of a docroot does: the master itself does not look again.
fn tell_devices(spec: &WorkerSpec) {
    let devids = docroot::devices(&spec.sites[0].docroot).unwrap();
    spec.control.send(&Up::Devices { site: 0, devids }, None).unwrap();
}

fn mark_devices(spec: &WorkerSpec, state: DeviceState) {
    spec.board.devices().iter().for_each(|(_, slot)| slot.set_state(state));
}

/// Until it is told to drain, or the master is gone.
fn serve(spec: &WorkerSpec, signals: &Signals, stubborn: bool) -> i32 {
    loop {
        let interest = PollFlags::POLLIN;
        let mut fds =
            [PollFd::new(spec.control.as_fd(), interest), PollFd::new(signals.as_fd(), interest)];
        poll(&mut fds, PollTimeout::from(500u16)).unwrap();
        if spec.id.0 == 0 {
            tell_devices(spec);
        }
        if signals.next().is_some() {
            spec.control.send(&Up::Drained, None).unwrap();
            return 0;
        }
        match spec.control.receive::<Down>() {
            Ok(None) => return 0,
            Ok(Some((Down::Drain { .. }, _))) if !stubborn => return 0,
            Ok(Some((Down::ReopenLog { .. }, _))) => mark_devices(spec, DeviceState::Ok),
            Ok(Some((message, fd))) => {
                say(&format!("{} got {message:?} {}", spec.id, fd.is_some()));
            }
            Err(_) => {}
        }
    }
}
