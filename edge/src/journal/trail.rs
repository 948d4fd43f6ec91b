//! What is known of one request, in a fixed size.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::{Duration, SystemTime},
};

use model::TenantId;

use super::{BackendName, RequestId};
use crate::{
    accesslog::Policy,
    downstream::Client,
    h1::{RequestHead, Version},
    metrics::{Counters, Outcome, RouteKey, Series},
    trace::TraceId,
};

/// A request's way through the worker.
#[derive(Debug, Clone)]
pub(crate) struct Trail {
    pub(crate) asked: Asked,
    pub(crate) facts: Facts,
}

impl Trail {
    pub(super) fn new(facts: Facts) -> Self {
        Self { asked: Asked::default(), facts }
    }

    /// Whose request it is.
    pub(super) fn is_of(&mut self, client: &Client) {
        self.asked.client = client.peer.ip();
        self.asked.tls = client.tls_version;
    }

    /// What the client asks for.
    pub(super) fn asks(&mut self, head: &RequestHead) {
        self.asked.method.set(head.method_str());
        self.asked.host.set(head.host());
        self.asked.path.set(head.path());
        self.asked.protocol = head.version();
    }

    /// What the client asks for cannot be read.
    pub(super) fn asks_nothing(&mut self) {
        let Asked { client, tls, .. } = self.asked;
        self.asked = Asked { client, tls, ..Asked::default() };
    }

    pub(super) fn tenant(&self) -> Option<&TenantId> {
        self.facts.tenant()
    }
}

/// What a request asks for. Texts are cut, so that each request takes as much as any other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(super) method: Brief<15>,
    pub(super) host: Brief<63>,
    pub(super) path: Brief<106>,
    pub(crate) protocol: Version,
    pub(crate) client: IpAddr,
    pub(crate) tls: Option<&'static str>,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            method: Brief::default(),
            host: Brief::default(),
            path: Brief::default(),
            protocol: Version::Http11,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            tls: None,
        }
    }
}

/// What became of it. Times are since the end of its head.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) id: RequestId,
    /// The trace that it was sampled for.
    pub(crate) trace: Option<TraceId>,
    /// When its head had come.
    pub(crate) began: SystemTime,
    /// What answers it.
    pub(crate) place: Option<Place>,
    /// Whose it is, where nothing of the tenant's answers it.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) backend: Option<BackendName>,
    pub(crate) status: u16,
    pub(crate) outcome: Outcome,
    /// The label of a refusal, and the refusal in words.
    pub(crate) refusal: Option<&'static str>,
    pub(crate) detail: Option<Box<str>>,
    pub(crate) duration: Duration,
    /// How late the thread was when it last looked, and how long the request waited for its turn.
    pub(crate) queue_delay_us: u32,
    pub(crate) first_try: Option<Try>,
    /// If there were several.
    pub(crate) last_try: Option<Box<Try>>,
    pub(crate) retries: u32,
    /// The budget was used up.
    pub(crate) retry_denied: bool,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Facts {
    pub(crate) fn new(id: RequestId, began: SystemTime) -> Self {
        Self {
            id,
            trace: None,
            began,
            place: None,
            tenant: None,
            backend: None,
            status: 0,
            outcome: Outcome::Abandoned,
            refusal: None,
            detail: None,
            duration: Duration::ZERO,
            queue_delay_us: 0,
            first_try: None,
            last_try: None,
            retries: 0,
            retry_denied: false,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    pub(crate) fn tenant(&self) -> Option<&TenantId> {
        self.place.as_ref().map(|place| &place.entrance.tenant).or(self.tenant.as_ref())
    }

    /// Whether somebody may ask why.
    pub(crate) fn failed(&self) -> bool {
        self.status >= 500
            || self.refusal.is_some()
            || matches!(self.outcome, Outcome::Abandoned | Outcome::Truncated)
    }

    /// An endpoint is tried.
    pub(crate) fn tries(&mut self, endpoint: SocketAddr, began: Duration) -> TryPlace {
        let began = Try {
            endpoint,
            began_us: brief_micros(began),
            connected_us: None,
            reused: false,
            answered_us: None,
            status: 0,
            failure: None,
        };
        match &mut self.first_try {
            None => {
                self.first_try = Some(began);
                TryPlace::First
            }
            // Seldom.
            Some(_) => {
                self.last_try = Some(Box::new(began));
                TryPlace::Last
            }
        }
    }

    /// A try.
    pub(crate) fn try_at(&mut self, place: TryPlace) -> Option<&mut Try> {
        match place {
            TryPlace::First => self.first_try.as_mut(),
            TryPlace::Last => self.last_try.as_deref_mut(),
        }
    }

    /// The try that was made last; of two at once, the one that was not outrun.
    pub(crate) fn tried(&self) -> Option<&Try> {
        if self.last_try.as_ref().is_some_and(|last| last.failure == Some(OUTRUN)) {
            return self.first_try.as_ref();
        }
        self.last_try.as_deref().or(self.first_try.as_ref())
    }
}

/// Which of the tries that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TryPlace {
    /// The first.
    First,
    /// The last, if there were several.
    Last,
}

/// The failure of a try that another one was faster than.
pub(crate) const OUTRUN: &str = "outrun";

/// One try at an endpoint. Times are since the end of the request's head; what takes over an hour takes an hour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Try {
    pub(crate) endpoint: SocketAddr,
    pub(crate) began_us: u32,
    pub(crate) connected_us: Option<u32>,
    pub(crate) reused: bool,
    pub(crate) answered_us: Option<u32>,
    pub(crate) status: u16,
    pub(crate) failure: Option<&'static str>,
}

