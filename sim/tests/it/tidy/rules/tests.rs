//! Each rule refuses what it is there to refuse, and nothing like it.

use super::super::workspace::{Crate, Dependency, File, Workspace};
use super::*;

fn krate(name: &str, dependencies: &[&str]) -> Crate {
    let dependencies = dependencies.iter().map(|d| Dependency { name: (*d).into(), dev: false }).collect();
    Crate { name: name.into(), dependencies }
}

fn crates(crates: Vec<Crate>) -> Workspace {
    Workspace { crates, ..Workspace::default() }
}

fn file(path: &str, text: &str) -> Workspace {
    let files = vec![File { path: path.into(), text: text.into() }];
    Workspace { files, ..Workspace::default() }
}

/// Where a rule finds a breach.
fn places(rule: fn(&Workspace) -> Vec<Broken>, workspace: &Workspace) -> Vec<String> {
    rule(workspace).into_iter().map(|b| b.place).collect()
}

#[track_caller]
fn refuses(rule: fn(&Workspace) -> Vec<Broken>, path: &str, text: &str) {
    assert_eq!(rule(&file(path, text)).len(), 1, "{path}: {text}");
}

#[track_caller]
fn accepts(rule: fn(&Workspace) -> Vec<Broken>, path: &str, text: &str) {
    assert_eq!(rule(&file(path, text)), [], "{path}: {text}");
}

#[test]
fn an_arrow_that_is_not_on_the_map_is_refused() {
    let all = [
        "model",
        "api",
        "store",
        "controller",
        "sys",
        "dialect",
        "sim",
        "weir",
        "edge",
        "autoscaler",
        "node",
    ];
    for (from, to) in [
        ("edge", "store"),
        ("node", "controller"),
        ("autoscaler", "store"),
        ("model", "api"),
        ("sys", "model"),
        ("store", "dialect"),
        ("weir", "sim"),
        ("edge", "weir"),
        ("somethingnew", "model"),
    ] {
        let mut list: Vec<_> = all.iter().filter(|n| **n != from).map(|n| krate(n, &[])).collect();
        list.push(krate(from, &[to]));
        assert_eq!(places(arrows, &crates(list)), [from], "{from} -> {to}");
    }
    let fine = vec![
        krate("model", &[]),
        krate("api", &["model", "tokio"]),
        krate("store", &["api"]),
        krate("weir", &["store"]),
        krate("sim", &["store"]),
    ];
    assert_eq!(arrows(&crates(fine)), []);
}

#[test]
fn io_in_a_pure_crate_is_refused() {
    let bad = crates(vec![krate("model", &["tokio", "serde"]), krate("dialect", &["hyper", "sled"])]);
    assert_eq!(places(purity, &bad), ["model", "dialect", "dialect"]);
    assert_eq!(purity(&crates(vec![krate("model", &["regex"]), krate("edge", &["tokio"])])), []);
}

#[test]
fn raft_outside_the_store_is_refused() {
    let tree = crates(vec![
        krate("store", &["raft", "sled"]),
        krate("controller", &["raft"]),
        krate("edge", &["sled"]),
    ]);
    assert_eq!(places(containment, &tree), ["controller", "edge"]);
}

#[test]
fn a_root_that_allows_unsafe_code_is_refused() {
    refuses(forbid_unsafe, "edge/src/lib.rs", "//! An edge.\nmod h1;\n");
    refuses(forbid_unsafe, "weir/src/main.rs", "fn main() {}\n");
    accepts(forbid_unsafe, "edge/src/lib.rs", "#![forbid(unsafe_code)]\n");
    accepts(forbid_unsafe, "sys/src/lib.rs", "");
    accepts(forbid_unsafe, "edge/src/h1/lib.rs", "");
}

#[test]
fn a_long_file_is_refused() {
    refuses(length, "edge/src/serve.rs", &"x\n".repeat(801));
    accepts(length, "edge/src/serve.rs", &"x\n".repeat(800));
    accepts(length, "docs/long.md", &"x\n".repeat(5000));
}

