//! What a lookup asks and what it answers.

use std::borrow::Cow;

use crate::{CompiledMatch, CompiledRoute, CompiledRule, Listener};

/// The parts of a request that routing looks at.
pub trait Request {
    /// The port as the Gateway says it (80, 443), not the socket's.
    fn port(&self) -> u16;
    /// Lowercase, without a port.
    fn host(&self) -> &str;
    /// In canonical form (see [`canonical`](crate::path::canonical)), without the query.
    fn path(&self) -> &str;
    /// After the `?`, as sent.
    fn query(&self) -> Option<&str>;
    /// To the letter.
    fn method(&self) -> &str;
    /// The value of all fields of that lowercase name, joined by `,`; `None` when there is none.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// What answers a request.
#[derive(Debug, Clone, Copy)]
pub struct Found<'t> {
    /// The route object.
    pub route: &'t CompiledRoute,
    /// Its rule.
    pub rule: &'t CompiledRule,
    /// The match of the rule that held.
    pub matched: &'t CompiledMatch,
    /// Where the request entered.
    pub listener: &'t Listener,
}

/// Why no rule answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotFound {
    /// No listener on that port.
    #[error("no listener on this port")]
    Listener,
    /// No listener or no route for that host.
    #[error("no route for this host")]
    Host,
    /// The host is served, but no match holds.
    #[error("no match holds for this request")]
    Route,
}
