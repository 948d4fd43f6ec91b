//! Segment prefixes of all hosts as trees of segments.
//!
//! Trees rather than maps of whole prefixes: a request's path is hashed once however many segments it has. What a lookup
//! costs is cache misses, where there are so many routes that none is in a cache. So all trees are one hash table: a step
//! down looks at a byte of the tags, which are few enough to stay in a cache, and at the line of the node itself.

use std::{collections::HashMap, hash::BuildHasher};

use foldhash::fast::RandomState;

use super::Placed;
use crate::span::{Span, short};

/// Set in the name of a tree's root, `/`; the rest is the number of the tree. Names of others are their positions.
const ROOT: u32 = 1 << 31;

/// Nobody's name.
const NONE: u32 = u32::MAX;

/// The tag of a free place.
const FREE: u8 = 0;

/// Matches by segment prefix, in trees that are numbered from 0.
#[derive(Debug, Default)]
pub(super) struct Forest {
    roots: Box<[Node]>,
    /// All but the roots, by hash of parent and segment; a quarter is free.
    nodes: Box<[Node]>,
    /// A byte of each node's hash.
    tags: Box<[u8]>,
    /// Segments that do not fit into their nodes, one after another.
    text: Box<str>,
    /// Of nodes with several matches, all but the first, node after node.
    rest: Box<[Placed]>,
    hasher: RandomState,
}

/// One line of a cache.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    segment: Segment,
    parent: u32,
    /// The nearest node towards the root that has matches.
    above: u32,
    has_children: bool,
    first: Option<Placed>,
    /// The other matches.
    rest: Span,
}

#[derive(Debug)]
enum Segment {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Span),
}

/// As long as most segments of paths, and what fits.
const SHORT: usize = 30;

impl Node {
    const fn free() -> Self {
        Self {
            segment: Segment::Short { len: 0, bytes: [0; SHORT] },
            parent: NONE,
            above: NONE,
            has_children: false,
            first: None,
            rest: Span { start: 0, len: 0 },
        }
    }
}

impl Forest {
    /// The matches of all segment prefixes of `path` in a tree, the longest prefix first.
    pub(super) fn lists<'t>(
        &'t self,
        tree: u32,
        path: &str,
    ) -> impl Iterator<Item = impl Iterator<Item = Placed> + 't> {
        let mut next = self.node(self.deepest(tree, path));
        std::iter::from_fn(move || {
            let node = next?;
            next = self.node(node.above);
            let rest = &self.rest[node.rest.range()];
            Some(node.first.into_iter().chain(rest.iter().copied()))
        })
    }

    /// What is probably the node of the first segment of `path`: by its tag, so that no node is looked at.
    pub(super) fn first_step(&self, tree: u32, path: &str) -> Option<&(impl Sized + use<>)> {
        let first = path.strip_prefix('/')?.split('/').next()?;
        let (mut place, tag) = self.place(ROOT | tree, first)?;
        while self.tags[place] != tag {
            if self.tags[place] == FREE {
                return None;
            }
            place = self.next(place);
        }
        self.nodes.get(place)
    }

    fn node(&self, name: u32) -> Option<&Node> {
        if name & ROOT == 0 { self.nodes.get(name as usize) } else { self.roots.get((name & !ROOT) as usize) }
    }

    /// The node of the longest prefix of `path`.
    fn deepest(&self, tree: u32, path: &str) -> u32 {
        // A root is looked at only if nothing else is found: that it has no children is seen as soon.
        let mut at = ROOT | tree;
        for segment in path.strip_prefix('/').unwrap_or_default().split('/') {
            let Some((name, child)) = self.child(at, segment) else { break };
            at = name;
            if !child.has_children {
                break;
            }
        }
        at
    }

    fn child(&self, parent: u32, segment: &str) -> Option<(u32, &Node)> {
        let (mut place, tag) = self.place(parent, segment)?;
        // Ends: some are free.
        loop {
            let found = self.tags[place];
            if found == tag
                && let node = &self.nodes[place]
                && self.is(node, parent, segment)
            {
                return Some((short(place), node));
            }
            if found == FREE {
                return None;
            }
            place = self.next(place);
        }
    }

    /// The place after another.
    fn next(&self, place: usize) -> usize {
        if place + 1 == self.tags.len() { 0 } else { place + 1 }
    }

    fn is(&self, node: &Node, parent: u32, segment: &str) -> bool {
        node.parent == parent
            && match &node.segment {
                Segment::Short { len, bytes } => bytes[..usize::from(*len)] == *segment.as_bytes(),
                Segment::Long(span) => self.text[span.range()] == *segment,
            }
    }

    /// Where the search for a node begins, and its tag. `None` where there are no nodes.
    fn place(&self, parent: u32, segment: &str) -> Option<(usize, u8)> {
        let hash = self.hasher.hash_one((parent, segment.as_bytes()));
        // The upper bits choose the place (Lemire's multiplication in place of a division), others are the tag.
        let place = (u128::from(hash) * self.tags.len() as u128) >> 64;
        let tag = hash.to_le_bytes()[0] | 1;
        (!self.tags.is_empty()).then_some((usize::try_from(place).unwrap_or(0), tag))
    }

    /// Puts a node in a free place, which becomes its name.
    fn enter(&mut self, segment: &str, node: Node) -> u32 {
        let Some((mut place, tag)) = self.place(node.parent, segment) else { return NONE };
        while self.tags[place] != FREE {
            place = self.next(place);
        }
        self.tags[place] = tag;
        self.nodes[place] = node;
        short(place)
    }
}

