use std::fs;

use super::*;
use crate::table::BATCH_ROWS;

fn long_table(rows: usize) -> Bench {
    let bench = Bench::new();
    let mut text = "x,colour,y\n".to_owned();
    for row in 0..rows {
        text += &format!("{row},{},{}\n", ["red", "green", ""][row % 3], row as f64 / 7.0);
    }
    fs::write(bench.input(), text).unwrap();
    bench.normalise(&Overrides::default()).unwrap();
    bench
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    let bench = long_table(1000);
    let first = fs::read(bench.output()).unwrap();
    bench.normalise(&Overrides::default()).unwrap();
    assert_eq!(fs::read(bench.output()).unwrap(), first);
}

#[test]
fn columns_come_in_the_order_asked_and_in_bounded_batches() {
    let bench = long_table(BATCH_ROWS + 10);
    let table = Table::open(&bench.output()).unwrap();
    let batches: Vec<Vec<Values>> = table.read(&["y", "x", "y"]).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|batch| batch[0].len()).collect::<Vec<_>>(), [BATCH_ROWS, 10]);
    let Values::Numbers(x) = &batches[1][1] else { panic!("x is a number") };
    assert_eq!(x[9], (BATCH_ROWS + 9) as f64);
    assert_eq!(batches[1][0], batches[1][2]);
    assert_eq!(batches[1][0], Values::Numbers(x.iter().map(|x| x / 7.0).collect()));
    assert!(!batches[1][0].is_empty());
}

#[test]
fn wide_texts_end_a_row_group_early() {
    let bench = Bench::new();
    let text = "x".repeat(1 << 20);
    fs::write(bench.input(), format!("t\n{}", format!("{text}\n").repeat(130))).unwrap();
    bench.normalise(&Overrides::default()).unwrap();
    let table = Table::open(&bench.output()).unwrap();
    let rows: Vec<usize> = table.read(&["t"]).unwrap().map(|batch| batch.unwrap()[0].len()).collect();
    assert_eq!(rows, [128, 2]);
}

#[test]
fn readers_of_one_table_do_not_disturb_each_other_even_after_its_deletion() {
    let bench = long_table(2 * BATCH_ROWS);
    let table = Table::open(&bench.output()).unwrap();
    fs::remove_file(bench.output()).unwrap();
    let read = || table.read(&["x", "colour"]).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let alone = read();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
        readers.into_iter().for_each(|reader| assert_eq!(reader.join().unwrap(), alone));
    });
}

#[test]
fn an_unknown_column_names_the_nearest() {
    let table = Table::open(&long_table(3).output()).unwrap();
    let message = |columns: &[&str]| table.read(columns).err().unwrap().to_string();
    assert_eq!(message(&["x", "color"]), "there is no column \"color\": did you mean \"colour\"?");
    assert_eq!(message(&["zzz"]), "there is no column \"zzz\": the columns are \"x\", \"colour\", \"y\"");
    assert_eq!(message(&[]), "no column is asked for: name at least one");
}

#[test]
fn a_file_that_is_no_normal_form_is_refused() {
    let bench = long_table(5000);
    let good = fs::read(bench.output()).unwrap();
    fs::write(bench.input(), "x\n1\n").unwrap();
    assert!(matches!(Table::open(&bench.input()), Err(Error::Invalid(_))));
    for end in [0, 3, 4, 8, good.len() / 2, good.len() - 1] {
        fs::write(bench.output(), &good[..end]).unwrap();
        assert!(matches!(Table::open(&bench.output()), Err(Error::Invalid(_))), "cut at {end}");
    }
    assert!(matches!(Table::open(&bench.folder.path().join("absent")), Err(Error::Io(_))));

    // Damage in the pages shows when they are read.
    let mut bad = good;
    bad[200..4000].fill(0xa5);
    fs::write(bench.output(), bad).unwrap();
    let mut reader = Table::open(&bench.output()).unwrap().read(&["x", "colour", "y"]).unwrap();
    assert!(matches!(reader.next(), Some(Err(Error::Corrupt(_)))));
    assert!(reader.next().is_none());
}
