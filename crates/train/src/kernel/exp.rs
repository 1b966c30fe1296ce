//! Exponential, logarithm and sigmoid without branches, so that a loop over them becomes vector instructions.
//!
//! The polynomials and the split of ln 2 are those of fdlibm (Sun Microsystems, 1993: `e_exp.c`, `s_log1p.c`).

const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Below, e^x is taken to be e^-708, the smallest power that a normal double holds.
const LOWEST: f64 = -708.0;

/// Above, e^x is taken to be e^709.
const HIGHEST: f64 = 709.0;

/// Adding 1.5·2^52 rounds to an integer and leaves it in the low bits of the sum.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// e^x within 2 units in the last place for −708 ≤ x ≤ 709; beyond, the value at the nearer end. NaN stays NaN.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    const P1: f64 = 1.666_666_666_666_660_2e-1;
    const P2: f64 = -2.777_777_777_701_559_3e-3;
    const P3: f64 = 6.613_756_321_437_934e-5;
    const P4: f64 = -1.653_390_220_546_525_2e-6;
    const P5: f64 = 4.138_136_797_057_238_5e-8;
    // Comparisons rather than `max` and `min`, which would swallow NaN.
    let x = if x < LOWEST { LOWEST } else { x };
    let x = if x > HIGHEST { HIGHEST } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let high = x - k * LN2_HIGH;
    let low = k * LN2_LOW;
    let r = high - low;
    let t = r * r;
    let c = r - t * (P1 + t * (P2 + t * (P3 + t * (P4 + t * P5))));
    let y = 1.0 - ((low - (r * c) / (2.0 - c)) - high);
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    y * power
}

/// ln(1 + x) within 2 units in the last place for 0 ≤ x ≤ 1.
#[inline(always)]
pub fn log1p(x: f64) -> f64 {
    const SQRT_2_MINUS_1: f64 = std::f64::consts::SQRT_2 - 1.0;
    // Above √2 − 1 half the argument is taken, so that |f| stays small: 1 + x = 2 (1 + f).
    let halved = x > SQRT_2_MINUS_1;
    let f = if halved { 0.5 * (x - 1.0) } else { x };
    let k = if halved { 1.0 } else { 0.0 };
    log_of_parts(k, f)
}

/// ln(x) within 2 units in the last place for normal, positive x. NaN stays NaN.
#[inline(always)]
pub fn ln(x: f64) -> f64 {
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    // x = 2^k (1 + f) with √½ ≤ 1 + f < √2; the exponent is kept with its bias of 1023 until it is a double.
    let biased = x.to_bits().wrapping_add(ONE - SQRT_HALF) >> 52;
    let f = f64::from_bits(x.to_bits().wrapping_sub(biased.wrapping_sub(1023) << 52)) - 1.0;
    let k = f64::from_bits(biased.wrapping_add(ROUND.to_bits())) - (ROUND + 1023.0);
    log_of_parts(k, if x.is_nan() { x } else { f })
}

/// 1 / (1 + e^−z), with full relative precision in both tails.
#[inline(always)]
pub fn sigmoid(z: f64) -> f64 {
    let small = exp(-z.abs());
    let numerator = if z < 0.0 { small } else { 1.0 };
    numerator / (1.0 + small)
}

/// k ln 2 + ln(1 + f) for √½ ≤ 1 + f < √2.
#[inline(always)]
fn log_of_parts(k: f64, f: f64) -> f64 {
    const L1: f64 = 6.666_666_666_666_735e-1;
    const L2: f64 = 3.999_999_999_940_942e-1;
    const L3: f64 = 2.857_142_874_366_239e-1;
    const L4: f64 = 2.222_219_843_214_978_4e-1;
    const L5: f64 = 1.818_357_216_161_805e-1;
    const L6: f64 = 1.531_383_769_920_937_3e-1;
    const L7: f64 = 1.479_819_860_511_658_6e-1;
    let s = f / (2.0 + f);
    let z = s * s;
    let r = z * (L1 + z * (L2 + z * (L3 + z * (L4 + z * (L5 + z * (L6 + z * L7))))));
    let half_square = 0.5 * f * f;
    k * LN2_HIGH - ((half_square - (s * (half_square + r) + k * LN2_LOW)) - f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(got: f64, want: f64) -> u64 {
        got.to_bits().abs_diff(want.to_bits())
    }

    #[test]
    fn exp_is_within_two_ulps_of_the_standard_one() {
        let steps = 2_000_000;
        let mut worst = 0;
        for step in 0..=steps {
            let x = LOWEST + (HIGHEST - LOWEST) * f64::from(step) / f64::from(steps);
            worst = worst.max(ulps(exp(x), x.exp()));
            let small = (x / HIGHEST) * 1e-3;
            worst = worst.max(ulps(exp(small), small.exp()));
        }
        assert!(worst <= 2, "{worst} ulps");
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_is_bounded_and_keeps_nan() {
        assert_eq!(exp(f64::NEG_INFINITY), exp(-708.0));
        assert_eq!(exp(f64::INFINITY), exp(709.0));
        assert!(exp(-1e300) > 0.0 && exp(1e300).is_finite());
        assert!(exp(f64::NAN).is_nan() && sigmoid(f64::NAN).is_nan() && log1p(f64::NAN).is_nan());
    }

    #[test]
    fn log1p_is_within_two_ulps_of_the_standard_one() {
        let steps = 1_000_000;
        let mut worst = 0;
        for step in 0..=steps {
            let x = f64::from(step) / f64::from(steps);
            worst = worst.max(ulps(log1p(x), x.ln_1p()));
            let tiny = x * 1e-12;
            worst = worst.max(ulps(log1p(tiny), tiny.ln_1p()));
        }
        assert!(worst <= 2, "{worst} ulps");
    }

    #[test]
    fn ln_is_within_two_ulps_of_the_standard_one() {
        let mut worst = 0;
        for step in 0..1_000_000 {
            let near = 0.5 + f64::from(step) * 1.5e-6;
            worst = worst.max(ulps(ln(near), near.ln()));
            let far = 10f64.powf(f64::from(step) * 6e-4 - 300.0);
            worst = worst.max(ulps(ln(far), far.ln()));
        }
        assert!(worst <= 2, "{worst} ulps");
        assert_eq!(ln(1.0), 0.0);
        assert!(ln(f64::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_precise_in_both_tails() {
        for z in [-700.0f64, -40.0, -1.0, 0.0, 1.0, 40.0, 700.0] {
            let want = if z < 0.0 { z.exp() / (1.0 + z.exp()) } else { 1.0 / (1.0 + (-z).exp()) };
            assert!((sigmoid(z) - want).abs() <= 4e-16 * want, "{z}");
        }
    }
}
