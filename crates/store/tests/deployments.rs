//! Deployments, their revisions, traffic and history.

#![allow(clippy::unwrap_used)]

mod support;

use sqlx::{Connection, SqliteConnection, migrate::Migrator, sqlite::SqliteConnectOptions};
use support::{Fixture, add_revision, deploy, message, name};
use wattle_core::{ModelVersionId, Selector};
use wattle_store::{Change, Deployment, Error, Isolation, NewTraffic, Result, Settings, Share, Store, Traffic};

/// Changes the traffic of `line` to what `to` says.
async fn change(store: &Store, what: Change, revision: u32, to: Traffic) -> Result<Deployment> {
    let new = NewTraffic { name: name("line"), what, revision, reason: None, default: false };
    store.change_traffic(new, |_| Ok(to)).await
}

async fn previous(store: &Store) -> Option<u32> {
    store.deployment_history(&name("line")).await.unwrap().previous()
}

fn id(version: u32) -> ModelVersionId {
    ModelVersionId { model: name("line"), version }
}

#[tokio::test]
async fn deployments_hold_their_versions_and_one_at_most_is_the_default() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.version("line", b"1").await;
    fixture.version("line", b"2").await;
    let a = deploy(store, "a", "line@champion", 1, false).await.unwrap();
    assert_eq!((a.default, a.reference.selector.clone()), (false, Selector::Alias(name("champion"))));
    assert_eq!((a.traffic.clone(), a.revisions.len(), a.revisions[0].revision), (Traffic::all(1), 1, 1));
    assert_eq!(store.deployments().await.unwrap(), std::slice::from_ref(&a));
    assert_eq!(store.deployment(&name("a")).await.unwrap(), a);

    assert_eq!(deploy(store, "a", "line:1", 1, false).await.unwrap(), a, "the same again changes nothing");
    assert_eq!(store.deployment_history(&name("a")).await.unwrap().changes.len(), 1);
    let missing = deploy(store, "b", "line:3", 3, false).await;
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
    assert_eq!(store.find_deployment(&name("b")).await.unwrap(), None);

    let defaults = async || -> Vec<String> {
        let all = store.deployments().await.unwrap().into_iter();
        all.filter(|deployment| deployment.default).map(|deployment| deployment.name.to_string()).collect()
    };
    for text in ["a", "b", "b"] {
        assert!(deploy(store, text, "line:1", 1, true).await.unwrap().default);
        assert_eq!(defaults().await, [text]);
    }
    assert_eq!(store.deployment_history(&name("a")).await.unwrap().changes.len(), 1, "the mark is no traffic");
    let replaced = deploy(store, "b", "line:2", 2, false).await.unwrap();
    assert_eq!((replaced.version, replaced.default), (2, true), "replacing keeps the default mark");

    assert_eq!(message(store.remove_version(&id(1)).await), "line:1 is deployed as a: run `wattle undeploy a` first");
    assert!(matches!(store.remove_model(&name("line")).await, Err(Error::Conflict(_))));
    assert_eq!(store.model(&name("line")).await.unwrap().versions, [1, 2], "a refused removal removes nothing");
    store.remove_deployment(&name("a")).await.unwrap();
    assert!(matches!(store.remove_deployment(&name("a")).await, Err(Error::NotFound(_))));
    assert!(message(store.remove_version(&id(1)).await).starts_with("line:1 is what `wattle rollback b` goes back to"));
    store.remove_deployment(&name("b")).await.unwrap();
    store.remove_version(&id(1)).await.unwrap();
    store.remove_model(&name("line")).await.unwrap();
    assert_eq!(store.gc().await.unwrap().blobs, 2);
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_revision_is_a_version_with_its_settings() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.version("line", b"1").await;
    fixture.version("line", b"2").await;
    deploy(store, "line", "line", 1, false).await.unwrap();
    let pinned = Settings { pin: Some(true), isolation: Some(Isolation::Process), ..Settings::default() };
    let second = add_revision(store, "line", "line", 1, pinned.clone()).await.unwrap();
    assert_eq!(second, 2, "other settings are another revision");
    let third = add_revision(store, "line", "line", 1, pinned.clone()).await.unwrap();
    assert_eq!(third, 3, "what is not in the traffic is not used again");
    change(store, Change::Canary, 3, Traffic::all(1).with_canary(3, 10)).await.unwrap();
    assert_eq!(add_revision(store, "line", "line", 1, pinned).await.unwrap(), 3);
    assert_eq!(add_revision(store, "line", "line", 1, Settings::default()).await.unwrap(), 1);
    assert_eq!(add_revision(store, "other", "line", 1, Settings::default()).await.unwrap(), 1);
    let bad = Settings { max_batch_size: Some(0), ..Settings::default() };
    assert!(message(add_revision(store, "line", "line", 1, bad).await).contains("max_batch_size is 0"));

    let deployment = store.deployment(&name("line")).await.unwrap();
    let numbers: Vec<u32> = deployment.revisions.iter().map(|revision| revision.revision).collect();
    assert_eq!((numbers, deployment.settings), (vec![1, 3], Settings::default()));
    assert_eq!(deployment.revisions[1].settings.isolation, Some(Isolation::Process));

    // The numbers go on when the deployment is made anew.
    store.remove_deployment(&name("line")).await.unwrap();
    let anew = deploy(store, "line", "line:2", 2, false).await.unwrap();
    assert_eq!(anew.traffic, Traffic::all(4));
    assert_eq!(previous(store).await, None);
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_history_says_what_was_and_outlives_the_deployment() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let line = name("line");
    for version in 1..=3 {
        fixture.version("line", &[version]).await;
    }
    assert!(message(store.deployment_history(&line).await).contains("there is none yet"));
    deploy(store, "line", "line:1", 1, false).await.unwrap();
    let canary = add_revision(store, "line", "line:2", 2, Settings::default()).await.unwrap();
    let tried = Traffic::all(1).with_canary(canary, 10);
    change(store, Change::Canary, canary, tried.clone()).await.unwrap();
    change(store, Change::Canary, canary, tried.clone()).await.unwrap();
    let refused = add_revision(store, "line", "line:3", 3, Settings::default()).await.unwrap();
    store.record_refusal(&line, refused, "it cannot be loaded".into()).await.unwrap();
    change(store, Change::Promoted, canary, Traffic::all(canary)).await.unwrap();
    assert_eq!(previous(store).await, Some(1));
    store.remove_deployment(&line).await.unwrap();

    let history = store.deployment_history(&line).await.unwrap();
    let told: Vec<(Change, Option<u32>)> =
        history.changes.iter().map(|change| (change.what, change.revision)).collect();
    assert_eq!(
        told,
        [
            (Change::Deployed, Some(1)),
            (Change::Canary, Some(2)),
            (Change::GateRefused, Some(3)),
            (Change::Promoted, Some(2)),
            (Change::Undeployed, None)
        ]
    );
    for pair in history.changes.windows(2) {
        assert_eq!(pair[0].to, pair[1].from, "each change begins where the one before it ended");
        assert!(pair[0].at <= pair[1].at);
    }
    assert_eq!((&history.changes[0].from, &history.changes[1].to), (&Traffic::default(), &tried));
    assert_eq!(history.changes[2].reason.as_deref(), Some("it cannot be loaded"));
    assert_eq!(history.revision(3).unwrap().version, 3);
    // What it tells of may go.
    store.remove_model(&line).await.unwrap();
    assert_eq!(store.deployment_history(&line).await.unwrap(), history);
}

