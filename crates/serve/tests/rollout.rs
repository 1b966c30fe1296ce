//! Canaries and shadows, over real models.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use support::{Place, place, some};
use wattle_core::{Datatype, Name, TensorSpec};
use wattle_engine::{Data, Tensor, onnx::graph::GraphBuilder};
use wattle_serve::{Compared, Context, Error, FailedCanary, Prediction};
use wattle_store::{Settings, Traffic};

fn line() -> Name {
    "line".parse().unwrap()
}

/// A model that looks `index` up among these values, and fails where there is none.
fn lookup(values: &[f64]) -> Vec<u8> {
    let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![-1], missing: true };
    let mut graph = GraphBuilder::new("lookup");
    graph.input(&spec("index", Datatype::Int64));
    graph.output(&spec("y", Datatype::Fp64));
    let table = graph.numbers("table", &[values.len()], values);
    graph.node_to("y", "Gather", &[&table, "index"], &[("axis", 0)]);
    graph.finish()
}

/// A server whose `line:1` knows three values, and `line:2` the values that are given; their revisions are 1 and 2, and all
/// calls go to the first.
async fn two(second: &[f64], settings: Settings) -> Arc<Place> {
    let place = place(some()).await;
    place.deploy_model("line", &lookup(&[10.0, 20.0, 30.0]), false).await;
    let version = place.version("line", &lookup(second)).await;
    assert_eq!(place.revision(&line(), version, settings).await.revision, 2);
    Arc::new(place)
}

async fn call(place: &Place, index: i64, key: Option<&str>) -> Result<Prediction, Error> {
    let context = Context { key: key.map(str::to_owned), ..Context::default() };
    let inputs = vec![Tensor::new("index", vec![1], Data::Int64(vec![index].into())).unwrap()];
    place.call_with("line", context, inputs).await
}

