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
#[inline(always)]
pub(super) const fn encode_f32(spec: &Spec, x: f32, rounding: Rounding, overflow: Overflow) -> u8 {
    let bits = x.to_bits();
    let unpacked = Unpacked {
        sign: ((bits >> 24) & 0x80) as u8,
        exponent: ((bits >> 23) & 0xFF) as i32 - 127,
        special: (bits >> 23) & 0xFF == 0xFF,
        fraction: (bits & 0x7F_FFFF) as u64,
        fraction_bits: 23,
    };
    round_pack(spec, &unpacked, rounding, overflow)
}

/// Encodes an f64. See [`crate::Fp8Format::encode_f64`].
#[inline(always)]
pub(super) const fn encode_f64(spec: &Spec, x: f64, rounding: Rounding, overflow: Overflow) -> u8 {
    let bits = x.to_bits();
    let unpacked = Unpacked {
        sign: ((bits >> 56) & 0x80) as u8,
        exponent: ((bits >> 52) & 0x7FF) as i32 - 1023,
        special: (bits >> 52) & 0x7FF == 0x7FF,
        fraction: bits & 0xF_FFFF_FFFF_FFFF,
        fraction_bits: 52,
    };
    round_pack(spec, &unpacked, rounding, overflow)
}

/// The fields of an IEEE 754 number: `(1 + fraction / 2^fraction_bits) * 2^exponent`, negative if
/// `sign` is 80 and not 00, or infinite or NaN if `special`.
///
/// Zero and the subnormals of f32 and f64 are not told apart from a normal number with the lowest
/// exponent field. That is harmless: all of them are below `2^-126`, and the coarsest rounding here
/// sees nothing that is smaller than 2^-32 of an FP8 last place, `2^-49`.
struct Unpacked {
    sign: u8,
    exponent: i32,
    special: bool,
    fraction: u64,
    fraction_bits: u32,
}

/// Rounds an exact value once and packs it.
#[inline(always)]
const fn round_pack(spec: &Spec, x: &Unpacked, rounding: Rounding, overflow: Overflow) -> u8 {
    if x.special {
        return if x.fraction == 0 { pack_overflow(spec, x.sign, overflow) } else { spec.nan };
    }
    let significand = x.fraction | 1 << x.fraction_bits;
    let grid = if x.exponent > spec.min_exponent() { x.exponent } else { spec.min_exponent() };
    // The last place is worth 2^(grid - m): the value is significand / 2^shift of those.
    let shift = x.fraction_bits - spec.mantissa_bits + (grid - x.exponent) as u32;
    // Units of a normal number carry the leading one, which counts as exponent field 1; a carry out
    // of the mantissa arrives in the exponent field by itself.
    let code = ((grid - spec.min_exponent()) as u64) << spec.mantissa_bits;
    let code = code + round_shift(significand, shift, rounding);
    if code <= spec.max_code as u64 {
        pack(spec, x.sign, code as u8)
    } else if matches!(rounding, Rounding::TowardZero) {
        pack(spec, x.sign, spec.max_code)
    } else {
        pack_overflow(spec, x.sign, overflow)
    }
}

/// `significand / 2^shift` rounded to an integer; `significand < 2^53`, `shift >= 20`.
#[inline(always)]
const fn round_shift(significand: u64, shift: u32, rounding: Rounding) -> u64 {
    // From 62 on, nothing reaches half a unit, and more shifting changes nothing.
    let near = if shift < 62 { shift } else { 62 };
    match rounding {
        Rounding::TowardZero => significand >> near,
        Rounding::NearestEven => {
            // Half a unit, less a little if the tie should go down: carries above the tie, and on
            // the tie where the unit is odd.
            let odd = (significand >> near) & 1;
            (significand + (1 << (near - 1)) - 1 + odd) >> near
        }
        Rounding::Stochastic { bits } => {
            // In 2^-32 of a unit, rounded down: what is below cannot carry, since bits has none.
            let fine = if shift <= 32 {
                significand << (32 - shift)
            } else if shift < 96 {
                significand >> (shift - 32)
            } else {
                0
            };
            (fine + bits as u64) >> 32
        }
    }
}

/// Joins sign and magnitude; formats without -0 have one zero.
#[inline(always)]
const fn pack(spec: &Spec, sign: u8, magnitude: u8) -> u8 {
    if spec.unsigned_zero && magnitude == 0 { 0 } else { sign | magnitude }
}

#[inline(always)]
const fn pack_overflow(spec: &Spec, sign: u8, overflow: Overflow) -> u8 {
    match overflow {
        Overflow::Saturate => sign | spec.max_code,
        Overflow::NonSaturating => sign | spec.overflow_code,
    }
}
