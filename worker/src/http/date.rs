//! Dates in requests: the three forms of RFC 9110 section 5.6.7, of every year that they can write,
//! those before 1970 too.

const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
const DAYS: [&[u8]; 7] =
    [b"Sunday", b"Monday", b"Tuesday", b"Wednesday", b"Thursday", b"Friday", b"Saturday"];
/// Of each month, in a leap year.
const LENGTHS: [i64; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
/// From 1 March of year 0 to 1 January 1970.
const DAYS_TO_1970: i64 = 719_468;

/// Reads a date as seconds since 1970, less than 0 before.
pub fn parse(value: &[u8]) -> Option<i64> {
    fixed(value).or_else(|| with_dashes(value)).or_else(|| of_asctime(value))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn fixed(value: &[u8]) -> Option<i64> {
    let rest = day_name(value, 3)?.strip_prefix(b", ")?;
    let &[d1, d2, b' ', m1, m2, m3, b' ', y1, y2, y3, y4, b' ', ref time @ ..] = rest else {
        return None;
    };
    let year = number(&[y1, y2, y3, y4])?;
    seconds(year, &[m1, m2, m3], number(&[d1, d2])?, time.strip_suffix(b" GMT")?)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn with_dashes(value: &[u8]) -> Option<i64> {
    let name = value.iter().position(|byte| *byte == b',')?;
    let rest = day_name(value, name)?.strip_prefix(b", ")?;
    let &[d1, d2, b'-', m1, m2, m3, b'-', y1, y2, b' ', ref time @ ..] = rest else {
        return None;
    };
    // Two digits: no year of this form is before 1970.
    let year = number(&[y1, y2])?;
    let year = if year < 70 { 2000 + year } else { 1900 + year };
    seconds(year, &[m1, m2, m3], number(&[d1, d2])?, time.strip_suffix(b" GMT")?)
}

/// `Sun Nov  6 08:49:37 1994`
fn of_asctime(value: &[u8]) -> Option<i64> {
    let rest = day_name(value, 3)?.strip_prefix(b" ")?;
    let &[m1, m2, m3, b' ', d1, d2, b' ', ref time @ .., b' ', y1, y2, y3, y4] = rest else {
        return None;
    };
    let tens = if d1 == b' ' { b'0' } else { d1 };
    seconds(number(&[y1, y2, y3, y4])?, &[m1, m2, m3], number(&[tens, d2])?, time)
}

/// What follows the day's name, of which `len` bytes are written.
fn day_name(value: &[u8], len: usize) -> Option<&[u8]> {
    let (name, rest) = value.split_at_checked(len)?;
    let whole = |day: &&[u8]| if len == 3 { &day[..3] == name } else { *day == name };
    DAYS.iter().any(whole).then_some(rest)
}

fn number(digits: &[u8]) -> Option<i64> {
    let digit =
        |number, byte: &u8| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'));
    digits.iter().try_fold(0, digit)
}

/// `time`: `08:49:37`, where 60 seconds are a leap second.
fn seconds(year: i64, month: &[u8], day: i64, time: &[u8]) -> Option<i64> {
    let month = MONTHS.chunks(3).position(|name| name == month)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = LENGTHS[month] - i64::from(month == 1 && !leap);
    let &[h1, h2, b':', m1, m2, b':', s1, s2] = time else { return None };
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[m1, m2])?, number(&[s1, s2])?);
    let possible = (1..=last).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    possible.then(|| (days(year, month as i64, day) * 24 + hour) * 3600 + minute * 60 + second)
}

/// Days from 1970 to a day; January is 0. Years run from March here, so that the leap day is a
/// year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let (century, of_century) = (year.div_euclid(100), year.rem_euclid(100));
    let before = century * 36_524 + century.div_euclid(4) + of_century * 365 + of_century / 4;
    before + (153 * month + 2) / 5 + day - 1 - DAYS_TO_1970
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::HttpDate;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn the_three_forms_are_read() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
        assert_eq!(parse(b"Sun Nov 16 08:49:37 1994"), Some(784_111_777 + 10 * 86_400));
        assert_eq!(parse(b"Sunday, 06-Nov-05 08:49:37 GMT"), Some(1_131_266_977));
    }

    #[test]
    fn dates_before_1970_are_dates() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
            ("Wed Dec 31 23:59:59 1969", -1),
            ("Fri, 13 Dec 1901 20:45:52 GMT", -2_147_483_648),
            ("Sat, 01 Jan 0000 00:00:00 GMT", -62_167_219_200),
            ("Fri, 31 Dec 9999 23:59:60 GMT", 253_402_300_800),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_not_read() {
        for text in [
            "",
            "0",
            "yesterday",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "sun, 06 nov 1994 08:49:37 gmt",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun,  6 Nov 1994 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 29 Feb 1900 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 06 Nov -994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sunny, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert!(parse(b"Tue, 29 Feb 2000 08:49:37 GMT").is_some());
    }

    proptest! {
        #[test]
        fn what_we_write_is_read_back(seconds in -62_167_219_200i64..253_402_300_800) {
            prop_assert_eq!(parse(HttpDate::from_unix(seconds).as_bytes()), Some(seconds));
        }

        #[test]
        fn any_time_agrees_with_httpdate(seconds in 0u64..253_402_300_800) {
            let known = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            prop_assert_eq!(parse(known.as_bytes()), Some(seconds as i64));
        }

        #[test]
        fn any_bytes_are_judged(text in "[SunWedJan0-9 ,:GMT-]{0,40}") {
            let _ = parse(text.as_bytes());
        }
    }
}