/// The version that answers.
async fn version(place: &Place, key: Option<&str>) -> u32 {
    call(place, 0, key).await.unwrap().model.version
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_share_and_a_key_its_revision() {
    const CALLS: usize = 2000;
    let place = two(&[11.0, 21.0, 31.0], Settings::default()).await;
    place.put_traffic(&line(), Traffic::all(1).with_canary(2, 10), false).await;
    let mut met = 0;
    for _ in 0..CALLS {
        let answer = call(&place, 0, None).await.unwrap();
        // An answer is that of the version which it names.
        assert_eq!(
            answer.outputs[0].data,
            Data::Fp64(vec![if answer.model.version == 2 { 11.0 } else { 10.0 }].into())
        );
        met += usize::from(answer.model.version == 2);
    }
    // Seven standard deviations of the binomial distribution.
    let error = 7.0 * (0.1_f64 * 0.9 * CALLS as f64).sqrt();
    assert!((met as f64 - 0.1 * CALLS as f64).abs() < error, "{met} of {CALLS} calls met the canary");

    let mut by_key = Vec::new();
    for key in 0..200 {
        by_key.push(version(&place, Some(&key.to_string())).await);
    }
    assert!(by_key.contains(&1) && by_key.contains(&2));
    place.put_traffic(&line(), Traffic::all(1).with_canary(2, 40), false).await;
    for (key, before) in by_key.into_iter().enumerate() {
        let key = key.to_string();
        let now = version(&place, Some(&key)).await;
        assert!(now >= before, "a growing canary gives no key back");
        assert_eq!(version(&place, Some(&key)).await, now);
    }

    let status = place.replica("line").status();
    let requests: Vec<u64> = status.replicas.iter().map(|replica| replica.model.requests).collect();
    assert_eq!(requests.iter().sum::<u64>(), CALLS as u64 + 600);
    assert!(status.model.requests == requests[0] && requests[1] > 0);
    // Whoever names a version gets it.
    let pinned = place.replica("line").of_version(2).unwrap();
    assert_eq!((pinned.model_version().version, place.replica("line").versions()), (2, vec![1, 2]));
    assert!(place.replica("line").of_version(3).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_gets_no_calls_any_more_and_is_told() {
    let place = two(&[11.0], Settings { gate_min_calls: Some(10), ..Settings::default() }).await;
    place.put_traffic(&line(), Traffic::all(1).with_canary(2, 50), false).await;
    let told = tokio::spawn({
        let server = place.server.clone();
        async move {
            server.canary_failed().await;
            server.failed_canaries()
        }
    });
    let mut failed = 0;
    while place.server.failed_canaries().is_empty() {
        failed += u32::from(call(&place, 2, None).await.is_err());
        assert!(failed <= 10, "it was to be judged after 10 calls");
    }
    assert_eq!(failed, 10);
    let told = told.await.unwrap();
    let [FailedCanary { deployment, revision, reason }] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((deployment, revision), (&line(), &2));
    assert!(reason.starts_with("10 of its 10 calls failed (100.0%)"), "{reason}");
    for key in 0..50 {
        assert_eq!(call(&place, 2, Some(&key.to_string())).await.unwrap().model.version, 1);
    }
    // It stays told until the traffic is another.
    assert_eq!(place.server.failed_canaries(), told);
    place.put_traffic(&line(), Traffic::all(1), false).await;
    assert!(place.server.failed_canaries().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_callers_get_wrong_is_not_the_canary_s_doing() {
    let place = two(&[11.0, 21.0, 31.0], Settings { gate_min_calls: Some(1), ..Settings::default() }).await;
    place.put_traffic(&line(), Traffic::all(1).with_canary(2, 50), false).await;
    let wrong = || vec![Tensor::new("index", vec![1], Data::Fp64(vec![0.5].into())).unwrap()];
    for _ in 0..100 {
        assert!(matches!(place.call_with("line", Context::default(), wrong()).await, Err(Error::Invalid(_))));
        call(&place, 0, None).await.unwrap();
    }
    assert_eq!(place.server.failed_canaries(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_compared_and_never_answers() {
    let place = two(&[10.0, 21.0], Settings::default()).await;
    place.put_traffic(&line(), Traffic::all(1).with_shadow(2), false).await;
    let compared = || place.replica("line").status().replicas[1].compared.unwrap();
    let counted = |compared: Compared| compared.same + compared.different + compared.failed + compared.dropped;
    // One after the other, so that the machine has time for each.
    for (calls, (index, answer)) in (1..).zip([(0, 10.0), (1, 20.0), (2, 30.0), (0, 10.0)]) {
        let answered = call(&place, index, None).await.unwrap();
        assert_eq!((answered.model.version, &answered.outputs[0].data), (1, &Data::Fp64(vec![answer].into())));
        until("the copy is counted", || counted(compared()) == calls).await;
    }
    assert_eq!(compared(), Compared { same: 2, different: 1, failed: 1, dropped: 0 });
    // It goes on when a canary comes beside it, and costs no requests.
    place.put_traffic(&line(), Traffic::all(1).with_shadow(2), true).await;
    assert_eq!(counted(compared()), 4);
    let usage = place.replica("line").status();
    assert_eq!((usage.replicas[0].model.requests, usage.replicas[1].model.requests), (4, 4));
    place.put_traffic(&line(), Traffic::all(1), false).await;
    assert_eq!(place.replica("line").status().replicas.len(), 1);
    assert_eq!(version(&place, None).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_loaded_before_it_gets_calls() {
    let place = two(&[11.0], Settings::default()).await;
    let second = place.store.add_revision(wattle_store::NewRevision {
        deployment: line(),
        model: line(),
        version: 2,
        reference: "line".parse().unwrap(),
        settings: Settings::default(),
    });
    let second = second.await.unwrap();
    let held = place.server.prepare(&line(), &second, true).await.unwrap();
    place.put_traffic(&line(), Traffic::all(second.revision), false).await;
    drop(held);
    let status = place.replica("line").status();
    assert_eq!((status.deployment.version, status.model.loaded, status.model.requests), (2, true, 0));

    let broken = place.version("line", &lookup(&[1.0])).await;
    let digest = place.store.resolve(&format!("line:{broken}").parse().unwrap()).await.unwrap().manifest.digest;
    std::fs::write(place.store.blobs().local_path(digest).await.unwrap(), b"no model").unwrap();
    let broken = place.revision(&line(), broken, Settings::default()).await;
    let refused = place.server.prepare(&line(), &broken, true).await.err();
    assert!(matches!(refused, Some(Error::Load { .. })), "{refused:?}");
    assert_eq!(version(&place, None).await, 2);
}
