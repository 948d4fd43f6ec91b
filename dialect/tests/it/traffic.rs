//! How requests are spread: what a Backend's `loadBalancer` amounts to, and what is wrong with others.

use std::time::Duration;

use model::{AffinityCookie, Balancing, Feature, HashKey, HedgeDelay};

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

#[test]
fn a_backend_says_when_a_second_endpoint_is_asked() {
    let percentile = |percent, ms| HedgeDelay::Percentile { percent, at_least: Duration::from_millis(ms) };
    for (spec, expect) in [
        ("delay: 50ms", HedgeDelay::Fixed(Duration::from_millis(50))),
        ("percentile: 95", percentile(95, 1)),
        ("percentile: 50, minDelay: 5ms", percentile(50, 5)),
    ] {
        let compiled = compile(&site(&format!("hedging: {{{spec}}}")));
        assert_eq!(compiled.config.backends[0].traffic.hedging, Some(expect), "{spec}");
        assert!(compiled.config.features().contains(&Feature::Hedging));
    }
    assert!(!compile(&site("connectTimeout: 1s")).config.features().contains(&Feature::Hedging));
    for (spec, expect) in [
        ("", "hedging: when the second request is sent is said in one way; write either delay or percentile"),
        ("delay: 1s, percentile: 95", "said in one way"),
        ("delay: 0s", "hedging.delay"),
        ("delay: 2m", "hedging.delay: nobody waits for so long; use at most 1m"),
        ("delay: 1s, minDelay: 1ms", "hedging.minDelay: a fixed delay has no least"),
        ("percentile: 49", "hedging.percentile: 49 is not allowed"),
        ("percentile: 100", "hedging.percentile: 100 is not allowed"),
    ] {
        let mistakes =
            dialect::parse(&[file(&site(&format!("hedging: {{{spec}}}")))]).map(|_| ()).expect_err(spec);
        let text: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
        assert!(text.contains(expect), "{spec}: {text}");
    }
}
