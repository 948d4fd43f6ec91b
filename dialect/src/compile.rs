//! Objects to the model's configuration, with what became of each.
//!
//! What is malformed or unsafe is a *mistake*: an apply that brings it is refused as a whole. What refers to something
//! that does not exist (yet) is accepted: a condition says so, a warning repeats it, and requests that would need it are
//! answered with 500, as Gateway API has it.

mod backends;
mod clients;
mod gateways;
mod policies;
mod rank;
mod routes;
mod streams;
mod world;

use model::TenantConfig;

use crate::{Environment, Mistake, Object, ObjectStatus};
use world::World;

/// What a tenant's objects amount to.
#[derive(Debug)]
pub struct Compiled {
    /// What the edges are to serve. Complete and safe even when there are mistakes: what is mistaken is left out.
    pub config: TenantConfig,
    /// One for each Gateway, route and policy, by key.
    pub statuses: Vec<ObjectStatus>,
    /// Reasons to refuse an apply that brings these objects.
    pub mistakes: Vec<Mistake>,
    /// What is accepted but does not work yet, such as references to objects that do not exist.
    pub warnings: Vec<Mistake>,
}

/// What `objects` (all of one tenant's) amount to in `environment`. Does not depend on their order.
#[must_use]
pub fn compile<'o>(objects: impl IntoIterator<Item = &'o Object>, environment: &Environment) -> Compiled {
    let mut objects: Vec<&Object> = objects.into_iter().collect();
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    let world = World::new(&objects, environment);
    let mut out = Output {
        config: TenantConfig { quota: environment.quota, ..TenantConfig::empty(environment.tenant.clone()) },
        statuses: vec![],
        mistakes: vec![],
        warnings: vec![],
    };
    platform_objects(&objects, environment, &mut out);
    let listeners = gateways::compile(&world, &objects, &mut out);
    routes::compile(&world, &objects, &listeners, &mut out);
    streams::compile(&world, &objects, &listeners, &mut out);
    policies::compile(&world, &objects, &mut out);
    rank::assign(&mut out.config.routes, &world);
    out.statuses.sort_by(|a, b| a.key.cmp(&b.key));
    out
}

/// The output while it grows.
type Output = Compiled;

impl Output {
    fn mistake(&mut self, object: &Object, field: &str, problem: impl Into<String>, fix: impl Into<String>) {
        self.mistakes.push(Mistake::at(&object.source, &object.key, field).because(problem, fix));
    }

    fn warn(&mut self, object: &Object, field: &str, problem: impl Into<String>, fix: impl Into<String>) {
        self.warnings.push(Mistake::at(&object.source, &object.key, field).because(problem, fix));
    }
}

/// Pools and tenants are the platform's.
fn platform_objects(objects: &[&Object], environment: &Environment, out: &mut Output) {
    if environment.tenant.is_platform() || environment.any_host {
        return;
    }
    for object in objects.iter().filter(|object| object.key.kind.is_platform()) {
        let problem =
            format!("a {} belongs to the platform, not to tenant {}", object.key.kind, environment.tenant);
        out.mistake(object, "", problem, "ask the platform admin to apply it");
    }
}
