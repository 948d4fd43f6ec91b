//! The heads of requests and responses, whatever protocol they came by.

use std::fmt;

use super::{
    fields::{Fields, InvalidField, Span},
    name::Name,
    target::{self, Target},
};

/// The version that a message came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1, and any later HTTP/1.x (RFC 9110 section 2.5)
    Http11,
    /// HTTP/2
    Http2,
    /// HTTP/3
    Http3,
}

impl Version {
    /// The version as logs and `Via` name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Http3 => "HTTP/3",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! methods {
    ($($(#[$attribute:meta])* $variant:ident = $text:literal;)+) => {
        /// A request method. Case counts (RFC 9110 section 9.1): `get` is [`Method::Other`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub enum Method {
            $($(#[$attribute])* #[doc = concat!("`", $text, "`")] $variant,)+
            /// Any other token; [`RequestHead::method_str`] has it.
            Other,
        }

        impl Method {
            /// The method of that name.
            #[must_use]
            pub fn of(name: &[u8]) -> Self {
                match name {
                    $(_ if name == $text.as_bytes() => Self::$variant,)+
                    _ => Self::Other,
                }
            }

            /// Its name; `None` for [`Method::Other`].
            #[must_use]
            pub const fn as_str(self) -> Option<&'static str> {
                match self {
                    $(Self::$variant => Some($text),)+
                    Self::Other => None,
                }
            }
        }
    };
}

// The most frequent first: they are compared in this order.
methods! {
    #[default]
    Get = "GET";
    Post = "POST";
    Head = "HEAD";
    Put = "PUT";
    Delete = "DELETE";
    Connect = "CONNECT";
    Options = "OPTIONS";
    Trace = "TRACE";
    Patch = "PATCH";
}

impl Method {
    /// Whether doing it twice is as good as once (RFC 9110 section 9.2.2).
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace)
    }
}

/// Whose host a request is for: the authority, checked and in canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HostSpan {
    /// Lowercase, no port, no trailing dot. Empty where an HTTP/1.0 request names no host.
    pub(super) name: Span,
    /// The same with its port, without leading zeros.
    pub(super) authority: Span,
    pub(super) port: Option<u16>,
}

/// The head of a request.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub(super) method: Method,
    /// What routing reads again and again, once it was found to be ASCII: the target, the authority in canonical form, and a method
    /// without a tag.
    pub(super) names: String,
    /// Of the names, as all spans that follow; empty where the tag says it.
    pub(super) method_text: Span,
    pub(super) target: Target,
    pub(super) host: HostSpan,
    pub(super) version: Version,
    /// The fields, `Host` among them.
    pub fields: Fields,
}

impl RequestHead {
    /// A head made from parts, checked as one from the wire is. For HTTP/2 and HTTP/3, whose authority becomes
    /// the host, and for tests; add fields with [`Fields::push`].
    ///
    /// `target` is the path and query (`/a?b`), or `*` for OPTIONS.
    ///
    /// # Errors
    ///
    /// [`RequestError`](super::RequestError) as the parser gives it for the same method, target and `Host`.
    pub fn from_parts(
        method: &str,
        authority: &str,
        target: &str,
        version: Version,
    ) -> Result<Self, super::RequestError> {
        target::request_head(method, authority, target, version)
    }

    /// A head whose host is still to be found. Method and target are ASCII.
    pub(super) fn begin(
        method_text: &str,
        target: &str,
        version: Version,
        fields: Fields,
    ) -> Result<Self, super::TargetError> {
        let method = Method::of(method_text.as_bytes());
        let parsed = Target::parse(method, target.as_bytes())?;
        let mut names = String::with_capacity(target.len() + SPARE_NAMES);
        names.push_str(target);
        let method_text = match method {
            Method::Other => note(&mut names, method_text),
            _ => Span::default(),
        };
        Ok(Self { method, names, method_text, target: parsed, host: HostSpan::default(), version, fields })
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The method as the client wrote it.
    #[must_use]
    pub fn method_str(&self) -> &str {
        match self.method.as_str() {
            Some(known) => known,
            None => self.str(self.method_text),
        }
    }

    /// The version that the request came by.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The host that the request is for: lowercase, without port and trailing dot, an IPv6 address in its
    /// brackets. Empty only for HTTP/1.0 without `Host`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.str(self.host.name)
    }

    /// The port that the authority names.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.host.port
    }

    /// Host and port as the client named them, in canonical form: what `Host` says upstream unless a route changes it.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.str(self.host.authority)
    }

    /// Says in a field which authority the client named.
    ///
    /// # Errors
    ///
    /// As [`Fields::push_known`].
    pub(crate) fn tell_authority(&mut self, name: Name) -> Result<(), InvalidField> {
        self.fields.push_known(name, self.host.authority.of_str(&self.names).as_bytes())
    }

    /// The path as the client wrote it, never empty: `*` for `OPTIONS *`, `/` where the target has none.
    /// Not in canonical form.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.target.path {
            path if !path.is_empty() => self.str(path),
            _ => self.target.default_path,
        }
    }

    /// The query, without its `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.query.map(|query| self.str(query))
    }

    /// The scheme of an absolute-form target.
    #[must_use]
    pub const fn scheme(&self) -> Option<Scheme> {
        self.target.scheme
    }

    fn str(&self, span: Span) -> &str {
        span.of_str(&self.names)
    }
}

/// Appends to a head's names.
pub(super) fn note(names: &mut String, name: &str) -> Span {
    let span = Span::new(names.len(), name.len());
    names.push_str(name);
    span
}

/// Room for most authorities, beside the target.
const SPARE_NAMES: usize = 64;

/// A scheme that a gateway serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// The scheme as URIs write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of an authority that names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub(super) status: u16,
    pub(super) reason: Span,
    pub(super) version: Version,
    /// The fields.
    pub fields: Fields,
}

impl ResponseHead {
    /// A head without fields and with the standard reason phrase. `status` outside 100 to 599 becomes 500.
    #[must_use]
    pub fn new(status: u16) -> Self {
        let status = if (100..600).contains(&status) { status } else { 500 };
        Self { status, reason: Span::default(), version: Version::Http11, fields: Fields::new() }
    }

    /// The status code, 100 to 599.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Answers with another status, 100 to 599 or else 500, and its standard reason phrase.
    pub fn set_status(&mut self, status: u16) {
        self.status = if (100..600).contains(&status) { status } else { 500 };
        self.reason = Span::default();
    }

    /// The reason phrase of the upstream, or the standard one where it sent none.
    #[must_use]
    pub fn reason(&self) -> &[u8] {
        if self.reason.is_empty() {
            standard_reason(self.status).as_bytes()
        } else {
            self.reason.of(self.fields.text())
        }
    }

    /// The version that the response came by.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Appends a field and gives the head back, for local replies.
    ///
    /// # Errors
    ///
    /// As [`Fields::push`].
    pub fn with(mut self, name: &str, value: &[u8]) -> Result<Self, InvalidField> {
        self.fields.push(name, value)?;
        Ok(self)
    }
}

/// The reason phrase that RFC 9110 gives a status; empty where it gives none.
#[must_use]
pub const fn standard_reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
