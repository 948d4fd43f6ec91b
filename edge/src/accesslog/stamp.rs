//! Times as the log writes them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Formats times, remembering the last second's: most lines are of the second of the line before.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: u64,
    /// The second as text up to its `Z`, then `.mmmZ`.
    text: String,
}

impl Stamp {
    /// RFC 3339 in UTC with milliseconds: `2026-11-23T22:00:00.123Z`.
    pub(super) fn rfc3339(&mut self, time: SystemTime) -> &str {
        const FRACTION: usize = ".000Z".len();
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            let second = i64::try_from(self.second).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            // The last second of year 9999 is the last one that a timestamp can be.
            let second = second.unwrap_or(jiff::Timestamp::MAX);
            self.text = format!("{}.000Z", second.strftime("%Y-%m-%dT%H:%M:%S"));
        }
        let keep = self.text.len() - FRACTION;
        self.text.truncate(keep);
        let millis = since.subsec_millis();
        self.text.push('.');
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            self.text.push(char::from_digit(digit, 10).unwrap_or('0'));
        }
        self.text.push('Z');
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_in_utc_with_milliseconds() {
        let mut stamp = Stamp::default();
        let mut at = |secs, millis: u32| {
            stamp.rfc3339(UNIX_EPOCH + Duration::new(secs, millis * 1_000_000)).to_owned()
        };
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(1_795_471_200, 7), "2026-11-23T22:00:00.007Z");
        assert_eq!(at(1_795_471_200, 123), "2026-11-23T22:00:00.123Z");
        assert_eq!(at(1_795_471_201, 999), "2026-11-23T22:00:01.999Z");
        assert_eq!(at(u64::MAX / 2, 0).len(), "2026-11-23T22:00:00.000Z".len());
    }

    #[test]
    fn a_clock_before_1970_reads_as_1970() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Stamp::default().rfc3339(before), "1970-01-01T00:00:00.000Z");
    }
}
