use super::*;
use proptest::prelude::*;

/// What came of a whole stream: the body, the trailer's digest and how much was used; or the refusal.
type Outcome = Result<Option<(Vec<u8>, ContentMd5, usize)>, Refusal>;

fn decode<'i>(pieces: impl IntoIterator<Item = &'i [u8]>) -> Outcome {
    let (mut decoder, mut body, mut used) = (Chunked::new(), Vec::new(), 0);
    for mut piece in pieces {
        loop {
            match decoder.next(piece) {
                Step::Data { range, consumed } => {
                    assert!(
                        !range.is_empty() && range.end <= consumed,
                        "data lies in what was consumed"
                    );
                    body.extend_from_slice(&piece[range]);
                    piece = &piece[consumed..];
                    used += consumed;
                }
                Step::More => break,
                Step::End { consumed } => {
                    return Ok(Some((body, decoder.trailer_md5(), used + consumed)));
                }
                Step::Refused(refusal) => return Err(refusal),
            }
        }
        used += piece.len();
    }
    Ok(None)
}

fn whole(input: &str) -> Outcome {
    decode([input.as_bytes()])
}

fn ended(body: &str, used: usize) -> Outcome {
    Ok(Some((body.into(), ContentMd5::Absent, used)))
}

#[test]
fn bodies_are_decoded_and_the_next_request_is_found() {
    let next = "GET / HTTP/1.1\r\n\r\n";
    for (input, body) in [
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world"),
        ("00005\r\nhello\r\n000\r\n\r\n", "hello"),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("1F\r\n0123456789012345678901234567890\r\n0\r\n\r\n", "0123456789012345678901234567890"),
        ("5;name=value\r\nhello\r\n0;last\r\n\r\n", "hello"),
        ("5 ; a=\"b;\t c\"\r\nhello\r\n0 \r\n\r\n", "hello"),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
        ("0\r\nX: y\r\nEmpty:\r\n\r\n", ""),
    ] {
        assert_eq!(whole(&format!("{input}{next}")), ended(body, input.len()), "{input:?}");
        assert_eq!(whole(&input[..input.len() - 1]), Ok(None), "{input:?}");
    }
}

#[test]
fn extensions_of_any_length_are_skipped() {
    let input = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1_000_000));
    assert_eq!(whole(&input), ended("hello", input.len()));
}

#[test]
fn broken_bodies_are_refused() {
    for input in [
        "\r\n",
        ";x\r\n",
        " 5\r\n",
        "g\r\n",
        "-5\r\n",
        "0x5\r\n",
        "5\n",
        "5\rx",
        "5 5\r\n",
        "5\r\nhello\n",
        "5\r\nhellox",
        "5\r\nhello\rx",
        "5\r\nhello0\r\n",
        "5\r\nhello\r\n\r\n",
        "5;a\n",
        "5;a\0",
        "5;a\x1b",
        "5;a\rb",
        "0\r\n\n",
        "0\r\n\rx",
        "0\r\nX\r\n",
        "0\r\nX : y\r\n",
        "0\r\n X: y\r\n",
        "0\r\nX: y\r\n folded\r\n",
        "0\r\n: y\r\n",
        "0\r\nX: y\n",
        "0\r\nX: y\rz",
        "0\r\nX: \0\r\n",
    ] {
        assert_eq!(whole(input), Err(Refusal::BadRequest), "{input:?}");
    }
}

#[test]
fn sizes_past_63_bits_are_too_large() {
    assert_eq!(whole("7fffffffffffffff\r\n"), Ok(None));
    assert_eq!(whole("0000000000007fffffffffffffff\r\n"), Ok(None));
    assert_eq!(whole("8000000000000000"), Err(Refusal::TooLarge));
    assert_eq!(whole("ffffffffffffffffffffffff\r\n"), Err(Refusal::TooLarge));
}

#[test]
fn a_total_past_63_bits_is_too_large() {
    assert_eq!(whole("1\r\nx\r\n7ffffffffffffffe\r\n"), Ok(None));
    assert_eq!(whole("1\r\nx\r\n7fffffffffffffff\r\n"), Err(Refusal::TooLarge));
}

