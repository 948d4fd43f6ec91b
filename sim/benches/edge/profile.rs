//! Reads what callgrind writes: the instructions of each function itself, without those that it calls.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};

/// Adds up a dump by function.
///
/// Names are written once, as `fn=(12) name`, and `fn=(12)` from then on. A line that begins with a position is a cost of
/// the function, but for the one after `calls=`, which is the callee's.
pub(crate) fn by_function(dump: &str) -> Result<BTreeMap<String, u64>> {
    let summary =
        dump.lines().find_map(|line| line.strip_prefix("summary: ")).context("not a dump of callgrind's")?;
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut costs: BTreeMap<String, u64> = BTreeMap::new();
    let (mut function, mut of_callee) = ("", false);
    for line in dump.lines() {
        if let Some(name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (id, text) = name.split_once(' ').unwrap_or((name, ""));
            if !text.is_empty() {
                names.insert(id, text);
            }
            if line.starts_with("fn=") {
                function = names.get(id).copied().context("a function without a name")?;
            }
        } else if line.starts_with("calls=") {
            of_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split(' ').nth(1).context("a cost")?;
            if !std::mem::take(&mut of_callee) {
                *costs.entry(plain(function)).or_default() += cost.parse::<u64>()?;
            }
        }
    }
    let sum = costs.values().sum::<u64>();
    ensure!(sum == summary.trim().parse::<u64>()? && sum > 0, "{sum} instructions of {summary} were read");
    Ok(costs)
}

/// Without what differs from build to build: the hash of the symbol, the compiler's copies, recursion's numbers.
fn plain(name: &str) -> String {
    let name = name.split('\'').next().unwrap_or(name);
    let name = name.split(" [clone").next().unwrap_or(name);
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            path.to_owned()
        }
        _ => name.to_owned(),
    }
}
