//! The elements of a tensor, without a copy where they came from outside.

use std::{
    fmt,
    marker::PhantomData,
    ops::{Deref, Range},
};

use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes};

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian on the wire and are used as they come");

/// Elements of one type in row-major order: a vector of our own, or a part of bytes that somebody else owns too.
///
/// The second form is what makes a binary tensor's way from the socket to the engine free of copies, and a tensor's
/// clone cheap.
pub struct Values<T>(Form<T>);

/// A type whose every bit pattern of its size is a value.
pub trait Number: FromBytes + IntoBytes + Immutable + Copy + Send + Sync + 'static {}

impl<T: FromBytes + IntoBytes + Immutable + Copy + Send + Sync + 'static> Number for T {}

enum Form<T> {
    Owned(Vec<T>),
    /// Aligned for `T`, and a whole number of them.
    Shared(Bytes, PhantomData<T>),
}

impl<T: Number> Values<T> {
    /// The elements that these little-endian bytes are; `None` when they are no whole number of elements. They are
    /// copied (at once, not one by one) only where they are not aligned.
    pub fn from_bytes(bytes: Bytes) -> Option<Values<T>> {
        if !bytes.len().is_multiple_of(size_of::<T>()) {
            return None;
        }
        if bytes.as_ptr().addr().is_multiple_of(align_of::<T>()) {
            return Some(Values(Form::Shared(bytes, PhantomData)));
        }
        let mut values = vec![T::new_zeroed(); bytes.len() / size_of::<T>()];
        values.as_mut_bytes().copy_from_slice(&bytes);
        Some(Values(Form::Owned(values)))
    }

    /// The elements' little-endian bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Form::Owned(values) => Bytes::from_owner(AsBytes(values)),
            Form::Shared(bytes, _) => bytes,
        }
    }

    /// The same elements in the form whose clones share them.
    pub fn shared(self) -> Values<T> {
        Values(Form::Shared(self.into_bytes(), PhantomData))
    }

    /// The elements as a vector that can grow; copied first if others share them.
    pub fn as_vec_mut(&mut self) -> &mut Vec<T> {
        if let Form::Shared(bytes, _) = &self.0 {
            self.0 = Form::Owned(numbers(bytes).to_vec());
        }
        match &mut self.0 {
            Form::Owned(values) => values,
            Form::Shared(..) => unreachable!("the elements were copied just before"),
        }
    }

    /// Some of the elements; of the shared form without a copy.
    ///
    /// # Panics
    /// When the range leaves the elements.
    pub fn slice(&self, range: Range<usize>) -> Values<T> {
        let size = size_of::<T>();
        Values(match &self.0 {
            Form::Owned(values) => Form::Owned(values[range].to_vec()),
            Form::Shared(bytes, _) => Form::Shared(bytes.slice(range.start * size..range.end * size), PhantomData),
        })
    }
}

/// The numbers that bytes of the shared form are.
fn numbers<T: Number>(bytes: &[u8]) -> &[T] {
    match <[T]>::ref_from_bytes(bytes) {
        Ok(numbers) => numbers,
        Err(_) => unreachable!("shared bytes are aligned and whole numbers, as they were when they came"),
    }
}

/// Lets a vector own [`Bytes`].
struct AsBytes<T>(Vec<T>);

impl<T: Number> AsRef<[u8]> for AsBytes<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl<T: Number> Deref for Values<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Form::Owned(values) => values,
            Form::Shared(bytes, _) => numbers(bytes),
        }
    }
}

impl<T> From<Vec<T>> for Values<T> {
    fn from(values: Vec<T>) -> Values<T> {
        Values(Form::Owned(values))
    }
}

impl<T> FromIterator<T> for Values<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Values<T> {
        Values(Form::Owned(values.into_iter().collect()))
    }
}

impl<T: Clone> Clone for Values<T> {
    fn clone(&self) -> Values<T> {
        Values(match &self.0 {
            Form::Owned(values) => Form::Owned(values.clone()),
            Form::Shared(bytes, _) => Form::Shared(bytes.clone(), PhantomData),
        })
    }
}

impl<T: Number + PartialEq> PartialEq for Values<T> {
    fn eq(&self, other: &Values<T>) -> bool {
        self[..] == other[..]
    }
}

impl<T: Number + fmt::Debug> fmt::Debug for Values<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self[..].fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn aligned_bytes_are_used_where_they_are() {
        let bytes = Values::from(vec![1.0_f32, 2.0, 3.0]).into_bytes();
        let values = Values::<f32>::from_bytes(bytes.clone()).unwrap();
        assert_eq!(values[..], [1.0, 2.0, 3.0]);
        assert_eq!(values.as_ptr().cast::<u8>(), bytes.as_ptr());
        let part = values.slice(1..3);
        assert_eq!((&part[..], part.as_ptr()), (&[2.0, 3.0][..], values[1..].as_ptr()));
        assert_eq!(part.clone().as_ptr(), part.as_ptr());
    }

    #[test]
    fn bytes_that_are_not_aligned_are_copied_and_broken_ones_refused() {
        let mut bytes = vec![0_u8];
        bytes.extend_from_slice([5_i64, -6].as_bytes());
        let all = Bytes::from(bytes);
        let shifted =
            (0..8).map(|skip| all.slice(skip.min(1)..)).find(|bytes| !bytes.as_ptr().addr().is_multiple_of(8));
        assert_eq!(Values::<i64>::from_bytes(shifted.unwrap().slice(..16)).map(|values| values[0]), Some(5));
        assert!(Values::<i64>::from_bytes(all.slice(..15)).is_none());
    }
}
