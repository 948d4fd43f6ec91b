//! Hosts, and the segment prefixes of each as a tree of segments below it.
//!
//! Trees rather than maps of whole prefixes: a request's path is hashed once however many segments it has. What a lookup
//! costs is cache misses, where there are so many routes that none is in a cache. So all trees are one hash table in which a
//! step down is one line, that of the node itself, and where the nodes of a request probably are is computed before any of
//! them is looked at: a node's key follows from the text of those above it alone.

use std::{collections::HashMap, hash::BuildHasher};

use foldhash::fast::RandomState;

use super::{Hosted, Placed};
use crate::{HostPattern, places::Places, span::Span};

/// Nobody's name: names of nodes are their positions.
const NONE: u32 = u32::MAX;

/// Above a name: the node is of a host in the group of that number, as it is or as a pattern.
const HOST: u32 = 1 << 31;
const PATTERN: u32 = 1 << 30;

/// Matches by segment prefix, in trees, one for each host.
#[derive(Debug, Default)]
pub(super) struct Forest {
    nodes: Box<[Node]>,
    /// Of the nodes, by their keys.
    places: Places,
    /// Segments that do not fit into their nodes, one after another.
    text: Box<str>,
    /// Of nodes with several matches, all but the first, node after node.
    rest: Box<[Placed]>,
    /// How many steps it takes from a root to the deepest node.
    depth: usize,
    hasher: RandomState,
}

/// Where the tree of a host begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root {
    /// The name of its node.
    pub(super) name: u32,
    pub(crate) key: Key,
}

/// The hash of a host's name in its group, or of a segment below another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(u64);

/// A host's, or a segment's below another node. One line of a cache.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    segment: Segment,
    /// The name of the node above it; of a host's the number of its group.
    parent: u32,
    /// The nearest node towards the root that has matches. Of a host's that has the same matches as another host, that one's.
    above: u32,
    has_children: bool,
    /// Of a host's node: it has matches that are no segment prefixes.
    has_others: bool,
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

/// Nodes that are expected at most: as many lines as the processor fetches at once are not only ours.
const AHEAD: usize = 5;

impl Node {
    const fn free() -> Self {
        Self {
            segment: Segment::Short { len: 0, bytes: [0; SHORT] },
            parent: NONE,
            above: NONE,
            has_children: false,
            has_others: false,
            first: None,
            rest: Span { start: 0, len: 0 },
        }
    }
}

impl Forest {
    /// The key of an exact host in a group.
    pub(super) fn host(&self, group: u32, host: &str) -> Key {
        self.key(Key((HOST | group).into()), host.as_bytes())
    }

    /// The root of the host of that key in a group, if it is there.
    pub(super) fn root(&self, group: u32, host: &str, key: Key) -> Option<Root> {
        let (name, node) = self.find(key, HOST | group, host)?;
        match self.nodes.get(node.above as usize) {
            None => Some(Root { name, key }),
            Some(same) => {
                Some(Root { name: node.above, key: self.key(Key(same.parent.into()), self.text(same)) })
            }
        }
    }

    /// Whether a root's host has matches that are no segment prefixes.
    pub(super) fn has_others(&self, root: Root) -> bool {
        self.nodes[root.name as usize].has_others
    }

