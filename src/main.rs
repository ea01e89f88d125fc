//! rmogstored: a MogileFS storage node.
//!
//! | module | holds |
//! |---|---|
//! | [`cli`] | the option table |
//! | [`daemonize`] | detaching, with a command that waits until the node serves |
//! | [`logging`] | standard error and syslog, never waited for |
//! | [`quickstart`] | a folder to try the node with |

mod cli;
mod daemonize;
mod logging;
mod quickstart;

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Task};
use rmogstored_master::config::{self, Config, Options, Problem};
use rmogstored_master::pidfile::Pidfile;
use rmogstored_master::{Hooks, Listening, MasterError, OnReady, limits};

/// Exit status for everything but wrong usage, which is 2.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    match Cli::parse().task() {
        Task::CheckConfig(options) => check_config(&options),
        Task::Serve(options) => serve(&options, None),
        Task::Quickstart(folder, options) => try_out(folder, options),
    }
}

fn check_config(options: &Options) -> ExitCode {
    let Some(config) = load(options) else { return FAILED.into() };
    match io::stdout().write_all(config.to_string().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => FAILED.into(),
    }
}

fn try_out(folder: Option<PathBuf>, mut options: Options) -> ExitCode {
    if let Err(e) = quickstart::prepare(folder, &mut options) {
        show(&Problem::error(format!("quickstart: {e}"), None));
        return FAILED.into();
    }
    serve(&options, Some(Box::new(quickstart::announce)))
}

fn serve(options: &Options, announce: Option<OnReady>) -> ExitCode {
    let Some(config) = load(options) else { return FAILED.into() };
    if wants_daemon(&config)
        && let Err(e) = daemonize::detach()
    {
        show(&Problem::error(format!("daemonize: {e}"), None));
        return FAILED.into();
    }
    logging::init();
    let hint = announce.is_some().then_some(quickstart::BUSY_HINT);
    let on_ready = move |listening: &[Listening]| {
        announce.into_iter().for_each(|announce| announce(listening));
        daemonize::dismiss();
    };
    run(config, Box::new(on_ready)).unwrap_or_else(|e| {
        log::error!("{e}");
        if let (Some(hint), Some(MasterError::Bind { .. })) = (hint, e.downcast_ref()) {
            log::error!("{hint}");
        }
        FAILED.into()
    })
}

/// The node's whole life. Workers are forked inside and never return here.
fn run(config: Config, on_ready: OnReady) -> Result<ExitCode, Box<dyn Error>> {
    limits::raise_nofile(&config);
    let pidfile = config.pidfile.as_deref().map(Pidfile::create).transpose()?;
    let hooks = Hooks { worker: rmogstored_worker::run, in_worker, on_ready: Some(on_ready) };
    let ended = rmogstored_master::run(config, hooks);
    pidfile.iter().for_each(Pidfile::remove);
    Ok(u8::try_from(ended?).unwrap_or(FAILED).into())
}

/// A worker's first steps in the command's own modules.
fn in_worker() {
    daemonize::in_worker();
    logging::in_worker();
}

/// The configuration, with every problem shown.
fn load(options: &Options) -> Option<Config> {
    match config::load(options) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(show);
            Some(loaded.config)
        }
        Err(problems) => {
            problems.iter().for_each(show);
            None
        }
    }
}

/// Not through the log: this is before it, and for whoever typed the command.
fn show(problem: &Problem) {
    let _ = writeln!(io::stderr(), "{problem}");
}

/// A successor in an upgrade is already detached.
fn wants_daemon(config: &Config) -> bool {
    config.daemonize && env::var_os("CMOGSTORED_FD").is_none()
}
