//! Sets of objects, briefly.

use dialect::{Compiled, Condition, Environment, Object, Scope, SourceFile};

/// The surroundings of tenant `demo`.
pub(crate) fn demo() -> Environment {
    let granted = model::HostPattern::parse("*.shop.example.com").unwrap();
    Environment::of_tenant("demo".parse().unwrap(), "localhost", [granted])
}

pub(crate) fn file(content: &str) -> SourceFile {
    SourceFile { name: "objects.yaml".into(), content: content.into() }
}

/// The objects of documents that are right.
#[track_caller]
pub(crate) fn objects(content: &str) -> Vec<Object> {
    dialect::parse(&[file(content)]).unwrap_or_else(|mistakes| {
        let text: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        panic!("{}", text.join("\n"))
    })
}

#[track_caller]
pub(crate) fn compile(content: &str) -> Compiled {
    dialect::compile(&objects(content), &demo())
}

/// `Accepted=False NoMatchingParent` of one scope of an object.
#[track_caller]
pub(crate) fn condition(compiled: &Compiled, object: &str, scope: &Scope, kind: &str) -> String {
    let status = compiled.statuses.iter().find(|status| status.key.to_string() == object).expect("a status");
    let found: Vec<&Condition> =
        status.conditions.iter().filter(|c| c.scope == *scope && c.kind == kind).collect();
    let [one] = found[..] else { panic!("{:#?}", status.conditions) };
    format!("{} {}", one.status, one.reason)
}

pub(crate) const BACKEND: &str = r#"
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {name: site}
spec: {endpoints: [{address: "127.0.0.1:9000"}]}
"#;

/// A Gateway `web` with these listeners, in flow style.
pub(crate) fn gateway(listeners: &str) -> String {
    format!(
        "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: web}}\n\
         spec: {{gatewayClassName: weir, listeners: [{listeners}]}}\n"
    )
}

/// An HTTPRoute `site` with this spec, in flow style.
pub(crate) fn route(spec: &str) -> String {
    format!(
        "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: site}}\nspec: {{{spec}}}\n"
    )
}

pub(crate) const HTTP: &str = "{name: http, port: 80, protocol: HTTP}";
pub(crate) const TO_SITE: &str = "backendRefs: [{group: weir.dev, kind: Backend, name: site}]";
