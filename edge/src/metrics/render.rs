//! The counters of all threads as Prometheus text (exposition format 0.0.4).

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    sync::Arc,
};

use super::{
    BackendGauges, BackendKey, Counters, Kind, Outcome, RouteKey, TenantCounters,
    routes::{BOUNDS_US, CLASSES, DURATIONS, RouteCounters},
};

/// All metrics of these threads.
pub(crate) fn render(threads: &[Arc<Counters>]) -> String {
    let mut text = String::new();
    let all: Vec<_> = threads.iter().map(|t| t.listed()).collect();
    if let Some(first) = all.first() {
        let mut family = "";
        for (index, (name, kind, help, _)) in first.iter().enumerate() {
            let sum: u64 = all.iter().map(|list| list[index].3).sum();
            let kind = if *kind == Kind::Counter { "counter" } else { "gauge" };
            // Those that differ by their labels stand together, and the first speaks for all.
            let base = name.split('{').next().unwrap_or(name);
            if std::mem::replace(&mut family, base) != base {
                line(&mut text, format_args!("# HELP {base} {help}\n# TYPE {base} {kind}"));
            }
            line(&mut text, format_args!("{name} {sum}"));
        }
    }
    let mut routes: BTreeMap<&RouteKey, Vec<RouteCounters<'_>>> = BTreeMap::new();
    for (key, counters) in threads.iter().flat_map(|t| t.routes.each()) {
        routes.entry(key).or_default().push(counters);
    }
    line(
        &mut text,
        "# HELP weir_edge_requests_total Requests that were answered, by route, how they ended and class of status.\n\
         # TYPE weir_edge_requests_total counter",
    );
    for (key, counters) in &routes {
        for outcome in Outcome::ALL {
            for class in 0..CLASSES {
                let sum: u64 = counters.iter().map(|c| c.ended(outcome, class).value()).sum();
                if sum > 0 {
                    line(
                        &mut text,
                        format_args!(
                            "weir_edge_requests_total{{tenant=\"{}\",route=\"{}\",outcome=\"{}\",code=\"{}xx\"}} {sum}",
                            key.tenant,
                            key.route,
                            outcome.as_str(),
                            class + 1
                        ),
                    );
                }
            }
        }
    }
    line(
        &mut text,
        "# HELP weir_edge_request_duration_seconds From the end of the request's head to the end of the response.\n\
         # TYPE weir_edge_request_duration_seconds histogram",
    );
    for (key, counters) in &routes {
        histogram(&mut text, key, counters);
    }
    tenants(&mut text, threads);
    backends(&mut text, threads);
    text
}

fn tenants(text: &mut String, threads: &[Arc<Counters>]) {
    let mut all: BTreeMap<String, Vec<Arc<TenantCounters>>> = BTreeMap::new();
    threads.iter().for_each(|thread| thread.tenants.collect(&mut all));
    type Gauge = fn(&TenantCounters) -> u64;
    let gauges: [(&str, &str, Gauge); 3] = [
        ("requests_in_flight", "Requests of a tenant that are being served.", |t| t.requests.value()),
        ("connections", "Client connections of a tenant that are open.", |t| t.connections.value()),
        ("buffered_bytes", "Bytes of buffers for a tenant's requests.", |t| t.buffered_bytes.value()),
    ];
    for (name, help, value) in gauges {
        let name = format!("weir_edge_tenant_{name}");
        line(text, format_args!("# HELP {name} {help}\n# TYPE {name} gauge"));
        for (tenant, counters) in &all {
            let sum: u64 = counters.iter().map(|c| value(c)).sum();
            line(text, format_args!("{name}{{tenant=\"{tenant}\"}} {sum}"));
        }
    }
    let name = "weir_edge_tenant_shed_requests_total";
    line(
        text,
        format_args!("# HELP {name} Requests of a tenant that were refused for lack of capacity, by reason."),
    );
    line(text, format_args!("# TYPE {name} counter"));
    for (tenant, counters) in &all {
        let mut reasons: BTreeMap<_, u64> = BTreeMap::new();
        counters
            .iter()
            .flat_map(|c| c.refused())
            .for_each(|(reason, n)| *reasons.entry(reason).or_default() += n);
        for (reason, sum) in reasons.into_iter().filter(|(_, sum)| *sum > 0) {
            line(text, format_args!("{name}{{tenant=\"{tenant}\",reason=\"{reason}\"}} {sum}"));
        }
    }
}

