//! Data sets, models and aliases, each through the store's public operations.

#![allow(clippy::unwrap_used)]

mod support;

use chrono::SubsecRound;
use serde_json::json;
use support::{Fixture, dataset, deploy, manifest, message, name};
use wattle_core::ModelVersionId;
use wattle_store::{Collected, Error, ModelVersion, Store};

#[tokio::test]
async fn a_data_set_keeps_its_name_until_it_is_replaced() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let first = store.put_dataset(dataset("line", false), &fixture.file(b"one")).await.unwrap();
    assert_eq!((first.rows, first.bytes, first.source.as_str()), (2, 3, "line.csv"));
    assert_eq!(store.dataset(&name("line")).await.unwrap(), first);

    let again = store.put_dataset(dataset("line", false), &fixture.file(b"one")).await.unwrap();
    assert_eq!(again, first);

    let other = store.put_dataset(dataset("line", false), &fixture.file(b"two")).await;
    assert!(matches!(other, Err(Error::Conflict(_))), "{other:?}");
    assert_eq!(store.blobs().list().await.unwrap().len(), 1, "what is refused must not be written first");

    let other = store.put_dataset(dataset("line", true), &fixture.file(b"two")).await.unwrap();
    assert_ne!(other.digest, first.digest);
    assert_eq!(store.datasets().await.unwrap(), [other]);
    assert_eq!(store.gc().await.unwrap(), Collected { blobs: 1, bytes: 3 });

    assert_eq!(message(store.dataset(&name("lien")).await), r#"no data set is named "lien": did you mean "line"?"#);
    store.remove_dataset(&name("line")).await.unwrap();
    assert!(matches!(store.remove_dataset(&name("line")).await, Err(Error::NotFound(_))));
    assert_eq!(message(store.dataset(&name("line")).await), r#"no data set is named "line": there is none yet"#);
    assert_eq!(store.gc().await.unwrap().blobs, 1);
}

#[tokio::test]
async fn the_same_rows_with_other_marks_for_missing_values_are_other_data() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let path = fixture.file(b"same");
    let plain = store.put_dataset(dataset("line", false), &path).await.unwrap();
    assert!(plain.reading.is_default());
    let marked = |replace| {
        let mut new = dataset("line", replace);
        new.reading.missing = vec!["-999".into()];
        new
    };
    let refused = store.put_dataset(marked(false), &path).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    let replaced = store.put_dataset(marked(true), &path).await.unwrap();
    assert_eq!((replaced.digest, replaced.reading.missing.as_slice()), (plain.digest, &["-999".to_owned()][..]));
    assert_eq!(store.datasets().await.unwrap(), std::slice::from_ref(&replaced));
    assert_eq!(store.put_dataset(marked(false), &path).await.unwrap(), replaced);
}

