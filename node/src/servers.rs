//! The agent's connection to any one of the servers: statuses up, plans down.

use std::{sync::Arc, time::Duration};

use api::{client::Route, leader, node::NodeStatus, pki};
use futures_util::{Stream, stream};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use crate::{Identity, NodeConfig, agent::Event};

/// A status at least this often: its absence tells the server that the node is gone.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The first pause after a failure; doubled each time.
const BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause: short, for a cut-off node serves but does not scale.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Keeps in touch until it is aborted, with the leader: the others say where it is.
pub(crate) async fn keep_in_touch(
    config: Arc<NodeConfig>,
    servers: Vec<String>,
    statuses: watch::Receiver<NodeStatus>,
    events: mpsc::Sender<Event>,
) {
    let mut backoff = BACKOFF;
    let mut route = Route::new(servers);
    while let Some(server) = route.choose() {
        let mut planned = false;
        let talk = Talk { config: &config, server: &server, events: &events };
        let result = talk.converse(statuses.clone(), &mut route, &mut planned).await;
        if planned {
            backoff = BACKOFF;
            if events.send(Event::Disconnected).await.is_err() {
                return;
            }
        }
        match result {
            Ok(()) => info!(%server, "the server ended the conversation"),
            Err(ConverseError::Broken(status)) if let Some(leader) = leader::peers_of(&status) => {
                if route.hint(leader) {
                    continue;
                }
            }
            Err(error) => warn!(%server, error = chain(&error), "no server to plan for this node"),
        }
        // Full jitter over the upper half, so that the nodes of a failed server do not come in step.
        sleep(backoff.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
    info!("no servers are configured; the last plan holds");
}

/// One conversation with one server.
struct Talk<'a> {
    config: &'a NodeConfig,
    server: &'a str,
    events: &'a mpsc::Sender<Event>,
}

impl Talk<'_> {
    /// `planned` is set with the first plan.
    async fn converse(
        &self,
        statuses: watch::Receiver<NodeStatus>,
        route: &mut Route,
        planned: &mut bool,
    ) -> Result<(), ConverseError> {
        let server = self.server;
        let Identity { ca_pem, cert_pem, key_pem } = self.config.identities.borrow().node.clone();
        let mut client = api::client::nodes(server, &ca_pem, &pki::Identity { cert_pem, key_pem })?;
        let mut plans = client.reconcile(report(statuses)).await?.into_inner();
        while let Some(plan) = plans.message().await? {
            if !*planned {
                info!(%server, "a server plans for this node");
                *planned = true;
            }
            if route.learn(&plan.servers)
                && self.events.send(Event::Servers(route.servers().to_vec())).await.is_err()
            {
                return Ok(());
            }
            if self.events.send(Event::Plan(plan)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum ConverseError {
    #[error(transparent)]
    Channel(#[from] api::client::ClientError),
    #[error("the server does not answer")]
    Broken(#[from] tonic::Status),
}

/// The status now, at once when it changes, and at each heartbeat.
fn report(statuses: watch::Receiver<NodeStatus>) -> impl Stream<Item = NodeStatus> {
    stream::unfold((statuses, None), |(mut statuses, last)| async move {
        if let Some(last) = last {
            // An error is the end of the agent; the stream ends with it.
            if let Ok(changed) = timeout_at(last + HEARTBEAT, statuses.changed()).await {
                changed.ok()?;
            }
        }
        let status = statuses.borrow_and_update().clone();
        Some((status, (statuses, Some(Instant::now()))))
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
