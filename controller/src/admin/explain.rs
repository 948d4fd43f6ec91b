//! Explain: the way of a request through the tables, in words. It asks the same tables that the edges compile.

mod question;

use api::admin as wire;
use model::{
    CompileLimits, CompiledAction, CompiledRule, Match, NotFound, PathMatch, PoolName, Request as _,
    RouteTable, TenantId, ValueMatch, ValueMatcher, Written,
};
use tonic::Status;

use super::{Admin, apart, asked_tenant, no_tenant};
use crate::{Snapshot, World, auth::Principal};

use question::{Entry, Question};

pub(super) async fn explain(
    admin: &Admin,
    principal: &Principal,
    request: wire::ExplainRequest,
) -> Result<wire::ExplainResponse, Status> {
    // An empty tenant is whoever owns the host, which only the platform's administrator may learn.
    let asked = asked_tenant(principal, &request.tenant)?;
    // What was answered here is explained as well: who has just applied something asks about that.
    let world = admin.world_at(admin.store.status().revision).await;
    let question = Question::parse(&request, |port| entry(&world, port)).map_err(Status::invalid_argument)?;
    if let Some(tenant) = asked.as_ref().filter(|tenant| !world.tenants.contains_key(*tenant)) {
        return Err(no_tenant(tenant));
    }
    let mut answer = Answer::default();
    let owner = world.hosts.index.owner(question.host());
    let Some(tenant) = answer.owner(question.host(), owner, asked.as_ref()) else { return Ok(answer.0) };
    let state = world.tenants.get(tenant);
    if let Some(state) = state.filter(|state| !state.held.is_empty()) {
        answer.say(format!(
            "tenant {tenant} is held at its last good configuration: {}",
            state.held.join("; ")
        ));
    }
    let Some(snapshot) = state.and_then(|state| state.snapshot.clone()) else {
        answer.say(format!("tenant {tenant} has no configuration that compiles: 404"));
        return Ok(answer.0);
    };
    answer.0.tenant = tenant.to_string();
    apart("explaining", move || answer.find(&question, &snapshot)).await
}

/// What a URL's port means: a port as Gateways say it, or the one that a pool listens on (8080 for 80), which is then
/// the only pool that the request can come in at.
fn entry(world: &World, port: u16) -> Entry {
    let listens =
        world.pools.iter().flat_map(|(name, pool)| pool.spec.listen.iter().map(move |listen| (name, listen)));
    let mut listens = listens.filter(|(_, listen)| !listen.protocol.is_udp());
    if listens.clone().any(|(_, listen)| listen.port == port) {
        return Entry { port, pool: None };
    }
    let bound = listens.find(|(_, listen)| listen.bind.port() == port);
    bound.map_or(Entry { port, pool: None }, |(pool, listen)| Entry {
        port: listen.port,
        pool: Some(pool.clone()),
    })
}

#[derive(Default)]
struct Answer(wire::ExplainResponse);

impl Answer {
    fn say(&mut self, step: impl Into<String>) {
        self.0.steps.push(step.into());
    }

