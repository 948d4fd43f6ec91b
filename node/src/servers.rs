//! The agent's connection to any one of the servers: statuses up, plans down.

use std::{sync::Arc, time::Duration};

use api::{node::NodeStatus, pki};
use futures_util::{Stream, stream};
use rand::seq::SliceRandom;
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

/// Keeps in touch until it is aborted.
pub(crate) async fn keep_in_touch(
    config: Arc<NodeConfig>,
    statuses: watch::Receiver<NodeStatus>,
    events: mpsc::Sender<Event>,
) {
    let mut backoff = BACKOFF;
    let mut servers = config.servers.clone();
    // Spread over the servers, and anew after every round.
    while !servers.is_empty() {
        servers.shuffle(&mut rand::rng());
        for server in &servers {
            let mut planned = false;
            let result = converse(&config, server, statuses.clone(), &events, &mut planned).await;
            if planned {
                backoff = BACKOFF;
                if events.send(Event::Disconnected).await.is_err() {
                    return;
                }
            }
            match result {
                Ok(()) => info!(%server, "the server ended the conversation"),
                Err(error) => warn!(%server, error = chain(&error), "no server to plan for this node"),
            }
            // Full jitter over the upper half, so that the nodes of a failed server do not come in step.
            sleep(backoff.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }
    info!("no servers are configured; the last plan holds");
}

/// `planned` is set with the first plan.
async fn converse(
    config: &NodeConfig,
    server: &str,
    statuses: watch::Receiver<NodeStatus>,
    events: &mpsc::Sender<Event>,
    planned: &mut bool,
) -> Result<(), ConverseError> {
    let Identity { ca_pem, cert_pem, key_pem } = config.identities.borrow().node.clone();
    let mut client = api::client::nodes(server, &ca_pem, &pki::Identity { cert_pem, key_pem })?;
    let mut plans = client.reconcile(report(statuses)).await?.into_inner();
    while let Some(plan) = plans.message().await? {
        if !*planned {
            info!(%server, "a server plans for this node");
            *planned = true;
        }
        if events.send(Event::Plan(plan)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
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
