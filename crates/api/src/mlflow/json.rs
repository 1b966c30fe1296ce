//! A request in JSON: `{"dataframe_split": …}`, `{"dataframe_records": …}`, `{"instances": …}` or `{"inputs": …}`.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use wattle_core::{Signature, nearest};
use wattle_engine::Tensor;

use super::{records::Records, split::Split, write::Form};
use crate::{
    ApiError, Result,
    json::{Failure, Inputs, parse},
};

/// The ways to send inputs.
const FORMS: [&str; 4] = ["dataframe_split", "dataframe_records", "instances", "inputs"];

/// The model's inputs out of a request, and the form that they came in.
///
/// Other keys than that of the form have no effect, as in MLflow; `params` is one of them.
///
/// # Errors
/// None of the forms, or two; an absent column, ragged rows, values of another type.
pub fn inputs_from_json(signature: &Signature, body: &[u8]) -> Result<(Vec<Tensor>, Form)> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(no_form(""));
    }
    parse(body, |failure, deserializer| Request { signature, failure }.deserialize(deserializer))
}

struct Request<'a> {
    signature: &'a Signature,
    failure: &'a Failure,
}

impl<'de> DeserializeSeed<'de> for Request<'_> {
    type Value = (Vec<Tensor>, Form);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Request<'_> {
    type Value = (Vec<Tensor>, Form);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with one of {}", FORMS.join(", "))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Self::Value, A::Error> {
        let Request { signature, failure } = self;
        let mut read: Option<(&str, Self::Value)> = None;
        let mut other = None;
        while let Some(key) = pairs.next_key::<Cow<'de, str>>()? {
            let Some(form) = FORMS.into_iter().find(|form| *form == key) else {
                pairs.next_value::<IgnoredAny>()?;
                if key != "params" {
                    other = Some(key);
                }
                continue;
            };
            if let Some((before, _)) = read {
                let message = format!("both {before} and {form} were sent: send exactly one of {}", FORMS.join(", "));
                return Err(failure.set(ApiError::invalid(message)));
            }
            let value = match form {
                "dataframe_split" => (pairs.next_value_seed(Split { signature, failure })?, Form::Table),
                "dataframe_records" => (pairs.next_value_seed(Records { signature, failure })?, Form::Table),
                _ => (pairs.next_value_seed(Inputs { signature, failure })?, Form::Tensors),
            };
            read = Some((form, value));
        }
        match read {
            Some((_, value)) => Ok(value),
            None => Err(failure.set(no_form(&other.unwrap_or_default()))),
        }
    }
}

