//! The simulation itself on trial: each planted bug has to be found, in few seeds.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use store::planted::{Bug, plant};

use super::{attempt, number};

/// Seeds that a bug may take: more than any takes, for what a seed draws changes with the simulation.
const SEEDS: u64 = 300;

/// The first seed that finds a bug, and how.
fn find(bug: Bug, seeds: u64) -> Option<(u64, String)> {
    plant(Some(bug));
    let found = (0..seeds).find_map(|seed| attempt(seed).err().map(|problem| (seed, problem)));
    plant(None);
    found
}

#[test]
fn planted_bugs_are_found() {
    let seeds = number("WEIR_SEEDS").unwrap_or(SEEDS);
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    let work = || {
        while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            match find(*bug, seeds) {
                Some((seed, problem)) => {
                    let problem = problem.lines().next().unwrap_or_default();
                    println!("{bug:?}: found by {} seeds: {problem:.110}", seed + 1);
                }
                None => {
                    println!("{bug:?}: NOT found by {seeds} seeds");
                    missed.lock().unwrap_or_else(PoisonError::into_inner).push(*bug);
                }
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let missed = missed.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{} planted bugs, {} found", Bug::ALL.len(), Bug::ALL.len() - missed.len());
    assert!(missed.is_empty(), "not found: {missed:?}");
}
