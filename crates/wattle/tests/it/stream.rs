//! A table that is larger than the memory that it may take.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    thread,
};

use crate::{
    process::{self, A_MOMENT},
    support::{Random, Server, command, wait_for, words},
};

/// Writes a table of so many rows, ten numbers, a category and a class each; its size in bytes.
fn write_table(path: &Path, rows: u64) -> u64 {
    let mut file = BufWriter::new(File::create(path).unwrap());
    writeln!(file, "a,b,c,d,e,f,g,h,i,j,city,class").unwrap();
    let mut random = Random(5);
    for _ in 0..rows {
        let mut sum = 0.0;
        for _ in 0..10 {
            let value = random.unit() - 0.5;
            sum += value;
            write!(file, "{value},").unwrap();
        }
        writeln!(file, "city {},{}", random.below(50), sum > random.unit() - 0.5).unwrap();
    }
    file.into_inner().unwrap().metadata().unwrap().len()
}

/// What adding a table and training on it takes at most: its size, the server's and the training process's peak memory,
/// all in bytes.
fn measure(rows: u64) -> [u64; 3] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.csv");
    let size = write_table(&path, rows);
    let mut launcher = command();
    // What the allocator keeps for each thread would hide what the work needs.
    launcher.env("MALLOC_ARENA_MAX", "1");
    let server = Server::spawn(launcher, &folder.path().join("data"), &[]);
    server.wattle(&["data", "add", "table", path.to_str().unwrap()]);
    let server_peak = process::peak_memory(server.id()).unwrap();
    let job = server.json(&words(
        "train --detach --algorithm logistic-regression --data table --target class --iterations 5 --memory 16MiB",
    ));
    let trainer = wait_for("the training process", || process::trainer(server.id()));
    let mut trainer_peak = 0;
    while let Some(peak) = process::peak_memory(trainer) {
        trainer_peak = peak.max(trainer_peak);
        thread::sleep(A_MOMENT);
    }
    server.json(&["jobs", "follow", job["id"].as_str().unwrap()]);
    [size, server_peak, trainer_peak]
}

/// What buffers that are full or empty by chance may make of a difference, in bytes.
const CHANCE_BYTES: u64 = 16 << 20;

#[test]
fn memory_does_not_grow_with_the_table() {
    // The small one, too, has several row groups, as stored more bytes than are written at once, and as encoded more
    // than the job's memory, so that only what grows with the table makes a difference.
    let [small, small_server, small_trainer] = measure(140_000);
    let [large, large_server, large_trainer] = measure(340_000);
    assert!(large - small > 2 * CHANCE_BYTES && small > CHANCE_BYTES, "{small} and {large} bytes");
    for (process, small_peak, large_peak) in
        [("server", small_server, large_server), ("training process", small_trainer, large_trainer)]
    {
        assert!(
            large_peak < small_peak + CHANCE_BYTES,
            "the {process} took {small_peak} bytes for a table of {small}, and {large_peak} for one of {large}"
        );
    }
}