    /// Whose table answers for the host. A tenant learns of others only that the host is not its own.
    fn owner<'t>(
        &mut self,
        host: &str,
        owner: Option<&'t TenantId>,
        asked: Option<&TenantId>,
    ) -> Option<&'t TenantId> {
        match (owner, asked) {
            // In the same words whether or not it is somebody else's.
            (owner, Some(asked)) if owner != Some(asked) => {
                self.say(format!("host {host} does not belong to tenant {asked}"));
                return None;
            }
            (None, _) => self.say(format!("no tenant owns host {host}: 404")),
            (Some(owner), _) => self.say(format!("host {host} belongs to tenant {owner}")),
        }
        owner
    }

    fn find(mut self, question: &Question, snapshot: &Snapshot) -> wire::ExplainResponse {
        let mut nearest = NotFound::Listener;
        for pool in snapshot.pools.iter().filter(|pool| question.enters(pool)) {
            match self.find_in(question, snapshot, pool) {
                Ok(()) => return self.0,
                Err(miss) if rank(miss) >= rank(nearest) => nearest = miss,
                Err(_) => {}
            }
        }
        let (port, host) = (question.port(), question.host());
        self.say(match nearest {
            NotFound::Listener => format!("no Gateway of the tenant has a listener on port {port}: 404"),
            NotFound::Host => format!("no listener and route on port {port} is for host {host}: 404"),
            NotFound::Route => format!(
                "routes are attached for host {host} on port {port}, but none of their matches holds for {} {}: 404",
                question.method(),
                question.path()
            ),
        });
        self.0
    }

    fn find_in(&mut self, question: &Question, snapshot: &Snapshot, pool: &PoolName) -> Result<(), NotFound> {
        // It compiled when the snapshot was made; if it does not now, no edge serves it either.
        let config = snapshot.config().map_err(|_| NotFound::Listener)?;
        let Ok(table) = RouteTable::compile_for_pool(&config, pool, &CompileLimits::default()) else {
            return Err(NotFound::Listener);
        };
        let found = table.find(question)?;
        let Some(Written { route, rule, matched }) = found.written(&config) else {
            return Err(NotFound::Listener);
        };
        let listener = found.listener;
        let hostname =
            listener.hostname.as_ref().map_or("every host of the tenant".to_owned(), ToString::to_string);
        self.say(format!(
            "port {} of pool {pool}: listener {} ({}) takes {hostname}",
            question.port(),
            listener.id,
            listener.origin
        ));
        self.say(format!("route {} ({}) is attached to it", route.id, route.origin));
        self.say(format!("its match of rank {} holds: {}", matched.rank.0, describe(matched)));
        self.say(format!("{} answers", rule.origin));
        let action = action(found.rule);
        self.say(action.clone());
        self.0.matched = true;
        self.0.listener = listener.id.to_string();
        self.0.route = route.id.to_string();
        self.0.rule = rule.origin.to_string();
        self.0.action = action;
        Ok(())
    }
}

/// How far a request came.
fn rank(miss: NotFound) -> u8 {
    match miss {
        NotFound::Listener => 0,
        NotFound::Host => 1,
        NotFound::Route => 2,
    }
}

fn describe(matched: &Match) -> String {
    let path = match &matched.path {
        PathMatch::Exact(path) => format!("the path is {path}"),
        PathMatch::PrefixSegment(prefix) => {
            let prefix = prefix.strip_suffix('/').filter(|whole| !whole.is_empty()).unwrap_or(prefix);
            format!("the path is {prefix} or below")
        }
        PathMatch::PrefixString(prefix) => format!("the path begins with {prefix}"),
        PathMatch::Regex { pattern, anchor: true, .. } => format!("the path matches {pattern}"),
        PathMatch::Regex { pattern, .. } => format!("the path has a part that matches {pattern}"),
    };
    let method = matched.method.iter().map(|method| format!("the method is {method}"));
    let headers = matched.headers.iter().map(|value| format!("header {}", value_match(value)));
    let query = matched.query.iter().map(|value| format!("parameter {}", value_match(value)));
    let parts: Vec<_> = std::iter::once(path).chain(method).chain(headers).chain(query).collect();
    parts.join(", ")
}

fn value_match(value: &ValueMatch) -> String {
    match &value.matcher {
        ValueMatcher::Exact(text) => format!("{} is {text:?}", value.name),
        ValueMatcher::Regex(pattern) => format!("{} matches {pattern}", value.name),
    }
}

fn action(rule: &CompiledRule) -> String {
    match &rule.action {
        CompiledAction::Forward(forward) if forward.total_weight() == 0 => {
            "no backend has any weight: answered with 500".to_owned()
        }
        CompiledAction::Forward(forward) => {
            let variants = forward.variants().iter().map(|variant| {
                let backend =
                    variant.backend.as_ref().map_or("500 (its backend does not exist)".to_owned(), |b| {
                        let endpoints: Vec<_> = b.endpoints.iter().map(|e| e.address.to_string()).collect();
                        format!("{} ({})", b.id, endpoints.join(", "))
                    });
                format!("{backend} with weight {} of {}", variant.weight, forward.total_weight())
            });
            format!("forward to {}", variants.collect::<Vec<_>>().join("; "))
        }
        CompiledAction::Redirect(redirect) => format!("redirect with {}", redirect.status),
        CompiledAction::Respond(respond) => format!("respond with {}", respond.status),
    }
}
