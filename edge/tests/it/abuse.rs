//! What attackers and floods cost the worker, and honest clients meanwhile. The worker is a process of its own.
//!
//! Each run takes the short forms, with bounds that a loaded machine holds. `WEIR_LONG=1` takes the long ones, with the bounds that
//! are promised, and prints what it measured; `WEIR_ABUSED` names a worker that is built for speed (`examples/abused.rs`).

mod attacks;
mod cores;
mod fairness;
mod load;
mod origin;
mod overload;
mod process;
mod worker;

use std::{net::SocketAddr, sync::OnceLock};

use process::Process;
use worker::Spec;

use crate::support::{backend, forward, route};

/// Whether there is time for all of it.
fn is_long() -> bool {
    std::env::var_os("WEIR_LONG").is_some()
}

/// Tells what was measured.
#[expect(clippy::print_stdout, reason = "what the long forms are run for")]
fn tell(line: &str) {
    if is_long() {
        println!("{line}");
    }
}

/// The one upstream of all honest clients.
fn origin() -> SocketAddr {
    static ORIGIN: OnceLock<SocketAddr> = OnceLock::new();
    *ORIGIN.get_or_init(|| origin::start(|| {}))
}

/// One that only attackers ask.
fn bulk_origin() -> SocketAddr {
    static ORIGIN: OnceLock<SocketAddr> = OnceLock::new();
    *ORIGIN.get_or_init(|| origin::start(cores::give_way))
}

/// Everything on port 80 goes to the upstream.
fn plain() -> String {
    route(&forward("up")) + &backend("up", origin())
}

/// The worker, where it is this program.
#[test]
#[ignore = "a worker for the other tests, which start it"]
fn is_a_worker() {
    worker::serve();
}

/// A worker of several tenants, each of whose requests costs so much.
fn tenants(names: &[&str], toll_us: u64) -> Process {
    let tenants = names.iter().map(|name| ((*name).to_owned(), plain())).collect();
    Process::start(&Spec { alone: None, tenants, toll_us })
}
