//! One lane of a bulk conversion: the arithmetic of the scalar codecs without a branch, so that a
//! loop over it becomes vector instructions.
//!
//! Every function here has a scalar counterpart in `codec` and must give its bits; format and
//! rounding are constants, so that each combination compiles to straight-line code. The format
//! constant `F` is the format's place in [`Fp8Format::ALL`].

use half::{bf16, f16};

use crate::codec::{Fp8Format, Overflow, Spec};

/// Roundings as constants for the compiler.
pub(super) const NEAREST: u8 = 0;
pub(super) const TOWARD_ZERO: u8 = 1;
pub(super) const STOCHASTIC: u8 = 2;

const F32_INFINITY: u32 = 0x7F80_0000;
const F64_INFINITY: u64 = 0x7FF0_0000_0000_0000;

const fn spec_of(format: usize) -> &'static Spec {
    Fp8Format::ALL[format].spec()
}

/// Magnitude codes for what does not fit, the same for all lanes of a call.
#[derive(Clone, Copy)]
pub(super) struct Edges {
    /// For a finite value that rounds above the largest.
    overflow: u32,
    /// For an infinity.
    infinite: u32,
}

impl Edges {
    pub(super) fn new(format: Fp8Format, rounding: u8, overflow: Overflow) -> Self {
        let spec = format.spec();
        let infinite = u32::from(match overflow {
            Overflow::Saturate => spec.max_code,
            Overflow::NonSaturating => spec.overflow_code,
        });
        // Rounding toward zero ends at the largest finite value.
        let overflow = if rounding == TOWARD_ZERO { u32::from(spec.max_code) } else { infinite };
        Self { overflow, infinite }
    }
}

/// A number that can be encoded.
pub(super) trait Source: Copy {
    /// The FP8 code; `random` matters to [`STOCHASTIC`] only.
    fn encode<const F: usize, const R: u8>(self, random: u32, edges: Edges) -> u8;
}

impl Source for f32 {
    #[inline(always)]
    fn encode<const F: usize, const R: u8>(self, random: u32, edges: Edges) -> u8 {
        encode_32::<F, R>(self.to_bits(), random, edges)
    }
}

impl Source for bf16 {
    #[inline(always)]
    fn encode<const F: usize, const R: u8>(self, random: u32, edges: Edges) -> u8 {
        encode_32::<F, R>(u32::from(self.to_bits()) << 16, random, edges)
    }
}

impl Source for f16 {
    #[inline(always)]
    fn encode<const F: usize, const R: u8>(self, random: u32, edges: Edges) -> u8 {
        encode_32::<F, R>(widen_f16(self.to_bits()), random, edges)
    }
}

impl Source for f64 {
    #[inline(always)]
    fn encode<const F: usize, const R: u8>(self, random: u32, edges: Edges) -> u8 {
        encode_64::<F, R>(self.to_bits(), random, edges)
    }
}

