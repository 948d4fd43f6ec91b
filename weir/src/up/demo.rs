//! `up --demo`: a tenant, an upstream in this process, and a route to it.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context, Result, bail};
use api::{
    admin::{ApplyRequest, CreateTenantRequest, GetRequest, ObjectKey, SourceFile},
    client::Admin,
};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tonic::Code;
use tracing::warn;

use super::Args;
use crate::{client::refusal, layout::Layout};

const TENANT: &str = "demo";
const OBJECTS: &str = include_str!("demo.yaml");

/// A running demo; its upstream ends with it.
#[derive(Debug)]
pub(super) struct Demo {
    pub(super) tenant: String,
    pub(super) hostname: String,
    upstream: JoinHandle<()>,
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.upstream.abort();
    }
}

/// Says whether the demo may make the data directory and remove it at its end: where there is none, or what a
/// killed demo left. A real installation is used as it is and kept.
pub(super) fn claim_directory(layout: &Layout, demo: bool) -> Result<bool> {
    let exists = layout.root().exists();
    if exists && layout.demo_marker().exists() {
        if !demo {
            bail!(
                "{} was made by `weir up --demo` and will be removed by it: remove it, or give another with --data",
                layout.root().display()
            );
        }
        return Ok(true);
    }
    Ok(demo && !exists)
}

pub(super) fn mark(layout: &Layout) -> Result<()> {
    std::fs::write(layout.demo_marker(), "made by `weir up --demo`, removed at its end\n")
        .context("mark the directory")
}

pub(super) fn remove(layout: &Layout) {
    let key = layout.key_encryption_key();
    for result in [std::fs::remove_dir_all(layout.root()), std::fs::remove_file(&key)] {
        if let Err(error) = result
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(%error, "could not remove all that the demo made");
        }
    }
}

/// Starts the upstream, makes the tenant and its objects, and waits until the workers serve them.
pub(super) async fn start(args: &Args, client: &mut Admin) -> Result<Demo> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the demo's upstream")?;
    let address = listener.local_addr()?;
    let upstream = tokio::spawn(serve(listener));

    match client.tenants.create_tenant(CreateTenantRequest { name: TENANT.into() }).await {
        Ok(_) => {}
        Err(status) if status.code() == Code::AlreadyExists => {}
        Err(status) => return Err(refusal(status)).context("create the demo's tenant"),
    }
    let hostname = format!("{TENANT}.{}", args.domain);
    let content = OBJECTS.replace("${UPSTREAM}", &address.to_string()).replace("${HOSTNAME}", &hostname);
    let files = vec![SourceFile { name: "demo.yaml".into(), content }];
    let request = ApplyRequest { tenant: TENANT.into(), files, ..ApplyRequest::default() };
    client.objects.apply(request).await.map_err(refusal).context("apply the demo's objects")?;
    programmed(client).await?;
    Ok(Demo { tenant: TENANT.into(), hostname, upstream })
}

/// Waits until the workers run the route.
async fn programmed(client: &mut Admin) -> Result<()> {
    let key = ObjectKey {
        tenant: TENANT.into(),
        namespace: "default".into(),
        kind: "HTTPRoute".into(),
        name: "demo".into(),
    };
    loop {
        let request = GetRequest { key: Some(key.clone()), ..GetRequest::default() };
        let object =
            client.objects.get(request).await.map_err(refusal)?.into_inner().object.unwrap_or_default();
        if object.conditions.iter().any(|c| c.r#type == "Propagated" && c.status == "True") {
            return Ok(());
        }
        sleep(super::POLL).await;
    }
}

/// Answers every request with what arrived, until it is aborted.
async fn serve(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service_fn(echo))
                .await;
            if let Err(error) = connection {
                tracing::debug!(%error, "demo upstream connection");
            }
        });
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut text = format!("Hello from behind Weir.\n\n{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}
