#![allow(clippy::unwrap_used)]
use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use sqlx::{Connection, SqliteConnection};
use wattle_core::Label;

use super::*;
use crate::{By, PowerModel, books::Reading, cpu::HostCpu, pending::tests::request};

/// A server whose clocks a test moves by hand, in milliseconds.
#[derive(Clone, Default)]
struct FakeClocks {
    wall_ms: Arc<AtomicU64>,
    cpu_ms: Arc<AtomicU64>,
}

impl Probe for FakeClocks {
    fn read(&mut self) -> Result<Reading> {
        let seconds = |clock: &AtomicU64| clock.load(Ordering::SeqCst) as f64 / 1000.0;
        Ok(Reading {
            seconds: seconds(&self.wall_ms),
            minute: minute_now(),
            process_cpu_seconds: seconds(&self.cpu_ms),
            host_cpu: HostCpu { busy_seconds: 0.0, total_seconds: 0.0 },
            host_joules: 0.0,
        })
    }
}

fn model() -> Sensor {
    Sensor::Model(PowerModel { name: "x".into(), min_watts: 0.5, max_watts: 2.5, cpus: 4, memory_gigabytes: 8.0 })
}

async fn fake_meter(path: &Path, clocks: &FakeClocks) -> Meter {
    let ledger = Ledger::open(path).await.unwrap();
    // Intervals so long that only the last one, at shutdown, is closed.
    let interval = Duration::from_secs(3600);
    Meter::start_with(ledger, clocks.clone(), Tariff::Fixed, model().rates(), interval).unwrap()
}

fn line(lines: &[UsageLine], activity: Activity) -> &UsageLine {
    lines.iter().find(|line| line.activity == activity).unwrap()
}