/// A tree while it grows.
#[derive(Default)]
pub(super) struct Growing<'p> {
    nodes: Vec<Sprout<'p>>,
}

#[derive(Default)]
struct Sprout<'p> {
    matches: Vec<Placed>,
    children: HashMap<&'p str, usize>,
}

impl<'p> Growing<'p> {
    /// `prefix` without a slash at the end.
    pub(super) fn insert(&mut self, prefix: &'p str, placed: Placed) {
        if self.nodes.is_empty() {
            self.nodes.push(Sprout::default());
        }
        let mut at = 0;
        for segment in prefix.split('/').skip(1) {
            let next = self.nodes.len();
            at = *self.nodes[at].children.entry(segment).or_insert(next);
            if at == next {
                self.nodes.push(Sprout::default());
            }
        }
        self.nodes[at].matches.push(placed);
    }

    pub(super) fn build(mut self) -> Tree<'p> {
        let mut tree = Tree::default();
        // Level by level: what a node is known as here, its parent there, its segment.
        let mut queue: Vec<(usize, u32, &str)> = vec![];
        if !self.nodes.is_empty() {
            queue.push((0, 0, ""));
        }
        let mut next = 0;
        while let Some(&(grown, parent, segment)) = queue.get(next) {
            let Sprout { matches, children } = std::mem::take(&mut self.nodes[grown]);
            tree.0.push(Branch { segment, parent, has_children: !children.is_empty(), matches });
            queue.extend(children.into_iter().map(|(name, child)| (child, short(next), name)));
            next += 1;
        }
        tree
    }
}

/// A tree before it is put among the others: its nodes level by level, the root first. Empty without prefixes.
#[derive(Default)]
pub(super) struct Tree<'p>(Vec<Branch<'p>>);

struct Branch<'p> {
    segment: &'p str,
    /// The position of its parent, which comes before it.
    parent: u32,
    has_children: bool,
    matches: Vec<Placed>,
}

impl Tree<'_> {
    /// The matches of each node.
    pub(super) fn all_lists(&self) -> impl Iterator<Item = &[Placed]> {
        self.0.iter().map(|branch| &*branch.matches)
    }
}

