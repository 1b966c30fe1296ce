//! A linear model that comes as two NumPy files becomes an ONNX graph.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::Path,
};

use npyz::{NpyFile, Order, TypeChar};
use wattle_core::{Datatype, TensorSpec};

use super::graph::GraphBuilder;
use crate::{Error, Result};

/// Coefficients have a row per output and a column per feature, and no further dimension.
const MAX_RANK: usize = 2;

/// Numbers of one NumPy file, row-major.
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// Writes `y_pred = x · coefᵀ + intercept` to the file `model`: input `x` of shape `[-1, features]`, output `y_pred` of
/// shape `[-1, outputs]`, both FP64.
///
/// `coef` has the shape `[features]` or `[outputs, features]`, as scikit-learn's `coef_`; `intercept` has `[]`, `[1]`
/// or `[outputs]`, as its `intercept_`, and is zero when absent.
///
/// # Errors
/// [`Error::InvalidModel`] for a file that is not a NumPy array of finite numbers or whose shape does not fit;
/// [`Error::Io`] when the system cannot read or write a file.
pub fn from_npy(coef: &Path, intercept: Option<&Path>, model: &Path) -> Result<()> {
    let coef = read("coef", coef)?;
    let (outputs, features) = match coef.shape.as_slice() {
        [features] => (1, *features),
        [outputs, features] => (*outputs, *features),
        shape => {
            return Err(Error::InvalidModel(format!(
                "coef has shape {shape:?}: it must be [features] or [outputs, features]"
            )));
        }
    };
    if coef.values.is_empty() {
        return Err(Error::InvalidModel("coef is empty".into()));
    }
    let intercept = match intercept {
        None => vec![0.0; outputs],
        Some(path) => {
            let intercept = read("intercept", path)?;
            match intercept.values.as_slice() {
                [one] => vec![*one; outputs],
                several if several.len() == outputs => several.to_vec(),
                several => {
                    return Err(Error::InvalidModel(format!(
                        "intercept has {} values and coef {outputs} outputs: they must be as many",
                        several.len()
                    )));
                }
            }
        }
    };
    let mut weights = vec![0.0; coef.values.len()];
    for output in 0..outputs {
        for feature in 0..features {
            weights[feature * outputs + output] = coef.values[output * features + feature];
        }
    }
    let spec = |name: &str, width: usize| TensorSpec {
        name: name.into(),
        datatype: Datatype::Fp64,
        shape: vec![-1, width as i64],
        missing: false,
    };
    let mut graph = GraphBuilder::new("linear");
    graph.input(&spec("x", features));
    graph.output(&spec("y_pred", outputs));
    let weights = graph.numbers("coef", &[features, outputs], &weights);
    let intercept = graph.numbers("intercept", &[outputs], &intercept);
    graph.node_to("y_pred", "Gemm", &["x", &weights, &intercept], &[]);
    Ok(fs::write(model, graph.finish())?)
}

