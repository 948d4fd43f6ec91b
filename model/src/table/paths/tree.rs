//! Segment prefixes as a tree of segments.
//!
//! A tree rather than a map of whole prefixes: a request's path is hashed once however many segments it has. All of it
//! lies in four flat arrays: what a lookup costs is cache misses, and a host with a few routes then fits into a few
//! lines.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    ops::Range,
};

use crate::span::{Span, short};

/// Up to this many children are compared one by one; more are found by hash.
const FEW: u32 = 8;

/// A free slot; no node has this position.
const FREE: u32 = u32::MAX;

/// Positions in lists of matches, by segment prefix.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// By level; the children of a node are neighbours. The first is the root, `/`. Empty without prefixes.
    nodes: Box<[Node]>,
    /// The segments, one after another.
    text: Box<str>,
    /// The matches, node after node.
    matches: Box<[u32]>,
    /// Children of nodes with many, by hash of parent and segment, at most half full; a power of two long.
    slots: Box<[u32]>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    segment: Span,
    children: Span,
    matches: Span,
}

impl Tree {
    /// The lists of all segment prefixes of `path`, the longest prefix first.
    pub(super) fn lists<'t>(&'t self, path: &str) -> impl Iterator<Item = &'t [u32]> {
        let mut next = self.deepest(path);
        std::iter::from_fn(move || {
            let at = next?;
            let node = &self.nodes[at as usize];
            next = (at != 0).then_some(node.parent);
            Some(&self.matches[node.matches.range()])
        })
    }

    /// The lists of all nodes.
    pub(super) fn all_lists(&self) -> impl Iterator<Item = &[u32]> {
        self.nodes.iter().map(|node| &self.matches[node.matches.range()])
    }

    /// The node of the longest prefix of `path`.
    fn deepest(&self, path: &str) -> Option<u32> {
        if self.nodes.is_empty() {
            return None;
        }
        let mut at = 0;
        for segment in path.strip_prefix('/').unwrap_or_default().split('/') {
            let Some(child) = self.child(at, segment) else { break };
            at = child;
        }
        Some(at)
    }

    fn child(&self, parent: u32, segment: &str) -> Option<u32> {
        let children = self.nodes[parent as usize].children;
        if children.len <= FEW {
            return (children.start..children.start + children.len).find(|child| self.is(*child, segment));
        }
        let mut slot = self.slot(parent, segment);
        // Ends: half of the slots are free.
        loop {
            let child = self.slots[slot];
            if child == FREE {
                return None;
            }
            if self.nodes[child as usize].parent == parent && self.is(child, segment) {
                return Some(child);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    fn is(&self, node: u32, segment: &str) -> bool {
        self.text.as_bytes()[self.nodes[node as usize].segment.range()] == *segment.as_bytes()
    }

    fn slot(&self, parent: u32, segment: &str) -> usize {
        let mask = self.slots.len() as u64 - 1;
        usize::try_from(self.hasher.hash_one((parent, segment)) & mask).unwrap_or(0)
    }

    /// Fills the slots with the children of nodes with many.
    fn hash(&mut self) {
        let many: Vec<Range<u32>> = self
            .nodes
            .iter()
            .filter(|node| node.children.len > FEW)
            .map(|node| node.children.start..node.children.start + node.children.len)
            .collect();
        let count: usize = many.iter().map(ExactSizeIterator::len).sum();
        if count == 0 {
            return;
        }
        self.slots = vec![FREE; (2 * count).next_power_of_two()].into();
        for child in many.into_iter().flatten() {
            let node = &self.nodes[child as usize];
            let mut slot = self.slot(node.parent, &self.text[node.segment.range()]);
            while self.slots[slot] != FREE {
                slot = (slot + 1) & (self.slots.len() - 1);
            }
            self.slots[slot] = child;
        }
    }
}

/// The tree while it grows.
#[derive(Default)]
pub(super) struct Builder<'p> {
    nodes: Vec<Growing<'p>>,
}

#[derive(Default)]
struct Growing<'p> {
    matches: Vec<u32>,
    children: HashMap<&'p str, usize>,
}

impl<'p> Builder<'p> {
    /// `prefix` without a slash at the end.
    pub(super) fn insert(&mut self, prefix: &'p str, position: u32) {
        if self.nodes.is_empty() {
            self.nodes.push(Growing::default());
        }
        let mut at = 0;
        for segment in prefix.split('/').skip(1) {
            let next = self.nodes.len();
            at = *self.nodes[at].children.entry(segment).or_insert(next);
            if at == next {
                self.nodes.push(Growing::default());
            }
        }
        self.nodes[at].matches.push(position);
    }

    pub(super) fn build(self) -> Tree {
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        let mut text = String::new();
        let mut matches = vec![];
        // Level by level: what a node is known as here, its parent there, its segment.
        let mut queue: Vec<(usize, u32, &str)> = vec![];
        if !self.nodes.is_empty() {
            queue.push((0, 0, ""));
        }
        let mut next = 0;
        while let Some(&(grown, parent, segment)) = queue.get(next) {
            let at = short(next);
            let growing = &self.nodes[grown];
            let mut children: Vec<_> =
                growing.children.iter().map(|(name, child)| (*child, at, *name)).collect();
            children.sort_unstable_by_key(|(.., name)| *name);
            nodes.push(Node {
                parent,
                segment: Span { start: short(text.len()), len: short(segment.len()) },
                children: Span { start: short(queue.len()), len: short(children.len()) },
                matches: Span { start: short(matches.len()), len: short(growing.matches.len()) },
            });
            text.push_str(segment);
            matches.extend_from_slice(&growing.matches);
            queue.extend(children);
            next += 1;
        }
        let mut tree =
            Tree { nodes: nodes.into(), text: text.into(), matches: matches.into(), ..Tree::default() };
        tree.hash();
        tree
    }
}
