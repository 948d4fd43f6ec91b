//! `weir.dev/v1` DirectResponse.

use model::{CompileLimits, Respond};

use crate::read::Node;

/// A fixed reply, named by an `ExtensionRef` filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponseSpec {
    /// What is sent.
    pub respond: Respond,
}

impl DirectResponseSpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let most = CompileLimits::default().respond_body_bytes;
        let status = fields.required("status").and_then(|node| node.number(200..=599));
        let body = match fields.optional("body") {
            Some(node) => node.text_of(0..=most).map(str::to_owned),
            None => Some(String::new()),
        };
        fields.finish();
        Some(Self { respond: Respond { status: status?, body: body? } })
    }
}
