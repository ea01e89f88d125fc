//! A unit with `Type=notify` and the default NotifyAccess: systemd listens to nobody but the main
//! process that it knows, and takes the end of that one for the end of the service.

use std::io::IoSliceMut;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use nix::cmsg_space;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use nix::unistd::Pid;

use crate::chain::{Chain, is_gone};
use crate::harness::{Setup, binary, until};

/// What systemd does with what it is told.
struct Systemd {
    socket: UnixDatagram,
    main: Pid,
    /// What was heard, from whoever was the main process then.
    heard: Vec<String>,
}

impl Systemd {
    /// A node that it has started, which is ready.
    fn with_node() -> (Systemd, Chain) {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let setup = Setup::new().http(&free.to_string());
        let socket = UnixDatagram::bind(setup.folder().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        setsockopt(&socket, sockopt::PassCred, &true).unwrap();
        let chain = Chain::start(setup.env("NOTIFY_SOCKET", "{dir}/notify"));
        let mut systemd = Systemd { socket, main: chain.node.pid(), heard: Vec::new() };
        // It is said a moment after the event that the node waits for.
        until("READY=1", || {
            systemd.listen();
            systemd.heard.iter().any(|text| text.contains("READY=1"))
        });
        (systemd, chain)
    }

    /// All that has been said so far.
    fn listen(&mut self) {
        while let Some((sender, text)) = self.next() {
            if sender != self.main {
                continue; // "reception only permitted for main PID"
            }
            let main = text.lines().find_map(|line| line.strip_prefix("MAINPID="));
            self.main = main.map_or(self.main, |pid| Pid::from_raw(pid.parse().unwrap()));
            self.heard.push(text);
        }
    }

    fn next(&self) -> Option<(Pid, String)> {
        let (mut text, mut space) = ([0; 512], cmsg_space!(UnixCredentials));
        let mut pieces = [IoSliceMut::new(&mut text)];
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::empty());
        let message = recvmsg::<UnixAddr>(fd, &mut pieces, Some(&mut space), flags).ok()?;
        let sender = message.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(sender) => Some(Pid::from_raw(sender.pid())),
            _ => None,
        });
        let length = message.bytes;
        Some((sender.unwrap(), String::from_utf8_lossy(&text[..length]).into_owned()))
    }

    /// The service has not ended: its main process has not, or has named another one before.
    fn is_content(&mut self) -> bool {
        let gone = is_gone(self.main);
        self.listen();
        !gone || !is_gone(self.main)
    }

    /// Watches until the command has ended.
    fn watches(&mut self, command: &mut Child) {
        until("the command's end", || {
            assert!(self.is_content(), "the service has ended: {:?}", self.heard);
            command.try_wait().unwrap().is_some()
        });
    }
}

fn upgrade(chain: &Chain) -> Child {
    let mut command = Command::new(binary());
    command.arg("upgrade").arg(chain.path("pid")).stdout(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn upgrades_leave_systemd_with_the_right_main_process() {
    let (mut systemd, chain) = Systemd::with_node();
    for _ in 0..3 {
        let mut command = upgrade(&chain);
        systemd.watches(&mut command);
        assert!(command.wait().unwrap().success());
        until("the main process", || systemd.is_content() && systemd.main == chain.master());
    }
    kill(chain.master(), Signal::SIGQUIT).unwrap();
    until("the last word", || {
        systemd.listen();
        systemd.heard.last().is_some_and(|text| text == "STOPPING=1")
    });
}

/// It says nothing of it itself.
#[test]
fn another_daemon_becomes_the_main_process_too() {
    let (mut systemd, chain) = Systemd::with_node();
    chain.replace_by_script(
        "exec env -u RMOGSTORED_SUCCESSOR -u RMOGSTORED_LEGACY -u NOTIFY_SOCKET {dir}/real \"$@\"",
    );
    let mut command = upgrade(&chain);
    systemd.watches(&mut command);
    assert!(command.wait().unwrap().success());
    until("the main process", || systemd.is_content() && systemd.main == chain.master());
}

#[test]
fn early_quit_names_the_main_process_too() {
    let (mut systemd, chain) = Systemd::with_node();
    chain.replace_by_script("sleep 0.3\nexec {dir}/real \"$@\"");
    chain.node.signal(Signal::SIGUSR2);
    chain.node.event("upgrade_started");
    chain.node.signal(Signal::SIGQUIT);
    until("the old master's end", || {
        assert!(systemd.is_content(), "{:?}", systemd.heard);
        is_gone(chain.node.pid())
    });
    systemd.listen();
    assert_eq!(systemd.main, chain.master());
}

/// The old one is the main process until it is told to quit: it may have to go on.
#[test]
fn upgrade_that_is_taken_back_leaves_the_old_main_process() {
    let (mut systemd, chain) = Systemd::with_node();
    for signal in [Signal::SIGQUIT, Signal::SIGKILL] {
        let (old, new) = chain.begin_upgrade();
        assert!(systemd.is_content());
        assert_eq!(systemd.main, old);
        let seen = chain.seen();
        kill(new, signal).unwrap();
        chain.node.event_after(seen, "upgrade_failed");
        assert!(systemd.is_content(), "{:?}", systemd.heard);
        assert_eq!(systemd.main, old);
    }
}
