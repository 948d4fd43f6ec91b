//! What a rule is once compiled: what the edge needs to answer, without further lookups, and nothing else.
//!
//! There may be many of each, so they are small and lie in the table's arrays; what most of them lack is behind one
//! pointer. What people ask of a route (its object, the text of its matches) is read from the configuration, see
//! [`Found::written`](crate::Found::written).

use std::sync::Arc;

use regex::bytes::Regex;

use crate::{Backend, Filter, Rank, Redirect, Respond, SessionPersistence, Timeouts, span::Span};

/// A route object.
#[derive(Debug)]
pub(crate) struct CompiledRoute {
    /// Its id in the table's text.
    pub(crate) id: Span,
    /// Positions of its listeners, in the order of its parents.
    pub(crate) listeners: Span,
    /// Position of its first rule in the table.
    pub(crate) first_rule: u32,
}

/// What is done with the requests that one of the rule's matches holds for. One line of a cache.
#[derive(Debug)]
#[repr(align(64))]
pub struct CompiledRule {
    /// In the order in which they apply.
    pub filters: Box<[Filter]>,
    /// How the request is answered.
    pub action: CompiledAction,
    /// `None` where there is none of it.
    pub(crate) extras: Option<Box<Extras>>,
    /// Position of its route in the table.
    pub(crate) route: u32,
}

impl CompiledRule {
    /// Bounds on the answer.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        self.extras.as_deref().map(|extras| extras.timeouts).unwrap_or_default()
    }

    /// How clients stay with an endpoint.
    #[must_use]
    pub fn persistence(&self) -> Option<&SessionPersistence> {
        self.extras.as_deref()?.persistence.as_ref()
    }
}

/// What most rules lack.
#[derive(Debug)]
pub(crate) struct Extras {
    pub(crate) timeouts: Timeouts,
    pub(crate) persistence: Option<SessionPersistence>,
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
pub struct Forward(Variants);

#[derive(Debug)]
enum Variants {
    /// As most rules have it.
    One(Variant),
    Several {
        variants: Box<[Variant]>,
        /// The sum of their weights.
        total_weight: u32,
    },
}

impl Forward {
    /// To these, in the order of the object, each with a weight of at least 1.
    pub(crate) fn new(mut variants: Vec<Variant>) -> Self {
        if variants.len() == 1
            && let Some(only) = variants.pop()
        {
            return Self(Variants::One(only));
        }
        let total_weight = variants.iter().fold(0, |sum: u32, variant| sum.saturating_add(variant.weight));
        Self(Variants::Several { variants: variants.into(), total_weight })
    }

    /// In the order of the object, without those of weight 0.
    #[must_use]
    pub fn variants(&self) -> &[Variant] {
        match &self.0 {
            Variants::One(only) => std::slice::from_ref(only),
            Variants::Several { variants, .. } => variants,
        }
    }

    /// The sum of the variants' weights. Zero: there is nobody to forward to, the answer is 500 (Gateway API).
    #[must_use]
    pub fn total_weight(&self) -> u32 {
        match &self.0 {
            Variants::One(only) => only.weight,
            Variants::Several { total_weight, .. } => *total_weight,
        }
    }

    /// The variant that `point` falls on: draw it evenly from `0..total_weight()`. `None` when it is not below
    /// `total_weight()`, so always when that is 0.
    #[must_use]
    pub fn pick(&self, point: u32) -> Option<&Variant> {
        let mut below = 0;
        self.variants().iter().find(|variant| {
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
    /// Position of its rule in the table.
    pub(crate) rule: u32,
    /// The path.
    pub(crate) path: CompiledPath,
    /// What it asks of the rest of the request; `None` is nothing.
    pub(crate) conditions: Option<Box<Conditions>>,
}

impl CompiledMatch {
    /// How many bytes of the request's path a prefix match covers: what `ReplacePrefix` replaces (see
    /// [`replace_prefix`](crate::path::replace_prefix)). `None` for other matches.
    #[must_use]
    pub fn prefix_len(&self) -> Option<usize> {
        match self.path {
            CompiledPath::Prefix(len) => Some(len as usize),
            CompiledPath::Exact | CompiledPath::Regex(_) => None,
        }
    }
}

/// How a path is compared. The index has found the match by it, but for expressions.
#[derive(Debug)]
pub(crate) enum CompiledPath {
    /// The whole path.
    Exact,
    /// A prefix of so many bytes: of whole segments, without a slash at the end, or of text.
    Prefix(u32),
    /// A regular expression, anchored if it was to be.
    Regex(Arc<Regex>),
}

/// What a match asks of a request beside its path.
#[derive(Debug)]
pub(crate) struct Conditions {
    /// `None` is any method.
    pub(crate) method: Option<Box<str>>,
    /// Names in lowercase.
    pub(crate) headers: Box<[CompiledValue]>,
    /// Parameters of the query.
    pub(crate) query: Box<[CompiledValue]>,
}

/// A named value and what it must be.
#[derive(Debug)]
pub(crate) struct CompiledValue {
    /// The header's name in lowercase, or the parameter's name.
    pub(crate) name: Box<str>,
    /// What is asked of the value.
    pub(crate) matcher: CompiledMatcher,
}

/// What is asked of a value.
#[derive(Debug)]
pub(crate) enum CompiledMatcher {
    /// Equal to the letter.
    Exact(Box<str>),
    /// The whole value matches.
    Regex(Arc<Regex>),
}

impl CompiledMatcher {
    /// Whether `value` is as asked.
    pub(crate) fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(expected) => expected.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}
