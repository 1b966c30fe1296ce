//! Makes Rust of the contracts in `proto/`, without a `protoc` to install.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", folder.display());
    let contracts = protox::compile(["open_inference.proto"], [&folder])?;
    // What reflection tells.
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("open_inference.bin"), contracts.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        // A process that serves one model answers a few of the calls only.
        .generate_default_stubs(true)
        // Tensors are slices of what came in and of what goes out.
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        .compile_fds(contracts)?;
    Ok(())
}
