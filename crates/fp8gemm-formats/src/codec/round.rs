//! The one place where a number is rounded to FP8: [`round_pack`], and the two unpackings (f32,
//! f64) that lead to it.

use super::format::Spec;

/// How a value between two FP8 values becomes one of them.
///
/// Rounding is done as if the format's exponent went on without end; what exceeds the largest
/// finite value after that is overflow ([`Overflow`]). Subnormals are rounded on their own fixed
/// grid, never flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Rounding {
    /// To the nearest value, ties to the even mantissa: CUDA's `cvt.rn`, and the default.
    ///
    /// Overflow begins at the middle between the largest finite value and the next step of the
    /// unbounded grid, the middle itself included only where that step is the even one: E4M3 above
    /// 464 (464 itself gives 448), E5M2 from 61440, E4M3FNUZ from 248, E5M2FNUZ from 61440.
    #[default]
    NearestEven,
    /// Drop the bits that do not fit: the magnitude never grows.
    ///
    /// A finite value therefore never overflows: above the largest finite value it becomes the
    /// largest finite value, whatever [`Overflow`] says (IEEE 754-2019 section 7.4: overflow under
    /// roundTowardZero delivers the format's largest finite number). Infinity is no rounding
    /// result and still goes where [`Overflow`] sends it.
    TowardZero,
    /// Up or down at random in proportion to the distance, with random bits from the caller.
    ///
    /// The magnitude in units of its last place, `t = |x| / ulp`, becomes
    /// `floor(t + bits / 2^32)`, computed exactly. So a value already on the grid never changes,
    /// the result never decreases when `bits` grows, and with `bits` uniform over all of u32 the
    /// magnitude rounds up with probability `floor(fraction * 2^32) / 2^32`.
    ///
    /// Values between the largest finite value and the next step of the unbounded grid (E4M3:
    /// 448..480, E5M2: 57344..65536) overflow with that same probability; values from that step on
    /// always do.
    Stochastic {
        /// Random bits; for unbiased rounding, uniform and used for one value only.
        bits: u32,
    },
}

/// What becomes of infinities, and of values that round above the largest finite one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Overflow {
    /// The largest finite value of the same sign (CUDA's `satfinite`, its `__NV_SATFINITE`).
    #[default]
    Saturate,
    /// Infinity where the format has one (E5M2, `sign|7C`), else NaN: `sign|7F` in E4M3, `80` in
    /// the FNUZ formats (CUDA's `__NV_NOSAT`, ml_dtypes).
    NonSaturating,
}

/// Encodes an f32. See [`crate::Fp8Format::encode`].
pub(super) const fn encode_f32(spec: &Spec, x: f32, rounding: Rounding, overflow: Overflow) -> u8 {
    let bits = x.to_bits();
    let sign = ((bits >> 24) & 0x80) as u8;
    let field = (bits >> 23) & 0xFF;
    let fraction = (bits & 0x7F_FFFF) as u64;
    if field == 0xFF {
        return if fraction == 0 { pack_overflow(spec, sign, overflow) } else { spec.nan };
    }
    let (exponent, significand) = if field == 0 { (1, fraction) } else { (field as i32, fraction | 1 << 23) };
    round_pack(spec, sign, exponent - 150, significand, rounding, overflow)
}

/// Encodes an f64. See [`crate::Fp8Format::encode_f64`].
pub(super) const fn encode_f64(spec: &Spec, x: f64, rounding: Rounding, overflow: Overflow) -> u8 {
    let bits = x.to_bits();
    let sign = ((bits >> 56) & 0x80) as u8;
    let field = (bits >> 52) & 0x7FF;
    let fraction = bits & 0xF_FFFF_FFFF_FFFF;
    if field == 0x7FF {
        return if fraction == 0 { pack_overflow(spec, sign, overflow) } else { spec.nan };
    }
    let (exponent, significand) = if field == 0 { (1, fraction) } else { (field as i32, fraction | 1 << 52) };
    round_pack(spec, sign, exponent - 1075, significand, rounding, overflow)
}

/// Rounds the exact value `significand * 2^exponent` once and packs it with `sign` (00 or 80).
///
/// `significand` is below 2^53, so that half a unit in the last place is in reach of a 63-bit
/// shift whenever it matters.
const fn round_pack(
    spec: &Spec,
    sign: u8,
    exponent: i32,
    significand: u64,
    rounding: Rounding,
    overflow: Overflow,
) -> u8 {
    if significand == 0 {
        return pack(spec, sign, 0);
    }
    let leading = exponent + 63 - significand.leading_zeros() as i32;
    let grid = if leading > spec.min_exponent() { leading } else { spec.min_exponent() };
    // The last place is worth 2^(grid - m); the value is significand / 2^shift of those.
    let shift = grid - spec.mantissa_bits as i32 - exponent;
    let units = if shift <= 0 { significand << -shift } else { round_shift(significand, shift as u32, rounding) };
    // Units of a normal number carry the leading one, which counts as exponent field 1; a carry out
    // of the mantissa arrives in the exponent field by itself.
    let code = ((grid - spec.min_exponent()) as u64) << spec.mantissa_bits;
    let code = code + units;
    if code <= spec.max_code as u64 {
        pack(spec, sign, code as u8)
    } else if matches!(rounding, Rounding::TowardZero) {
        pack(spec, sign, spec.max_code)
    } else {
        pack_overflow(spec, sign, overflow)
    }
}

/// `significand / 2^shift` rounded to an integer; `shift > 0`, `significand < 2^53`.
const fn round_shift(significand: u64, shift: u32, rounding: Rounding) -> u64 {
    let (units, rest) =
        if shift < 64 { (significand >> shift, significand & ((1 << shift) - 1)) } else { (0, significand) };
    let up = match rounding {
        Rounding::TowardZero => false,
        Rounding::NearestEven => {
            // From 64 on, half a unit is at least 2^63 and out of the significand's reach.
            shift < 64 && {
                let half = 1 << (shift - 1);
                rest > half || (rest == half && units & 1 != 0)
            }
        }
        Rounding::Stochastic { bits } => {
            // floor(fraction * 2^32): fraction and bits carry into the next unit exactly when this
            // does, because bits is a whole number of 2^-32.
            let fraction = if shift <= 32 {
                rest << (32 - shift)
            } else if shift < 96 {
                rest >> (shift - 32)
            } else {
                0
            };
            fraction + bits as u64 >= 1 << 32
        }
    };
    units + up as u64
}

/// Joins sign and magnitude; formats without -0 have one zero.
const fn pack(spec: &Spec, sign: u8, magnitude: u8) -> u8 {
    if spec.unsigned_zero && magnitude == 0 { 0 } else { sign | magnitude }
}

const fn pack_overflow(spec: &Spec, sign: u8, overflow: Overflow) -> u8 {
    match overflow {
        Overflow::Saturate => sign | spec.max_code,
        Overflow::NonSaturating => sign | spec.overflow_code,
    }
}
