//! Consistent hashing: a key keeps its endpoint while that is there, and when one goes only its keys move. All threads and
//! workers agree without a word, because what they hash is the key and the endpoints' addresses.

use std::net::SocketAddr;

/// FNV-1a, with the finish of MurmurHash3: short keys that differ little must fall far apart. Not for secrets, and not
/// against those who choose their keys: they could as well send all their requests with one key.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// What an endpoint is known by.
fn identity(address: &SocketAddr) -> u64 {
    hash(address.to_string().as_bytes())
}

/// Points on a ring, each an endpoint's; a key belongs to the next point (Karger et al. 1997).
#[derive(Debug)]
pub(crate) struct Ring {
    /// In order; with the place of the endpoint.
    points: Vec<(u64, u32)>,
}

/// Points of each of equal endpoints: an endpoint's share is then within some 6 % of its due.
const POINTS: u64 = 256;

/// Points of the lightest endpoint at least, where that does not need too many in all.
const LIGHT_POINTS: u64 = 64;

/// Points in all: 1 MiB.
const MOST_POINTS: u64 = 65_536;

impl Ring {
    /// The ring of endpoints with their weights, each at the place where it comes.
    pub(crate) fn new(members: &[(SocketAddr, u64)]) -> Self {
        let count = members.len().max(1) as u64;
        let sum = members.iter().map(|(_, weight)| *weight).sum::<u64>().max(1);
        let lightest = members.iter().map(|(_, weight)| *weight).min().unwrap_or(1).max(1);
        let total = (POINTS * count).max(LIGHT_POINTS.saturating_mul(sum / lightest)).min(MOST_POINTS);
        let mut points = Vec::new();
        for (place, (address, weight)) in (0..).zip(members) {
            let identity = identity(address);
            // An endpoint's first points are the same whatever their number, so that a change of weight moves few keys.
            let share = u128::from(total) * u128::from(*weight) / u128::from(sum);
            let share = u64::try_from(share).unwrap_or(total).max(1);
            points.extend((0..share).map(|point| (mix(identity.wrapping_add(mix(point + 1))), place)));
        }
        points.sort_unstable();
        Self { points }
    }

    /// Where a key belongs: the first place from its own on that is usable.
    fn find(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let from = self.points.partition_point(|(point, _)| *point < key);
        let (before, after) = self.points.split_at(from);
        after.iter().chain(before).map(|(_, place)| *place as usize).find(|place| usable(*place))
    }
}

/// A table of places in which each endpoint fills, in turn, the slots that it prefers (Eisenbud et al. 2016): quicker to
/// ask than a ring and more even, and a few more keys move when an endpoint goes.
#[derive(Debug)]
pub(crate) struct Maglev {
    table: Vec<u32>,
}

/// A prime, as the paper and Envoy have it: a hundred slots each for 650 endpoints. 256 KiB.
const SLOTS: u64 = 65_537;

/// How often another slot is tried for a key whose endpoint is not usable, before places are asked in order.
const SLOTS_TRIED: u64 = 32;

impl Maglev {
    /// The table of endpoints with their weights, each at the place where it comes.
    pub(crate) fn new(members: &[(SocketAddr, u64)]) -> Self {
        struct Filling {
            next: u64,
            skip: u64,
            weight: u128,
            /// In heaviest endpoints' turns: when its next turn is.
            due: u128,
        }
        const FREE: u32 = u32::MAX;
        let heaviest = members.iter().map(|(_, weight)| u128::from(*weight)).max().unwrap_or(1);
        let mut filling: Vec<_> = members
            .iter()
            .map(|(address, weight)| {
                let identity = identity(address);
                let skip = mix(identity.wrapping_add(1)) % (SLOTS - 1) + 1;
                Filling { next: identity % SLOTS, skip, weight: u128::from(*weight), due: 0 }
            })
            .collect();
        let mut table = vec![FREE; if members.is_empty() { 0 } else { slot(SLOTS) }];
        let (mut left, mut round) = (table.len(), 0);
        while left > 0 {
            round += 1;
            for (place, member) in (0..).zip(&mut filling) {
                if left == 0 {
                    break;
                }
                if round * member.weight < member.due {
                    continue;
                }
                member.due += heaviest;
                // The skips of a prime reach every slot, so a free one is found.
                while table[slot(member.next)] != FREE {
                    member.next = (member.next + member.skip) % SLOTS;
                }
                table[slot(member.next)] = place;
                left -= 1;
            }
        }
        Self { table }
    }

    /// Where a key belongs; if that is not usable, another place that depends on the key alone.
    fn find(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let at = |key: u64| self.table.get(slot(key % SLOTS)).map(|place| *place as usize);
        let mut tries =
            (0..SLOTS_TRIED).filter_map(|attempt| at(if attempt == 0 { key } else { mix(key + attempt) }));
        tries.find(|place| usable(*place)).or_else(|| {
            let most = self.table.iter().max().map_or(0, |place| *place as usize + 1);
            (0..most).find(|place| usable(*place))
        })
    }
}

fn slot(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Either way to find the place of a key.
#[derive(Debug)]
pub(crate) enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    /// Where a key belongs, of the places that are usable. `None` if none is.
    pub(crate) fn find(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::Ring(ring) => ring.find(key, usable),
            Self::Maglev(maglev) => maglev.find(key, usable),
        }
    }
}

#[cfg(test)]
mod tests;
