//! What gRPC asks of a gateway: its deadlines are honoured, and what goes wrong here is said in its own terms.

use std::{fmt::Write, time::Duration};

use crate::{
    h1::{Fields, Name, ResponseHead},
    serve::refusal::Refusal,
    upstream::exchange::ExchangeError,
};

/// Whether these are the fields of a gRPC message. gRPC-Web is HTTP in this respect: its clients read no trailers.
pub(crate) fn is_grpc(fields: &Fields) -> bool {
    fields.known(Name::ContentType).is_some_and(|kind| {
        let rest = kind.strip_prefix(KIND);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    })
}

/// The `content-type` of gRPC, and of what we say ourselves.
pub(crate) const KIND: &[u8] = b"application/grpc";

/// A status of gRPC's, as far as a gateway gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// What a refusal is for a gRPC client: as it would read the HTTP status (gRPC's `http-grpc-status-mapping`), but for
/// time that ran out, which gRPC can say itself.
fn status_of(refusal: &Refusal) -> Status {
    match refusal.status() {
        400 | 405 | 408 | 413..=417 => Status::Internal,
        404 => Status::Unimplemented,
        429 | 431 => Status::ResourceExhausted,
        504 => Status::DeadlineExceeded,
        _ => Status::Unavailable,
    }
}

/// The head of a reply to a refused gRPC request: all of it, for there are only trailers (gRPC over HTTP/2,
/// "Trailers-Only").
pub(crate) fn refuse(refusal: &Refusal) -> ResponseHead {
    let mut head = ResponseHead::new(200);
    // A constant is a valid value.
    let _valid = head.fields.push_known(Name::ContentType, KIND);
    put_status(&mut head.fields, status_of(refusal), &refusal.to_string());
    head
}

/// The trailers of a call that a drain cuts off at its end. Where there is no answer yet they are all of it, with
/// [`KIND`].
pub(crate) fn cut_off() -> Fields {
    trailers(Status::Unavailable, "the gateway's time to drain is over")
}

/// Whether a head is all that there is of a reply.
pub(crate) fn is_trailers_only(head: &ResponseHead) -> bool {
    head.fields.find("grpc-status").is_some()
}

/// The trailers of a response that broke off.
pub(crate) fn broken_off(error: &ExchangeError) -> Fields {
    let status = match error {
        ExchangeError::TimedOut => Status::DeadlineExceeded,
        _ => Status::Unavailable,
    };
    trailers(status, &error.to_string())
}

fn trailers(status: Status, message: &str) -> Fields {
    let mut trailers = Fields::new();
    put_status(&mut trailers, status, message);
    trailers
}

fn put_status(fields: &mut Fields, status: Status, message: &str) {
    // Digits and visible ASCII are valid values.
    let _valid = fields.push("grpc-status", itoa::Buffer::new().format(status as u8).as_bytes());
    let _valid = fields.push("grpc-message", escaped(message).as_bytes());
}

/// Percent-encoded as gRPC asks: all but visible ASCII, space and `%`.
fn escaped(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => {
                let _infallible = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

/// How long the client of a gRPC request waits: `grpc-timeout`, at most eight digits and a unit. `None` where it does
/// not say, or says something else, which is as good as nothing.
pub(crate) fn timeout(fields: &Fields) -> Option<Duration> {
    parse_timeout(fields.find("grpc-timeout")?)
}

fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timeouts_are_those_of_grpc() {
        for (text, expect) in [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("3M", Some(Duration::from_secs(180))),
            ("", None),
            ("S", None),
            ("100000000S", None),
            ("-1S", None),
            ("1s", None),
            ("1.5S", None),
            ("1", None),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), expect, "{text}");
        }
    }

    #[test]
    fn kinds_of_content_are_told_apart() {
        for (kind, expect) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut fields = Fields::new();
            fields.push("content-type", kind.as_bytes()).unwrap();
            assert_eq!(is_grpc(&fields), expect, "{kind}");
        }
    }

    proptest! {
        #[test]
        fn no_timeout_is_too_odd(text in any::<Vec<u8>>()) {
            let _any = parse_timeout(&text);
        }

        #[test]
        fn messages_are_valid_values(message in any::<String>()) {
            let mut fields = Fields::new();
            put_status(&mut fields, Status::Internal, message.trim());
            prop_assert!(fields.find("grpc-status").is_some());
            prop_assert!(fields.find("grpc-message").is_some());
        }
    }
}
