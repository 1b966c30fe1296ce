//! The data folder as a whole: one owner, one format, gc beside imports, damage that is noticed.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use support::{Fixture, dataset, manifest, message, name};
use wattle_store::{Error, Store};

#[tokio::test]
async fn a_folder_has_one_owner_at_a_time() {
    let fixture = Fixture::new().await;
    let second = Store::open(&fixture.data_dir()).await;
    assert!(matches!(second, Err(Error::Unavailable(_))), "{second:?}");
    assert!(message(second).contains("is used by another wattle server"));
    let Fixture { store, folder } = fixture;
    drop(store);
    Store::open(&folder.path().join("data")).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_user_may_enter_a_new_folder() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some/data");
    let _store = Store::open(&path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_catalogue_of_a_newer_version_is_refused() {
    let Fixture { store, folder } = Fixture::new().await;
    store.close().await;
    drop(store);
    let data_dir = folder.path().join("data");
    let options = SqliteConnectOptions::new().filename(data_dir.join("catalogue.sqlite"));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', 1, x'00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    let result = Store::open(&data_dir).await;
    assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    assert!(message(result).contains("written by a newer wattle"));
}

#[tokio::test]
async fn a_file_that_is_no_catalogue_is_an_error() {
    let Fixture { store, folder } = Fixture::new().await;
    store.close().await;
    drop(store);
    let data_dir = folder.path().join("data");
    fs::write(data_dir.join("catalogue.sqlite"), vec![b'x'; 8192]).unwrap();
    assert!(Store::open(&data_dir).await.is_err());
}

#[tokio::test]
async fn damage_is_named() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let version = fixture.version("line", b"model").await;
    let table = store.put_dataset(dataset("table", false), &fixture.file(b"table")).await.unwrap();
    assert_eq!(store.check().await.unwrap(), [""; 0]);

    fs::write(store.blobs().local_path(version.manifest.digest).await.unwrap(), b"jodel").unwrap();
    store.blobs().delete(table.digest).await.unwrap();
    let mut faults = store.check().await.unwrap();
    faults.sort();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("data set table: no blob "), "{faults:?}");
    assert!(faults[1].starts_with("line:1: blob ") && faults[1].contains("other bytes"), "{faults:?}");
}

/// The importers store again what is there already and what nothing needs, which is where a collection could bite; they
/// go on until it has found enough to remove.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_collection_never_takes_what_an_import_is_about_to_name() {
    const ENOUGH: u64 = 20;
    let fixture = Fixture::new().await;
    let store = fixture.store.clone();
    let removed = Arc::new(AtomicU64::new(0));
    let importers: Vec<_> = (0..3_u8)
        .map(|index| {
            let (store, removed) = (store.clone(), Arc::clone(&removed));
            tokio::spawn(async move {
                let model = name(["a", "b", "c"][usize::from(index)]);
                let file = store.staging().file(".onnx").unwrap();
                fs::write(file.path(), vec![index; 20_000]).unwrap();
                loop {
                    let version = store.commit_version(&model, file.path(), manifest).await.unwrap();
                    assert!(store.blobs().size(version.manifest.digest).await.unwrap().is_some());
                    if removed.load(Ordering::Relaxed) >= ENOUGH {
                        return;
                    }
                    store.remove_version(&version.id()).await.unwrap();
                }
            })
        })
        .collect();
    while removed.load(Ordering::Relaxed) < ENOUGH {
        removed.fetch_add(store.gc().await.unwrap().blobs, Ordering::Relaxed);
        assert_eq!(store.check().await.unwrap(), [""; 0]);
    }
    for importer in importers {
        importer.await.unwrap();
    }
    store.gc().await.unwrap();
    assert_eq!(store.blobs().list().await.unwrap().len(), 3);
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_imports_get_numbers_without_gaps() {
    let fixture = Fixture::new().await;
    let tasks: Vec<_> = (0..12_u8)
        .map(|index| {
            let store = fixture.store.clone();
            tokio::spawn(async move {
                let file = store.staging().file(".onnx").unwrap();
                fs::write(file.path(), [index; 1000]).unwrap();
                store.commit_version(&name("line"), file.path(), manifest).await.unwrap().version
            })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=12).collect::<Vec<u32>>());
    assert_eq!(fs::read_dir(fixture.data_dir().join("staging")).unwrap().count(), 0);
}
