//! What people get wrong, and what they are told.

use crate::set::{BACKEND, TO_SITE, compile, file, gateway, route};

/// The mistakes of these documents, one a line.
fn mistakes(content: &str) -> String {
    let mistakes = dialect::parse(&[file(content)]).map(|_| ()).expect_err(content);
    mistakes.iter().map(|mistake| format!("{mistake}\n")).collect()
}

/// One mistake has all of `expect`: the object, the field, the problem, the fix.
#[track_caller]
fn check(content: &str, expect: &[&str]) {
    let mistakes = mistakes(content);
    assert!(
        mistakes.lines().any(|line| expect.iter().all(|part| line.contains(part))),
        "no line with all of {expect:#?} in\n{mistakes}"
    );
}

#[test]
fn documents() {
    for (content, expect) in [
        ("a: [1", &["objects.yaml:", "mend the YAML"][..]),
        ("kind: Backend\n---\na: b: c\n", &["objects.yaml:3"]),
        ("kind: Backend\nkind: Backend\n", &["objects.yaml:", "kind"]),
        ("- a\n- b\n", &["objects.yaml:1: a list is not a mapping"]),
        ("spec: *.example.com\n", &["objects.yaml:1", "in quotes: \"*.example.com\""]),
        ("just text", &["\"just text\" is not a mapping"]),
        ("metadata: {name: a}", &["default/a kind: it is missing; add kind"]),
        ("kind: Backend\nmetadata: {name: a}\nspec: {}", &["Backend default/a apiVersion: it is missing"]),
        ("apiVersion: v1\nkind: Service\n", &["Service kind: \"Service\"", "Backend of weir.dev/v1"]),
        ("apiVersion: v1\nkind: HttpRoute\n", &["kind: \"HttpRoute\"", "did you mean HTTPRoute?"]),
        ("apiVersion: v1\nkind: Potato\n", &["use Gateway, HTTPRoute,"]),
        (
            "apiVersion: v1\nkind: Gateway\nmetadata: {name: a}\nspec: {}",
            &["Gateway default/a apiVersion: \"v1\" has no kind Gateway", "use gateway.networking.k8s.io/v1"],
        ),
    ] {
        check(content, expect);
    }
}

#[test]
fn metadata() {
    let backend = |metadata: &str| BACKEND.replace("metadata: {name: site}", metadata);
    for (metadata, expect) in [
        ("metadata: {}", &["metadata.name: it is missing"][..]),
        ("metadata: {name: Site}", &["metadata.name: \"Site\" is not a name; use a-z"]),
        ("metadata: {name: 7}", &["metadata.name: 7 is not text", "in quotes: \"7\""]),
        (
            "metadata: {name: a, namespace: a.b}",
            &["Backend a.b/a metadata.namespace: \"a.b\" is not a namespace"],
        ),
        (
            "metadata: {name: a, namspace: b}",
            &["metadata.namspace: there is no such field; did you mean namespace?"],
        ),
        ("metadata: {name: a, labels: [x]}", &["metadata.labels: a list is not a mapping"]),
        ("metadata: [a]", &["metadata: a list is not a mapping"]),
    ] {
        check(&backend(metadata), expect);
    }
    check(
        &format!("{BACKEND}{BACKEND}"),
        &["Backend default/site: the object is there twice, first in objects.yaml:3"],
    );
}

