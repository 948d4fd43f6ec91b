//! The one binary: every subcommand is a thin call into a crate.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
#![forbid(unsafe_code)]

mod client;
mod cluster;
mod edge;
mod layout;
mod metrics_http;
mod node;
mod output;
mod server;
mod supervised;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

// The data path allocates little, but on every request: mimalloc's fast path is shorter than glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Weir: a serverless autoscaling gateway.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole installation on this machine: server, host agent, workers
    Up(up::Args),
    /// Run a server: config store, admin API, feed, autoscaler
    Server(Box<server::Args>),
    /// Run the host agent: owns the listening sockets, starts and stops workers
    Node(Box<node::Args>),
    /// Run one worker; with --static FILE a plain reverse proxy with no control plane
    Edge(edge::Args),

    /// Apply objects from files or directories, all or nothing
    Apply(client::apply::Args),
    /// Show objects
    Get(client::get::Args),
    /// Show one object with its conditions
    Describe(client::describe::Args),
    /// Delete objects
    Delete(client::delete::Args),
    /// Revisions that changed a tenant's objects: who, when, what, from where
    History(client::history::Args),
    /// What changed in one object between two revisions
    Diff(client::diff::Args),
    /// Put a tenant's objects back as they were at a revision
    Rollback(client::rollback::Args),
    /// Who changed what, when and from where
    Audit(client::audit::Args),
    /// Say which route answers a URL, from which object, and why
    Explain(client::explain::Args),
    /// Create, list and delete tenants, make tokens
    #[command(subcommand)]
    Tenant(client::tenant::Command),
    /// The keys that secrets are sealed with: show, add, rotate, drop
    #[command(subcommand)]
    Secrets(client::secrets::Command),
    /// List workers, or drain one
    Workers(client::workers::Args),
    /// Scaling decisions with their reasons, worker starts and ends
    Events(client::events::Args),
    /// Watch the workers live
    Top(client::top::Args),
    /// Make an installation of several servers, and see to its members
    #[command(subcommand)]
    Cluster(cluster::Command),

    /// Write a backup of the store to a file, while it runs
    Backup(cluster::backup::Args),
    /// Make a new installation's first server of a backup
    Restore(Box<cluster::restore::Args>),

    /// Generate load, open loop, and measure latency from the intended time
    Loadtest(Box<loadtest::Args>),
    /// Plan capacity: how many workers a rate needs
    Plan(Box<loadtest::PlanArgs>),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(args) => up::run(args),
        Command::Server(args) => server::run(*args),
        Command::Node(args) => node::run(*args),
        Command::Edge(args) => edge::run(args),
        Command::Apply(args) => client::run(client::apply::run(args)),
        Command::Get(args) => client::run(client::get::run(args)),
        Command::Describe(args) => client::run(client::describe::run(args)),
        Command::Delete(args) => client::run(client::delete::run(args)),
        Command::History(args) => client::run(client::history::run(args)),
        Command::Diff(args) => client::run(client::diff::run(args)),
        Command::Rollback(args) => client::run(client::rollback::run(args)),
        Command::Audit(args) => client::run(client::audit::run(args)),
        Command::Explain(args) => client::run(client::explain::run(args)),
        Command::Tenant(command) => client::run(client::tenant::run(command)),
        Command::Secrets(command) => client::run(client::secrets::run(command)),
        Command::Workers(args) => client::run(client::workers::run(args)),
        Command::Events(args) => client::run(client::events::run(args)),
        Command::Top(args) => client::run(client::top::run(args)),
        Command::Cluster(command) => cluster::run(command),
        Command::Backup(args) => client::run(cluster::backup::run(args)),
        Command::Restore(args) => client::run(cluster::restore::run(*args)),
        Command::Loadtest(args) => loadtest::run_cli(*args),
        Command::Plan(args) => loadtest::run_plan_cli(*args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
