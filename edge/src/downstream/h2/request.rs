//! HTTP/2 heads to ours and back (RFC 9113 section 8.3).

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use hyper::ext::Protocol;

use super::{Refused, VERSION};
use crate::{
    downstream::StreamRequest,
    h1::{BodyLength, Fields, FramingError, HeadError, Name, RequestError, RequestHead, content_length},
    limits::Limits,
    serve::refusal::Refusal,
};

/// The request, its head checked as strictly as one that came by HTTP/1.
///
/// # Errors
/// The refusal.
pub(super) fn convert(parts: &Parts, limits: &Limits) -> Refused<StreamRequest> {
    // RFC 8441: a CONNECT that names a protocol is that protocol's upgrade.
    let connect = parts.method == http::Method::CONNECT;
    let protocol = parts.extensions.get::<Protocol>().map(Protocol::as_str);
    let extended = protocol == Some("websocket");
    if connect && protocol.is_some() && !extended {
        return Err(RequestError::Connect.into());
    }
    let method = if extended { "GET" } else { parts.method.as_str() };
    if parts.headers.len() > limits.head_fields {
        return Err(RequestError::Head(HeadError::TooManyFields).into());
    }
    let host = one(&parts.headers, &header::HOST, RequestError::HostRepeated)?;
    let authority = match (parts.uri.authority(), host) {
        (Some(authority), Some(host)) if !host.eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(RequestError::HostMismatch.into());
        }
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => std::str::from_utf8(host).map_err(|_| RequestError::HostMissing)?,
        (None, None) => return Err(RequestError::HostMissing.into()),
    };
    let target = match parts.uri.path_and_query() {
        Some(target) => target.as_str(),
        None if connect => authority,
        None => "/",
    };
    let mut head = RequestHead::from_parts(method, authority, target, VERSION)?;
    let mut cookie = Vec::new();
    for (name, value) in &parts.headers {
        match *name {
            header::HOST | header::EXPECT => {}
            // hyper refuses these itself; that it goes on doing so should not be what we rely on.
            header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => {
                return Err(RequestError::Connection.into());
            }
            // One field again (RFC 9113 section 8.2.3); HTTP/1 has no crumbs.
            header::COOKIE => {
                if !cookie.is_empty() {
                    cookie.extend_from_slice(b"; ");
                }
                cookie.extend_from_slice(value.as_bytes());
            }
            _ if name.as_str().contains('_') => return Err(RequestError::Underscore.into()),
            _ => push(&mut head.fields, name.as_str(), value.as_bytes())?,
        }
    }
    if !cookie.is_empty() {
        push(&mut head.fields, Name::Cookie.as_str(), &cookie)?;
    }
    let length = one(&parts.headers, &header::CONTENT_LENGTH, FramingError::LengthRepeated.into())?
        .map(|text| content_length(text).ok_or(RequestError::Framing(FramingError::Length)))
        .transpose()?;
    Ok(StreamRequest::new(head, length, extended)?)
}

fn one<'h>(headers: &'h HeaderMap, name: &HeaderName, repeated: RequestError) -> Refused<Option<&'h [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(HeaderValue::as_bytes);
    if values.next().is_some() { Err(repeated.into()) } else { Ok(first) }
}

fn push(fields: &mut Fields, name: &str, value: &[u8]) -> Refused<()> {
    let head = RequestError::Head(HeadError::Control);
    fields.push_trimmed(name, value).map_err(|_| Refusal::Request(head))
}

/// How an HTTP/1 upstream is told where the body ends.
pub(super) fn body_length(ended: bool, declared: Option<u64>) -> BodyLength {
    match (ended, declared) {
        (_, Some(length)) => BodyLength::Length(length),
        (true, None) => BodyLength::None,
        (false, None) => BodyLength::Chunked,
    }
}

/// Copies what is not the connection's.
pub(crate) fn copy_fields(fields: &Fields, into: &mut HeaderMap) {
    for field in fields.iter().filter(|field| !field.hop_by_hop) {
        // Ours were checked by the same rules; a value that http refuses all the same is left out.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name), HeaderValue::from_bytes(field.value))
        {
            into.append(name, value);
        }
    }
}

/// Trailers as ours.
pub(crate) fn trailers(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in headers {
        let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::HOST, header::CONNECTION];
        if !framing.contains(name) {
            // What cannot be a field on HTTP/1 is left out.
            let _unfit = fields.push_trimmed(name.as_str(), value.as_bytes());
        }
    }
    fields
}
