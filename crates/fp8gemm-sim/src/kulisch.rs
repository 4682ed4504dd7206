//! A sum without rounding: a fixed-point integer wide enough for everything f32 products can be.
//!
//! The idea is Kulisch's long accumulator (U. Kulisch, "Computer Arithmetic and Validity", 2008):
//! every term is an integer times a power of two, so a wide enough integer holds any sum of them
//! exactly, and one rounding at the end gives the correctly rounded result. Here the integer is in
//! two's complement; additions ripple their carry only as far as it goes.

/// 64-bit limbs of the accumulator.
const LIMBS: usize = 18;

/// Weight of the lowest bit: `2^BASE`.
///
/// The smallest bit that is ever added is `2^-479`: products of two FP8 values (2^-32) with two
/// f32 scales and alpha (2^-149 each). [`Accumulator::times`] works limb by limb, which needs one
/// limb of room below.
const BASE: i32 = -576;

/// An exact sum, and what infinities and NaN made of it.
#[derive(Clone, Debug)]
pub(crate) struct Accumulator {
    /// Two's complement, least significant first.
    limbs: [u64; LIMBS],
    /// 0, or the sum of the terms that are not finite: infinity or NaN by IEEE rules.
    special: f64,
}

impl Accumulator {
    /// Exactly 0.
    pub(crate) const ZERO: Self = Self { limbs: [0; LIMBS], special: 0.0 };

    /// Adds `value * 2^exponent`. The bits of the term must lie within the accumulator, and
    /// `exponent` at most at 447: products of FP8 or f32 values, f32 scales and alpha do.
    #[inline]
    pub(crate) fn add(&mut self, value: i128, exponent: i32) {
        let bit = (exponent - BASE) as u32;
        let (limb, shift) = ((bit / 64) as usize, bit % 64);
        let low = (value as u128) << shift;
        // The third limb takes what was shifted out, and the sign. Two shifts, since 64 - 0 would
        // not be one.
        let high = (value >> 64 >> 1 >> (63 - shift)) as u64;
        let negative = value < 0;
        let (terms, above) = self.limbs[limb..].split_at_mut(3);
        let mut carry = false;
        for (limb, word) in terms.iter_mut().zip([low as u64, (low >> 64) as u64, high]) {
            let (partial, first) = limb.overflowing_add(word);
            let (whole, second) = partial.overflowing_add(u64::from(carry));
            *limb = whole;
            carry = first || second;
        }
        // All limbs above would get the sign (0 or -1) and the carry: mostly they cancel.
        if carry != negative {
            for limb in above {
                let (whole, more) = if negative { limb.overflowing_sub(1) } else { limb.overflowing_add(1) };
                *limb = whole;
                if !more {
                    break;
                }
            }
        }
    }

    /// Adds an f64 that is a product of f32 values (or a sum of few of them): any bit below
    /// `2^-576` or beyond `2^574` would be out of range.
    #[inline]
    pub(crate) fn add_f64(&mut self, x: f64) {
        if !x.is_finite() {
            self.special += x;
        } else if x != 0.0 {
            let (significand, exponent) = decompose(x);
            self.add(i128::from(significand), exponent);
        }
    }

    /// Adds `x * y`, of which `x` is an f32 and `y` a product of two.
    #[inline]
    pub(crate) fn add_product(&mut self, x: f32, y: f64) {
        if !x.is_finite() || !y.is_finite() {
            self.special += f64::from(x) * y;
        } else if x != 0.0 && y != 0.0 {
            let ((x, ex), (y, ey)) = (decompose(x.into()), decompose(y));
            // An f32 fills the upper 24 of 53 bits.
            self.add(i128::from(x >> 29) * i128::from(y), ex + 29 + ey);
        }
    }

    /// Adds `value * 2^exponent * scale`, of which `scale` is a product of two f32 values. A scale
    /// that is not finite adds nothing: only the caller knows what it was multiplied with.
    #[inline]
    pub(crate) fn add_scaled(&mut self, value: i128, exponent: i32, scale: f64) {
        if scale != 0.0 && scale.is_finite() {
            let (scale, scale_exponent) = decompose(scale);
            // A product of two f32 values has at most 48 bits between its first and last one.
            let empty = scale.trailing_zeros();
            self.add(value * i128::from(scale >> empty), exponent + scale_exponent + empty as i32);
        }
    }

    /// The sum times an f32, exactly.
    pub(crate) fn times(&self, factor: f32) -> Self {
        let special = if self.special == 0.0 && factor.is_finite() {
            0.0
        } else {
            // Infinity times zero is NaN on either side.
            f64::from(factor) * if self.special == 0.0 { self.to_f64() } else { self.special }
        };
        let mut product = Self { special, ..Self::ZERO };
        if special != 0.0 || factor == 0.0 {
            return product;
        }
        let (factor, exponent) = decompose(factor.into());
        let factor = i128::from(factor >> 29);
        let (negative, magnitude) = self.sign_magnitude();
        for (i, limb) in magnitude.into_iter().enumerate().filter(|(_, limb)| *limb != 0) {
            let term = i128::from(limb) * if negative { -factor } else { factor };
            product.add(term, BASE + 64 * i as i32 + exponent + 29);
        }
        product
    }

