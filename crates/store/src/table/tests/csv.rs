use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use proptest::{collection::vec, option, prelude::*};

use super::*;

fn overrides(kinds: &[(&str, ColumnKind)], missing: &[&str]) -> Overrides {
    Overrides {
        kinds: kinds.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect(),
        missing: missing.iter().map(|text| (*text).to_owned()).collect(),
        delimiter: None,
    }
}

#[test]
fn numbers_categories_and_gaps_are_told_apart() {
    let columns =
        csv_columns("\u{feff}x, island ,y,void\r\n1,Biscoe,-2.5e3,\r\n 7 ,,NA,?\r\nnan,Torg \"A\",1,null\r\n\r\n");
    let expected = named([
        ("x", numbers([Some(1.0), Some(7.0), None])),
        ("island", texts([Some("Biscoe"), None, Some("Torg \"A\"")])),
        ("y", numbers([Some(-2500.0), None, Some(1.0)])),
        ("void", numbers([None, None, None])),
    ]);
    assert_eq!(columns, expected);
}

#[test]
fn texts_that_parse_but_are_no_finite_numbers_are_categories() {
    for text in ["inf", "-Infinity", "1e999", "NAN", "0x10", "1_000", "1,5", "one"] {
        let columns = csv_columns(&format!("x;y\n1;2\n{text};3\n"));
        assert_eq!(columns[0].1, texts([Some("1"), Some(text)]), "{text}");
    }
}

#[test]
fn spaces_around_a_value_count_only_inside_quotes() {
    let columns = csv_columns("a,b\nx,1\n x,\" 2\"\nx\t,\" \"\n\" x \", 3 \n , \" y\" \n");
    let expected = named([
        ("a", texts([Some("x"), Some("x"), Some("x"), Some(" x "), None])),
        ("b", texts([Some("1"), Some(" 2"), None, Some("3"), Some("\" y\"")])),
    ]);
    assert_eq!(columns, expected);
}

#[test]
fn a_bad_cell_that_makes_a_column_of_numbers_one_of_categories_is_told() {
    let bench = Bench::new();
    let mut text = "a,b,half\n".to_owned();
    for row in 0..5000 {
        let (bad, half) = (if row == 15 { "12..5" } else { "12.5" }, if row % 2 == 0 { "x" } else { "1" });
        text += &format!("{},{bad},{half}\n", if row == 3 { "" } else { "1" });
    }
    fs::write(bench.input(), text).unwrap();
    let normalised = bench.normalise(&Overrides::default()).unwrap();
    assert_eq!(normalised.schema.columns[1].kind, ColumnKind::Category);
    assert_eq!(
        normalised.warnings,
        ["column \"b\": 4 999 of 5 000 values are numbers, but line 17 has \"12..5\", so all are read as categories: \
          correct it, name it with --missing, or say --column \"b=category\" to mean it"]
    );
    for told in [overrides(&[("b", ColumnKind::Category)], &[]), overrides(&[], &["12..5"])] {
        assert!(bench.normalise(&told).unwrap().warnings.is_empty());
    }
}

#[test]
fn quotes_keep_delimiters_line_ends_and_quotes() {
    let columns = csv_columns("a,\"b,c\"\n\"x\ny\",\"say \"\"hi\"\"\"\n\"p\r\nq\",\"\"\n");
    let expected = named([("a", texts([Some("x\ny"), Some("p\r\nq")])), ("b,c", texts([Some("say \"hi\""), None]))]);
    assert_eq!(columns, expected);
}

#[test]
fn the_delimiter_is_the_one_that_the_header_has_most_of() {
    for delimiter in [',', ';', '\t', '|'] {
        let text = format!("a{delimiter}\"b,;|,;|\"{delimiter}c\n1{delimiter}2{delimiter}3\n");
        assert_eq!(csv_columns(&text).len(), 3, "{delimiter:?}");
    }
    assert_eq!(csv_columns("only\n1\n").len(), 1);

    let bench = Bench::new();
    fs::write(bench.input(), "a:b,c\n1:2,3\n").unwrap();
    let told = Overrides { delimiter: Some(b':'), ..Overrides::default() };
    assert_eq!(bench.columns(&told)[1], ("b,c".into(), texts([Some("2,3")])));
    for byte in [b'"', b'\n', 0xe4] {
        let told = Overrides { delimiter: Some(byte), ..Overrides::default() };
        assert!(bench.refusal(&told).contains("cannot be the delimiter"));
    }
}

