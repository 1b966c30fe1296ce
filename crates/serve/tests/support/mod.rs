//! A real store with real models in a folder that is thrown away, and a server of them.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::{fs, sync::Arc};

use serde_json::json;
use wattle_core::{Datatype, ModelReference, Name, TensorSpec};
use wattle_engine::{
    Data, Tensor,
    onnx::{Inspected, graph::GraphBuilder, inspect},
};
use wattle_meter::{Meter, SensorConfig};
use wattle_serve::{Context, Error, LanguageOptions, Launchers, Prediction, Replica, ServeOptions, Server};
use wattle_store::{Change, Manifest, NewRevision, NewTraffic, Revision, Settings, Store, Traffic};

pub(crate) struct Place {
    pub(crate) store: Store,
    pub(crate) server: Server,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) async fn place(options: ServeOptions) -> Place {
    place_with(options, Launchers::default()).await
}

/// A place whose models may live elsewhere.
pub(crate) async fn place_with(options: ServeOptions, launchers: Launchers) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("data")).await.unwrap();
    let meter = Meter::start(&folder.path().join("data/ledger.sqlite"), SensorConfig::default()).await.unwrap();
    let server = Server::start(store.clone(), meter, options, launchers).await.unwrap();
    Place { store, server, folder }
}

pub(crate) fn some() -> ServeOptions {
    options(2, 8)
}

pub(crate) fn options(max_computing: usize, max_waiting: usize) -> ServeOptions {
    ServeOptions {
        language: LanguageOptions { max_waiting: 100, prefixes: None, prefix_bytes: 0, processors: None },
        max_computing,
        max_waiting,
        max_tenant_requests: max_computing + max_waiting,
        memory_budget_bytes: 1 << 30,
        defaults: Settings::default(),
    }
}

/// A tensor of any number of rows with one value each.
pub(crate) fn rows(name: &str, datatype: Datatype) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: vec![-1, 1], missing: true }
}

/// A call of [`identity`] and its like.
pub(crate) fn x(values: &[f64]) -> Vec<Tensor> {
    vec![Tensor::new("x", vec![values.len(), 1], Data::Fp64(values.to_vec().into())).unwrap()]
}

/// A model that gives back `x`, after `weights` numbers that make its file large and its load slow.
pub(crate) fn identity(weights: usize) -> Vec<u8> {
    let spec = |name: &str| rows(name, Datatype::Fp64);
    let mut graph = GraphBuilder::new("identity");
    graph.input(&spec("x"));
    graph.output(&spec("y"));
    let values: Vec<f64> = (0..weights).map(|index| index as f64).collect();
    // The engine folds what is constant, so the ballast is part of what is computed.
    let ballast = graph.numbers("ballast", &[1, weights], &values);
    let products = graph.node("MatMul", &["x", &ballast], &[]);
    let largest = graph.node("ReduceMax", &[&products], &[]);
    let nothing = graph.node("Sub", &[&largest, &largest], &[]);
    graph.node_to("y", "Add", &["x", &nothing], &[]);
    graph.finish()
}

impl Place {
    pub(crate) async fn deploy(&self, name: &str, weights: usize, default: bool) {
        self.deploy_model(name, &identity(weights), default).await;
    }

    pub(crate) async fn deploy_model(&self, name: &str, model: &[u8], default: bool) {
        let version = self.version(name, model).await;
        self.put(&name.parse().unwrap(), version, default).await;
    }

    /// Stores the next version of a model; its number.
    pub(crate) async fn version(&self, name: &str, model: &[u8]) -> u32 {
        let file = self.folder.path().join(name);
        fs::write(&file, model).unwrap();
        let name: Name = name.parse().unwrap();
        let Inspected { signature, resident_bytes } = inspect(&file).unwrap();
        let manifest = |digest, bytes| Manifest {
            format: "onnx".into(),
            digest,
            bytes,
            signature,
            language: None,
            resident_bytes: Some(resident_bytes),
            algorithm: None,
            parameters: json!({}),
            data: None,
            metrics: json!({}),
            software: "test".into(),
            training: None,
            parent: None,
            created_at: chrono::Utc::now(),
        };
        self.store.commit_version(&name, &file, manifest).await.unwrap().version
    }

    pub(crate) async fn revision(&self, name: &Name, version: u32, settings: Settings) -> Revision {
        let reference: ModelReference = name.as_str().parse().unwrap();
        let (deployment, model) = (name.clone(), name.clone());
        let new = NewRevision { deployment, model, version, reference, settings };
        self.store.add_revision(new).await.unwrap()
    }

    pub(crate) async fn put(&self, name: &Name, version: u32, default: bool) {
        let revision = self.revision(name, version, Settings::default()).await.revision;
        self.put_traffic(name, Traffic::all(revision), default).await;
    }

    pub(crate) async fn put_traffic(&self, name: &Name, traffic: Traffic, default: bool) {
        let revision = traffic.stable().unwrap();
        let new = NewTraffic { name: name.clone(), what: Change::Deployed, revision, reason: None, default };
        self.store.change_traffic(new, |_| Ok(traffic)).await.unwrap();
        self.server.reload().await.unwrap();
    }

    pub(crate) fn replica(&self, name: &str) -> Arc<Replica> {
        self.server.find(Some(&name.parse().unwrap())).unwrap()
    }

    pub(crate) async fn call(&self, name: &str) -> Result<Prediction, Error> {
        self.call_with(name, Context::default(), x(&[7.0])).await
    }

    pub(crate) async fn call_with(
        &self,
        name: &str,
        context: Context,
        inputs: Vec<Tensor>,
    ) -> Result<Prediction, Error> {
        let call = self.server.admit(self.replica(name), context)?;
        self.server.predict(call, inputs).await
    }
}
