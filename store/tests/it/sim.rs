//! Servers without I/O on a virtual clock: a network that loses, repeats, delays, reorders and parts; servers that
//! crash at every moment that matters, stand still and have wrong clocks; disks that lose what was not synced, fail,
//! fill up, rot and are wiped; users that retry, compare, read and watch meanwhile, and operators who add and remove
//! servers. A run is given by its seed.
//!
//! ```text
//! cargo test -p store --test it sim -- --nocapture                    the short form
//! WEIR_SEEDS=10000 cargo test -p store --test it sim -- --nocapture   more seeds
//! WEIR_SEED=123 cargo test -p store --test it sim -- --nocapture      one run again
//! ```
//!
//! What is checked, all the time ([`ledger`] and [`promises`]) and when all is well again ([`world`]):
//!  - one leader a term, one vote a server and term; nothing is promised before it is durable;
//!  - equal state hashes wherever two servers have applied the same entry, and one history;
//!  - linearizable: a write has a later revision than all that was answered before it began, its compares held
//!    there, a read sees all that was answered before it began, and exactly what its revision says;
//!  - a request is applied once; what was acknowledged stays;
//!  - watches are told whole revisions, in order, each once, none left out, over restarts and on other servers, or
//!    that history is gone;
//!  - members ([`members`], against [`roll`], which replays the log): majorities are of the right voters, one change at a
//!    time, no id twice, who was removed leads nobody, who is promoted has caught up, removals leave a healthy majority;
//!  - when all is well, learners vote, the lost are replaced, the removed know it, writes are taken, the servers agree, and nobody waits for ever.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

mod clients;
mod counts;
mod disk;
mod faults;
mod ledger;
mod members;
mod network;
mod operators;
#[cfg(feature = "planted")]
mod planted;
mod promises;
mod rng;
mod roll;
mod server;
mod turn;
mod watchers;
mod world;

use counts::Counts;
use world::World;

/// One whole run.
///
/// # Panics
///
/// With what went wrong.
fn simulate(seed: u64) -> Counts {
    let mut world = World::new(seed);
    world.run();
    world.counts
}

/// A run's counts, or what went wrong in it.
fn attempt(seed: u64) -> Result<Counts, String> {
    catch_unwind(AssertUnwindSafe(|| simulate(seed))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or(panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn sim_servers_stay_linearizable_through_anything() {
    if let Some(seed) = number("WEIR_SEED") {
        println!("seed {seed}: {}", simulate(seed));
        return;
    }
    let seeds = number("WEIR_SEEDS").unwrap_or(1000);
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let total = Mutex::new(Counts::default());
    let work = || {
        while failed.load(Ordering::Relaxed) == u64::MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            match attempt(seed) {
                Ok(counts) => total.lock().unwrap_or_else(PoisonError::into_inner).add(counts),
                Err(problem) => {
                    println!("seed {seed}: {problem}");
                    failed.fetch_min(seed, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let failed = failed.into_inner();
    assert_eq!(
        failed,
        u64::MAX,
        "again: WEIR_SEED={failed} cargo test -p store --test it sim_servers -- --nocapture"
    );
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{seeds} seeds: {total}");
    let too_few = total.too_few(seeds);
    assert!(too_few.is_empty(), "too few to mean anything: {too_few:?}");
}

#[test]
fn sim_a_run_is_given_by_its_seed() {
    assert_eq!(simulate(7), simulate(7));
}
