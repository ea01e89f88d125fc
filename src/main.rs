//! rmogstored: a MogileFS storage node.
//!
//! | module | holds |
//! |---|---|
//! | [`cli`] | the option table |
//! | [`commands`] | `status`, `upgrade` and `device`, about a node that runs already; `scrub`, about its files |
//! | [`daemonize`] | detaching, with a command that waits until the node serves |
//! | [`logging`] | standard error and syslog, never waited for |
//! | [`quickstart`] | a folder to try the node with |

mod cli;
mod commands;
mod daemonize;
mod logging;
mod quickstart;

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Task};
use rmogstored_master::clean_start;
use rmogstored_master::config::{self, Config, Options, Problem};
use rmogstored_master::invocation::Invocation;
use rmogstored_master::{Hooks, Listening, MasterError, OnReady, successor};

/// Exit status for everything but wrong usage, which is 2.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let invocation = Invocation::capture();
    successor::begin();
    let task = Cli::try_parse().unwrap_or_else(refuse).task();
    if !matches!(task, Task::Status { .. } | Task::Upgrade(_) | Task::Tell { .. }) {
        clean_start::begin();
    }
    match task {
        Task::Status { json, follow, socket } => commands::status::run(&socket, json, follow),
        Task::Upgrade(node) => commands::upgrade::run(&node),
        Task::Scrub(scrub) => commands::scrub::run(scrub),
        Task::Tell { request, socket } => commands::device::tell(&request, &socket),
        Task::CheckConfig(options) => check_config(&options),
        Task::Serve(options) => serve(options, None, invocation),
        Task::Quickstart(folder, options) => try_out(folder, options, invocation),
    }
}

/// The command line is wrong, or only asks for help.
fn refuse(error: clap::Error) -> Cli {
    if error.use_stderr() {
        successor::explain(error.to_string().trim());
    }
    error.exit()
}

fn check_config(options: &Options) -> ExitCode {
    let Some(config) = load(options) else { return FAILED.into() };
    match io::stdout().write_all(config.to_string().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            show(&Problem::error(format!("standard output: {e}"), None));
            FAILED.into()
        }
    }
}

fn try_out(folder: Option<PathBuf>, mut options: Options, invocation: Invocation) -> ExitCode {
    let temporary = folder.is_none();
    let folder = match quickstart::prepare(folder, &mut options) {
        Ok(folder) => folder,
        Err(e) => {
            show(&Problem::error(format!("quickstart: {e}"), None));
            return FAILED.into();
        }
    };
    let ended = serve(options, Some(Box::new(quickstart::announce)), invocation);
    if temporary && ended != ExitCode::SUCCESS {
        quickstart::take_back(&folder);
    }
    ended
}

fn serve(options: Options, announce: Option<OnReady>, invocation: Invocation) -> ExitCode {
    let Some(config) = load(&options) else { return FAILED.into() };
    clean_start::close_strangers(config.status_fd);
    if let Some(mask) = clean_start::umask_against_owner() {
        let text = format!("umask {mask:03o} takes rights from the node's own user");
        show(&Problem::warning(text, None));
    }
    if let Some(text) = rmogstored_worker::odd_usage_interval() {
        show(&Problem::warning(text, None));
    }
    if wants_daemon(&config)
        && let Err(e) = daemonize::detach()
    {
        show(&Problem::error(format!("daemonize: {e}"), None));
        return FAILED.into();
    }
    if let Err(e) = logging::init(&config.log) {
        successor::explain(&e);
        show(&Problem::error(e, None));
        return FAILED.into();
    }
    let hint = announce.is_some().then_some(quickstart::BUSY_HINT);
    let on_ready = move |listening: &[Listening]| {
        announce.into_iter().for_each(|announce| announce(listening));
        daemonize::dismiss();
    };
    let hooks = Hooks {
        worker: rmogstored_worker::run,
        in_worker,
        on_ready: Some(Box::new(on_ready)),
        reload: Box::new(move || reload(&options)),
        reopen_logs: logging::reopen,
        reopen_log: logging::write_to,
        invocation,
    };
    // Workers are forked inside and never return here.
    let status = rmogstored_master::run(config, hooks).unwrap_or_else(|e| {
        successor::explain(&e.to_string());
        log::error!("{e}");
        if let (Some(hint), MasterError::Bind { .. }) = (hint, &e) {
            log::error!("{hint}");
        }
        FAILED.into()
    });
    u8::try_from(status).unwrap_or(FAILED).into()
}

/// The configuration as it is now. Its warnings go to the log: nobody has typed a command.
fn reload(options: &Options) -> Result<Config, String> {
    match config::load(options) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| log::warn!("{warning}"));
            logging::change(&loaded.config.log)?;
            Ok(loaded.config)
        }
        Err(problems) => {
            // The errors are the reason why nothing changes, which the master logs.
            let (errors, warnings): (Vec<_>, Vec<_>) =
                problems.iter().partition(|problem| problem.is_error());
            warnings.iter().for_each(|warning| log::warn!("{warning}"));
            Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
    }
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
            let errors = problems.iter().filter(|problem| problem.is_error());
            successor::explain(&errors.map(ToString::to_string).collect::<Vec<_>>().join("; "));
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
