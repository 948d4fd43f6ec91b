//! Load reports: the difference of two samples, every second and at once when the worker's phase changes.

use std::time::Duration;

use api::{
    agent::Credentials,
    client::Route,
    feed::{LoadReport, WorkerPhase, feed_client::FeedClient},
    leader,
};
use model::{PoolName, WorkerId};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};
use tracing::debug;

use super::feed::connect;
use crate::shared::{Control, LoadSample, Phase};

/// One report a second: the autoscaler's windows are made of these.
const INTERVAL: Duration = Duration::from_secs(1);
/// Reports that wait for the network. A server that takes none for four seconds gets fewer, longer ones.
const OUTBOX: usize = 4;

/// The first pause between two attempts, doubled each time, with jitter.
const BACKOFF: Duration = Duration::from_millis(50);
/// Shorter than the autoscaler's patience with a worker that says nothing.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Reports one worker's load, over one stream after another.
#[derive(Debug)]
pub(super) struct Reporter {
    worker: WorkerId,
    pool: PoolName,
    control: Control,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    sequence: u64,
    sample: LoadSample,
    start_us: u64,
}

impl Reporter {
    pub(super) fn new(worker: WorkerId, pool: PoolName, control: Control) -> Self {
        let last = Mutex::new(Last { sequence: 0, sample: control.load(), start_us: 0 });
        Self { worker, pool, control, last }
    }

    /// Reports for ever, to the leader: the other servers say where it is. To be dropped when the worker ends.
    pub(super) async fn follow(self, servers: watch::Receiver<Credentials>) {
        let (mut backoff, mut route) = (BACKOFF, Route::default());
        loop {
            let credentials = servers.borrow().clone();
            route.learn(&credentials.servers);
            let Some(server) = route.choose() else { return };
            let began = Instant::now();
            let ended = match connect(&credentials, &server) {
                Ok(client) => self.report(client).await,
                Err(error) => Err(Status::unavailable(error.to_string())),
            };
            if began.elapsed() > BACKOFF_MAX {
                backoff = BACKOFF;
            }
            if let Err(status) = &ended {
                if leader::peers_of(status).is_some_and(|leader| route.hint(leader)) {
                    continue;
                }
                // The feed says it louder when a server is lost.
                debug!(%server, code = ?status.code(), reason = status.message(), "load is not reported");
            }
            sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Reports until the stream ends.
    ///
    /// # Errors
    /// Why it ended; `Ok` if the server ended it.
    async fn report(&self, mut client: FeedClient<Channel>) -> Result<(), Status> {
        let (sender, outbox) = mpsc::channel(OUTBOX);
        let send = async {
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut phase = self.control.phase();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    changed = phase.changed() => if changed.is_err() { return },
                }
                let Ok(place) = sender.reserve().await else { return };
                let phase = *phase.borrow_and_update();
                place.send(self.next(phase).await);
            }
        };
        let receive = async {
            let mut replies = client.report(ReceiverStream::new(outbox)).await?.into_inner();
            while let Some(reply) = replies.message().await? {
                if reply.retire_above_connections > 0 {
                    self.control.retire_above(reply.retire_above_connections);
                }
            }
            Ok(())
        };
        tokio::select! {
            () = send => Ok(()),
            result = receive => result,
        }
    }

    /// The report since the last one.
    async fn next(&self, phase: Phase) -> LoadReport {
        let mut last = self.last.lock().await;
        let sample = self.control.load();
        if phase == Phase::Ready && last.start_us == 0 {
            last.start_us = micros(sample.at.duration_since(self.control.started()));
        }
        last.sequence += 1;
        let mut report = difference(&last.sample, &sample);
        report.worker = self.worker.to_string();
        report.pool = self.pool.to_string();
        report.sequence = last.sequence;
        report.phase = wire(phase).into();
        report.threads = u32::try_from(self.control.threads()).unwrap_or(u32::MAX);
        report.start_us = last.start_us;
        last.sample = sample;
        report
    }
}

/// What happened between two samples, and what is now.
fn difference(before: &LoadSample, now: &LoadSample) -> LoadReport {
    let latency = now.latency.since(&before.latency);
    let tenants = now.tenant_requests.iter().filter_map(|(tenant, count)| {
        let since = count.saturating_sub(before.tenant_requests.get(tenant).copied().unwrap_or(0));
        (since > 0).then(|| (tenant.clone(), since))
    });
    LoadReport {
        window_us: micros(now.at.duration_since(before.at)),
        requests: now.requests.saturating_sub(before.requests),
        errors: now.errors.saturating_sub(before.errors),
        cpu_us: now.cpu_us.saturating_sub(before.cpu_us),
        queue_delay_us: now.queue_delay_us,
        in_flight: now.in_flight,
        connections: now.connections,
        memory_bytes: now.memory_bytes,
        shed: now.shed.saturating_sub(before.shed),
        bytes_in: now.bytes_in.saturating_sub(before.bytes_in),
        bytes_out: now.bytes_out.saturating_sub(before.bytes_out),
        tenant_requests: tenants.collect(),
        latency_p50_us: latency.quantile_us(500),
        latency_p99_us: latency.quantile_us(990),
        ..LoadReport::default()
    }
}

fn wire(phase: Phase) -> WorkerPhase {
    match phase {
        Phase::Starting => WorkerPhase::Starting,
        Phase::Ready => WorkerPhase::Ready,
        Phase::Draining | Phase::Drained => WorkerPhase::Draining,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Instant};

    use super::*;
    use crate::metrics::{Histogram, HistogramSample};

    fn sample(at: Instant, requests: u64, tenants: &[(&str, u64)]) -> LoadSample {
        LoadSample {
            at,
            requests,
            errors: requests / 10,
            shed: 0,
            cpu_us: requests * 40,
            queue_delay_us: 7,
            in_flight: 3,
            connections: 5,
            memory_bytes: 1 << 20,
            bytes_in: 0,
            bytes_out: 0,
            latency: HistogramSample::default(),
            tenant_requests: tenants.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect::<HashMap<_, _>>(),
        }
    }

    #[test]
    fn a_report_is_the_difference_of_two_samples() {
        let start = Instant::now();
        let before = sample(start, 100, &[("a", 60), ("b", 40)]);
        let mut now = sample(start + Duration::from_secs(1), 150, &[("a", 60), ("b", 70), ("c", 20)]);
        let histogram = Histogram::default();
        (0..50).for_each(|_| histogram.record(1_000));
        histogram.sample(&mut now.latency);
        let report = difference(&before, &now);
        assert_eq!((report.requests, report.errors, report.cpu_us), (50, 5, 2_000));
        assert_eq!((report.window_us, report.in_flight, report.connections), (1_000_000, 3, 5));
        let tenants: Vec<_> = report.tenant_requests.iter().map(|(t, n)| (t.as_str(), *n)).collect();
        assert_eq!(tenants, [("b", 30), ("c", 20)]);
        assert!((1_000..1_300).contains(&report.latency_p99_us), "{}", report.latency_p99_us);
    }
}