#[test]
fn the_digest_of_the_trailer_is_kept() {
    let md5 = |trailers: &str| match whole(&format!("0\r\n{trailers}\r\n")) {
        Ok(Some((_, md5, _))) => md5,
        other => panic!("{trailers:?}: {other:?}"),
    };
    let zero = "AAAAAAAAAAAAAAAAAAAAAA==";
    assert_eq!(md5("X: y\r\n"), ContentMd5::Absent);
    assert_eq!(md5(&format!("Content-MD5: {zero}\r\n")), ContentMd5::Digest([0; 16]));
    assert_eq!(
        md5(&format!("A: b\r\ncontent-md5:{zero} \r\nC: d\r\n")),
        ContentMd5::Digest([0; 16])
    );
    assert_eq!(md5("Content-MD5: x\r\n"), ContentMd5::Malformed);
    assert_eq!(md5(&format!("Content-MD5: {zero}\r\nContent-MD5: x\r\n")), ContentMd5::Malformed);
}

#[test]
fn trailers_are_limited_as_the_head() {
    let trailers =
        |len: usize| format!("0\r\nX: {}\r\n\r\n", "y".repeat(len - "X: \r\n\r\n".len()));
    let longest = trailers(MAX_HEAD);
    assert_eq!(whole(&longest), ended("", longest.len()));
    assert_eq!(whole(&trailers(MAX_HEAD + 1)), Err(Refusal::BadRequest));
    assert_eq!(whole(&format!("0\r\n{}", "A:b\r\n".repeat(14_000))), Err(Refusal::BadRequest));
}

#[test]
fn cuts_at_every_byte_change_nothing() {
    for input in [
        "5;a=b\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nContent-MD5: AAAAAAAAAAAAAAAAAAAAAA==\r\nX: y\r\n\r\nGET",
        "5\r\nhello\r\n0\r\n bad\r\n\r\n",
        "5\r\nhellooo",
        "8\r\n12345678\r\nffffffffffffffffffff\r\n",
    ] {
        let expected = whole(input);
        let bytes = input.as_bytes();
        for cut in 0..=bytes.len() {
            assert_eq!(decode([&bytes[..cut], &bytes[cut..]]), expected, "{input:?} cut at {cut}");
        }
        assert_eq!(decode(bytes.chunks(1)), expected, "{input:?}");
    }
}

/// Finds lines by searching whole strings, and reads sizes with the standard library.
fn model(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (line, after) = rest.split_once("\r\n")?;
        let size = line.split(';').next()?.trim_end_matches([' ', '\t']);
        if !size.chars().all(|c| c.is_ascii_hexdigit()) || line.contains(['\r', '\n', '\0']) {
            return None;
        }
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            rest = after;
            break;
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
    loop {
        let (line, after) = rest.split_once("\r\n")?;
        if line.is_empty() {
            return Some(body);
        }
        let (name, value) = line.split_once(':')?;
        let strange = |c: char| !c.is_ascii_alphanumeric();
        if name.is_empty() || name.contains(strange) || value.contains(['\r', '\n', '\0']) {
            return None;
        }
        rest = after;
    }
}

/// Pieces that make sense together now and then: encoded chunks, faults and trailers.
fn stream() -> impl Strategy<Value = String> {
    let chunk = ("[a-z\r\n]{1,40}", "(;[a-z]{0,9}| )?", any::<bool>()).prop_map(
        |(data, extension, upper)| {
            let size =
                if upper { format!("{:X}", data.len()) } else { format!("{:x}", data.len()) };
            format!("{size}{extension}\r\n{data}\r\n")
        },
    );
    let fault = prop::sample::select(vec!["\r\n", "\n", "\r", "x", "0", " ", "5\r\n"]);
    let trailer = prop::sample::select(vec![
        "",
        "X: y\r\n",
        "X: y\r\nZ:\r\n",
        " X: y\r\n",
        "X\r\n",
        "X: \n\r\n",
    ]);
    let faults = prop::option::weighted(0.3, (fault, any::<prop::sample::Index>()));
    (prop::collection::vec(chunk, 0..5), trailer, faults).prop_map(|(chunks, trailer, fault)| {
        let mut text = format!("{}0\r\n{trailer}\r\n", chunks.concat());
        if let Some((fault, at)) = fault {
            text.insert_str(at.index(text.len()), fault);
        }
        text
    })
}

proptest! {
    #[test]
    fn decoding_agrees_with_the_model_however_it_is_cut(text in stream(), mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let outcome = whole(&text);
        let body = outcome.clone().ok().flatten().map(|(body, _, _)| body);
        prop_assert_eq!(body, model(&text).map(String::into_bytes), "{:?}", text);

        cuts.sort_by_key(|cut| cut.index(text.len()));
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        ends.push(text.len());
        let mut start = 0;
        let pieces: Vec<&[u8]> = ends.into_iter().map(|end| &text.as_bytes()[std::mem::replace(&mut start, end)..end]).collect();
        prop_assert_eq!(decode(pieces), outcome);
        prop_assert_eq!(decode(text.as_bytes().chunks(1)), whole(&text));
    }
}
