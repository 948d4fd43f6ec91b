//! How a Backend spreads its requests, in an installation: from `weir apply` to the workers.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use sim::{
    harness::{Installation, free_port, get},
    upstream::Upstream,
};

use super::{PATIENCE, objects, one_at_a_time};

fn site(endpoints: &[u16]) -> String {
    let policy = "  loadBalancer: {type: Maglev, hash: {type: QueryParam, name: id}}
  healthCheck:
    active: {http: {path: /healthz}, interval: 200ms}
    passive: {consecutiveConnectFailures: 2}
";
    objects::gateway(objects::HTTP) + &objects::forward("up") + &objects::backend("up", endpoints) + policy
}

const HOST: &str = "acme.localhost";

#[test]
fn a_key_keeps_its_endpoint_and_the_dead_are_left_out() -> Result<()> {
    let _turn = one_at_a_time();
    let (a, b) = (Upstream::start("a")?, Upstream::start("b")?);
    let weir = Installation::up(&[])?;
    weir.ok(&["tenant", "create", "acme"])?;
    weir.apply("acme", &site(&[a.port, b.port, free_port()?]))?;
    let port = weir.ports.http;
    weir.wait(PATIENCE, "the route", || Ok(get(port, HOST, "/")?.status == 200))?;
    let ask = |id: usize| -> Result<String> {
        let answer = get(port, HOST, &format!("/?id={id}"))?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(String::from_utf8_lossy(&answer.body).split(':').next().unwrap_or_default().to_owned())
    };
    let first = (0..30).map(&ask).collect::<Result<Vec<_>>>()?;
    ensure!(BTreeSet::from_iter(&first).len() == 2, "{first:?}");
    // A change of something else moves nobody, once the check has settled who is there.
    let settled = || (0..30).map(&ask).collect::<Result<Vec<_>>>();
    weir.wait(PATIENCE, "the checks", || Ok(settled()? == settled()?))?;
    let before = settled()?;
    weir.apply("acme", &site(&[a.port, b.port]))?;
    weir.wait(PATIENCE, "the change", || {
        Ok(weir.ok(&["describe", "backend", "up", "-t", "acme"])?.contains("1 of 1 workers"))
    })?;
    let after = settled()?;
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    // Only keys of the endpoint that is gone may move, a third, and they had other places before.
    ensure!(moved <= 15, "{moved} of 30 moved: {before:?} {after:?}");
    Ok(())
}