    /// The nodes that will probably be looked at for a path on the host of that key: none of them is looked at for it.
    pub(super) fn ahead<'t>(
        &'t self,
        key: Key,
        path: &str,
    ) -> impl Iterator<Item = &'t (impl Sized + use<>)> {
        let below = segments(path).take(self.depth.min(AHEAD - 1)).scan(key, |key, segment| {
            *key = self.key(*key, segment.as_bytes());
            Some(*key)
        });
        std::iter::once(key).chain(below).filter_map(|key| self.nodes.get(self.places.of(key.0)? as usize))
    }

    /// The matches of all segment prefixes of `path` in a tree, the longest prefix first.
    pub(super) fn lists<'t>(
        &'t self,
        root: Root,
        path: &str,
    ) -> impl Iterator<Item = impl Iterator<Item = Placed> + 't> {
        let mut next = Some(self.deepest(root, path));
        std::iter::from_fn(move || {
            let node = next?;
            next = self.nodes.get(node.above as usize);
            let rest = &self.rest[node.rest.range()];
            Some(node.first.into_iter().chain(rest.iter().copied()))
        })
    }

    /// The node of the longest prefix of `path`.
    fn deepest(&self, root: Root, path: &str) -> &Node {
        let Root { mut name, mut key } = root;
        let mut node = &self.nodes[name as usize];
        for segment in segments(path) {
            if !node.has_children {
                break;
            }
            key = self.key(key, segment.as_bytes());
            let Some(child) = self.find(key, name, segment) else { break };
            (name, node) = child;
        }
        node
    }

    fn key(&self, above: Key, text: &[u8]) -> Key {
        Key(self.hasher.hash_one((above.0, text)))
    }

    fn find(&self, key: Key, parent: u32, segment: &str) -> Option<(u32, &Node)> {
        let at = |name| self.nodes.get(name as usize).map(|node| (name, node));
        let is = |(_, node): &(u32, &Node)| node.parent == parent && self.text(node) == segment.as_bytes();
        at(self.places.of(key.0)?).filter(is).or_else(|| self.places.strays().filter_map(at).find(is))
    }

    fn text<'t>(&'t self, node: &'t Node) -> &'t [u8] {
        match &node.segment {
            Segment::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Segment::Long(span) => self.text[span.range()].as_bytes(),
        }
    }
}
/// The segments of a path that begins with a slash.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path.strip_prefix('/');
    // Most are so short that the library's search for a character costs more than the search.
    std::iter::from_fn(move || {
        let path = rest?;
        let (segment, after) = match path.bytes().position(|byte| byte == b'/') {
            Some(end) => (&path[..end], Some(&path[end + 1..])),
            None => (path, None),
        };
        rest = after;
        Some(segment)
    })
}

/// A tree while it grows.
pub(super) struct Growing<'p> {
    /// The root first.
    nodes: Vec<Sprout<'p>>,
}

#[derive(Default)]
struct Sprout<'p> {
    matches: Vec<Placed>,
    children: HashMap<&'p str, usize>,
}

impl Default for Growing<'_> {
    fn default() -> Self {
        Self { nodes: vec![Sprout::default()] }
    }
}

impl<'p> Growing<'p> {
    /// `prefix` without a slash at the end.
    pub(super) fn insert(&mut self, prefix: &'p str, placed: Placed) {
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
        let mut branches = vec![];
        // Level by level: what a node is known as here, its parent there, its segment.
        let mut queue = vec![(0, 0, "")];
        while let Some(&(grown, parent, segment)) = queue.get(branches.len()) {
            let Sprout { matches, children } = std::mem::take(&mut self.nodes[grown]);
            let at = branches.len();
            branches.push(Branch { segment, parent, has_children: !children.is_empty(), matches });
            queue.extend(children.into_iter().map(|(name, child)| (child, at, name)));
        }
        Tree(branches)
    }
}

/// A tree before it is put among the others: its nodes level by level, the root first.
pub(super) struct Tree<'p>(Vec<Branch<'p>>);

