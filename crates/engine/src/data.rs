//! The elements of a tensor, whatever their type.

use bytes::{BufMut, Bytes, BytesMut};
use half::{bf16, f16};
use wattle_core::Datatype;

use crate::{Error, Result, Values};

/// The elements of a tensor, row-major.
#[allow(missing_docs, reason = "the variants are the datatypes")]
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    Bool(Vec<bool>),
    Uint8(Values<u8>),
    Uint16(Values<u16>),
    Uint32(Values<u32>),
    Uint64(Values<u64>),
    Int8(Values<i8>),
    Int16(Values<i16>),
    Int32(Values<i32>),
    Int64(Values<i64>),
    Fp16(Values<f16>),
    Bf16(Values<bf16>),
    Fp32(Values<f32>),
    Fp64(Values<f64>),
    /// Texts; the protocol calls them BYTES, ONNX Runtime wants UTF-8 without NUL.
    Bytes(Vec<String>),
}

/// Runs one expression over the elements inside a [`Data`], whatever their type.
#[macro_export]
macro_rules! with_data {
    ($data:expr, $values:ident => $result:expr) => {
        $crate::with_numbers!($data, $values => $result, {
            Bool($values) => $result,
            Bytes($values) => $result,
        })
    };
}

/// Runs one expression over the elements if they are numbers; booleans and texts have arms of their own.
#[macro_export]
macro_rules! with_numbers {
    ($data:expr, $values:ident => $result:expr, { $($other:ident($name:pat) => $otherwise:expr,)* }) => {
        match $data {
            $crate::Data::Uint8($values) => $result,
            $crate::Data::Uint16($values) => $result,
            $crate::Data::Uint32($values) => $result,
            $crate::Data::Uint64($values) => $result,
            $crate::Data::Int8($values) => $result,
            $crate::Data::Int16($values) => $result,
            $crate::Data::Int32($values) => $result,
            $crate::Data::Int64($values) => $result,
            $crate::Data::Fp16($values) => $result,
            $crate::Data::Bf16($values) => $result,
            $crate::Data::Fp32($values) => $result,
            $crate::Data::Fp64($values) => $result,
            $($crate::Data::$other($name) => $otherwise,)*
        }
    };
}

/// Runs one expression with `$variant` standing for the constructor of a datatype's numbers; booleans and texts have arms
/// of their own.
#[macro_export]
macro_rules! with_datatype {
    ($datatype:expr, $variant:ident => $result:expr, Bool => $bool:expr, Bytes => $bytes:expr) => {{
        use $crate::Data;
        match $datatype {
            wattle_core::Datatype::Uint8 => {
                let $variant = Data::Uint8;
                $result
            }
            wattle_core::Datatype::Uint16 => {
                let $variant = Data::Uint16;
                $result
            }
            wattle_core::Datatype::Uint32 => {
                let $variant = Data::Uint32;
                $result
            }
            wattle_core::Datatype::Uint64 => {
                let $variant = Data::Uint64;
                $result
            }
            wattle_core::Datatype::Int8 => {
                let $variant = Data::Int8;
                $result
            }
            wattle_core::Datatype::Int16 => {
                let $variant = Data::Int16;
                $result
            }
            wattle_core::Datatype::Int32 => {
                let $variant = Data::Int32;
                $result
            }
            wattle_core::Datatype::Int64 => {
                let $variant = Data::Int64;
                $result
            }
            wattle_core::Datatype::Fp16 => {
                let $variant = Data::Fp16;
                $result
            }
            wattle_core::Datatype::Bf16 => {
                let $variant = Data::Bf16;
                $result
            }
            wattle_core::Datatype::Fp32 => {
                let $variant = Data::Fp32;
                $result
            }
            wattle_core::Datatype::Fp64 => {
                let $variant = Data::Fp64;
                $result
            }
            wattle_core::Datatype::Bool => $bool,
            wattle_core::Datatype::Bytes => $bytes,
        }
    }};
}

