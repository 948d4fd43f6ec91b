//! What a rule is once compiled: everything that the edge needs to answer, without further lookups.

use std::sync::Arc;

use regex::bytes::Regex;

use crate::{Backend, Filter, Origin, Rank, Redirect, Respond, RouteId, Timeouts};

/// A route object.
#[derive(Debug)]
pub struct CompiledRoute {
    /// Unique in the tenant; the `route` label of metrics and logs.
    pub id: RouteId,
    /// The route object.
    pub origin: Origin,
    /// Positions of its listeners in the table, in the order of its parents.
    pub(crate) listeners: Box<[u32]>,
}

/// What is done with the requests that one of the rule's matches holds for.
#[derive(Debug)]
pub struct CompiledRule {
    /// The rule in its route object.
    pub origin: Origin,
    /// In the order in which they apply.
    pub filters: Box<[Filter]>,
    /// How the request is answered.
    pub action: CompiledAction,
    /// Bounds on the answer.
    pub timeouts: Timeouts,
    /// Position of its route in the table.
    pub(crate) route: u32,
}

/// How a request is answered.
#[derive(Debug)]
pub enum CompiledAction {
    /// Forwarded to one of these by weight.
    Forward(Forward),
    /// Answered with a redirect.
    Redirect(Box<Redirect>),
    /// Answered as it says.
    Respond(Box<Respond>),
}

/// The backends of a rule, by weight.
#[derive(Debug)]
pub struct Forward {
    /// In the order of the object, without those of weight 0.
    pub variants: Box<[Variant]>,
    /// The sum of the variants' weights. Zero: there is nobody to forward to, the answer is 500 (Gateway API).
    pub total_weight: u32,
}

impl Forward {
    /// The variant that `point` falls on: draw it evenly from `0..total_weight`. `None` when it is not below
    /// `total_weight`, so always when that is 0.
    #[must_use]
    pub fn pick(&self, point: u32) -> Option<&Variant> {
        let mut below = 0;
        self.variants.iter().find(|variant| {
            below += variant.weight;
            point < below
        })
    }
}

/// One backend of a rule.
#[derive(Debug)]
pub struct Variant {
    /// `None` where the reference does not resolve: its share is answered with 500 (Gateway API).
    pub backend: Option<Arc<Backend>>,
    /// At least 1.
    pub weight: u32,
    /// Only for requests that go to this backend.
    pub filters: Box<[Filter]>,
}

/// A match: holds when every part of it holds.
#[derive(Debug)]
pub struct CompiledMatch {
    /// Its place in the tenant's order.
    pub rank: Rank,
    /// The path.
    pub path: CompiledPath,
    /// `None` is any method.
    pub method: Option<Box<str>>,
    /// Names in lowercase.
    pub headers: Box<[CompiledValue]>,
    /// Parameters of the query.
    pub query: Box<[CompiledValue]>,
    /// Position of its rule in the table.
    pub(crate) rule: u32,
}

/// How a path is compared.
#[derive(Debug)]
pub enum CompiledPath {
    /// The whole path.
    Exact(Arc<str>),
    /// Whole segments, without a slash at the end: `/` is the empty string here.
    PrefixSegment(Arc<str>),
    /// A plain string prefix.
    PrefixString(Arc<str>),
    /// A regular expression, anchored if it was to be.
    Regex(Regex),
}

impl CompiledPath {
    /// How many bytes of the request's path a prefix match covers: what `ReplacePrefix` replaces (see
    /// [`replace_prefix`](crate::path::replace_prefix)). `None` for other matches.
    #[must_use]
    pub fn prefix_len(&self) -> Option<usize> {
        match self {
            Self::PrefixSegment(prefix) | Self::PrefixString(prefix) => Some(prefix.len()),
            Self::Exact(_) | Self::Regex(_) => None,
        }
    }
}

/// A named value and what it must be.
#[derive(Debug)]
pub struct CompiledValue {
    /// The header's name in lowercase, or the parameter's name.
    pub name: Box<str>,
    /// What is asked of the value.
    pub matcher: CompiledMatcher,
}

/// What is asked of a value.
#[derive(Debug)]
pub enum CompiledMatcher {
    /// Equal to the letter.
    Exact(Box<str>),
    /// The whole value matches.
    Regex(Regex),
}

impl CompiledMatcher {
    /// Whether `value` is as asked.
    #[must_use]
    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(expected) => expected.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}
