//! Who may become a server or a node, and who may not.

use anyhow::Result;
use sim::cluster::{Cluster, Options};

use super::{PATIENCE, Traffic, no_errors, one_at_a_time, serving, with_traffic};

/// What a command that must fail says.
fn refused(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let output = cluster.weir(args)?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "weir {args:?} was not refused: {stderr}");
    Ok(stderr)
}

fn join<'a>(data: &'a str, admin: &'a str, token: &'a str, peers: &'a str) -> Vec<&'a str> {
    vec!["cluster", "join", "--data", data, "--server", admin, "--token", token, "--peers", peers]
}

#[test]
fn a_token_lets_one_server_in_and_says_why_not_another() -> Result<()> {
    let _turn = one_at_a_time();
    let cluster = Cluster::start(1)?;
    let admin = cluster.admin(1).unwrap_or_default();
    let node_token = cluster.token("node")?;
    let text = refused(&cluster, &join("x1", &admin, &node_token, "127.0.0.1:1"))?;
    assert!(text.contains("is for a node, not for a server"), "{text}");

    let token = cluster.token("server")?;
    let mut parts: Vec<&str> = token.split('.').collect();
    let secret: String = parts[1].chars().rev().collect();
    parts[1] = &secret;
    let text = refused(&cluster, &join("x2", &admin, &parts.join("."), "127.0.0.1:1"))?;
    assert!(text.contains("not known here") || text.contains("not a join token"), "{text}");
    let (rest, hash) = token.rsplit_once('.').unwrap_or_default();
    let other = format!("{rest}.{}", hash.chars().rev().collect::<String>());
    let text = refused(&cluster, &join("x3", &admin, &other, "127.0.0.1:1"))?;
    assert!(text.contains("no server of the installation that the token is of"), "{text}");

    // Good once; its own key may ask again, another may not.
    let (one, two) = (join("x4", &admin, &token, "127.0.0.1:1"), join("x5", &admin, &token, "127.0.0.1:2"));
    let first = cluster.weir_ok(&one)?;
    assert!(first.contains("joined as server 2"), "{first}");
    let text = refused(&cluster, &two)?;
    assert!(text.contains("was used by server-2"), "{text}");
    std::fs::remove_file(cluster.path("x4/server.json"))?;
    let again = cluster.weir_ok(&one)?;
    assert!(again.contains("joined as server 2"), "{again}");

    // A server that lost everything comes back at its address only when its old id is gone.
    let third = cluster.token("server")?;
    let text = refused(&cluster, &join("x6", &admin, &third, "127.0.0.1:1"))?;
    assert!(text.contains("weir cluster remove 2"), "{text}");

    let revoked = cluster.token("server")?;
    let id = revoked.split('.').next().unwrap_or_default();
    cluster.weir_ok(&["cluster", "token", "revoke", id])?;
    let text = refused(&cluster, &join("x7", &admin, &revoked, "127.0.0.1:3"))?;
    assert!(text.contains("not known here"), "{text}");
    let over = cluster.weir_ok(&["cluster", "token", "create", "--role", "server", "--ttl", "1s"])?;
    let mut text = String::new();
    cluster.wait(PATIENCE, "end of the token", |cluster| {
        let output = cluster.weir(&join("x8", &admin, over.trim(), "127.0.0.1:0"))?;
        text = String::from_utf8_lossy(&output.stderr).into_owned();
        // A port of 0 is refused before anything is asked: the token is not used up meanwhile.
        assert!(text.contains("--peers"), "{text}");
        let output = cluster.weir(&["cluster", "token", "list"])?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("over"))
    })?;
    let text = refused(&cluster, &join("x8", &admin, over.trim(), "127.0.0.1:4"))?;
    assert!(text.contains("this join token is over since"), "{text}");
    Ok(())
}

#[test]
fn a_server_that_lost_its_disk_does_not_come_back_under_its_id() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(3)?;
    cluster.stop(3)?;
    std::fs::remove_dir_all(cluster.path("s3/server"))?;
    cluster.run(3)?;
    let status = cluster.ended(3)?;
    assert!(!status.success());
    let log = cluster.log();
    assert!(log.contains("weir cluster remove 3"), "{log}");
    cluster.weir_ok(&["cluster", "remove", "3"])?;
    cluster.forget(3);
    let id = cluster.add_server()?;
    assert_eq!(id, 4, "no id is used twice");
    Ok(())
}

#[test]
fn certificates_are_renewed_while_everything_goes_on() -> Result<()> {
    let _turn = one_at_a_time();
    let lifetime = Some(std::time::Duration::from_secs(12));
    let mut cluster =
        Cluster::start_with(2, Options { certificate_lifetime: lifetime, ..Options::default() })?;
    with_traffic(&mut cluster)?;
    // The first server's own first one is a day's: `init` made it.
    let names = ["s2/pki/server.pem", "n1/pki/node.pem", "n1/pki/edge.pem"];
    let files =
        |cluster: &Cluster| names.map(|name| std::fs::read_to_string(cluster.path(name)).unwrap_or_default());
    let first = files(&cluster);
    let mut traffic = Traffic::start(&cluster, 20)?;
    // Three lives: whoever still used the first certificate would be out by then.
    let mut seen = vec![first];
    cluster.wait(PATIENCE, "third renewal of each", |cluster| {
        let now = files(cluster);
        if now.iter().zip(seen.last().into_iter().flatten()).all(|(now, last)| now != last) {
            seen.push(now);
        }
        Ok(seen.len() >= 4 && !traffic.running()?)
    })?;
    traffic.finish()?;
    // New connections of each kind, with what is valid now.
    let leader = cluster.leader()?;
    cluster.stop(leader)?;
    cluster.run(leader)?;
    cluster.leader()?;
    cluster.settle(1)?;
    super::write(&cluster, 1)?;
    no_errors(&cluster.log());
    cluster.stop_all()
}

#[test]
fn every_server_knows_what_the_workers_serve_and_all_end_in_order() -> Result<()> {
    let _turn = one_at_a_time();
    let mut cluster = serving(3)?;
    super::serves(&cluster)?;
    // The worker is fed by one of them.
    for id in cluster.running() {
        cluster.wait(PATIENCE, &format!("word of server {id}"), |cluster| {
            let text = cluster.weir_ok_on(id, &["get", "httproute", "site", "-t", "acme"])?;
            Ok(text.contains("Programmed") && !text.contains("Programmed="))
        })?;
    }
    let workers = cluster.ready_workers()?;
    let leader = cluster.leader()?;
    let revision = cluster.status_of(leader)?["revision"].as_u64();
    assert!(workers[0]["revision"].as_u64() > Some(0), "{workers:?}");
    assert!(workers[0]["revision"].as_u64() <= revision, "{workers:?}");
    no_errors(&cluster.log());
    cluster.stop_all()
}
