//! Where things are in the store.
//!
//! ```text
//! objects/<tenant>/<kind>/<namespace>/<name>   what users wrote
//! tenants/<tenant>                             that a tenant exists; rewritten by every change of its objects
//! tokens/<sha256 in hex>                       whose a token is
//! desired/<pool>                               the autoscaler's plan
//! kv/...                                       what the platform's own tools keep
//! joins/<id>                                   a join token, and who used it
//! cluster/ca                                   the installation's CA, sealed
//! cluster/ticket-keys                          the keys of TLS session tickets, sealed
//! sealing/current                              the key-encryption key that seals
//! sealing/servers/<id>                         the key-encryption keys that a server's key file holds
//! ```

use dialect::{Kind, ObjectKey};
use model::{PoolName, TenantId};

/// All objects.
pub const OBJECTS: &str = "objects/";
/// All tenants.
pub const TENANTS: &str = "tenants/";
/// All tokens.
pub const TOKENS: &str = "tokens/";
/// What the platform's own tools keep; nothing of Weir's.
pub const KV: &str = "kv/";
/// All join tokens.
pub const JOINS: &str = "joins/";
/// The installation's CA.
pub const CA: &str = "cluster/ca";
/// The keys of TLS session tickets.
pub const TICKET_KEYS: &str = "cluster/ticket-keys";
/// Which keys seal and open secrets, by their ids.
pub const SEALING: &str = "sealing/";
/// The one that seals.
pub const SEALING_KEY: &str = "sealing/current";
/// All plans.
pub const DESIRED: &str = "desired/";

/// The prefix of a tenant's objects.
#[must_use]
pub fn objects_of(tenant: &TenantId) -> String {
    format!("{OBJECTS}{tenant}/")
}

/// The key of an object.
#[must_use]
pub fn object(tenant: &TenantId, key: &ObjectKey) -> String {
    format!("{OBJECTS}{tenant}/{}/{}/{}", key.kind, key.namespace, key.name)
}

/// The key of a tenant.
#[must_use]
pub fn tenant(tenant: &TenantId) -> String {
    format!("{TENANTS}{tenant}")
}

/// The key of a token with this hash (hex).
#[must_use]
pub fn token(hash: &str) -> String {
    format!("{TOKENS}{hash}")
}

/// The key of a pool's plan.
#[must_use]
pub fn desired(pool: &PoolName) -> String {
    format!("{DESIRED}{pool}")
}

/// The key of the join token with this id.
#[must_use]
pub fn join(id: &str) -> String {
    format!("{JOINS}{id}")
}

/// The key of what a server's key file holds.
#[must_use]
pub fn sealing_server(id: store::NodeId) -> String {
    format!("{SEALING}servers/{id}")
}

/// The tenant and object that a key is of. `None`: no object's key.
#[must_use]
pub fn parse_object(key: &str) -> Option<(TenantId, ObjectKey)> {
    let mut parts = key.strip_prefix(OBJECTS)?.split('/');
    let (tenant, kind) = (parts.next()?.parse().ok()?, Kind::parse(parts.next()?)?);
    let (namespace, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let whole = parts.next().is_none() && !namespace.is_empty() && !name.is_empty();
    whole.then_some((tenant, ObjectKey { namespace, kind, name }))
}

/// The tenant that a key of `tenants/` is of.
#[must_use]
pub fn parse_tenant(key: &str) -> Option<TenantId> {
    key.strip_prefix(TENANTS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objects_key_is_read_as_it_was_written() {
        let tenant: TenantId = "acme".parse().unwrap();
        let key = ObjectKey { namespace: "ns".into(), kind: Kind::HttpRoute, name: "a.b".into() };
        let text = object(&tenant, &key);
        assert_eq!(text, "objects/acme/HTTPRoute/ns/a.b");
        assert_eq!(parse_object(&text), Some((tenant, key)));
    }

    #[test]
    fn other_keys_are_no_objects() {
        for bad in [
            "objects/acme/HTTPRoute/ns",
            "objects/acme/HTTPRoute/ns/a/b",
            "objects/acme/Nonsense/ns/a",
            "objects/Acme/HTTPRoute/ns/a",
            "objects/acme/HTTPRoute//a",
            "tenants/acme",
            "",
        ] {
            assert_eq!(parse_object(bad), None, "{bad}");
        }
    }
}