#[tokio::test]
async fn what_is_served_idles_and_is_left_over_is_what_the_sensor_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let clocks = FakeClocks::default();
    let meter = fake_meter(&path, &clocks).await;
    for _ in 0..8 {
        let energy = meter.dynamic_energy(0.125);
        meter.record(Usage { energy, ..request("a") });
    }
    let job = Usage {
        activity: Activity::Train,
        in_child: true,
        deployment: None,
        version: None,
        requests: 0,
        rows: 0,
        ..request("a")
    };
    meter.record(Usage { cpu_seconds: 2.0, energy: meter.dynamic_energy(2.0), ..job });
    clocks.wall_ms.store(10_000, Ordering::SeqCst);
    clocks.cpu_ms.store(1_500, Ordering::SeqCst);
    meter.shutdown().await.unwrap();
    assert!(matches!(meter.usage(UsageQuery::default()).await, Err(crate::Error::Closed)));

    let lines = Ledger::open(&path).await.unwrap().usage(&UsageQuery::default()).await.unwrap();
    let (predict, train) = (line(&lines, Activity::Predict), line(&lines, Activity::Train));
    let (idle, rest) = (line(&lines, Activity::Idle), line(&lines, Activity::Unattributed));
    assert_eq!((predict.requests, predict.energy.joules, train.energy.joules), (8, 2.0, 4.0));
    assert_eq!((rest.cpu_seconds, rest.energy.joules), (0.5, 1.0));
    let rates = model().rates();
    for (sum, rate) in [
        (lines.iter().map(|line| line.energy.joules_low).sum::<f64>(), 0),
        (lines.iter().map(|line| line.energy.joules).sum(), 1),
        (lines.iter().map(|line| line.energy.joules_high).sum(), 2),
    ] {
        let sensed = rates.static_watts[rate] * 10.0 + rates.dynamic_watts_per_cpu[rate] * (1.5 + 2.0);
        assert!((sum - sensed).abs() < 1e-9, "{sum} J booked, {sensed} J sensed");
    }
    assert_eq!(idle.energy.label, Label::Estimated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_are_exact_when_many_threads_record() {
    let folder = tempfile::tempdir().unwrap();
    let meter = fake_meter(&folder.path().join("ledger.sqlite"), &FakeClocks::default()).await;
    let threads: Vec<_> = (0..8)
        .map(|index| {
            let meter = meter.clone();
            thread::spawn(move || {
                for _ in 0..10_000 {
                    meter.record(request(if index % 2 == 0 { "even" } else { "odd" }));
                }
            })
        })
        .collect();
    // Batches are written meanwhile.
    while threads.iter().any(|thread| !thread.is_finished()) {
        meter.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let lines = meter.usage(UsageQuery { by: By::Deployment, since: None }).await.unwrap();
    assert_eq!(lines.len(), 2);
    for (line, name) in lines.iter().zip(["even", "odd"]) {
        assert_eq!((line.key.as_deref(), line.requests, line.rows), (Some(name), 40_000, 120_000));
        assert_eq!((line.cpu_seconds, line.energy.joules), (5_000.0, 20_000.0));
    }
    meter.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_recorded_is_on_disk_within_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let meter = fake_meter(&path, &FakeClocks::default()).await;
    let reader = Ledger::open(&path).await.unwrap();
    for expected in 1..=3 {
        meter.record(request("a"));
        let start = Instant::now();
        loop {
            let lines = reader.usage(&UsageQuery::default()).await.unwrap();
            if lines.first().is_some_and(|line| line.requests == expected) {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "never written");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_ledger_that_fails_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let meter = fake_meter(&path, &FakeClocks::default()).await;
    let mut other = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query("ALTER TABLE usage RENAME TO hidden").execute(&mut other).await.unwrap();
    for _ in 0..10 {
        meter.record(request("a"));
        assert!(meter.flush().await.is_err());
    }
    assert!(meter.usage(UsageQuery::default()).await.is_err());
    sqlx::query("ALTER TABLE hidden RENAME TO usage").execute(&mut other).await.unwrap();
    let lines = meter.usage(UsageQuery::default()).await.unwrap();
    assert_eq!((lines[0].requests, lines[0].energy.joules), (10, 5.0));
    meter.shutdown().await.unwrap();
    meter.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_flush_whose_caller_left_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let meter = fake_meter(&folder.path().join("ledger.sqlite"), &FakeClocks::default()).await;
    for _ in 0..50 {
        meter.record(request("a"));
        let _ = tokio::time::timeout(Duration::ZERO, meter.flush()).await;
    }
    let lines = meter.usage(UsageQuery::default()).await.unwrap();
    assert_eq!((lines[0].requests, lines[0].energy.joules), (50, 25.0));
}

#[tokio::test]
async fn a_meter_that_is_dropped_writes_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let meter = fake_meter(&path, &FakeClocks::default()).await;
    meter.record(request("a"));
    let task = meter.task.handle.lock().await.take().unwrap();
    drop(meter);
    task.await.unwrap().unwrap();
    let lines = Ledger::open(&path).await.unwrap().usage(&UsageQuery::default()).await.unwrap();
    assert_eq!(line(&lines, Activity::Predict).requests, 1);
}

#[tokio::test]
async fn usage_that_is_no_amount_is_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let meter = fake_meter(&folder.path().join("ledger.sqlite"), &FakeClocks::default()).await;
    meter.record(Usage { cpu_seconds: f64::NAN, ..request("a") });
    meter.record(Usage { energy: Energy { joules: -1.0, ..request("a").energy }, ..request("a") });
    assert!(meter.usage(UsageQuery::default()).await.unwrap().is_empty());
    for cpu_seconds in [-1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(meter.dynamic_energy(cpu_seconds).joules, 0.0);
    }
}

#[tokio::test]
async fn the_real_machine_is_metered() {
    let folder = tempfile::tempdir().unwrap();
    let config = SensorConfig { interval_ms: 20, ..SensorConfig::default() };
    let meter = Meter::start(&folder.path().join("ledger.sqlite"), config).await.unwrap();
    let description = meter.sensor_description();
    assert!(!description.source.is_empty());
    let energy = meter.dynamic_energy(0.01);
    assert!(energy.joules_low <= energy.joules && energy.joules <= energy.joules_high && energy.joules > 0.0);
    let start = Instant::now();
    while !meter.usage(UsageQuery::default()).await.unwrap().iter().any(|line| line.activity == Activity::Idle) {
        assert!(start.elapsed() < Duration::from_secs(10), "no interval was closed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    meter.shutdown().await.unwrap();
}