#[test]
fn backends() {
    let backend = |spec: &str| {
        format!("apiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: site}}\nspec: {spec}\n")
    };
    for (spec, expect) in [
        ("{}", &["Backend default/site spec.endpoints: it is missing; add endpoints"][..]),
        ("{endpoints: []}", &["spec.endpoints: a backend needs at least one endpoint", "127.0.0.1:9000"]),
        ("{endpoint: []}", &["spec.endpoint: there is no such field; did you mean endpoints?"]),
        ("{endpoints: [{}]}", &["spec.endpoints[0]: an endpoint is an address, or a host and a port"]),
        ("{endpoints: [{host: a.com}]}", &["spec.endpoints[0]", "host and a port"]),
        ("{endpoints: [{address: \"a.com:80\"}]}", &["endpoints[0].address", "host: a.com and port: 80"]),
        (
            "{endpoints: [{address: \"1.2.3.4\"}]}",
            &["endpoints[0].address", "is not an address", "like 127.0.0.1:9000"],
        ),
        ("{endpoints: [{address: \"169.254.169.254:80\"}]}", &["endpoints[0].address", "metadata service"]),
        (
            "{endpoints: [{address: \"[::ffff:169.254.169.254]:80\"}]}",
            &["endpoints[0].address", "metadata service"],
        ),
        ("{endpoints: [{address: \"1.2.3.4:0\"}]}", &["endpoints[0].address", "is not an address"]),
        (
            "{endpoints: [{host: \"*.a.com\", port: 80}]}",
            &["endpoints[0].host: *.a.com stands for many", "name one"],
        ),
        (
            "{endpoints: [{host: a.com, port: 0}]}",
            &["endpoints[0].port: 0 is not allowed", "from 1 to 65535"],
        ),
        (
            "{endpoints: [{host: a.com, port: 80, weight: 0}]}",
            &["endpoints[0].weight: 0", "from 1 to 1000000"],
        ),
        ("{endpoints: [{host: a.com, port: 80}], connectTimeout: 5}", &["connectTimeout: 5 is not text"]),
        (
            "{endpoints: [{host: a.com, port: 80}], connectTimeout: 5d}",
            &["\"5d\" is not a duration", "like 500ms"],
        ),
        (
            "{endpoints: [{host: a.com, port: 80}], connectTimeout: 0s}",
            &["connectTimeout: it must be longer"],
        ),
        (
            "{endpoints: [{host: a.com, port: 80}], proxyProtocol: v3}",
            &["spec.proxyProtocol: \"v3\" is not a version of the PROXY protocol", "v1 or v2"],
        ),
        (
            "{endpoints: [{host: a.com, port: 80}], proxyProtocol: v1, appProtocol: kubernetes.io/h2c}",
            &["spec.proxyProtocol: it names one client", "appProtocol: http"],
        ),
    ] {
        check(&backend(spec), expect);
    }
}

#[test]
fn gateways() {
    for (listener, expect) in [
        ("{port: 80, protocol: HTTP}", &["Gateway default/web spec.listeners[0].name: it is missing"][..]),
        ("{name: a, protocol: HTTP}", &["spec.listeners[0].port: it is missing"]),
        ("{name: a, port: 0, protocol: HTTP}", &["listeners[0].port: 0 is not allowed"]),
        ("{name: a, port: 80, protocol: http}", &["listeners[0].protocol: \"http\"", "did you mean HTTP?"]),
        (
            "{name: a, port: 80, protocol: HTTP, hostname: \"a b\"}",
            &["listeners[0].hostname: \"a b\" is not a hostname"],
        ),
        ("{name: a, port: 80, protocol: HTTP, hostname: A.com}", &["listeners[0].hostname", "write a.com"]),
        (
            "{name: a, port: 80, protocol: HTTP, hostname: 10.0.0.1}",
            &["hostname", "IP addresses are not hostnames"],
        ),
        (
            "{name: a, port: 80, protocol: HTTP, hostname: \"a.com:80\"}",
            &["hostname", "must not carry a port"],
        ),
        (
            "{name: a, port: 80, protocol: HTTP, tls: {}}",
            &["listeners[0].tls: a listener that speaks HTTP has no tls"],
        ),
        (
            "{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{kind: ConfigMap, name: x}]}}",
            &["tls.certificateRefs[0].kind: \"ConfigMap\" is not a kind of certificates; use Secret"],
        ),
        (
            "{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}",
            &["allowedRoutes.namespaces.from: Selector is not supported yet; use Same or All"],
        ),
        (
            "{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}",
            &["listeners[1]: the name \"a\" is taken"],
        ),
        (
            "{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}",
            &["listeners[1]: it has the port and hostname of listener \"a\""],
        ),
        ("", &["spec.listeners: a Gateway needs at least one listener"]),
    ] {
        check(&gateway(listener), expect);
    }
    let class = gateway(crate::set::HTTP).replace("gatewayClassName: weir", "gatewayClassName: nginx");
    check(&class, &["spec.gatewayClassName: there is no such class; write \"weir\""]);
    let addresses =
        gateway(crate::set::HTTP).replace("gatewayClassName: weir", "gatewayClassName: weir, addresses: []");
    check(&addresses, &["spec.addresses: it is not supported yet; remove it"]);
    let pool = gateway(crate::set::HTTP).replace(
        "gatewayClassName: weir",
        "gatewayClassName: weir, infrastructure: {parametersRef: {group: weir.dev, kind: Pol, name: gold}}",
    );
    check(&pool, &["spec.infrastructure.parametersRef.kind: \"Pol\"", "did you mean Pool?"]);
}

