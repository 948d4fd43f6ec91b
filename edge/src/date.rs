//! The `Date` field: what has none when it leaves us gets one (RFC 9110 section 6.6.1).

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::h1::{Name, ResponseHead};

thread_local! {
    /// The second that was last written out, and how.
    static WRITTEN: Cell<(u64, [u8; 29])> = const { Cell::new((u64::MAX, [0; 29])) };
}

/// Adds the time to a final response that does not tell it.
pub(crate) fn stamp(head: &mut ResponseHead, time: SystemTime) {
    if head.status() >= 200 && head.fields.known(Name::Date).is_none() {
        // Digits, letters, commas and colons are a valid value.
        let _valid = head.fields.push_known(Name::Date, &written(time));
    }
}

/// The time as an IMF-fixdate, written out once a second.
fn written(time: SystemTime) -> [u8; 29] {
    let second = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (last, text) = WRITTEN.get();
    if last == second {
        return text;
    }
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
    let text = text.as_bytes().try_into().unwrap_or(*b"Thu, 01 Jan 1970 00:00:00 GMT");
    WRITTEN.set((second, text));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_response_gets_the_time_once() {
        let mut head = ResponseHead::new(404);
        stamp(&mut head, SystemTime::now());
        stamp(&mut head, SystemTime::now());
        assert_eq!(head.fields.all_known(Name::Date).count(), 1);
        let text = std::str::from_utf8(head.fields.known(Name::Date).unwrap()).unwrap();
        let age = SystemTime::now().duration_since(httpdate::parse_http_date(text).unwrap()).unwrap();
        assert!(age < Duration::from_secs(60), "{text}");
    }

    #[test]
    fn an_upstreams_time_and_an_interim_response_stay_as_they_are() {
        let mut head = ResponseHead::new(200);
        head.fields.push_known(Name::Date, b"Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        stamp(&mut head, SystemTime::now());
        assert_eq!(head.fields.known(Name::Date), Some(&b"Sun, 06 Nov 1994 08:49:37 GMT"[..]));
        let mut head = ResponseHead::new(101);
        stamp(&mut head, SystemTime::now());
        assert!(head.fields.known(Name::Date).is_none());
    }
}
