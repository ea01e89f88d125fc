//! The options of the logs.

use clap::Args;
use rmogstored_master::config::Key;

/// What is logged, and where.
#[derive(Debug, Args)]
pub struct Logs {
    /// The least of what the node says: error, warn, info or debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    loglevel: Vec<String>,

    /// How it says it, on standard error and in a file [default: text]
    #[arg(long, value_name = "text|json")]
    logformat: Vec<String>,

    /// A file for it, instead of standard error and syslog
    #[arg(long, value_name = "FILE")]
    logfile: Vec<String>,

    /// A line for each HTTP request: into a file, to syslog, or off [default: off]
    #[arg(long, value_name = "FILE|syslog")]
    accesslog: Vec<String>,

    /// How such a line is written [default: combined]
    #[arg(long, value_name = "combined|json")]
    accesslog_format: Vec<String>,

    /// Lines of these requests alone: writes, errors, slow; several with commas
    #[arg(long, value_name = "WORDS")]
    accesslog_only: Vec<String>,

    /// Log operations that take longer, with what the time went into; 0: none [default: 0]
    #[arg(long, value_name = "TIME")]
    slow_log: Vec<String>,
}

impl Logs {
    /// By their keys.
    pub fn settings(self) -> [(Key, Vec<String>); 7] {
        [
            (Key::Loglevel, self.loglevel),
            (Key::Logformat, self.logformat),
            (Key::Logfile, self.logfile),
            (Key::Accesslog, self.accesslog),
            (Key::AccesslogFormat, self.accesslog_format),
            (Key::AccesslogOnly, self.accesslog_only),
            (Key::SlowLog, self.slow_log),
        ]
    }
}
