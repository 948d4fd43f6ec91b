//! How requests are spread: what a Backend's `loadBalancer` amounts to, and what is wrong with others.

use std::time::Duration;

use model::{AffinityCookie, Balancing, Feature, HashKey};

use crate::set::{HTTP, TO_SITE, compile, file, gateway, route};

fn site(spec: &str) -> String {
    let to_site = route(&format!("parentRefs: [{{name: web}}], rules: [{{{TO_SITE}}}]"));
    format!(
        "{}{to_site}---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: site}}\n\
         spec: {{endpoints: [{{address: \"127.0.0.1:1\"}}], {spec}}}\n",
        gateway(HTTP)
    )
}

#[test]
fn a_backend_says_how_its_load_is_balanced() {
    let cookie =
        |issue, path: &str| HashKey::Cookie(AffinityCookie { name: "stay".into(), issue, path: path.into() });
    for (spec, expect) in [
        ("type: PowerOfTwo", Balancing::PowerOfTwo),
        ("type: LeastRequest", Balancing::LeastRequest),
        ("type: RoundRobin", Balancing::RoundRobin),
        ("type: RingHash, hash: {type: SourceIP}", Balancing::RingHash(HashKey::SourceIp)),
        (
            "type: Maglev, hash: {type: Header, name: X-User}",
            Balancing::Maglev(HashKey::Header("x-user".into())),
        ),
        ("type: Maglev, hash: {type: QueryParam, name: Id}", Balancing::Maglev(HashKey::Query("Id".into()))),
        ("type: Maglev, hash: {type: Cookie, name: stay}", Balancing::Maglev(cookie(None, "/"))),
        (
            "type: Maglev, hash: {type: Cookie, name: stay, ttl: 0s, path: /shop}",
            Balancing::Maglev(cookie(Some(Duration::ZERO), "/shop")),
        ),
    ] {
        let compiled = compile(&site(&format!("loadBalancer: {{{spec}}}")));
        assert_eq!(compiled.config.backends[0].traffic.balancing, expect, "{spec}");
        let needs = compiled.config.features().contains(&Feature::TrafficPolicy);
        assert_eq!(needs, expect != Balancing::PowerOfTwo, "{spec}");
    }
}

#[test]
fn what_cannot_be_balanced_is_said() {
    for (spec, expect) in [
        (
            "type: Random",
            &["loadBalancer.type", "use PowerOfTwo, LeastRequest, RoundRobin, RingHash or Maglev"],
        ),
        ("type: RingHash", &["loadBalancer: nothing says what", "hash: {type: SourceIP}"]),
        ("type: RoundRobin, hash: {type: SourceIP}", &["hash: only RingHash and Maglev", "remove hash"]),
        ("type: Maglev, hash: {type: Header}", &["hash.name: it is missing", "add name"]),
        ("type: Maglev, hash: {type: SourceIP, name: x}", &["hash.name: there is no such field", ""]),
        ("type: Maglev, hash: {type: Cookie, name: 'a b'}", &["hash.name: \"a b\" is not a name", "letters"]),
        ("type: Maglev, hash: {type: Cookie, name: a, path: x}", &["hash.path: \"x\"", "like /shop"]),
        ("type: Maglev, hash: {type: Header, name: a, ttl: 1h}", &["hash.ttl: there is no such field", ""]),
    ] {
        let content = site(&format!("loadBalancer: {{{spec}}}"));
        let mistakes = dialect::parse(&[file(&content)]).expect_err(spec);
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert!(
            mistakes.iter().any(|line| expect.iter().all(|part| line.contains(part))),
            "{spec}: no line with all of {expect:?} in {mistakes:#?}"
        );
    }
}
