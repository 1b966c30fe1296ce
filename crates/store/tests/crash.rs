//! Kills a process that imports, at instants drawn from a seed, and looks at what the next one finds.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::json;
use support::{dataset, deploy, energy, manifest, name};
use wattle_core::{Digest, ModelVersionId};
use wattle_store::{JobCost, JobState, Manifest, Store, TrainingCost};

const DATA_DIR: &str = "WATTLE_TEST_CRASH_DATA_DIR";
const SEED: &str = "WATTLE_TEST_CRASH_SEED";
const ROUNDS: u64 = 32;
/// What runs beside each other in the child, each with one operation under way at most.
const IMPORTERS: [&str; 2] = ["a", "b"];
/// How many versions of a model to keep from round to round, so that reading all of them stays quick.
const KEPT: usize = 12;

#[test]
fn a_kill_at_any_instant_leaves_the_old_or_the_new_state() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut random = Random(20_261_123);
    let mut known = Known::default();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let lines = run_and_kill(&data_dir, round, &mut random);
        acknowledged += lines.len();
        known.hear(&lines);
        runtime.block_on(inspect(&data_dir, &mut known));
    }
    // Otherwise the kills all came before the first import and the test proved nothing.
    assert!(acknowledged > 100, "only {acknowledged} acknowledgements in {ROUNDS} rounds");
}

/// What the parent knows of the store from what was acknowledged and from what it saw.
#[derive(Default)]
struct Known {
    versions: BTreeMap<(String, u32), Digest>,
    datasets: BTreeMap<String, Digest>,
    aliases: BTreeMap<String, u32>,
    deployments: BTreeMap<String, u32>,
    jobs: BTreeMap<String, u32>,
}

impl Known {
    fn hear(&mut self, lines: &[String]) {
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, subject, number, digest] = words[..] else { panic!("the child says {line:?}") };
            let number: u32 = number.parse().unwrap();
            match kind {
                "version" => {
                    let before = self.versions.insert((subject.into(), number), digest.parse().unwrap());
                    assert_eq!(before, None, "a number was used twice: {line}");
                }
                "data" => _ = self.datasets.insert(subject.into(), digest.parse().unwrap()),
                "alias" => _ = self.aliases.insert(subject.into(), number),
                "deploy" => _ = self.deployments.insert(subject.into(), number),
                "job" => _ = self.jobs.insert(subject.into(), number),
                _ => panic!("the child says {line:?}"),
            }
        }
    }
}

async fn inspect(data_dir: &Path, known: &mut Known) {
    let store = Store::open(data_dir).await.unwrap();
    assert_eq!(store.check().await.unwrap(), [""; 0]);
    assert_eq!(fs::read_dir(data_dir.join("staging")).unwrap().count(), 0);

    for job in store.interrupt_running_jobs().await.unwrap() {
        assert!(!known.jobs.contains_key(&job.to_string()), "job {job} had succeeded");
    }
    for (id, version) in &known.jobs {
        let job = store.job(id.parse().unwrap()).await.unwrap();
        assert_eq!((job.state, job.result.unwrap().version), (JobState::Succeeded, *version));
    }
    for ((model, version), digest) in &known.versions {
        let id = ModelVersionId { model: name(model), version: *version };
        assert_eq!(store.version(&id).await.unwrap().manifest.digest, *digest, "{id}");
    }
    // Of what each importer had under way, one operation at most may have been made but not acknowledged.
    let mut surprises = 0;
    for model in store.models().await.unwrap() {
        for version in &model.versions {
            let found = store.version(&ModelVersionId { model: model.name.clone(), version: *version }).await.unwrap();
            if let Some(training) = &found.manifest.training {
                let job = store.job(training.job).await.unwrap();
                assert_eq!((job.state, job.result), (JobState::Succeeded, Some(found.id())), "a job and its version");
            }
            if known.versions.insert((model.name.to_string(), *version), found.manifest.digest).is_none() {
                surprises += 1;
            }
        }
        let alias = model.aliases.get(&name("champion")).copied().unwrap_or_default();
        assert!(alias >= known.aliases.get(model.name.as_str()).copied().unwrap_or_default());
    }
    assert!(surprises <= IMPORTERS.len(), "{surprises} versions that were never acknowledged");
    for (text, digest) in &known.datasets {
        assert_eq!(store.dataset(&name(text)).await.unwrap().digest, *digest);
    }
    let deployments = store.deployments().await.unwrap();
    for (text, version) in &known.deployments {
        let deployment = deployments.iter().find(|deployment| deployment.name.as_str() == text).unwrap();
        assert!(deployment.version >= *version);
    }

    let mut left: BTreeMap<Digest, ()> = known.versions.values().map(|digest| (*digest, ())).collect();
    store.gc().await.unwrap();
    left.extend(store.datasets().await.unwrap().iter().map(|dataset| (dataset.digest, ())));
    let blobs: BTreeMap<Digest, ()> =
        store.blobs().list().await.unwrap().into_iter().map(|(digest, _)| (digest, ())).collect();
    assert_eq!(blobs, left, "gc leaves what is referenced and nothing else");
    assert_eq!(store.check().await.unwrap(), [""; 0]);
    prune(&store, known).await;
    store.close().await;
}