#[test]
fn routes() {
    for (spec, expect) in [
        ("parentRefs: [{name: web}]", &["HTTPRoute default/site spec: it has no rules"][..]),
        (
            "parentRef: [{name: web}], rules: []",
            &["spec.parentRef: there is no such field; did you mean parentRefs?"],
        ),
        (
            "parentRefs: [{kind: Service, name: web}], rules: []",
            &["parentRefs[0].kind: \"Service\"", "use Gateway"],
        ),
        ("parentRefs: [{}], rules: []", &["parentRefs[0].name: it is missing"]),
        ("hostnames: [\"a.com:80\"], rules: []", &["spec.hostnames[0]", "must not carry a port"]),
        ("hostnames: [\"a.*.com\"], rules: []", &["spec.hostnames[0]", "whole first label"]),
        (
            "hostnames: a.com, rules: []",
            &["spec.hostnames: \"a.com\" is not a list; write each item after a '-'"],
        ),
        ("rules: [{name: a}, {name: a}]", &["spec.rules[1].name: the name \"a\" is taken"]),
        ("rules: [{retry: {}}]", &["spec.rules[0].retry: it is not supported yet"]),
        ("rules: [{timeouts: {request: 1x}}]", &["spec.rules[0].timeouts.request: \"1x\" is not a duration"]),
        (
            "rules: [{timeouts: {request: 1s, backendRequest: 2s}}]",
            &["rules[0].timeouts.backendRequest: it is longer than request"],
        ),
        ("rules: [{backendRefs: [{name: a, weight: -1}]}]", &["backendRefs[0].weight: -1 is not allowed"]),
        (
            "rules: [{backendRefs: [{name: a, weight: 1000001}]}]",
            &["backendRefs[0].weight: 1000001", "0 to 1000000"],
        ),
        (
            "rules: [{backendRefs: [{group: weir.dev, kind: Backend, name: a, port: 80}]}]",
            &["backendRefs[0].port: a Backend's endpoints have their own ports; remove it"],
        ),
    ] {
        check(&route(spec), expect);
    }
    let many = format!("rules: [{}]", vec!["{}"; 17].join(", "));
    check(&route(&many), &["spec.rules: 17 items are more than 16; split the object"]);
    let rule = format!("{{matches: [{}]}}", vec!["{method: GET}"; 64].join(", "));
    let many = format!("rules: [{rule}, {rule}, {rule}]");
    check(&route(&many), &["spec: its rules have 192 matches, more than 128; split the route"]);
}

