//! [`Fp8Format`]: the four 8-bit formats with a sign, as values; their constants, predicates and
//! exact decoding.

use core::fmt;
use core::str::FromStr;

use fp8gemm_problem::OperandType;

use crate::FormatError;
use crate::codec::round::{Overflow, Rounding, encode_f32, encode_f64};

/// An 8-bit floating-point format with a sign bit.
///
/// | | [`E4m3`](Self::E4m3) | [`E5m2`](Self::E5m2) | [`E4m3Fnuz`](Self::E4m3Fnuz) | [`E5m2Fnuz`](Self::E5m2Fnuz) |
/// |---|---|---|---|---|
/// | exponent / mantissa bits | 4 / 3 | 5 / 2 | 4 / 3 | 5 / 2 |
/// | bias | 7 | 15 | 8 | 16 |
/// | largest finite | 448 | 57344 | 240 | 57344 |
/// | smallest normal | 2^-6 | 2^-14 | 2^-7 | 2^-15 |
/// | smallest subnormal | 2^-9 | 2^-16 | 2^-10 | 2^-17 |
/// | infinities | none | `7C`, `FC` | none | none |
/// | NaN | `7F`, `FF` | `7D`..`7F`, `FD`..`FF` | `80` | `80` |
/// | zeros | `00`, `80` | `00`, `80` | `00` | `00` |
///
/// With `m` mantissa bits and bias `b`, a finite code of sign `s`, exponent field `e` and mantissa
/// field `f` means `(-1)^s * 2^(e-b) * (1 + f/2^m)` if `e > 0` (the leading one is implicit) and
/// `(-1)^s * 2^(1-b) * f/2^m` if `e = 0`.
///
/// E4M3 and E5M2 are those of the OCP 8-bit Floating Point Specification 1.0 (E4M3 is also called
/// E4M3FN, "finite, NaN"), which CUDA and Hopper's `wgmma` use. The FNUZ pair ("finite, NaN,
/// unsigned zero") is that of AMD's CDNA 3 and of ONNX.
///
/// ```
/// use fp8gemm_formats::{Fp8Format, Overflow, Rounding};
///
/// let format = Fp8Format::E4m3;
/// assert_eq!(format.max_finite(), 448.0);
/// let code = format.encode(0.3, Rounding::NearestEven, Overflow::Saturate);
/// assert_eq!((code, format.decode(code)), (0x2A, 0.3125));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fp8Format {
    /// 4 exponent and 3 mantissa bits, bias 7, no infinity, largest value 448.
    E4m3,
    /// 5 exponent and 2 mantissa bits, bias 15, IEEE 754 style infinities, largest value 57344.
    E5m2,
    /// 4 exponent and 3 mantissa bits, bias 8, one NaN, no infinity, no -0, largest value 240.
    E4m3Fnuz,
    /// 5 exponent and 2 mantissa bits, bias 16, one NaN, no infinity, no -0, largest value 57344.
    E5m2Fnuz,
}

/// Everything that distinguishes one format from another; all code is written against this.
pub(crate) struct Spec {
    /// Mantissa bits stored.
    pub(crate) mantissa_bits: u32,
    /// Exponent bias.
    pub(crate) bias: i32,
    /// Magnitude code of the largest finite value; magnitudes above it are not finite.
    pub(crate) max_code: u8,
    /// Code to which a non-saturating overflow goes, to be joined with the sign by OR: the
    /// infinity, or the NaN of a format without one.
    pub(crate) overflow_code: u8,
    /// The canonical NaN.
    pub(crate) nan: u8,
    /// Code 80 is the NaN, and there is no -0.
    pub(crate) unsigned_zero: bool,
}

impl Spec {
    /// Exponent of the smallest normal number.
    pub(crate) const fn min_exponent(&self) -> i32 {
        1 - self.bias
    }

    /// The f32 bits of the first power of two above the largest finite value.
    pub(crate) const fn ceiling(&self) -> u32 {
        let top_field = (self.max_code >> self.mantissa_bits) as i32;
        ((top_field - self.bias + 1 + 127) as u32) << 23
    }
}

const SPECS: [Spec; 4] = [
    Spec { mantissa_bits: 3, bias: 7, max_code: 0x7E, overflow_code: 0x7F, nan: 0x7F, unsigned_zero: false },
    Spec { mantissa_bits: 2, bias: 15, max_code: 0x7B, overflow_code: 0x7C, nan: 0x7F, unsigned_zero: false },
    Spec { mantissa_bits: 3, bias: 8, max_code: 0x7F, overflow_code: 0x80, nan: 0x80, unsigned_zero: true },
    Spec { mantissa_bits: 2, bias: 16, max_code: 0x7F, overflow_code: 0x80, nan: 0x80, unsigned_zero: true },
];

static DECODED: [[f32; 256]; 4] =
    [decode_all(&SPECS[0]), decode_all(&SPECS[1]), decode_all(&SPECS[2]), decode_all(&SPECS[3])];

