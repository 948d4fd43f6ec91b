//! What of a request says which endpoint answers it, and the cookie that says so next time.

use std::{io::Write, time::Duration};

use model::{AffinityCookie, Balancing, HashKey};

use crate::{
    balance::hash,
    downstream::Client,
    h1::{InvalidField, Name, RequestHead, ResponseHead, Scheme},
    worker::Thread,
};

/// Where a request belongs.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    /// What is hashed, as its hash; `None` where the request has nothing of it, or nobody asks.
    pub(super) key: Option<u64>,
    /// The value of `Set-Cookie` by which the client stays where it is put.
    issued: Option<Vec<u8>>,
}

impl Affinity {
    /// Looks for what `balancing` asks for.
    pub(super) fn of(thread: &Thread, balancing: &Balancing, client: &Client, head: &RequestHead) -> Self {
        let Some(key) = balancing.key() else { return Self::default() };
        let value = match key {
            HashKey::SourceIp => Some(client.address.as_bytes()),
            HashKey::Header(name) => head.fields.find(name),
            HashKey::Query(name) => parameter(head.query().unwrap_or_default(), name).map(str::as_bytes),
            HashKey::Cookie(cookie) => {
                let found = head.fields.all_known(Name::Cookie).find_map(|field| crumb(field, &cookie.name));
                if let (None, Some(life)) = (found, cookie.issue) {
                    let value = thread.request_id();
                    let issued = set_cookie(cookie, value.as_bytes(), life, client.scheme);
                    return Self { key: Some(hash::hash(value.as_bytes())), issued: Some(issued) };
                }
                found
            }
        };
        Self { key: value.map(hash::hash), issued: None }
    }

    /// Gives the client its cookie.
    ///
    /// # Errors
    /// Where the cookie's name or path cannot stand in a field, which the configuration's checks rule out.
    pub(super) fn issue(&self, head: &mut ResponseHead) -> Result<(), InvalidField> {
        match &self.issued {
            Some(cookie) => head.fields.push_known(Name::SetCookie, cookie),
            None => Ok(()),
        }
    }
}

/// The first parameter of that name, as it is written.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The cookie of that name in a `Cookie` field (RFC 6265 section 4.2.1).
pub(super) fn crumb<'f>(field: &'f [u8], name: &str) -> Option<&'f [u8]> {
    let mut pairs = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

fn set_cookie(cookie: &AffinityCookie, value: &[u8], life: Duration, scheme: Scheme) -> Vec<u8> {
    let mut text = cookie.name.clone().into_bytes();
    text.push(b'=');
    text.extend_from_slice(value);
    // Writing to a Vec cannot fail.
    let _infallible = write!(text, "; Path={}", cookie.path);
    if !life.is_zero() {
        let _infallible = write!(text, "; Max-Age={}", life.as_secs().max(1));
    }
    text.extend_from_slice(b"; HttpOnly");
    if scheme == Scheme::Https {
        text.extend_from_slice(b"; Secure");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        for (field, expect) in [
            ("a=1; at=2", Some("1")),
            ("at=2;a=1", Some("1")),
            ("at=2", None),
            ("b=a=1", None),
            ("a=", Some("")),
            ("", None),
        ] {
            assert_eq!(crumb(field.as_bytes(), "a"), expect.map(str::as_bytes), "{field}");
        }
    }

    #[test]
    fn the_first_parameter_counts() {
        for (query, expect) in [("a=1&a=2", Some("1")), ("ba=1&a=3", Some("3")), ("a", None), ("", None)] {
            assert_eq!(parameter(query, "a"), expect, "{query}");
        }
    }

    #[test]
    fn a_cookie_lives_as_long_as_it_is_said() {
        let cookie = AffinityCookie { name: "weir".into(), issue: None, path: "/shop".into() };
        let text = |life, scheme| String::from_utf8(set_cookie(&cookie, b"7", life, scheme)).expect("ASCII");
        assert_eq!(text(Duration::ZERO, Scheme::Http), "weir=7; Path=/shop; HttpOnly");
        let hour = Duration::from_secs(3600);
        assert_eq!(text(hour, Scheme::Https), "weir=7; Path=/shop; Max-Age=3600; HttpOnly; Secure");
    }
}
