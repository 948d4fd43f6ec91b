//! `gateway.networking.k8s.io` ReferenceGrant.

use crate::{name, read::Node};

/// Who may refer to which objects of the grant's own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceGrantSpec {
    /// Any of these may.
    pub from: Vec<GrantFrom>,
    /// To any of these.
    pub to: Vec<GrantTo>,
}

/// Objects that may refer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFrom {
    /// Their API group.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// Objects that may be referred to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantTo {
    /// Their API group.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// One of them; `None` is all.
    pub name: Option<String>,
}

impl ReferenceGrantSpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let from = fields.required("from").map(|node| node.items(16)).unwrap_or_default();
        let to = fields.required("to").map(|node| node.items(16)).unwrap_or_default();
        fields.finish();
        let from = from.iter().filter_map(read_from).collect();
        let to = to.iter().filter_map(read_to).collect();
        Some(Self { from, to })
    }
}

fn read_from(node: &Node<'_>) -> Option<GrantFrom> {
    let mut fields = node.fields()?;
    let group = fields.required("group").and_then(|node| node.text_of(0..=253));
    let kind = fields.required("kind").and_then(|node| node.text_of(1..=63));
    let namespace = fields.required("namespace").and_then(|node| name::namespace(&node));
    fields.finish();
    Some(GrantFrom { group: group?.to_owned(), kind: kind?.to_owned(), namespace: namespace? })
}

fn read_to(node: &Node<'_>) -> Option<GrantTo> {
    let mut fields = node.fields()?;
    let group = fields.required("group").and_then(|node| node.text_of(0..=253));
    let kind = fields.required("kind").and_then(|node| node.text_of(1..=63));
    let name = match fields.optional("name") {
        Some(node) => Some(name::name(&node)?),
        None => None,
    };
    fields.finish();
    Some(GrantTo { group: group?.to_owned(), kind: kind?.to_owned(), name })
}
