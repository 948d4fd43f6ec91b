//! The proxies' configurations: everything goes to one upstream, kept alive, one worker, no access log.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use tempfile::TempDir;

use crate::proxies::{Kind, Service, Setup};

/// What the proxies show to their clients.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
    directory: TempDir,
}

/// Routes of one host.
pub(crate) const ROUTES_OF_HOST: usize = 10;

impl Identity {
    /// A new key on P-256 and a certificate for `localhost`.
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("weir-bench-identity-").tempdir()?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(directory.path().join("cert.pem"), &certificate)?;
        fs::write(directory.path().join("key.pem"), &key)?;
        fs::write(directory.path().join("both.pem"), format!("{certificate}{key}"))?;
        Ok(Self { certificate, key, directory })
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// nginx as upstream: 1 KiB, and 1 MiB at `/large`.
    pub(crate) fn nginx_upstream(&self, directory: &Path, port: u16) -> Result<String> {
        let body = "x".repeat(1024);
        fs::write(directory.join("large"), body.repeat(1024))?;
        let root = directory.display();
        Ok(nginx(
            directory,
            &format!(
                "server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 \"{body}\"; }} \
                 location = /large {{ root {root}; }} }}"
            ),
        ))
    }
}

/// Writes the configuration and says what is to be started.
pub(crate) fn write(
    setup: Setup,
    directory: &Path,
    identity: &Identity,
    http: u16,
    https: u16,
) -> Result<(PathBuf, Vec<OsString>)> {
    ensure!(setup.routes == 1 || setup.kind == Kind::Weir, "routes are Weir's row");
    let file = |name: &str, text: String| -> Result<OsString> {
        let path = directory.join(name);
        fs::write(&path, text)?;
        Ok(path.into())
    };
    let ports = Ports { http, https };
    Ok(match setup.kind {
        Kind::Weir | Kind::WeirBefore => {
            let objects = file("weir.yaml", weir(setup, identity, ports)?)?;
            let binary = match setup.kind {
                Kind::WeirBefore => std::env::var_os("WEIR_BEFORE").context("WEIR_BEFORE names no build")?,
                _ => sim::harness::weir_binary().into(),
            };
            (binary.into(), vec!["edge".into(), "--static".into(), objects])
        }
        Kind::Nginx => {
            let config = file("nginx.conf", nginx(directory, &nginx_proxy(setup, identity, ports)))?;
            ("nginx".into(), vec!["-c".into(), config])
        }
        Kind::Haproxy => {
            let config = file("haproxy.cfg", haproxy(setup, identity, ports))?;
            ("haproxy".into(), vec!["-f".into(), config, "-db".into()])
        }
        Kind::Envoy => {
            let config = file("envoy.json", envoy(setup, identity, ports))?;
            let options = ["--concurrency", "1", "-l", "error", "--base-id", "78", "--disable-hot-restart"];
            let mut arguments: Vec<OsString> = vec!["-c".into(), config];
            arguments.extend(options.map(OsString::from));
            ("envoy".into(), arguments)
        }
    })
}

#[derive(Clone, Copy)]
struct Ports {
    http: u16,
    https: u16,
}

