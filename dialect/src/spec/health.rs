//! Which endpoints of a Backend are left out: `healthCheck`.

use std::time::Duration;

use model::{CheckKind, HealthCheck, OutlierDetection, TrafficPolicy};

use super::precise_hostname;
use crate::{
    name,
    read::{Fields, Node},
};

/// Envoy's number; errors of a few users' requests must not take an endpoint away.
const CONSECUTIVE: u32 = 5;

/// Envoy's numbers.
const EJECTION: Duration = Duration::from_secs(30);
const MAX_EJECTION: Duration = Duration::from_secs(300);
const WINDOW: Duration = Duration::from_secs(10);

/// Fewer say nothing about a share.
const MINIMUM_REQUESTS: u32 = 20;

/// Half may be wrong; more are rather the backend's fault as a whole.
const MAX_EJECTED_PERCENT: u8 = 50;

/// Soon enough for a person who waits, and next to nothing for the endpoint.
const INTERVAL: Duration = Duration::from_secs(5);

/// A check is answered at once by whoever is well.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Shorter ones would be a load of their own.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

const HEALTHY: u32 = 2;
const UNHEALTHY: u32 = 3;
const MOST_THRESHOLD: u32 = 1_000;
const MOST_RANGES: usize = 16;
const TEXT_BYTES: usize = 1024;

/// What a `healthCheck` says.
pub(super) struct Health {
    pub(super) check: Option<HealthCheck>,
    pub(super) outliers: Option<OutlierDetection>,
    pub(super) panic_percent: u8,
}

impl Default for Health {
    fn default() -> Self {
        Self { check: None, outliers: None, panic_percent: TrafficPolicy::PANIC_PERCENT }
    }
}

impl Health {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let check = match fields.optional("active") {
            Some(node) => read_check(&node).map(Some),
            None => Some(None),
        };
        let outliers = match fields.optional("passive") {
            Some(node) => read_outliers(&node).map(Some),
            None => Some(None),
        };
        let panic_percent = number(&mut fields, "panicThreshold", 0..=100, TrafficPolicy::PANIC_PERCENT);
        fields.finish();
        Some(Self { check: check?, outliers: outliers?, panic_percent: panic_percent? })
    }
}

fn number<T>(
    fields: &mut Fields<'_>,
    field: &'static str,
    range: std::ops::RangeInclusive<T>,
    default: T,
) -> Option<T>
where
    T: TryFrom<u64> + PartialOrd + std::fmt::Display,
{
    fields.optional(field).map_or(Some(default), |node| node.number(range))
}

fn time(fields: &mut Fields<'_>, field: &'static str, default: Duration) -> Option<Duration> {
    fields.optional(field).map_or(Some(default), |node| name::positive_duration(&node))
}

fn read_outliers(node: &Node<'_>) -> Option<OutlierDetection> {
    let mut fields = node.fields()?;
    // Zero switches a rule off.
    let mut count = |field, default: u32| {
        let found = number(&mut fields, field, 0..=1_000_000, default);
        found.map(|count| (count > 0).then_some(count))
    };
    let consecutive_5xx = count("consecutive5xx", CONSECUTIVE);
    let consecutive_gateway_errors = count("consecutiveGatewayErrors", CONSECUTIVE);
    let consecutive_connect_failures = count("consecutiveConnectFailures", CONSECUTIVE);
    let error_percent = number(&mut fields, "errorPercent", 0..=100, 0);
    let minimum_requests = number(&mut fields, "minimumRequests", 1..=1_000_000, MINIMUM_REQUESTS);
    let window = time(&mut fields, "window", WINDOW);
    let base_ejection = time(&mut fields, "baseEjectionTime", EJECTION);
    let max_ejection = time(&mut fields, "maxEjectionTime", MAX_EJECTION);
    let max_ejected_percent = number(&mut fields, "maxEjectedPercent", 0..=100, MAX_EJECTED_PERCENT);
    fields.finish();
    Some(OutlierDetection {
        consecutive_5xx: consecutive_5xx?,
        consecutive_gateway_errors: consecutive_gateway_errors?,
        consecutive_connect_failures: consecutive_connect_failures?,
        error_percent: error_percent.map(|percent| (percent > 0).then_some(percent))?,
        minimum_requests: minimum_requests?,
        window: window?,
        base_ejection: base_ejection?,
        max_ejection: max_ejection?,
        max_ejected_percent: max_ejected_percent?,
    })
}

