//! The objects of most tests, as YAML: a Gateway `web`, what it shows, and where it leads. Each begins a document of its own.

use api::pki::Identity;

/// A listener in cleartext.
pub(super) const HTTP: &str = "{name: http, port: 80, protocol: HTTP}";

/// A listener that shows the certificate [`tls`].
pub(super) const HTTPS: &str =
    "{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}";

/// The default pool of a standalone worker, in cleartext on that port.
pub(super) fn pool_on(port: u16) -> String {
    format!(
        "---
apiVersion: weir.dev/v1
kind: Pool
metadata: {{name: default}}
spec:
  listen: [{{port: 80, bind: '127.0.0.1:{port}', protocol: HTTP}}]
"
    )
}

/// The Gateway. Its `spec` may go on.
pub(super) fn gateway(listener: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web}}
spec:
  gatewayClassName: weir
  listeners: [{listener}]
"
    )
}

/// Its certificate.
pub(super) fn tls(pair: &Identity) -> String {
    format!(
        "---
apiVersion: v1
kind: Secret
metadata: {{name: tls}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}",
        indent(&pair.cert_pem),
        indent(&pair.key_pem)
    )
}

/// Text as the value of a key in the object's second level.
pub(super) fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// A route of all requests to a backend.
pub(super) fn forward(backend: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: all}}
spec:
  parentRefs: [{{name: web}}]
  rules:
    - backendRefs: [{{group: weir.dev, kind: Backend, name: {backend}}}]
"
    )
}

/// A backend on these ports of 127.0.0.1. Its `spec` may go on.
pub(super) fn backend(name: &str, ports: &[u16]) -> String {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("{{address: '127.0.0.1:{port}'}}")).collect();
    format!(
        "---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: {name}}}
spec:
  endpoints: [{}]
",
        endpoints.join(", ")
    )
}

/// A route of that name whose requests are all answered with `body`.
pub(super) fn answer(route: &str, body: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {route}}}
spec:
  parentRefs: [{{name: web}}]
  rules:
    - filters:
        - {{type: ExtensionRef, extensionRef: {{group: weir.dev, kind: DirectResponse, name: answer}}}}
---
apiVersion: weir.dev/v1
kind: DirectResponse
metadata: {{name: answer}}
spec: {{status: 200, body: {body}}}
"
    )
}