fn no_form(sent: &str) -> ApiError {
    let hint = nearest(sent, FORMS).map(|form| format!(" (did you mean {form}?)")).unwrap_or_default();
    ApiError::invalid(format!("send a JSON object with exactly one of {}{hint}", FORMS.join(", ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use wattle_core::{Datatype, TensorSpec};
    use wattle_engine::Data;

    use super::*;

    fn signature(inputs: &[(&str, Datatype, &[i64])]) -> Signature {
        let spec = |(name, datatype, shape): &(&str, Datatype, &[i64])| TensorSpec {
            name: (*name).into(),
            datatype: *datatype,
            shape: shape.to_vec(),
            missing: true,
        };
        Signature { inputs: inputs.iter().map(spec).collect(), outputs: Vec::new() }
    }

    /// A model with a column of numbers, one of whole numbers and one of texts.
    fn columns() -> Signature {
        signature(&[
            ("a", Datatype::Fp64, &[-1, 1]),
            ("n", Datatype::Int64, &[-1, 1]),
            ("t", Datatype::Bytes, &[-1, 1]),
        ])
    }

    /// A model with one input of three numbers a row.
    fn matrix() -> Signature {
        signature(&[("X", Datatype::Fp32, &[-1, 3])])
    }

    fn read(signature: &Signature, body: &str) -> Vec<(Vec<usize>, Data)> {
        let (tensors, _) =
            inputs_from_json(signature, body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
        tensors.into_iter().map(|tensor| (tensor.shape, tensor.data)).collect()
    }

    fn refusal(signature: &Signature, body: &str) -> String {
        inputs_from_json(signature, body.as_bytes()).err().unwrap_or_else(|| panic!("{body} is read")).message
    }

    #[test]
    fn every_form_says_the_same() {
        let expected = [
            (vec![2, 1], Data::Fp64(vec![1.0, 2.5].into())),
            (vec![2, 1], Data::Int64(vec![3, 4].into())),
            (vec![2, 1], Data::Bytes(vec!["x".into(), "y".into()])),
        ];
        for body in [
            r#"{"dataframe_split": {"index": [5, 6], "columns": ["t", "more", "a", "n"], "data": [["x", {}, 1, 3], ["y", [], 2.5, 4.0]]}}"#,
            r#"{"dataframe_split": {"data": [["x", null, 1, 3], ["y", 1, 2.5, 4]], "columns": ["t", "more", "a", "n"]}, "params": {"p": 1}}"#,
            r#"{"dataframe_split": {"columns": [0, 1, 2], "data": [[1, 3, "x"], [2.5, 4, "y"]]}}"#,
            r#"{"dataframe_split": {"data": [[1, 3, "x"], [2.5, 4, "y"]]}}"#,
            r#"{"dataframe_records": [{"a": 1, "n": 3, "t": "x", "more": []}, {"n": 4, "a": 2.5, "t": "y"}]}"#,
            r#"{"instances": [{"a": 1, "n": 3, "t": "x"}, {"t": "y", "a": 2.5, "n": 4, "more": 1}]}"#,
            r#"{"instances": [[1, 3, "x"], [2.5, 4, "y"]]}"#,
            r#"{"inputs": {"a": [1, 2.5], "n": [[3], [4]], "t": ["x", "y"], "more": [[]]}, "signature_name": "x"}"#,
            r#"{"inputs": [{"a": 1, "n": 3, "t": "x"}, {"t": "y", "a": 2.5, "n": 4}]}"#,
        ] {
            assert_eq!(read(&columns(), body), expected, "{body}");
        }
        let expected = [(vec![2, 3], Data::Fp32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0].into()))];
        for body in [
            r#"{"dataframe_split": {"columns": ["p", "q", "r"], "data": [[1, 2, 3], [4, 5, 6]]}}"#,
            r#"{"dataframe_split": {"data": [[1, 2, 3], [4, 5, 6]]}}"#,
            r#"{"dataframe_split": {"columns": ["id", "X"], "data": [[7, [1, 2, 3]], [8, [4, 5, 6]]]}}"#,
            r#"{"dataframe_records": [{"p": 1, "q": 2, "r": 3}, {"p": 4, "q": 5, "r": 6}]}"#,
            r#"{"dataframe_records": [{"id": 7, "X": [1, 2, 3]}, {"id": 8, "X": [4, 5, 6]}]}"#,
            r#"{"instances": [[1, 2, 3], [4, 5, 6]]}"#,
            r#"{"instances": [{"X": [1, 2, 3]}, {"X": [4, 5, 6]}]}"#,
            r#"{"inputs": [[1, 2, 3], [4, 5, 6]]}"#,
            r#"{"inputs": {"X": [[1, 2, 3], [4, 5, 6]]}}"#,
        ] {
            assert_eq!(read(&matrix(), body), expected, "{body}");
        }
        let only = signature(&[("a", Datatype::Fp64, &[-1, 1])]);
        for body in [
            r#"{"dataframe_split": {"columns": ["a"], "data": [1, 2]}}"#,
            r#"{"dataframe_split": {"data": [[1], [2]]}}"#,
            r#"{"instances": [1, 2]}"#,
            r#"{"inputs": [[1], [2]]}"#,
        ] {
            assert_eq!(read(&only, body), [(vec![2, 1], Data::Fp64(vec![1.0, 2.0].into()))], "{body}");
        }
    }

    #[test]
    fn a_value_that_a_record_leaves_out_is_missing_where_it_can_be() {
        let body = r#"{"dataframe_records": [{"n": 1, "t": "x"}, {"n": 2, "a": 3}]}"#;
        let read = read(&columns(), body);
        assert_eq!(read[2].1, Data::Bytes(vec!["x".into(), String::new()]));
        assert!(matches!(&read[0].1, Data::Fp64(values) if values[0].is_nan() && values[1] == 3.0));
        let refused = refusal(&columns(), r#"{"dataframe_records": [{"n": 1, "a": 1, "t": "x"}, {"a": 3, "t": "x"}]}"#);
        assert_eq!(refused, "column \"n\" is absent in row 1: send it too");
        let refused = refusal(&columns(), r#"{"dataframe_records": [{"n": 1, "aa": 1, "t": "x"}]}"#);
        assert_eq!(refused, "column \"a\" is absent: rename \"aa\" if that is what it is, or send it too");
    }

    #[test]
    fn what_is_no_request_is_refused_with_what_to_send() {
        let all = "exactly one of dataframe_split, dataframe_records, instances, inputs";
        for body in ["[1]", "", "x", "{}", r#"{"params": {}}"#, r#"{"columns": ["a"], "data": [[1]]}"#] {
            assert!(refusal(&columns(), body).contains(all), "{body}");
        }
        let cases = [
            (r#"{"input": [1]}"#, "(did you mean inputs?)"),
            (r#"{"inputs": {"a": 1, "n": 1, "t": "x"}, "instances": []}"#, "both inputs and instances were sent"),
            (r#"{"inputs": {"a": 1, "n": 1}}"#, "column \"t\" is absent"),
            (r#"{"inputs": {"a": "1", "n": 1, "t": "x"}}"#, "input \"a\": \"1\" at position 0 is not a value of FP64"),
            (r#"{"inputs": {"a": 1, "n": 1.5, "t": "x"}}"#, "input \"n\": 1.5 at position 0 is not a value of INT64"),
            (r#"{"dataframe_split": []}"#, "expected an object with data, and usually columns"),
            (r#"{"dataframe_split": {"columns": ["a"]}}"#, "dataframe_split has no data"),
            (
                r#"{"dataframe_split": {"data": [], "rows": []}}"#,
                "dataframe_split takes columns, data and index, not \"rows\"",
            ),
            (r#"{"dataframe_split": {"data": [[1]], "data": [[1]]}}"#, "dataframe_split has data twice"),
            (r#"{"dataframe_split": {"columns": ["a", "n", "t"], "data": []}}"#, "no rows: send at least one"),
            (
                r#"{"dataframe_split": {"columns": ["a", "n", "t"], "data": [[1, 2, "x"], [1, 2]]}}"#,
                "row 1 has 2 values, the table has 3 columns",
            ),
            (
                r#"{"dataframe_split": {"columns": ["a", "n", "t"], "data": [[1, 2, "x", 4]]}}"#,
                "row 0 has 4 values, the table has 3 columns",
            ),
            (r#"{"dataframe_split": {"columns": ["a", "n", "t"], "data": [1]}}"#, "row 0 is not an array"),
            (
                r#"{"dataframe_split": {"columns": ["a", "n", ["t", 1]], "data": [[1, 2, "x"]]}}"#,
                "columns of several levels",
            ),
            (r#"{"dataframe_split": {"data": [[1, 2]]}}"#, "the table has 2 columns without names, the model takes 3"),
            (r#"{"dataframe_records": {"a": 1}}"#, "expected an array of records"),
            (r#"{"dataframe_records": []}"#, "no rows: send at least one"),
            (r#"{"dataframe_records": [[1]]}"#, "expected a record"),
            (r#"{"dataframe_records": [{"a": 1, "a": 1, "n": 1, "t": "x"}]}"#, "column \"a\" was sent twice"),
            (r#"{"instances": [{"a": 1, "n": 3}]}"#, "column \"t\" is absent in row 0"),
            (r#"{"instances": 5}"#, "expected an object of columns"),
        ];
        for (body, words) in cases {
            let refused = refusal(&columns(), body);
            assert!(refused.contains(words), "{body}: {refused}");
        }
        let cases = [
            (
                r#"{"dataframe_split": {"columns": ["p", "q"], "data": [[1, 2]]}}"#,
                "has shape [1, 2], the model takes [-1, 3]",
            ),
            (r#"{"dataframe_split": {"data": [1, 2, 3]}}"#, "row 0 is not an array"),
            (r#"{"dataframe_split": {"columns": ["X"], "data": [1, 2, 3]}}"#, "has shape [3], the model takes [-1, 3]"),
            (r#"{"dataframe_records": [{"X": 1}, {"X": 2}, {"X": 3}]}"#, "has shape [3], the model takes [-1, 3]"),
            (
                r#"{"dataframe_records": [{"p": 1, "q": 2, "r": 3}, {"q": 1, "p": 2, "r": 3}]}"#,
                "row 1 has other columns than row 0",
            ),
            (
                r#"{"dataframe_records": [{"p": 1, "q": 2, "r": 3}, {"p": 1, "q": 2}]}"#,
                "row 1 has other columns than row 0",
            ),
            (r#"{"dataframe_records": [1]}"#, "expected a record"),
        ];
        for (body, words) in cases {
            let refused = refusal(&matrix(), body);
            assert!(refused.contains(words), "{body}: {refused}");
        }
    }
}
