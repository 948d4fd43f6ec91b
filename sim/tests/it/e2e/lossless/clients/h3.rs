//! HTTP/3: a connection each, for as long as the server lets it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Buf;
use quinn::Endpoint;
use rustls::ClientConfig;
use tokio::time::timeout;

use super::{
    super::{
        super::{PATIENCE, http3},
        doors::HOST,
        tally::{Row, Tally},
    },
    breathe,
};

/// Asks again and again.
pub(in super::super) async fn ask(
    server: SocketAddr,
    tls: Arc<ClientConfig>,
    pause: Duration,
    tally: Arc<Tally>,
    row: Arc<Row>,
) {
    let mut kept: Option<(http3::Sender, Endpoint)> = None;
    while !tally.is_stopped() {
        match visit(server, &tls, &mut kept, &row).await {
            Ok(()) => row.answered(),
            Err(error) => {
                kept = None;
                row.failed(error);
            }
        }
        breathe(pause).await;
    }
}

async fn visit(
    server: SocketAddr,
    tls: &Arc<ClientConfig>,
    kept: &mut Option<(http3::Sender, Endpoint)>,
    row: &Row,
) -> Result<()> {
    let request = || http::Request::get(format!("https://{HOST}/")).body(());
    let begun = match kept {
        None => None,
        // It said GOAWAY, or closed the connection after that: nothing was sent.
        Some((sender, _)) => match sender.send_request(request()?).await {
            Ok(stream) => Some(stream),
            Err(_) => {
                row.reconnected();
                None
            }
        },
    };
    let mut stream = match begun {
        Some(stream) => stream,
        None => {
            let connected = http3::connect(server, HOST, tls).await?;
            let (sender, _) = kept.insert(connected);
            sender.send_request(request()?).await.context("the first request of a connection")?
        }
    };
    let exchange = async {
        stream.finish().await.context("end the request")?;
        let response = stream.recv_response().await.context("receive the head")?;
        ensure!(response.status() == 200, "{}", response.status());
        let mut length = 0;
        while let Some(data) = stream.recv_data().await.context("receive the body")? {
            length += data.remaining();
        }
        ensure!(length > 0, "an empty answer");
        Ok(())
    };
    timeout(PATIENCE, exchange).await.context("no answer in time")?
}