#[test]
fn what_the_person_says_comes_before_what_is_inferred() {
    let bench = Bench::new();
    fs::write(bench.input(), "zip,x,y\n01,-999,a\n2.50, none ,b\n").unwrap();
    let columns = bench.columns(&overrides(&[("zip", ColumnKind::Category)], &["-999", "none"]));
    assert_eq!(columns[0].1, texts([Some("01"), Some("2.50")]));
    assert_eq!(columns[1].1, numbers([None, None]));

    let message = bench.refusal(&overrides(&[("y", ColumnKind::Number)], &[]));
    assert!(message.starts_with("line 2: \"a\" in column \"y\" is not a finite number"), "{message}");
    let message = bench.refusal(&overrides(&[("zipp", ColumnKind::Number)], &[]));
    assert_eq!(message, "there is no column \"zipp\": did you mean \"zip\"?");
}

#[test]
fn the_schema_counts_gaps_and_categories_and_knows_the_range() {
    let bench = Bench::new();
    let mut text = "x,c,empty\n".to_owned();
    for row in 0..12_000 {
        text += &format!("{},{},\n", row - 6000, if row < 3 { String::new() } else { format!("c{row}") });
    }
    fs::write(bench.input(), text).unwrap();
    let schema = bench.normalise(&Overrides::default()).unwrap().schema;
    let found: Vec<_> = schema.columns.iter().map(|c| (c.kind, c.missing, c.distinct, c.range)).collect();
    let expected = [
        (ColumnKind::Number, 0, None, Some([-6000.0, 5999.0])),
        (ColumnKind::Category, 3, Some(10_000), None),
        (ColumnKind::Number, 12_000, None, None),
    ];
    assert_eq!(found, expected);
}

