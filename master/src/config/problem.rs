//! What an operator is told about what was written: one line per problem, with its place.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// As an option.
    CommandLine,
    /// In a configuration file; lines count from 1.
    File(PathBuf, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// Whether the node can start in spite of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It can; the operator should know.
    Warning,
    /// It cannot.
    Error,
}

/// One line for the operator. The place comes last, so that the texts that PROTOCOL.md
/// section 6 fixes stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The sentence.
    pub text: String,
    /// Where it was caused, if in one place.
    pub origin: Option<Origin>,
}

impl Problem {
    /// Something that keeps the node from starting.
    pub fn error(text: impl Into<String>, origin: Option<Origin>) -> Self {
        Self { severity: Severity::Error, text: text.into(), origin }
    }

    /// Something that the operator should know.
    pub fn warning(text: impl Into<String>, origin: Option<Origin>) -> Self {
        Self { severity: Severity::Warning, text: text.into(), origin }
    }

    /// True where the node cannot start.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = if self.is_error() { 'E' } else { 'W' };
        write!(f, "{letter}: {}", self.text)?;
        match &self.origin {
            Some(origin) => write!(f, " ({origin})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_follows_the_text() {
        let origin = Origin::File("/etc/m.conf".into(), 3);
        let warning = Problem::warning("serverbin = x ignored", Some(origin));
        assert_eq!(warning.to_string(), "W: serverbin = x ignored (/etc/m.conf:3)");
        let error = Problem::error("no", Some(Origin::CommandLine));
        assert_eq!(error.to_string(), "E: no (command line)");
        assert_eq!(Problem::error("no", None).to_string(), "E: no");
    }
}
