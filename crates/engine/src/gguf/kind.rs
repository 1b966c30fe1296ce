use std::fmt;

/// The type of a tensor's values. Quantised ones stand in blocks that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorKind(u32);

/// Number, name, values of a block, and bytes of a block, of every type of `ggml.h`.
const KINDS: [(u32, &str, u64, u64); 31] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
];

impl TensorKind {
    /// 32-bit floating point.
    pub const F32: TensorKind = TensorKind(0);
    /// 16-bit floating point of IEEE 754.
    pub const F16: TensorKind = TensorKind(1);
    /// 32 values of 8 bits that share a 16-bit scale.
    pub const Q8_0: TensorKind = TensorKind(8);
    /// The upper half of a 32-bit floating point number.
    pub const BF16: TensorKind = TensorKind(30);

    /// The type of this number; `None` if it is not known.
    pub(super) fn of_number(number: u32) -> Option<TensorKind> {
        KINDS.iter().any(|kind| kind.0 == number).then_some(TensorKind(number))
    }

    /// Its number in files.
    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// How many values a block has.
    pub fn block_values(self) -> u64 {
        self.entry().2
    }

    /// How many bytes so many values take, which are whole blocks; `None` if they are not, or are too many.
    pub fn bytes_of(self, values: u64) -> Option<u64> {
        let (_, _, block_values, block_bytes) = self.entry();
        if !values.is_multiple_of(block_values) {
            return None;
        }
        (values / block_values).checked_mul(block_bytes)
    }

    /// Its name, as people write it: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    fn entry(self) -> (u32, &'static str, u64, u64) {
        // Whoever has one had it from the table.
        KINDS.into_iter().find(|kind| kind.0 == self.0).unwrap_or(KINDS[0])
    }
}

impl fmt::Display for TensorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_stand_in_whole_blocks() {
        assert_eq!(TensorKind::F32.bytes_of(3), Some(12));
        assert_eq!(TensorKind::Q8_0.bytes_of(64), Some(68));
        assert_eq!(TensorKind::Q8_0.bytes_of(65), None);
        assert_eq!(TensorKind::F32.bytes_of(u64::MAX / 2), None);
        assert_eq!(TensorKind::of_number(12).unwrap().name(), "Q4_K");
        assert_eq!(TensorKind::of_number(4), None, "types that were given up are not read");
        assert!(KINDS.iter().map(|kind| kind.0).is_sorted());
    }
}
