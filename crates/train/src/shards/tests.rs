#![allow(clippy::unwrap_used)]
use super::*;

fn options(features: usize, memory_bytes: u64, dir: &std::path::Path) -> ShardsOptions {
    ShardsOptions { features, shard_rows: TILE, weighted: true, memory_bytes, spill_dir: dir.into(), seed: 5 }
}

fn build(rows: usize, memory_bytes: u64) -> Shards {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = ShardsBuilder::new(options(3, memory_bytes, dir.path())).unwrap();
    for row in 0..rows {
        let row = row as f64;
        builder.push(&[row, row + 0.25, -row], row * 2.0, row + 1.0).unwrap();
    }
    let shards = builder.finish().unwrap();
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing stays in the folder");
    shards
}

fn rows(shards: &Shards) -> Vec<(usize, Vec<f64>, f64, f64)> {
    let mut rows = Vec::new();
    shards.visit_rows(0..shards.rows(), |row, x, y, w| rows.push((row, x.to_vec(), y, w))).unwrap();
    rows
}

#[test]
fn every_row_comes_back_once_from_memory_and_from_disk() {
    let (memory, spilled, mixed) = (build(1000, u64::MAX), build(1000, 0), build(1000, 22_000));
    assert_eq!((memory.spilled_count(), spilled.spilled_count(), mixed.spilled_count()), (0, 4, 2));
    assert_eq!(rows(&memory), rows(&spilled));
    assert_eq!(rows(&memory), rows(&mixed));
    let mut seen: Vec<usize> = Vec::new();
    for (position, (index, x, y, w)) in rows(&memory).into_iter().enumerate() {
        assert_eq!(index, position);
        assert_eq!((x[1], x[2], y, w), (x[0] + 0.25, -x[0], x[0] * 2.0, x[0] + 1.0));
        seen.push(x[0] as usize);
    }
    assert!(seen[..256].iter().all(|&row| row < 256), "rows stay within their shard");
    assert!(seen.windows(2).any(|pair| pair[0] > pair[1]), "rows are shuffled");
    seen.sort_unstable();
    assert_eq!(seen, (0..1000).collect::<Vec<_>>());
}

#[test]
fn slices_cover_any_range_once() {
    let shards = build(1000, u64::MAX);
    for range in [0..1000, 0..1, 255..257, 100..900, 999..1000, 0..0] {
        let slices = shards.slices_of(range.clone());
        let covered: Vec<usize> = slices.iter().flat_map(|slice| slice.start..slice.start + slice.rows).collect();
        assert_eq!(covered, range.collect::<Vec<_>>());
    }
}

#[test]
fn rows_in_memory_already_give_the_same_shards() {
    let dir = tempfile::tempdir().unwrap();
    let features = 2;
    let values: Vec<f64> = (0..1400).map(f64::from).collect();
    let targets: Vec<f64> = (0..700).map(f64::from).collect();
    let mut builder = ShardsBuilder::new(ShardsOptions {
        features,
        shard_rows: ShardsOptions::shard_rows(features),
        weighted: false,
        memory_bytes: u64::MAX,
        spill_dir: dir.path().into(),
        seed: 9,
    })
    .unwrap();
    for (row, &target) in values.chunks_exact(2).zip(&targets) {
        builder.push(row, target, 1.0).unwrap();
    }
    let at_once = Shards::from_rows(features, &values, &targets, None, 9).unwrap();
    assert_eq!(rows(&at_once), rows(&builder.finish().unwrap()));
}

#[test]
fn what_is_not_finite_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = ShardsBuilder::new(options(1, 0, dir.path())).unwrap();
    assert!(builder.push(&[f64::NAN], 0.0, 1.0).is_err());
    assert!(builder.push(&[1.0], f64::INFINITY, 1.0).is_err());
    assert!(builder.push(&[1.0, 2.0], 0.0, 1.0).is_err());
}
