use std::borrow::Cow;

use crate::Data;

/// One operator of a compiled graph. Places are indices into the values that are there already; widths are columns.
///
/// What the operators mean is in ONNX's reference of operators, version 19 of the set.
#[derive(Debug)]
pub(super) enum Step {
    /// `Concat` along the columns, each part with its width.
    Concat(Vec<(usize, usize)>),
    /// `IsNaN` and `Where`: each column's own number in place of NaN.
    Fill { values: usize, with: Vec<f64> },
    /// `Sub` of a row.
    Subtract { values: usize, row: Vec<f64> },
    /// `Div` by a row.
    Divide { values: usize, row: Vec<f64> },
    /// `Add` of a row.
    Add { values: usize, row: Vec<f64> },
    /// `Equal` of a column of texts and a row of them, and `Cast` to numbers.
    OneHot { texts: usize, known: Vec<String> },
    /// `MatMul` or `Gemm` with `[width, outputs]` weights, row-major; the sums begin at `from`.
    Product { values: usize, weights: Vec<f64>, from: Vec<f64> },
    /// `Softmax` over the columns.
    Softmax { values: usize, width: usize },
    /// `ArgMax` over the columns, the first of equals.
    ArgMax { values: usize, width: usize },
    /// `Gather` of numbers.
    Numbers { indices: usize, of: Vec<f64> },
    /// `Gather` of texts.
    Texts { indices: usize, of: Vec<String> },
}

/// What a step makes, for all rows, row-major.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Numbers(Cow<'a, [f64]>),
    Texts(Cow<'a, [String]>),
    Indices(Vec<usize>),
}

impl<'a> From<&'a [f64]> for Value<'a> {
    fn from(numbers: &'a [f64]) -> Value<'a> {
        Value::Numbers(Cow::Borrowed(numbers))
    }
}

impl<'a> From<&'a [String]> for Value<'a> {
    fn from(texts: &'a [String]) -> Value<'a> {
        Value::Texts(Cow::Borrowed(texts))
    }
}

impl Value<'_> {
    /// The elements of an output.
    pub(super) fn to_data(&self) -> Data {
        match self {
            Value::Numbers(numbers) => Data::Fp64(numbers.to_vec().into()),
            Value::Texts(texts) => Data::Bytes(texts.to_vec()),
            Value::Indices(_) => unreachable!("the compiler takes no indices for an output"),
        }
    }

    fn numbers(&self) -> &[f64] {
        match self {
            Value::Numbers(numbers) => numbers,
            _ => unreachable!("the compiler has seen that these are numbers"),
        }
    }
}

impl Step {
    /// What the step makes of the values before it.
    pub(super) fn compute(&self, values: &[Value<'_>], rows: usize) -> Value<'static> {
        let made = |numbers: Vec<f64>| Value::Numbers(Cow::Owned(numbers));
        match self {
            Step::Concat(parts) => made(concat(parts, values, rows)),
            Step::Fill { values: of, with } => {
                made(by_column(values[*of].numbers(), with, |value, mean| if value.is_nan() { mean } else { value }))
            }
            Step::Subtract { values: of, row } => made(by_column(values[*of].numbers(), row, |value, by| value - by)),
            Step::Divide { values: of, row } => made(by_column(values[*of].numbers(), row, |value, by| value / by)),
            Step::Add { values: of, row } => made(by_column(values[*of].numbers(), row, |value, more| value + more)),
            Step::OneHot { texts, known } => {
                let Value::Texts(texts) = &values[*texts] else {
                    unreachable!("the compiler has seen that these are texts")
                };
                let row = |text| known.iter().map(move |known| f64::from(u8::from(text == known)));
                made(texts.iter().flat_map(row).collect())
            }
            Step::Product { values: of, weights, from } => made(product(values[*of].numbers(), weights, from, rows)),
            Step::Softmax { values: of, width } => made(softmax(values[*of].numbers(), *width)),
            Step::ArgMax { values: of, width } => {
                Value::Indices(values[*of].numbers().chunks_exact(*width).map(arg_max).collect())
            }
            Step::Numbers { indices, of } => {
                made(indices_of(&values[*indices]).iter().map(|index| of[*index]).collect())
            }
            Step::Texts { indices, of } => {
                Value::Texts(indices_of(&values[*indices]).iter().map(|index| of[*index].clone()).collect())
            }
        }
    }

    /// Its bytes, with those of its constants.
    pub(super) fn bytes(&self) -> usize {
        let texts = |texts: &[String]| texts.iter().map(|text| size_of::<String>() + text.len()).sum();
        let constants: usize = match self {
            Step::Concat(parts) => size_of_val(&parts[..]),
            Step::Fill { with: row, .. }
            | Step::Subtract { row, .. }
            | Step::Divide { row, .. }
            | Step::Add { row, .. }
            | Step::Numbers { of: row, .. } => size_of_val(&row[..]),
            Step::Product { weights, from, .. } => size_of_val(&weights[..]) + size_of_val(&from[..]),
            Step::OneHot { known, .. } => texts(known),
            Step::Texts { of, .. } => texts(of),
            Step::Softmax { .. } | Step::ArgMax { .. } => 0,
        };
        size_of_val(self) + constants
    }
}

fn indices_of<'a>(value: &'a Value<'_>) -> &'a [usize] {
    match value {
        Value::Indices(indices) => indices,
        _ => unreachable!("the compiler has seen that these are indices"),
    }
}

fn concat(parts: &[(usize, usize)], values: &[Value<'_>], rows: usize) -> Vec<f64> {
    let mut all = Vec::with_capacity(rows * parts.iter().map(|(_, width)| width).sum::<usize>());
    for row in 0..rows {
        for (place, width) in parts {
            all.extend_from_slice(&values[*place].numbers()[row * width..][..*width]);
        }
    }
    all
}

fn by_column(values: &[f64], row: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    values
        .chunks_exact(row.len())
        .flat_map(|values| values.iter().zip(row).map(|(&value, &of)| combine(value, of)))
        .collect()
}

/// Each sum is over the features in their order, so that a row's answer is the same in every batch.
fn product(values: &[f64], weights: &[f64], from: &[f64], rows: usize) -> Vec<f64> {
    let outputs = from.len();
    let width = weights.len() / outputs;
    let mut sums = Vec::with_capacity(rows * outputs);
    for row in values.chunks_exact(width) {
        let first = sums.len();
        sums.resize(first + outputs, 0.0);
        let sums = &mut sums[first..];
        for (value, weights) in row.iter().zip(weights.chunks_exact(outputs)) {
            sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += value * weight);
        }
        sums.iter_mut().zip(from).for_each(|(sum, from)| *sum += from);
    }
    sums
}

fn softmax(scores: &[f64], width: usize) -> Vec<f64> {
    let mut all = Vec::with_capacity(scores.len());
    for scores in scores.chunks_exact(width) {
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let first = all.len();
        all.extend(scores.iter().map(|score| (score - largest).exp()));
        let sum: f64 = all[first..].iter().sum();
        all[first..].iter_mut().for_each(|value| *value /= sum);
    }
    all
}

fn arg_max(scores: &[f64]) -> usize {
    let better = |best: usize, (place, score): (usize, &f64)| if *score > scores[best] { place } else { best };
    scores.iter().enumerate().fold(0, better)
}