#[tokio::test]
async fn what_a_deployment_needs_is_not_removed() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    for version in 1..=4 {
        fixture.version("line", &[version]).await;
    }
    for version in 1..=2 {
        deploy(store, "line", &format!("line:{version}"), version, false).await.unwrap();
    }
    let canary = add_revision(store, "line", "line:3", 3, Settings::default()).await.unwrap();
    let shadow = add_revision(store, "line", "line:4", 4, Settings::default()).await.unwrap();
    let traffic = Traffic::all(2).with_shadow(shadow).with_canary(canary, 10);
    change(store, Change::Canary, canary, traffic.clone()).await.unwrap();
    for version in 2..=4 {
        assert!(message(store.remove_version(&id(version)).await).contains("is deployed as line"), "line:{version}");
    }
    assert!(message(store.remove_version(&id(1)).await).contains("`wattle rollback line` goes back to"));
    // A canary that is gone is nothing to go back to, and neither is what was rolled back.
    change(store, Change::GateRolledBack, canary, traffic.without_candidate()).await.unwrap();
    store.remove_version(&id(3)).await.unwrap();
    change(store, Change::RolledBack, 2, Traffic::all(1)).await.unwrap();
    store.remove_version(&id(2)).await.unwrap();
    store.remove_version(&id(4)).await.unwrap();
    let gone = change(store, Change::Deployed, 2, Traffic::all(2)).await;
    assert!(message(gone).contains("model line has no version 2"));
    assert!(message(change(store, Change::Deployed, 9, Traffic::all(9)).await).contains("has no revision 9"));
    assert_eq!(
        store.deployment(&name("line")).await.unwrap().traffic,
        Traffic::all(1),
        "a refused change changes nothing"
    );
    assert_eq!(store.gc().await.unwrap().blobs, 3);
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn faults_of_deployments_are_named() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.version("line", b"1").await;
    deploy(store, "line", "line", 1, false).await.unwrap();
    let uneven = Traffic { shares: vec![Share { revision: 1, percent: 90 }], shadow: None };
    change(store, Change::Canary, 1, uneven).await.unwrap();
    assert_eq!(store.check().await.unwrap(), ["the shares of line do not add up to 100"]);
}

