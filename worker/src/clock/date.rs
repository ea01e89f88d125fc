//! Dates as HTTP writes them: RFC 9110 section 5.6.7.

use std::fmt;

/// A time as headers show it: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HttpDate([u8; 29]);

impl HttpDate {
    /// 1 January 1970, the Last-Modified of `/`.
    pub const EPOCH: Self = Self(*b"Thu, 01 Jan 1970 00:00:00 GMT");

    /// From seconds since 1970; years that do not have four digits become the nearest that have.
    pub fn from_unix(seconds: i64) -> Self {
        let seconds = seconds.clamp(YEAR_0, YEAR_9999_END);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let mut text = Self::EPOCH.0;
        text[..3].copy_from_slice(name_at(b"ThuFriSatSunMonTueWed", days.rem_euclid(7)));
        text[8..11].copy_from_slice(name_at(b"JanFebMarAprMayJunJulAugSepOctNovDec", month));
        let pairs = [
            (5, day),
            (12, year / 100),
            (14, year % 100),
            (17, second / 3600),
            (20, second / 60 % 60),
            (23, second % 60),
        ];
        for (at, value) in pairs {
            text[at] = b'0' + (value / 10) as u8;
            text[at + 1] = b'0' + (value % 10) as u8;
        }
        Self(text)
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8; 29] {
        &self.0
    }
}

impl fmt::Debug for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// 1 January of year 0.
const YEAR_0: i64 = -62_167_219_200;
/// The last second of year 9999.
const YEAR_9999_END: i64 = 253_402_300_799;
/// From 1 March of year 0 to 1 January 1970.
const DAYS_TO_1970: i64 = 719_468;
/// In 400 years; the calendar then repeats.
const DAYS_OF_ERA: i64 = 146_097;

/// Year, month (January is 0) and day of a day counted from 1970. Years run from March here, so that the leap day is a year's last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let (era, day) = (days.div_euclid(DAYS_OF_ERA), days.rem_euclid(DAYS_OF_ERA));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let next_year = i64::from(month >= 10);
    (era * 400 + year + next_year, (month + 2) % 12, day)
}

fn name_at(names: &'static [u8], index: i64) -> &'static [u8] {
    let start = index as usize * 3;
    &names[start..start + 3]
}
