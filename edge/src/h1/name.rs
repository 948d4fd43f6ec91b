//! The field names that the edge acts upon, found once when a head is parsed.

macro_rules! names {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)+) => {
        /// A field name that some stage of the edge looks for, or [`Name::Other`].
        ///
        /// The tag is found when the field is parsed or pushed; no later stage compares names again.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Name {
            $($(#[$doc])* #[doc = concat!("`", $text, "`")] $variant,)+
            /// Any other name.
            Other,
        }

        impl Name {
            /// Every known name.
            pub const KNOWN: &[Self] = &[$(Self::$variant,)+];

            /// The name in lowercase; empty for [`Name::Other`].
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other => "",
                }
            }
        }
    };
}

names! {
    Host = "host";
    ContentLength = "content-length";
    TransferEncoding = "transfer-encoding";
    Connection = "connection";
    KeepAlive = "keep-alive";
    ProxyConnection = "proxy-connection";
    ProxyAuthenticate = "proxy-authenticate";
    ProxyAuthorization = "proxy-authorization";
    ProxyAuthenticationInfo = "proxy-authentication-info";
    Te = "te";
    Trailer = "trailer";
    Upgrade = "upgrade";
    Http2Settings = "http2-settings";
    Expect = "expect";
    Forwarded = "forwarded";
    XForwardedFor = "x-forwarded-for";
    XForwardedProto = "x-forwarded-proto";
    XForwardedHost = "x-forwarded-host";
    XForwardedPort = "x-forwarded-port";
    XRealIp = "x-real-ip";
    XForwardedClientCert = "x-forwarded-client-cert";
    XRequestId = "x-request-id";
    Via = "via";
    Traceparent = "traceparent";
    Tracestate = "tracestate";
    Accept = "accept";
    AcceptEncoding = "accept-encoding";
    AltSvc = "alt-svc";
    Authorization = "authorization";
    CacheControl = "cache-control";
    ContentEncoding = "content-encoding";
    ContentRange = "content-range";
    ContentType = "content-type";
    Cookie = "cookie";
    Date = "date";
    Location = "location";
    Origin = "origin";
    Range = "range";
    RetryAfter = "retry-after";
    Server = "server";
    SetCookie = "set-cookie";
    UserAgent = "user-agent";
    WwwAuthenticate = "www-authenticate";
}

impl Name {
    /// The tag of a name, whatever its letter case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let lower = |at: usize| name.get(at).map_or(0, u8::to_ascii_lowercase);
        // Length and first letter leave one candidate, so that one comparison decides.
        let candidate = match (name.len(), lower(0)) {
            (2, b't') => Self::Te,
            (3, b'v') => Self::Via,
            (4, b'd') => Self::Date,
            (4, b'h') => Self::Host,
            (5, b'r') => Self::Range,
            (6, b'a') => Self::Accept,
            (6, b'c') => Self::Cookie,
            (6, b'e') => Self::Expect,
            (6, b'o') => Self::Origin,
            (6, b's') => Self::Server,
            (7, b'a') => Self::AltSvc,
            (7, b't') => Self::Trailer,
            (7, b'u') => Self::Upgrade,
            (8, b'l') => Self::Location,
            (9, b'f') => Self::Forwarded,
            (9, b'x') => Self::XRealIp,
            (10, b'c') => Self::Connection,
            (10, b'k') => Self::KeepAlive,
            (10, b's') => Self::SetCookie,
            (10, b't') => Self::Tracestate,
            (10, b'u') => Self::UserAgent,
            (11, b'r') => Self::RetryAfter,
            (11, b't') => Self::Traceparent,
            (12, b'c') => Self::ContentType,
            (12, b'x') => Self::XRequestId,
            (13, b'a') => Self::Authorization,
            (13, b'c') if lower(1) == b'a' => Self::CacheControl,
            (13, b'c') => Self::ContentRange,
            (14, b'c') => Self::ContentLength,
            (14, b'h') => Self::Http2Settings,
            (15, b'a') => Self::AcceptEncoding,
            (15, b'x') => Self::XForwardedFor,
            (16, b'c') => Self::ContentEncoding,
            (16, b'p') => Self::ProxyConnection,
            (16, b'w') => Self::WwwAuthenticate,
            (16, b'x') if lower(12) == b'h' => Self::XForwardedHost,
            (16, b'x') => Self::XForwardedPort,
            (17, b't') => Self::TransferEncoding,
            (17, b'x') => Self::XForwardedProto,
            (18, b'p') => Self::ProxyAuthenticate,
            (19, b'p') => Self::ProxyAuthorization,
            (23, b'x') => Self::XForwardedClientCert,
            (25, b'p') => Self::ProxyAuthenticationInfo,
            _ => return Self::Other,
        };
        if is_in_lowercase(name, candidate.as_str().as_bytes()) { candidate } else { Self::Other }
    }

    /// Whether a field of that name belongs to the connection and is never forwarded (RFC 9110 section 7.6.1).
    ///
    /// Of the other names only those without a tag go away when `Connection` names them: a client must not be
    /// able to have its `Authorization`, `Host` or `X-Forwarded-For` removed on the way.
    #[must_use]
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::TransferEncoding
                | Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::ProxyAuthenticate
                | Self::ProxyAuthorization
                | Self::ProxyAuthenticationInfo
                | Self::Te
                | Self::Upgrade
                | Self::Http2Settings
        )
    }
}

/// Whether `name` in lowercase is `expect`. Both are of one length.
fn is_in_lowercase(name: &[u8], expect: &[u8]) -> bool {
    let (words, rest) = name.as_chunks::<8>();
    let (expected_words, expected_rest) = expect.as_chunks::<8>();
    let same = |(word, expected): (&[u8; 8], &[u8; 8])| {
        lowercase(u64::from_le_bytes(*word)) == u64::from_le_bytes(*expected)
    };
    words.iter().zip(expected_words).all(same) && rest.eq_ignore_ascii_case(expected_rest)
}

/// Eight bytes of text in lowercase at once, those that are no letters unchanged.
const fn lowercase(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & (EACH * 0x7f);
    // The top bit of each sum says whether its byte is at least `A`, and above `Z`.
    let from_a = low + EACH * (0x80 - b'A' as u64);
    let above_z = low + EACH * (0x80 - b'Z' as u64 - 1);
    let is_upper = (from_a ^ above_z) & !word & (EACH * 0x80);
    word | (is_upper >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for &name in Name::KNOWN {
            assert_eq!(Name::of(name.as_str().as_bytes()), name);
            assert_eq!(Name::of(name.as_str().to_ascii_uppercase().as_bytes()), name);
        }
    }

    #[test]
    fn each_byte_is_in_lowercase_as_ascii_says() {
        for byte in 0..=u8::MAX {
            let word = u64::from_le_bytes([byte, b'A', byte, b'z', byte, b'-', 0xff, byte]);
            let expect = word.to_le_bytes().map(|byte| byte.to_ascii_lowercase());
            assert_eq!(lowercase(word).to_le_bytes(), expect, "{byte}");
        }
    }

    #[test]
    fn other_names_have_no_tag() {
        for name in ["", "x", "hosts", "content_length", "x-forwarded-foo"] {
            assert_eq!(Name::of(name.as_bytes()), Name::Other, "{name}");
        }
    }
}
