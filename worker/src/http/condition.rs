//! Conditional requests: RFC 9110 section 13. Files have times and no entity tags here, so that a
//! tag, whichever it is, is that of another version.

use std::fmt;
use std::io;

/// What If-Match or If-None-Match says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tags {
    /// There was none.
    #[default]
    Absent,
    /// `*`: a file, whichever it is.
    Any,
    /// Tags, or nonsense.
    Named,
}

/// The conditions of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// If-Match.
    pub if_match: Tags,
    /// If-None-Match.
    pub if_none_match: Tags,
    /// Seconds since 1970; a date that cannot be read counts as none.
    pub if_modified_since: Option<i64>,
    /// Seconds since 1970; a date that cannot be read counts as none.
    pub if_unmodified_since: Option<i64>,
}

/// What follows from the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They hold.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// What a request is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// GET and HEAD.
    Read,
    /// PUT and DELETE.
    Change,
}

/// The 412 of an operation on a disk.
#[derive(Debug)]
pub struct ConditionFailed;

impl Tags {
    /// What it says together with one more field.
    pub fn with(self, value: &[u8]) -> Tags {
        if self == Tags::Any || value == b"*" { Tags::Any } else { Tags::Named }
    }
}

impl Conditions {
    /// True when there is nothing to be judged before a change.
    pub fn allow_any_change(&self) -> bool {
        Conditions { if_modified_since: None, ..*self } == Conditions::default()
    }

    /// Only a file that is not there yet may be stored.
    pub fn create_only(&self) -> bool {
        self.if_none_match == Tags::Any
    }

    /// Judges them in the order of RFC 9110 section 13.2.2. `modified`: the time of the file that
    /// is there, in seconds since 1970; `None`: there is none.
    pub fn judge(&self, purpose: Purpose, modified: Option<i64>) -> Verdict {
        let newer = |date: Option<i64>| date.zip(modified).is_some_and(|(date, at)| at > date);
        let not_newer = |date: Option<i64>| date.zip(modified).is_some_and(|(date, at)| at <= date);
        let there = modified.is_some();
        let failed = match self.if_match {
            Tags::Absent => newer(self.if_unmodified_since),
            Tags::Any => !there,
            Tags::Named => true,
        };
        match (self.if_none_match, purpose) {
            _ if failed => Verdict::Failed,
            (Tags::Any, Purpose::Change) if there => Verdict::Failed,
            (Tags::Any, Purpose::Read) if there => Verdict::NotModified,
            (Tags::Absent, Purpose::Read) if not_newer(self.if_modified_since) => {
                Verdict::NotModified
            }
            _ => Verdict::Proceed,
        }
    }

    /// The same before a change, as the result of a step of it.
    pub fn insist(&self, modified: Option<i64>) -> io::Result<()> {
        match self.judge(Purpose::Change, modified) {
            Verdict::Proceed => Ok(()),
            Verdict::NotModified | Verdict::Failed => Err(ConditionFailed.into()),
        }
    }
}

impl fmt::Display for ConditionFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a condition of the request does not hold")
    }
}

impl std::error::Error for ConditionFailed {}

impl From<ConditionFailed> for io::Error {
    fn from(failed: ConditionFailed) -> io::Error {
        io::Error::other(failed)
    }
}

/// Whether an operation failed for a condition.
pub fn has_failed(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<ConditionFailed>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Purpose::{Change, Read};
    use Verdict::{Failed, NotModified, Proceed};

    const FILE: Option<i64> = Some(100);

    fn with(fields: &[(&str, i64)]) -> Conditions {
        let mut conditions = Conditions::default();
        for (name, value) in fields {
            match *name {
                "match *" => conditions.if_match = conditions.if_match.with(b"*"),
                "match tag" => conditions.if_match = conditions.if_match.with(b"\"a\""),
                "none *" => conditions.if_none_match = conditions.if_none_match.with(b"*"),
                "none tag" => conditions.if_none_match = conditions.if_none_match.with(b"\"*\""),
                "modified" => conditions.if_modified_since = Some(*value),
                "unmodified" => conditions.if_unmodified_since = Some(*value),
                other => panic!("{other}"),
            }
        }
        conditions
    }

    #[test]
    fn conditions_are_judged_as_rfc_9110_says() {
        type Row<'a> = (&'a [(&'a str, i64)], [Verdict; 4]);
        // To read and to change a file of time 100; to read and to change what is not there.
        let table: &[Row] = &[
            (&[], [Proceed; 4]),
            (&[("modified", 99)], [Proceed; 4]),
            (&[("modified", 100)], [NotModified, Proceed, Proceed, Proceed]),
            (&[("modified", 101)], [NotModified, Proceed, Proceed, Proceed]),
            (&[("unmodified", 99)], [Failed, Failed, Proceed, Proceed]),
            (&[("unmodified", 100)], [Proceed; 4]),
            (&[("unmodified", -5)], [Failed, Failed, Proceed, Proceed]),
            (&[("none tag", 0)], [Proceed; 4]),
            (&[("none tag", 0), ("modified", 100)], [Proceed; 4]),
            (&[("none *", 0)], [NotModified, Failed, Proceed, Proceed]),
            (&[("none *", 0), ("none tag", 0)], [NotModified, Failed, Proceed, Proceed]),
            (&[("none *", 0), ("modified", 1)], [NotModified, Failed, Proceed, Proceed]),
            (&[("none *", 0), ("unmodified", 1)], [Failed, Failed, Proceed, Proceed]),
            (&[("match *", 0)], [Proceed, Proceed, Failed, Failed]),
            (&[("match tag", 0)], [Failed; 4]),
            (&[("match *", 0), ("unmodified", 1)], [Proceed, Proceed, Failed, Failed]),
            (&[("match *", 0), ("modified", 100)], [NotModified, Proceed, Failed, Failed]),
        ];
        for (fields, expected) in table {
            let conditions = with(fields);
            let judge = |purpose, modified| conditions.judge(purpose, modified);
            let found =
                [judge(Read, FILE), judge(Change, FILE), judge(Read, None), judge(Change, None)];
            assert_eq!(found, *expected, "{fields:?}");
        }
    }

    #[test]
    fn times_before_1970_are_compared_like_others() {
        let judge = |date| with(&[("unmodified", date)]).judge(Change, Some(-100));
        assert_eq!([judge(-101), judge(-100), judge(0)], [Failed, Proceed, Proceed]);
    }

    #[test]
    fn failure_is_known_again() {
        assert!(has_failed(&with(&[("match *", 0)]).insist(None).unwrap_err()));
        assert!(!has_failed(&io::Error::from_raw_os_error(libc::EEXIST)));
        assert!(with(&[("modified", 100)]).allow_any_change());
    }
}
