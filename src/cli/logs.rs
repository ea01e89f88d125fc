//! The options of the logs.

use clap::Args;
use rmogstored_master::config::Key;

/// What is logged, and where.
#[derive(Debug, Args)]
pub struct Logs {
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
    pub fn settings(self) -> [(Key, Vec<String>); 4] {
        [
            (Key::Accesslog, self.accesslog),
            (Key::AccesslogFormat, self.accesslog_format),
            (Key::AccesslogOnly, self.accesslog_only),
            (Key::SlowLog, self.slow_log),
        ]
    }
}
