//! The worker of the tests of abuse, to be built for speed: `WEIR_ABUSED` names it (`tests/it/abuse.rs`).

#![expect(clippy::unwrap_used, reason = "it is part of a test")]

#[path = "../tests/it/abuse/worker.rs"]
mod worker;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    worker::serve();
}
