//! The matches of all hosts, found by path.
//!
//! Every list holds matches by their position in the table's, which are sorted by rank: of two positions the lower one
//! wins, and a list is read only up to the best one so far.

mod tree;

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::ask::Ask;
use crate::{CompiledMatch, HostPattern, PathMatch, Request, compiled::CompiledPath};
use tree::{Forest, Growing, Tree};
pub(crate) use tree::{Key, Root};

/// The matches of each host, or of several hosts that have the same, by path.
#[derive(Debug, Default)]
pub(crate) struct PathIndices {
    segments: Forest,
    /// By the name of the host's root: what is not a segment prefix. Of those hosts that have any.
    others: HashMap<u32, Others, RandomState>,
}

/// A host in a group, and the draft that has its matches, by position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hosted<'p> {
    pub(crate) group: u32,
    /// `None` is any.
    pub(crate) host: Option<&'p HostPattern>,
    pub(crate) tree: usize,
}

/// The matches of one host, before they are put among the others.
pub(crate) struct PathDraft<'p> {
    segments: Tree<'p>,
    others: Others,
}

#[derive(Debug, Default)]
struct Others {
    exact: HashMap<Box<str>, Box<[Placed]>, RandomState>,
    /// By text.
    strings: Box<[StringPrefix]>,
    regexes: Box<[Placed]>,
}

/// A match that is found by its path, with what is asked of most, so that the match itself is not looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// Its position in the table.
    pub(super) at: u32,
    /// The position of its rule.
    pub(super) rule: u32,
    /// Whether it asks for more than its path.
    asks: bool,
}

#[derive(Debug)]
struct StringPrefix {
    text: Box<str>,
    /// The longest other text that this one begins with.
    parent: Option<u32>,
    matches: Box<[Placed]>,
}

impl<'p> PathDraft<'p> {
    /// Those of `matches` at `positions`, which rise. `paths` are those of all matches.
    pub(crate) fn new(paths: &[&'p PathMatch], matches: &[CompiledMatch], positions: &[u32]) -> Self {
        let mut exact: HashMap<&str, Vec<Placed>> = HashMap::new();
        let mut strings: HashMap<&str, Vec<Placed>> = HashMap::new();
        let (mut segments, mut regexes) = (Growing::default(), vec![]);
        for &at in positions {
            let each = &matches[at as usize];
            let asks = each.conditions.is_some() || matches!(each.path, CompiledPath::Regex(_));
            let placed = Placed { at, rule: each.rule, asks };
            match paths[at as usize] {
                PathMatch::Exact(path) => exact.entry(path).or_default().push(placed),
                PathMatch::PrefixSegment(prefix) => segments.insert(whole_segments(prefix), placed),
                PathMatch::PrefixString(prefix) => strings.entry(prefix).or_default().push(placed),
                PathMatch::Regex { .. } => regexes.push(placed),
            }
        }
        let others = Others {
            exact: exact.into_iter().map(|(path, list)| (path.into(), list.into())).collect(),
            strings: link(strings),
            regexes: regexes.into(),
        };
        Self { segments: segments.build(), others }
    }

    /// Of a host without matches.
    pub(crate) fn empty() -> Self {
        Self { segments: Growing::default().build(), others: Others::default() }
    }

    /// The position of a match in a list of more than `most`: these are tried one after another.
    pub(crate) fn crowded(&self, most: usize) -> Option<u32> {
        let lists = self.segments.all_lists().chain(self.others.all_lists());
        lists.filter_map(|list| list.get(most).map(|placed| placed.at)).min()
    }
}

impl PathIndices {
    /// The indices, and of each host in `hosted` its root.
    pub(crate) fn new(drafts: Vec<PathDraft<'_>>, hosted: &[Hosted<'_>]) -> (Self, Vec<Root>) {
        let (trees, mut others): (Vec<_>, Vec<_>) = drafts
            .into_iter()
            .map(|PathDraft { segments, others }| ((segments, !others.is_empty()), others))
            .unzip();
        let (segments, roots) = Forest::new(&trees, hosted);
        let of_root =
            |(each, root): (&Hosted<'_>, &Root)| (root.name, std::mem::take(&mut others[each.tree]));
        let others =
            hosted.iter().zip(&roots).map(of_root).filter(|(_, others)| !others.is_empty()).collect();
        (Self { segments, others }, roots)
    }

    /// The key of an exact host in a group, whether it is there or not.
    pub(super) fn host(&self, group: u32, host: &str) -> Key {
        self.segments.host(group, host)
    }

    /// The root of the host of that key, if it is there.
    pub(super) fn root(&self, group: u32, host: &str, key: Key) -> Option<Root> {
        self.segments.root(group, host, key)
    }

    /// The nodes that will probably be looked at for a path on the host of that key.
    pub(super) fn ahead<'t>(
        &'t self,
        key: Key,
        path: &str,
    ) -> impl Iterator<Item = &'t (impl Sized + use<>)> {
        self.segments.ahead(key, path)
    }

    /// Of the matches below a root the one with the lowest rank that holds.
    pub(super) fn find<R: Request>(
        &self,
        root: Root,
        matches: &[CompiledMatch],
        ask: &Ask<'_, R>,
    ) -> Option<Placed> {
        let path = ask.request.path();
        let others = if self.segments.has_others(root) { self.others.get(&root.name) } else { None };
        let mut best = Best { matches, ask, found: None };
        if let Some(list) = others.and_then(|others| others.exact.get(path)) {
            best.improve(list.iter().copied());
        }
        // The longest prefix first: most dialects rank it first, and the others are then passed over.
        self.segments.lists(root, path).for_each(|list| best.improve(list));
        if let Some(others) = others {
            let mut longest = others.longest(path);
            while let Some(at) = longest {
                let prefix = &others.strings[at as usize];
                best.improve(prefix.matches.iter().copied());
                longest = prefix.parent;
            }
            best.improve(others.regexes.iter().copied());
        }
        best.found
    }
}

