//! One request, asked against many matches.

use std::{borrow::Cow, cell::OnceCell};

use percent_encoding::percent_decode_str;

use crate::{
    CompiledMatch, Request,
    compiled::{CompiledPath, CompiledValue, Conditions},
};

/// Parameters beyond this many are not looked at: what a request may cost is not for its sender to choose.
pub(crate) const MAX_PARAMETERS: usize = 128;

/// A request, and its query once a match asked for it.
pub(super) struct Ask<'r, R> {
    pub(super) request: &'r R,
    query: OnceCell<Vec<Parameter<'r>>>,
}

struct Parameter<'r> {
    name: Cow<'r, [u8]>,
    value: Cow<'r, [u8]>,
}

impl<'r, R: Request> Ask<'r, R> {
    pub(super) fn new(request: &'r R) -> Self {
        Self { request, query: OnceCell::new() }
    }

    /// Whether all but the path holds, and the path too where it is a regular expression: the index has found
    /// the others by their path.
    pub(super) fn holds(&self, each: &CompiledMatch) -> bool {
        each.conditions.as_deref().is_none_or(|conditions| self.meets(conditions))
            && match &each.path {
                CompiledPath::Regex(regex) => regex.is_match(self.request.path().as_bytes()),
                CompiledPath::Exact | CompiledPath::Prefix(_) => true,
            }
    }

    fn meets(&self, conditions: &Conditions) -> bool {
        conditions.method.as_deref().is_none_or(|method| method == self.request.method())
            && conditions.headers.iter().all(|header| self.header(header))
            && conditions.query.iter().all(|parameter| self.parameter(parameter))
    }

    fn header(&self, asked: &CompiledValue) -> bool {
        self.request.header(&asked.name).is_some_and(|value| asked.matcher.holds(&value))
    }

    /// The first parameter of that name counts.
    fn parameter(&self, asked: &CompiledValue) -> bool {
        let query = self.query.get_or_init(|| parameters(self.request.query().unwrap_or_default()));
        query
            .iter()
            .find(|parameter| *parameter.name == *asked.name.as_bytes())
            .is_some_and(|parameter| asked.matcher.holds(&parameter.value))
    }
}

fn parameters(query: &str) -> Vec<Parameter<'_>> {
    let decode = |text| Cow::from(percent_decode_str(text));
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .take(MAX_PARAMETERS)
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Parameter { name: decode(name), value: decode(value) }
        })
        .collect()
}
