//! Rolling out, over a real store.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;
use wattle_core::{Datatype, ModelVersionId, Name, Signature, TensorSpec};
use wattle_deploy::{Deployments, Error, Result};
use wattle_store::{Change, Deployment, Manifest, Revision, Share, Store, Traffic};

struct Place {
    store: Store,
    deployments: Deployments,
    folder: TempDir,
}

impl Place {
    /// A store with so many versions of `line`.
    async fn new(versions: u32) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("data")).await.unwrap();
        let place = Place { deployments: Deployments::new(store.clone()), store, folder };
        for _ in 0..versions {
            place.version("x").await;
        }
        place
    }

    /// One more version of `line`, which takes this input.
    async fn version(&self, input: &str) {
        let path = self.folder.path().join("file");
        fs::write(&path, input).unwrap();
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp64, shape: vec![-1, 1], missing: false };
        let signature = Signature { inputs: vec![spec(input)], outputs: vec![spec("y")] };
        let manifest = |digest, bytes| Manifest {
            format: "onnx".into(),
            digest,
            bytes,
            signature,
            language: None,
            resident_bytes: None,
            algorithm: None,
            parameters: json!({}),
            data: None,
            metrics: json!({}),
            software: "test".into(),
            training: None,
            parent: None,
            created_at: chrono::Utc::now(),
        };
        self.store.commit_version(&line(), &path, manifest).await.unwrap();
    }

    async fn deploy(&self, request: Value) -> Result<Deployment> {
        self.deployments
            .deploy(serde_json::from_value(request).unwrap(), ready)
            .await
            .map(|(deployment, ())| deployment)
    }

    async fn promote(&self) -> Result<Deployment> {
        self.deployments.promote(&line(), ready).await.map(|(deployment, ())| deployment)
    }

    async fn roll_back(&self) -> Result<Deployment> {
        self.deployments.roll_back(&line(), ready).await.map(|(deployment, _)| deployment)
    }

    async fn changes(&self) -> Vec<Change> {
        self.deployments.history(&line()).await.unwrap().changes.into_iter().map(|change| change.what).collect()
    }
}

/// Every revision is.
async fn ready(_: Name, _: Revision, _: bool) -> Result<(), String> {
    Ok(())
}

fn line() -> Name {
    "line".parse().unwrap()
}

/// The version and the share of each revision that answers.
fn answering(deployment: &Deployment) -> Vec<(u32, u8)> {
    let version = |share: &Share| deployment.revision(share.revision).unwrap().version;
    deployment.traffic.shares.iter().map(|share| (version(share), share.percent)).collect()
}

