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

    /// Adds `value * 2^exponent`. The bits of the term must lie within the accumulator, which
    /// reaches from 2^-576 to 2^575: products of FP8 or f32 values, f32 scales and alpha do.
    #[inline]
    pub(crate) fn add(&mut self, value: i128, exponent: i32) {
        if value == 0 {
            return;
        }
        let bit = (exponent - BASE) as u32;
        let (limb, shift) = ((bit / 64) as usize, bit % 64);
        let magnitude = value.unsigned_abs();
        let low = magnitude << shift;
        // Two shifts, since 128 - 0 would not be one.
        let high = ((magnitude >> 64) >> 1 >> (63 - shift)) as u64;
        let words = [low as u64, (low >> 64) as u64, high];
        let limbs = &mut self.limbs[limb..];
        if value > 0 { ripple(limbs, words, u64::overflowing_add) } else { ripple(limbs, words, u64::overflowing_sub) }
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
            // A product of two f32 values fills the upper 48 of 53 bits.
            self.add(value * i128::from(scale >> 5), exponent + scale_exponent + 5);
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
        for (i, limb) in magnitude.into_iter().enumerate() {
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

/// Carries `words` into the limbs, as far as there is a carry.
///
/// The slice ends where the accumulator does: words beyond it are zero, or the caller broke
/// [`Accumulator::add`]'s rule.
#[inline(always)]
fn ripple(limbs: &mut [u64], words: [u64; 3], step: impl Fn(u64, u64) -> (u64, bool)) {
    let mut carry = false;
    for (i, limb) in limbs.iter_mut().enumerate() {
        let word = if i < 3 { words[i] } else { 0 };
        if i >= 3 && !carry {
            return;
        }
        let (partial, first) = step(*limb, word);
        let (whole, second) = step(partial, u64::from(carry));
        *limb = whole;
        carry = first || second;
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
