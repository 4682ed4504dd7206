//! Rounding an exact value once: the only way out of the model.
//!
//! The model's sums are exact integers with an exponent; [`pack`] is the single place where one
//! becomes a floating-point number again, and the casts here are the single place where an f32
//! becomes bf16 or f16. NaN leaves every function as the GPU's canonical NaN.

use half::{bf16, f16};

/// The NaN that Hopper's tensor core, its f32 arithmetic and its casts give: sign 0, all ones.
pub const NAN_F32: u32 = 0x7FFF_FFFF;

/// The same in bf16 and f16.
pub const NAN_16: u16 = 0x7FFF;

/// How an exact value is fitted into fewer bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// Drop the magnitude's low bits.
    TowardZero,
    /// To the nearest, ties to the even neighbour.
    NearestEven,
}

/// A binary floating-point layout of up to 32 bits, as a target of [`pack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    /// Exponent bits.
    pub(crate) exponent_bits: u32,
    /// Stored fraction bits.
    pub(crate) stored_bits: u32,
    /// Fraction bits that a result can have; the rest of the stored ones are zero (13 for E8M13).
    pub(crate) kept_bits: u32,
}

impl Layout {
    pub(crate) const F16: Self = Self { exponent_bits: 5, stored_bits: 10, kept_bits: 10 };

    pub(crate) const fn f32_with(kept_bits: u32) -> Self {
        Self { exponent_bits: 8, stored_bits: 23, kept_bits }
    }

    const fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }
}

/// Rounds `(-1)^negative * magnitude * 2^exponent` to `layout`; zero results are +0.
///
/// Subnormal results are kept (their grid is `2^(1 - bias - kept_bits)`). A magnitude of `2^(emax +
/// 1)` or more becomes infinity under both roundings: the tensor core's truncation is not IEEE
/// 754's, which would stop at the largest finite value (MMA-Sim 2.1.1, `ldexp_and_normalize`; FP8
/// operands cannot get there).
pub(crate) fn pack(negative: bool, magnitude: u64, exponent: i32, layout: Layout, rounding: Rounding) -> u32 {
    if magnitude == 0 {
        return 0;
    }
    let bias = layout.bias();
    let kept = layout.kept_bits as i32;
    let top = magnitude.ilog2() as i32 + exponent;
    // The grid: `kept` bits below the leading one, but never finer than the subnormals' grid.
    let grid = top.max(1 - bias) - kept;
    let drop = grid - exponent;
    let mut units = if drop <= 0 {
        magnitude << (-drop)
    } else if drop > 64 {
        0
    } else {
        let whole = magnitude.checked_shr(drop as u32).unwrap_or(0);
        let rest = magnitude & (u64::MAX >> (64 - drop));
        let half = 1u64 << (drop - 1);
        let up = rounding == Rounding::NearestEven && (rest > half || (rest == half && whole & 1 == 1));
        whole + u64::from(up)
    };
    let mut grid = grid;
    if units >> (kept + 1) != 0 {
        units >>= 1;
        grid += 1;
    }
    if units == 0 {
        return 0;
    }
    let hidden = 1u64 << kept;
    let biased = if units >= hidden { grid + kept + bias } else { 0 };
    let infinity = (1 << layout.exponent_bits) - 1;
    let fraction = (units & (hidden - 1)) << (layout.stored_bits - layout.kept_bits);
    let word = if biased < infinity {
        ((biased as u32) << layout.stored_bits) | fraction as u32
    } else {
        (infinity as u32) << layout.stored_bits
    };
    word | (u32::from(negative) << (layout.exponent_bits + layout.stored_bits))
}

/// The f32 as the GPU would have left it: any NaN becomes [`NAN_F32`].
#[inline(always)]
pub(crate) fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(NAN_F32) } else { x }
}

/// `cvt.rn.bf16.f32`: nearest even, overflow to infinity, any NaN to `0x7FFF`.
pub fn f32_to_bf16(x: f32) -> bf16 {
    if x.is_nan() { bf16::from_bits(NAN_16) } else { bf16::from_f32(x) }
}

