//! Parquet files that unpack to far more than they are.

use std::{
    fs::{self, File},
    sync::Arc,
};

use ::parquet::{
    arrow::{ArrowWriter, arrow_reader::ArrowReaderMetadata},
    basic::{Compression, Encoding},
    file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion},
    schema::types::ColumnPath,
};
use arrow_array::{ArrayRef, RecordBatch};
use proptest::prelude::*;

use super::*;
use crate::table::{
    parquet::{Batches, Opened, pages},
    read::Positioned,
};

fn written(columns: &[(String, ArrayRef)], properties: WriterPropertiesBuilder) -> Bench {
    let bench = Bench::new();
    let columns = columns.iter().map(|(name, array)| (name, array.clone(), true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = File::create(bench.input()).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bench
}

fn repeated(text_bytes: usize, rows: usize) -> ArrayRef {
    let text = "x".repeat(text_bytes);
    Arc::new(StringArray::from_iter_values((0..rows).map(|_| &text)))
}

/// Writes the columns' texts as the differences of each to the one before.
fn as_differences(encoding: Encoding) -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_dictionary_enabled(false)
        .set_column_encoding(ColumnPath::from("c0"), encoding)
}

fn opened(bench: &Bench) -> (Positioned, ArrowReaderMetadata) {
    let input = Positioned::new(File::open(bench.input()).unwrap()).unwrap();
    let metadata = ArrowReaderMetadata::load(&input, Default::default()).unwrap();
    (input, metadata)
}

/// The most memory that a batch of the input takes, in bytes, and how many rows there are.
fn read(bench: &Bench) -> (usize, usize) {
    let (input, metadata) = opened(bench);
    let size = fs::metadata(bench.input()).unwrap().len();
    let columns: Vec<usize> = (0..metadata.schema().fields().len()).collect();
    let mut batches = Batches::new(Opened { input, metadata }, &columns, pages::allowance(size)).unwrap();
    let (mut most, mut rows) = (0, 0);
    while let Some(batch) = batches.next().unwrap() {
        most = most.max(batch.get_array_memory_size());
        rows += batch.num_rows();
    }
    (most, rows)
}

/// 1.5 KB on the disk, 6.3 GB in the server.
#[test]
fn a_long_text_that_a_dictionary_repeats_is_held_once() {
    let texts = repeated(64 << 10, 300);
    let columns: Vec<(String, ArrayRef)> = (0..4).map(|index| (format!("c{index}"), texts.clone())).collect();
    let bench = written(&columns, WriterProperties::builder().set_compression(Compression::ZSTD(Default::default())));
    let size = fs::metadata(bench.input()).unwrap().len();
    assert!(size < 5000, "{size} bytes");
    let (most, rows) = read(&bench);
    assert_eq!(rows, 300);
    assert!(most < 1 << 20, "{most} bytes");
    assert_eq!(bench.normalise(&Overrides::default()).unwrap().rows, 300);
}

#[test]
fn a_long_text_that_differences_repeat_comes_in_small_batches() {
    let bench = written(&[("c0".into(), repeated(256 << 10, 200))], as_differences(Encoding::DELTA_BYTE_ARRAY));
    let (input, metadata) = opened(&bench);
    let rows = pages::batch_rows(&input, metadata.metadata().row_group(0), [(0, true)], 8192, 256 << 20).unwrap();
    assert_eq!(rows, 128);
    let (most, rows) = read(&bench);
    assert_eq!(rows, 200);
    assert!(most < 72 << 20, "{most} bytes");
}

#[test]
fn the_texts_of_a_row_are_limited_together() {
    let columns: Vec<(String, ArrayRef)> = (0..17).map(|index| (format!("c{index}"), repeated(1 << 20, 1))).collect();
    let message = written(&columns, WriterProperties::builder()).refusal(&Overrides::default());
    assert_eq!(message, "row 1: the texts are longer than 16 MiB together: leave some columns out");
}

#[test]
fn pages_that_unpack_to_more_than_allowed_are_refused() {
    let bench = written(
        &[("c0".into(), repeated(1 << 20, 1)), ("c1".into(), repeated(1 << 20, 1))],
        WriterProperties::builder().set_dictionary_enabled(false),
    );
    let (input, metadata) = opened(&bench);
    let rows =
        |allowed| pages::batch_rows(&input, metadata.metadata().row_group(0), [(0, true), (1, true)], 8192, allowed);
    assert_eq!(rows(3 << 20).unwrap(), 8192);
    let refusal = rows(2 << 20).unwrap_err().to_string();
    assert!(refusal.contains("takes more than 2 MiB of memory: write it with smaller row groups"), "{refusal}");
}

#[test]
fn a_page_that_says_less_than_it_unpacks_to_is_refused() {
    let bench = written(
        &[("c0".into(), repeated(1000, 1000))],
        WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_compression(Compression::GZIP(Default::default())),
    );
    let (_, metadata) = opened(&bench);
    let (start, _) = metadata.metadata().row_group(0).column(0).byte_range();
    let mut bytes = fs::read(bench.input()).unwrap();
    // The head: a data page, then its unpacked size.
    let head = &mut bytes[start as usize..];
    assert_eq!(head[..3], [0x15, 0x00, 0x15]);
    assert!(head[3] > 0x81);
    head[3] = 0x80;
    fs::write(bench.input(), &bytes).unwrap();
    let (input, metadata) = opened(&bench);
    let refusal = pages::batch_rows(&input, metadata.metadata().row_group(0), [(0, true)], 8192, 2 << 20).unwrap_err();
    assert!(refusal.to_string().contains("unpacks to more than it says"), "{refusal}");
}

/// A file with this footer and nothing before it.
fn footer(schema: &[u8]) -> Vec<u8> {
    let footer = [&[0x15, 0x02, 0x19], schema, &[0x00]].concat();
    let length = (footer.len() as u32).to_le_bytes();
    [b"PAR1".as_slice(), &footer, &length, b"PAR1"].concat()
}

#[test]
fn footers_that_claim_more_than_they_are_do_not_get_it() {
    // A column "a" with one inside it.
    let element = [0x48, 0x01, b'a', 0x15, 0x02, 0x00];
    let deep = [&[0xfc, 0xc8, 0x01], element.repeat(200).as_slice()].concat();
    let refusal = refusal_of(footer(&deep));
    assert_eq!(refusal, "the columns are nested too deeply: make a column of each of their parts");

    let many = [[0xfc, 0xff, 0xff, 0xff, 0xff, 0x07].as_slice(), &element].concat();
    assert!(refusal_of(footer(&many)).contains("a list is longer than its bytes"));

    // 2^31 - 1 columns inside one.
    let wide = [0x1c, 0x48, 0x01, b'a', 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x00];
    assert!(refusal_of(footer(&wide)).contains("its columns are more than it describes"));

    let long = [b"PAR1".as_slice(), &[0; 17 << 20], &(17_u32 << 20).to_le_bytes(), b"PAR1"].concat();
    assert!(refusal_of(long).contains("footer takes 17 MiB, more than 16"));
}

#[test]
fn every_encoding_and_codec_reads_back() {
    let texts: Vec<Option<String>> =
        (0..20_000).map(|row| (row % 7 != 0).then(|| format!("text {}", row / 3))).collect();
    let column: [(String, ArrayRef); 1] = [("c0".into(), Arc::new(StringArray::from(texts.clone())))];
    let gzip = Compression::GZIP(Default::default());
    for properties in [
        as_differences(Encoding::DELTA_BYTE_ARRAY),
        as_differences(Encoding::DELTA_LENGTH_BYTE_ARRAY).set_compression(gzip),
        as_differences(Encoding::DELTA_BYTE_ARRAY).set_writer_version(WriterVersion::PARQUET_1_0),
        as_differences(Encoding::PLAIN).set_compression(Compression::LZ4),
        WriterProperties::builder().set_compression(Compression::SNAPPY),
        WriterProperties::builder().set_compression(gzip).set_max_row_group_row_count(Some(3000)),
    ] {
        let bench = written(&column, properties.set_data_page_size_limit(10_000).set_write_batch_size(100));
        assert_eq!(bench.columns(&Overrides::default()), [("c0".to_owned(), Cells::Texts(texts.clone()))]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn damaged_differences_are_refused_or_read_but_never_panic(place in 0..4000_usize, bytes: [u8; 2], apart: bool) {
        let texts: StringArray = (0..300).map(|row| (row % 5 != 0).then(|| format!("text {row}"))).collect();
        let encoding = if apart { Encoding::DELTA_LENGTH_BYTE_ARRAY } else { Encoding::DELTA_BYTE_ARRAY };
        let bench = written(&[("c0".into(), Arc::new(texts))], as_differences(encoding));
        let mut file = fs::read(bench.input()).unwrap();
        let place = 4 + place % (file.len() - 8);
        file[place..place + 2].copy_from_slice(&bytes);
        fs::write(bench.input(), file).unwrap();
        if let Err(error) = bench.normalise(&Overrides::default()) {
            prop_assert!(matches!(error, Error::Invalid(_) | Error::TooLarge(_)), "{:?}", error);
        }
    }
}