    fn sign_magnitude(&self) -> (bool, [u64; LIMBS]) {
        let negative = self.limbs[LIMBS - 1] >> 63 == 1;
        let mut magnitude = self.limbs;
        if negative {
            let mut carry = true;
            for limb in &mut magnitude {
                (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
            }
        }
        (negative, magnitude)
    }

    /// The sum rounded once, to nearest even. An exact zero is +0; NaN is [`f64::NAN`].
    ///
    /// No result is subnormal or overflows: the accumulator lies well inside f64's range.
    pub(crate) fn to_f64(&self) -> f64 {
        if self.special != 0.0 {
            return if self.special.is_nan() { f64::NAN } else { self.special };
        }
        let (negative, limbs) = self.sign_magnitude();
        let Some(top) = limbs.iter().rposition(|limb| *limb != 0) else { return 0.0 };
        // The upper 64 significant bits, the last of which also stands for all bits below.
        let lead = limbs[top].leading_zeros();
        let below = if top > 0 { limbs[top - 1] } else { 0 };
        let mut significand = limbs[top] << lead;
        let mut lost = below;
        if lead > 0 {
            significand |= below >> (64 - lead);
            lost = below << lead;
        }
        let sticky = lost != 0 || limbs[..top.saturating_sub(1)].iter().any(|limb| *limb != 0);
        significand |= u64::from(sticky);
        // u64 to f64 rounds to nearest even; the scaling by a power of two is exact.
        let exponent = BASE + 64 * top as i32 - lead as i32;
        let x = significand as f64 * power_of_two(exponent);
        if negative { -x } else { x }
    }
}

/// `2^exponent` for exponents of normal f64 values.
pub(crate) fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

/// A finite, normal, non-zero f64 as signed significand of 53 bits and exponent. Every f32 and
/// every product of two or three f32 values is normal in f64.
#[inline(always)]
fn decompose(x: f64) -> (i64, i32) {
    let bits = x.to_bits();
    let magnitude = (bits & ((1 << 52) - 1) | 1 << 52) as i64;
    let exponent = (bits >> 52 & 0x7FF) as i32 - 1075;
    (if x < 0.0 { -magnitude } else { magnitude }, exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(terms: &[(i128, i32)]) -> Accumulator {
        let mut sum = Accumulator::ZERO;
        terms.iter().for_each(|(value, exponent)| sum.add(*value, *exponent));
        sum
    }

    /// Breaks if the only rounding is not to nearest even: ties, and ties broken by a bit hundreds
    /// of places below, of either sign.
    #[test]
    fn rounds_once_to_nearest_even() {
        let one = 1i128 << 52;
        for sign in [1, -1] {
            let round = |terms: &[(i128, i32)]| {
                sum(&terms.iter().map(|(v, e)| (sign * v, *e)).collect::<Vec<_>>()).to_f64() * sign as f64
            };
            let above = 1.0 + f64::EPSILON;
            assert_eq!(round(&[(one, -52), (1, -53)]), 1.0);
            assert_eq!(round(&[(one, -52), (1, -53), (1, -479)]), above);
            assert_eq!(round(&[(one + 1, -52), (1, -53)]), 1.0 + 2.0 * f64::EPSILON);
            assert_eq!(round(&[(one + 1, -52), (1, -53), (-1, -479)]), above);
            assert_eq!(round(&[(1, 400), (1, 347), (1, 0)]), 2f64.powi(400) * above);
        }
        assert_eq!(Accumulator::ZERO.to_f64().to_bits(), 0);
    }

    /// Breaks if a carry or a borrow is lost between limbs, at any alignment of the term.
    #[test]
    fn carries_cross_limbs() {
        for exponent in -479..300 {
            for value in [1, i128::from(u64::MAX), i128::MAX >> 7, -(1i128 << 119), -1] {
                let mut sum = sum(&[(value, exponent), (1, 440), (-1, -479)]);
                sum.add(-1, 440);
                sum.add(1, -479);
                assert_eq!(sum.to_f64(), value as f64 * 2f64.powi(exponent), "{value} * 2^{exponent}");
                sum.add(-value, exponent);
                assert_eq!(sum.limbs, [0; LIMBS]);
            }
        }
    }

    /// Breaks if a sum times a number loses a bit: both ends of the range are kept apart by
    /// subtracting the large part again.
    #[test]
    fn times_is_exact() {
        for factor in [3.0, -0.1, f32::from_bits(1), f32::MAX] {
            let mut product = sum(&[(1, 300), (1, -330)]).times(factor);
            product.add_product(-factor, 2f64.powi(300));
            assert_eq!(product.to_f64(), f64::from(factor) * 2f64.powi(-330));
        }
        assert_eq!(sum(&[(5, 0)]).times(0.0).to_f64().to_bits(), 0);
    }

    /// Breaks if infinities and NaN do not follow IEEE 754.
    #[test]
    fn specials_stick() {
        let with = |terms: &[f64]| {
            let mut sum = sum(&[(1, 10)]);
            terms.iter().for_each(|x| sum.add_f64(*x));
            sum
        };
        let infinity = f64::INFINITY;
        assert_eq!(with(&[infinity, 1.0]).to_f64(), infinity);
        assert_eq!(with(&[-infinity]).times(-2.0).to_f64(), infinity);
        assert_eq!(with(&[infinity, -infinity]).to_f64().to_bits(), f64::NAN.to_bits());
        assert!(with(&[infinity]).times(0.0).to_f64().is_nan());
        assert!(Accumulator::ZERO.times(f32::INFINITY).to_f64().is_nan());
        assert_eq!(with(&[]).times(f32::NEG_INFINITY).to_f64(), -infinity);
        let mut sum = with(&[]);
        sum.add_product(f32::INFINITY, 0.0);
        assert!(sum.to_f64().is_nan());
    }
}