#[test]
fn a_library_that_prints_is_refused() {
    let broken = printing(&file("edge/src/serve.rs", "fn f() {\n    eprintln!(\"x\");\n    dbg!(1);\n}\n"));
    let places: Vec<_> = broken.iter().map(|b| b.place.as_str()).collect();
    assert_eq!(places, ["edge/src/serve.rs:2", "edge/src/serve.rs:3"]);
    for (path, text) in [
        ("weir/src/output.rs", "println!(\"x\");"),
        ("loadtest/src/cli.rs", "println!(\"x\");"),
        ("edge/src/serve.rs", "// println!(\"x\");"),
        ("edge/src/serve.rs", "#[cfg(test)]\nmod tests {\n println!(\"x\");\n}"),
        ("edge/src/serve/tests.rs", "println!(\"x\");"),
        ("edge/tests/it/main.rs", "println!(\"x\");"),
    ] {
        accepts(printing, path, text);
    }
    refuses(printing, "loadtest/src/run.rs", "println!(\"x\");");
}

#[test]
fn a_dependency_that_no_crate_uses_is_refused() {
    let mut tree = crates(vec![krate("edge", &["tokio"])]);
    tree.shared = vec!["tokio".into(), "leftpad".into()];
    let broken = unused(&tree);
    assert!(broken.len() == 1 && broken[0].problem.contains("leftpad"), "{broken:?}");
}

#[test]
fn a_version_in_a_crates_own_manifest_is_refused() {
    let manifest = "[package]\nversion = \"1\"\n\n[dependencies]\ntokio.workspace = true\nserde = \"1\"\n";
    assert_eq!(places(declared_once, &file("edge/Cargo.toml", manifest)), ["edge/Cargo.toml:6"]);
    refuses(declared_once, "edge/Cargo.toml", "[dev-dependencies]\nx = { version = \"1\" }\n");
    accepts(declared_once, "edge/Cargo.toml", "[dev-dependencies]\nx = { workspace = true }\n# y = \"1\"\n");
    accepts(declared_once, "Cargo.toml", "[workspace.dependencies]\nx = \"1\"\n");
}

#[test]
fn a_crate_without_lints_is_refused() {
    refuses(lints, "edge/Cargo.toml", "[package]\nname = \"edge\"\n");
    refuses(lints, "edge/Cargo.toml", "[lints]\n\n[dependencies]\nworkspace = true\n");
    accepts(lints, "edge/Cargo.toml", "[lints]\nworkspace = true\n");
}

#[test]
fn an_exception_without_a_reason_is_refused() {
    refuses(reasons, "edge/src/h1.rs", "#[allow(dead_code)]\nfn f() {}\n");
    refuses(reasons, "edge/src/h1.rs", "#![expect(\n    clippy::unwrap_used\n)]\n");
    accepts(
        reasons,
        "edge/src/h1.rs",
        "#[expect(\n    dead_code,\n    reason = \"read by no one yet\"\n)]\n",
    );
}

#[test]
fn a_second_test_binary_is_refused() {
    refuses(one_test_binary, "edge/tests/smoke.rs", "");
    refuses(one_test_binary, "edge/tests/smoke/main.rs", "");
    accepts(one_test_binary, "edge/tests/it/main.rs", "");
    accepts(one_test_binary, "edge/src/h1/tests/smoke.rs", "");
}

#[test]
fn a_directory_of_one_machine_is_refused() {
    refuses(machine_paths, "README.md", "Run `/work/main/target/debug/weir up`.");
    refuses(machine_paths, "edge/src/h1.rs", "// measured in /home/someone/weir");
    refuses(machine_paths, "a.toml", "path = \"/root/weir\"");
    for text in ["GET https://shop.localhost/home/page", "./work/main", "cd $HOME/work/", "/etc/weir/ca.pem"]
    {
        accepts(machine_paths, "README.md", text);
    }
}

#[test]
fn a_breach_says_why_and_how_to_mend_it() {
    let shown = length(&file("edge/src/serve.rs", &"x\n".repeat(900)))[0].to_string();
    for part in ["edge/src/serve.rs: has 900 lines", "why: ", "mend: split"] {
        assert!(shown.contains(part), "{shown}");
    }
}
