//! Tables in memory.

use std::sync::Arc;

use ::parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding},
    file::properties::{WriterProperties, WriterPropertiesBuilder},
    schema::types::ColumnPath,
};
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, NullArray, RecordBatch, StringArray,
    builder::{Int32Builder, ListBuilder},
};
use bytes::Bytes;
use proptest::prelude::*;
use wattle_core::ColumnKind::{self, Category, Number};

use super::*;
use crate::table::{Frame, FrameColumn};

/// Writes columns as a Parquet file.
fn written(columns: Vec<(&str, ArrayRef)>, properties: WriterPropertiesBuilder) -> Bytes {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

fn plain(columns: Vec<(&str, ArrayRef)>) -> Bytes {
    written(columns, WriterProperties::builder())
}

/// Reads columns with so many bytes to spare; also how many were taken.
fn read(frame: Result<Frame>, wanted: &[(&str, ColumnKind)], mut spare: u64) -> Result<(Vec<FrameColumn>, u64)> {
    let frame = frame?;
    let place = |name: &str| frame.names().iter().position(|known| known == name).unwrap();
    let wanted: Vec<(usize, ColumnKind)> = wanted.iter().map(|(name, kind)| (place(name), *kind)).collect();
    let mut taken = 0;
    let mut reserve = |bytes| -> Result<()> {
        taken += bytes;
        spare = spare.checked_sub(bytes).ok_or_else(|| Error::Unavailable("no memory".into()))?;
        Ok(())
    };
    let columns = frame.read(&wanted, &["-999".to_owned()], &mut reserve)?;
    Ok((columns, taken))
}

fn parquet(bytes: Bytes) -> Result<Frame> {
    Frame::parquet(bytes, &mut |_| Ok(()))
}

fn csv(text: &str) -> Result<Frame> {
    Frame::csv(Bytes::copy_from_slice(text.as_bytes()))
}

fn some(columns: Result<(Vec<FrameColumn>, u64)>) -> Vec<Cells> {
    let cells = |column| match column {
        FrameColumn::Numbers(values) => {
            Cells::Numbers(values.into_iter().map(|value| (!value.is_nan()).then_some(value)).collect())
        }
        FrameColumn::Texts(values) => Cells::Texts(values),
    };
    columns.unwrap().0.into_iter().map(cells).collect()
}

fn told<T>(result: Result<T>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn columns_are_read_in_the_order_asked_and_the_others_do_not_matter() {
    let text = "\u{feff},a,b,b,c\n0,1.5, x ,odd,-999\n1,NA,\"y,z\",,2\n";
    let columns = some(read(csv(text), &[("c", Number), ("a", Category)], 1 << 20));
    assert_eq!(columns, [numbers([None, Some(2.0)]), texts([Some("1.5"), None])]);
    assert_eq!(csv(text).unwrap().names(), ["", "a", "b", "b", "c"]);

    let mut lists = ListBuilder::new(Int32Builder::new());
    lists.append_value([Some(1), None]);
    lists.append_value([]);
    let bytes = plain(vec![
        ("lists", Arc::new(lists.finish())),
        ("a", Arc::new(Float64Array::from(vec![Some(1.5), None]))),
        ("odd", Arc::new(NullArray::new(2))),
        ("long", Arc::new(Int64Array::from(vec![Some(9_007_199_254_740_993), Some(-999)]))),
        ("b", Arc::new(StringArray::from(vec![Some("x"), Some("")]))),
        ("yes", Arc::new(BooleanArray::from(vec![Some(true), None]))),
    ]);
    let wanted = [("b", Category), ("a", Number), ("long", Category), ("yes", Category), ("odd", Number)];
    assert_eq!(
        some(read(parquet(bytes.clone()), &wanted, 1 << 20)),
        [
            texts([Some("x"), None]),
            numbers([Some(1.5), None]),
            texts([Some("9007199254740993"), None]),
            texts([Some("true"), None]),
            numbers([None, None]),
        ]
    );
    let refusal = told(read(parquet(bytes), &[("lists", Number)], 1 << 20));
    assert!(refusal.contains("column \"lists\" has the type List"), "{refusal}");
}

#[test]
fn what_is_no_number_is_refused_by_its_place() {
    let refusal = told(read(csv("a,b\n1,2\n\n1,two\n"), &[("b", Number)], 1 << 20));
    assert!(refusal.starts_with("line 4: \"two\" in column \"b\" is not a finite number"), "{refusal}");
    let refusal = told(read(csv("a,b\n1,2\n1\n"), &[("b", Number)], 1 << 20));
    assert!(refusal.starts_with("line 3: expected 2 values"), "{refusal}");
    let infinite: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::INFINITY]));
    let refusal = told(read(parquet(plain(vec![("a", infinite)])), &[("a", Number)], 1 << 20));
    assert!(refusal.starts_with("row 2: \"inf\" in column \"a\" is not a finite number"), "{refusal}");
    assert!(told(csv("")).contains("the file is empty"));
    assert!(told(parquet(Bytes::from_static(b"PAR1"))).contains("too short"));
}

