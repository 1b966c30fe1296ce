//! Calls that are computed together, over real models.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use support::{Place, options, place, place_with, rows, x};
use wattle_core::{Datatype, TensorSpec};
use wattle_engine::{Data, Tensor, onnx::graph::GraphBuilder};
use wattle_serve::{
    Computed, Context, Error, Instance, Launcher, Launchers, Prediction, Priority, Result, ServeOptions, Worker,
    WorkerOrder,
    speaker::{Speaker, SpeakerOrder},
};
use wattle_store::{Isolation, Settings};

/// Batches of up to `max_batch_size` rows, for which the first call waits as good as for ever.
fn patient(max_batch_size: u32) -> ServeOptions {
    let defaults =
        Settings { max_batch_size: Some(max_batch_size), max_queue_delay_ms: Some(30_000.0), ..Settings::default() };
    ServeOptions { defaults, ..options(2, 64) }
}

async fn together(place: &Arc<Place>, name: &'static str, calls: Vec<Vec<Tensor>>) -> Vec<Result<Prediction, Error>> {
    let calls: Vec<_> = calls
        .into_iter()
        .map(|inputs| {
            let place = Arc::clone(place);
            tokio::spawn(async move { place.call_with(name, Context::default(), inputs).await })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    answers
}

fn values(prediction: &Prediction) -> Vec<f64> {
    match &prediction.outputs[0].data {
        Data::Fp64(values) => values.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_are_computed_together_and_each_gets_its_own_rows() {
    let place = Arc::new(place(patient(12)).await);
    place.deploy("same", 1, false).await;
    for round in 0..3 {
        let calls = (0..6).map(|call| x(&[f64::from(call), f64::from(round)])).collect();
        for (call, answer) in together(&place, "same", calls).await.into_iter().enumerate() {
            let answer = answer.unwrap();
            assert_eq!(values(&answer), [call as f64, f64::from(round)]);
            assert!(answer.cpu_seconds > 0.0 && answer.energy.joules > 0.0);
        }
    }
    let metrics = Arc::clone(place.replica("same").metrics());
    let requests = metrics.batch_requests().distribution().unwrap();
    assert_eq!((requests.count, requests.sum), (3, 18.0));
    let status = place.replica("same").status().model;
    assert_eq!((status.requests, status.failures, status.in_flight), (18, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_call_does_not_fail_its_batch_mates() {
    let place = Arc::new(place(patient(4)).await);
    let index = TensorSpec { name: "index".into(), datatype: Datatype::Int64, shape: vec![-1], missing: true };
    let output = TensorSpec { name: "y".into(), datatype: Datatype::Fp64, shape: vec![-1], missing: true };
    let mut graph = GraphBuilder::new("table");
    graph.input(&index);
    graph.output(&output);
    let table = graph.numbers("table", &[3], &[10.0, 20.0, 30.0]);
    graph.node_to("y", "Gather", &[&table, "index"], &[("axis", 0)]);
    place.deploy_model("table", &graph.finish(), false).await;
    let call = |index: i64| vec![Tensor::new("index", vec![1], Data::Int64(vec![index].into())).unwrap()];
    let answers = together(&place, "table", [0, 99, 1, 2].map(call).to_vec()).await;
    let told: Vec<Option<f64>> = answers.iter().map(|answer| Some(values(answer.as_ref().ok()?)[0])).collect();
    assert_eq!(told, [Some(10.0), None, Some(20.0), Some(30.0)]);
    assert!(matches!(answers[1], Err(Error::Run(_))));
    let status = place.replica("table").status().model;
    assert_eq!((status.requests, status.failures), (4, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_rows_see_each_other_is_not_batched() {
    let place = Arc::new(place(patient(4)).await);
    let mut graph = GraphBuilder::new("relative");
    graph.input(&rows("x", Datatype::Fp64));
    graph.output(&rows("y", Datatype::Fp64));
    let largest = graph.node("ReduceMax", &["x"], &[]);
    graph.node_to("y", "Sub", &["x", &largest], &[]);
    place.deploy_model("relative", &graph.finish(), false).await;
    assert_eq!(place.replica("relative").max_batch_rows(), 4);
    let calls = [1.0, 2.0, 3.0, 4.0].map(|value| x(&[value])).to_vec();
    for answer in together(&place, "relative", calls).await {
        assert_eq!(values(&answer.unwrap()), [0.0]);
    }
    assert_eq!(place.replica("relative").max_batch_rows(), 1);
    // No call waits for others any more.
    let started = Instant::now();
    assert_eq!(values(&place.call_with("relative", Context::default(), x(&[5.0, 6.0])).await.unwrap()), [-1.0, 0.0]);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_batch_of_equal_calls_hides_no_rows_that_see_each_other() {
    for (name, operator) in [("largest", "ReduceMax"), ("smallest", "ReduceMin"), ("mean", "ReduceMean")] {
        let place = Arc::new(place(patient(4)).await);
        let mut graph = GraphBuilder::new(name);
        graph.input(&rows("x", Datatype::Fp64));
        graph.output(&rows("y", Datatype::Fp64));
        let all = graph.node(operator, &["x"], &[]);
        graph.node_to("y", "Sub", &["x", &all], &[]);
        place.deploy_model(name, &graph.finish(), false).await;
        for value in [7.0, 8.0] {
            for answer in together(&place, name, vec![x(&[value]); 4]).await {
                assert_eq!(values(&answer.unwrap()), [0.0], "{name}");
            }
        }
        assert_eq!(place.replica(name).max_batch_rows(), 1, "{name}");
    }
}

/// Starts workers that give back what they are sent. The first of them ends at its second batch.
#[derive(Default)]
struct Fragile {
    launched: AtomicUsize,
}

struct Echo {
    batches: AtomicUsize,
    most_batches: usize,
}

#[async_trait]
impl Launcher for Fragile {
    async fn launch_speaker(&self, _: SpeakerOrder) -> Result<Arc<dyn Speaker>> {
        unreachable!("no test of batches has a language model")
    }

    async fn launch(&self, _: WorkerOrder) -> Result<Arc<dyn Worker>, Error> {
        let most_batches = if self.launched.fetch_add(1, Relaxed) == 0 { 1 } else { usize::MAX };
        Ok(Arc::new(Echo { batches: AtomicUsize::new(0), most_batches }))
    }
}

/// A launcher for processes.
fn processes(launcher: &Arc<Fragile>) -> Launchers {
    Launchers { processes: Some(Arc::clone(launcher) as Arc<dyn Launcher>), ..Launchers::default() }
}

#[async_trait]
impl Worker for Echo {
    async fn run(&self, inputs: &[Tensor]) -> Result<Computed, Error> {
        if self.batches.fetch_add(1, Relaxed) >= self.most_batches {
            return Err(Error::Crashed { deployment: "echo".into() });
        }
        let outputs = inputs.iter().map(|input| Tensor { name: "y".into(), ..input.clone() }).collect();
        Ok(Computed { outputs, cpu_seconds: 0.0 })
    }
}

#[async_trait]
impl Instance for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn is_alive(&self) -> bool {
        self.batches.load(Relaxed) <= self.most_batches
    }

    fn resident_bytes(&self) -> u64 {
        1
    }

    fn load_cpu_seconds(&self) -> f64 {
        0.0
    }

    fn limited_by(&self) -> Option<&'static str> {
        Some("none")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_while_its_first_batch_is_compared_says_nothing_of_its_batches() {
    let launcher = Arc::new(Fragile::default());
    let mut options = patient(4);
    options.defaults.isolation = Some(Isolation::Process);
    let place = Arc::new(place_with(options, processes(&launcher)).await);
    place.deploy("echo", 1, false).await;
    let calls = || [1.0, 2.0, 3.0, 4.0].map(|value| x(&[value])).to_vec();
    for answer in together(&place, "echo", calls()).await {
        assert!(matches!(answer, Err(Error::Crashed { .. })));
    }
    assert_eq!(place.replica("echo").max_batch_rows(), 4);
    for (answer, value) in together(&place, "echo", calls()).await.into_iter().zip([1.0, 2.0, 3.0, 4.0]) {
        assert_eq!(values(&answer.unwrap()), [value]);
    }
    assert_eq!(launcher.launched.load(Relaxed), 2);
    let batches = place.replica("echo").metrics().batch_requests().distribution().unwrap();
    assert_eq!((batches.count, batches.sum), (1, 4.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_batch_dimension_turns_batching_off() {
    let place = place(patient(4)).await;
    let fixed = |name: &str| TensorSpec { shape: vec![1, 1], ..rows(name, Datatype::Fp64) };
    let mut graph = GraphBuilder::new("fixed");
    graph.input(&fixed("x"));
    graph.output(&fixed("y"));
    graph.node_to("y", "Neg", &["x"], &[]);
    place.deploy_model("fixed", &graph.finish(), false).await;
    assert_eq!(place.replica("fixed").max_batch_rows(), 1);
    assert_eq!(values(&place.call("fixed").await.unwrap()), [-7.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_is_told_and_the_call_is_not_computed() {
    let place = Arc::new(place(ServeOptions { defaults: Settings::default(), ..options(1, 64) }).await);
    // 32 MB take longer to load than the caller waits.
    place.deploy("slow", 4_000_000, false).await;
    let deadline = Some(Instant::now() + Duration::from_millis(1));
    let late = Context { deadline, priority: Priority::Batch, ..Context::default() };
    assert!(matches!(place.call_with("slow", late, x(&[1.0])).await, Err(Error::Expired)));
    assert_eq!(values(&place.call("slow").await.unwrap()), [7.0]);
    let replica = place.replica("slow");
    assert_eq!((replica.status().model.requests, replica.metrics().calls_expired()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_over_its_share_is_told_so() {
    let place = place(ServeOptions { max_tenant_requests: 2, ..options(2, 8) }).await;
    place.deploy("same", 1, false).await;
    let of = |tenant: &str| Context { tenant: Some(tenant.into()), ..Context::default() };
    let held: Vec<_> = (0..2).map(|_| place.server.admit(place.replica("same"), of("a")).unwrap()).collect();
    assert!(matches!(place.call_with("same", of("a"), x(&[1.0])).await, Err(Error::TooMany { .. })));
    place.call_with("same", of("b"), x(&[1.0])).await.unwrap();
    drop(held);
    place.call_with("same", of("a"), x(&[1.0])).await.unwrap();
}