/// The match with the lowest rank that holds so far.
struct Best<'t, 'a, 'r, R> {
    matches: &'t [CompiledMatch],
    ask: &'a Ask<'r, R>,
    found: Option<Placed>,
}

impl<R: Request> Best<'_, '_, '_, R> {
    /// Looks for a better one in a list.
    fn improve(&mut self, list: impl Iterator<Item = Placed>) {
        let found = self.found;
        let mut better = list.take_while(|each| found.is_none_or(|found| each.at < found.at));
        let holds = |each: &Placed| !each.asks || self.ask.holds(&self.matches[each.at as usize]);
        self.found = better.find(holds).or(found);
    }
}

impl Others {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.strings.is_empty() && self.regexes.is_empty()
    }

    fn all_lists(&self) -> impl Iterator<Item = &[Placed]> {
        let strings = self.strings.iter().map(|prefix| &*prefix.matches);
        self.exact.values().map(|list| &**list).chain(strings).chain([&*self.regexes])
    }

    /// The longest string prefix of `path`; its ancestors are the shorter ones.
    fn longest(&self, path: &str) -> Option<u32> {
        // Every prefix of the path sorts before it or is it, and the last text before the path has all of them
        // as ancestors, or is one.
        let after = self.strings.partition_point(|prefix| *prefix.text <= *path);
        let mut at = after.checked_sub(1)?;
        let common = common_len(&self.strings[at].text, path);
        while self.strings[at].text.len() > common {
            at = self.strings[at].parent? as usize;
        }
        u32::try_from(at).ok()
    }
}

/// A segment prefix without the slash at its end: `/` is the empty string.
pub(crate) fn whole_segments(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

fn common_len(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

/// Sorted by text, each linked to the longest other text that it begins with.
fn link(prefixes: HashMap<&str, Vec<Placed>>) -> Box<[StringPrefix]> {
    let mut sorted: Vec<_> = prefixes.into_iter().collect();
    sorted.sort_unstable_by_key(|(text, _)| *text);
    let mut done: Vec<StringPrefix> = Vec::with_capacity(sorted.len());
    for (text, matches) in sorted {
        let mut parent = done.len().checked_sub(1);
        while let Some(at) = parent
            && !text.starts_with(&*done[at].text)
        {
            parent = done[at].parent.map(|at| at as usize);
        }
        let parent = parent.and_then(|at| u32::try_from(at).ok());
        done.push(StringPrefix { text: text.into(), parent, matches: matches.into() });
    }
    done.into()
}