/// In half the room.
pub(crate) fn brief_micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// What answers a request.
///
/// Nothing in it is the rule's own memory: where there are many rules, that would be in no cache.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) entrance: Rc<Entrance>,
    /// Nothing of it is known before the request goes on its way.
    pub(crate) counted: Counted,
}

/// Where the requests of a rule are counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    /// The route's own series, whose label is the route, or that of all routes that came too late.
    pub(crate) series: Series,
    /// The route's own labels, where it has no series of its own.
    pub(crate) unlisted: Option<Rc<RouteKey>>,
    /// Of the route's rules, from 0.
    pub(crate) rule: u32,
}

/// Where requests come in: shared by all of one listener.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(crate) tenant: TenantId,
    pub(crate) listener: Box<str>,
    /// What the access log tells of them.
    pub(crate) log: Option<Policy>,
    /// The share of the traces that begin with them to be sampled; `None`: nobody collects any.
    pub(crate) sampled_ppm: Option<u32>,
}

impl Place {
    /// The route, by what its thread counts.
    pub(crate) fn route<'a>(&'a self, counters: &'a Counters) -> &'a str {
        let Counted { series, unlisted, .. } = &self.counted;
        let labels = unlisted.as_deref().or_else(|| counters.labels(*series));
        labels.map_or("", |labels| &labels.route)
    }

    /// The rule's field in the route's object.
    pub(crate) fn rule_text(&self) -> String {
        format!("spec.rules[{}]", self.counted.rule)
    }
}

/// The beginning of a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brief<const MOST: usize> {
    bytes: [u8; MOST],
    len: u8,
    cut: bool,
}

impl<const MOST: usize> Default for Brief<MOST> {
    fn default() -> Self {
        Self { bytes: [0; MOST], len: 0, cut: false }
    }
}

impl<const MOST: usize> Brief<MOST> {
    fn set(&mut self, text: &str) {
        let len = text.floor_char_boundary(MOST);
        self.bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len = u8::try_from(len).unwrap_or(u8::MAX);
        self.cut = len < text.len();
    }

    /// The text, with `…` at its end if that is not all of it.
    pub(super) fn tell(&self) -> String {
        let text = std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default();
        if self.cut { format!("{text}…") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters_and_says_so() {
        let mut brief = Brief::<4>::default();
        for (text, expect) in [("abcd", "abcd"), ("abcde", "abcd…"), ("abcé", "abc…"), ("", "")] {
            brief.set(text);
            assert_eq!(brief.tell(), expect);
        }
    }

    #[test]
    fn the_first_and_the_last_try_are_known() {
        let mut facts = Facts::new(RequestId::new(0, 1), SystemTime::UNIX_EPOCH);
        assert!(facts.tried().is_none());
        for port in 1..=3 {
            let place = facts.tries(SocketAddr::from(([127, 0, 0, 1], port)), Duration::ZERO);
            assert_eq!(facts.try_at(place).map(|t| t.endpoint.port()), Some(port));
            assert_eq!(facts.tried().map(|t| t.endpoint.port()), Some(port));
        }
        facts.try_at(TryPlace::Last).unwrap().failure = Some(OUTRUN);
        assert_eq!(facts.tried().map(|t| t.endpoint.port()), Some(1), "the one that was heard");
        assert_eq!(facts.first_try.map(|t| t.endpoint.port()), Some(1));
    }
}