#[test]
fn memory_is_asked_for_before_it_is_taken() {
    let wanted = [("a", Number)];
    let long = format!("a\n{}", "1\n".repeat(100_000));
    let (_, taken) = read(csv(&long), &wanted, 1 << 30).unwrap();
    assert!((1_600_000..1_700_000).contains(&taken), "{taken}");
    assert_eq!(told(read(csv(&long), &wanted, 1 << 20)), "no memory");

    // A few hundred bytes that say "null" as often as can be.
    let nulls: ArrayRef = Arc::new(Float64Array::new_null(1_000_000));
    let file = plain(vec![("a", nulls)]);
    assert!(file.len() < 4000, "{}", file.len());
    assert_eq!(told(read(parquet(file), &wanted, 4 << 20)), "no memory");

    // A long text that a dictionary repeats.
    let text = "x".repeat(64 << 10);
    let repeated: ArrayRef = Arc::new(StringArray::from_iter_values((0..1000).map(|_| &text)));
    let zstd = WriterProperties::builder().set_compression(Compression::ZSTD(Default::default()));
    let file = written(vec![("a", repeated)], zstd);
    assert!(file.len() < 4000, "{}", file.len());
    assert_eq!(told(read(parquet(file), &[("a", Category)], 16 << 20)), "no memory");

    let footer = Frame::parquet(plain(vec![("a", Arc::new(Float64Array::from(vec![1.0])))]), &mut |bytes| {
        Err(Error::Unavailable(format!("{bytes} bytes")))
    });
    assert!(told(footer).ends_with(" bytes"));
}

#[test]
fn files_that_are_what_they_say_fit_into_what_they_claim() {
    let values: Vec<Option<String>> =
        (0..20_000).map(|row| (row % 7 != 0).then(|| format!("text {}", row / 3))).collect();
    let encoded = |encoding| {
        WriterProperties::builder().set_dictionary_enabled(false).set_column_encoding(ColumnPath::from("a"), encoding)
    };
    let gzip = Compression::GZIP(Default::default());
    for properties in [
        encoded(Encoding::DELTA_BYTE_ARRAY),
        encoded(Encoding::DELTA_LENGTH_BYTE_ARRAY).set_compression(gzip),
        encoded(Encoding::PLAIN).set_compression(Compression::LZ4_RAW),
        WriterProperties::builder().set_compression(Compression::SNAPPY),
        WriterProperties::builder().set_compression(gzip).set_max_row_group_row_count(Some(3000)),
    ] {
        let bytes = written(vec![("a", Arc::new(StringArray::from(values.clone())))], properties);
        let columns = some(read(parquet(bytes), &[("a", Category)], 1 << 30));
        assert_eq!(columns, [Cells::Texts(values.clone())]);
    }
    let mut wide = Vec::new();
    let names: Vec<String> = (0..300).map(|index| format!("c{index}")).collect();
    for name in &names {
        wide.push((name.as_str(), Arc::new(Float64Array::from(vec![1.0])) as ArrayRef));
    }
    let wanted: Vec<(&str, ColumnKind)> = names.iter().map(|name| (name.as_str(), Number)).collect();
    assert_eq!(some(read(parquet(plain(wide)), &wanted, 1 << 30)).len(), 300);
}

