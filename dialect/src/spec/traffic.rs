//! How a Backend's requests are spread over its endpoints: `loadBalancer` and `connectionPool`.

use std::time::Duration;

use model::{AffinityCookie, Balancing, HashKey, HedgeDelay, PoolPolicy};

use crate::{name, read::Node};

/// Bytes of the name of a header, a cookie or a parameter.
const KEY_NAME_BYTES: usize = 256;

/// Bytes of a cookie's path.
const PATH_BYTES: usize = 1024;

/// `loadBalancer`: who answers, and how long a new endpoint takes to get its share.
pub(super) fn read_balancer(node: &Node<'_>) -> Option<(Balancing, Option<Duration>)> {
    #[derive(Clone, Copy)]
    enum Type {
        Plain(fn() -> Balancing),
        Hashed(fn(HashKey) -> Balancing),
    }
    let types = [
        ("PowerOfTwo", Type::Plain(|| Balancing::PowerOfTwo)),
        ("LeastRequest", Type::Plain(|| Balancing::LeastRequest)),
        ("RoundRobin", Type::Plain(|| Balancing::RoundRobin)),
        ("RingHash", Type::Hashed(Balancing::RingHash)),
        ("Maglev", Type::Hashed(Balancing::Maglev)),
    ];
    let mut fields = node.fields()?;
    let chosen = fields.required("type").and_then(|node| node.choice("a way to balance load", &types));
    let hash = fields.optional("hash");
    let slow_start = fields.optional("slowStart");
    fields.finish();
    if let (Some(Type::Hashed(_)), Some(node)) = (chosen, &slow_start) {
        node.wrong(
            "where the request decides, a new endpoint cannot get its share little by little",
            "remove it",
        );
        return None;
    }
    let slow_start = match slow_start {
        Some(node) => Some(name::positive_duration(&node)?),
        None => None,
    };
    let balancing = match (chosen?, hash) {
        (Type::Plain(balancing), None) => Some(balancing()),
        (Type::Plain(_), Some(hash)) => {
            hash.wrong("only RingHash and Maglev look at the request", "remove hash, or choose one of these");
            None
        }
        (Type::Hashed(balancing), Some(hash)) => read_key(&hash).map(balancing),
        (Type::Hashed(_), None) => {
            node.wrong("nothing says what of a request is hashed", "add hash, like hash: {type: SourceIP}");
            None
        }
    };
    Some((balancing?, slow_start))
}

/// Requests at once that a thread can serve are fewer.
const MOST_REQUESTS: u32 = 1_000_000;

/// `connectionPool`.
pub(super) fn read_pool(node: &Node<'_>) -> Option<PoolPolicy> {
    let mut fields = node.fields()?;
    let default = PoolPolicy::default();
    let max_requests = match fields.optional("maxRequestsPerEndpoint") {
        Some(node) => node.number(1..=MOST_REQUESTS).map(Some),
        None => Some(None),
    };
    let mut time = |field, default| {
        let node = fields.optional(field);
        node.map_or(Some(default), |node| name::positive_duration(&node))
    };
    let idle = time("idleTimeout", default.idle);
    let max_age = time("maxAge", default.max_age);
    fields.finish();
    Some(PoolPolicy { max_requests: max_requests?, idle: idle?, max_age: max_age? })
}

/// Whoever waits for longer has given up.
const MOST_HEDGE_DELAY: Duration = Duration::from_secs(60);

/// `hedging`: a fixed time, or one that follows what is observed.
pub(super) fn read_hedging(node: &Node<'_>) -> Option<HedgeDelay> {
    let mut fields = node.fields()?;
    let delay = fields.optional("delay");
    let percentile = fields.optional("percentile");
    let at_least = fields.optional("minDelay");
    fields.finish();
    match (delay, percentile) {
        (Some(delay), None) => {
            if let Some(node) = at_least {
                node.wrong("a fixed delay has no least", "remove it, or write percentile");
                return None;
            }
            read_hedge_delay(&delay).map(HedgeDelay::Fixed)
        }
        (None, Some(percentile)) => {
            let at_least = match at_least {
                Some(node) => read_hedge_delay(&node)?,
                None => Duration::from_millis(1),
            };
            Some(HedgeDelay::Percentile { percent: percentile.number(50..=99)?, at_least })
        }
        _ => {
            node.wrong(
                "when the second request is sent is said in one way",
                "write either delay or percentile",
            );
            None
        }
    }
}

fn read_hedge_delay(node: &Node<'_>) -> Option<Duration> {
    name::positive_duration(node).filter(|delay| {
        let fits = *delay <= MOST_HEDGE_DELAY;
        if !fits {
            node.wrong("nobody waits for so long", "use at most 1m");
        }
        fits
    })
}

fn read_key(node: &Node<'_>) -> Option<HashKey> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Type {
        SourceIp,
        Header,
        Query,
        Cookie,
    }
    let types = [
        ("SourceIP", Type::SourceIp),
        ("Header", Type::Header),
        ("QueryParam", Type::Query),
        ("Cookie", Type::Cookie),
    ];
    let mut fields = node.fields()?;
    let chosen = fields.required("type").and_then(|node| node.choice("a part of requests", &types));
    let own_name = match chosen {
        None | Some(Type::SourceIp) => None,
        Some(_) => fields.required("name").and_then(|node| read_name(&node)),
    };
    let (mut issue, mut path) = (Some(None), Some("/".to_owned()));
    if chosen == Some(Type::Cookie) {
        if let Some(node) = fields.optional("ttl") {
            issue = name::duration(&node).map(Some);
        }
        if let Some(node) = fields.optional("path") {
            path = read_path(&node);
        }
    }
    fields.finish();
    Some(match chosen? {
        Type::SourceIp => HashKey::SourceIp,
        Type::Header => HashKey::Header(own_name?.to_ascii_lowercase()),
        Type::Query => HashKey::Query(own_name?),
        Type::Cookie => HashKey::Cookie(AffinityCookie { name: own_name?, issue: issue?, path: path? }),
    })
}

/// A token (RFC 9110 section 5.6.2), as names of headers and cookies are.
fn read_name(node: &Node<'_>) -> Option<String> {
    let text = node.text_of(1..=KEY_NAME_BYTES)?;
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
        node.wrong(format!("{text:?} is not a name"), "use letters, digits, '-' and '_'");
        return None;
    }
    Some(text.to_owned())
}

fn read_path(node: &Node<'_>) -> Option<String> {
    let text = node.text_of(1..=PATH_BYTES)?;
    if !text.starts_with('/') || text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b';') {
        node.wrong(format!("{text:?} is not a cookie's path"), "write it like /shop");
        return None;
    }
    Some(text.to_owned())
}
