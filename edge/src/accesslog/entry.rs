//! What is logged of one request or stream.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, SystemTime},
};

use super::{json::Object, policy::Custom, stamp::Stamp};
use crate::{h1::Version, journal::Gathered, metrics::Counters, tls::clients::Credentials, trace::TraceId};

/// One request or stream. What is `None` is not in the line.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// What carries it, of a stream or a session of UDP: `TLS`, `TCP` or `UDP`. It has no method, path, version or status.
    pub stream: Option<&'static str>,
    /// When its head had come, or it was accepted.
    pub time: SystemTime,
    /// Whose host it asked for.
    pub tenant: Option<&'a str>,
    /// The route that answered.
    pub route: Option<&'a str>,
    /// The method as the client wrote it.
    pub method: &'a str,
    /// The host, without port.
    pub host: &'a str,
    /// The path as the client wrote it, without the query, which may hold credentials.
    pub path: &'a str,
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
    pub request_id: Option<&'a str>,
    /// The trace that it was sampled for.
    pub trace_id: Option<TraceId>,
    /// What its listener's policy adds.
    pub(crate) custom: Option<Custom<'a>>,
}

/// The longest texts, in bytes. A path may be longer, but tells nothing more; hosts and routes fit.
const METHOD: usize = 32;
const HOST: usize = 255;
const PATH: usize = 1024;
const ROUTE: usize = 512;
const REQUEST_ID: usize = 128;
/// Longer than any label, version, tenant, worker or address.
const SHORT: usize = 64;

impl Entry<'_> {
    /// A request of which nothing is known: its head could not be read.
    #[must_use]
    pub const fn unread(time: SystemTime) -> Self {
        Self {
            stream: None,
            time,
            tenant: None,
            route: None,
            method: "",
            host: "",
            path: "",
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
            trace_id: None,
            custom: None,
        }
    }

    /// A stream of which nothing is known.
    #[must_use]
    pub const fn of_stream(protocol: &'static str, time: SystemTime) -> Self {
        Self { stream: Some(protocol), ..Self::unread(time) }
    }
}

impl<'a> Entry<'a> {
    /// What is known of a request that is over; `counters` are those of its thread.
    pub(crate) fn of(gathered: &'a Gathered, counters: &'a Counters) -> Self {
        let Gathered { trail, line } = gathered;
        let (asked, facts) = (&trail.asked, &trail.facts);
        let place = facts.place.as_ref();
        let tried = facts.tried();
        let waited = tried.and_then(|tried| Some(tried.answered_us?.saturating_sub(tried.began_us)));
        Self {
            tenant: facts.tenant().map(|tenant| tenant.as_str()),
            route: place.map(|place| place.route(counters)),
            method: &line.method,
            host: &line.host,
            path: &line.path,
            protocol: asked.protocol,
            status: facts.status,
            outcome: facts.outcome.as_str(),
            refusal: facts.refusal,
            bytes_in: facts.bytes_in,
            bytes_out: facts.bytes_out,
            duration: facts.duration,
            upstream: tried.map(|tried| tried.endpoint),
            upstream_time: waited.map(|us| Duration::from_micros(us.into())),
            retries: facts.retries,
            client: Some(asked.client),
            tls: asked.tls,
            request_id: Some(facts.id.as_str()),
            trace_id: facts.trace,
            custom: place.and_then(|place| place.entrance.log.as_ref()).map(|policy| Custom {
                policy,
                line,
                facts,
            }),
            ..Self::unread(facts.began)
        }
    }

    /// Appends the line.
    pub(super) fn write(&self, out: &mut Vec<u8>, stamp: &mut Stamp, worker: &str) {
        let mut line = Object::open(out);
        line.text("time", stamp.rfc3339(self.time), SHORT);
        line.some_text("tenant", self.tenant, SHORT);
        line.some_text("route", self.route, ROUTE);
        if let Some(protocol) = self.stream {
            line.some_text("host", Some(self.host).filter(|host| !host.is_empty()), HOST);
            line.text("protocol", protocol, SHORT);
        } else {
            line.text("method", self.method, METHOD);
            line.text("host", self.host, HOST);
            line.text("path", self.path, PATH);
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
        line.some_text("request_id", self.request_id, REQUEST_ID);
        if let Some(trace) = self.trace_id {
            line.display("trace_id", &trace);
        }
        if let Some(custom) = &self.custom {
            custom.write(&mut line);
        }
        line.text("worker", worker, SHORT);
        line.close();
    }
}

/// Texts of a request that only the access log wants whole. Used again for the next request, so that they are not
/// allocated for each.
#[derive(Debug, Default)]
pub(crate) struct Line {
    method: String,
    host: String,
    path: String,
    pub(super) values: super::policy::Values,
    /// What the client has shown of itself; until the line is written.
    pub(crate) credentials: Option<Rc<Credentials>>,
}

impl Line {
    /// What the client asks for cannot be read.
    pub(crate) fn asks_nothing(&mut self) {
        let Self { method, host, path, values, credentials } = self;
        values.clear();
        *credentials = None;
        for text in [method, host, path] {
            text.clear();
        }
    }

    /// What the client asks for.
    pub(crate) fn asks(&mut self, head: &crate::h1::RequestHead) {
        let Self { method, host, path, values, .. } = self;
        values.clear();
        for (text, most, said) in
            [(method, METHOD, head.method_str()), (host, HOST, head.host()), (path, PATH, head.path())]
        {
            text.clear();
            // A little more than is logged, so that the line shows that it was cut.
            text.push_str(&said[..said.floor_char_boundary(most + 4)]);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::RequestHead;

    #[test]
    fn what_a_client_asks_for_is_noted_without_the_query_and_over_the_request_before() {
        let mut line = Line::default();
        for path in [format!("/{}", "a".repeat(5000)), "/a?token=secret".to_owned()] {
            let head = RequestHead::from_parts("GET", "Shop.example:80", &path, Version::Http11).unwrap();
            line.asks(&head);
        }
        assert_eq!(
            (line.method.as_str(), line.host.as_str(), line.path.as_str()),
            ("GET", "shop.example", "/a")
        );
        assert!(line.path.capacity() < 2 * PATH, "a long path is not kept whole");
    }
}
