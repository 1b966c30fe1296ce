//! A table in CSV or Parquet.

use half::{bf16, f16};
use wattle_core::{ColumnKind, Datatype, Signature, TensorSpec};
use wattle_engine::{Data, Tensor};
use wattle_store::table::{Frame, FrameColumn};

use super::layout::Layout;
use crate::{
    ApiError, Result,
    json::{finite, shape_for},
};

/// Texts that pandas reads as a missing value, beside those that a data set has.
const MISSING: [&str; 11] =
    ["#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "n/a"];

/// The model's inputs out of a table. A value is missing where it would be in a data set, where it would be to pandas, and
/// where it is one of `missing`.
///
/// `reserve` is told what is about to be taken in memory, in bytes, and may refuse.
///
/// # Errors
/// An absent column, rows of unequal lengths, values of another type, and those of `reserve`.
pub fn inputs_from_table(
    signature: &Signature,
    frame: Frame,
    missing: &[String],
    reserve: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<Tensor>> {
    let layout = Layout::of(signature, frame.names())?;
    let missing: Vec<String> = missing.iter().cloned().chain(MISSING.map(str::to_owned)).collect();
    match layout {
        Layout::Columns(places) => {
            let kinds = places.iter().zip(&signature.inputs).map(|(place, spec)| (*place, kind(spec.datatype)));
            let columns = frame.read(&kinds.collect::<Vec<_>>(), &missing, reserve)?;
            let tensor = |(spec, column)| tensor(spec, vec![column], reserve);
            signature.inputs.iter().zip(columns).map(tensor).collect()
        }
        Layout::Matrix => {
            let spec = &signature.inputs[0];
            let kinds: Vec<_> = (0..frame.names().len()).map(|place| (place, kind(spec.datatype))).collect();
            let columns = frame.read(&kinds, &missing, reserve)?;
            Ok(vec![tensor(spec, columns, reserve)?])
        }
    }
}

/// How a column is read that becomes this type. Whole numbers come as text, since 64 bits of them do not fit into a float.
fn kind(datatype: Datatype) -> ColumnKind {
    match datatype {
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => ColumnKind::Number,
        _ => ColumnKind::Category,
    }
}

fn tensor(spec: &TensorSpec, columns: Vec<FrameColumn>, reserve: &mut dyn FnMut(u64) -> Result<()>) -> Result<Tensor> {
    let width = columns.len();
    let rows = columns.first().map_or(0, FrameColumn::len);
    let size = spec.datatype.size().unwrap_or(size_of::<String>());
    reserve((rows * width * size) as u64)?;
    let nested = if width == 1 { vec![rows] } else { vec![rows, width] };
    let shape = shape_for(spec, &nested, rows * width).filter(|shape| shape.first() == Some(&rows)).ok_or_else(|| {
        ApiError::invalid(format!(
            "the table has {rows} rows of {width} values for input {:?}, the model takes {:?} (-1 stands for any size)",
            spec.name, spec.shape
        ))
    })?;
    Ok(Tensor::new(spec.name.clone(), shape, data(spec, columns, rows)?)?)
}

/// The values of columns, row after row, in the input's type.
fn data(spec: &TensorSpec, mut columns: Vec<FrameColumn>, rows: usize) -> Result<Data> {
    let rows = Rows { spec, columns: &mut columns, rows };
    macro_rules! integers {
        ($variant:ident) => {
            Data::$variant(rows.collect(|cell| integer(&cell)?.try_into().ok())?.into())
        };
    }
    Ok(match spec.datatype {
        Datatype::Fp64 => Data::Fp64(rows.collect(|cell| float(&cell))?.into()),
        Datatype::Fp32 => {
            Data::Fp32(rows.collect(|cell| finite(float(&cell)?, |value| value as f32, f32::is_infinite))?.into())
        }
        Datatype::Fp16 => {
            Data::Fp16(rows.collect(|cell| finite(float(&cell)?, f16::from_f64, f16::is_infinite))?.into())
        }
        Datatype::Bf16 => {
            Data::Bf16(rows.collect(|cell| finite(float(&cell)?, bf16::from_f64, bf16::is_infinite))?.into())
        }
        Datatype::Uint8 => integers!(Uint8),
        Datatype::Uint16 => integers!(Uint16),
        Datatype::Uint32 => integers!(Uint32),
        Datatype::Uint64 => integers!(Uint64),
        Datatype::Int8 => integers!(Int8),
        Datatype::Int16 => integers!(Int16),
        Datatype::Int32 => integers!(Int32),
        Datatype::Int64 => integers!(Int64),
        Datatype::Bool => Data::Bool(rows.collect(|cell| boolean(&cell))?),
        Datatype::Bytes => Data::Bytes(rows.collect(|cell| match cell {
            Cell::Text(text) => Some(std::mem::take(text)),
            Cell::Missing => Some(String::new()),
            Cell::Number(_) => None,
        })?),
    })
}

/// One value, as it was read.
enum Cell<'a> {
    Missing,
    Number(f64),
    Text(&'a mut String),
}

struct Rows<'a> {
    spec: &'a TensorSpec,
    columns: &'a mut [FrameColumn],
    rows: usize,
}

impl Rows<'_> {
    /// Converts all values; the error names the first that cannot be.
    fn collect<T>(self, convert: impl Fn(Cell<'_>) -> Option<T>) -> Result<Vec<T>> {
        let mut values = Vec::with_capacity(self.rows * self.columns.len());
        for row in 0..self.rows {
            for column in &mut *self.columns {
                let cell = match column {
                    FrameColumn::Numbers(numbers) => Cell::Number(numbers[row]),
                    FrameColumn::Texts(texts) => texts[row].as_mut().map_or(Cell::Missing, Cell::Text),
                };
                values.push(convert(cell).ok_or_else(|| unfit(self.spec, column, row))?);
            }
        }
        Ok(values)
    }
}

fn float(cell: &Cell<'_>) -> Option<f64> {
    match cell {
        Cell::Number(value) => Some(*value),
        Cell::Missing => Some(f64::NAN),
        Cell::Text(_) => None,
    }
}

/// A whole number; pandas writes one of a column with gaps as a float.
fn integer(cell: &Cell<'_>) -> Option<i128> {
    let Cell::Text(text) = cell else { return None };
    let text = text.trim();
    text.parse().ok().or_else(|| {
        let value: f64 = text.parse().ok()?;
        (value.fract() == 0.0 && value.abs() < 9.0e15).then_some(value as i128)
    })
}

fn boolean(cell: &Cell<'_>) -> Option<bool> {
    let Cell::Text(text) = cell else { return None };
    match text.trim() {
        "1" | "true" | "True" | "TRUE" => Some(true),
        "0" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn unfit(spec: &TensorSpec, column: &FrameColumn, row: usize) -> ApiError {
    let (name, datatype) = (&spec.name, spec.datatype);
    let shown = match column {
        FrameColumn::Numbers(numbers) => numbers[row].to_string(),
        FrameColumn::Texts(texts) => match &texts[row] {
            Some(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            None => {
                let message =
                    format!("input {name:?} has no value in row {row}, and {datatype} has none for that: send one");
                return ApiError::invalid(message);
            }
        },
    };
    ApiError::invalid(format!("input {name:?}: {shown} in row {row} is not a value of {datatype}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(name: &str, datatype: Datatype, width: i64) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: vec![-1, width], missing: true }
    }

    fn read(inputs: Vec<TensorSpec>, text: &str) -> Result<Vec<Tensor>> {
        let signature = Signature { inputs, outputs: Vec::new() };
        let frame = Frame::csv(text.as_bytes().to_vec().into()).unwrap();
        inputs_from_table(&signature, frame, &["none".to_owned()], &mut |_| Ok(()))
    }

    #[test]
    fn columns_become_inputs_of_their_own_types() {
        let inputs = vec![
            spec("big", Datatype::Int64, 1),
            spec("half", Datatype::Fp16, 1),
            spec("yes", Datatype::Bool, 1),
            spec("text", Datatype::Bytes, 1),
            spec("small", Datatype::Uint8, 1),
        ];
        let table = ",text,yes,half,big,small\n0,a,True,0.5,9007199254740993,1.0\n1,<NA>,0,none,-1,255\n";
        let tensors = read(inputs, table).unwrap();
        let data: Vec<&Data> = tensors.iter().map(|tensor| &tensor.data).collect();
        assert_eq!(*data[0], Data::Int64(vec![9_007_199_254_740_993, -1].into()));
        assert!(matches!(data[1], Data::Fp16(values) if values[0].to_f32() == 0.5 && values[1].is_nan()));
        assert_eq!(*data[2], Data::Bool(vec![true, false]));
        assert_eq!(*data[3], Data::Bytes(vec!["a".into(), String::new()]));
        assert_eq!(*data[4], Data::Uint8(vec![1, 255].into()));
        assert!(tensors.iter().all(|tensor| tensor.shape == [2, 1]));
    }

    #[test]
    fn all_columns_are_the_rows_of_an_only_input() {
        let tensors = read(vec![spec("X", Datatype::Fp32, 3)], "a,b,c\n1,2,3\n4,,6\n").unwrap();
        assert_eq!(tensors[0].shape, [2, 3]);
        let Data::Fp32(values) = &tensors[0].data else { panic!("{tensors:?}") };
        assert!(values[..4] == [1.0, 2.0, 3.0, 4.0] && values[4].is_nan() && values[5] == 6.0);
        let refusal = read(vec![spec("X", Datatype::Fp32, 3)], "a,b\n1,2\n").unwrap_err().message;
        assert!(refusal.starts_with("the table has 1 rows of 2 values for input \"X\""), "{refusal}");
    }

    #[test]
    fn values_of_another_type_are_refused_by_their_place() {
        let refusal = |datatype, text: &str| read(vec![spec("a", datatype, 1)], text).unwrap_err().message;
        assert_eq!(refusal(Datatype::Uint8, "a\n1\n256\n"), "input \"a\": \"256\" in row 1 is not a value of UINT8");
        assert_eq!(refusal(Datatype::Bool, "a\n2\n"), "input \"a\": \"2\" in row 0 is not a value of BOOL");
        assert!(
            refusal(Datatype::Int64, "a,b\n,1\n").contains("\"a\" has no value in row 0, and INT64 has none for that")
        );
        assert!(refusal(Datatype::Fp32, "a\n1e300\n").contains("1000"));
        assert!(refusal(Datatype::Fp64, "a\nx\n").starts_with("line 2: \"x\" in column \"a\" is not a finite number"));
    }
}
