//! Replicas over a real store and real models.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use support::{Place, options, place, some};
use wattle_engine::Data;
use wattle_meter::{Meter, SensorConfig};
use wattle_serve::{Context, Error, Launchers, Server};

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
    let one = place.replica("one").status();
    assert_eq!((one.deployment.default, one.model.loaded, one.model.requests), (false, true, 1));
    assert_eq!(place.server.find(None).unwrap().name().as_str(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_gone_costs_only_its_own_deployment() {
    let place = place(some()).await;
    place.deploy("good", 1, false).await;
    place.deploy("gone", 2, false).await;
    let digest = place.store.version(place.replica("gone").model_version()).await;
    let blob = place.store.blobs().local_path(digest.unwrap().manifest.digest).await.unwrap();
    fs::remove_file(blob).unwrap();
    // As after a restart, which finds out what is there.
    let meter = Meter::start(&place.folder.path().join("other.sqlite"), SensorConfig::default()).await.unwrap();
    let place = Place {
        server: Server::start(place.store.clone(), meter, some(), Launchers::default()).await.unwrap(),
        ..place
    };
    place.call("good").await.unwrap();
    assert!(matches!(place.call("gone").await, Err(Error::Load { .. })));
    let gone = place.replica("gone");
    assert!(gone.status().model.error.is_some_and(|error| error.contains("gone")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deployment_cannot_take_every_place() {
    let place = place(options(1, 7)).await;
    place.deploy("greedy", 1, false).await;
    place.deploy("modest", 1, false).await;
    let greedy = place.replica("greedy");
    let mut calls = Vec::new();
    while let Ok(call) = place.server.admit(Arc::clone(&greedy), Context::default()) {
        calls.push(call);
    }
    assert_eq!(calls.len(), 6);
    place.call("modest").await.unwrap();
    calls.clear();
    place.call("greedy").await.unwrap();
}
