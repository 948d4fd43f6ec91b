//! Traffic policies, in both directions.

use std::time::Duration;

use model::{
    AffinityCookie, Balancing, CheckKind, HashKey, HealthCheck, HedgeDelay, OutlierDetection, PoolPolicy,
    TrafficPolicy,
};

use super::to_wire::millis;
use crate::snapshot as wire;

/// `None` is a policy of defaults: what most backends have costs no byte.
pub(super) fn to_wire(policy: &TrafficPolicy) -> Option<wire::TrafficPolicy> {
    (*policy != TrafficPolicy::default()).then(|| {
        let balancing = match policy.balancing {
            Balancing::PowerOfTwo => wire::Balancing::PowerOfTwo,
            Balancing::LeastRequest => wire::Balancing::LeastRequest,
            Balancing::RoundRobin => wire::Balancing::RoundRobin,
            Balancing::RingHash(_) => wire::Balancing::RingHash,
            Balancing::Maglev(_) => wire::Balancing::Maglev,
        };
        wire::TrafficPolicy {
            balancing: balancing.into(),
            hash: policy.balancing.key().map(hash_key_to_wire),
            outliers: policy.outliers.as_ref().map(outliers_to_wire),
            health_check: policy.health_check.as_ref().map(check_to_wire),
            panic_percent: policy.panic_percent.into(),
            slow_start_ms: policy.slow_start.map(millis),
            pool: Some(wire::PoolPolicy {
                max_requests: policy.pool.max_requests,
                idle_ms: millis(policy.pool.idle),
                max_age_ms: millis(policy.pool.max_age),
            }),
            hedging: policy.hedging.map(hedging_to_wire),
        }
    })
}

fn hedging_to_wire(delay: HedgeDelay) -> wire::HedgeDelay {
    match delay {
        HedgeDelay::Fixed(delay) => wire::HedgeDelay { percent: 0, delay_ms: millis(delay) },
        HedgeDelay::Percentile { percent, at_least } => {
            wire::HedgeDelay { percent: percent.into(), delay_ms: millis(at_least) }
        }
    }
}

fn outliers_to_wire(outliers: &OutlierDetection) -> wire::OutlierDetection {
    wire::OutlierDetection {
        consecutive_5xx: outliers.consecutive_5xx,
        consecutive_gateway_errors: outliers.consecutive_gateway_errors,
        consecutive_connect_failures: outliers.consecutive_connect_failures,
        error_percent: outliers.error_percent.map(Into::into),
        minimum_requests: outliers.minimum_requests,
        window_ms: millis(outliers.window),
        base_ejection_ms: millis(outliers.base_ejection),
        max_ejection_ms: millis(outliers.max_ejection),
        max_ejected_percent: outliers.max_ejected_percent.into(),
    }
}

fn check_to_wire(check: &HealthCheck) -> wire::HealthCheck {
    use wire::health_check::Kind;
    let range =
        |(first, last): &(u16, u16)| wire::StatusRange { first: (*first).into(), last: (*last).into() };
    let kind = match &check.kind {
        CheckKind::Tcp => Kind::Tcp(true),
        CheckKind::Http { path, host, expected } => Kind::Http(wire::HttpCheck {
            path: path.clone(),
            host: host.clone(),
            expected: expected.iter().map(range).collect(),
        }),
        CheckKind::Grpc { service } => Kind::Grpc(wire::GrpcCheck { service: service.clone() }),
    };
    wire::HealthCheck {
        kind: Some(kind),
        interval_ms: millis(check.interval),
        timeout_ms: millis(check.timeout),
        healthy_threshold: check.healthy_threshold,
        unhealthy_threshold: check.unhealthy_threshold,
    }
}

fn hash_key_to_wire(key: &HashKey) -> wire::HashKey {
    use wire::hash_key::Key;
    let key = match key {
        HashKey::SourceIp => Key::SourceIp(true),
        HashKey::Header(name) => Key::Header(name.clone()),
        HashKey::Query(name) => Key::Query(name.clone()),
        HashKey::Cookie(cookie) => Key::Cookie(wire::AffinityCookie {
            name: cookie.name.clone(),
            issue_ms: cookie.issue.map(millis),
            path: cookie.path.clone(),
        }),
    };
    wire::HashKey { key: Some(key) }
}

