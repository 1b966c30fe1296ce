//! Replicas over a real store and real models.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use wattle_core::{Datatype, ModelReference, Name, TensorSpec};
use wattle_engine::{
    Data, Tensor,
    onnx::{graph::GraphBuilder, inspect},
};
use wattle_meter::{Meter, SensorConfig};
use wattle_serve::{Error, Prediction, ServeOptions, Server};
use wattle_store::{Manifest, NewDeployment, Store};

struct Place {
    store: Store,
    server: Server,
    folder: tempfile::TempDir,
}

async fn place(options: ServeOptions) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("data")).await.unwrap();
    let meter = Meter::start(&folder.path().join("data/ledger.sqlite"), SensorConfig::default()).await.unwrap();
    let server = Server::start(store.clone(), meter, options).await.unwrap();
    Place { store, server, folder }
}

fn some() -> ServeOptions {
    ServeOptions { max_computing: 2, max_waiting: 8 }
}

/// A model that gives back `x`, after `weights` numbers that make its file large and its load slow.
fn identity(path: &Path, weights: usize) {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp64, shape: vec![-1, 1], missing: true };
    let mut graph = GraphBuilder::new("identity");
    graph.input(&spec("x"));
    graph.output(&spec("y"));
    let values: Vec<f64> = (0..weights).map(|index| index as f64).collect();
    let ballast = graph.numbers("ballast", &[weights], &values);
    let sum = graph.node("ReduceMax", &[&ballast], &[]);
    let nothing = graph.node("Sub", &[&sum, &sum], &[]);
    graph.node_to("y", "Add", &["x", &nothing], &[]);
    fs::write(path, graph.finish()).unwrap();
}

impl Place {
    async fn deploy(&self, name: &str, weights: usize, default: bool) {
        let file = self.folder.path().join(name);
        identity(&file, weights);
        let name: Name = name.parse().unwrap();
        let signature = inspect(&file).unwrap();
        let manifest = |digest, bytes| Manifest {
            format: "onnx".into(),
            digest,
            bytes,
            signature,
            algorithm: None,
            parameters: json!({}),
            data: None,
            metrics: json!({}),
            software: "test".into(),
            training: None,
            parent: None,
            created_at: chrono::Utc::now(),
        };
        let version = self.store.commit_version(&name, &file, manifest).await.unwrap();
        self.put(&name, version.version, default).await;
    }

    async fn put(&self, name: &Name, version: u32, default: bool) {
        let reference: ModelReference = name.as_str().parse().unwrap();
        let new = NewDeployment { name: name.clone(), model: name.clone(), version, reference, default };
        self.store.put_deployment(new).await.unwrap();
        self.server.reload().await.unwrap();
    }

    async fn call(&self, name: &str) -> Result<Prediction, Error> {
        let replica = self.server.find(Some(&name.parse().unwrap())).unwrap();
        let call = self.server.admit(replica)?;
        self.server.predict(call, vec![Tensor::new("x", vec![1, 1], Data::Fp64(vec![7.0].into())).unwrap()]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_when_the_caller_who_began_it_leaves() {
    let place = place(some()).await;
    place.deploy("slow", 4_000_000, false).await;
    let impatient = tokio::time::timeout(Duration::from_millis(1), place.call("slow")).await;
    assert!(impatient.is_err(), "32 MB were loaded within a millisecond");
    let replica = place.server.find(None).unwrap();
    let started = Instant::now();
    while !replica.is_loaded() {
        assert!(started.elapsed() < Duration::from_secs(30), "the load was given up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(place.call("slow").await.unwrap().outputs[0].data, Data::Fp64(vec![7.0].into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_the_default_keeps_models_in_memory() {
    let place = place(some()).await;
    place.deploy("one", 1, true).await;
    place.deploy("two", 1, false).await;
    place.call("one").await.unwrap();
    place.put(&"two".parse().unwrap(), 1, true).await;
    let one = place.server.find(Some(&"one".parse().unwrap())).unwrap().status();
    assert_eq!((one.deployment.default, one.loaded, one.requests), (false, true, 1));
    assert_eq!(place.server.find(None).unwrap().name().as_str(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_gone_costs_only_its_own_deployment() {
    let place = place(some()).await;
    place.deploy("good", 1, false).await;
    place.deploy("gone", 2, false).await;
    let digest = place.store.version(&place.server.find(Some(&"gone".parse().unwrap())).unwrap().model_version()).await;
    let blob = place.store.blobs().local_path(digest.unwrap().manifest.digest).await.unwrap();
    fs::remove_file(blob).unwrap();
    // As after a restart, which finds out what is there.
    let meter = Meter::start(&place.folder.path().join("other.sqlite"), SensorConfig::default()).await.unwrap();
    let place = Place { server: Server::start(place.store.clone(), meter, some()).await.unwrap(), ..place };
    place.call("good").await.unwrap();
    assert!(matches!(place.call("gone").await, Err(Error::Load { .. })));
    let gone = place.server.find(Some(&"gone".parse().unwrap())).unwrap();
    assert!(gone.status().error.is_some_and(|error| error.contains("gone")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deployment_cannot_take_every_place() {
    let place = place(ServeOptions { max_computing: 1, max_waiting: 7 }).await;
    place.deploy("greedy", 1, false).await;
    place.deploy("modest", 1, false).await;
    let greedy = place.server.find(Some(&"greedy".parse().unwrap())).unwrap();
    let mut calls = Vec::new();
    while let Ok(call) = place.server.admit(Arc::clone(&greedy)) {
        calls.push(call);
    }
    assert_eq!(calls.len(), 6);
    place.call("modest").await.unwrap();
    calls.clear();
    place.call("greedy").await.unwrap();
}
