//! The rules of the tree that no compiler checks: who may depend on whom, where unsafe, raft and printing may be, how
//! long a file may be. Each rule is a pure function in `rules`; here they meet the workspace.

mod rules;
mod workspace;

use rules::Broken;
use workspace::Workspace;

/// Fails with every breach of one rule, each with its reason and its remedy.
#[track_caller]
fn check(rule: fn(&Workspace) -> Vec<Broken>) {
    let workspace = Workspace::read();
    let broken: Vec<_> = rule(&workspace).iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// A rule that looks at nothing passes always.
#[test]
fn the_workspace_is_seen() {
    let workspace = Workspace::read();
    let names: Vec<_> = workspace.crates.iter().map(|c| c.name.as_str()).collect();
    for name in
        ["model", "dialect", "api", "sys", "store", "controller", "autoscaler", "node", "edge", "weir", "sim"]
    {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert!(workspace.files.iter().any(|f| f.path == "model/src/lib.rs"));
    assert!(workspace.files.iter().any(|f| f.path == "Cargo.toml"));
    assert!(workspace.shared.iter().any(|d| d == "tokio"), "{:?}", workspace.shared);
    let store = workspace.crates.iter().find(|c| c.name == "store");
    assert!(store.is_some_and(|s| s.dependencies.iter().any(|d| d.name == "raft")));
}

#[test]
fn arrows_between_crates_point_one_way() {
    check(rules::arrows);
}

#[test]
fn pure_crates_do_no_io() {
    check(rules::purity);
}

#[test]
fn the_engine_of_the_store_stays_in_the_store() {
    check(rules::containment);
}

#[test]
fn unsafe_code_is_in_sys_only() {
    check(rules::forbid_unsafe);
}

#[test]
fn files_can_be_read_in_one_sitting() {
    check(rules::length);
}

#[test]
fn only_the_command_line_prints() {
    check(rules::printing);
}

#[test]
fn shared_dependencies_are_used() {
    check(rules::unused);
}

#[test]
fn dependencies_are_declared_once() {
    check(rules::declared_once);
}

#[test]
fn every_crate_has_the_workspaces_lints() {
    check(rules::lints);
}

#[test]
fn every_exception_has_a_reason() {
    check(rules::reasons);
}

#[test]
fn a_crate_has_one_test_binary() {
    check(rules::one_test_binary);
}

#[test]
fn nothing_names_a_directory_of_one_machine() {
    check(rules::machine_paths);
}
