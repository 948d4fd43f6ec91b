//! What clients of the store did and saw, and whether one store on which each operation happens at one moment could have
//! answered them so.
//!
//! Checking linearizability is hard in general. Here each answer carries a revision: writes say which one is theirs, reads
//! which one they saw, and a watch tells all of them in order. So the order is given, and what is left is to see that it
//! agrees with what was answered and with real time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// An operation as its client saw it. Times are since the run began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// When it was asked first.
    pub began: Duration,
    /// When it was answered last.
    pub ended: Duration,
    /// The key.
    pub key: String,
    /// What became of it.
    pub did: Did,
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// Put this value, which no other operation puts, under the same request id until it was answered.
    Put {
        /// The value.
        value: String,
        /// How it was answered.
        answer: Answer,
    },
    /// Saw this: a linearizable read.
    Get {
        /// The value and the revision that put it; `None`: there is no such key.
        found: Option<(String, u64)>,
        /// The store's revision when it was read.
        revision: u64,
    },
}

/// How a write was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is this revision.
    Revision(u64),
    /// Nobody knows: it may have happened, once, at any time since it began.
    Unknown,
    /// It did not happen.
    Refused,
}

/// All revisions in their order, as a watch told them: key and value.
pub type Log = BTreeMap<u64, (String, String)>;

/// What no store could have answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A write that was answered is not there.
    Lost(Op),
    /// One value was put by several revisions.
    Twice {
        /// The value.
        value: String,
        /// The revisions.
        revisions: Vec<u64>,
    },
    /// What was refused happened.
    Refused(Op),
    /// A read saw something else than was there at its revision.
    Wrong {
        /// The read.
        read: Op,
        /// What was there.
        expected: Option<(String, u64)>,
    },
    /// It was answered with a revision from before something that had been answered before it began.
    Stale {
        /// The operation.
        op: Op,
        /// What had been answered by then.
        floor: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(op) => write!(f, "an acknowledged write is lost: {op:?}"),
            Self::Twice { value, revisions } => write!(f, "{value} was put by revisions {revisions:?}"),
            Self::Refused(op) => write!(f, "a refused write happened: {op:?}"),
            Self::Wrong { read, expected } => {
                write!(f, "a read saw what was not there ({expected:?}): {read:?}")
            }
            Self::Stale { op, floor } => {
                write!(f, "revision {floor} had been answered before this began: {op:?}")
            }
        }
    }
}

/// How much was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Writes with a revision.
    pub written: usize,
    /// Writes that nobody answered.
    pub unknown: usize,
    /// Of those, how many happened.
    pub happened: usize,
    /// Reads.
    pub read: usize,
}

/// Whether the operations agree with the log and with real time.
///
/// # Errors
///
/// All that does not.
pub fn check(ops: &[Op], log: &Log) -> Result<Checked, Vec<Violation>> {
    let mut violations = Vec::new();
    let mut checked = Checked::default();
    let mut by_value: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut by_key: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
    for (revision, (key, value)) in log {
        by_value.entry(value).or_default().push(*revision);
        by_key.entry(key).or_default().push((*revision, value));
    }
    for (value, revisions) in &by_value {
        if revisions.len() > 1 {
            let (value, revisions) = ((*value).to_owned(), revisions.clone());
            violations.push(Violation::Twice { value, revisions });
        }
    }
    for op in ops {
        match &op.did {
            Did::Put { value, answer } => {
                let happened = by_value.contains_key(value.as_str());
                match answer {
                    Answer::Revision(revision) => {
                        checked.written += 1;
                        if log.get(revision) != Some(&(op.key.clone(), value.clone())) {
                            violations.push(Violation::Lost(op.clone()));
                        }
                    }
                    Answer::Unknown => {
                        checked.unknown += 1;
                        checked.happened += usize::from(happened);
                    }
                    Answer::Refused if happened => violations.push(Violation::Refused(op.clone())),
                    Answer::Refused => {}
                }
            }
            Did::Get { found, revision } => {
                checked.read += 1;
                let versions = by_key.get(op.key.as_str()).map_or(&[][..], Vec::as_slice);
                let seen = versions.partition_point(|(at, _)| at <= revision);
                let expected = versions[..seen].last().map(|(at, value)| ((*value).to_owned(), *at));
                if *found != expected {
                    violations.push(Violation::Wrong { read: op.clone(), expected });
                }
            }
        }
    }
    violations.extend(stale(ops));
    if violations.is_empty() { Ok(checked) } else { Err(violations) }
}

/// Operations that were answered from before what had been answered when they began.
fn stale(ops: &[Op]) -> impl Iterator<Item = Violation> {
    let revision = |op: &Op| match op.did {
        Did::Put { answer: Answer::Revision(revision), .. } | Did::Get { revision, .. } => Some(revision),
        Did::Put { .. } => None,
    };
    let mut ends: Vec<(Duration, u64)> =
        ops.iter().filter_map(|op| Some((op.ended, revision(op)?))).collect();
    ends.sort_unstable();
    // The highest revision that was answered up to each end.
    let floors: Vec<(Duration, u64)> = ends
        .into_iter()
        .scan(0, |floor, (at, revision)| {
            *floor = revision.max(*floor);
            Some((at, *floor))
        })
        .collect();
    let found: Vec<Violation> = ops
        .iter()
        .filter_map(|op| {
            let before = floors.partition_point(|(at, _)| *at < op.began);
            let floor = floors[..before].last().map_or(0, |(_, floor)| *floor);
            let own = revision(op)?;
            // A write makes a revision of its own.
            let least = floor + u64::from(matches!(op.did, Did::Put { .. }));
            (own < least).then(|| Violation::Stale { op: op.clone(), floor })
        })
        .collect();
    found.into_iter()
}