fn read_check(node: &Node<'_>) -> Option<HealthCheck> {
    let mut fields = node.fields()?;
    let kinds = [fields.optional("http"), fields.optional("grpc"), fields.optional("tcp")];
    let kind = match kinds {
        [Some(node), None, None] => read_http(&node),
        [None, Some(node), None] => read_grpc(&node),
        [None, None, Some(node)] => node.fields().map(|fields| {
            fields.finish();
            CheckKind::Tcp
        }),
        _ => {
            node.wrong(
                "it asks either http, grpc or tcp",
                "write one of http: {path: /healthz}, grpc: {} and tcp: {}",
            );
            None
        }
    };
    let interval = time(&mut fields, "interval", INTERVAL);
    let timeout = time(&mut fields, "timeout", TIMEOUT);
    let healthy_threshold = number(&mut fields, "healthyThreshold", 1..=MOST_THRESHOLD, HEALTHY);
    let unhealthy_threshold = number(&mut fields, "unhealthyThreshold", 1..=MOST_THRESHOLD, UNHEALTHY);
    fields.finish();
    if interval.is_some_and(|interval| interval < SHORTEST_INTERVAL) {
        node.wrong("checks so often would be a load of their own", "make interval 100ms or longer");
        return None;
    }
    Some(HealthCheck {
        kind: kind?,
        interval: interval?,
        timeout: timeout?,
        healthy_threshold: healthy_threshold?,
        unhealthy_threshold: unhealthy_threshold?,
    })
}

fn read_http(node: &Node<'_>) -> Option<CheckKind> {
    let mut fields = node.fields()?;
    let path = match fields.optional("path") {
        Some(node) => read_path(&node),
        None => Some("/".to_owned()),
    };
    let host = match fields.optional("host") {
        Some(node) => precise_hostname(&node).map(Some),
        None => Some(None),
    };
    let expected = match fields.optional("expectedStatuses") {
        Some(node) => {
            let items = node.items(MOST_RANGES);
            if items.is_empty() {
                node.wrong("no status would be well", "write one, like [\"200-299\"]");
            }
            items.iter().map(read_range).collect()
        }
        None => Some(vec![(200, 299)]),
    };
    fields.finish();
    Some(CheckKind::Http { path: path?, host: host?, expected: expected? })
}

fn read_path(node: &Node<'_>) -> Option<String> {
    let text = node.text_of(1..=TEXT_BYTES)?;
    if !text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        node.wrong(format!("{text:?} is not a path"), "write it like /healthz or /healthz?deep=1");
        return None;
    }
    Some(text.to_owned())
}

/// `200` or `"200-299"`.
fn read_range(node: &Node<'_>) -> Option<(u16, u16)> {
    if node.raw().is_number() {
        return node.number(200..=599_u16).map(|status| (status, status));
    }
    let parsed = node.text()?.split_once('-').and_then(|(first, last)| {
        let status = |text: &str| text.parse().ok().filter(|status| (200..=599_u16).contains(status));
        Some((status(first)?, status(last)?))
    });
    let valid = parsed.filter(|(first, last)| first <= last);
    if valid.is_none() {
        node.wrong("it is neither a status nor a range", "write it like 200 or \"200-299\"");
    }
    valid
}

fn read_grpc(node: &Node<'_>) -> Option<CheckKind> {
    let mut fields = node.fields()?;
    let service = match fields.optional("service") {
        Some(node) => node.text_of(0..=TEXT_BYTES).map(str::to_owned),
        None => Some(String::new()),
    };
    fields.finish();
    Some(CheckKind::Grpc { service: service? })
}
