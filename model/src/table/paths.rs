//! The matches of one host, found by path.
//!
//! Every list holds positions in the table's matches, which are sorted by rank: of two positions the lower one
//! wins, and a list is read only up to the best one so far.

mod tree;

use std::collections::HashMap;

use super::ask::Ask;
use crate::{CompiledMatch, PathMatch, Request};
use tree::Tree;

/// The matches of one host, by path.
#[derive(Debug, Default)]
pub(crate) struct PathIndex {
    exact: HashMap<Box<str>, Box<[u32]>>,
    segments: Tree,
    /// By text.
    strings: Box<[StringPrefix]>,
    regexes: Box<[u32]>,
}

#[derive(Debug)]
struct StringPrefix {
    text: Box<str>,
    /// The longest other text that this one begins with.
    parent: Option<u32>,
    matches: Box<[u32]>,
}

impl PathIndex {
    /// An index of the matches at `positions`, which rise. `paths` are those of all matches.
    pub(crate) fn new(paths: &[&PathMatch], positions: &[u32]) -> Self {
        let mut exact: HashMap<&str, Vec<u32>> = HashMap::new();
        let mut strings: HashMap<&str, Vec<u32>> = HashMap::new();
        let mut segments = tree::Builder::default();
        let mut regexes = vec![];
        for &position in positions {
            match paths[position as usize] {
                PathMatch::Exact(path) => exact.entry(path).or_default().push(position),
                PathMatch::PrefixSegment(prefix) => segments.insert(whole_segments(prefix), position),
                PathMatch::PrefixString(prefix) => strings.entry(prefix).or_default().push(position),
                PathMatch::Regex { .. } => regexes.push(position),
            }
        }
        Self {
            exact: exact.into_iter().map(|(path, list)| (path.into(), list.into())).collect(),
            segments: segments.build(),
            strings: link(strings),
            regexes: regexes.into(),
        }
    }

    /// A match in a list of more than `most`: these are tried one after another.
    pub(crate) fn crowded(&self, most: usize) -> Option<u32> {
        let strings = self.strings.iter().map(|prefix| &*prefix.matches);
        let lists = self.exact.values().map(|list| &**list).chain(self.segments.all_lists());
        let lists = lists.chain(strings).chain([&*self.regexes]);
        lists.filter_map(|list| list.get(most).copied()).min()
    }

    /// The position of the match with the lowest rank that holds.
    pub(super) fn find<R: Request>(&self, matches: &[CompiledMatch], ask: &Ask<'_, R>) -> Option<u32> {
        let path = ask.request.path();
        let mut best = None;
        let mut improve = |list: &[u32]| {
            let better = list.iter().take_while(|each| best.is_none_or(|best| **each < best));
            best = better.copied().find(|each| ask.holds(&matches[*each as usize])).or(best);
        };
        if let Some(list) = self.exact.get(path) {
            improve(list);
        }
        // The longest prefix first: most dialects rank it first, and the others are then passed over.
        self.segments.lists(path).for_each(&mut improve);
        let mut longest = self.longest(path);
        while let Some(at) = longest {
            let prefix = &self.strings[at as usize];
            improve(&prefix.matches);
            longest = prefix.parent;
        }
        improve(&self.regexes);
        best
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
fn link(prefixes: HashMap<&str, Vec<u32>>) -> Box<[StringPrefix]> {
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
