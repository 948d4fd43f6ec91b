//! What the access log tells of a listener's requests beside its ordinary fields, and of which requests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Fields that are told beside the ordinary ones, and the requests that are told of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AccessLog {
    /// Told of each request, in this order; what a request does not have is left out.
    pub fields: Vec<LogField>,
    /// `None`: all requests.
    pub filter: Option<LogFilter>,
}

/// A field of the access log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogField {
    /// Lowercase letters, digits and `_`; none of the ordinary fields' names.
    pub name: String,
    /// What it tells.
    pub value: LogValue,
}

/// What a field tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogValue {
    /// Always the same.
    Constant(String),
    /// A field of the request as the client sent it; the name in lowercase.
    RequestHeader(String),
    /// A field of the response as the client gets it; the name in lowercase.
    ResponseHeader(String),
    /// Something that is known of the request.
    Fact(LogFact),
}

/// What is known of a request and is no ordinary field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFact {
    /// The listener that it entered by.
    Listener,
    /// The rule of its route that answered, `spec.rules[0]`.
    Rule,
    /// The backend that it was forwarded to.
    Backend,
    /// The refusal in words.
    Detail,
    /// The status of the endpoint's own answer.
    UpstreamStatus,
    /// Microseconds to connect to the endpoint that was tried last; 0 by a connection that was open.
    ConnectTime,
    /// How late the thread was with its work, microseconds.
    QueueDelay,
    /// `SUCCESS` where the client's certificate was verified, `FAILED` where it was not and the client was let in nevertheless.
    ClientVerify,
    /// The subject of the client's certificate, as RFC 2253 writes it.
    ClientSubject,
    /// Its issuer, likewise.
    ClientIssuer,
    /// Its serial number, hexadecimal.
    ClientSerial,
    /// Its SHA-256, hexadecimal.
    ClientFingerprint,
    /// Its names that are URIs, joined by commas.
    ClientUris,
    /// Its names of hosts, likewise.
    ClientDnsNames,
}

impl LogFact {
    /// All of them, by the names that users write.
    pub const ALL: [(&str, Self); 14] = [
        ("listener", Self::Listener),
        ("rule", Self::Rule),
        ("backend", Self::Backend),
        ("detail", Self::Detail),
        ("upstreamStatus", Self::UpstreamStatus),
        ("connectTime", Self::ConnectTime),
        ("queueDelay", Self::QueueDelay),
        ("clientVerify", Self::ClientVerify),
        ("clientSubject", Self::ClientSubject),
        ("clientIssuer", Self::ClientIssuer),
        ("clientSerial", Self::ClientSerial),
        ("clientFingerprint", Self::ClientFingerprint),
        ("clientUris", Self::ClientUris),
        ("clientDnsNames", Self::ClientDnsNames),
    ];

    /// The name that users write.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, fact)| *fact == self).map_or("", |(name, _)| name)
    }

    /// The fact of that name, if there is one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, fact)| fact)
    }
}

/// Which requests are told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFilter {
    /// Those that all of these hold for.
    All(Vec<Self>),
    /// Those that any of these holds for.
    Any(Vec<Self>),
    /// Those that this does not hold for.
    Not(Box<Self>),
    /// Those that were answered with a status of these hundreds, 1 to 5.
    StatusClasses(Vec<u8>),
    /// Those that took at least so long.
    MinDuration(Duration),
    /// So many of a million, drawn at random.
    SampledPpm(u32),
    /// Those that failed: refused here, broken off, abandoned, or answered with 500 or more.
    Failed,
    /// Those with such a field in the request; the name in lowercase.
    RequestHeader {
        /// The field's name.
        name: String,
        /// Its value; `None`: any.
        value: Option<String>,
    },
}

impl LogFilter {
    /// Filters within each other, at most: deeper ones are nobody's intention.
    pub const MAX_DEPTH: usize = 8;
    /// Filters in one, itself among them, at most: each is asked for each request.
    pub const MAX_PARTS: usize = 32;

    /// How many filters there are in it, itself among them.
    #[must_use]
    pub fn parts(&self) -> usize {
        match self {
            Self::All(parts) | Self::Any(parts) => 1 + parts.iter().map(Self::parts).sum::<usize>(),
            Self::Not(part) => 1 + part.parts(),
            _ => 1,
        }
    }
}
