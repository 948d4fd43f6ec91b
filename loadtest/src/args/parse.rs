//! PURE. Values as the command line spells them.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use crate::{Protocol, Step};

/// `500ms`, `10s`, `2m` or `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is not a duration: use a number with ms, s, m or h, such as 500ms or 10s");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

/// `100x10s`.
pub(super) fn step(text: &str) -> Result<Step, String> {
    let wrong = || format!("{text:?} is not a step: use RATExDURATION, such as 100x10s");
    let (rate, time) = text.split_once('x').ok_or_else(wrong)?;
    Ok(Step { rate: rate.parse().map_err(|_| wrong())?, duration: duration(time)? })
}

/// `h1` or `h2`.
pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "h1" => Ok(Protocol::H1),
        "h2" => Ok(Protocol::H2),
        _ => Err(format!("{text:?} is not a protocol: use h1 or h2")),
    }
}

/// `name: value`.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("{text:?} is not a header: use 'name: value'");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    Ok((name.trim().parse().map_err(|_| wrong())?, value.trim().parse().map_err(|_| wrong())?))
}

/// An absolute URL.
pub(super) fn url(text: &str) -> Result<Uri, String> {
    let wrong =
        || format!("{text:?} is not a target: use http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    if uri.scheme().is_some() && uri.authority().is_some() { Ok(uri) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1d", "1e9s", "99999999999999999999h", "1.2.3s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
