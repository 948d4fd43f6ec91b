//! Servers are restarted one after another, as they are, then as another program.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use sim::{
    cluster::Cluster,
    harness::{tell, weir_binary},
};

use super::{PATIENCE, Traffic, no_errors, one_at_a_time, read, serving, write};

#[test]
fn all_servers_are_restarted_and_upgraded_while_writes_go_on() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = serving(3)?;
    let upgraded = cluster.path("weir-upgraded");
    std::fs::copy(weir_binary(), &upgraded)?;
    let mut traffic = Traffic::start(&cluster, 30)?;
    let writer = Writer::start(&cluster)?;

    for round in ["restart", "upgrade"] {
        for id in cluster.running() {
            let led = cluster.leader()? == id;
            let began = Instant::now();
            let status = cluster.stop(id)?;
            assert!(status.success(), "{round}: server {id} ended with {status}");
            let stopped = began.elapsed();
            if led {
                let next = cluster.leader()?;
                assert_ne!(next, id);
                tell(&format!(
                    "{round}: leader {id} stopped in {stopped:?}, {next} leads after {:?}",
                    began.elapsed()
                ));
            }
            if round == "upgrade" {
                cluster.replace_binary(id, &upgraded)?;
            }
            cluster.run(id)?;
            // The next one goes when this one is back: a majority is there at each moment.
            cluster.wait(PATIENCE, "return of the server", |cluster| {
                // The leader is asked first: what is written between the two questions must not count.
                let leader = cluster.leader()?;
                let (all, own) = (cluster.status_of(leader)?, cluster.status_of(id));
                Ok(own.is_ok_and(|own| own["applied_index"].as_u64() >= all["commit_index"].as_u64()))
            })?;
        }
    }
    let (last, slowest) = writer.stop()?;
    tell(&format!("{last} writes acknowledged meanwhile, the slowest after {slowest:?}"));
    assert!(last > 0);
    for id in cluster.running() {
        assert_eq!(read(&cluster, id)?, last, "server {id}");
    }
    for id in cluster.running() {
        let program = std::fs::read_link(format!("/proc/{}/exe", cluster.pid(id)?))?;
        assert_eq!(program, upgraded, "server {id}");
    }
    cluster.settle(1)?;
    cluster.wait(PATIENCE, "end of the traffic", |_| Ok(!traffic.running()?))?;
    traffic.finish()?;
    write(&cluster, last + 1)?;
    no_errors(&cluster.log());
    cluster.stop_all()
}

/// Writes one number after another, each until it is acknowledged, at whichever server answers.
struct Writer {
    stop: std::sync::Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<(u64, Duration)>>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Result<Self> {
        let admins: Vec<String> = cluster.running().into_iter().filter_map(|id| cluster.admin(id)).collect();
        let (ca, token) = (cluster.ca_pem()?, cluster.admin_token()?);
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let asked = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let (mut number, mut slowest) = (0, Duration::ZERO);
                while !asked.load(Ordering::Relaxed) {
                    number += 1;
                    let began = Instant::now();
                    acknowledged(&admins, &ca, &token, number).await?;
                    slowest = slowest.max(began.elapsed());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok((number, slowest))
            })
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
    }
}

async fn acknowledged(admins: &[String], ca: &str, token: &str, number: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let file = api::admin::SourceFile { name: "number.yaml".into(), content: super::numbered(number) };
    let request = api::admin::ApplyRequest {
        tenant: "acme".into(),
        files: vec![file],
        request_id: format!("number-{number}"),
        ..Default::default()
    };
    loop {
        let mut client = api::client::Admin::of_any(admins, ca, token)?;
        match client.objects.apply(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(status) if Instant::now() < deadline => {
                tracing::debug!(%status, "not acknowledged");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(status) => return Err(status).context("write a number"),
        }
    }
}