/// Removes old versions that neither an alias nor a deployment names, nor the way back of one.
async fn prune(store: &Store, known: &mut Known) {
    for model in store.models().await.unwrap() {
        let mut used = Vec::new();
        for deployment in store.deployments().await.unwrap() {
            let history = store.deployment_history(&deployment.name).await.unwrap();
            let previous = history.previous().and_then(|revision| history.revision(revision));
            used.extend(previous.map(|previous| previous.version));
            used.push(deployment.version);
        }
        for version in model.versions.iter().rev().skip(KEPT) {
            if !used.contains(version) && !model.aliases.values().any(|alias| alias == version) {
                let id = ModelVersionId { model: model.name.clone(), version: *version };
                store.remove_version(&id).await.unwrap();
                known.versions.remove(&(model.name.to_string(), *version));
            }
        }
    }
}

/// Starts the child, kills it, and gives the lines that it had acknowledged.
fn run_and_kill(data_dir: &Path, round: u64, random: &mut Random) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env(DATA_DIR, data_dir)
        .env(SEED, round.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    // Every other kill is timed from the first acknowledgement, the others also fall into the start.
    if round.is_multiple_of(2) {
        output.read_line(&mut text).unwrap();
    }
    std::thread::sleep(Duration::from_micros(random.below(120_000)));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9), "the child ended by itself");
    for line in output.lines() {
        text.push_str(&line.unwrap());
        text.push('\n');
    }
    text.lines()
        .map(|line| line.strip_prefix("ack ").unwrap_or_else(|| panic!("the child says {text}")).into())
        .collect()
}

#[test]
#[ignore = "the other test starts it"]
fn child() {
    let Ok(data_dir) = std::env::var(DATA_DIR) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(&PathBuf::from(data_dir)).await.unwrap();
        let importers = IMPORTERS.map(|model| tokio::spawn(import(store.clone(), model, seed)));
        tokio::spawn(async move {
            loop {
                store.gc().await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        for importer in importers {
            importer.await.unwrap();
        }
    });
}

/// Imports versions, now and then by a job, and moves data sets, an alias and a deployment along, for ever.
async fn import(store: Store, model: &'static str, seed: u64) {
    let mut random = Random(seed * 1000 + u64::from(model.as_bytes()[0]));
    let mut counter = 0_u64;
    loop {
        counter += 1;
        let file = store.staging().file(".onnx").unwrap();
        let size = random.below(200_000) as usize + 16;
        let mut content = vec![0; size];
        content[..8].copy_from_slice(&counter.to_le_bytes());
        content[8..16].copy_from_slice(&random.below(u64::MAX).to_le_bytes());
        fs::write(file.path(), &content).unwrap();
        let (version, job) = if !counter.is_multiple_of(3) {
            let id = store.create_job(&name(model), json!({"counter": counter})).await.unwrap().id;
            store.start_job(id).await.unwrap();
            let cost = JobCost { cpu_seconds: 1.0, energy: None };
            let training = Some(TrainingCost { job: id, wall_seconds: 1.0, cpu_seconds: 1.0, energy: energy() });
            let manifest = |digest, bytes| Manifest { training, ..manifest(digest, bytes) };
            (store.finish_job_with_version(id, file.path(), cost, manifest).await.unwrap(), Some(id))
        } else {
            (store.commit_version(&name(model), file.path(), manifest).await.unwrap(), None)
        };
        let (number, digest) = (version.version, version.manifest.digest);
        acknowledge(&format!("version {model} {number} {digest}"));
        if let Some(id) = job {
            acknowledge(&format!("job {id} {number} -"));
        }
        match random.below(4) {
            0 => {
                let text = format!("{model}-{seed}-{counter}");
                let added = store.put_dataset(dataset(&text, false), file.path()).await.unwrap();
                acknowledge(&format!("data {text} 0 {}", added.digest));
            }
            1 => {
                store.set_alias(&name(model), &name("champion"), number).await.unwrap();
                acknowledge(&format!("alias {model} {number} -"));
            }
            2 => {
                deploy(&store, model, model, number, counter.is_multiple_of(2)).await.unwrap();
                acknowledge(&format!("deploy {model} {number} -"));
            }
            _ => {}
        }
    }
}

/// One line in one call, so that a kill never leaves half of it.
fn acknowledge(what: &str) {
    std::io::stderr().write_all(format!("ack {what}\n").as_bytes()).unwrap();
}

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
