//! [`E8m0`]: the power-of-two scale of the OCP microscaling formats.

use core::fmt;

use super::Overflow;

/// A power of two in one byte, without sign: `2^(code - 127)`, and NaN for `FF`.
///
/// This is E8M0 of the OCP Microscaling Formats (MX) Specification 1.0, section 5.4.1; CUDA and
/// PTX call it UE8M0, ml_dtypes `float8_e8m0fnu`. There is no zero and no infinity: the smallest
/// value is `2^-127` (code 0), the largest `2^127` (`FE`).
///
/// `2^-127` is below the smallest normal f32, so code 0 decodes to the f32 subnormal `00400000`.
/// Shifting the code into the exponent field of an f32, as some kernels do, gives 0 instead.
///
/// ```
/// use fp8gemm_formats::{E8m0, E8m0Rounding, Overflow};
///
/// let scale = 1.76 / 448.0;
/// assert_eq!(E8m0::from_f32(scale, E8m0Rounding::Up, Overflow::Saturate).to_f32(), 2f32.powi(-7));
/// assert_eq!(E8m0::from_f32(scale, E8m0Rounding::Down, Overflow::Saturate).to_f32(), 2f32.powi(-8));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct E8m0(u8);

/// How a number between two powers of two becomes one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum E8m0Rounding {
    /// The largest power of two not above the magnitude, `2^floor(log2 |x|)`: PTX's
    /// `cvt.rz.ue8m0x2`, and the last step of the OCP rule that torchao calls FLOOR.
    Down,
    /// The smallest power of two not below the magnitude, `2^ceil(log2 |x|)`: PTX's
    /// `cvt.rp.ue8m0x2`, the "round up" rule of cuBLAS, cuDNN and TransformerEngine. Never clips.
    #[default]
    Up,
    /// To the nearest, the middle `1.5 * 2^e` going up: what torch's cast to `float8_e8m0fnu`
    /// computes (`c10/util/Float8_e8m0fnu.h`@7e752ea). One quirk of that source is kept:
    /// everything strictly between `2^-127` and `2^-126`, f32 subnormals, goes up to `2^-126`.
    Nearest,
}

impl E8m0 {
    /// The smallest value, `2^-127`.
    pub const MIN: Self = Self(0x00);
    /// The largest value, `2^127`.
    pub const MAX: Self = Self(0xFE);
    /// 1.
    pub const ONE: Self = Self(127);
    /// The one NaN, `FF`.
    pub const NAN: Self = Self(0xFF);
    /// What is subtracted from the code.
    pub const BIAS: i32 = 127;

    /// The scale with this code; every byte is a code.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The code.
    #[inline]
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The power of two that `|x|` rounds to; the sign of `x` is ignored.
    ///
    /// | `x` | code |
    /// |---|---|
    /// | NaN | `FF` |
    /// | below `2^-127`, zero included | `00`, that is `2^-127`: there is no smaller value |
    /// | infinite, or rounds above `2^127` | `FE` if saturating, else `FF` |
    ///
    /// With [`E8m0Rounding::Up`] and [`Overflow::Saturate`] these are the bits of
    /// TransformerEngine's `float_to_e8m0` (`common/util/ptx.cuh`) where it does without the PTX
    /// instruction `cvt.rp.satfinite.ue8m0x2`; with [`E8m0Rounding::Nearest`] and
    /// [`Overflow::NonSaturating`], those of torch's cast.
    pub const fn from_f32(x: f32, rounding: E8m0Rounding, overflow: Overflow) -> Self {
        let bits = x.to_bits() & 0x7FFF_FFFF;
        if bits > 0x7F80_0000 {
            return Self::NAN;
        }
        let field = bits >> 23;
        let fraction = bits & 0x7F_FFFF;
        let up = match rounding {
            E8m0Rounding::Down => false,
            // In the subnormal field, code 0 is the fraction 400000.
            E8m0Rounding::Up => fraction > if field == 0 { 0x40_0000 } else { 0 },
            E8m0Rounding::Nearest => fraction > 0x40_0000 || (fraction == 0x40_0000 && field > 0),
        };
        let code = field + up as u32;
        if code < 0xFF {
            return Self(code as u8);
        }
        match overflow {
            Overflow::Saturate => Self::MAX,
            Overflow::NonSaturating => Self::NAN,
        }
    }

    /// The scale that is exactly `x`, if there is one: a positive power of two from `2^-127` to
    /// `2^127`.
    pub const fn exact(x: f32) -> Option<Self> {
        let code = Self::from_f32(x, E8m0Rounding::Down, Overflow::NonSaturating);
        if !code.is_nan() && code.to_f32().to_bits() == x.to_bits() { Some(code) } else { None }
    }

    /// The value, exact: every E8M0 value is an f32 value. NaN gives the f32 `7FFFFFFF`.
    #[inline]
    pub const fn to_f32(self) -> f32 {
        f32::from_bits(match self.0 {
            0 => 0x0040_0000,
            0xFF => 0x7FFF_FFFF,
            code => (code as u32) << 23,
        })
    }

    /// The value, exact. NaN gives the f64 `7FFFFFFF_FFFFFFFF`.
    #[inline]
    pub const fn to_f64(self) -> f64 {
        if self.is_nan() { f64::from_bits(0x7FFF_FFFF_FFFF_FFFF) } else { self.to_f32() as f64 }
    }

    /// `log2` of the value, or `None` for NaN.
    #[inline]
    pub const fn exponent(self) -> Option<i32> {
        if self.is_nan() { None } else { Some(self.0 as i32 - Self::BIAS) }
    }

    /// Whether this is the NaN. Everything else is finite, positive and a power of two.
    #[inline]
    pub const fn is_nan(self) -> bool {
        self.0 == 0xFF
    }
}

impl From<E8m0> for f32 {
    /// [`E8m0::to_f32`]: exact.
    fn from(x: E8m0) -> Self {
        x.to_f32()
    }
}

impl From<E8m0> for f64 {
    /// [`E8m0::to_f64`]: exact.
    fn from(x: E8m0) -> Self {
        x.to_f64()
    }
}

impl fmt::Debug for E8m0 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for E8m0 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exponent() {
            Some(exponent) => f.pad(&format!("2^{exponent}")),
            None => f.pad("NaN"),
        }
    }
}
