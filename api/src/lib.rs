//! What Weir's processes say to each other: the generated gRPC messages and services, their translation to
//! `model`, the messages between a host agent and its workers, and what every process does at its start.
//!
//! Deliberately absent: any decision. This crate only says how things are spelled.
#![forbid(unsafe_code)]

pub mod agent;
pub mod client;
pub mod convert;
pub mod leader;
pub mod limits;
pub mod pki;
pub mod process;
pub mod quic;
pub mod recall;
pub mod server;
pub mod tickets;

macro_rules! generated {
    ($(#[$doc:meta])* $name:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            elided_lifetimes_in_paths,
            clippy::large_enum_variant,
            clippy::use_self,
            clippy::let_underscore_must_use,
            reason = "generated; the .proto file is the documentation"
        )]
        pub mod $name {
            // As deep as its package: packages name each other by the way from here to there.
            pub mod v1 {
                tonic::include_proto!($package);
            }
            pub use v1::*;
        }
    };
}

generated! {
    /// `weir.snapshot.v1`: the IR of one tenant.
    snapshot, "weir.snapshot.v1"
}
generated! {
    /// `weir.request.v1`: what a worker knows of one request.
    request, "weir.request.v1"
}
generated! {
    /// `weir.feed.v1`: snapshots to edges, load from edges.
    feed, "weir.feed.v1"
}
generated! {
    /// `weir.node.v1`: desired state to host agents.
    node, "weir.node.v1"
}
generated! {
    /// `weir.admin.v1`: the admin API.
    admin, "weir.admin.v1"
}
generated! {
    /// `weir.store.v1`: what the config store writes and what its servers say to each other.
    store, "weir.store.v1"
}
generated! {
    /// `weir.kv.v1`: keys and values of the platform's own tools.
    kv, "weir.kv.v1"
}
generated! {
    /// `weir.join.v1`: how a process becomes one of an installation, and stays one.
    join, "weir.join.v1"
}
generated! {
    /// `weir.acks.v1`: what the workers serve that another server feeds.
    acks, "weir.acks.v1"
}

/// The encoded `FileDescriptorSet` of all services, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
