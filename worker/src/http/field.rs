//! Header and trailer lines: the split into name and value, and the values that more than one parser reads.

/// A decimal number as a peer wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decimal {
    /// No byte at all.
    Empty,
    /// A number of at most 63 bits.
    Value(u64),
    /// Digits only, but more than 63 bits.
    TooBig,
    /// Something else: a sign, a letter, a blank.
    Nonsense,
}

/// What the Content-MD5 fields of one message say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentMd5 {
    /// There was none.
    #[default]
    Absent,
    /// The digest that the body must have.
    Digest([u8; 16]),
    /// Not 24 characters of base64, or two different digests.
    Malformed,
}

/// The largest number taken anywhere: file offsets are signed.
pub const MAX_NUMBER: u64 = i64::MAX as u64;

/// Which bytes a token has; looking up is what a head costs least with.
static TOKEN: [bool; 256] = token_bytes();

/// Splits a line (without its CRLF) into name and trimmed value; `None` for no colon, an empty name, a blank before the colon or an obs-fold.
pub fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| !is_token_byte(*byte)).filter(|at| *at > 0)?;
    (line[colon] == b':').then(|| (&line[..colon], trim(&line[colon + 1..])))
}

/// Whether it is a token (RFC 9110 5.6.2), as a method and a field name must be.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// Whether a line may hold this byte: not NUL, CR, LF or another control character.
pub fn is_text(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// How many bytes there are in front of the first that no line may hold. Eight are looked at a time.
pub fn text_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk() {
        match first_control(u64::from_le_bytes(*word)) {
            None => at += 8,
            Some(control) if bytes[at + control] == b'\t' => at += control + 1,
            Some(control) => return at + control,
        }
    }
    at + bytes[at..].iter().take_while(|byte| is_text(**byte)).count()
}

/// Which of eight bytes is the first control character: Warren, Hacker's Delight, section 6-1. The
/// bits above that byte's may be wrong.
fn first_control(word: u64) -> Option<usize> {
    const EACH: u64 = u64::MAX / 255;
    let delete = word ^ (EACH * 0x7f);
    let below_blank = word.wrapping_sub(EACH * 0x20) & !word;
    let is_delete = delete.wrapping_sub(EACH) & !delete;
    let found = (below_blank | is_delete) & (EACH * 0x80);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Takes off the blanks (spaces and tabs) at both ends.
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The elements of a comma-separated list, trimmed; empty ones are left out (RFC 9110 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// Reads a number that must be all of `text`.
pub fn decimal(text: &[u8]) -> Decimal {
    if text.is_empty() {
        return Decimal::Empty;
    }
    if !text.iter().all(u8::is_ascii_digit) {
        return Decimal::Nonsense;
    }
    let value = text.iter().try_fold(0u64, |number, digit| {
        let next = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
        next.filter(|number| *number <= MAX_NUMBER)
    });
    value.map_or(Decimal::TooBig, Decimal::Value)
}

impl ContentMd5 {
    /// Reads one field's value: 22 characters of base64 and `==`, the unused bits zero.
    pub fn parse(value: &[u8]) -> Self {
        decode_md5(value).map_or(Self::Malformed, Self::Digest)
    }

    /// What it says together with one more field.
    pub fn with(self, value: &[u8]) -> Self {
        let next = Self::parse(value);
        if self == Self::Absent || self == next {
            return next;
        }
        Self::Malformed
    }
}

fn decode_md5(value: &[u8]) -> Option<[u8; 16]> {
    let text = value.strip_suffix(b"==").filter(|text| text.len() == 22)?;
    let (last, front) = text.split_last()?;
    let bits =
        front.iter().try_fold(0u128, |bits, byte| Some(bits << 6 | u128::from(sextet(*byte)?)))?;
    let last = sextet(*last).filter(|last| last & 0x0f == 0)?;
    Some((bits << 2 | u128::from(last >> 4)).to_be_bytes())
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

const fn token_bytes() -> [bool; 256] {
    let (mut table, others) = ([false; 256], b"!#$%&'*+-.^_`|~");
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests;
