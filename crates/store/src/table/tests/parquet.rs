use std::{
    fs::{self, File},
    sync::Arc,
};

use ::parquet::arrow::ArrowWriter;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array,
    Int64Array, LargeStringArray, NullArray, RecordBatch, StringViewArray, StructArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, UInt8Array, types::Int32Type,
};
use arrow_schema::{DataType, Field};
use proptest::prelude::*;

use super::*;

fn written<const N: usize>(columns: [(&str, ArrayRef); N]) -> Bench {
    let bench = Bench::new();
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(bench.input()).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bench
}

#[test]
fn types_become_numbers_and_categories() {
    let bench = written([
        ("int", Arc::new(Int64Array::from(vec![Some(-3), None, Some(1 << 40)]))),
        ("small", Arc::new(UInt8Array::from(vec![1, 2, 255]))),
        ("float", Arc::new(Float32Array::from(vec![Some(0.5), Some(f32::NAN), None]))),
        ("decimal", Arc::new(Decimal128Array::from(vec![125, -1, 0]).with_precision_and_scale(10, 2).unwrap())),
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("large", Arc::new(LargeStringArray::from(vec![Some("a"), Some(" "), None]))),
        ("view", Arc::new(StringViewArray::from(vec![Some("NA"), Some("ä"), None]))),
        ("dict", Arc::new(vec![Some("p"), None, Some("q")].into_iter().collect::<DictionaryArray<Int32Type>>())),
        ("date", Arc::new(Date32Array::from(vec![0, 19_000, -1]))),
        ("time", Arc::new(TimestampMillisecondArray::from(vec![0, 1500, 86_400_000]))),
        ("instant", Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2_000_000]).with_timezone("Europe/Berlin"))),
        ("void", Arc::new(NullArray::new(3))),
    ]);
    let expected = named([
        ("int", numbers([Some(-3.0), None, Some((1_u64 << 40) as f64)])),
        ("small", numbers([Some(1.0), Some(2.0), Some(255.0)])),
        ("float", numbers([Some(0.5), None, None])),
        ("decimal", numbers([Some(1.25), Some(-0.01), Some(0.0)])),
        ("bool", texts([Some("true"), Some("false"), None])),
        ("large", texts([Some("a"), None, None])),
        ("view", texts([Some("NA"), Some("ä"), None])),
        ("dict", texts([Some("p"), None, Some("q")])),
        ("date", texts([Some("1970-01-01"), Some("2022-01-08"), Some("1969-12-31")])),
        ("time", texts([Some("1970-01-01T00:00:00"), Some("1970-01-01T00:00:01.500"), Some("1970-01-02T00:00:00")])),
        (
            "instant",
            texts([Some("1970-01-01T00:00:00Z"), Some("1970-01-01T00:00:00.000001Z"), Some("1970-01-01T00:00:02Z")]),
        ),
        ("void", numbers([None, None, None])),
    ]);
    assert_eq!(bench.columns(&Overrides::default()), expected);
}

#[test]
fn what_the_person_says_comes_before_the_types() {
    let bench = written([
        ("id", Arc::new(Int64Array::from(vec![9_007_199_254_740_993, 2]))),
        ("grade", Arc::new(Float64Array::from(vec![1.5, f64::NAN]))),
        ("text", Arc::new(StringArray::from(vec![" 2.5", "n/a"]))),
        ("flag", Arc::new(Float64Array::from(vec![-999.0, 4.0]))),
    ]);
    let kinds = [("id", ColumnKind::Category), ("grade", ColumnKind::Category), ("text", ColumnKind::Number)];
    let mut overrides = Overrides {
        kinds: kinds.map(|(name, kind)| (name.to_owned(), kind)).into(),
        missing: vec!["n/a".into(), "-999".into()],
        delimiter: None,
    };
    let expected = named([
        ("id", texts([Some("9007199254740993"), Some("2")])),
        ("grade", texts([Some("1.5"), None])),
        ("text", numbers([Some(2.5), None])),
        ("flag", numbers([None, Some(4.0)])),
    ]);
    assert_eq!(bench.columns(&overrides), expected);

    overrides.missing.clear();
    let message = bench.refusal(&overrides);
    assert!(message.starts_with("row 2: \"n/a\" in column \"text\" is not a finite number"), "{message}");
    overrides.kinds.insert("grades".into(), ColumnKind::Number);
    assert_eq!(bench.refusal(&overrides), "there is no column \"grades\": did you mean \"grade\"?");
}

