#![allow(clippy::unwrap_used)]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::*;

/// An instance without a model.
struct Fake {
    name: String,
    is_alive: AtomicBool,
    is_well: AtomicBool,
    is_reached: AtomicBool,
    calls: AtomicUsize,
    takes: Duration,
}

/// Starts fakes, and keeps them.
#[derive(Default)]
struct Yard {
    started: Mutex<Vec<Arc<Fake>>>,
    fails: AtomicBool,
}

impl Yard {
    fn all(&self) -> Vec<Arc<Fake>> {
        self.started.lock().unwrap().clone()
    }

    async fn fleet(self: &Arc<Self>, count: usize) -> Arc<Fleet<dyn Worker>> {
        let yard = Arc::clone(self);
        let start: Start<dyn Worker> = Box::new(move || {
            let yard = Arc::clone(&yard);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                if yard.fails.load(Relaxed) {
                    return Err(Error::Load { deployment: "fake".into(), reason: "there is none".into() });
                }
                let mut started = yard.started.lock().unwrap();
                let fake = Arc::new(Fake {
                    name: format!("fake-{}", started.len()),
                    is_alive: true.into(),
                    is_well: true.into(),
                    is_reached: true.into(),
                    calls: AtomicUsize::new(0),
                    takes: Duration::from_millis(100),
                });
                started.push(Arc::clone(&fake));
                Ok(fake as Arc<dyn Worker>)
            })
        });
        Fleet::start("fake".parse().unwrap(), start, count).await.unwrap()
    }
}

#[async_trait]
impl Instance for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_alive(&self) -> bool {
        self.is_alive.load(Relaxed)
    }

    async fn is_well(&self) -> bool {
        self.is_well.load(Relaxed)
    }

    fn resident_bytes(&self) -> u64 {
        10
    }

    fn load_cpu_seconds(&self) -> f64 {
        0.5
    }

    fn limited_by(&self) -> Option<&'static str> {
        None
    }
}

#[async_trait]
impl Worker for Fake {
    async fn run(&self, _: &[Tensor]) -> Result<Computed> {
        if !self.is_reached.load(Relaxed) {
            return Err(Error::Unreached { deployment: "fake".into() });
        }
        self.calls.fetch_add(1, Relaxed);
        tokio::time::sleep(self.takes).await;
        match self.is_alive() {
            true => Ok(Computed { outputs: Vec::new(), cpu_seconds: 0.1 }),
            false => Err(Error::Crashed { deployment: "fake".into() }),
        }
    }
}

fn ready(fleet: &Fleet<dyn Worker>) -> usize {
    fleet.instances().iter().filter(|instance| instance.state == InstanceState::Ready).count()
}

/// Lets so much time pass, so that what is due is done in between.
async fn pass(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_spread_and_those_that_never_began_go_elsewhere() {
    let yard = Arc::new(Yard::default());
    let fleet = yard.fleet(3).await;
    let calls = || futures::future::join_all((0..30).map(|_| fleet.run(&[])));
    assert!(calls().await.into_iter().all(|answer| answer.is_ok()));
    let counts = || yard.all().iter().map(|fake| fake.calls.load(Relaxed)).collect::<Vec<_>>();
    assert_eq!(counts(), [10, 10, 10]);
    yard.all()[1].is_reached.store(false, Relaxed);
    assert!(calls().await.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(counts(), [25, 10, 25]);
    assert_eq!((fleet.resident_bytes(), fleet.load_cpu_seconds()), (30, 1.5));
}

#[tokio::test(start_paused = true)]
async fn whoever_ends_loses_what_it_had_in_hand_and_is_replaced() {
    let yard = Arc::new(Yard::default());
    let fleet = yard.fleet(2).await;
    let calls = futures::future::join_all((0..10).map(|_| fleet.run(&[])));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        yard.all()[0].is_alive.store(false, Relaxed);
    };
    let (answers, ()) = tokio::join!(calls, kill);
    let lost = answers.iter().filter(|answer| matches!(answer, Err(Error::Crashed { .. }))).count();
    assert_eq!((lost, answers.iter().filter(|answer| answer.is_ok()).count()), (5, 5));
    // Whoever calls meanwhile is answered by the other one.
    assert!(futures::future::join_all((0..10).map(|_| fleet.run(&[]))).await.into_iter().all(|answer| answer.is_ok()));
    pass(Duration::from_secs(5)).await;
    assert_eq!((yard.all().len(), ready(&fleet)), (3, 2));
    assert_eq!(fleet.instances()[1].name, "fake-2");
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_while_there_is_nobody_and_is_told_in_the_end() {
    let yard = Arc::new(Yard::default());
    let fleet = yard.fleet(1).await;
    yard.all()[0].is_alive.store(false, Relaxed);
    assert!(matches!(fleet.run(&[]).await, Err(Error::Crashed { .. })));
    // The one that takes its place needs three seconds.
    assert!(fleet.run(&[]).await.is_ok());
    yard.fails.store(true, Relaxed);
    yard.all()[1].is_alive.store(false, Relaxed);
    pass(Duration::from_secs(2)).await;
    let told = fleet.run(&[]).await.unwrap_err().to_string();
    assert_eq!(told, "no instance of deployment fake answers: try again in 1 s");
    yard.fails.store(false, Relaxed);
    assert!(fleet.run(&[]).await.is_ok(), "it is tried again, after a while");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_well_gets_no_calls_and_is_replaced_after_a_while() {
    let yard = Arc::new(Yard::default());
    let fleet = yard.fleet(2).await;
    yard.all()[0].is_well.store(false, Relaxed);
    pass(Duration::from_secs(4)).await;
    assert_eq!(ready(&fleet), 1);
    yard.all()[0].is_well.store(true, Relaxed);
    pass(Duration::from_secs(4)).await;
    assert_eq!((ready(&fleet), yard.all().len()), (2, 2));
    yard.all()[0].is_well.store(false, Relaxed);
    pass(Duration::from_secs(40)).await;
    assert_eq!((ready(&fleet), yard.all().len()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_answers_what_it_has_first_and_is_not_replaced() {
    let yard = Arc::new(Yard::default());
    let fleet = yard.fleet(2).await;
    let calls = futures::future::join_all((0..4).map(|_| fleet.run(&[])));
    let shrink = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        fleet.shrink().await;
    };
    let (answers, ()) = tokio::join!(calls, shrink);
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    pass(Duration::from_secs(10)).await;
    assert_eq!((fleet.instances().len(), yard.all().len()), (1, 2));
    fleet.grow().await.unwrap();
    assert_eq!(ready(&fleet), 2);
}
