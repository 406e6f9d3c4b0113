//! Compiles the `.proto` files with protox, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=.");

    let services = protox::compile(["runtime/v1/api.proto", "control/v1/control.proto"], ["."])?;
    std::fs::write(out.join("descriptors.bin"), services.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(services)?;

    let mut images: Vec<_> = std::fs::read_dir("criu")?
        .map(|entry| Ok(format!("criu/{}", entry?.file_name().to_string_lossy())))
        .collect::<std::io::Result<_>>()?;
    images.sort();
    let images = protox::compile(images, ["."])?;
    std::fs::write(out.join("criu-descriptors.bin"), images.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .compile_fds(images)?;
    Ok(())
}
