//! `Range` and `Content-Range`: which bytes of a file a request is about (PROTOCOL.md 2.3 and 2.4).

use super::field::{self, Decimal};

/// What the Range field of a request says, before the file's size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeHeader {
    /// `bytes=A-B`, or `bytes=A-` up to the end.
    From {
        /// A.
        first: u64,
        /// B, not less than A.
        last: Option<u64>,
    },
    /// `bytes=-N`: the last N bytes, N not 0.
    Suffix(u64),
    /// Several ranges or another unit: the whole file is sent.
    Ignored,
    /// No file can have it: `bytes=-`, `bytes=-0`, A > B, or a number past 63 bits.
    Impossible,
    /// Not a range at all: 400.
    Nonsense,
}

/// What to send of a file of known size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// 200, all of it.
    Whole,
    /// 206.
    Part {
        /// The first byte's offset.
        first: u64,
        /// The last byte's offset.
        last: u64,
    },
    /// 416.
    Unsatisfiable,
    /// 400.
    Nonsense,
}

/// What the Content-Range fields of a PUT say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentRange {
    /// There was none.
    #[default]
    Absent,
    /// `bytes A-B/*` or `bytes A-B/TOTAL`.
    Bytes {
        /// A.
        first: u64,
        /// B, not less than A.
        last: u64,
    },
    /// 400.
    Malformed,
    /// A number past 63 bits: 507.
    TooBig,
}

impl RangeHeader {
    /// Reads a Range field's value.
    pub fn parse(value: &[u8]) -> Self {
        match strip_bytes(value, b'=') {
            Some(set) => {
                field::list(set).map(Self::one).reduce(Self::together).unwrap_or(Self::Nonsense)
            }
            None => Self::Ignored,
        }
    }

    /// What it selects of a file of `total` bytes.
    pub fn select(self, total: u64) -> Selection {
        match self {
            Self::From { first, .. } if first >= total => Selection::Unsatisfiable,
            Self::From { first, last } => {
                Selection::Part { first, last: last.map_or(total - 1, |last| last.min(total - 1)) }
            }
            Self::Suffix(length) if length > total => Selection::Whole,
            // A suffix is never 0, so `total` is not 0 either.
            Self::Suffix(length) => Selection::Part { first: total - length, last: total - 1 },
            Self::Ignored => Selection::Whole,
            Self::Impossible => Selection::Unsatisfiable,
            Self::Nonsense => Selection::Nonsense,
        }
    }

    fn one(spec: &[u8]) -> Self {
        let Some((left, right)) = cut(spec, b'-') else {
            return Self::Nonsense;
        };
        match (field::decimal(left), field::decimal(right)) {
            (Decimal::Nonsense, _) | (_, Decimal::Nonsense) => Self::Nonsense,
            (Decimal::TooBig, _) | (_, Decimal::TooBig) => Self::Impossible,
            (Decimal::Empty, Decimal::Empty | Decimal::Value(0)) => Self::Impossible,
            (Decimal::Empty, Decimal::Value(length)) => Self::Suffix(length),
            (Decimal::Value(first), Decimal::Empty) => Self::From { first, last: None },
            (Decimal::Value(first), Decimal::Value(last)) if first > last => Self::Impossible,
            (Decimal::Value(first), Decimal::Value(last)) => Self::From { first, last: Some(last) },
        }
    }

    fn together(self, next: Self) -> Self {
        match (self, next) {
            (Self::Nonsense, _) | (_, Self::Nonsense) => Self::Nonsense,
            _ => Self::Ignored,
        }
    }
}

impl ContentRange {
    /// Reads one Content-Range field's value.
    pub fn parse(value: &[u8]) -> Self {
        Self::fields(value).unwrap_or(Self::Malformed)
    }

    /// What it says together with one more field: two are never right.
    pub fn with(self, value: &[u8]) -> Self {
        match self {
            Self::Absent => Self::parse(value),
            _ => Self::Malformed,
        }
    }

    fn fields(value: &[u8]) -> Option<Self> {
        let (range, total) = cut(field::trim(strip_bytes(value, b' ')?), b'/')?;
        let (first, last) = cut(range, b'-')?;
        let total = match total {
            b"*" => Decimal::Value(u64::MAX),
            number => field::decimal(number),
        };
        Self::checked([field::decimal(first), field::decimal(last), total])
    }

    fn checked(numbers: [Decimal; 3]) -> Option<Self> {
        match numbers {
            // The file's size would have 64 bits.
            [Decimal::Value(_), Decimal::Value(field::MAX_NUMBER), Decimal::Value(_)] => {
                Some(Self::TooBig)
            }
            [Decimal::Value(first), Decimal::Value(last), Decimal::Value(total)] => {
                (first <= last && last < total).then_some(Self::Bytes { first, last })
            }
            _ if numbers.contains(&Decimal::Nonsense) || numbers.contains(&Decimal::Empty) => None,
            _ => Some(Self::TooBig),
        }
    }
}

fn strip_bytes(value: &[u8], separator: u8) -> Option<&[u8]> {
    let (unit, rest) = cut(value, separator)?;
    unit.eq_ignore_ascii_case(b"bytes").then_some(rest)
}

fn cut(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests;
