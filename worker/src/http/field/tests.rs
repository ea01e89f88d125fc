use super::*;
use proptest::prelude::*;

#[test]
fn fields_are_split_and_trimmed() {
    let host = Some((&b"Host"[..], &b"a b"[..]));
    for line in ["Host:a b", "Host: a b", "Host:\t a b \t"] {
        assert_eq!(split(line.as_bytes()), host, "{line:?}");
    }
    assert_eq!(split(b"X:"), Some((&b"X"[..], &b""[..])));
    assert_eq!(split(b"X: a:b"), Some((&b"X"[..], &b"a:b"[..])));
}

#[test]
fn lines_that_are_no_fields_are_not_split() {
    for line in ["", ":", ": x", "Host", "Host : x", " Host: x", "\tHost: x", "Ho st: x", "H(: x"] {
        assert_eq!(split(line.as_bytes()), None, "{line:?}");
    }
}

#[test]
fn numbers_have_63_bits_and_only_digits() {
    assert_eq!(decimal(b""), Decimal::Empty);
    assert_eq!(decimal(b"0"), Decimal::Value(0));
    assert_eq!(decimal(b"0012"), Decimal::Value(12));
    assert_eq!(decimal(b"9223372036854775807"), Decimal::Value(MAX_NUMBER));
    assert_eq!(decimal(b"9223372036854775808"), Decimal::TooBig);
    assert_eq!(decimal(b"18446744073709551616"), Decimal::TooBig);
    assert_eq!(decimal(&[b'9'; 1000]), Decimal::TooBig);
    for text in ["+5", "-5", "5 ", " 5", "5a", "0x5", "5, 5", "99999999999999999999x"] {
        assert_eq!(decimal(text.as_bytes()), Decimal::Nonsense, "{text:?}");
    }
}

#[test]
fn md5_of_nothing_is_read() {
    let digest = 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e_u128.to_be_bytes();
    assert_eq!(ContentMd5::parse(b"1B2M2Y8AsgTpgAmY7PhCfg=="), ContentMd5::Digest(digest));
}

#[test]
fn malformed_md5_is_told() {
    for text in [
        "",
        "==",
        "1B2M2Y8AsgTpgAmY7PhCfg",
        "1B2M2Y8AsgTpgAmY7PhCfg=",
        "1B2M2Y8AsgTpgAmY7PhCfg===",
        "1B2M2Y8AsgTpgAmY7PhCf==",
        "1B2M2Y8AsgTpgAmY7PhCfgA==",
        "1B2M2Y8AsgTpgAmY7PhCfh==",
        "1B2M2Y8AsgTpgAmY7PhC-g==",
        "1B2M2Y8Asg=pgAmY7PhCfg==",
        "d41d8cd98f00b204e9800998ecf8427e",
    ] {
        assert_eq!(ContentMd5::parse(text.as_bytes()), ContentMd5::Malformed, "{text:?}");
    }
}

#[test]
fn two_digests_must_agree() {
    let (a, b) = (b"AAAAAAAAAAAAAAAAAAAAAA==", b"AQAAAAAAAAAAAAAAAAAAAA==");
    let once = ContentMd5::default().with(a);
    assert_eq!(once, ContentMd5::Digest([0; 16]));
    assert_eq!(once.with(a), once);
    assert_eq!(once.with(b), ContentMd5::Malformed);
    assert_eq!(once.with(b).with(b), ContentMd5::Malformed);
}

proptest! {
    #[test]
    fn text_ends_at_the_first_byte_that_is_none(
        bytes in proptest::collection::vec(
            prop_oneof![8 => b' '..0x7f, 1 => any::<u8>(), 1 => Just(b'\t')],
            0..40,
        )
    ) {
        let end = bytes.iter().position(|byte| !is_text(*byte)).unwrap_or(bytes.len());
        prop_assert_eq!(text_len(&bytes), end);
    }

    #[test]
    fn md5_reads_what_plain_base64_wrote(digest: [u8; 16]) {
        let text = base64(&digest);
        prop_assert_eq!(ContentMd5::parse(text.as_bytes()), ContentMd5::Digest(digest));
    }
}

/// By three bytes and four characters, unlike the decoder.
fn base64(bytes: &[u8]) -> String {
    let alphabet: Vec<char> =
        ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes(padded);
        for i in 0..4 {
            text.push(match i <= group.len() {
                true => alphabet[(word >> (18 - 6 * i)) as usize & 63],
                false => '=',
            });
        }
    }
    text
}