struct Branch<'p> {
    segment: &'p str,
    /// The position of its parent, which comes before it; the root's own.
    parent: usize,
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
    /// The forest of `trees`, each with whether its hosts have other matches as well, and of each host in `hosted` its root.
    pub(super) fn new(trees: &[(Tree<'_>, bool)], hosted: &[Hosted<'_>]) -> (Self, Vec<Root>) {
        let mut forest = Self::default();
        // Keys of all nodes: of the hosts, then of the segments.
        let mut keys: Vec<Key> = hosted.iter().map(|each| forest.key_of(each)).collect();
        let mut planted: Vec<Planted<'_, '_>> = vec![];
        let mut firsts = vec![None; trees.len()];
        for (at, each) in hosted.iter().enumerate() {
            firsts[each.tree].get_or_insert_with(|| {
                planted.push(forest.plant(&trees[each.tree].0, at, &mut keys));
                at
            });
        }
        let hashes: Vec<u64> = keys.iter().map(|key| key.0).collect();
        let (places, names) = Places::new(&hashes);
        let mut nodes: Vec<Node> = std::iter::repeat_with(Node::free).take(places.count()).collect();
        let (mut text, mut rest, mut roots) = (String::new(), vec![], vec![]);
        for (at, each) in hosted.iter().enumerate() {
            let first = firsts[each.tree].unwrap_or(at);
            let (parent, host) = each.parent_and_name();
            let node = &mut nodes[names[at] as usize];
            (node.segment, node.parent) = (Segment::new(host, &mut text), parent);
            if first == at {
                node.has_others = trees[each.tree].1;
            } else {
                node.above = names[first];
            }
            roots.push(Root { name: names[first], key: keys[first] });
        }
        for Planted { tree, keys } in planted {
            // By position in the tree: the name of the nearest that has matches, itself or above.
            let mut nearest: Vec<u32> = Vec::with_capacity(tree.0.len());
            for (branch, at) in tree.0.iter().zip(&keys) {
                let name = names[*at];
                let node = &mut nodes[name as usize];
                if !nearest.is_empty() {
                    node.segment = Segment::new(branch.segment, &mut text);
                    node.parent = names[keys[branch.parent]];
                    node.above = nearest[branch.parent];
                }
                node.has_children = branch.has_children;
                node.first = branch.matches.first().copied();
                let others = branch.matches.get(1..).unwrap_or_default();
                rest.extend_from_slice(others);
                node.rest = Span::before(rest.len(), others.len());
                nearest.push(if branch.matches.is_empty() { node.above } else { name });
            }
        }
        (Self { nodes: nodes.into(), places, text: text.into(), rest: rest.into(), ..forest }, roots)
    }

    fn key_of(&self, host: &Hosted<'_>) -> Key {
        let (parent, name) = host.parent_and_name();
        self.key(Key(parent.into()), name.as_bytes())
    }

    /// Adds the keys of a tree's segments below that of its root, which is at `root`.
    fn plant<'t, 'p>(&mut self, tree: &'t Tree<'p>, root: usize, keys: &mut Vec<Key>) -> Planted<'t, 'p> {
        let (mut own, mut depths) = (vec![root], vec![0]);
        for branch in tree.0.iter().skip(1) {
            own.push(keys.len());
            keys.push(self.key(keys[own[branch.parent]], branch.segment.as_bytes()));
            depths.push(depths[branch.parent] + 1);
        }
        self.depth = depths.into_iter().fold(self.depth, usize::max);
        Planted { tree, keys: own }
    }
}

/// A tree whose nodes have keys.
struct Planted<'t, 'p> {
    tree: &'t Tree<'p>,
    /// Their positions, by the node's in the tree.
    keys: Vec<usize>,
}