fn read(role: &str, path: &Path) -> Result<Array> {
    let invalid = |reason: String| Error::InvalidModel(format!("{role} is not a usable NumPy file: {reason}"));
    let unreadable = |error: io::Error| match error.raw_os_error() {
        Some(_) => Error::Io(error),
        // Not the system's word but the parser's.
        None => invalid(error.to_string()),
    };
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let npy = NpyFile::new(BufReader::new(file)).map_err(unreadable)?;
    let shape = npy.shape().to_vec();
    if shape.len() > MAX_RANK {
        return Err(invalid(format!("it has {} dimensions, at most {MAX_RANK} are usable", shape.len())));
    }
    // The header is the sender's word; the file's own length is not.
    let count = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size));
    if count.is_none_or(|count| count > bytes) {
        return Err(invalid(format!("its header says {shape:?}, and the file has {bytes} bytes")));
    }
    let (kind, size, order) = match npy.dtype() {
        npyz::DType::Plain(kind) => (kind.type_char(), kind.size_field(), npy.order()),
        other => return Err(invalid(format!("its type is {}: save float64 numbers", other.descr()))),
    };
    let values: Vec<f64> = match (kind, size) {
        (TypeChar::Float, 8) => npy.into_vec::<f64>().map_err(unreadable)?,
        (TypeChar::Float, 4) => npy.into_vec::<f32>().map_err(unreadable)?.into_iter().map(f64::from).collect(),
        (TypeChar::Int, 8) => {
            npy.into_vec::<i64>().map_err(unreadable)?.into_iter().map(|value| value as f64).collect()
        }
        (TypeChar::Int, 4) => npy.into_vec::<i32>().map_err(unreadable)?.into_iter().map(f64::from).collect(),
        _ => {
            return Err(invalid(
                "its numbers are neither float64, float32, int64 nor int32: convert them with .astype(float)".into(),
            ));
        }
    };
    if values.iter().any(|value| !value.is_finite()) {
        return Err(invalid("it holds NaN or infinite numbers".into()));
    }
    let shape: Vec<usize> = shape.into_iter().map(|size| usize::try_from(size).unwrap_or(usize::MAX)).collect();
    let values = match (order, shape.as_slice()) {
        (Order::Fortran, [rows, columns]) => {
            (0..rows * columns).map(|index| values[(index % columns) * rows + index / columns]).collect()
        }
        _ => values,
    };
    Ok(Array { shape, values })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use npyz::WriterBuilder;

    use super::*;
    use crate::{Data, Tensor, onnx::OnnxModel, onnx::inspect};

    fn npy(folder: &Path, name: &str, shape: &[u64], values: &[f64]) -> std::path::PathBuf {
        let path = folder.join(name);
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(shape)
            .writer(File::create(&path).unwrap())
            .begin_nd()
            .unwrap();
        writer.extend(values.iter().copied()).unwrap();
        writer.finish().unwrap();
        path
    }

    #[test]
    fn the_founding_example_answers_three() {
        let folder = tempfile::tempdir().unwrap();
        let coef = npy(folder.path(), "model.npy", &[1, 1], &[2.0]);
        let intercept = npy(folder.path(), "intercept.npy", &[1], &[1.0]);
        let model = folder.path().join("model.onnx");
        from_npy(&coef, Some(&intercept), &model).unwrap();
        let input = &inspect(&model).unwrap().signature.inputs[0];
        assert_eq!((input.shape.as_slice(), input.missing), ([-1, 1].as_slice(), false));
        let x = Tensor::new("x", vec![1, 1], Data::Fp64(vec![1.0].into())).unwrap();
        let outputs = OnnxModel::load(&model, 1).unwrap().run(&[x]).unwrap();
        assert_eq!(outputs, [Tensor::new("y_pred", vec![1, 1], Data::Fp64(vec![3.0].into())).unwrap()]);
    }

    #[test]
    fn several_outputs_keep_their_rows() {
        let folder = tempfile::tempdir().unwrap();
        let coef = npy(folder.path(), "coef.npy", &[2, 3], &[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
        let intercept = npy(folder.path(), "intercept.npy", &[2], &[0.5, 5.0]);
        let model = folder.path().join("model.onnx");
        from_npy(&coef, Some(&intercept), &model).unwrap();
        let x = Tensor::new("x", vec![2, 3], Data::Fp64(vec![1.0, 1.0, 1.0, 1.0, 0.0, 0.0].into())).unwrap();
        let outputs = OnnxModel::load(&model, 1).unwrap().run(&[x]).unwrap();
        assert_eq!(outputs[0].data, Data::Fp64(vec![6.5, 65.0, 1.5, 15.0].into()));
    }

    #[test]
    fn a_full_disk_is_not_a_bad_model() {
        let folder = tempfile::tempdir().unwrap();
        let coef = npy(folder.path(), "coef.npy", &[2], &[1.0, 2.0]);
        let Err(Error::Io(error)) = from_npy(&coef, None, Path::new("/dev/full")) else { panic!("not an i/o error") };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let absent = folder.path().join("absent.npy");
        assert!(matches!(from_npy(&absent, None, &folder.path().join("model.onnx")), Err(Error::Io(_))));
    }

    #[test]
    fn broken_files_are_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.onnx");
        let good = npy(folder.path(), "good.npy", &[2], &[1.0, 2.0]);
        let refusal =
            |coef: &Path, intercept: Option<&Path>| from_npy(coef, intercept, &model).unwrap_err().to_string();

        let text = folder.path().join("text.npy");
        fs::write(&text, "not numpy").unwrap();
        assert!(refusal(&text, None).contains("coef is not a usable NumPy file"));

        let bytes = fs::read(&good).unwrap();
        let cut = folder.path().join("cut.npy");
        fs::write(&cut, &bytes[..bytes.len() - 4]).unwrap();
        assert!(refusal(&cut, None).contains("coef"));

        let lying = folder.path().join("lying.npy");
        let header = String::from_utf8_lossy(&bytes).replace("(2,)", "(9999999999999,)");
        fs::write(&lying, header.as_bytes()).unwrap();
        assert!(refusal(&lying, None).contains("coef"));

        let nan = npy(folder.path(), "nan.npy", &[1], &[f64::NAN]);
        assert!(refusal(&nan, None).contains("NaN"));
        let three = npy(folder.path(), "three.npy", &[3], &[1.0; 3]);
        assert!(refusal(&good, Some(&three)).contains("intercept has 3 values"));
    }
}