#[tokio::test]
async fn a_folder_from_before_there_were_revisions_goes_on() {
    // What the first version of the catalogue looked like, with two deployments in it.
    let fixture = Fixture::new().await;
    let version = fixture.version("line", b"1").await;
    let Fixture { store, folder } = fixture;
    store.close().await;
    drop(store);
    let data_dir = folder.path().join("data");
    let path = data_dir.join("catalogue.sqlite");
    let blob = serde_json::to_string(&version.manifest).unwrap();
    for file in ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"] {
        let _ = std::fs::remove_file(data_dir.join(file));
    }
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true).foreign_keys(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let mut first: Migrator = sqlx::migrate!();
    first.migrations = first.migrations.iter().filter(|migration| migration.version == 1).cloned().collect();
    first.run(&mut connection).await.unwrap();
    for statement in [
        "INSERT INTO models VALUES ('line', '2026-01-01T00:00:00.000000Z')".to_owned(),
        "INSERT INTO version_counters VALUES ('line', 1)".to_owned(),
        format!("INSERT INTO versions VALUES ('line', 1, '{}', 1, '{blob}')", version.manifest.digest),
        "INSERT INTO deployments VALUES ('a', 'line', 1, 'line@champion', 0, '2026-01-02T03:04:05.000006Z')".to_owned(),
        "INSERT INTO deployments VALUES ('b', 'line', 1, 'line', 1, '2026-01-01T00:00:00.000000Z')".to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();

    let store = Store::open(&data_dir).await.unwrap();
    assert_eq!(store.check().await.unwrap(), [""; 0]);
    let deployments = store.deployments().await.unwrap();
    let told: Vec<_> =
        deployments.iter().map(|one| (one.name.as_str(), one.version, one.default, &one.traffic)).collect();
    assert_eq!(told, [("a", 1, false, &Traffic::all(1)), ("b", 1, true, &Traffic::all(1))]);
    assert_eq!(deployments[0].created_at.to_rfc3339(), "2026-01-02T03:04:05.000006+00:00");
    assert_eq!(deployments[0].reference.to_string(), "line@champion");
    assert_eq!(deployments[0].revisions[0].settings, Settings::default());
    let history = store.deployment_history(&name("a")).await.unwrap();
    assert_eq!((history.changes.len(), history.changes[0].what), (1, Change::Deployed));
    assert!(message(store.remove_version(&id(1)).await).contains("deployed as a, b"));
    // And it is as good as a new one.
    let file = folder.path().join("second");
    std::fs::write(&file, b"2").unwrap();
    store.commit_version(&name("line"), &file, support::manifest).await.unwrap();
    let next = deploy(&store, "a", "line:2", 2, false).await.unwrap();
    assert_eq!((next.traffic, next.version), (Traffic::all(2), 2));
}
