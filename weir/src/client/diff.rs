//! `weir diff`.

use anyhow::{Result, bail};
use api::{
    admin::{GetRequest, ObjectKey},
    client::Admin,
};
use serde_json::Value;
use tonic::Code;

use super::{Connect, kind, refusal};
use crate::output::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind, such as httproute
    kind: String,
    /// Name
    name: String,
    /// Tenant
    #[arg(short, long, env = "WEIR_TENANT", default_value = "platform")]
    tenant: String,
    /// Namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// As it was at this revision (see weir history)
    #[arg(long, value_name = "N")]
    from: u64,
    /// As it was at this one, or is now
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    to: u64,
    /// table (lines that went and came), or both objects as json or yaml
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let key = ObjectKey {
        tenant: args.tenant,
        namespace: args.namespace,
        kind: kind(&args.kind)?.into(),
        name: args.name,
    };
    let mut client = args.connect.client()?;
    let before = at(&mut client, &key, args.from).await?;
    let after = at(&mut client, &key, args.to).await?;
    if before.is_none() && after.is_none() {
        bail!("tenant {} has no {} {}/{} at either revision", key.tenant, key.kind, key.namespace, key.name);
    }
    if args.output != Format::Table {
        let value = serde_json::json!({"before": before, "after": after});
        return output::print(args.output, &value, || Table::new(&[]));
    }
    let text = |object: &Option<Value>| -> Result<String> {
        Ok(object.as_ref().map(serde_saphyr::to_string).transpose()?.unwrap_or_default())
    };
    output::text(&lines(&text(&before)?, &text(&after)?))
}

/// The object at a revision (0: now), if it was there.
async fn at(client: &mut Admin, key: &ObjectKey, revision: u64) -> Result<Option<Value>> {
    let request = GetRequest { key: Some(key.clone()), revision, ..GetRequest::default() };
    match client.objects.get(request).await {
        Ok(answer) => Ok(Some(serde_json::from_str(&answer.into_inner().object.unwrap_or_default().json)?)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(refusal(status)),
    }
}

/// All lines: what went with `-`, what came with `+`, what stayed with a blank.
fn lines(before: &str, after: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    // What two texts share at their begin and end is most of them, and spares the table below.
    let head = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (left, right) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut text = String::new();
    let mut line = |mark: char, line: &str| {
        text.push(mark);
        text.push_str(line);
        text.push('\n');
    };
    a[..head].iter().for_each(|shared| line(' ', shared));
    for (mark, changed) in changes(left, right) {
        line(mark, changed);
    }
    a[a.len() - tail..].iter().for_each(|shared| line(' ', shared));
    text
}

/// Lines that are compared each with each; beyond, all went and all came.
const MAX_COMPARED: usize = 4_000_000;

/// By the longest common subsequence.
fn changes<'t>(a: &[&'t str], b: &[&'t str]) -> Vec<(char, &'t str)> {
    if a.len() * b.len() > MAX_COMPARED {
        return a.iter().map(|line| ('-', *line)).chain(b.iter().map(|line| ('+', *line))).collect();
    }
    let width = b.len() + 1;
    let mut common = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = match a[i] == b[j] {
                true => common[(i + 1) * width + j + 1] + 1,
                false => common[(i + 1) * width + j].max(common[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, vec![]);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1] {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_and_came_is_marked() {
        for (before, after, expected) in [
            ("a\nb\nc\n", "a\nx\nc\n", " a\n-b\n+x\n c\n"),
            ("", "a\n", "+a\n"),
            ("a\n", "", "-a\n"),
            ("a\n", "a\n", " a\n"),
            ("a\nb\nc\nd\n", "b\nx\nd\ne\n", "-a\n b\n-c\n+x\n d\n+e\n"),
        ] {
            assert_eq!(lines(before, after), expected);
        }
    }
}
