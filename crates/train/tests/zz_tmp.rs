#![allow(clippy::unwrap_used)]
mod common;
use serde_json::json;
use std::{fs, path::PathBuf};
#[test]
fn tmp() {
    let out = PathBuf::from("/tmp/encode-out");
    for (file, target, algorithm) in [
        ("diabetes", "progression", "linear-regression"),
        ("breast-cancer", "diagnosis", "logistic-regression"),
        ("penguins", "species", "logistic-regression"),
    ] {
        let folder = out.join(file);
        fs::create_dir_all(&folder).unwrap();
        let Some(csv) = fs::read_dir("../../examples")
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .find(|p| p.is_file() && p.file_stem().unwrap().to_str().unwrap().replace('_', "-").starts_with(file))
        else {
            continue;
        };
        let text = fs::read_to_string(csv).unwrap();
        let header = text.lines().next().unwrap();
        let target = if header.split(',').any(|h| h == target) {
            target.to_owned()
        } else {
            header.split(',').next_back().unwrap().to_owned()
        };
        let table = common::table(&folder, &text);
        let t = std::time::Instant::now();
        let a = common::fitted(&table, json!({"algorithm": algorithm, "target": target}), &folder).unwrap();
        println!("{file} {target} {:?} {:#}", t.elapsed(), a.metrics);
        let _ = common::trained;
    }
}
