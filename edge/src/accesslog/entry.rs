//! What is logged of one request.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use model::TenantId;

use super::{json::Object, stamp::Stamp};
use crate::{
    h1::{RequestHead, Version},
    journal::Facts,
};

/// One request or stream, filled while it is served. What stays `None` is not in the line.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What carries it, of a stream: `TLS` or `TCP`. It has no method, path, version or status.
    pub stream: Option<&'static str>,
    /// When its head had come, or it was accepted.
    pub time: SystemTime,
    /// Whose host it asked for.
    pub tenant: Option<TenantId>,
    /// The route that answered.
    pub route: Option<String>,
    /// The method as the client wrote it.
    pub method: String,
    /// The host, without port.
    pub host: String,
    /// The path as the client wrote it, without the query, which may hold credentials.
    pub path: String,
    /// The version that it came by.
    pub protocol: Version,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
    /// How it ended; the metric label.
    pub outcome: &'static str,
    /// Why it was refused; the metric label.
    pub refusal: Option<&'static str>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// From the end of its head to the end of the response.
    pub duration: Duration,
    /// The endpoint that was tried last.
    pub upstream: Option<SocketAddr>,
    /// From the last try's begin to the head of the endpoint's response.
    pub upstream_time: Option<Duration>,
    /// Tries after the first.
    pub retries: u32,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The TLS version of the client's connection.
    pub tls: Option<&'static str>,
    /// The request's id, as the upstream and the client see it.
    pub request_id: Option<String>,
}

/// The longest texts, in bytes. A path may be longer, but tells nothing more; hosts and routes fit.
const METHOD: usize = 32;
const HOST: usize = 255;
const PATH: usize = 1024;
const ROUTE: usize = 512;
const REQUEST_ID: usize = 128;
/// Longer than any label, version, tenant, worker or address.
const SHORT: usize = 64;

impl Entry {
    /// A request of which nothing is known: its head could not be read.
    #[must_use]
    pub const fn unread(time: SystemTime) -> Self {
        Self {
            stream: None,
            time,
            tenant: None,
            route: None,
            method: String::new(),
            host: String::new(),
            path: String::new(),
            protocol: Version::Http11,
            status: 0,
            outcome: "abandoned",
            refusal: None,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream: None,
            upstream_time: None,
            retries: 0,
            client: None,
            tls: None,
            request_id: None,
        }
    }

    /// A stream of which nothing is known.
    #[must_use]
    pub fn of_stream(protocol: &'static str, time: SystemTime) -> Self {
        Self { stream: Some(protocol), ..Self::unread(time) }
    }

    /// What a head says of its request.
    #[must_use]
    pub fn of(head: &RequestHead, time: SystemTime) -> Self {
        Self {
            method: capped(head.method_str(), METHOD),
            host: capped(head.host(), HOST),
            path: capped(head.path(), PATH),
            protocol: head.version(),
            ..Self::unread(time)
        }
    }

    /// What became of the request.
    pub(crate) fn note(&mut self, facts: &Facts) {
        self.tenant = facts.tenant().cloned();
        self.route = facts.place.as_ref().map(|place| place.route.to_string());
        self.status = facts.status;
        self.outcome = facts.outcome.as_str();
        self.refusal = facts.refusal;
        self.bytes_in = facts.bytes_in;
        self.bytes_out = facts.bytes_out;
        self.duration = facts.duration;
        self.retries = facts.retries;
        self.request_id = Some(facts.id.as_str().to_owned());
        let tried = facts.tried();
        self.upstream = tried.map(|tried| tried.endpoint);
        self.upstream_time = tried
            .and_then(|tried| Some(tried.answered_us?.saturating_sub(tried.began_us)))
            .map(|us| Duration::from_micros(us.into()));
    }

    /// Appends the line.
    pub(super) fn write(&self, out: &mut Vec<u8>, stamp: &mut Stamp, worker: &str) {
        let mut line = Object::open(out);
        line.text("time", stamp.rfc3339(self.time), SHORT);
        line.some_text("tenant", self.tenant.as_ref().map(TenantId::as_str), SHORT);
        line.some_text("route", self.route.as_deref(), ROUTE);
        if let Some(protocol) = self.stream {
            line.some_text("host", Some(self.host.as_str()).filter(|host| !host.is_empty()), HOST);
            line.text("protocol", protocol, SHORT);
        } else {
            line.text("method", &self.method, METHOD);
            line.text("host", &self.host, HOST);
            line.text("path", &self.path, PATH);
            line.text("protocol", self.protocol.as_str(), SHORT);
            line.number("status", self.status.into());
        }
        line.text("outcome", self.outcome, SHORT);
        line.some_text("refusal", self.refusal, SHORT);
        line.number("bytes_in", self.bytes_in);
        line.number("bytes_out", self.bytes_out);
        line.number("duration_us", micros(self.duration));
        if let Some(upstream) = self.upstream {
            line.display("upstream", &upstream);
        }
        if let Some(time) = self.upstream_time {
            line.number("upstream_us", micros(time));
        }
        line.number("retries", self.retries.into());
        if let Some(client) = self.client {
            line.display("client", &client);
        }
        line.some_text("tls", self.tls, SHORT);
        line.some_text("request_id", self.request_id.as_deref(), REQUEST_ID);
        line.text("worker", worker, SHORT);
        line.close();
    }
}

/// A little more than is logged, so that the line shows that it was cut.
fn capped(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most + 4)].to_owned()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