#[test]
fn matches() {
    let rule = |each: &str| route(&format!("rules: [{{matches: [{each}], {TO_SITE}}}]"));
    let at = "HTTPRoute default/site spec.rules[0].matches[0]";
    for (each, expect) in [
        (
            "{path: {type: Prefx, value: /a}}",
            &[at, ".path.type: \"Prefx\" is not a path type; use Exact, PathPrefix or RegularExpression"][..],
        ),
        ("{path: {type: Prefix, value: /a}}", &[".path.type: \"Prefix\" is not a path type"]),
        ("{path: {type: pathprefix, value: /a}}", &["did you mean PathPrefix?"]),
        ("{path: {value: a}}", &[".path.value: the path does not begin with '/'", "begin with '/'"]),
        ("{path: {value: /a//b}}", &[".path.value: no request has the path", "write \"/a/b\""]),
        ("{path: {value: /a/../b}}", &[".path.value: no request has the path", "write \"/b\""]),
        ("{path: {value: /a%2fb}}", &[".path.value: the path has an encoded slash"]),
        ("{path: {value: \"/a?b=1\"}}", &[".path.value: the path has a '?' or '#'"]),
        ("{path: {value: \"\"}}", &[".path.value: it is empty"]),
        ("{path: {value: 5}}", &[".path.value: 5 is not text; put it in quotes: \"5\""]),
        ("{path: {type: RegularExpression, value: \"/(a\"}}", &[".path.value:", "unclosed group"]),
        ("{path: {type: RegularExpression, value: \"/(?=a)\"}}", &[".path.value:", "look-around", "RE2"]),
        ("{paths: {value: /a}}", &[".paths: there is no such field; did you mean path?"]),
        ("{method: get}", &[".method: \"get\" is not a method; did you mean GET?"]),
        ("{headers: [{name: \"a b\", value: x}]}", &[".headers[0].name: \"a b\" is not a header's name"]),
        ("{headers: [{name: x-a}]}", &[".headers[0].value: it is missing"]),
        ("{headers: [{name: x-a, value: 1}]}", &[".headers[0].value: 1 is not text", "\"1\""]),
        (
            "{headers: [{name: X-A, value: a}, {name: x-a, value: b}]}",
            &[".headers[1]: \"x-a\" is there twice"],
        ),
        ("{headers: {name: x-a, value: b}}", &[".headers: a mapping is not a list"]),
        (
            "{queryParams: [{name: a, type: Regex, value: b}]}",
            &[".queryParams[0].type: \"Regex\" is not a match type"],
        ),
        (
            "{queryParams: [{name: a, type: RegularExpression, value: \"[\"}]}",
            &[".queryParams[0].value:", "unclosed"],
        ),
    ] {
        check(&rule(each), expect);
    }
}

#[test]
fn filters() {
    let rule = |filters: &str| route(&format!("rules: [{{filters: [{filters}]}}]"));
    let at = "HTTPRoute default/site spec.rules[0].filters[0]";
    for (filters, expect) in [
        ("{type: Mirror}", &[at, ".type: \"Mirror\" is not a filter type"][..]),
        (
            "{type: RequestMirror, requestMirror: {}}",
            &[at, "RequestMirror is not supported yet; remove the filter"],
        ),
        ("{type: CORS, cors: {}}", &[at, "CORS is not supported yet"]),
        ("{type: URLRewrite}", &[at, "it has no urlRewrite; add urlRewrite"]),
        (
            "{type: URLRewrite, urlRewrite: {}}",
            &[at, ".urlRewrite: it rewrites nothing; add hostname or path"],
        ),
        (
            "{type: URLRewrite, urlRewrite: {hostname: \"*.a.com\"}}",
            &[".urlRewrite.hostname: *.a.com stands for many"],
        ),
        (
            "{type: URLRewrite, requestRedirect: {}}",
            &[".requestRedirect: it does not belong to the filter's type"],
        ),
        (
            "{type: ExtensionRef, extensionRef: {group: acme.io, kind: Wasm, name: a}}",
            &[at, ".extensionRef: an extension of kind Wasm is not supported yet"],
        ),
        (
            "{type: RequestRedirect, requestRedirect: {statusCode: 304}}",
            &[".statusCode: 304 is no redirect's status", "307"],
        ),
        (
            "{type: RequestRedirect, requestRedirect: {scheme: ftp}}",
            &[".scheme: \"ftp\" is not a scheme; use http"],
        ),
        ("{type: RequestRedirect, requestRedirect: {port: 99999}}", &[".port: 99999 is not allowed"]),
        (
            "{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath}}}",
            &[".path: ReplaceFullPath has replaceFullPath and nothing else"],
        ),
        (
            "{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: \"/a b\"}}}",
            &[".replaceFullPath: \"/a b\" has a character", "percent-encode it"],
        ),
        (
            "{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {hostname: a.com}}",
            &["filters[1]: URLRewrite and RequestRedirect exclude each other"],
        ),
        (
            "{type: RequestRedirect, requestRedirect: {}}, {type: RequestRedirect, requestRedirect: {}}",
            &["filters[1]: a filter of its type stands before it; merge"],
        ),
        (
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}",
            &[".requestHeaderModifier.set[0]: the header host is the gateway's own"],
        ),
        (
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [A]}}",
            &[".requestHeaderModifier.remove[0]: the header a is edited twice"],
        ),
        (
            "{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: a, value: \"b\\r\\nc: d\"}]}}",
            &[".responseHeaderModifier.add[0].value: it has a control character"],
        ),
    ] {
        check(&rule(filters), expect);
    }
    let exact = "matches: [{path: {type: Exact, value: /a}}]";
    let rewrite = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]";
    check(
        &route(&format!("rules: [{{{exact}, {rewrite}, {TO_SITE}}}]")),
        &[at, ".urlRewrite.path: ReplacePrefixMatch needs a prefix", "type PathPrefix"],
    );
    let redirect = "filters: [{type: RequestRedirect, requestRedirect: {}}]";
    check(
        &route(&format!("rules: [{{{redirect}, {TO_SITE}}}]")),
        &["spec.rules[0].backendRefs: RequestRedirect answers by itself", "remove backendRefs or the filter"],
    );
    check(
        &route(&format!("rules: [{{backendRefs: [{{name: a, {redirect}}}]}}]")),
        &["spec.rules[0].backendRefs[0].filters: RequestRedirect cannot stand at one backend"],
    );
}

