//! End-to-end tests: the real binary, driven over its sockets.
//!
//! The binary is this package's, or the one that `RMOGSTORED_UNDER_TEST` names. Each test starts
//! a node of its own on free ports, in a temporary folder. Section numbers are PROTOCOL.md's.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod harness;
mod load;

/// The access log, and what reads it.
mod accesslog;
/// Garbage by the thousand.
mod bad_input;
/// Connections spread over workers.
mod balance;
/// What the tests of upgrades share.
mod chain;
/// 2.4: chunked bodies, cut anywhere.
mod chunked;
/// What a parent leaves to the node without meaning to.
mod clean_start;
/// 6: options, files, refusals, the pid file.
mod config;
/// The shipped sample of a configuration file.
mod config_samples;
/// Workers that die at once every time.
mod crash_storm;
/// What curl makes of the node.
mod curl;
/// `--daemonize`, and what systemd is told.
mod daemon;
/// What is told of devices with which something is wrong.
mod device_states;
/// 3: digests, and fsck's place among them.
mod digest;
/// What the documents tell people to type.
mod docs;
/// What a kernel or a sandbox does not allow.
mod doors;
/// 7: graceful quit.
mod drain;
/// 2.4: what was acknowledged is there, and what failed is not.
mod durable;
/// Clients that flood the sidechannel.
mod flood;
/// A connection between owners.
mod handover;
/// A disk that is unmounted, goes read-only or is full, and comes back.
mod heal;
/// The rules of the house.
mod house;
/// 2.2: the bytes of each answer, and which of them leave the connection open.
mod http_answers;
/// 2.3 to 2.5: If-Match and its kin.
mod http_conditions;
/// 2.5: DELETE and MKCOL.
mod http_delete;
/// 2.3: GET and HEAD.
mod http_get;
/// 2.6: the read-only port.
mod http_getlisten;
/// 2.1: requests and what is refused.
mod http_head;
/// 2.4: PUT.
mod http_put;
/// 8: listening sockets from outside.
mod inherit;
/// What requests cost in instructions.
mod instructions;
/// 5: what a hung disk and a crashing worker cost the others.
mod isolation;
/// Workers that die under load.
mod kill_storm;
/// Large files, slow clients, disk space.
mod large_transfers;
/// 7: connections that have had their last answer, in a quit.
mod lingering;
/// What the node says of itself.
mod logs;
/// What workers and connections cost.
mod memory;
/// Metrics and the status page.
mod monitor;
/// 3.1 and 4: what a device is mounted from.
mod mounts;
/// nginx in front of the node.
mod nginx;
/// A systemd that listens to the main process alone.
mod notify_access;
/// Files that workers keep open.
mod open_files;
/// Units, init scripts, man pages, completions.
mod packaging;
/// The status page in a browser.
mod page;
/// 2.4: what is there after the power was cut.
mod power_cuts;
/// `user` and `group`.
mod privileges;
/// What is shipped for Prometheus and Grafana.
mod prometheus;
/// `--quickstart`.
mod quickstart;
/// 5: what a real disk's misbehaviour costs: loops, other devices, clients.
mod real_disk;
/// A real directory tree.
mod real_tree;
/// One test for each bug that was found later.
mod regression;
/// 7: SIGHUP and SIGWINCH.
mod reload;
/// Workers that die or are told to go.
mod respawn;
/// The command `scrub`.
mod scrub;
/// Fourteen things that go wrong, and who tells of them.
mod sick_situations;
/// 3: the sidechannel, line by line.
mod sidechannel;
/// 7: titles, workers that stand still, orphans.
mod signals;
/// 5: a disk that has stopped answering.
mod stall;
/// The commands `status` and `upgrade`.
mod status;
/// 7: workers that were stopped.
mod stopped;
/// 2.7: time and pressure.
mod timeouts;
/// What a node has done in all.
mod totals;
/// 5: what a tracker does all day.
mod tracker;
/// 5: a device that was a mount.
mod unmounted;
/// 8: SIGUSR2.
mod upgrade;
/// Clients that are not ours, and upgrades.
mod upgrade_clients;
/// Connections that follow.
mod upgrade_follow;
/// A thousand upgrades, and more.
mod upgrade_many;
/// An upgrade of a node in a container.
mod upgrade_namespace;
/// 8: upgrades that go otherwise than planned.
mod upgrade_odd;
/// 8: a quit in the midst of an upgrade.
mod upgrade_quit;
/// Whom the command `upgrade` signals.
mod upgrade_strangers;
/// What a successor says that fails.
mod upgrade_words;
/// 4: usage files, mounts that come and go.
mod usage;
/// 3.1: the stream of disk load.
mod watch;
/// Who asked for a quit, and what ended it.
mod who_asked;
/// What an operator reads when something is wrong.
mod words;
/// Connections of a worker that goes.
mod worker_follow;
