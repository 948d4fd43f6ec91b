//! Every parser of bytes from outside against inputs that were made of the corpus in `tests/corpus` by chance: it does not
//! panic, reads the same however the bytes are cut, and agrees with a second reader.
//!
//! An input whose outcome nobody has seen is kept and changed further, so that a run works its way into the parsers by itself.
//! `WEIR_FUZZ=1000000` makes so many inputs for each target, `WEIR_SEED` repeats a run, and with `WEIR_FUZZ_SAVE` what was kept
//! is written into the corpus.

mod h2;
mod hpack;
mod reference;
mod targets;

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};

/// Inputs for each target where nothing else is said: some seconds in a debug build.
const INPUTS: usize = 50_000;

/// No input grows beyond this.
const LONGEST: usize = 2048;

/// A parser with what is always true of it.
struct Target {
    name: &'static str,
    /// Panics if it is not; else says in a word what came of the input.
    run: fn(&[u8]) -> String,
    /// What inputs of it are made of.
    words: &'static [&'static [u8]],
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[expect(clippy::print_stdout, reason = "what a run found")]
fn fuzz(target: &Target) {
    let seed = number("WEIR_SEED").unwrap_or_else(rand::random);
    let inputs = number("WEIR_FUZZ").map_or(INPUTS, |count| count.try_into().unwrap());
    let mut random = StdRng::seed_from_u64(seed);
    let mut pool: Vec<Vec<u8>> = vec![];
    let mut outcomes = BTreeSet::new();
    let mut files: Vec<_> =
        fs::read_dir(corpus(target.name)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for file in files {
        let input = fs::read(&file).unwrap();
        outcomes.insert(run(target, &input, seed));
        pool.push(input);
    }
    assert!(!pool.is_empty(), "no corpus for {}", target.name);
    let known = pool.len();
    for _ in 0..inputs {
        let input = changed(&pool, target.words, &mut random);
        if outcomes.insert(run(target, &input, seed)) {
            pool.push(input);
        }
    }
    println!(
        "{}: {inputs} inputs, {} outcomes, {} inputs kept (seed {seed})",
        target.name,
        outcomes.len(),
        pool.len() - known
    );
    if std::env::var_os("WEIR_FUZZ_SAVE").is_some() {
        for (number, input) in pool.iter().enumerate().skip(known) {
            fs::write(corpus(target.name).join(format!("found-{number:03}")), input).unwrap();
        }
    }
}

/// What comes of the input, which is shown if the target fails.
fn run(target: &Target, input: &[u8], seed: u64) -> String {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input)))
        .unwrap_or_else(|_| panic!("{} with WEIR_SEED={seed}: b\"{}\"", target.name, input.escape_ascii()))
}

/// One of the pool, changed in a few places.
fn changed(pool: &[Vec<u8>], words: &[&[u8]], random: &mut StdRng) -> Vec<u8> {
    fn one<'p, T>(from: &'p [T], random: &mut impl Rng) -> &'p T {
        &from[random.random_range(0..from.len())]
    }
    let mut input = one(pool, random).clone();
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=input.len());
        let end = random.random_range(at..=input.len().min(at + 32));
        match random.random_range(0..7) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => drop(input.splice(at..end, [])),
            3 => drop(input.splice(at..at, one(words, random).iter().copied())),
            4 => drop(input.splice(at..end, one(words, random).iter().copied())),
            5 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            _ => {
                let other = one(pool, random);
                let from = random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(LONGEST);
    input
}

#[test]
fn requests() {
    fuzz(&targets::REQUEST);
}

#[test]
fn responses() {
    fuzz(&targets::RESPONSE);
}

#[test]
fn chunked_bodies() {
    fuzz(&targets::CHUNKED);
}

#[test]
fn proxy_headers() {
    fuzz(&targets::PROXY);
}

#[test]
fn client_hellos() {
    fuzz(&targets::HELLO);
}

#[test]
fn frames_and_settings() {
    fuzz(&targets::FRAMES);
}

#[test]
fn field_sections() {
    fuzz(&targets::FIELDS);
}

#[test]
fn paths() {
    fuzz(&targets::PATH);
}

#[test]
fn http_2_frames() {
    fuzz(&h2::FRAMES);
}

#[test]
fn field_blocks() {
    fuzz(&h2::BLOCKS);
}