/// `2^exponent` for exponents of normal f32 numbers.
const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

const fn decode_one(spec: &Spec, code: u8) -> f32 {
    let magnitude = code & 0x7F;
    let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
    if spec.unsigned_zero && code == 0x80 {
        return f32::from_bits(0x7FFF_FFFF);
    }
    if magnitude > spec.max_code {
        let infinite = !spec.unsigned_zero && magnitude == spec.overflow_code && spec.overflow_code != spec.nan;
        return if infinite { sign * f32::INFINITY } else { f32::from_bits(0x7FFF_FFFF) };
    }
    let field = (magnitude >> spec.mantissa_bits) as i32;
    let fraction = magnitude & ((1 << spec.mantissa_bits) - 1);
    let ulp = power_of_two(spec.min_exponent() - spec.mantissa_bits as i32);
    if field == 0 {
        return sign * fraction as f32 * ulp;
    }
    let significand = (fraction | (1 << spec.mantissa_bits)) as f32;
    sign * significand * ulp * power_of_two(field - 1)
}

const fn decode_all(spec: &Spec) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode_one(spec, code as u8);
        code += 1;
    }
    table
}

impl Fp8Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::E4m3, Self::E5m2, Self::E4m3Fnuz, Self::E5m2Fnuz];

    pub(crate) const fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }

    /// The value of `code`, exact: every FP8 value is an f32 (and an f16, and a bf16) value.
    ///
    /// NaN codes of either sign give the f32 NaN `7FFFFFFF`, as the GPU's conversion does.
    #[inline]
    pub const fn decode(self, code: u8) -> f32 {
        DECODED[self as usize][code as usize]
    }

    /// [`decode`](Self::decode) of all 256 codes.
    #[inline]
    pub const fn decode_table(self) -> &'static [f32; 256] {
        &DECODED[self as usize]
    }

    /// The code of `x`: rounded as `rounding` says, once, with `overflow` deciding what becomes of
    /// values that do not fit.
    ///
    /// | `x` | code |
    /// |---|---|
    /// | NaN of any sign and payload | [`nan`](Self::nan), positive: `7F`, FNUZ `80` |
    /// | infinite | the largest finite of its sign if saturating; else `sign\|7C` in E5M2, the NaN `sign\|7F` in E4M3, `80` in FNUZ |
    /// | rounds above the largest finite | see [`Rounding`] and [`Overflow`] |
    /// | rounds to zero | zero of the sign of `x`; FNUZ has one zero, `00` |
    ///
    /// NaN to `7F` is what CUDA's `__nv_cvt_float_to_fp8` gives. f16 and bf16 widen to f32 without
    /// loss, so this is their encoder too.
    #[inline]
    pub const fn encode(self, x: f32, rounding: Rounding, overflow: Overflow) -> u8 {
        encode_f32(self.spec(), x, rounding, overflow)
    }

    /// [`encode`](Self::encode) of an f64, rounded once, straight from its 53-bit significand.
    #[inline]
    pub const fn encode_f64(self, x: f64, rounding: Rounding, overflow: Overflow) -> u8 {
        encode_f64(self.spec(), x, rounding, overflow)
    }

    /// The largest finite value: 448, 57344, 240, 57344.
    pub const fn max_finite(self) -> f32 {
        self.decode(self.max_code())
    }

    /// The smallest positive normal value: 2^-6, 2^-14, 2^-7, 2^-15.
    pub const fn min_normal(self) -> f32 {
        self.decode(1 << self.mantissa_bits())
    }

    /// The smallest positive value, a subnormal: 2^-9, 2^-16, 2^-10, 2^-17.
    pub const fn min_subnormal(self) -> f32 {
        self.decode(1)
    }

    /// Code of the largest finite value: `7E`, `7B`, `7F`, `7F`.
    pub const fn max_code(self) -> u8 {
        self.spec().max_code
    }

    /// The canonical NaN, which encoding a NaN gives: `7F`, or `80` in the FNUZ formats.
    pub const fn nan(self) -> u8 {
        self.spec().nan
    }

    /// The code of +infinity, in the one format that has it: E5M2, `7C`.
    pub const fn infinity(self) -> Option<u8> {
        match self {
            Self::E5m2 => Some(0x7C),
            Self::E4m3 | Self::E4m3Fnuz | Self::E5m2Fnuz => None,
        }
    }

    /// Whether `code` is a NaN.
    #[inline]
    pub const fn is_nan(self, code: u8) -> bool {
        let spec = self.spec();
        if spec.unsigned_zero { code == 0x80 } else { code & 0x7F > spec.max_code && !self.is_infinite(code) }
    }

    /// Whether `code` is +infinity or -infinity; never outside E5M2.
    #[inline]
    pub const fn is_infinite(self, code: u8) -> bool {
        matches!(self, Self::E5m2) && code & 0x7F == 0x7C
    }

    /// Whether `code` is neither NaN nor infinite. The largest finite value is finite.
    #[inline]
    pub const fn is_finite(self, code: u8) -> bool {
        let spec = self.spec();
        if spec.unsigned_zero { code != 0x80 } else { code & 0x7F <= spec.max_code }
    }

    /// Whether `code` is +0 or -0.
    #[inline]
    pub const fn is_zero(self, code: u8) -> bool {
        code == 0 || (code == 0x80 && self.has_negative_zero())
    }

    /// Whether `code` is a subnormal number: not zero, and below [`min_normal`](Self::min_normal).
    #[inline]
    pub const fn is_subnormal(self, code: u8) -> bool {
        let magnitude = code & 0x7F;
        magnitude != 0 && magnitude < 1 << self.mantissa_bits()
    }

    /// Whether `code` is a normal number: not zero, subnormal, infinite or NaN.
    #[inline]
    pub const fn is_normal(self, code: u8) -> bool {
        self.is_finite(code) && code & 0x7F >= 1 << self.mantissa_bits()
    }

    /// Whether the format tells -0 (`80`) from +0.
    pub const fn has_negative_zero(self) -> bool {
        !self.spec().unsigned_zero
    }

    /// Exponent bits stored: 4 or 5.
    pub const fn exponent_bits(self) -> u32 {
        7 - self.spec().mantissa_bits
    }

    /// Mantissa bits stored, the implicit leading one not counted: 3 or 2.
    pub const fn mantissa_bits(self) -> u32 {
        self.spec().mantissa_bits
    }

    /// What is subtracted from the exponent field: 7, 15, 8, 16.
    pub const fn bias(self) -> i32 {
        self.spec().bias
    }

    /// The operand type of a GEMM that this format is, if Hopper's FP8 `wgmma` reads it.
    pub const fn operand_type(self) -> Option<OperandType> {
        match self {
            Self::E4m3 => Some(OperandType::E4m3),
            Self::E5m2 => Some(OperandType::E5m2),
            Self::E4m3Fnuz | Self::E5m2Fnuz => None,
        }
    }
}

