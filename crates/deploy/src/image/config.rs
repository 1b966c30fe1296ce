use serde_json::{Map, Value, json};

use super::{Blob, ImageReference, MODELS_DIR, Model, PORT, PROGRAM, layer::Layer, runtime::LIBRARIES_DIR};
use crate::Result;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The user of distroless images, who owns nothing.
const USER: &str = "65532:65532";
/// What a container writes: its catalogue of a few entries, its ledger, and sockets. It is in memory, and the one place
/// that can be written where the root cannot.
const DATA_DIR: &str = "/dev/shm/wattle";
const SECOND_NANOSECONDS: u64 = 1_000_000_000;

/// What a container runs: a worker that serves the models of the image, or what it is told to fetch.
pub(super) fn config(models: &[&Model], layers: &[Layer]) -> Result<Blob> {
    let variables = [
        ("PATH", "/usr/bin".to_owned()),
        ("LD_LIBRARY_PATH", LIBRARIES_DIR.to_owned()),
        ("WATTLE_ROLE", "worker".to_owned()),
        ("WATTLE_LISTEN", format!("0.0.0.0:{PORT}")),
        ("WATTLE_DATA_DIR", DATA_DIR.to_owned()),
        ("WATTLE_MODELS_DIR", MODELS_DIR.to_owned()),
        // For the other commands in the container, of which the health check is one.
        ("WATTLE_URL", format!("http://127.0.0.1:{PORT}")),
    ];
    let variables = variables.map(|(name, value)| format!("{name}={value}"));
    let names = models.iter().map(|model| format!("{}:{}", model.version.model, model.version.version));
    let names = names.collect::<Vec<_>>().join(",");
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": USER,
            "ExposedPorts": { format!("{PORT}/tcp"): {} },
            "Env": variables,
            "Entrypoint": [PROGRAM],
            "Cmd": ["serve"],
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.title": "wattle",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                "serving.wattle.models": names,
            },
            // Docker's own, which the specification leaves room for.
            "Healthcheck": {
                "Test": ["CMD", PROGRAM, "health"],
                "Interval": 10 * SECOND_NANOSECONDS,
                "Timeout": 5 * SECOND_NANOSECONDS,
                "StartPeriod": 300 * SECOND_NANOSECONDS,
                "Retries": 3,
            },
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>(),
        },
        "history": layers.iter().map(|layer| json!({ "created_by": "wattle image build", "comment": layer.about })).collect::<Value>(),
    });
    // The same models give the same image, whenever it is made.
    if let (Some(created), Some(config)) =
        (models.iter().map(|model| model.version.manifest.created_at).max(), config.as_object_mut())
    {
        config.insert("created".to_owned(), json!(created));
    }
    Blob::of_json(CONFIG, &config)
}

/// The manifest of these layers.
pub(super) fn manifest(config: &Blob, layers: &[Blob]) -> Result<Blob> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": layers.iter().map(Blob::descriptor).collect::<Value>(),
    });
    Blob::of_json(MANIFEST, &manifest)
}

/// The index of a layout with this one image, under this name.
pub(super) fn index(manifest: &Blob, reference: &ImageReference) -> Value {
    let mut descriptor = manifest.descriptor();
    if let Some(descriptor) = descriptor.as_object_mut() {
        let mut annotations = Map::new();
        annotations.insert("org.opencontainers.image.ref.name".to_owned(), reference.to_string().into());
        // containerd's, by which Kubernetes finds it: with the registry, also where that is the usual one.
        annotations.insert("io.containerd.image.name".to_owned(), reference.whole.whole().into());
        descriptor.insert("annotations".to_owned(), annotations.into());
    }
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    })
}