fn weir(setup: Setup, identity: &Identity, ports: Ports) -> Result<String> {
    let Ports { http, https } = ports;
    let protocol = if setup.service == Service::Grpc { "\n  appProtocol: kubernetes.io/h2c" } else { "" };
    let mut objects = format!(
        "apiVersion: weir.dev/v1
kind: Pool
metadata: {{name: default}}
spec:
  listen:
  - {{port: 80, bind: \"127.0.0.1:{http}\", protocol: HTTP}}
  - {{port: 443, bind: \"127.0.0.1:{https}\", protocol: HTTPS}}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {{name: cert}}
data:
  tls.crt: {}
  tls.key: {}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  gatewayClassName: weir
  listeners:
  - {{name: http, port: 80, protocol: HTTP}}
  - name: https
    port: 443
    protocol: HTTPS
    tls: {{certificateRefs: [{{name: cert}}]}}
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: upstream}}
spec:
  endpoints: [{{address: \"127.0.0.1:{}\"}}]{protocol}
",
        BASE64_STANDARD.encode(&identity.certificate),
        BASE64_STANDARD.encode(&identity.key),
        setup.upstream,
    );
    for route in 0..setup.routes {
        let (hosts, path) = match setup.routes {
            1 => (String::new(), "/".to_owned()),
            _ => (format!("  hostnames: [{}]\n", host_of(route)), path_of(route)),
        };
        write!(
            objects,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: route-{route}}}
spec:
  parentRefs: [{{name: gateway}}]
{hosts}  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs: [{{group: weir.dev, kind: Backend, name: upstream}}]
"
        )?;
    }
    Ok(objects)
}

/// The host of one of many routes.
pub(crate) fn host_of(route: usize) -> String {
    format!("host-{}.test", route / ROUTES_OF_HOST)
}

/// The path of one of many routes.
pub(crate) fn path_of(route: usize) -> String {
    format!("/service-{}", route % ROUTES_OF_HOST)
}

/// One process without a master, so that its costs are in one place and it ends when it is killed.
fn nginx(directory: &Path, servers: &str) -> String {
    let at = directory.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;
events {{ worker_connections 20000; }}
http {{
 access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
 client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c; uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;
 {servers}
}}
"
    )
}

fn nginx_proxy(setup: Setup, identity: &Identity, ports: Ports) -> String {
    let pass = match setup.service {
        Service::Http => {
            "proxy_pass http://upstream; proxy_http_version 1.1; proxy_set_header Connection \"\";
   proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
        }
        Service::Grpc => {
            "grpc_pass grpc://upstream; grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
        }
        Service::WebSocket => {
            "proxy_pass http://upstream; proxy_http_version 1.1; proxy_set_header Connection upgrade;
   proxy_set_header Upgrade $http_upgrade; proxy_read_timeout 600s;"
        }
    };
    format!(
        "upstream upstream {{ server 127.0.0.1:{}; keepalive 512; keepalive_requests 1000000000; }}
 server {{
  listen 127.0.0.1:{} backlog=4096; listen 127.0.0.1:{} ssl http2 backlog=4096;
  ssl_certificate {}; ssl_certificate_key {}; ssl_session_cache shared:S:10m; http2_max_concurrent_streams 256;
  location / {{ {pass} }}
 }}",
        setup.upstream,
        ports.http,
        ports.https,
        identity.path("cert.pem"),
        identity.path("key.pem"),
    )
}

fn haproxy(setup: Setup, identity: &Identity, ports: Ports) -> String {
    let protocol = if setup.service == Service::Grpc { " proto h2" } else { "" };
    format!(
        "global
  nbthread 1
  maxconn 9900
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout client 600s
  timeout server 600s
  timeout tunnel 600s
  timeout connect 5s
  http-reuse always
frontend f
  bind 127.0.0.1:{} backlog 4096
  bind 127.0.0.1:{} ssl crt {} alpn h2,http/1.1 backlog 4096
  option forwardfor
  default_backend b
backend b
  server s 127.0.0.1:{}{protocol}
",
        ports.http,
        ports.https,
        identity.path("both.pem"),
        setup.upstream,
    )
}

/// By TCP and, on the port of HTTPS, by QUIC.
fn envoy(setup: Setup, identity: &Identity, ports: Ports) -> String {
    let type_of = |name: &str| format!("\"@type\": \"type.googleapis.com/envoy.{name}\"");
    let manager = |codec: &str| {
        format!(
            r#""filters": [{{"name": "envoy.filters.network.http_connection_manager", "typed_config": {{{},
  "stat_prefix": "i", "codec_type": "{codec}", "use_remote_address": true, "generate_request_id": false,
  "route_config": {{"virtual_hosts": [{{"name": "a", "domains": ["*"], "routes": [
    {{"match": {{"prefix": "/"}}, "route": {{"cluster": "u", "timeout": "0s"}}}}]}}]}},
  "http_filters": [{{"name": "envoy.filters.http.router", "typed_config": {{{}}}}}]}}}}]"#,
            type_of("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            type_of("extensions.filters.http.router.v3.Router"),
        )
    };
    let tls = |alpn: &str| {
        format!(
            r#""common_tls_context": {{"alpn_protocols": [{alpn}], "tls_certificates": [{{
  "certificate_chain": {{"filename": "{}"}}, "private_key": {{"filename": "{}"}}}}]}}"#,
            identity.path("cert.pem"),
            identity.path("key.pem"),
        )
    };
    let address = |protocol: &str, port: u16| {
        format!(
            r#"{{"socket_address": {{"protocol": "{protocol}", "address": "127.0.0.1", "port_value": {port}}}}}"#
        )
    };
    let clear = format!(
        r#"{{"name": "clear", "address": {}, "tcp_backlog_size": 4096, "filter_chains": [{{{}}}]}}"#,
        address("TCP", ports.http),
        manager("AUTO"),
    );
    let secure = format!(
        r#"{{"name": "secure", "address": {}, "tcp_backlog_size": 4096, "filter_chains": [{{{},
  "transport_socket": {{"name": "envoy.transport_sockets.tls", "typed_config": {{{}, {}}}}}}}]}}"#,
        address("TCP", ports.https),
        manager("AUTO"),
        type_of("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        tls(r#""h2", "http/1.1""#),
    );
    let quic = format!(
        r#"{{"name": "quic", "address": {}, "udp_listener_config": {{"quic_options": {{}}}}, "filter_chains": [{{{},
  "transport_socket": {{"name": "envoy.transport_sockets.quic", "typed_config": {{{}, "downstream_tls_context": {{{}}}}}}}}}]}}"#,
        address("UDP", ports.https),
        manager("HTTP3"),
        type_of("extensions.transport_sockets.quic.v3.QuicDownstreamTransport"),
        tls(r#""h3""#),
    );
    let protocol = match setup.service {
        Service::Grpc => format!(
            r#""typed_extension_protocol_options": {{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {{{},
  "explicit_http_config": {{"http2_protocol_options": {{}}}}}}}},"#,
            type_of("extensions.upstreams.http.v3.HttpProtocolOptions"),
        ),
        Service::Http | Service::WebSocket => String::new(),
    };
    format!(
        r#"{{"static_resources": {{"listeners": [{clear}, {secure}, {quic}], "clusters": [{{"name": "u", {protocol}
  "connect_timeout": "5s", "type": "STATIC",
  "circuit_breakers": {{"thresholds": [{{"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}}]}},
  "load_assignment": {{"cluster_name": "u", "endpoints": [{{"lb_endpoints": [{{"endpoint": {{"address": {}}}}}]}}]}}}}]}}}}"#,
        address("TCP", setup.upstream),
    )
}
