//! One tenant's flood, and the other tenant's honest load beside it.

use std::time::Duration;

use super::{
    is_long,
    load::{Load, Manner},
    tell, tenants,
};

/// What a test asks for.
struct Terms {
    toll_us: u64,
    time: Duration,
    /// Of what the honest load is served alone.
    least_goodput: f64,
    /// Times its p99 alone.
    most_slower: f64,
}

/// Measures once; what was not as it should be.
fn measure(manner: Manner, terms: &Terms) -> Result<(), String> {
    let process = tenants(&["a", "b"], terms.toll_us);
    let to = process.tcp(80);
    let capacity = 1e6 / terms.toll_us as f64;
    let honest = Load {
        to,
        host: "b.test",
        manner: Manner::Http1,
        clients: 50,
        per_second: capacity * 0.3,
        time: terms.time,
    };
    // A burst may fill the queue for a second before it is taken for a flood.
    let skip = Duration::from_millis(1500);
    let alone = honest.clone().run();
    // Ten times its part of the worker.
    let flood = Load {
        host: "a.test",
        manner,
        clients: 800,
        per_second: capacity * 5.0,
        time: terms.time + Duration::from_millis(500),
        ..honest.clone()
    };
    let flood = flood.start_aside();
    let beside = honest.run();
    let flood = flood.join().unwrap();
    let goodput = |outcome: &super::load::Outcome| outcome.goodput(skip, terms.time);
    let (before, during) = (alone.p99(skip).as_secs_f64() * 1e3, beside.p99(skip).as_secs_f64() * 1e3);
    let share = goodput(&beside) / goodput(&alone);
    tell(&format!(
        "| {manner:?} | {:.0}/s | {:.0}/s ({:.1} %) | {before:.1} ms | {during:.1} ms ({:.1}x) | {:.0}/s, {} refused | {:.1} %, {:.1} % before |",
        goodput(&alone),
        goodput(&beside),
        100.0 * share,
        during / before,
        goodput(&flood),
        flood.refused,
        100.0 * beside.kept_waiting,
        100.0 * alone.kept_waiting,
    ));
    let be = |is_so: bool, what: String| if is_so { Ok(()) } else { Err(format!("{manner:?}: {what}")) };
    be(share >= terms.least_goodput, format!("{share} of what it was"))?;
    be(flood.refused > 0, "the flood was none".to_owned())?;
    // What a scheduler's slice costs is nobody's fault.
    be(during <= terms.most_slower * before.max(2.0), format!("{during} ms after {before}"))?;
    be(beside.refused == 0, "the honest tenant is refused for the other's flood".to_owned())
}

/// A machine that does other things as well makes any one run late; a worker that is not fair makes all of them late.
const RUNS: usize = 3;

fn check(manner: Manner, terms: &Terms) {
    let runs = if is_long() { 1 } else { RUNS };
    let failures: Vec<_> = (0..runs).map_while(|_| measure(manner, terms).err()).collect();
    assert!(failures.len() < runs, "{failures:?}");
}

#[test]
fn one_tenants_flood_leaves_the_other_its_share() {
    if is_long() {
        tell(
            "| flood by | served alone | beside the flood | p99 alone | beside the flood | the flood | its clients waited for a core |",
        );
        tell("|---|---|---|---|---|---|---|");
        let terms =
            Terms { toll_us: 1_000, time: Duration::from_secs(8), least_goodput: 0.95, most_slower: 2.0 };
        for manner in [Manner::Http1, Manner::Http1Close, Manner::Http2] {
            check(manner, &terms);
        }
    } else {
        // Long enough that p99 is not the slowest of all.
        let terms =
            Terms { toll_us: 5_000, time: Duration::from_secs(5), least_goodput: 0.8, most_slower: 5.0 };
        check(Manner::Http1, &terms);
    }
}