impl Forest {
    pub(super) fn new(trees: &[Tree<'_>]) -> Self {
        let count: usize = trees.iter().map(|tree| tree.0.len().saturating_sub(1)).sum();
        let places = if count == 0 { 0 } else { count + count / 3 + 1 };
        let (mut text, mut rest, mut roots) = (String::new(), vec![], Vec::with_capacity(trees.len()));
        let mut forest = Self {
            nodes: std::iter::repeat_with(Node::free).take(places).collect(),
            tags: vec![FREE; places].into(),
            ..Self::default()
        };
        for (number, tree) in trees.iter().enumerate() {
            // By position in the tree: the name, and the name of the nearest that has matches, itself or above.
            let mut names: Vec<(u32, u32)> = Vec::with_capacity(tree.0.len());
            for branch in &tree.0 {
                let (parent, above) = names.get(branch.parent as usize).copied().unwrap_or((NONE, NONE));
                let others = branch.matches.get(1..).unwrap_or_default();
                rest.extend_from_slice(others);
                let node = Node {
                    segment: Segment::new(branch.segment, &mut text),
                    parent,
                    above,
                    has_children: branch.has_children,
                    first: branch.matches.first().copied(),
                    rest: Span::before(rest.len(), others.len()),
                };
                let name = match parent {
                    NONE => {
                        roots.push(node);
                        ROOT | short(number)
                    }
                    _ => forest.enter(branch.segment, node),
                };
                names.push((name, if branch.matches.is_empty() { above } else { name }));
            }
            // Without prefixes there is a root without matches.
            roots.resize_with(number + 1, Node::free);
        }
        Self { roots: roots.into(), text: text.into(), rest: rest.into(), ..forest }
    }
}

impl Segment {
    /// Itself, or its place at the end of `text` if it is long.
    fn new(segment: &str, text: &mut String) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..segment.len()), u8::try_from(segment.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(segment.as_bytes());
                Self::Short { len, bytes }
            }
            _ => {
                text.push_str(segment);
                Self::Long(Span::before(text.len(), segment.len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_one_line_of_a_cache() {
        assert_eq!((size_of::<Node>(), align_of::<Node>()), (64, 64));
    }

    #[test]
    fn segments_of_any_length_are_found_in_their_own_tree_below_their_own_parent() {
        let placed = |at| Placed { at, rule: at, asks: false };
        let names: Vec<String> = (1..=64).map(|len| "s".repeat(len)).collect();
        let prefixes: Vec<String> = names
            .iter()
            .flat_map(|name| [format!("/{name}"), format!("/{name}/t"), format!("/s/{name}/x")])
            .collect();
        let tree = |first: u32| {
            let mut growing = Growing::default();
            for (at, prefix) in (first..).zip(&prefixes) {
                growing.insert(prefix, placed(at));
            }
            growing
        };
        let mut second = tree(1_000);
        second.insert("", placed(2_000));
        second.insert(&prefixes[9], placed(2_001));
        let forest = Forest::new(&[tree(0).build(), Tree::default(), second.build()]);
        let found = |tree: u32, path: &str| -> Vec<Vec<u32>> {
            forest.lists(tree, path).map(|list| list.map(|placed| placed.at).collect()).collect()
        };
        for (at, prefix) in (0..).zip(&prefixes) {
            assert_eq!(found(0, &format!("{prefix}/none"))[0], [at]);
            assert_eq!(found(2, prefix)[0][0], 1_000 + at);
        }
        assert_eq!(found(0, "/none"), [[0_u32; 0]]);
        assert_eq!(found(1, "/s"), [[0_u32; 0]]);
        assert_eq!(found(2, "/none"), [[2_000]]);
        assert_eq!(found(2, "/ssss/t/none"), [vec![1_010], vec![1_009, 2_001], vec![2_000]]);
        assert_eq!(found(0, "/s/ssss/x"), [[11], [0]], "what has no matches is passed over");
    }
}
