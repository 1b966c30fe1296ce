//! Container images: what is written. `docker` has them run.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Read,
    path::Path,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Server, command};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The blob that a descriptor means, whose digest and size are as it says.
fn blob(folder: &Path, descriptor: &Value) -> Vec<u8> {
    let (name, digest) = descriptor["digest"].as_str().unwrap().split_once(':').unwrap();
    assert_eq!(name, "sha256");
    let bytes = fs::read(folder.join("blobs/sha256").join(digest)).unwrap();
    assert_eq!(bytes.len() as u64, descriptor["size"]);
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, digest);
    bytes
}

/// The files of a layer: their names, modes and sizes.
fn files(archive: impl Read) -> Vec<(String, u32, u64)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
        (entry.path().unwrap().display().to_string(), header.mode().unwrap(), header.size().unwrap())
    });
    entries.collect()
}

#[test]
fn an_image_is_what_the_specification_says_and_a_second_model_takes_the_first_layer_as_it_is() {
    let server = Server::start();
    server.import_founding();
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    let place = layout.to_str().unwrap();
    let first = server.json(&["image", "build", "founding", "--oci", place]);
    assert_eq!((&first["reference"], first["oci"].as_str()), (&json!("wattle/founding:1"), Some(place)));
    assert_eq!(read(&layout.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = read(&layout.join("index.json"));
    let described = &index["manifests"][0];
    assert_eq!(
        (&described["digest"], &described["annotations"]["io.containerd.image.name"]),
        (&first["digest"], &json!("docker.io/wattle/founding:1"))
    );
    let manifest: Value = serde_json::from_slice(&blob(&layout, described)).unwrap();
    let config: Value = serde_json::from_slice(&blob(&layout, &manifest["config"])).unwrap();
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/wattle"]));

    // The program is compressed, the model is not.
    let [program, model] = manifest["layers"].as_array().unwrap().as_slice() else { panic!("{manifest}") };
    let program = files(flate2::read::GzDecoder::new(blob(&layout, program).as_slice()));
    let names: HashSet<&str> = program.iter().map(|(name, ..)| name.as_str()).collect();
    for name in
        ["usr/bin/wattle", "usr/bin/libonnxruntime.so", "usr/lib/wattle/libc.so.6", "usr/lib/wattle/libstdc++.so.6"]
    {
        assert!(names.contains(name), "{name} is missing among {names:?}");
    }
    assert!(names.len() < 25, "nothing else is there: {names:?}");
    let bytes = blob(&layout, model);
    let diff_id =
        format!("sha256:{}", Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    assert_eq!(config["rootfs"]["diff_ids"][1], json!(diff_id));
    let model = files(bytes.as_slice());
    let names: Vec<_> = model.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
    assert_eq!(
        names,
        [
            ("models", 0o755),
            ("models/founding", 0o755),
            ("models/founding/manifest.json", 0o444),
            ("models/founding/model.onnx", 0o444)
        ]
    );

    // The same again, and another version beside it: one layer more than there was, and the digests of before.
    let again = server.json(&["image", "build", "founding", "--oci", place]);
    assert_eq!(again["digest"], first["digest"]);
    server.import_founding();
    let second =
        server.json(&["image", "build", "founding:2", "--oci", place, "--tag", "registry.example/team/founding"]);
    assert_eq!(
        (&second["layers"][0], &second["reference"]),
        (&first["layers"][0], &json!("registry.example/team/founding:latest"))
    );
    assert_ne!(second["digest"], first["digest"]);

    let sbom = read(&folder.path().join("layout.spdx.json"));
    let packages = sbom["packages"].as_array().unwrap();
    let is_named = |name: &str| packages.iter().any(|package| package["name"] == name);
    for name in ["tokio", "/usr/lib/wattle/libc.so.6", "founding"] {
        assert!(is_named(name), "{name}");
    }
}

#[test]
fn an_archive_holds_the_layout_and_what_older_engines_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runtime.tar");
    let mut build = command();
    build.args(["image", "build", "--runtime-only", "-o", "json", "--tar"]).arg(&file);
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let built: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(built["layers"].as_array().unwrap().len(), 1);
    let mut archive = tar::Archive::new(File::open(&file).unwrap());
    let target = folder.path().join("unpacked");
    archive.unpack(&target).unwrap();
    let docker = read(&target.join("manifest.json"));
    assert_eq!(docker[0]["RepoTags"], json!([format!("wattle/wattle:{}", env!("CARGO_PKG_VERSION"))]));
    let layer = target.join(docker[0]["Layers"][0].as_str().unwrap());
    assert_eq!(fs::metadata(layer).unwrap().len(), built["layers"][0]["bytes"]);
    let manifest: Value =
        serde_json::from_slice(&blob(&target, &read(&target.join("index.json"))["manifests"][0])).unwrap();
    assert_eq!(docker[0]["Config"], format!("blobs/sha256/{}", &manifest["config"]["digest"].as_str().unwrap()[7..]));
}

#[test]
fn what_is_no_image_is_refused_before_anything_is_made() {
    let server = Server::start();
    server.import_founding();
    for (arguments, word) in [
        (vec!["founding"], "--push"),
        (vec!["--tar", "x.tar"], "MODEL"),
        (vec!["founding", "--runtime-only", "--tar", "x.tar"], "cannot be used"),
        (vec!["founding:7", "--tar", "x.tar"], "its latest is founding:1"),
        (vec!["founding", "founding:1", "--tar", "x.tar"], "founding was named twice"),
        (vec!["founding", "--tar", "/nowhere/x.tar"], "there is no folder /nowhere"),
        (vec!["founding", "--push", "127.0.0.1:1/X:1"], "registry.example/team/iris:1"),
        (vec!["founding", "--push", "127.0.0.1:1/x:1"], "127.0.0.1:1: cannot log in"),
    ] {
        let told = server.fails(&[&["image", "build"], arguments.as_slice()].concat());
        assert!(told.contains(word), "{arguments:?}: {told}");
    }
}