fn told<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn a_canary_grows_is_promoted_and_is_gone_back_from() {
    let place = Place::new(3).await;
    assert!(told(place.deploy(json!({"model": "line:2", "canary": 10})).await).contains("nothing is deployed as line"));
    place.deploy(json!({"model": "line:1"})).await.unwrap();
    let canary = place.deploy(json!({"model": "line:2", "canary": 10})).await.unwrap();
    assert_eq!((answering(&canary), canary.version), (vec![(1, 90), (2, 10)], 1), "what is told is the stable one");
    let grown = place.deploy(json!({"model": "line:2", "canary": 40})).await.unwrap();
    assert_eq!((answering(&grown), grown.revisions.len()), (vec![(1, 60), (2, 40)], 2));
    assert_eq!(grown.traffic.canary().unwrap().revision, canary.traffic.canary().unwrap().revision);
    let promoted = place.promote().await.unwrap();
    assert_eq!((answering(&promoted), promoted.version), (vec![(2, 100)], 2));
    assert!(told(place.promote().await).contains("neither a canary nor a shadow"));

    place.deploy(json!({"model": "line:3"})).await.unwrap();
    for version in [2, 1] {
        let back = place.roll_back().await.unwrap();
        assert_eq!(answering(&back), [(version, 100)], "one step further each time, and never by halves");
    }
    assert!(told(place.roll_back().await).contains("nothing to go back to"));
    use Change::{Canary, Deployed, Promoted, RolledBack};
    assert_eq!(place.changes().await, [Deployed, Canary, Canary, Promoted, Deployed, RolledBack, RolledBack]);
    let nowhere = "nowhere".parse().unwrap();
    assert!(matches!(place.deployments.promote(&nowhere, ready).await, Err(Error::NotFound(_))));
    assert!(matches!(place.deployments.roll_back(&nowhere, ready).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn what_is_tried_goes_first_when_somebody_goes_back() {
    let place = Place::new(3).await;
    for version in ["line:1", "line:2"] {
        place.deploy(json!({"model": version})).await.unwrap();
    }
    place.deploy(json!({"model": "line:1", "shadow": true})).await.unwrap();
    let both = place.deploy(json!({"model": "line:3", "canary": 5})).await.unwrap();
    assert_eq!((answering(&both), both.revisions.len()), (vec![(2, 95), (3, 5)], 3));
    let back = place.roll_back().await.unwrap();
    assert_eq!((answering(&back), back.traffic.shadow.is_some()), (vec![(2, 100)], true));
    let back = place.roll_back().await.unwrap();
    assert_eq!((answering(&back), back.traffic.shadow), (vec![(2, 100)], None));
    let back = place.roll_back().await.unwrap();
    assert_eq!(answering(&back), [(1, 100)]);

    let shadow = place.deploy(json!({"model": "line:3", "shadow": true})).await.unwrap();
    let promoted = place.promote().await.unwrap();
    assert_eq!(promoted.traffic, Traffic::all(shadow.traffic.shadow.unwrap()));
}

#[tokio::test]
async fn the_gate_takes_back_a_canary_and_nothing_else() {
    let place = Place::new(2).await;
    place.deploy(json!({"model": "line:1"})).await.unwrap();
    let canary = place.deploy(json!({"model": "line:2", "canary": 10})).await.unwrap().traffic.canary().unwrap();
    let back =
        async |revision| place.deployments.roll_back_canary(&line(), revision, "12% of its calls fail".into()).await;
    assert_eq!(answering(&back(canary.revision + 1).await.unwrap()), [(1, 90), (2, 10)]);
    assert_eq!(answering(&back(canary.revision).await.unwrap()), [(1, 100)]);
    assert_eq!(answering(&back(canary.revision).await.unwrap()), [(1, 100)]);
    assert_eq!(place.changes().await, [Change::Deployed, Change::Canary, Change::GateRolledBack]);
    let history = place.deployments.history(&line()).await.unwrap();
    assert_eq!(history.changes[2].reason.as_deref(), Some("12% of its calls fail"));
}

#[tokio::test]
async fn what_is_not_ready_gets_no_calls_and_the_history_says_why() {
    let place = Place::new(3).await;
    let broken = async |_: Name, revision: Revision, _: bool| -> Result<(), String> {
        Err(format!("line:{} is out of order", revision.version))
    };
    let deploy = async |request: Value| {
        let request = serde_json::from_value(request).unwrap();
        told(place.deployments.deploy(request, broken).await)
    };
    let refused = deploy(json!({"model": "line:1"})).await;
    assert_eq!(
        refused,
        "revision 1 of line (line:1) is not ready, and the traffic stays as it was: line:1 is out of order"
    );
    assert_eq!(place.store.find_deployment(&line()).await.unwrap(), None);
    place.deploy(json!({"model": "line:1"})).await.unwrap();
    for request in [json!({"model": "line:2"}), json!({"model": "line:2", "canary": 10})] {
        assert!(deploy(request).await.contains("line:2 is out of order"));
    }
    place.deploy(json!({"model": "line:3", "canary": 10})).await.unwrap();
    assert!(told(place.deployments.promote(&line(), broken).await).contains("line:3 is out of order"));
    assert_eq!(answering(&place.store.deployment(&line()).await.unwrap()), [(1, 90), (3, 10)]);
    // To end what is tried needs nobody to be ready.
    place.deployments.roll_back(&line(), broken).await.unwrap();
    place.deploy(json!({"model": "line:3"})).await.unwrap();
    assert!(told(place.deployments.roll_back(&line(), broken).await).contains("line:1 is out of order"));
    assert_eq!(answering(&place.store.deployment(&line()).await.unwrap()), [(3, 100)]);
    use Change::{Canary, Deployed, GateRefused, RolledBack};
    assert_eq!(
        place.changes().await,
        [GateRefused, Deployed, GateRefused, GateRefused, Canary, GateRefused, RolledBack, Deployed, GateRefused]
    );
}

#[tokio::test]
async fn settings_stay_until_they_are_changed() {
    let place = Place::new(2).await;
    place.deploy(json!({"model": "line:1", "settings": {"pin": true, "threads": 2}})).await.unwrap();
    let next = place.deploy(json!({"model": "line:2"})).await.unwrap();
    assert_eq!((next.settings.pin, next.settings.threads, next.traffic), (Some(true), Some(2), Traffic::all(2)));
    let next = place.deploy(json!({"model": "line:2", "settings": {"threads": 1}})).await.unwrap();
    assert_eq!((next.settings.pin, next.settings.threads, next.traffic), (Some(true), Some(1), Traffic::all(3)));
    let same = place.deploy(json!({"model": "line"})).await.unwrap();
    assert_eq!((same.traffic, place.changes().await.len()), (Traffic::all(3), 3), "the same again is no change");

    // A canary has settings of its own, also of the same version, and keeps them as it grows.
    let tried = json!({"model": "line:1", "canary": 5, "settings": {"max_batch_size": 8}});
    place.deploy(tried).await.unwrap();
    let grown = place.deploy(json!({"model": "line:1", "canary": 10})).await.unwrap();
    assert_eq!((answering(&grown), grown.revisions[1].settings.max_batch_size), (vec![(2, 90), (1, 10)], Some(8)));
    let same = place.deploy(json!({"model": "line:2", "canary": 10})).await;
    assert!(told(same).contains("line:2 is what line answers with already, with the same settings"));

    let reset = place.deploy(json!({"model": "line:2", "reset_settings": true, "settings": {"threads": 4}})).await;
    let reset = reset.unwrap().settings;
    assert_eq!((reset.pin, reset.threads), (None, Some(4)));
    let refused = place.deploy(json!({"model": "line:2", "settings": {"cpu_limit": 1.0}})).await;
    assert!(told(refused).contains("set isolation to process too"));
}

#[tokio::test]
async fn only_what_takes_the_same_inputs_is_tried_beside_another() {
    let place = Place::new(1).await;
    place.version("z").await;
    place.deploy(json!({"model": "line:1"})).await.unwrap();
    for role in [json!({"model": "line:2", "canary": 10}), json!({"model": "line:2", "shadow": true})] {
        let refused = told(place.deploy(role).await);
        assert_eq!(
            refused,
            "line:2 cannot answer the calls that line:1 gets: it takes the input \"z\", which no call has"
        );
    }
    assert_eq!(place.changes().await, [Change::Deployed]);
    // Whoever replaces all of it means it.
    let replaced = place.deploy(json!({"model": "line:2"})).await.unwrap();
    assert_eq!(answering(&replaced), [(2, 100)]);
}

#[tokio::test]
async fn the_way_back_may_be_gone() {
    let place = Place::new(3).await;
    for version in 1..=3 {
        place.deploy(json!({"model": format!("line:{version}")})).await.unwrap();
    }
    let id = |version| ModelVersionId { model: line(), version };
    // Two steps back is not kept, one is.
    place.store.remove_version(&id(1)).await.unwrap();
    assert!(matches!(place.store.remove_version(&id(2)).await, Err(Error::Conflict(_))));
    place.roll_back().await.unwrap();
    let refused = told(place.roll_back().await);
    assert_eq!(refused, "revision 1 of line answered with line:1, which was removed: deploy another version");
    place.deployments.undeploy(&line()).await.unwrap();
    assert!(matches!(place.roll_back().await, Err(Error::NotFound(_))));
    assert_eq!(place.changes().await.last(), Some(&Change::Undeployed));
}
