//! Request targets (RFC 9112 section 3.2).

use super::{
    fields::{Fields, Span, is_token},
    head::{HostSpan, Method, RequestHead, Scheme, Version, note},
    host::{Authority, HostError},
    name::Name,
    request::RequestError,
};

/// What is wrong with a request target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither a path, an `http` or `https` URI, nor one of the two special forms.
    #[error("neither a path nor an http URI")]
    Form,
    /// A byte that no URI has: a control character, a space, one above 0x7e, or a `\` in the path.
    #[error("a byte that no URI has")]
    Character,
    /// A fragment.
    #[error("a fragment")]
    Fragment,
    /// `*` in a request that is not OPTIONS.
    #[error("* is for OPTIONS only")]
    Asterisk,
    /// The authority of an absolute URI, or of CONNECT.
    #[error("authority: {0}")]
    Authority(HostError),
}

/// A target in parts; the spans are of the head's names, which begin with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) scheme: Option<Scheme>,
    /// Empty where the target has no path.
    pub(super) path: Span,
    /// The path of a target that has none.
    pub(super) default_path: &'static str,
    pub(super) query: Option<Span>,
    pub(super) authority: Option<Span>,
}

impl Target {
    /// Reads `target`.
    pub(super) fn parse(method: Method, target: &[u8]) -> Result<Self, TargetError> {
        if !target.is_ascii() {
            return Err(TargetError::Character);
        }
        let mut parsed =
            Self { scheme: None, path: Span::default(), default_path: "/", query: None, authority: None };
        match (target, method) {
            (_, Method::Connect) => {
                if target.contains(&b'/') {
                    return Err(TargetError::Form);
                }
                parsed.authority = Some(Span::new(0, target.len()));
                parsed.default_path = "";
            }
            ([b'/', ..], _) => parsed.path_and_query(target, 0)?,
            (b"*", Method::Options) => parsed.path = Span::new(0, 1),
            (b"*", _) => return Err(TargetError::Asterisk),
            _ => {
                let (scheme, rest) = absolute(target).ok_or(TargetError::Form)?;
                let rest_start = target.len() - rest.len();
                let end =
                    rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
                parsed.scheme = Some(scheme);
                parsed.authority = Some(Span::new(rest_start, end));
                if method == Method::Options && end == rest.len() {
                    // RFC 9112 section 3.2.4: the server as a whole is meant.
                    parsed.default_path = "*";
                }
                parsed.path_and_query(&rest[end..], rest_start + end)?;
            }
        }
        Ok(parsed)
    }

    fn path_and_query(&mut self, text: &[u8], start: usize) -> Result<(), TargetError> {
        let path_len = memchr::memchr(b'?', text).unwrap_or(text.len());
        let (path, query) = text.split_at(path_len);
        match memchr::memchr2(b'#', b'\\', path) {
            Some(at) if path[at] == b'#' => return Err(TargetError::Fragment),
            // Some servers take it for a `/`: two readings of one path.
            Some(_) => return Err(TargetError::Character),
            None => {}
        }
        self.path = Span::new(start, path_len);
        if let [b'?', query @ ..] = query {
            if memchr::memchr(b'#', query).is_some() {
                return Err(TargetError::Fragment);
            }
            self.query = Some(Span::new(start + path_len + 1, query.len()));
        }
        Ok(())
    }
}

fn absolute(target: &[u8]) -> Option<(Scheme, &[u8])> {
    let colon = memchr::memchr(b':', &target[..target.len().min(6)])?;
    let (scheme, rest) = target.split_at(colon);
    let scheme = match scheme {
        scheme if scheme.eq_ignore_ascii_case(b"http") => Scheme::Http,
        scheme if scheme.eq_ignore_ascii_case(b"https") => Scheme::Https,
        _ => return None,
    };
    Some((scheme, rest.strip_prefix(b"://")?))
}

/// Finds whose host the request is for and notes it in the head: `host` is the value of `Host`, in the text of the fields.
///
/// # Errors
///
/// The `Host` or the target's authority is malformed, they differ, or HTTP/1.1 comes without `Host`.
pub(super) fn resolve_host(head: &mut RequestHead, host: Option<Span>) -> Result<(), RequestError> {
    let written = host.unwrap_or_default().of(head.fields.text());
    let from_field = match host {
        Some(_) => Some(Authority::parse(written).map_err(RequestError::Host)?),
        None if head.version == Version::Http10 => None,
        None => return Err(RequestError::HostMissing),
    };
    let from_target = match head.target.authority {
        Some(authority) => {
            let authority = authority.of_str(&head.names).as_bytes();
            let authority = Authority::parse(authority).map_err(TargetError::Authority)?;
            if head.method == Method::Connect && authority.port.is_none() {
                return Err(TargetError::Authority(HostError::Port).into());
            }
            Some(authority)
        }
        None => None,
    };
    let default_port = head.target.scheme.map_or(0, Scheme::default_port);
    if let (Some(field), Some(target)) = (&from_field, &from_target)
        && !field.is_same(target, default_port)
    {
        return Err(RequestError::HostMismatch);
    }
    let Some(Authority { host, port }) = from_target.or(from_field) else { return Ok(()) };
    let host_len = host.len();
    let text = head.target.authority.map_or(written, |authority| authority.of_str(&head.names).as_bytes());
    // Most clients write it so.
    let is_canonical =
        !host.iter().any(u8::is_ascii_uppercase) && matches!(text[host_len..], [] | [b':', b'1'..=b'9', ..]);
    let authority = match head.target.authority {
        Some(authority) if is_canonical => authority,
        None if is_canonical => note(&mut head.names, ascii(written)?),
        _ => {
            let canonical = canonical(ascii(host)?, port);
            note(&mut head.names, &canonical)
        }
    };
    // An authority begins with its host.
    let name = Span::new(authority.start(), host_len);
    head.host = HostSpan { name, authority, port };
    Ok(())
}

fn canonical(host: &str, port: Option<u16>) -> String {
    let mut text = host.to_ascii_lowercase();
    if let Some(port) = port {
        text.push(':');
        text.push_str(itoa::Buffer::new().format(port));
    }
    text
}

/// A part of a checked authority as text, which it is.
fn ascii(part: &[u8]) -> Result<&str, RequestError> {
    std::str::from_utf8(part).map_err(|_| RequestError::Host(HostError::Character))
}

/// See [`RequestHead::from_parts`].
pub(super) fn request_head(
    method: &str,
    authority: &str,
    target: &str,
    version: Version,
) -> Result<RequestHead, RequestError> {
    if !is_token(method.as_bytes()) {
        return Err(RequestError::Method);
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TargetError::Character.into());
    }
    let mut fields = Fields::new();
    fields
        .push_known(Name::Host, authority.as_bytes())
        .map_err(|_| RequestError::Host(HostError::Character))?;
    let host = Span::new(fields.text().len() - authority.len(), authority.len());
    let mut head = RequestHead::begin(method, target, version, fields)?;
    resolve_host(&mut head, Some(host))?;
    Ok(head)
}
