//! `sessionPersistence`: what it amounts to, and what is wrong with others.

use std::time::Duration;

use model::{Feature, SessionCarrier, SessionPersistence};

use crate::set::{BACKEND, HTTP, TO_SITE, compile, file, gateway, route};

fn rules(rules: &str) -> String {
    format!("{}{}{BACKEND}", gateway(HTTP), route(&format!("parentRefs: [{{name: web}}], rules: [{rules}]")))
}

fn persistence(rule: &str) -> Option<SessionPersistence> {
    compile(&rules(&format!("{{{rule}, {TO_SITE}}}"))).config.routes[0].rules[0].persistence.clone()
}

#[test]
fn a_rule_says_how_its_clients_stay() {
    let cookie = |permanent, path: &str| SessionCarrier::Cookie { permanent, path: path.to_owned() };
    for (rule, name, carrier, absolute_s, idle_s) in [
        ("sessionPersistence: {sessionName: a}", "a", cookie(false, "/"), None, None),
        (
            "sessionPersistence: {sessionName: a, absoluteTimeout: 1h, idleTimeout: 5m, \
             cookieConfig: {lifetimeType: Permanent}}",
            "a",
            cookie(true, "/"),
            Some(3600),
            Some(300),
        ),
        (
            "sessionPersistence: {sessionName: X-Cart, type: Header}",
            "x-cart",
            SessionCarrier::Header,
            None,
            None,
        ),
        (
            "matches: [{path: {value: /a}, method: GET}, {path: {value: /a}}], sessionPersistence: {sessionName: a}",
            "a",
            cookie(false, "/a"),
            None,
            None,
        ),
        (
            "matches: [{path: {value: /a}}, {path: {value: /b}}], sessionPersistence: {sessionName: a}",
            "a",
            cookie(false, "/"),
            None,
            None,
        ),
        (
            "matches: [{path: {type: RegularExpression, value: /a.}}], sessionPersistence: {sessionName: a}",
            "a",
            cookie(false, "/"),
            None,
            None,
        ),
    ] {
        let found = persistence(rule).unwrap();
        assert_eq!((found.name.as_str(), &found.carrier), (name, &carrier), "{rule}");
        let limits = (found.absolute, found.idle);
        assert_eq!(limits, (absolute_s.map(Duration::from_secs), idle_s.map(Duration::from_secs)), "{rule}");
    }
    assert_eq!(persistence("name: x"), None);
}

#[test]
fn rules_that_say_no_name_have_different_ones() {
    let rule = format!("{{sessionPersistence: {{}}, {TO_SITE}}}");
    let header = format!("{{matches: [{{method: GET}}], sessionPersistence: {{type: Header}}, {TO_SITE}}}");
    let two = rules(&format!("{rule}, {header}"));
    let config = compile(&two).config;
    let names: Vec<_> =
        config.routes[0].rules.iter().map(|rule| rule.persistence.as_ref().unwrap().name.clone()).collect();
    let [cookie, header] = &names[..] else { panic!("{names:?}") };
    assert!(cookie.starts_with("weir-session-") && header.starts_with("x-weir-session-"), "{names:?}");
    assert_ne!(cookie, header.trim_start_matches("x-"));
    assert_eq!(config, compile(&two).config, "they stay");
    assert!(config.features().contains(&Feature::SessionPersistence));
}

#[test]
fn mistakes_are_told() {
    for (session, expect) in [
        (
            "{type: Query}",
            "sessionPersistence.type: \"Query\" is not a carrier of sessions; use Cookie or Header",
        ),
        ("{sessionName: \"a b\"}", "sessionPersistence.sessionName: \"a b\" is not a name"),
        ("{sessionName: Cookie, type: Header}", "Cookie has a meaning of its own; choose another name"),
        ("{sessionName: Host, type: Header}", "Host has a meaning of its own"),
        ("{type: Header, cookieConfig: {}}", "sessionPersistence.cookieConfig: a header is no cookie"),
        (
            "{cookieConfig: {lifetimeType: Permanent}}",
            "sessionPersistence: a permanent cookie has to end some day; add absoluteTimeout",
        ),
        ("{cookieConfig: {lifetimeType: Forever}}", "\"Forever\" is not a lifetime of cookies"),
        ("{absoluteTimeout: 1m, idleTimeout: 2m}", "idleTimeout is longer than absoluteTimeout"),
        ("{idleTimeout: 0s}", "sessionPersistence.idleTimeout"),
    ] {
        let objects = rules(&format!("{{sessionPersistence: {session}, {TO_SITE}}}"));
        let mistakes = dialect::parse(&[file(&objects)]).map(|_| ()).expect_err(session);
        let text: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
        assert!(text.contains(expect), "{session}: {text}");
    }
    let redirects =
        "{sessionPersistence: {}, filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]}";
    let mistakes = dialect::parse(&[file(&rules(redirects))]).map(|_| ()).expect_err("a redirect");
    assert!(
        mistakes[0].to_string().contains("sessionPersistence: the rule answers by itself; remove it"),
        "{mistakes:?}"
    );
}
