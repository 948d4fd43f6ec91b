//! Compiles the .proto files with protox (pure Rust), so that a fresh machine needs no protoc.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = [
        "weir/snapshot/v1/snapshot.proto",
        "weir/request/v1/request.proto",
        "weir/feed/v1/feed.proto",
        "weir/node/v1/node.proto",
        "weir/admin/v1/admin.proto",
        "weir/store/v1/store.proto",
        "weir/kv/v1/kv.proto",
        "weir/join/v1/join.proto",
        "weir/acks/v1/acks.proto",
    ];
    let descriptors = protox::compile(protos, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Server reflection answers with these.
    std::fs::write(out.join("descriptors.bin"), protox::prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".weir.feed.v1.TenantSnapshot")
        .bytes(".weir.store.v1")
        .bytes(".weir.kv.v1")
        .btree_map(".")
        // Its secret is in no log.
        .skip_debug([".weir.feed.v1.TicketKey"])
        .compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