/// A few parts of a table, in any order.
fn csv_texts() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "a", "b", "1", "-2.5e3", "NaN", "NA", "\"", "\"\"", ",", ";", "\n", "\r\n", "\r", " ", "\t", "é", "\u{feff}",
        "\0", "x,y\n", "1,2\n",
    ]);
    proptest::collection::vec(parts, 0..30).prop_map(|parts| parts.concat())
}

/// Reads all columns of a table as texts, in little memory.
fn all_texts(frame: Result<Frame>) -> Result<(Vec<String>, Vec<FrameColumn>)> {
    let frame = frame?;
    let names = frame.names().to_vec();
    let wanted: Vec<(usize, ColumnKind)> = (0..names.len()).map(|place| (place, Category)).collect();
    let mut reserve = |bytes: u64| match bytes {
        0..=0x400_0000 => Ok(()),
        _ => Err(Error::TooLarge("too much".into())),
    };
    let columns = frame.read(&wanted, &[], &mut reserve)?;
    Ok((names, columns))
}

fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Invalid(_) | Error::TooLarge(_))
}

proptest! {
    #[test]
    fn fuzz_csv_of_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Err(error) = all_texts(Frame::csv(bytes.into())) {
            prop_assert!(is_refusal(&error), "{:?}", error);
        }
    }

    /// What a data set takes, a call takes, and reads the same.
    #[test]
    fn fuzz_csv_that_is_nearly_right(text in csv_texts()) {
        let read = all_texts(csv(&text));
        let bench = Bench::new();
        std::fs::write(bench.input(), &text).unwrap();
        let names = match &read {
            Ok((names, _)) => names.clone(),
            Err(error) => {
                prop_assert!(is_refusal(error), "{:?}", error);
                prop_assert!(bench.normalise(&Overrides::default()).is_err());
                return Ok(());
            }
        };
        let kinds = names.iter().map(|name| (name.clone(), Category)).collect();
        // A data set needs names and rows, which a call may lack.
        if bench.normalise(&Overrides { kinds, ..Overrides::default() }).is_ok() {
            let stored = columns(&Table::open(&bench.output()).unwrap());
            let (_, read) = read.unwrap();
            let read = read.into_iter().map(|column| match column {
                FrameColumn::Texts(texts) => Cells::Texts(texts),
                FrameColumn::Numbers(_) => unreachable!("texts were asked for"),
            });
            prop_assert_eq!(names.into_iter().zip(read).collect::<Vec<_>>(), stored);
        }
    }

    #[test]
    fn fuzz_parquet_that_is_damaged(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        is_packed: bool,
    ) {
        let values: StringArray = (0..300).map(|row| (row % 5 != 0).then(|| format!("{row}"))).collect();
        let numbers = Float64Array::from_iter((0..300).map(|row| (row % 7 != 0).then_some(f64::from(row))));
        let codec = if is_packed { Compression::SNAPPY } else { Compression::UNCOMPRESSED };
        let properties = WriterProperties::builder().set_compression(codec);
        let mut file = written(vec![("a", Arc::new(values)), ("b", Arc::new(numbers))], properties).to_vec();
        for (place, byte) in changes {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if let Err(error) = all_texts(parquet(file.into())) {
            prop_assert!(is_refusal(&error), "{:?}", error);
        }
    }
}