impl From<OperandType> for Fp8Format {
    fn from(ty: OperandType) -> Self {
        match ty {
            OperandType::E4m3 => Self::E4m3,
            OperandType::E5m2 => Self::E5m2,
        }
    }
}

impl fmt::Display for Fp8Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
            Self::E4m3Fnuz => "e4m3fnuz",
            Self::E5m2Fnuz => "e5m2fnuz",
        })
    }
}

impl FromStr for Fp8Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        Self::ALL
            .into_iter()
            .find(|format| format.to_string() == text)
            .ok_or_else(|| FormatError::UnknownFormat { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a format's printed name no longer parses, or an alias slips in unnoticed.
    #[test]
    fn prints_and_parses() {
        for format in Fp8Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        for bad in ["", "E4M3", "e4m3fn", "f8_e4m3"] {
            assert_eq!(bad.parse::<Fp8Format>(), Err(FormatError::UnknownFormat { text: bad.to_owned() }));
        }
    }

    /// Breaks if a constant differs from the table of the OCP specification and of the FNUZ types.
    #[test]
    fn constants_are_the_published_ones() {
        let constants = |format: Fp8Format| {
            (format.max_finite(), format.min_normal().log2(), format.min_subnormal().log2(), format.bias())
        };
        assert_eq!(constants(Fp8Format::E4m3), (448.0, -6.0, -9.0, 7));
        assert_eq!(constants(Fp8Format::E5m2), (57344.0, -14.0, -16.0, 15));
        assert_eq!(constants(Fp8Format::E4m3Fnuz), (240.0, -7.0, -10.0, 8));
        assert_eq!(constants(Fp8Format::E5m2Fnuz), (57344.0, -15.0, -17.0, 16));
    }

    /// Breaks if a predicate disagrees with the decoded f32 for any of the 1024 codes.
    #[test]
    fn predicates_agree_with_the_value() {
        for format in Fp8Format::ALL {
            for code in 0..=u8::MAX {
                let value = format.decode(code);
                let size = value.abs();
                let normal = value.is_finite() && size >= format.min_normal();
                let context = format!("{format} {code:02X}");
                assert_eq!(format.is_nan(code), value.is_nan(), "{context}");
                assert_eq!(format.is_infinite(code), value.is_infinite(), "{context}");
                assert_eq!(format.is_finite(code), value.is_finite(), "{context}");
                assert_eq!(format.is_zero(code), value == 0.0, "{context}");
                assert_eq!(format.is_normal(code), normal, "{context}");
                assert_eq!(format.is_subnormal(code), value.is_finite() && size != 0.0 && !normal, "{context}");
                if value.is_nan() {
                    assert_eq!(value.to_bits(), 0x7FFF_FFFF, "{context}");
                } else {
                    assert_eq!(value.is_sign_negative(), code & 0x80 != 0, "{context}");
                }
            }
            assert!(format.is_nan(format.nan()));
            assert_eq!(format.infinity().map(|code| format.decode(code)), format.infinity().map(|_| f32::INFINITY));
        }
    }
}