impl Data {
    /// No elements of this type.
    pub fn empty(datatype: Datatype) -> Data {
        with_datatype!(datatype, numbers => numbers(Vec::new().into()), Bool => Data::Bool(vec![]), Bytes => Data::Bytes(vec![]))
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        with_data!(self, values => values.len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements.
    pub fn datatype(&self) -> Datatype {
        match self {
            Data::Bool(_) => Datatype::Bool,
            Data::Uint8(_) => Datatype::Uint8,
            Data::Uint16(_) => Datatype::Uint16,
            Data::Uint32(_) => Datatype::Uint32,
            Data::Uint64(_) => Datatype::Uint64,
            Data::Int8(_) => Datatype::Int8,
            Data::Int16(_) => Datatype::Int16,
            Data::Int32(_) => Datatype::Int32,
            Data::Int64(_) => Datatype::Int64,
            Data::Fp16(_) => Datatype::Fp16,
            Data::Bf16(_) => Datatype::Bf16,
            Data::Fp32(_) => Datatype::Fp32,
            Data::Fp64(_) => Datatype::Fp64,
            Data::Bytes(_) => Datatype::Bytes,
        }
    }

    /// The elements that these bytes are: little-endian numbers one after the other; booleans of one byte, 0 or 1; texts
    /// each behind its length as a little-endian `u32`, as in the binary extension of the Open Inference Protocol.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a part of an element, another boolean, or a text that is not UTF-8 or has a NUL.
    pub fn from_le_bytes(datatype: Datatype, bytes: Bytes) -> Result<Data> {
        let count = bytes.len();
        let part = || Error::InvalidInput(format!("{count} bytes are no whole number of {datatype} values"));
        Ok(with_datatype!(
            datatype,
            numbers => numbers(Values::from_bytes(bytes).ok_or_else(part)?),
            Bool => Data::Bool(bytes.iter().map(|byte| boolean(*byte)).collect::<Result<_>>()?),
            Bytes => Data::Bytes(texts(&bytes)?)
        ))
    }

    /// The elements as the bytes that [`Data::from_le_bytes`] reads; numbers without a copy.
    pub fn into_le_bytes(self) -> Bytes {
        with_numbers!(self, values => values.into_bytes(), {
            Bool(values) => values.into_iter().map(u8::from).collect::<Vec<u8>>().into(),
            Bytes(values) => {
                let mut bytes = BytesMut::with_capacity(values.iter().map(|text| 4 + text.len()).sum());
                for text in &values {
                    // A text came in a body or out of a model, both of which have far fewer bytes.
                    bytes.put_u32_le(u32::try_from(text.len()).unwrap_or(u32::MAX));
                    bytes.put_slice(text.as_bytes());
                }
                bytes.freeze()
            },
        })
    }

    /// The same elements in a form whose clones share the numbers.
    pub fn shared(self) -> Data {
        macro_rules! each {
            ($($variant:ident)*) => {
                match self {
                    $(Data::$variant(values) => Data::$variant(values.shared()),)*
                    Data::Bool(_) | Data::Bytes(_) => self,
                }
            };
        }
        each!(Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Fp16 Bf16 Fp32 Fp64)
    }

    /// The elements from `first` on, `count` of them.
    pub(crate) fn part(&self, first: usize, count: usize) -> Data {
        let range = first..first + count;
        macro_rules! each {
            ($($variant:ident)*) => {
                match self {
                    $(Data::$variant(values) => Data::$variant(values.slice(range)),)*
                    Data::Bool(values) => Data::Bool(values[range].to_vec()),
                    Data::Bytes(values) => Data::Bytes(values[range].to_vec()),
                }
            };
        }
        each!(Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Fp16 Bf16 Fp32 Fp64)
    }

    /// The elements of all, one after the other; `None` where the types differ, or there is nothing to join.
    pub(crate) fn concat<'a>(mut parts: impl Iterator<Item = &'a Data> + Clone) -> Option<Data> {
        let count = parts.clone().map(Data::len).sum();
        let first = parts.clone().next()?;
        macro_rules! each {
            ($($variant:ident)*) => {
                match first {
                    $(Data::$variant(_) => {
                        let mut all = Vec::with_capacity(count);
                        parts.try_for_each(|part| match part {
                            Data::$variant(values) => {
                                all.extend_from_slice(values);
                                Some(())
                            }
                            _ => None,
                        })?;
                        Data::$variant(all.into())
                    })*
                }
            };
        }
        Some(each!(Bool Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Fp16 Bf16 Fp32 Fp64 Bytes))
    }

    /// Whether both are the same but for a relative difference of fractions; values that are missing in both are the same.
    pub(crate) fn is_close_to(&self, other: &Data, tolerance: f64) -> bool {
        fn all<T: Copy + Into<f64>>(one: &[T], other: &[T], tolerance: f64) -> bool {
            let close = |(one, other): (&T, &T)| {
                let (one, other): (f64, f64) = ((*one).into(), (*other).into());
                let scale = one.abs().max(other.abs()).max(1.0);
                one == other || (one.is_nan() && other.is_nan()) || (one - other).abs() <= tolerance * scale
            };
            one.len() == other.len() && one.iter().zip(other).all(close)
        }
        match (self, other) {
            (Data::Fp16(one), Data::Fp16(other)) => all(one, other, tolerance.max(0.02)),
            (Data::Bf16(one), Data::Bf16(other)) => all(one, other, tolerance.max(0.05)),
            (Data::Fp32(one), Data::Fp32(other)) => all(one, other, tolerance),
            (Data::Fp64(one), Data::Fp64(other)) => all(one, other, tolerance),
            (one, other) => one == other,
        }
    }

    /// As many elements of the same type: fractions far above or far below these, and what a graph may look up somewhere in
    /// the reverse order.
    pub(crate) fn far_from(&self, above: bool) -> Data {
        let far = |value: f64| {
            let size = if value.is_finite() { value.abs() } else { 1.0 };
            if above { 3.3 * size + 2.7 } else { -2.1 * size - 1.3 }
        };
        fn each<T: Copy>(values: &[T], far: impl Fn(T) -> T) -> Values<T> {
            values.iter().map(|value| far(*value)).collect::<Vec<T>>().into()
        }
        match self {
            Data::Fp16(values) => Data::Fp16(each(values, |value| f16::from_f64(far(value.to_f64())))),
            Data::Bf16(values) => Data::Bf16(each(values, |value| bf16::from_f64(far(value.to_f64())))),
            Data::Fp32(values) => Data::Fp32(each(values, |value| far(f64::from(value)) as f32)),
            Data::Fp64(values) => Data::Fp64(each(values, far)),
            others => {
                let mut reversed = others.clone();
                with_numbers!(&mut reversed, numbers => numbers.as_vec_mut().reverse(), {
                    Bool(flags) => flags.reverse(),
                    Bytes(texts) => texts.reverse(),
                });
                reversed
            }
        }
    }

    /// The position of the first element that stands for a missing value: NaN, or an empty text.
    pub(crate) fn first_missing(&self) -> Option<usize> {
        match self {
            Data::Fp16(values) => values.iter().position(|value| value.is_nan()),
            Data::Bf16(values) => values.iter().position(|value| value.is_nan()),
            Data::Fp32(values) => values.iter().position(|value| value.is_nan()),
            Data::Fp64(values) => values.iter().position(|value| value.is_nan()),
            Data::Bytes(values) => values.iter().position(String::is_empty),
            _ => None,
        }
    }
}

fn boolean(byte: u8) -> Result<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::InvalidInput(format!("the byte {other} is no BOOL: send 0 or 1"))),
    }
}

