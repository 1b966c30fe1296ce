//! The states of training jobs.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::json;
use support::{Fixture, energy, manifest, name};
use uuid::Uuid;
use wattle_core::Energy;
use wattle_store::{Error, JobCost, JobEnd, JobState};

fn end(state: JobState) -> JobEnd {
    JobEnd { state, error: Some("stopped".into()), cost: JobCost { cpu_seconds: 1.5, energy: Some(energy()) } }
}

#[tokio::test]
async fn a_job_succeeds_together_with_its_version() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let job = store.create_job(&name("line"), json!({"data": "line"})).await.unwrap();
    assert_eq!((job.state, job.progress.clone()), (JobState::Queued, None));
    assert_eq!(store.job(job.id).await.unwrap(), job);
    let path = fixture.file(b"model");
    let early = store.finish_job_with_version(job.id, &path, JobCost::default(), manifest).await;
    assert!(matches!(early, Err(Error::Conflict(_))), "{early:?}");
    assert!(store.models().await.unwrap().is_empty(), "no version without its job");

    assert_eq!(store.start_job(job.id).await.unwrap().state, JobState::Running);
    assert!(matches!(store.start_job(job.id).await, Err(Error::Conflict(_))));
    store.job_progress(job.id, &json!({"loss": 0.5}), &JobCost::default()).await.unwrap();
    assert_eq!(store.job(job.id).await.unwrap().progress, Some(json!({"loss": 0.5})));

    let cost = JobCost { cpu_seconds: 2.5, energy: Some(energy()) };
    let version = store.finish_job_with_version(job.id, &path, cost, manifest).await.unwrap();
    let job = store.job(job.id).await.unwrap();
    assert_eq!((job.state, job.result.clone()), (JobState::Succeeded, Some(version.id())));
    assert_eq!((job.cpu_seconds, job.energy.clone()), (2.5, Some(energy())));
    assert!(job.created_at <= job.started_at.unwrap() && job.started_at <= job.finished_at);
    let again = store.finish_job_with_version(job.id, &path, JobCost::default(), manifest).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    assert_eq!(store.model(&name("line")).await.unwrap().versions, [1]);
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_final_state_never_changes() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    for state in [JobState::Failed, JobState::Cancelled, JobState::Interrupted] {
        let job = store.create_job(&name("line"), json!({})).await.unwrap();
        store.start_job(job.id).await.unwrap();
        let ended = store.end_job(job.id, end(state)).await.unwrap();
        assert_eq!((ended.state, ended.error.as_deref(), ended.cpu_seconds), (state, Some("stopped"), 1.5));
        assert!(matches!(store.end_job(job.id, end(JobState::Failed)).await, Err(Error::Conflict(_))));
        assert!(matches!(store.start_job(job.id).await, Err(Error::Conflict(_))));
        assert!(matches!(store.job_progress(job.id, &json!(1), &JobCost::default()).await, Err(Error::Conflict(_))));
        let path = fixture.file(b"model");
        let late = store.finish_job_with_version(job.id, &path, JobCost::default(), manifest).await;
        assert!(matches!(late, Err(Error::Conflict(_))), "{late:?}");
        assert_eq!(store.job(job.id).await.unwrap(), ended);
    }
    assert!(store.models().await.unwrap().is_empty());
}

#[tokio::test]
async fn ends_that_make_no_sense_are_refused() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let job = store.create_job(&name("line"), json!({})).await.unwrap();
    for state in [JobState::Queued, JobState::Running, JobState::Succeeded] {
        assert!(matches!(store.end_job(job.id, end(state)).await, Err(Error::Invalid(_))), "{state}");
    }
    let mut endless = end(JobState::Failed);
    endless.cost.cpu_seconds = f64::NAN;
    assert!(matches!(store.end_job(job.id, endless).await, Err(Error::Invalid(_))));
    let mut endless = end(JobState::Failed);
    endless.cost.energy = Some(Energy { joules_high: f64::INFINITY, ..energy() });
    assert!(matches!(store.end_job(job.id, endless).await, Err(Error::Invalid(_))));
    assert!(matches!(store.end_job(Uuid::nil(), end(JobState::Failed)).await, Err(Error::NotFound(_))));
    assert!(matches!(store.job(Uuid::nil()).await, Err(Error::NotFound(_))));
    assert_eq!(store.end_job(job.id, end(JobState::Cancelled)).await.unwrap().state, JobState::Cancelled);
}

#[tokio::test]
async fn what_was_under_way_is_interrupted_at_the_next_start() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let queued = store.create_job(&name("a"), json!({})).await.unwrap().id;
    let running = store.create_job(&name("b"), json!({})).await.unwrap().id;
    store.start_job(running).await.unwrap();
    let failed = store.create_job(&name("c"), json!({})).await.unwrap().id;
    store.end_job(failed, end(JobState::Failed)).await.unwrap();

    let mut ids = store.interrupt_running_jobs().await.unwrap();
    ids.sort();
    assert_eq!(ids, [queued, running]);
    assert!(store.interrupt_running_jobs().await.unwrap().is_empty());
    let jobs = store.jobs(10).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [failed, running, queued]);
    let states: Vec<_> = jobs.iter().map(|job| job.state).collect();
    assert_eq!(states, [JobState::Failed, JobState::Interrupted, JobState::Interrupted]);
    assert!(jobs[1].error.is_some() && jobs[1].finished_at.is_some());
    assert_eq!(store.jobs(1).await.unwrap().len(), 1);
}

#[test]
fn states_are_words_on_the_wire() {
    for word in ["queued", "running", "succeeded", "failed", "cancelled", "interrupted"] {
        let state: JobState = word.parse().unwrap();
        assert_eq!((state.to_string().as_str(), json!(state)), (word, json!(word)));
        assert_eq!(state.is_final(), !matches!(word, "queued" | "running"));
    }
    assert!("done".parse::<JobState>().is_err());
}