#[tokio::test]
async fn two_names_may_share_one_blob() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let path = fixture.file(b"same");
    store.put_dataset(dataset("a", false), &path).await.unwrap();
    store.put_dataset(dataset("b", false), &path).await.unwrap();
    assert_eq!(store.blobs().list().await.unwrap().len(), 1);
    store.remove_dataset(&name("a")).await.unwrap();
    assert_eq!(store.gc().await.unwrap(), Collected { blobs: 0, bytes: 0 });
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn versions_are_numbered_per_model_and_numbers_are_never_used_again() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let id = |model: &str, version| ModelVersionId { model: name(model), version };
    let first = fixture.version("line", b"1").await;
    assert_eq!(first.id(), id("line", 1));
    assert_eq!(fixture.version("line", b"2").await.version, 2);
    assert_eq!(fixture.version("curve", b"3").await.version, 1);
    assert_eq!(store.version(&id("line", 1)).await.unwrap(), first);

    store.remove_version(&id("line", 2)).await.unwrap();
    assert_eq!(fixture.version("line", b"4").await.version, 3);
    let model = store.model(&name("line")).await.unwrap();
    assert_eq!((model.latest, model.versions), (3, vec![1, 3]));
    assert_eq!(message(store.version(&id("line", 2)).await), "model line has no version 2: its latest is line:3");

    store.remove_model(&name("line")).await.unwrap();
    assert!(matches!(store.model(&name("line")).await, Err(Error::NotFound(_))));
    assert_eq!(fixture.version("line", b"5").await.version, 4);

    store.remove_version(&id("curve", 1)).await.unwrap();
    let names: Vec<_> = store.models().await.unwrap().into_iter().map(|model| model.name).collect();
    assert_eq!(names, [name("line")], "a model without versions is gone");
    assert_eq!(message(store.model(&name("lime")).await), r#"no model is named "lime": did you mean "line"?"#);
    assert_eq!(store.gc().await.unwrap().blobs, 4);
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_version_of_another_store_is_adopted_with_its_number_and_its_file_stays() {
    let (theirs, ours) = (Fixture::new().await, Fixture::new().await);
    theirs.version("line", b"one").await;
    let second = theirs.version("line", b"two").await;
    let (file, store) = (theirs.file(b"two"), &ours.store);
    for _ in 0..2 {
        store.adopt_version(&second, &file).await.unwrap();
    }
    assert_eq!(store.version(&second.id()).await.unwrap(), second);
    assert_eq!(std::fs::read(store.blobs().local_path(second.manifest.digest).await.unwrap()).unwrap(), b"two");
    assert_eq!(store.check().await.unwrap(), [""; 0]);
    assert_eq!(ours.version("line", b"three").await.version, 3);

    let moved = file.with_file_name("moved");
    std::fs::copy(&file, &moved).unwrap();
    store.adopt_version(&second, &moved).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(store.blobs().verify(second.manifest.digest).await.unwrap(), 3);
    // What is stored here itself is not given up for a link.
    let curve = theirs.version("curve", b"three").await;
    store.adopt_version(&curve, &theirs.file(b"three")).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(store.blobs().verify(curve.manifest.digest).await.unwrap(), 5);

    let other = ModelVersion { version: 3, ..second.clone() };
    assert!(matches!(store.adopt_version(&other, &moved).await, Err(Error::Conflict(_))));
    let short = theirs.file(b"tw");
    assert!(message(store.adopt_version(&ModelVersion { version: 9, ..second }, &short).await).contains("2 bytes"));
    store.remove_model(&name("line")).await.unwrap();
    store.gc().await.unwrap();
    assert!(moved.exists(), "only the link goes");
}

#[tokio::test]
async fn references_resolve_to_versions() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.version("line", b"1").await;
    fixture.version("line", b"2").await;
    store.set_alias(&name("line"), &name("champion"), 1).await.unwrap();
    for (text, version) in [("line", 2), ("line:1", 1), ("line@champion", 1)] {
        assert_eq!(store.resolve(&text.parse().unwrap()).await.unwrap().version, version, "{text}");
    }
    for (text, expected) in [
        ("lin", r#"no model is named "lin": did you mean "line"?"#),
        ("lin:1", r#"no model is named "lin": did you mean "line"?"#),
        ("lin@champion", r#"no model is named "lin": did you mean "line"?"#),
        ("line:3", "model line has no version 3: its latest is line:2"),
        ("line@champ", r#"no alias of model line is named "champ": did you mean "champion"?"#),
        ("line@x", r#"no alias of model line is named "x": `wattle models show line` shows what there is"#),
    ] {
        let result = store.resolve(&text.parse().unwrap()).await;
        assert!(matches!(result, Err(Error::NotFound(_))), "{text}");
        assert_eq!(message(result), expected);
    }
}

#[tokio::test]
async fn aliases_move_and_their_moves_are_remembered() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (line, champion) = (name("line"), name("champion"));
    fixture.version("line", b"1").await;
    fixture.version("line", b"2").await;
    assert_eq!(store.alias_history(&line).await.unwrap(), []);
    store.set_alias(&line, &champion, 1).await.unwrap();
    store.set_alias(&line, &champion, 2).await.unwrap();
    store.set_alias(&line, &champion, 2).await.unwrap();
    assert!(matches!(store.set_alias(&line, &champion, 3).await, Err(Error::NotFound(_))));
    assert_eq!(store.model(&line).await.unwrap().aliases.into_iter().collect::<Vec<_>>(), [(champion.clone(), 2)]);
    store.remove_alias(&line, &champion).await.unwrap();
    assert!(matches!(store.remove_alias(&line, &champion).await, Err(Error::NotFound(_))));
    store.set_alias(&line, &champion, 1).await.unwrap();
    store.remove_version(&ModelVersionId { model: line.clone(), version: 1 }).await.unwrap();
    assert!(store.model(&line).await.unwrap().aliases.is_empty());

    let moves = |history: Vec<wattle_store::AliasChange>| -> Vec<_> {
        history.into_iter().map(|change| (change.from, change.to)).collect()
    };
    let expected = [(None, Some(1)), (Some(1), Some(2)), (Some(2), None), (None, Some(1)), (Some(1), None)];
    assert_eq!(moves(store.alias_history(&line).await.unwrap()), expected);
    store.remove_model(&line).await.unwrap();
    assert_eq!(moves(store.alias_history(&line).await.unwrap()), expected);
    assert!(matches!(store.alias_history(&name("curve")).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn all_is_there_again_after_a_restart() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let version = fixture.version("line", b"1").await;
    let dataset = store.put_dataset(dataset("line", false), &fixture.file(b"table")).await.unwrap();
    store.set_alias(&name("line"), &name("champion"), 1).await.unwrap();
    let deployment = deploy(store, "line", "line", 1, false).await.unwrap();
    store.close().await;
    let Fixture { store, folder } = fixture;
    drop(store);

    let store = Store::open(&folder.path().join("data")).await.unwrap();
    assert_eq!(store.resolve(&"line@champion".parse().unwrap()).await.unwrap(), version);
    assert_eq!(store.dataset(&name("line")).await.unwrap(), dataset);
    assert_eq!(store.deployments().await.unwrap(), [deployment]);
    assert_eq!(dataset.created_at, dataset.created_at.trunc_subsecs(6));
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_manifest_that_would_not_read_back_is_refused_whole() {
    let fixture = Fixture::new().await;
    let path = fixture.file(b"1");
    let bad = fixture
        .store
        .commit_version(&name("line"), &path, |digest, bytes| {
            let mut deep = json!(1);
            for _ in 0..200 {
                deep = json!([deep]);
            }
            wattle_store::Manifest { metrics: deep, ..manifest(digest, bytes) }
        })
        .await;
    assert!(matches!(bad, Err(Error::Invalid(_))), "{bad:?}");
    assert!(fixture.store.models().await.unwrap().is_empty());
    assert_eq!(fixture.version("line", b"1").await.version, 1);
}
