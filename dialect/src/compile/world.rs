//! What objects can refer to.

use std::{borrow::Cow, collections::HashMap};

use model::{PoolName, Revision};

use crate::{
    Environment, Kind, Object, ObjectKey, PoolSpec, Spec,
    spec::{BackendTlsPolicySpec, ListenerPolicySpec, ReferenceGrantSpec},
};

/// The objects by name, the grants, and the surroundings.
pub(super) struct World<'a> {
    pub(super) environment: &'a Environment,
    by_name: HashMap<(Kind, &'a str, &'a str), &'a Object>,
    /// With the namespace that each is in.
    grants: Vec<(&'a str, &'a ReferenceGrantSpec)>,
    /// By namespace and name of the Backend: the policy that holds for it.
    tls_policies: HashMap<(&'a str, &'a str), (&'a Object, &'a BackendTlsPolicySpec)>,
    listener_policies: ListenerPolicies<'a>,
}

/// By namespace, Gateway and listener (`None`: its others): the policy that holds.
type ListenerPolicies<'a> =
    HashMap<(&'a str, &'a str, Option<&'a str>), (&'a Object, &'a ListenerPolicySpec)>;

/// A reference that leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// No ReferenceGrant allows it.
    NotPermitted,
    /// No such object.
    NotFound,
}

impl<'a> World<'a> {
    pub(super) fn new(objects: &[&'a Object], environment: &'a Environment) -> Self {
        let by_name = objects
            .iter()
            .map(|object| ((object.key.kind, &*object.key.namespace, &*object.key.name), *object))
            .collect();
        let grants = objects
            .iter()
            .filter_map(|object| match &object.spec {
                Spec::ReferenceGrant(spec) => Some((object.key.namespace.as_str(), spec)),
                _ => None,
            })
            .collect();
        Self {
            environment,
            by_name,
            grants,
            tls_policies: tls_policies(objects),
            listener_policies: listener_policies(objects),
        }
    }

    /// The policy that holds for a listener by its name, or for those of a Gateway that no policy names.
    pub(super) fn listener_policy(
        &self,
        namespace: &str,
        gateway: &str,
        listener: Option<&str>,
    ) -> Option<(&'a Object, &'a ListenerPolicySpec)> {
        self.listener_policies.get(&(namespace, gateway, listener)).copied()
    }

    /// The policy of a Gateway's listener: its own, or else its Gateway's.
    pub(super) fn policy_of(
        &self,
        gateway: &ObjectKey,
        listener: &str,
    ) -> Option<(&'a Object, &'a ListenerPolicySpec)> {
        let find = |listener| self.listener_policy(&gateway.namespace, &gateway.name, listener);
        find(Some(listener)).or_else(|| find(None))
    }

    /// The policy that holds for a Backend.
    pub(super) fn tls_policy(&self, backend: &ObjectKey) -> Option<(&'a Object, &'a BackendTlsPolicySpec)> {
        self.tls_policies.get(&(backend.namespace.as_str(), backend.name.as_str())).copied()
    }

    pub(super) fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<&'a Object> {
        self.by_name.get(&(kind, namespace, name)).copied()
    }

    /// The object that `from` refers to, if it may.
    pub(super) fn resolve(
        &self,
        from: &ObjectKey,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<&'a Object, Unresolved> {
        let namespace = namespace.unwrap_or(&from.namespace);
        // Permission first: whether a foreign object exists is nobody's business.
        if namespace != from.namespace && !self.permits(from, kind, namespace, name) {
            return Err(Unresolved::NotPermitted);
        }
        self.object(kind, namespace, name).ok_or(Unresolved::NotFound)
    }

    fn permits(&self, from: &ObjectKey, kind: Kind, namespace: &str, name: &str) -> bool {
        self.grants.iter().filter(|(own, _)| *own == namespace).any(|(_, grant)| {
            grant.from.iter().any(|f| {
                f.group == from.kind.group() && f.kind == from.kind.as_str() && f.namespace == from.namespace
            }) && grant.to.iter().any(|t| {
                t.group == kind.group()
                    && t.kind == kind.as_str()
                    && t.name.as_deref().is_none_or(|granted| granted == name)
            })
        })
    }

    /// The pool of that name: where Pool objects are the tenant's own to write, these come first.
    pub(super) fn pool(&self, name: &PoolName) -> Option<Cow<'a, PoolSpec>> {
        if self.environment.any_host {
            let own = self.by_name.values().find_map(|object| match &object.spec {
                Spec::Pool(spec) if object.key.name == name.as_str() => Some(spec),
                _ => None,
            });
            if let Some(own) = own {
                return Some(Cow::Borrowed(own));
            }
        }
        self.environment.pools.get(name).map(Cow::Borrowed)
    }
}

/// Of several policies for one Backend the oldest holds, then the first by name (Gateway API, GEP-713).
fn tls_policies<'a>(
    objects: &[&'a Object],
) -> HashMap<(&'a str, &'a str), (&'a Object, &'a BackendTlsPolicySpec)> {
    let mut found = HashMap::new();
    let own = |spec: &'a Spec| if let Spec::BackendTlsPolicy(spec) = spec { Some(spec) } else { None };
    for (object, spec) in oldest_first(objects, own) {
        for name in &spec.targets {
            found.entry((object.key.namespace.as_str(), name.as_str())).or_insert((object, spec));
        }
    }
    found
}

/// Of several policies for one target the same holds.
fn listener_policies<'a>(objects: &[&'a Object]) -> ListenerPolicies<'a> {
    let mut found = HashMap::new();
    let own = |spec: &'a Spec| if let Spec::ListenerPolicy(spec) = spec { Some(spec) } else { None };
    for (object, spec) in oldest_first(objects, own) {
        for target in &spec.targets {
            let key = (object.key.namespace.as_str(), target.gateway.as_str(), target.listener.as_deref());
            found.entry(key).or_insert((object, spec));
        }
    }
    found
}

/// The objects of one kind. What is not stored yet is newest.
fn oldest_first<'a, S>(
    objects: &[&'a Object],
    own: impl Fn(&'a Spec) -> Option<&'a S>,
) -> Vec<(&'a Object, &'a S)> {
    let mut all: Vec<_> =
        objects.iter().filter_map(|object| own(&object.spec).map(|spec| (*object, spec))).collect();
    all.sort_by_key(|(object, _)| (object.created.unwrap_or(Revision(u64::MAX)), &object.key));
    all
}

/// `namespace/name`, as the model's identifiers have it.
pub(super) fn id_text(key: &ObjectKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}
