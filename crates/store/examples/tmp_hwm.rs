#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::print_stdout)]
use arrow_array::*;
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use std::{fs::File, sync::Arc, time::Instant};
fn main() {
    let what = std::env::args().nth(1).unwrap();
    let path = std::path::PathBuf::from(format!("/tmp/hwm_{what}"));
    if std::env::args().nth(2).is_some() {
        let cols: Vec<(String, ArrayRef)> = match what.as_str() {
            "bomb" => {
                let t = "x".repeat(1 << 20);
                let d: DictionaryArray<types::Int32Type> =
                    DictionaryArray::new(vec![0; 1500].into(), Arc::new(StringArray::from(vec![t.as_str()])));
                let a: ArrayRef = Arc::new(d);
                (0..4).map(|i| (format!("c{i}"), a.clone())).collect()
            }
            "wide" => (0..10_000)
                .map(|i| {
                    (
                        format!("c{i}"),
                        Arc::new((0..300).map(|r| Some((r * i) as f64)).collect::<Float64Array>()) as ArrayRef,
                    )
                })
                .collect(),
            _ => (0..20)
                .map(|i| {
                    (
                        format!("c{i}"),
                        if i % 4 == 0 {
                            Arc::new(
                                (0..300_000).map(|r| Some(format!("text {}", r % 1000 * i))).collect::<StringArray>(),
                            ) as ArrayRef
                        } else {
                            Arc::new((0..300_000).map(|r| Some((r * i) as f64 / 7.0)).collect::<Float64Array>())
                                as ArrayRef
                        },
                    )
                })
                .collect(),
        };
        if what == "csv" {
            use std::io::Write;
            let mut f = std::io::BufWriter::new(File::create(&path).unwrap());
            writeln!(f, "{}", (0..20).map(|i| format!("c{i}")).collect::<Vec<_>>().join(",")).unwrap();
            for r in 0..300_000 {
                writeln!(
                    f,
                    "{}",
                    (0..20)
                        .map(|i| if i % 4 == 0 {
                            format!("text {}", r % 1000 * i)
                        } else {
                            format!("{}", (r * i) as f64 / 7.0)
                        })
                        .collect::<Vec<_>>()
                        .join(",")
                )
                .unwrap();
            }
            return;
        }
        let b = RecordBatch::try_from_iter(cols).unwrap();
        let p = WriterProperties::builder()
            .set_compression(Compression::ZSTD(Default::default()))
            .set_dictionary_page_size_limit(4 << 20)
            .build();
        let mut w = ArrowWriter::try_new(File::create(&path).unwrap(), b.schema(), Some(p)).unwrap();
        w.write(&b).unwrap();
        w.close().unwrap();
        return;
    }
    let t = Instant::now();
    let r =
        wattle_store::table::normalise(&path, std::path::Path::new("/tmp/hwm_out"), &Default::default(), &mut |_| ());
    let h = std::fs::read_to_string("/proc/self/status").unwrap();
    println!(
        "{what} in {} B: {:?} {:?} {}",
        std::fs::metadata(&path).unwrap().len(),
        r.map(|r| r.rows),
        t.elapsed(),
        h.lines().find(|l| l.starts_with("VmHWM")).unwrap()
    );
}
