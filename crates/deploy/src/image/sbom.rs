//! What is in an image, in the form of SPDX 2.3 as JSON. Source: <https://spdx.github.io/spdx-spec/v2.3/>.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use wattle_core::Digest;

use super::{Model, Runtime};
use crate::{Error, Result};

/// What this program was built of, exactly.
const LOCK: &str = include_str!("../../../../Cargo.lock");
const PROGRAM: &str = "wattle";

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// The document about the image with this digest.
pub(super) fn sbom(runtime: &Runtime, models: &[&Model], image: Digest) -> Result<String> {
    let lock: Lock = toml::from_str(LOCK).map_err(|error| Error::Corrupt(format!("Cargo.lock: {error}")))?;
    let mut packages = Vec::new();
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")];
    packages.push(json!({
        "SPDXID": "SPDXRef-image",
        "name": "image",
        "versionInfo": image,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
    }));
    let mut add = |id: String, purpose: &str, parent: &str, relation: &str, mut package: Value| {
        package["SPDXID"] = id.clone().into();
        package["filesAnalyzed"] = false.into();
        package["primaryPackagePurpose"] = purpose.into();
        if package["downloadLocation"].is_null() {
            package["downloadLocation"] = "NOASSERTION".into();
        }
        packages.push(package);
        relationships.push(relationship(parent, relation, &id));
    };
    let crates = reached(&lock);
    for (at, package) in crates.iter().enumerate() {
        let is_own = package.name == PROGRAM;
        let (parent, relation) = if is_own { ("SPDXRef-image", "CONTAINS") } else { ("SPDXRef-crate-0", "DEPENDS_ON") };
        let mut described = json!({ "name": package.name, "versionInfo": package.version });
        if package.source.is_some() {
            let locator = format!("pkg:cargo/{}@{}", package.name, package.version);
            described["externalRefs"] = json!([{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator,
            }]);
        }
        if let Some(checksum) = &package.checksum {
            described["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": checksum }]);
        }
        let purpose = if is_own { "APPLICATION" } else { "LIBRARY" };
        add(format!("SPDXRef-crate-{at}"), purpose, parent, relation, described);
    }
    for (at, file) in runtime.files.iter().enumerate() {
        let described = json!({
            "name": file.path,
            "checksums": [{ "algorithm": "SHA256", "checksumValue": file.digest.hex() }],
        });
        add(format!("SPDXRef-file-{at}"), "FILE", "SPDXRef-image", "CONTAINS", described);
    }
    for (at, model) in models.iter().enumerate() {
        let version = &model.version;
        let described = json!({
            "name": version.model,
            "versionInfo": version.version.to_string(),
            "checksums": [{ "algorithm": "SHA256", "checksumValue": version.manifest.digest.hex() }],
            "comment": format!("a model ({}), made by {}", version.manifest.format, version.manifest.software),
        });
        add(format!("SPDXRef-model-{at}"), "OTHER", "SPDXRef-image", "CONTAINS", described);
    }
    let created =
        models.iter().map(|model| model.version.manifest.created_at).max().unwrap_or(DateTime::<Utc>::UNIX_EPOCH);
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("wattle image {image}"),
        "documentNamespace": format!("urn:wattle:image:{image}"),
        "creationInfo": {
            "created": created.to_rfc3339_opts(SecondsFormat::Secs, true),
            "creators": [format!("Tool: wattle-{}", env!("CARGO_PKG_VERSION"))],
            "comment": "the date is that of the newest model, so that the same image has the same document; crates are all that Cargo.lock names below the program, also those that only build or test it",
        },
        "packages": packages,
        "relationships": relationships,
    });
    let text = serde_json::to_string_pretty(&document).map_err(|error| Error::Io(error.into()))?;
    Ok(text + "\n")
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// The program's crate, and after it all that it depends on, by name and version.
fn reached(lock: &Lock) -> Vec<&Package> {
    let mut by_name: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in &lock.package {
        by_name.entry(&package.name).or_default().push(package);
    }
    // `serde`, or where there are several `serde 1.0.0`, or with its source behind that.
    let find = |dependency: &str| {
        let mut words = dependency.split(' ');
        let named = words.next().and_then(|name| by_name.get(name)).map(Vec::as_slice).unwrap_or_default();
        let version = words.next();
        named.iter().copied().find(move |package| version.is_none_or(|version| package.version == version))
    };
    let mut seen = BTreeSet::new();
    let mut todo: VecDeque<&Package> = find(PROGRAM).into_iter().collect();
    let own = todo.front().copied();
    while let Some(package) = todo.pop_front() {
        if seen.insert((&*package.name, &*package.version)) {
            todo.extend(package.dependencies.iter().filter_map(|dependency| find(dependency)));
        }
    }
    let of = |(name, version)| find(&format!("{name} {version}"));
    let others = seen.into_iter().filter(|(name, _)| *name != PROGRAM).filter_map(of);
    own.into_iter().chain(others).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_that_the_program_depends_on_is_found_once() {
        let lock: Lock = toml::from_str(LOCK).unwrap();
        let names: Vec<&str> = reached(&lock).iter().map(|package| &*package.name).collect();
        assert_eq!(names[0], "wattle");
        for name in ["wattle-deploy", "tokio", "ort", "llama-cpp-sys-2"] {
            assert_eq!(names.iter().filter(|one| **one == name).count(), 1, "{name}");
        }
        assert!(names.len() > 300, "{}", names.len());
    }
}