#[test]
fn the_same_rows_give_the_same_bytes_from_csv_and_from_parquet() {
    let rows = 0..70_000_i32;
    let bench = written([
        ("x", Arc::new(rows.clone().map(f64::from).map(Some).collect::<Float64Array>())),
        (
            "c",
            Arc::new(rows.clone().map(|row| (row % 5 != 0).then(|| format!("c{}", row % 9))).collect::<StringArray>()),
        ),
    ]);
    bench.normalise(&Overrides::default()).unwrap();
    let from_parquet = fs::read(bench.output()).unwrap();
    let line = |row: i32| if row % 5 == 0 { format!("{row},\n") } else { format!("{row},c{}\n", row % 9) };
    fs::write(bench.input(), format!("x,c\n{}", rows.map(line).collect::<String>())).unwrap();
    bench.normalise(&Overrides::default()).unwrap();
    assert!(fs::read(bench.output()).unwrap() == from_parquet);
}

#[test]
fn columns_that_fit_no_table_are_refused_by_name() {
    let field = Arc::new(Field::new("part", DataType::Int64, true));
    let nested: ArrayRef = Arc::new(StructArray::from(vec![(field, Arc::new(Int64Array::from(vec![1])) as ArrayRef)]));
    let binary: ArrayRef = Arc::new(BinaryArray::from(vec![b"x".as_slice()]));
    let infinite: ArrayRef = Arc::new(Float64Array::from(vec![f64::NEG_INFINITY]));
    let nul: ArrayRef = Arc::new(StringArray::from(vec!["a\0b"]));
    let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat((1 << 20) + 1)]));
    let refused = [
        (nested, "column \"it\" has the type Struct"),
        (binary, "column \"it\" has the type Binary: write it as text (UTF-8), or leave it out"),
        (infinite, "row 1: \"-inf\" in column \"it\" is not a finite number"),
        (nul, "row 1: the text in column \"it\" has a NUL byte"),
        (long, "row 1: the value in column \"it\" is longer than 1 MiB"),
        (Arc::new(Int64Array::from(Vec::<i64>::new())), "the table has no rows"),
    ];
    for (array, expected) in refused {
        let message = written([("it", array)]).refusal(&Overrides::default());
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn a_cut_or_encrypted_file_is_refused() {
    let bench = written([("x", Arc::new(Float64Array::from(vec![1.0; 1000])))]);
    let good = fs::read(bench.input()).unwrap();
    for end in [4, 8, 12, good.len() / 2, good.len() - 1] {
        assert!(refusal_of(&good[..end]).contains("check that it is complete"), "cut at {end}");
    }
    assert!(refusal_of(b"PARE....").contains("encrypted"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_bytes_are_refused_or_read_but_never_panic(place in 4..4000_usize, bytes: [u8; 3]) {
        let bench = written([
            ("x", Arc::new((0..300).map(|row| (row % 7 != 0).then_some(f64::from(row))).collect::<Float64Array>())),
            ("c", Arc::new((0..300).map(|row| Some(format!("c{}", row % 9))).collect::<StringArray>())),
        ]);
        let mut file = fs::read(bench.input()).unwrap();
        let place = 4 + place % (file.len() - 8);
        file[place..place + 3].copy_from_slice(&bytes);
        fs::write(bench.input(), file).unwrap();
        if let Err(error) = bench.normalise(&Overrides::default()) {
            prop_assert!(matches!(error, Error::Invalid(_) | Error::TooLarge(_)), "{:?}", error);
        }
    }
}