#[test]
fn platform_kinds() {
    let pool =
        |spec: &str| format!("apiVersion: weir.dev/v1\nkind: Pool\nmetadata: {{name: gold}}\nspec: {spec}\n");
    for (spec, expect) in [
        (
            "{minWorkers: 5, maxWorkers: 2}",
            &["Pool default/gold spec: minWorkers is 5, more than maxWorkers"][..],
        ),
        ("{maxWorkers: 0}", &["spec.maxWorkers: 0 is not allowed"]),
        ("{targetUtilization: 101}", &["spec.targetUtilization: 101", "from 1 to 100"]),
        ("{listen: [{port: 80, bind: \"8080\"}]}", &["spec.listen[0].bind:", "like 127.0.0.1:8080"]),
        ("{listen: []}", &["spec.listen: a pool needs at least one port"]),
        (
            "{listen: [{port: 80, bind: \"127.0.0.1:1\"}, {port: 80, bind: \"127.0.0.1:2\"}]}",
            &["spec.listen[1]: its port or its bind is taken"],
        ),
        (
            "{listen: [{port: 80, bind: \"[::]:1\", proxyProtocol: {}}]}",
            &["proxyProtocol.trusted: it is missing"],
        ),
        (
            "{listen: [{port: 80, bind: \"[::]:1\", proxyProtocol: {trusted: []}}]}",
            &["spec.listen[0].proxyProtocol.trusted: nobody is trusted"],
        ),
        (
            "{listen: [{port: 80, bind: \"[::]:1\", proxyProtocol: {trusted: [10.0.0.0/33]}}]}",
            &["trusted[0]: \"10.0.0.0/33\" is not a network", "like 10.0.0.0/8"],
        ),
        (
            "{listen: [{port: 80, bind: \"[::]:1\", proxyProtocol: {trusted: [10.1.0.0/8]}}]}",
            &["trusted[0]: 10.1.0.0/8 has bits set", "write 10.0.0.0/8 or 10.1.0.0"],
        ),
        (
            "{listen: [{port: 80, bind: \"[::]:1\", proxyProtocol: {mode: on, trusted: [\"::1\"]}}]}",
            &["proxyProtocol.mode: \"on\" is not a mode", "Required or Optional"],
        ),
        (
            "{capacityPerWorker: {rps: 5}}",
            &["spec.capacityPerWorker.rps: there is no such field; use requestsPerSecond"],
        ),
        ("{drainDeadline: 1y}", &["spec.drainDeadline: \"1y\" is not a duration"]),
    ] {
        check(&pool(spec), expect);
    }
    let tenant =
        "apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {name: acme}\nspec: {hostnames: [a_b.com]}\n";
    check(tenant, &["Tenant default/acme spec.hostnames[0]: \"a_b.com\" is not a hostname"]);
    let tenant = "apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {name: acme}\n\
                  spec: {quotas: {connections: 0, bufferedBytes: 1000, weight: 10001, requests: 5}}\n";
    for expect in [
        "spec.quotas.connections: 0 is not allowed; use a whole number from 1 to 1000000",
        "spec.quotas.bufferedBytes: 1000 is not allowed; use a whole number from 131072 to 1099511627776",
        "spec.quotas.weight: 10001 is not allowed; use a whole number from 1 to 10000",
        "spec.quotas.requests: there is no such field; use objects, bytes, connections, requestsInFlight",
    ] {
        check(tenant, &[expect]);
    }
    let response =
        "apiVersion: weir.dev/v1\nkind: DirectResponse\nmetadata: {name: a}\nspec: {status: 100}\n";
    check(
        response,
        &["DirectResponse default/a spec.status: 100 is not allowed; use a whole number from 200 to 599"],
    );
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: a}\n\
                 spec: {from: [{group: x, kind: HTTPRoute}], to: [{group: \"\", kind: Secret}]}\n";
    check(grant, &["ReferenceGrant default/a spec.from[0].namespace: it is missing"]);
}

#[test]
fn all_mistakes_of_all_documents_are_told_together() {
    let route = route("parentRefs: [{nam: web}], rules: [{matches: [{method: G}], timeouts: {request: 1}}]");
    let mistakes = mistakes(&format!("{route}\n---\na: [\n---\nkind: Potato\n"));
    for part in [
        "parentRefs[0].name",
        "parentRefs[0].nam:",
        "matches[0].method",
        "timeouts.request",
        "mend the YAML",
        "Potato",
    ] {
        assert!(mistakes.contains(part), "{part} not in\n{mistakes}");
    }
}

#[test]
fn a_mistake_reads_as_one_line() {
    let text = mistakes(&route("rules: [{matches: [{path: {type: Prefx, value: /a}}]}]"));
    assert_eq!(
        text,
        "objects.yaml:3: HTTPRoute default/site spec.rules[0].matches[0].path.type: \"Prefx\" is not a path type; \
         use Exact, PathPrefix or RegularExpression\n"
    );
}

#[test]
fn a_syntax_error_has_one_position_which_is_the_files() {
    let first = "# a comment\nkind: Backend\n---\n";
    for (broken, expect) in [
        ("spec:\n  a: b: c\n", "objects.yaml:5: "),
        ("\n\nspec: {a: [1, 2}\n", "objects.yaml:6: "),
        ("a: 1\na: 2\n", "objects.yaml:5: "),
        ("a: &x 1\nb: *y\n", "objects.yaml:5: "),
        ("a: !!int x\n", "objects.yaml:4: "),
    ] {
        // The marker's own line is the document's first: the second begins with line 4.
        let text = mistakes(&format!("{first}{broken}"));
        let line =
            text.lines().find(|line| line.contains(", at column ")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.starts_with(expect), "{broken:?}: {line}");
        assert!(!line.contains("line ") && line.matches("column").count() == 1, "{broken:?}: {line}");
    }
}

#[test]
fn what_is_not_the_tenants_is_refused() {
    let compiled = compile(&format!(
        "{}{}{BACKEND}---\napiVersion: weir.dev/v1\nkind: Pool\nmetadata: {{name: gold}}\n",
        gateway(
            "{name: a, port: 80, protocol: HTTP, hostname: other.localhost}, {name: b, port: 80, protocol: HTTP}"
        ),
        route(&format!("parentRefs: [{{name: web}}], hostnames: [\"*.localhost\"], rules: [{{{TO_SITE}}}]")),
    ));
    let text: Vec<String> = compiled.mistakes.iter().map(ToString::to_string).collect();
    let expect = [
        "Pool default/gold: a Pool belongs to the platform, not to tenant demo; ask the platform admin",
        "Gateway default/web spec.listeners[0].hostname: other.localhost does not belong to tenant demo; ask the \
         platform admin to add it to the Tenant's spec.hostnames (demo), or use one of demo.localhost, *.demo.localhost",
        "HTTPRoute default/site spec.hostnames[0]: *.localhost does not belong to tenant demo",
    ];
    for part in expect {
        assert!(text.iter().any(|line| line.contains(part)), "{part} not in {text:#?}");
    }
    // Nor does anything of it reach the edge: least of all the route, as one for every host.
    assert_eq!(compiled.config.listeners.len(), 1);
    assert!(compiled.config.routes.is_empty());
}

#[test]
fn bombs_are_refused_without_being_built() {
    let laughs = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, i| {
        let before = vec![format!("*a{}", i - 1); 10].join(", ");
        format!("{text}a{i}: &a{i} [{before}]\n")
    });
    for bomb in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), laughs] {
        let mistakes = mistakes(&bomb);
        assert!(mistakes.contains("mend the YAML"), "{mistakes}");
    }
}
