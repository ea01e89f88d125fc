//! The settings of the logs.

use std::time::Duration;

use rmogstored_worker::spec::{AccessSettings, LogTarget, Wanted};

use super::LogConfig;
use super::parse::Key;
use super::values;
use super::written::{Check, absolute};

impl Check<'_> {
    /// The node's own log.
    pub(super) fn log(&mut self) -> LogConfig {
        let default = LogConfig::default();
        LogConfig {
            level: self.single(Key::Loglevel, values::log_level).unwrap_or(default.level),
            json: self.single(Key::Logformat, values::is_json).unwrap_or(default.json),
            file: self.single(Key::Logfile, values::path).map(absolute),
        }
    }

    /// The access log, and from when on an operation is slow.
    pub(super) fn logs(&mut self) -> (Option<AccessSettings>, Duration) {
        let slow = self.single(Key::SlowLog, values::duration).unwrap_or(Duration::ZERO);
        let target = self.single(Key::Accesslog, values::log_target).flatten();
        let format = self.single(Key::AccesslogFormat, values::log_format).unwrap_or_default();
        let only = self.wanted(slow);
        let Some(target) = target else { return (None, slow) };
        let target = match target {
            LogTarget::File(path) => LogTarget::File(absolute(path)),
            LogTarget::Syslog => target,
        };
        (Some(AccessSettings { target, format, only }), slow)
    }

    /// Each word adds to what is wanted.
    fn wanted(&mut self, slow_log: Duration) -> Wanted {
        let mut all = Wanted::default();
        for entry in self.nearest(Key::AccesslogOnly) {
            let Some(found) = self.convert(&entry, values::wanted) else { continue };
            let Wanted { writes, errors, slow } = found.value;
            if slow && slow_log.is_zero() {
                let text = format!("accesslog_only = {} needs slow_log", found.written);
                self.error(text, Some(found.origin));
            }
            all.writes |= writes;
            all.errors |= errors;
            all.slow |= slow;
        }
        all
    }
}