impl Hosted<'_> {
    /// What stands above its node, and its name there.
    fn parent_and_name(&self) -> (u32, &str) {
        match self.host {
            Some(HostPattern::Exact(host)) => (HOST | self.group, host),
            Some(HostPattern::Wildcard(suffix)) => (PATTERN | self.group, suffix),
            None => (PATTERN | self.group, ""),
        }
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
    fn a_path_has_the_segments_between_its_slashes() {
        for (path, expect) in
            [("/", &[""][..]), ("/a", &["a"]), ("/a/", &["a", ""]), ("/a/ä/c", &["a", "ä", "c"]), ("", &[])]
        {
            assert_eq!(segments(path).collect::<Vec<_>>(), expect, "{path}");
        }
    }

    fn placed(at: u32) -> Placed {
        Placed { at, rule: at, asks: false }
    }

    fn tree(prefixes: &[String], first: u32) -> Growing<'_> {
        let mut growing = Growing::default();
        for (at, prefix) in (first..).zip(prefixes) {
            growing.insert(prefix, placed(at));
        }
        growing
    }

    fn found(forest: &Forest, root: Root, path: &str) -> Vec<Vec<u32>> {
        forest.lists(root, path).map(|list| list.map(|placed| placed.at).collect()).collect()
    }

    #[test]
    fn segments_of_any_length_are_found_in_their_own_tree_below_their_own_parent() {
        let names: Vec<String> = (1..=64).map(|len| "s".repeat(len)).collect();
        let prefixes: Vec<String> = names
            .iter()
            .flat_map(|name| [format!("/{name}"), format!("/{name}/t"), format!("/s/{name}/x")])
            .collect();
        let mut second = tree(&prefixes, 1_000);
        second.insert("", placed(2_000));
        second.insert(&prefixes[9], placed(2_001));
        let trees = [tree(&prefixes, 0).build(), Growing::default().build(), second.build()]
            .map(|tree| (tree, false));
        let host = HostPattern::Exact("h".to_owned());
        let hosted = [0, 1, 2].map(|tree| Hosted { group: 9 - tree, host: Some(&host), tree: tree as usize });
        let (forest, roots) = Forest::new(&trees, &hosted);
        let found = |tree: usize, path: &str| found(&forest, roots[tree], path);
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

    #[test]
    fn hosts_with_the_same_matches_share_a_tree_and_each_group_has_its_own() {
        let (one, two) = (["/one".to_owned()], ["/two".to_owned()]);
        let trees = [(tree(&one, 1).build(), false), (tree(&two, 2).build(), true)];
        let long = format!("{}.example.com", "x".repeat(60));
        let [a, b, long] = ["a.com", "b.com", &long].map(|host| HostPattern::Exact(host.to_owned()));
        let wild = HostPattern::Wildcard("a.com".to_owned());
        let hosted = [
            Hosted { group: 0, host: Some(&a), tree: 0 },
            Hosted { group: 0, host: Some(&b), tree: 1 },
            Hosted { group: 0, host: Some(&long), tree: 0 },
            Hosted { group: 0, host: Some(&wild), tree: 1 },
            Hosted { group: 1, host: Some(&a), tree: 1 },
            Hosted { group: 1, host: None, tree: 1 },
        ];
        let (forest, roots) = Forest::new(&trees, &hosted);
        for (each, root) in hosted.iter().zip(roots) {
            assert_eq!(found(&forest, root, "/one/x")[0], [1][..1 - each.tree]);
            assert_eq!(found(&forest, root, "/two/x")[0], [2][..each.tree]);
            assert_eq!(forest.has_others(root), each.tree == 1);
            if let Some(HostPattern::Exact(host)) = each.host {
                let key = forest.host(each.group, host);
                assert_eq!(forest.root(each.group, host, key), Some(root), "{host} in {}", each.group);
            }
        }
        for (group, host) in [(0, "c.com"), (1, "b.com"), (2, "a.com"), (1, ""), (0, "*.a.com")] {
            assert_eq!(forest.root(group, host, forest.host(group, host)), None, "{host} in {group}");
        }
    }

    #[test]
    fn what_is_expected_is_what_is_looked_at() {
        let prefixes = ["/a/b/c".to_owned(), "/d".to_owned()];
        let hosts: Vec<_> = (0..100).map(|host| HostPattern::Exact(format!("{host}.com"))).collect();
        let trees: Vec<_> = hosts.iter().map(|_| (tree(&prefixes, 1).build(), false)).collect();
        let hosted: Vec<_> = hosts
            .iter()
            .enumerate()
            .map(|(tree, host)| Hosted { group: 0, host: Some(host), tree })
            .collect();
        let (forest, roots) = Forest::new(&trees, &hosted);
        for root in roots {
            let ahead = |path| -> Vec<_> {
                forest.ahead(root.key, path).map(|node| std::ptr::from_ref(node).cast::<Node>()).collect()
            };
            for path in ["/a", "/a/b", "/a/b/c", "/d"] {
                let nodes = ahead(path);
                assert_eq!(nodes[0], std::ptr::from_ref(&forest.nodes[root.name as usize]));
                assert_eq!(nodes.len(), 1 + segments(path).count());
                assert_eq!(nodes.last(), Some(&std::ptr::from_ref(forest.deepest(root, path))));
            }
            assert_eq!(ahead("/a/b/c/x/y/z").len(), 4, "there is nothing deeper");
        }
    }
}