/// The f32 bits of an f16, exact.
#[inline(always)]
fn widen_f16(bits: u16) -> u32 {
    let size = u32::from(bits & 0x7FFF) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    let normal = size + (112 << 23);
    // A subnormal is its fraction of 2^-14: make that 2^-14 * (1 + fraction), take 2^-14 away.
    let subnormal = (f32::from_bits(size + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let finite = if size < 1 << 23 { subnormal } else { normal };
    sign | if size >= 31 << 23 { size | F32_INFINITY } else { finite }
}

/// Encodes f32 bits.
#[inline(always)]
fn encode_32<const F: usize, const R: u8>(bits: u32, random: u32, edges: Edges) -> u8 {
    let spec = const { spec_of(F) };
    let min_field = const { (127 + spec_of(F).min_exponent()) as u32 };
    let dropped = const { 23 - spec_of(F).mantissa_bits };
    let size = bits & 0x7FFF_FFFF;
    let magnitude = if R == NEAREST {
        // Nothing from the power of two above the largest finite value on can come back in range.
        let ceiling = const { spec_of(F).ceiling() };
        let clamped = size.min(ceiling);
        let power = (clamped & F32_INFINITY).max(min_field << 23);
        // Adding 2^(23-m) times the value's own power of two puts the last place of FP8 into the
        // last place of the f32 sum, where the addition rounds it to nearest even.
        let anchor = power + (dropped << 23);
        let sum = f32::from_bits(anchor) + f32::from_bits(clamped);
        (sum.to_bits() - anchor) + ((power - (min_field << 23)) >> dropped)
    } else {
        // f32 subnormals and zero get a leading one that they do not have; they are so far below
        // the last place that it is shifted out of the fraction's 32 bits, too.
        let field = size >> 23;
        let significand = (size & 0x7F_FFFF) | 1 << 23;
        let grid = field.max(min_field);
        let shift = dropped + (grid - field);
        let units = significand >> shift.min(31);
        let carry = if R == STOCHASTIC {
            let left = 32_u32.saturating_sub(shift) & 31;
            let right = shift.saturating_sub(32).min(31);
            // The units above the fraction leave at the top.
            let fraction = (significand << left) >> right;
            u32::from(fraction.checked_add(random).is_none())
        } else {
            0
        };
        ((grid - min_field) << spec.mantissa_bits) + units + carry
    };
    finish::<F, R>(magnitude, size == F32_INFINITY, size > F32_INFINITY, (bits >> 24) & 0x80, edges)
}

/// Encodes f64 bits.
#[inline(always)]
fn encode_64<const F: usize, const R: u8>(bits: u64, random: u32, edges: Edges) -> u8 {
    let spec = const { spec_of(F) };
    let min_field = const { (1023 + spec_of(F).min_exponent()) as u64 };
    let dropped = const { (52 - spec_of(F).mantissa_bits) as u64 };
    let size = bits & 0x7FFF_FFFF_FFFF_FFFF;
    let field = size >> 52;
    let significand = (size & 0xF_FFFF_FFFF_FFFF) | 1 << 52;
    let grid = field.max(min_field);
    // At 62 the 53-bit significand is below 2^-9 units: to every rounding (a fraction of 32 bits
    // apart, below) the same as any longer shift.
    let far = dropped + (grid - field);
    let shift = far.min(62);
    let up = match R {
        NEAREST => {
            // Half a unit less the tie's share: carries exactly above the tie, or on it if odd.
            let odd = (significand >> shift) & 1;
            (1 << (shift - 1)) - 1 + odd
        }
        _ => 0,
    };
    let units = (significand + up) >> shift;
    let carry = if R == STOCHASTIC {
        let fraction = (significand >> (far - 32).min(63)) as u32;
        u64::from(fraction.checked_add(random).is_none())
    } else {
        0
    };
    let magnitude = ((grid - min_field) << spec.mantissa_bits) + units + carry;
    finish::<F, R>(magnitude as u32, size == F64_INFINITY, size > F64_INFINITY, ((bits >> 56) & 0x80) as u32, edges)
}

/// Overflow, sign, and the special values.
#[inline(always)]
fn finish<const F: usize, const R: u8>(magnitude: u32, infinite: bool, nan: bool, sign: u32, edges: Edges) -> u8 {
    let spec = const { spec_of(F) };
    let mut magnitude = if magnitude > u32::from(spec.max_code) { edges.overflow } else { magnitude };
    if R == TOWARD_ZERO {
        magnitude = if infinite { edges.infinite } else { magnitude };
    }
    let signed = if spec.unsigned_zero && magnitude == 0 { 0 } else { sign | magnitude };
    (if nan { u32::from(spec.nan) } else { signed }) as u8
}

/// A number that can be decoded into.
pub(super) trait Destination: Copy {
    /// The value of the FP8 code.
    fn decode<const F: usize>(code: u8) -> Self;
}

impl Destination for f32 {
    #[inline(always)]
    fn decode<const F: usize>(code: u8) -> Self {
        f32::from_bits(decode_32::<F>(code))
    }
}

impl Destination for bf16 {
    #[inline(always)]
    fn decode<const F: usize>(code: u8) -> Self {
        // At most 4 significant bits, or a NaN of all ones: nothing is lost.
        bf16::from_bits((decode_32::<F>(code) >> 16) as u16)
    }
}

impl Destination for f16 {
    #[inline(always)]
    fn decode<const F: usize>(code: u8) -> Self {
        let bits = decode_32::<F>(code);
        let size = bits & 0x7FFF_FFFF;
        let normal = (size >> 13).wrapping_sub(112 << 10);
        // The last place of 0.5 is 2^-24, the unit of f16 subnormals.
        let subnormal = (f32::from_bits(size) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
        let finite = if size < 113 << 23 { subnormal } else { normal };
        let special = if size == F32_INFINITY { 0x7C00 } else { 0x7FFF };
        f16::from_bits(((bits >> 16) & 0x8000 | if size >= F32_INFINITY { special } else { finite }) as u16)
    }
}

/// The f32 bits of an FP8 code, exact.
#[inline(always)]
fn decode_32<const F: usize>(code: u8) -> u32 {
    let spec = const { spec_of(F) };
    let offset = const { (127 - spec_of(F).bias) as u32 } << 23;
    let magnitude = u32::from(code & 0x7F);
    let sign = u32::from(code & 0x80) << 24;
    let shifted = (magnitude << (23 - spec.mantissa_bits)) + offset;
    // As for f16: a subnormal plus the smallest normal number, less that number again.
    let one = const { 1 << 23 };
    let subnormal = (f32::from_bits(shifted + one) - f32::from_bits(offset + one)).to_bits();
    let finite = sign | if magnitude < 1 << spec.mantissa_bits { subnormal } else { shifted };
    if spec.unsigned_zero {
        if code == 0x80 { 0x7FFF_FFFF } else { finite }
    } else {
        let infinite = spec.overflow_code != spec.nan && magnitude == u32::from(spec.overflow_code);
        let special = if infinite { sign | F32_INFINITY } else { 0x7FFF_FFFF };
        if magnitude > u32::from(spec.max_code) { special } else { finite }
    }
}