/// Each thread sees all endpoints: what counts is who sees most.
fn backends(text: &mut String, threads: &[Arc<Counters>]) {
    let mut all: BTreeMap<BackendKey, Vec<Arc<BackendGauges>>> = BTreeMap::new();
    threads.iter().for_each(|thread| thread.backends.collect(&mut all));
    line(
        text,
        "# HELP weir_edge_backend_endpoints Endpoints of a backend that requests went to.\n\
         # TYPE weir_edge_backend_endpoints gauge",
    );
    for ((tenant, backend), gauges) in &all {
        let most = gauges.iter().map(|gauges| gauges.endpoints.value()).max().unwrap_or(0);
        line(
            text,
            format_args!("weir_edge_backend_endpoints{{tenant=\"{tenant}\",backend=\"{backend}\"}} {most}"),
        );
    }
    line(
        text,
        "# HELP weir_edge_backend_unused_endpoints Of these, those that are left out, and why.\n\
         # TYPE weir_edge_backend_unused_endpoints gauge",
    );
    for ((tenant, backend), gauges) in &all {
        let mut reasons = BTreeMap::new();
        for (reason, count) in gauges.iter().flat_map(|gauges| gauges.reasons()) {
            let most: &mut u64 = reasons.entry(reason).or_default();
            *most = count.max(*most);
        }
        for (reason, count) in reasons {
            let labels = format!("tenant=\"{tenant}\",backend=\"{backend}\",reason=\"{reason}\"");
            line(text, format_args!("weir_edge_backend_unused_endpoints{{{labels}}} {count}"));
        }
    }
}

fn histogram(text: &mut String, key: &RouteKey, counters: &[RouteCounters<'_>]) {
    let name = "weir_edge_request_duration_seconds";
    let labels = format!("tenant=\"{}\",route=\"{}\"", key.tenant, key.route);
    let mut below: u64 = 0;
    for duration in 0..DURATIONS {
        below += counters.iter().map(|c| c.took(duration).value()).sum::<u64>();
        let le = BOUNDS_US.get(duration).map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
        line(text, format_args!("{name}_bucket{{{labels},le=\"{le}\"}} {below}"));
    }
    let sum_us = counters.iter().map(|c| c.sum_us().value()).sum();
    line(text, format_args!("{name}_sum{{{labels}}} {}", seconds(sum_us)));
    line(text, format_args!("{name}_count{{{labels}}} {below}"));
}

fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

fn line(text: &mut String, what: impl Display) {
    writeln!(text, "{what}").expect("writing to a String");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_summed() {
        let threads = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        for thread in &threads {
            thread.accepted.add(2);
            let key = RouteKey { tenant: "acme".to_owned(), route: "default/shop".to_owned() };
            thread.finished(thread.route(&key), Outcome::Forwarded, 200, 700);
        }
        let text = render(&threads);
        for expect in [
            "weir_edge_accepted_connections_total 4\n",
            "weir_edge_requests_total{tenant=\"acme\",route=\"default/shop\",outcome=\"forwarded\",code=\"2xx\"} 2\n",
            "le=\"0.000512\"} 0\n",
            "le=\"0.002048\"} 2\n",
            "weir_edge_request_duration_seconds_sum{tenant=\"acme\",route=\"default/shop\"} 0.001400\n",
        ] {
            assert!(text.contains(expect), "{expect} is not in\n{text}");
        }
    }
}
