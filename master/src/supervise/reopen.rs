//! SIGUSR1: log files are opened again. Another process does that; the workers and those to come
//! get what it has opened.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use mio::{Interest, Token};
use nix::sys::signal::{Signal, kill};
use rmogstored_worker::control::{Down, Log};
use rmogstored_worker::spec::LogTarget;

use super::Supervisor;
use super::plan::Plan;
use crate::logs::{Opener, Reopened};

/// What it has opened comes under this token.
const TOKEN: Token = Token((1 << 15) + 1);

impl Supervisor {
    /// Has all log files opened again. One that was still at it is stuck.
    pub(super) fn reopen_logs(&mut self) {
        (self.kit.reopen_logs)();
        if let Some(stuck) = self.opener.take() {
            log::warn!("log files: still not open since the last SIGUSR1; tried again");
            let _ = kill(stuck.pid(), Signal::SIGKILL); // it has not been reaped
        }
        let mut files = BTreeMap::new();
        if let Some(LogTarget::File(path)) = self.plan.access_target() {
            files.insert(Log::Access, path.clone());
        }
        if let Some(path) = &self.plan.logfile {
            files.insert(Log::Node, path.clone());
        }
        if files.is_empty() {
            return self.links.send_all(&Down::ReopenLog { log: Log::Node });
        }
        let started = Opener::start(files).and_then(|opener| {
            self.register(&opener, TOKEN, Interest::READABLE)?;
            Ok(opener)
        });
        match started {
            Ok(opener) => self.opener = Some(opener),
            Err(e) => log::error!("log files cannot be opened again: {e}"),
        }
    }

    /// Takes what has been opened. Asked each time round.
    pub(super) fn take_opened_logs(&mut self) {
        let Some(opener) = &mut self.opener else { return };
        let mut opened = Vec::new();
        while let Some(one) = opener.next() {
            opened.push(one);
        }
        if opener.is_through() {
            self.opener = None;
        }
        for Reopened { log, path, file } in opened {
            match file {
                Ok(file) => {
                    let told = format!("{} is open again", path.display());
                    self.use_log(log, Arc::new(file), &LogTarget::File(path));
                    log::info!("{told}");
                }
                Err(e) => log::error!("{}: cannot open it again: {e}", path.display()),
            }
        }
    }

    fn use_log(&mut self, log: Log, file: Arc<File>, target: &LogTarget) {
        if log == Log::Node {
            match file.try_clone() {
                Ok(own) => (self.kit.reopen_log)(own.into()),
                Err(e) => log::error!("{target}: {e}"),
            }
        }
        let before = self.renewal.as_mut().map(|renewal| &mut renewal.before);
        let plans = [Some(&mut self.plan), before].into_iter().flatten();
        plans.for_each(|plan: &mut Plan| plan.use_access_file(&file, target));
        self.links.set_log(log, file);
        self.links.send_all(&Down::ReopenLog { log });
    }

    /// The opener's process has ended: whether it was that.
    pub(super) fn bury_opener(&mut self, pid: i32) -> bool {
        let is_it = self.opener.as_ref().is_some_and(|opener| opener.pid().as_raw() == pid);
        if is_it {
            self.take_opened_logs();
            self.opener = None;
        }
        is_it
    }
}