/// `cvt.rn.f16.f32`: nearest even, overflow to infinity, any NaN to `0x7FFF`.
pub fn f32_to_f16(x: f32) -> f16 {
    if x.is_nan() { f16::from_bits(NAN_16) } else { f16::from_f32(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F32: Layout = Layout::f32_with(23);

    fn exact(x: f64) -> (bool, u64, i32) {
        let bits = x.to_bits();
        let biased = (bits >> 52 & 0x7FF) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let (magnitude, exponent) = if biased == 0 { (fraction, -1074) } else { (fraction | 1 << 52, biased - 1075) };
        (x.is_sign_negative(), magnitude, exponent)
    }

    fn pack_f64(x: f64, layout: Layout, rounding: Rounding) -> u32 {
        let (negative, magnitude, exponent) = exact(x);
        pack(negative, magnitude, exponent, layout, rounding)
    }

    /// Breaks if the rounding exit disagrees with the hardware's f64 -> f32 conversion, which IEEE
    /// 754 defines; covers normals, subnormals, ties, overflow and underflow.
    #[test]
    fn nearest_even_is_the_hardware_cast() {
        let mut state = 1u64;
        for i in 0..2_000_000u64 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let exponent = 1023 - 152 + (state >> 55) % 284;
            let mantissa = match i % 3 {
                0 => (state >> 8) & ((1 << 52) - 1),
                1 => (state >> 8) & ((1 << 52) - 1) & !((1 << 28) - 1),
                _ => ((state >> 8) & ((1 << 52) - 1) & !((1 << 29) - 1)) | (1 << 28) | (state & 1),
            };
            let x = f64::from_bits((state & 1) << 63 | exponent << 52 | mantissa);
            let want = x as f32;
            // The model never gives -0; a negative underflow is the only place where that shows.
            let want = if want == 0.0 { 0 } else { want.to_bits() };
            assert_eq!(pack_f64(x, F32, Rounding::NearestEven), want, "{x:e}");
        }
    }

    /// Breaks if f16 results (the f16 accumulator) round differently from exact f32 -> f16.
    #[test]
    fn f16_agrees_with_every_f32_tie() {
        for code in 0..0x7C00u16 {
            let low = f16::from_bits(code).to_f64();
            let high = if code == 0x7BFF { 65536.0 } else { f16::from_bits(code + 1).to_f64() };
            for x in [low, (low + high) / 2.0, low + (high - low) * 0.25, low + (high - low) * 0.75] {
                let want = f16::from_f32(x as f32).to_bits();
                assert_eq!(pack_f64(x, Layout::F16, Rounding::NearestEven), u32::from(want), "{x:e}");
            }
        }
    }

    /// Breaks if E8M13 keeps bits below its grid, loses subnormals, or rounds up.
    #[test]
    fn e8m13_truncates_on_its_grid() {
        let rz = |x: f32| pack_f64(f64::from(x), Layout::f32_with(13), Rounding::TowardZero);
        for bits in [0x3F80_03FF, 0xBF80_07FF, 0x007F_FFFF, 0x0000_03FF, 0x0000_0400, 0x7F7F_FFFF, 0x8000_0401] {
            let want = bits & !0x3FF;
            let want = if want & 0x7FFF_FFFF == 0 { 0 } else { want };
            assert_eq!(rz(f32::from_bits(bits)), want, "{bits:08X}");
        }
        assert_eq!(pack(false, 1, 128, Layout::f32_with(13), Rounding::TowardZero), 0x7F80_0000);
        assert_eq!(pack(true, u64::from(u32::MAX), 96, F32, Rounding::TowardZero), 0xFF7F_FFFF);
        assert_eq!(pack(true, 1, 130, F32, Rounding::NearestEven), 0xFF80_0000);
    }

    /// Breaks if a cast lets a NaN payload through: the GPU never does.
    #[test]
    fn casts_canonicalise_nan() {
        for bits in [0x7F80_0001, 0xFFC1_2345, 0x7FFF_FFFF] {
            assert_eq!(f32_to_bf16(f32::from_bits(bits)).to_bits(), NAN_16);
            assert_eq!(f32_to_f16(f32::from_bits(bits)).to_bits(), NAN_16);
            assert_eq!(canonical(f32::from_bits(bits)).to_bits(), NAN_F32);
        }
    }
}
