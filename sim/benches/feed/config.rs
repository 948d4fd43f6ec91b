//! What is stored: tenants with a Gateway, a Backend and many routes.

use serde_json::{Value, json};
use store::{Op, Txn};

pub(crate) fn tenant(n: usize) -> String {
    format!("tenant-{n:04}")
}

/// An object as an apply stores it.
fn put(tenant: &str, kind: &str, name: &str, json: &Value) -> Op {
    let value = json!({"generation": 1, "json": json}).to_string();
    Op::Put { key: format!("objects/{tenant}/{kind}/default/{name}").into(), value: value.into() }
}

fn route(tenant: &str, n: usize, version: usize) -> Op {
    let name = format!("service-{n}");
    let json = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name},
        "spec": {
            "parentRefs": [{"name": "gateway"}],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": format!("/api/v{version}/{name}")}}],
                "backendRefs": [{"group": "weir.dev", "kind": "Backend", "name": "backend"}],
            }],
        },
    });
    put(tenant, "HTTPRoute", &name, &json)
}

/// A new tenant.
pub(crate) fn create(n: usize, routes: usize) -> Txn {
    let name = tenant(n);
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gateway"},
        "spec": {
            "gatewayClassName": "weir",
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    });
    let backend = json!({
        "apiVersion": "weir.dev/v1", "kind": "Backend", "metadata": {"name": "backend"},
        "spec": {"endpoints": [{"address": "127.0.0.1:9"}]},
    });
    let mut txn = Txn::new("bench").put(format!("tenants/{name}"), "{}");
    txn.ops.push(put(&name, "Gateway", "gateway", &gateway));
    txn.ops.push(put(&name, "Backend", "backend", &backend));
    txn.ops.extend((0..routes).map(|n| route(&name, n, 1)));
    txn
}

/// One route of a tenant becomes another one. The tenant's own key is written as well, as an apply does.
pub(crate) fn change(n: usize, route_number: usize, version: usize) -> Txn {
    let name = tenant(n);
    let mut txn = Txn::new("bench").put(format!("tenants/{name}"), "{}");
    txn.ops.push(route(&name, route_number, version));
    txn
}