/// The longest spans in which no write was answered, longest first; `at` of each is when it began.
#[must_use]
pub fn pauses(ops: &[Op], longer_than: Duration) -> Vec<(Duration, Duration)> {
    let answered = |op: &&Op| matches!(op.did, Did::Put { answer: Answer::Revision(_), .. });
    let ends: BTreeSet<Duration> = ops.iter().filter(answered).map(|op| op.ended).collect();
    let mut pauses: Vec<(Duration, Duration)> = ends
        .iter()
        .zip(ends.iter().skip(1))
        .map(|(from, to)| (*from, *to - *from))
        .filter(|(_, length)| *length > longer_than)
        .collect();
    pauses.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
    pauses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn put(began: u64, ended: u64, value: &str, answer: Answer) -> Op {
        let did = Did::Put { value: value.into(), answer };
        Op { began: ms(began), ended: ms(ended), key: "k".into(), did }
    }

    fn get(began: u64, ended: u64, found: Option<(&str, u64)>, revision: u64) -> Op {
        let found = found.map(|(value, at)| (value.to_owned(), at));
        Op { began: ms(began), ended: ms(ended), key: "k".into(), did: Did::Get { found, revision } }
    }

    fn log(values: &[(u64, &str)]) -> Log {
        values.iter().map(|(revision, value)| (*revision, ("k".to_owned(), (*value).to_owned()))).collect()
    }

    #[test]
    fn what_one_store_could_have_answered_is_right() {
        let ops = [
            put(0, 10, "a", Answer::Revision(1)),
            put(5, 15, "b", Answer::Revision(2)),
            put(5, 99, "c", Answer::Unknown),
            put(5, 99, "d", Answer::Unknown),
            put(5, 99, "e", Answer::Refused),
            get(1, 9, None, 0),
            get(6, 30, Some(("a", 1)), 1),
            get(16, 30, Some(("b", 2)), 2),
            get(20, 30, Some(("c", 3)), 3),
        ];
        let checked = check(&ops, &log(&[(1, "a"), (2, "b"), (3, "c")])).unwrap();
        assert_eq!(checked, Checked { written: 2, unknown: 2, happened: 1, read: 4 });
    }

    #[test]
    fn what_none_could_have_answered_is_found() {
        let found = |ops: &[Op], values: &[(u64, &str)]| check(ops, &log(values)).unwrap_err();
        let a = put(0, 10, "a", Answer::Revision(1));
        assert_eq!(found(std::slice::from_ref(&a), &[(1, "b")]), [Violation::Lost(a.clone())]);
        assert_eq!(found(std::slice::from_ref(&a), &[]), [Violation::Lost(a.clone())]);
        let twice = Violation::Twice { value: "a".into(), revisions: vec![1, 2] };
        assert_eq!(found(std::slice::from_ref(&a), &[(1, "a"), (2, "a")]), [twice]);
        let refused = put(0, 10, "a", Answer::Refused);
        assert_eq!(found(std::slice::from_ref(&refused), &[(1, "a")]), [Violation::Refused(refused)]);
        let wrong = get(0, 10, None, 1);
        let expected = Some(("a".to_owned(), 1));
        assert_eq!(
            found(std::slice::from_ref(&wrong), &[(1, "a")]),
            [Violation::Wrong { read: wrong, expected }]
        );
    }

    #[test]
    fn real_time_is_an_order() {
        let found = |ops: &[Op]| check(ops, &log(&[(1, "a"), (2, "b")])).unwrap_err();
        let (a, b) = (put(0, 10, "a", Answer::Revision(1)), put(0, 10, "b", Answer::Revision(2)));
        let stale = get(11, 20, Some(("a", 1)), 1);
        assert_eq!(found(&[a.clone(), b.clone(), stale.clone()]), [Violation::Stale { op: stale, floor: 2 }]);
        // At the same moment nobody can tell.
        check(&[a.clone(), b.clone(), get(10, 20, Some(("a", 1)), 1)], &log(&[(1, "a"), (2, "b")])).unwrap();
        let late = put(11, 20, "a", Answer::Revision(1));
        assert_eq!(found(&[late.clone(), b]), [Violation::Stale { op: late, floor: 2 }]);
        // What one read saw, the next one must not miss.
        let (first, second) = (get(0, 5, Some(("b", 2)), 2), get(6, 9, Some(("a", 1)), 1));
        assert_eq!(found(&[first, second.clone()]), [Violation::Stale { op: second, floor: 2 }]);
    }

    #[test]
    fn pauses_are_between_answers() {
        let ops: Vec<Op> =
            [10, 20, 500, 510, 5000].iter().map(|end| put(0, *end, "a", Answer::Revision(1))).collect();
        assert_eq!(pauses(&ops, ms(100)), [(ms(510), ms(4490)), (ms(20), ms(480))]);
    }
}
