//! Five times the load that a worker can bear: it serves as much as ever, and the rest is refused.

use std::time::Duration;

use super::{
    is_long,
    load::{Load, Manner, Outcome},
    process::Process,
    tell, tenants,
};

/// What a test asks for.
struct Terms {
    toll_us: u64,
    flood: Duration,
    /// Of the goodput at its peak.
    least_goodput: f64,
    most_p99: Duration,
}

fn load(process: &Process, manner: Manner, per_second: f64, time: Duration) -> Outcome {
    Load { to: process.tcp(80), host: "a.test", manner, clients: 800, per_second, time }.run()
}

/// The most that it serves: the best of several rates around what the toll allows.
fn peak(process: &Process, manner: Manner, toll_us: u64) -> f64 {
    let most = 1e6 / toll_us as f64;
    let time = Duration::from_millis(if is_long() { 3000 } else { 1500 });
    let shares: &[f64] = if is_long() { &[0.8, 0.9, 1.0] } else { &[0.95] };
    let goodput = |share| load(process, manner, most * share, time).goodput(Duration::from_millis(300), time);
    shares.iter().map(|share| goodput(*share)).fold(0.0, f64::max)
}

/// Whether it holds in one of three tries: the machine has others who work, and a core that its host takes away for a part of the
/// flood is missed there and not at the peak.
fn holds(manner: Manner, terms: &Terms) {
    let tries: Vec<_> = (0..3).map_while(|_| check(manner, terms).err()).collect();
    assert!(tries.len() < 3, "{manner:?}: {tries:#?}");
}

fn check(manner: Manner, terms: &Terms) -> Result<(), String> {
    let process = tenants(&["a"], terms.toll_us);
    let peak = peak(&process, manner, terms.toll_us);
    // The first second of a flood may be a burst, which is queued.
    let settled = Duration::from_secs(2);
    let flood = load(&process, manner, peak * 5.0, terms.flood);
    let (goodput, p99) = (flood.goodput(settled, terms.flood), flood.p99(settled));

    let time = Duration::from_secs(if is_long() { 2 } else { 1 });
    let after = load(&process, manner, peak / 2.0, time);
    // What is due a second after the flood is served as ever.
    let late = after.p99(time / 2);
    tell(&format!(
        "| {manner:?} | {peak:.0}/s | {goodput:.0}/s ({:.0} %) | {} of {}, {:.1}x offered | {:.0} ms | {} of {}, {:.1} ms |",
        100.0 * goodput / peak,
        flood.refused,
        flood.refused + flood.served.len() + flood.failed,
        5.0 * flood.offered,
        p99.as_secs_f64() * 1e3,
        after.refused + after.failed,
        after.served.len(),
        late.as_secs_f64() * 1e3,
    ));
    let verdicts = [
        (goodput >= peak * terms.least_goodput, format!("{goodput:.0} a second of {peak:.0}")),
        (flood.refused > 0, "nothing was refused with 503 and Retry-After".to_owned()),
        (flood.offered > 0.7, format!("the clients could offer {} of it", flood.offered)),
        (flood.failed <= flood.served.len() / 100, format!("{} failed", flood.failed)),
        (p99 < terms.most_p99, format!("p99 of {p99:?}")),
        (
            after.failed == 0 && after.refused < 20,
            format!("{} refused and {} failed after the flood", after.refused, after.failed),
        ),
        (late < terms.most_p99 / 2, format!("{late:?} after the flood")),
    ];
    let broken: Vec<_> = verdicts.into_iter().filter(|(held, _)| !held).map(|(_, what)| what).collect();
    if broken.is_empty() { Ok(()) } else { Err(broken.join(", ")) }
}

#[test]
fn five_times_the_load_costs_no_goodput() {
    if is_long() {
        tell(
            "| manner | peak | goodput at 5x | refused | p99 of what is served | refused in the 2 s after, p99 of the last |",
        );
        tell("|---|---|---|---|---|---|");
        let terms = Terms {
            toll_us: 5_000,
            flood: Duration::from_secs(8),
            least_goodput: 0.9,
            most_p99: Duration::from_millis(300),
        };
        for manner in [Manner::Http1, Manner::Http1Close, Manner::Http2, Manner::Http2Close] {
            holds(manner, &terms);
        }
    } else {
        let terms = Terms {
            toll_us: 5_000,
            flood: Duration::from_secs(3),
            least_goodput: 0.6,
            most_p99: Duration::from_secs(2),
        };
        holds(Manner::Http1, &terms);
    }
}
