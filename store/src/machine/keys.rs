//! All keys in order, in pieces that clones share.
//!
//! A snapshot is a clone, taken while everybody waits: it counts pieces, not keys, and whoever goes on writing copies
//! the pieces that it changes, one at a time. (In a `BTreeMap` a million keys were a stall of a third of a second.)

use std::sync::Arc;

use super::Version;
use crate::Key;

/// The most keys of a piece: what the first change after a clone copies.
const PIECE: usize = 128;

/// A key and its versions, oldest first, never none.
type Versions = (Key, Vec<Version>);

#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    /// In order, none empty.
    pieces: Vec<Arc<Vec<Versions>>>,
}

impl Keys {
    pub(super) fn get(&self, key: &str) -> Option<(&Key, &Vec<Version>)> {
        let piece = self.pieces.get(self.piece(key))?;
        let (key, versions) = &piece[position(piece, key).ok()?];
        Some((key, versions))
    }

    /// The versions of a key, to be changed. They must not end empty: then [`Keys::remove`] it.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Vec<Version>> {
        let index = self.piece(key);
        let piece = self.pieces.get_mut(index)?;
        let at = position(piece, key).ok()?;
        Some(&mut Arc::make_mut(piece)[at].1)
    }

    /// Adds the newest version of a key.
    pub(super) fn push(&mut self, key: &Key, version: Version) {
        let index = self.piece(key);
        let Some(piece) = self.pieces.get_mut(index) else {
            self.pieces.push(Arc::new(vec![(key.clone(), vec![version])]));
            return;
        };
        let piece = Arc::make_mut(piece);
        match position(piece, key) {
            Ok(at) => piece[at].1.push(version),
            Err(at) => piece.insert(at, (key.clone(), vec![version])),
        }
        if piece.len() > PIECE {
            let upper = piece.split_off(PIECE / 2);
            self.pieces.insert(index + 1, Arc::new(upper));
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        let index = self.piece(key);
        let Some(piece) = self.pieces.get_mut(index) else { return };
        let Ok(at) = position(piece, key) else { return };
        let piece = Arc::make_mut(piece);
        piece.remove(at);
        if piece.is_empty() {
            self.pieces.remove(index);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Vec<Version>)> {
        self.pieces.iter().flat_map(|piece| piece.iter()).map(|(key, versions)| (key, versions))
    }

    /// The keys from `from` on.
    pub(super) fn range(&self, from: &str) -> impl Iterator<Item = (&Key, &Vec<Version>)> {
        let index = self.piece(from);
        let skip = self.pieces.get(index).map_or(0, |piece| position(piece, from).unwrap_or_else(|at| at));
        let rest = self.pieces.get(index..).unwrap_or_default();
        rest.iter().flat_map(|piece| piece.iter()).skip(skip).map(|(key, versions)| (key, versions))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Which piece has a key, or would.
    fn piece(&self, key: &str) -> usize {
        self.pieces.partition_point(|piece| *piece[0].0 <= *key).saturating_sub(1)
    }
}

/// Where in a piece a key is, or would be.
fn position(piece: &[Versions], key: &str) -> Result<usize, usize> {
    piece.binary_search_by(|(other, _)| (**other).cmp(key))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, ops::Bound};

    use model::Revision;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn version(revision: u64) -> Version {
        let revision = Revision(revision);
        Version { revision, create_revision: revision, version: 1, value: None }
    }

    fn all(keys: &Keys) -> Vec<Versions> {
        keys.iter().map(|(key, versions)| (key.clone(), versions.clone())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn they_are_as_in_a_map_and_a_clone_stays_as_it_was(steps in vec((0..900_u32, 0..4_u8), 1..1500)) {
            let (mut keys, mut map) = (Keys::default(), BTreeMap::<Key, Vec<Version>>::new());
            let mut clones = Vec::new();
            for (number, (key, step)) in (1..).zip(steps) {
                let key = Key::from(format!("k{key}"));
                if step == 0 {
                    keys.remove(&key);
                    map.remove(&key);
                } else {
                    keys.push(&key, version(number));
                    map.entry(key.clone()).or_default().push(version(number));
                }
                if number % 400 == 0 {
                    clones.push((keys.clone(), all(&keys)));
                }
                prop_assert_eq!(keys.get(&key), map.get_key_value(&key));
                prop_assert_eq!(keys.get_mut(&key).map(|v| v.clone()), map.get(&key).cloned());
                prop_assert!(keys.pieces.iter().all(|piece| (1..=PIECE).contains(&piece.len())));
            }
            prop_assert!(keys.iter().eq(map.iter()));
            for from in ["", "k", "k5", "k77", "k9", "k999", "z"] {
                prop_assert!(keys.range(from).eq(map.range::<str, _>((Bound::Included(from), Bound::Unbounded))));
            }
            for (clone, was) in clones {
                prop_assert_eq!(all(&clone), was);
            }
        }
    }
}
