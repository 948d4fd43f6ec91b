//! Leaders die, one after the other, while clients write and read through all servers and tenants' traffic goes on.
//! What each client did and saw is written down and judged by [`sim::history`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sim::{
    clients::{Clients, Entrance},
    cluster::Cluster,
    harness::tell,
    history::{self, Answer, Did, Op},
};

use super::{PATIENCE, Traffic, one_at_a_time, serving};
use crate::e2e::long;

/// How a leader is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// SIGKILL; it starts again when another one leads.
    Killed,
    /// SIGSTOP; it goes on when another one leads, and believes at first that it still does.
    Frozen,
}

#[test]
fn leaders_die_under_writes_and_nothing_that_was_acknowledged_is_lost_or_read_stale() -> Result<()> {
    let _turn = one_at_a_time();
    let (deaths, operations) = if long() { (100, 100_000) } else { (4, 500) };
    let mut cluster = serving(3)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let clients = {
        let _context = runtime.enter();
        Clients::start(entrance(&cluster)?, 16)
    };
    let mut times = Vec::new();
    let (mut requests, mut round) = (0, 0);
    while times.len() < deaths || clients.begun() < operations {
        // The traffic is of a known length, so it comes in rounds.
        let mut traffic = Traffic::start(&cluster, 30)?;
        let round_ends = Instant::now() + Duration::from_secs(24);
        while Instant::now() < round_ends && (times.len() < deaths || clients.begun() < operations) {
            let fate = if times.len() % 2 == 0 { Fate::Killed } else { Fate::Frozen };
            times.push((fate, take_leader(&mut cluster, &clients, fate)?));
        }
        cluster.wait(PATIENCE, "end of the traffic", |_| Ok(!traffic.running()?))?;
        let report = traffic.finish()?;
        requests += report["planned"].as_u64().context("the report has a count")?;
        round += 1;
        if long() {
            tell(&format!("round {round}: {} leaders gone, {} operations", times.len(), clients.begun()));
        }
    }
    let recorded = runtime.block_on(clients.finish())?;
    let checked = history::check(&recorded.ops, &recorded.log).map_err(|violations| {
        let shown: Vec<String> = violations.iter().take(10).map(ToString::to_string).collect();
        anyhow::anyhow!("{} violations:\n{}", violations.len(), shown.join("\n"))
    })?;
    ensure!(checked.written > 0 && checked.read > 0, "nothing was checked: {checked:?}");
    tell(&format!(
        "{} writes acknowledged, {} unanswered ({} of them happened), {} linearizable reads: none lost, none twice, none \
         stale; {requests} requests of the tenant, none failed",
        checked.written, checked.unknown, checked.happened, checked.read
    ));
    for (what, fates) in [
        ("killed", &[Fate::Killed][..]),
        ("frozen", &[Fate::Frozen]),
        ("gone", &[Fate::Killed, Fate::Frozen]),
    ] {
        let of_fate = times.iter().filter(|(of, _)| fates.contains(of));
        let mut back: Vec<Duration> =
            of_fate.map(|(_, at)| write_after(&recorded.ops, *at)).collect::<Result<_>>()?;
        back.sort_unstable();
        let quantile = |permille: usize| back[((back.len() * permille).div_ceil(1000)).saturating_sub(1)];
        let (p50, p99, most) = (quantile(500), quantile(990), quantile(1000));
        tell(&format!(
            "leader {what} {} times: writes back after p50 {p50:?}, p99 {p99:?}, at most {most:?}",
            back.len()
        ));
        if long() && fates.len() == 2 {
            ensure!(p99 <= Duration::from_millis(1500), "writes were away for longer than 1.5 s");
        }
    }
    cluster.stop_all()
}

/// Takes the leader away and brings it back; returns when it went.
fn take_leader(cluster: &mut Cluster, clients: &Clients, fate: Fate) -> Result<Duration> {
    let leader = cluster.leader()?;
    let at = clients.elapsed();
    match fate {
        Fate::Killed => cluster.kill(leader)?,
        Fate::Frozen => cluster.freeze(leader)?,
    }
    let other = cluster.running().into_iter().find(|id| *id != leader).context("three servers run")?;
    cluster.wait(PATIENCE, "another leader", |cluster| {
        let status = cluster.status_of(other)?;
        Ok(status["leader"] != 0 && status["leader"] != leader)
    })?;
    // Writes go on without it for a while.
    let begun = clients.begun();
    cluster.wait(PATIENCE, "operations without it", |_| Ok(clients.begun() > begun + 50))?;
    match fate {
        Fate::Killed => cluster.run(leader)?,
        Fate::Frozen => cluster.thaw(leader)?,
    }
    // All three are there again before the next one goes: two of them are a majority.
    cluster.wait(PATIENCE, "the one that was away", |cluster| {
        let (Ok(here), Ok(there)) = (cluster.status_of(leader), cluster.status_of(other)) else {
            return Ok(false);
        };
        let revision = |status: &serde_json::Value| status["revision"].as_u64().unwrap_or_default();
        Ok(here["leader"] == there["leader"] && revision(&here) + 100 >= revision(&there))
    })?;
    Ok(at)
}

/// How long it took until a write was answered that began after this moment.
fn write_after(ops: &[Op], at: Duration) -> Result<Duration> {
    let answered = |op: &&Op| matches!(op.did, Did::Put { answer: Answer::Revision(_), .. });
    let ends = ops.iter().filter(answered).filter(|op| op.began >= at).map(|op| op.ended);
    Ok(ends.min().context("no write was answered afterwards")? - at)
}

fn entrance(cluster: &Cluster) -> Result<Entrance> {
    let admin = cluster.running().into_iter().filter_map(|id| cluster.admin(id)).collect();
    Ok(Entrance { admin, ca_pem: cluster.ca_pem()?, token: cluster.admin_token()? })
}