#[test]
fn bad_files_are_refused_with_the_line_and_what_to_do() {
    let refused: [(&[u8], &str); 19] = [
        (b"", "the file is empty"),
        (b"\n\r\n\n", "the file is empty"),
        (b"a,b\n", "no rows"),
        (b"a,b\n1,2\n\n3\n", "line 4: expected 2 values as in the header, found 1"),
        (b"a,b\r\n1,2\r\n3,4,5\r\n", "line 3: expected 2 values as in the header, found 3"),
        (b"a,b\n\"x\ny\",2\n3\n", "line 4: expected 2"),
        (b"a,b\n1,\"x\n2,y\n3,z\n", "line 2: a quote (\") in this record is never closed"),
        (b"a,b,a\n1,2,3\n", "two columns are named \"a\""),
        (b"a, a\n1,2\n", "two columns are named \"a\""),
        (b",x\n0,1\n", "column 1 has no name"),
        (b"x, \n0,1\n", "column 2 has no name"),
        (b"a,b\n1,2\nM\xfcnchen,3\n", "line 3: the text is not UTF-8: save the file as UTF-8"),
        (b"gr\xf6sse\n1\n", "line 1: the text is not UTF-8"),
        (b"a,b\n1,2\n\xc3,\xa4\n", "line 3: the text is not UTF-8"),
        (b"a,b\n\"x\ny\xff\",2\n", "line 3: the text is not UTF-8"),
        (b"a,b\n1,2\n3,\0\n", "line 3: there is a NUL byte"),
        (b"\xff\xfea\0,\0b\0\n\0", "line 1: the text is UTF-16"),
        (b"PK\x03\x04rest", "this is a workbook"),
        (b"\x1f\x8b\x08rest", "the file is compressed"),
    ];
    for (bytes, expected) in refused {
        let message = refusal_of(bytes);
        assert!(message.contains(expected), "{:?}: {message}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn limits_hold_before_memory_is_taken() {
    let bench = Bench::new();
    let write = |write: &dyn Fn(&mut dyn Write)| {
        let mut file = BufWriter::new(File::create(bench.input()).unwrap());
        write(&mut file);
        file.flush().unwrap();
    };
    let mut read = 0;
    let mut refusal = || match normalise(&bench.input(), &bench.output(), &Overrides::default(), &mut |n| read = n) {
        Err(Error::TooLarge(message)) => (message, std::mem::take(&mut read)),
        other => panic!("not too large: {other:?}"),
    };

    write(&|file| {
        file.write_all(b"a,b\n1,2\n").unwrap();
        (0..20).for_each(|_| file.write_all(&[b'x'; 1 << 20]).unwrap());
    });
    let (message, read) = refusal();
    assert!(message.starts_with("line 3: the record is longer than 16 MiB"), "{message}");
    assert!(read <= (16 << 20) + (512 << 10), "{read} bytes were read");

    write(&|file| (0..1_000_000).for_each(|_| file.write_all(b"c,").unwrap()));
    let (message, read) = refusal();
    assert!(message.starts_with("line 1: there are more than 10000 columns"), "{message}");
    assert!(read <= 512 << 10, "{read} bytes were read");

    write(&|file| {
        file.write_all(b"a,b\n1,").unwrap();
        (0..=1 << 10).for_each(|_| file.write_all(&[b'x'; 1 << 10]).unwrap());
    });
    let (message, _) = refusal();
    assert!(message.starts_with("line 2: the value in column \"b\" is longer than 1 MiB"), "{message}");
}

#[test]
fn as_many_columns_as_allowed_are_taken() {
    let header: Vec<String> = (0..crate::table::MAX_COLUMNS).map(|index| format!("c{index}")).collect();
    let row = vec!["1"; header.len()].join(",");
    assert_eq!(csv_columns(&format!("{}\n{row}\n{row}", header.join(","))).len(), header.len());
}

#[test]
fn progress_ends_at_twice_the_size() {
    let bench = Bench::new();
    fs::write(bench.input(), format!("\u{feff}x\n{}", "1\n".repeat(300_000))).unwrap();
    let mut seen = vec![];
    normalise(&bench.input(), &bench.output(), &Overrides::default(), &mut |bytes| seen.push(bytes)).unwrap();
    assert!(seen.is_sorted() && seen.len() > 2);
    assert_eq!(seen.last(), Some(&(2 * fs::metadata(bench.input()).unwrap().len())));
}

#[test]
fn a_full_disk_is_told_from_a_bad_file() {
    let bench = Bench::new();
    fs::write(bench.input(), "x\n1\n").unwrap();
    let full = normalise(&bench.input(), Path::new("/dev/full"), &Overrides::default(), &mut |_| ());
    assert!(matches!(full, Err(Error::Full(_))), "{full:?}");
}

#[test]
fn overrides_read_back_from_json_and_unknown_keys_are_refused() {
    let told = overrides(&[("zip", ColumnKind::Category)], &["-"]);
    assert_eq!(serde_json::from_str::<Overrides>(&serde_json::to_string(&told).unwrap()).unwrap(), told);
    assert_eq!(serde_json::from_str::<Overrides>("{}").unwrap(), Overrides::default());
    assert!(serde_json::from_str::<Overrides>("{\"kind\": {}}").is_err());
}

fn number_cells(rows: usize) -> impl Strategy<Value = Cells> {
    let value = prop_oneof![proptest::num::f64::NORMAL, (-1000..1000_i32).prop_map(f64::from), Just(-0.0)];
    vec(option::weighted(0.8, value), rows).prop_map(Cells::Numbers)
}

fn text_cells(rows: usize) -> impl Strategy<Value = Cells> {
    vec(option::weighted(0.8, "[a-zä\",;| \r\n]{0,6}x[\n\"]?"), rows).prop_map(Cells::Texts)
}

fn tables() -> impl Strategy<Value = Vec<Cells>> {
    (1..40_usize).prop_flat_map(|rows| vec(prop_oneof![number_cells(rows), text_cells(rows)], 1..6))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_table_written_as_csv_reads_back_equal(
        table in tables(),
        delimiter in prop_oneof![Just(b','), Just(b';'), Just(b'\t'), Just(b'|')],
        crlf: bool,
    ) {
        let bench = Bench::new();
        let terminator = if crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') };
        let mut writer = ::csv::WriterBuilder::new()
            .delimiter(delimiter)
            .terminator(terminator)
            .quote_style(::csv::QuoteStyle::Always)
            .from_path(bench.input())
            .unwrap();
        let names: Vec<String> = (0..table.len()).map(|index| format!("column {index}")).collect();
        writer.write_record(&names).unwrap();
        let rows = match &table[0] { Cells::Numbers(cells) => cells.len(), Cells::Texts(cells) => cells.len() };
        for row in 0..rows {
            writer.write_record(table.iter().map(|column| match column {
                Cells::Numbers(cells) => cells[row].map_or_else(String::new, |value| value.to_string()),
                Cells::Texts(cells) => cells[row].clone().unwrap_or_default(),
            })).unwrap();
        }
        writer.flush().unwrap();

        // A column of gaps alone has no kind of its own, so the table's are told.
        let kinds: BTreeMap<String, ColumnKind> = names.iter().cloned().zip(table.iter().map(|column| match column {
            Cells::Numbers(_) => ColumnKind::Number,
            Cells::Texts(_) => ColumnKind::Category,
        })).collect();
        let told = bench.columns(&Overrides { kinds, ..Overrides::default() });
        prop_assert_eq!(told, names.into_iter().zip(table).collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(prop_oneof![any::<u8>(), Just(b','), Just(b'"'), Just(b'\n')], 0..200)) {
        let bench = Bench::new();
        fs::write(bench.input(), bytes).unwrap();
        if let Err(error) = bench.normalise(&Overrides::default()) {
            prop_assert!(matches!(error, Error::Invalid(_)), "{:?}", error);
        }
    }
}
