//! A trail as it is told.

use std::time::UNIX_EPOCH;

use api::request as wire;

use super::{Place, Trail, trail::Try};
use crate::{metrics::Counters, worker::micros};

impl Trail {
    /// `counters` are those of the request's thread.
    pub(crate) fn tell(&self, counters: &Counters) -> wire::Request {
        let (asked, facts) = (&self.asked, &self.facts);
        let place = facts.place.as_ref();
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let began = facts.began.duration_since(UNIX_EPOCH).unwrap_or_default();
        wire::Request {
            id: facts.id.as_str().to_owned(),
            began_at_us: micros(began),
            tenant: text(facts.tenant().map(|tenant| tenant.as_str())),
            listener: text(place.map(|place| &*place.entrance.listener)),
            route: text(place.map(|place| place.route(counters))),
            rule: place.map(Place::rule_text).unwrap_or_default(),
            backend: text(facts.backend.as_deref()),
            method: asked.method.tell(),
            host: asked.host.tell(),
            path: asked.path.tell(),
            protocol: asked.protocol.as_str().to_owned(),
            client: asked.client.to_canonical().to_string(),
            tls: text(asked.tls),
            status: facts.status.into(),
            outcome: facts.outcome.as_str().to_owned(),
            refusal: text(facts.refusal),
            detail: text(facts.detail.as_deref()),
            duration_us: micros(facts.duration),
            queue_delay_us: facts.queue_delay_us.into(),
            tries: facts.first_try.iter().chain(facts.last_try.as_deref()).map(tell_try).collect(),
            retries: facts.retries,
            retry_denied: facts.retry_denied,
            bytes_in: facts.bytes_in,
            bytes_out: facts.bytes_out,
            trace_id: facts.trace.map(|trace| trace.to_string()).unwrap_or_default(),
        }
    }
}

fn tell_try(tried: &Try) -> wire::Try {
    wire::Try {
        endpoint: tried.endpoint.to_string(),
        began_us: tried.began_us.into(),
        connected_us: tried.connected_us.map(u64::from),
        reused: tried.reused,
        answered_us: tried.answered_us.map(u64::from),
        status: tried.status.into(),
        failure: tried.failure.unwrap_or_default().to_owned(),
    }
}
