//! HTTP/3 as a client: quinn and h3.

use std::{future::poll_fn, net::SocketAddr, sync::Arc};

use ::h3::client::SendRequest;
use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes};
use quinn::{Endpoint, crypto::rustls::QuicClientConfig};
use tokio::time::timeout;

use crate::{
    clients::{PATIENCE, Quota, tls},
    configs::Identity,
};

/// A QUIC connection with a socket of its own.
pub(crate) struct Connection {
    sender: SendRequest<h3_quinn::OpenStreams, Bytes>,
    _endpoint: Endpoint,
}

impl Connection {
    pub(crate) async fn open(to: SocketAddr, identity: &Identity) -> Result<Self> {
        let crypto = QuicClientConfig::try_from(tls(identity, b"h3")?)?;
        let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into())?;
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        let connecting = endpoint.connect(to, "localhost")?;
        let connection = timeout(PATIENCE, connecting).await.context("no handshake")??;
        let (mut driver, sender) = ::h3::client::new(h3_quinn::Connection::new(connection)).await?;
        tokio::spawn(async move { drop(poll_fn(|cx| driver.poll_close(cx)).await) });
        Ok(Self { sender, _endpoint: endpoint })
    }

    /// One stream after the other.
    pub(crate) async fn run(&self, quota: &Quota) -> Result<u64> {
        let mut sender = self.sender.clone();
        let mut done = 0;
        while quota.take() {
            let request = http::Request::get("https://localhost/").body(())?;
            let mut stream = sender.send_request(request).await?;
            stream.finish().await?;
            let response = timeout(PATIENCE, stream.recv_response()).await.context("no answer")??;
            ensure!(response.status() == 200, "{}", response.status());
            let mut length = 0;
            while let Some(data) = timeout(PATIENCE, stream.recv_data()).await.context("half an answer")?? {
                length += data.remaining();
            }
            ensure!(length > 0, "an empty answer");
            done += 1;
        }
        Ok(done)
    }
}
