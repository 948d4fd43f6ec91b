//! GRPCRoutes: what they amount to, and what is wrong with others.

use dialect::Scope;
use model::{Action, PathMatch, UpstreamProtocol};

use crate::set::{BACKEND, HTTP, TO_SITE, compile, condition, file, gateway, route};

fn grpc(rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: site}}\n\
         spec: {{parentRefs: [{{name: web}}], rules: [{rules}]}}\n"
    )
}

#[test]
fn services_and_methods_are_paths() {
    let exact = |path: &str| PathMatch::Exact(path.into());
    let prefix = |path: &str| PathMatch::PrefixSegment(path.into());
    let regex = |pattern: &str| PathMatch::Regex { pattern: pattern.into(), anchor: true, icase: false };
    for (method, expect) in [
        ("{service: a.B, method: C}", exact("/a.B/C")),
        ("{service: a.B}", prefix("/a.B")),
        ("{method: Get.X}", regex("/[^/]+/Get\\.X")),
        ("{type: RegularExpression, service: \"a|b\"}", regex("/(?:a|b)/(?:[^/]+)")),
    ] {
        let rule = format!("{{matches: [{{method: {method}}}], {TO_SITE}}}");
        let compiled = compile(&format!("{}{}{BACKEND}", gateway(HTTP), grpc(&rule)));
        assert_eq!(compiled.config.routes[0].rules[0].matches[0].path, expect, "{method}");
        assert_eq!(compiled.warnings, []);
        let scope = Scope::Parent("default/web".into());
        assert_eq!(condition(&compiled, "GRPCRoute default/site", &scope, "Accepted"), "true Accepted");
    }
}

#[test]
fn a_backend_that_says_nothing_speaks_http_2_for_grpc_only() {
    let both = route(&format!("parentRefs: [{{name: web}}], rules: [{{{TO_SITE}}}]"))
        + &grpc(&format!("{{matches: [{{method: {{service: a.B}}}}], {TO_SITE}}}"));
    let compiled = compile(&format!("{}{both}{BACKEND}", gateway(HTTP)));
    let protocols: Vec<_> = compiled.config.backends.iter().map(|b| (b.id.0.as_str(), b.protocol)).collect();
    let expect =
        [("default/site", UpstreamProtocol::Negotiated), ("default/site/h2c", UpstreamProtocol::Http2)];
    assert_eq!(protocols, expect);
    let ids: Vec<_> = compiled.config.routes.iter().map(|r| r.id.0.as_str()).collect();
    assert_eq!(ids, ["default/site", "GRPCRoute/default/site"], "two routes of one name");
    for route in &compiled.config.routes {
        assert!(matches!(&route.rules[0].action, Action::Forward(to) if to[0].backend.is_some()));
    }
}

#[test]
fn a_backend_that_names_its_clients_is_not_for_grpc() {
    let rules = grpc(&format!("{{{TO_SITE}}}"));
    let told = BACKEND.replace("spec: {", "spec: {proxyProtocol: v2, ");
    let compiled = compile(&format!("{}{rules}{told}", gateway(HTTP)));
    let scope = Scope::Parent("default/web".into());
    let resolved = condition(&compiled, "GRPCRoute default/site", &scope, "ResolvedRefs");
    assert_eq!(resolved, "false UnsupportedProtocol");
    assert!(compiled.config.backends.is_empty());
}

#[test]
fn listeners_choose_among_kinds() {
    for (kind, expect) in [("GRPCRoute", "true Accepted"), ("HTTPRoute", "false NotAllowedByListeners")] {
        let listener = HTTP.replacen('}', &format!(", allowedRoutes: {{kinds: [{{kind: {kind}}}]}}}}"), 1);
        let rules = grpc(&format!("{{{TO_SITE}}}"));
        let compiled = compile(&format!("{}{rules}{BACKEND}", gateway(&listener)));
        let scope = Scope::Parent("default/web".into());
        assert_eq!(condition(&compiled, "GRPCRoute default/site", &scope, "Accepted"), expect, "{listener}");
    }
}

#[test]
fn mistakes_are_told() {
    for (rule, expect) in [
        ("{matches: [{method: {}}]}", "it names neither a service nor a method"),
        ("{matches: [{method: {service: a/b}}]}", "\"a/b\" is no name of gRPC"),
        ("{matches: [{method: {type: RegularExpression, service: \"(\"}}]}", "write it in RE2's syntax"),
        ("{matches: [{path: {value: /}}]}", "path: there is no such field"),
        ("{timeouts: {request: 1s}}", "timeouts: there is no such field"),
        (
            "{filters: [{type: URLRewrite, urlRewrite: {hostname: a.b}}]}",
            "a GRPCRoute has no URLRewrite; use RequestHeaderModifier",
        ),
    ] {
        let mistakes = dialect::parse(&[file(&grpc(rule))]).map(|_| ()).expect_err(rule);
        let text: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
        assert!(text.contains(expect), "{rule}: {text}");
    }
}
