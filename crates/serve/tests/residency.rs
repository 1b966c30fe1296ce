//! Models within a budget of memory, over real models.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use support::{Place, options, place};
use wattle_serve::{Error, ServeOptions, metrics::Eviction};
use wattle_store::Settings;

/// Models of so many numbers take some 8 MB.
const WEIGHTS: usize = 1_000_000;
/// Room for four of them.
const BUDGET_BYTES: u64 = 36 << 20;

fn within_budget(defaults: Settings) -> ServeOptions {
    ServeOptions { memory_budget_bytes: BUDGET_BYTES, defaults, ..options(2, 64) }
}

fn resident_bytes(place: &Place) -> u64 {
    place.server.status().iter().map(|status| status.model.resident_bytes).sum()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The name of a thread, or of a process's first one, and how nice it is.
fn niceness(stat: &str) -> Option<(&str, &str)> {
    let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
    Some((name, fields.split_whitespace().nth(16)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_loaded_at_a_low_priority_and_computes_at_the_servers() {
    let place = place(within_budget(Settings { threads: Some(3), ..Settings::default() })).await;
    place.deploy("one", 1, false).await;
    place.call("one").await.unwrap();
    let own = fs::read_to_string("/proc/self/stat").unwrap();
    let own = niceness(&own).unwrap().1;
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats: Vec<String> = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).collect();
    let engine = stats.iter().filter_map(|stat| niceness(stat)).filter(|(name, _)| *name == "wattle-engine");
    // The caller's own thread is the third.
    assert_eq!(engine.map(|(_, nice)| nice).collect::<Vec<_>>(), [own, own]);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_take_turns_within_the_budget_and_no_call_fails() {
    let place = Arc::new(place(within_budget(Settings::default())).await);
    let names: Vec<String> = (0..8).map(|index| format!("model{index}")).collect();
    for name in &names {
        place.deploy(name, WEIGHTS, false).await;
    }
    let callers: Vec<_> = (0..4_usize)
        .map(|caller| {
            let (place, names) = (Arc::clone(&place), names.clone());
            tokio::spawn(async move {
                for round in 0..12 {
                    place.call(&names[(caller * 3 + round) % names.len()]).await.unwrap();
                    assert!(resident_bytes(&place) <= BUDGET_BYTES);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let evicted: u64 = names.iter().map(|name| place.replica(name).metrics().evictions(Eviction::Room)).sum();
    assert!(evicted > 0, "eight models of 8 MB fit into 36 MiB");
    assert!(resident_bytes(&place) >= 8 * WEIGHTS as u64, "what is resident is not measured");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_fit_is_refused_with_the_numbers() {
    let place = place(within_budget(Settings::default())).await;
    place.deploy("large", 8_000_000, false).await;
    place.deploy("small", 1, false).await;
    let Err(Error::NoRoom { needed_bytes, budget_bytes, .. }) = place.call("large").await else {
        panic!("64 MB fit into 36 MiB")
    };
    assert!(needed_bytes >= 64_000_000 && budget_bytes == BUDGET_BYTES);
    let told = place.call("large").await.unwrap_err().to_string();
    assert!(told.contains(&needed_bytes.to_string()) && told.contains(&budget_bytes.to_string()), "{told}");
    place.call("small").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_model_does_not_go_for_others() {
    let place = place(within_budget(Settings { pin: Some(true), ..Settings::default() })).await;
    for name in ["first", "second", "third", "fourth", "fifth"] {
        place.deploy(name, WEIGHTS, false).await;
    }
    place.call("first").await.unwrap();
    let mut refused = 0;
    for name in ["second", "third", "fourth", "fifth"] {
        match place.call(name).await {
            Ok(_) => {}
            Err(Error::NoRoom { pinned_bytes, .. }) => {
                assert!(pinned_bytes > 0);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0 && place.replica("first").is_loaded());
    // Somebody may still let it go.
    assert!(place.server.unload(&"first".parse().unwrap()).unwrap());
    assert!(!place.replica("first").is_loaded());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_goes_when_its_time_is_over_and_comes_back_when_it_is_called() {
    let place = place(within_budget(Settings { keep_alive_seconds: Some(0), ..Settings::default() })).await;
    place.deploy("brief", 1, false).await;
    for round in 1..=2 {
        place.call("brief").await.unwrap();
        until("the model has gone", || !place.replica("brief").is_loaded()).await;
        assert_eq!(place.replica("brief").metrics().evictions(Eviction::Idle), round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_loaded_and_let_go_on_request() {
    let place = place(within_budget(Settings::default())).await;
    place.deploy("one", WEIGHTS, false).await;
    let name = "one".parse().unwrap();
    place.server.load(&name).await.unwrap();
    assert!(place.replica("one").is_loaded() && resident_bytes(&place) >= 8 * WEIGHTS as u64);
    assert!(place.server.unload(&name).unwrap());
    assert!(!place.server.unload(&name).unwrap(), "it is not there any more");
    assert_eq!(resident_bytes(&place), 0);
    place.call("one").await.unwrap();
}
