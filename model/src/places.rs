//! Where entries lie whose keys are all known beforehand: found by hash, no two in one place.
//!
//! Neighbours by hash share a byte, chosen so that each of them has a place of its own (hash, displace and compress:
//! Belazzougui, Botelho and Dietzfelbinger, 2009). Those bytes are so few that they stay in a cache. So where an entry is, is
//! known before any of its memory is there, and that of several can be fetched at once: a table with probes has to
//! wait for one line after another.

use std::ops::Range;

use crate::span::short;

/// The places of a set of hashes: those below [`hashed`](Self::hashed), some of which are free, and then the strays'.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// By bucket.
    shifts: Box<[u8]>,
    hashed: u32,
    strays: u32,
}

/// Hashes that share a byte, on average.
const BUCKET: usize = 3;

/// One place in five stays free: of fuller tables the last buckets would try many bytes in vain.
const USED: usize = 4;

impl Places {
    /// The places of `hashes`, and of each its own.
    pub(crate) fn new(hashes: &[u64]) -> (Self, Vec<u32>) {
        let (buckets, hashed) = (hashes.len().div_ceil(BUCKET), hashes.len() + hashes.len().div_ceil(USED));
        let mut places = Self { shifts: vec![0; buckets].into(), hashed: short(hashed), strays: 0 };
        let mut by_hash: Vec<usize> = (0..hashes.len()).collect();
        by_hash.sort_unstable_by_key(|at| hashes[*at]);
        let mut groups: Vec<&[usize]> =
            by_hash.chunk_by(|a, b| places.bucket(hashes[*a]) == places.bucket(hashes[*b])).collect();
        // The largest first: the more room there is.
        groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        let (mut taken, mut own) = (vec![false; hashed], vec![0; hashes.len()]);
        for group in groups {
            let shift = (0..=u8::MAX).find(|shift| {
                let spots = group.iter().map(|at| places.spot(hashes[*at], *shift));
                take(&mut taken, spots)
            });
            if let Some(shift) = shift {
                places.shifts[places.bucket(hashes[group[0]])] = shift;
            }
            for at in group {
                own[*at] = match shift {
                    Some(shift) => short(places.spot(hashes[*at], shift)),
                    None => {
                        places.strays += 1;
                        places.hashed + places.strays - 1
                    }
                };
            }
        }
        (places, own)
    }

    /// How many places there are.
    pub(crate) fn count(&self) -> usize {
        self.strays().end as usize
    }

    /// The place of a hash that is one of the set and no stray. `None` if the set is empty.
    pub(crate) fn of(&self, hash: u64) -> Option<u32> {
        let shift = self.shifts.get(self.bucket(hash))?;
        u32::try_from(self.spot(hash, *shift)).ok()
    }

    /// Places of those that no byte would do for: almost never any. Two of one hash are among them, for whoever could make
    /// such.
    pub(crate) fn strays(&self) -> Range<u32> {
        self.hashed..self.hashed + self.strays
    }

    fn bucket(&self, hash: u64) -> usize {
        scale(hash, self.shifts.len())
    }

    fn spot(&self, hash: u64, shift: u8) -> usize {
        // Odd constants without a pattern: those of the golden ratio and of SplitMix64.
        let shift = u64::from(shift).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        scale((hash ^ shift).wrapping_mul(0xbf58_476d_1ce4_e5b9), self.hashed as usize)
    }
}

/// Evenly into `0..len`, by the upper bits (Lemire's multiplication in place of a division); 0 if that is empty.
fn scale(hash: u64, len: usize) -> usize {
    usize::try_from((u128::from(hash) * len as u128) >> 64).unwrap_or(0)
}

/// Takes all of `spots` if all are free and different, or none.
fn take(taken: &mut [bool], spots: impl Iterator<Item = usize> + Clone) -> bool {
    let fit = spots.clone().take_while(|spot| !std::mem::replace(&mut taken[*spot], true)).count();
    let all = spots.clone().count();
    if fit < all {
        spots.take(fit).for_each(|spot| taken[spot] = false);
    }
    fit == all
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    /// Of how many hashes are strays; each is found, and no two in one place.
    fn strays(hashes: &[u64]) -> usize {
        let (places, own) = Places::new(hashes);
        let mut taken = vec![false; places.count()];
        for (hash, at) in hashes.iter().zip(own) {
            assert!(!std::mem::replace(&mut taken[at as usize], true), "two in place {at}");
            assert!(places.of(*hash) == Some(at) || places.strays().contains(&at));
        }
        places.strays().len()
    }

    #[test]
    fn each_hash_has_a_place_of_its_own() {
        let hasher = foldhash::fast::FixedState::with_seed(7);
        for count in [0, 1, 2, 3, 4, 5, 10, 100, 1_000, 13_333, 200_000] {
            let hashes: Vec<u64> =
                (0..count).map(|key| hasher.hash_one((3_u64, key.to_string().as_bytes()))).collect();
            assert_eq!(strays(&hashes), 0, "of {count}");
        }
    }

    #[test]
    fn hashes_that_no_byte_tells_apart_are_strays() {
        let mut hashes = vec![5 << 40; 1_000];
        hashes.extend((0..1_000_u64).map(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        assert_eq!(strays(&hashes[..1_000]), 1_000);
        assert!((1_000..1_100).contains(&strays(&hashes)));
    }
}