/// # Errors
/// What is wrong.
pub(super) fn from_wire(policy: wire::TrafficPolicy) -> Result<TrafficPolicy, String> {
    let hashed = |make: fn(HashKey) -> Balancing| {
        let key = policy.hash.clone().and_then(|hash| hash.key).ok_or("what is hashed is missing")?;
        Ok::<_, String>(make(hash_key(key)))
    };
    let balancing = match wire::Balancing::try_from(policy.balancing) {
        Ok(wire::Balancing::PowerOfTwo) => Balancing::PowerOfTwo,
        Ok(wire::Balancing::LeastRequest) => Balancing::LeastRequest,
        Ok(wire::Balancing::RoundRobin) => Balancing::RoundRobin,
        Ok(wire::Balancing::RingHash) => hashed(Balancing::RingHash)?,
        Ok(wire::Balancing::Maglev) => hashed(Balancing::Maglev)?,
        Err(_) => return Err(format!("balancing {} is unknown", policy.balancing)),
    };
    Ok(TrafficPolicy {
        balancing,
        outliers: policy.outliers.map(outliers).transpose()?,
        health_check: policy.health_check.map(check).transpose()?,
        panic_percent: percent(policy.panic_percent)?,
        slow_start: policy.slow_start_ms.map(Duration::from_millis),
        pool: policy.pool.map_or_else(PoolPolicy::default, |pool| PoolPolicy {
            max_requests: pool.max_requests,
            idle: Duration::from_millis(pool.idle_ms),
            max_age: Duration::from_millis(pool.max_age_ms),
        }),
        hedging: policy.hedging.map(hedging).transpose()?,
    })
}

fn hedging(delay: wire::HedgeDelay) -> Result<HedgeDelay, String> {
    let after = Duration::from_millis(delay.delay_ms);
    Ok(match delay.percent {
        0 => HedgeDelay::Fixed(after),
        percent => HedgeDelay::Percentile { percent: self::percent(percent)?, at_least: after },
    })
}

fn percent(number: u32) -> Result<u8, String> {
    u8::try_from(number).map_err(|_| format!("{number} percent is out of range"))
}

fn outliers(outliers: wire::OutlierDetection) -> Result<OutlierDetection, String> {
    Ok(OutlierDetection {
        consecutive_5xx: outliers.consecutive_5xx,
        consecutive_gateway_errors: outliers.consecutive_gateway_errors,
        consecutive_connect_failures: outliers.consecutive_connect_failures,
        error_percent: outliers.error_percent.map(percent).transpose()?,
        minimum_requests: outliers.minimum_requests,
        window: Duration::from_millis(outliers.window_ms),
        base_ejection: Duration::from_millis(outliers.base_ejection_ms),
        max_ejection: Duration::from_millis(outliers.max_ejection_ms),
        max_ejected_percent: percent(outliers.max_ejected_percent)?,
    })
}

fn check(check: wire::HealthCheck) -> Result<HealthCheck, String> {
    use wire::health_check::Kind;
    let status = |status| u16::try_from(status).map_err(|_| format!("status {status} is out of range"));
    let kind = match check.kind.ok_or("what is checked is missing")? {
        Kind::Tcp(_) => CheckKind::Tcp,
        Kind::Http(http) => CheckKind::Http {
            path: http.path,
            host: http.host,
            expected: (http.expected.iter())
                .map(|range| Ok((status(range.first)?, status(range.last)?)))
                .collect::<Result<_, String>>()?,
        },
        Kind::Grpc(grpc) => CheckKind::Grpc { service: grpc.service },
    };
    Ok(HealthCheck {
        kind,
        interval: Duration::from_millis(check.interval_ms),
        timeout: Duration::from_millis(check.timeout_ms),
        healthy_threshold: check.healthy_threshold,
        unhealthy_threshold: check.unhealthy_threshold,
    })
}

fn hash_key(key: wire::hash_key::Key) -> HashKey {
    use wire::hash_key::Key;
    match key {
        Key::SourceIp(_) => HashKey::SourceIp,
        Key::Header(name) => HashKey::Header(name),
        Key::Query(name) => HashKey::Query(name),
        Key::Cookie(wire::AffinityCookie { name, issue_ms, path }) => {
            HashKey::Cookie(AffinityCookie { name, issue: issue_ms.map(Duration::from_millis), path })
        }
    }
}