fn texts(mut bytes: &[u8]) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let text = bytes.split_first_chunk().and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            rest.split_at_checked(length)
        });
        let Some((text, rest)) = text else {
            return Err(Error::InvalidInput(format!(
                "BYTES value {} is cut off: each stands behind its length, four bytes little-endian",
                texts.len()
            )));
        };
        texts.push(checked_text(text, texts.len())?.to_owned());
        bytes = rest;
    }
    Ok(texts)
}

fn checked_text(bytes: &[u8], position: usize) -> Result<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| Error::InvalidInput(format!("BYTES value {position} is not UTF-8 without NUL: send text")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_type_survives_its_bytes() {
        let all = [
            Data::Bool(vec![true, false]),
            Data::Uint8(vec![1, 255].into()),
            Data::Uint16(vec![1, u16::MAX].into()),
            Data::Uint32(vec![1, u32::MAX].into()),
            Data::Uint64(vec![1, u64::MAX].into()),
            Data::Int8(vec![-1, 1].into()),
            Data::Int16(vec![-1, 1].into()),
            Data::Int32(vec![-1, 1].into()),
            Data::Int64(vec![-1, i64::MIN].into()),
            Data::Fp16(vec![f16::from_f32(0.5), f16::from_f32(-2.0)].into()),
            Data::Bf16(vec![bf16::from_f32(0.5), bf16::from_f32(-2.0)].into()),
            Data::Fp32(vec![0.1, -2.0].into()),
            Data::Fp64(vec![0.1, f64::MAX].into()),
            Data::Bytes(vec!["é".into(), String::new()]),
        ];
        for data in all {
            let bytes = data.clone().into_le_bytes();
            if let Some(size) = data.datatype().size() {
                assert_eq!(bytes.len(), 2 * size);
            }
            assert_eq!(Data::from_le_bytes(data.datatype(), bytes).unwrap(), data);
            assert_eq!(data.clone().shared(), data);
            let halves = [data.part(0, 1), data.part(1, 1)];
            assert_eq!(Data::concat(halves.iter()).unwrap(), data);
        }
        assert!(Data::concat([Data::Bool(vec![]), Data::Uint8(vec![].into())].iter()).is_none());
    }

    #[test]
    fn broken_bytes_are_told() {
        let refusal = |datatype, bytes: &'static [u8]| {
            Data::from_le_bytes(datatype, Bytes::from_static(bytes)).unwrap_err().to_string()
        };
        assert!(refusal(Datatype::Fp32, b"12345").contains("5 bytes are no whole number of FP32"));
        assert!(refusal(Datatype::Bool, b"\x02").contains("no BOOL"));
        assert!(refusal(Datatype::Bytes, b"\xff\xff\xff\xffa").contains("value 0 is cut off"));
        assert!(refusal(Datatype::Bytes, b"\x01\0\0\0a\x01\0").contains("value 1 is cut off"));
        assert!(refusal(Datatype::Bytes, b"\x01\0\0\0\xff").contains("UTF-8"));
        assert!(refusal(Datatype::Bytes, b"\x01\0\0\0\0").contains("NUL"));
    }
}
