//! One type per format, each a byte that knows what it means: [`E4m3`], [`E5m2`], [`E4m3Fnuz`],
//! [`E5m2Fnuz`].
//!
//! The types differ only in their format, so one macro writes all four; every method hands over to
//! [`Fp8Format`], where the arithmetic is.

use core::cmp::Ordering;
use core::fmt;
use core::num::FpCategory;
use core::ops::Neg;

use half::{bf16, f16};

use super::{Fp8Format, Overflow, Rounding};

macro_rules! fp8_type {
    ($(#[$doc:meta])* $name:ident, $radix_max_exp:literal, $max_10_exp:literal, $min_10_exp:literal) => {
        $(#[$doc])*
        ///
        /// Comparison is that of numbers: a NaN is unlike everything, itself included, and -0
        /// equals +0. [`to_bits`](Self::to_bits) compares codes, [`total_cmp`](Self::total_cmp)
        /// orders them all. `Display` and `Debug` print the value, `{:02X}` the code.
        #[derive(Clone, Copy, Default)]
        #[repr(transparent)]
        pub struct $name(u8);

        impl $name {
            /// The format as a value.
            pub const FORMAT: Fp8Format = Fp8Format::$name;
            /// The largest finite value.
            pub const MAX: Self = Self(Self::FORMAT.max_code());
            /// The smallest finite value, `-MAX`.
            pub const MIN: Self = Self(0x80 | Self::FORMAT.max_code());
            /// The smallest positive normal value.
            pub const MIN_POSITIVE: Self = Self(1 << Self::FORMAT.mantissa_bits());
            /// The smallest positive value, a subnormal.
            pub const MIN_POSITIVE_SUBNORMAL: Self = Self(1);
            /// The difference between 1 and the next larger value, `2^-m` for `m` mantissa bits.
            pub const EPSILON: Self =
                Self(((Self::FORMAT.bias() - Self::FORMAT.mantissa_bits() as i32) as u8) << Self::FORMAT.mantissa_bits());
            /// The canonical NaN, which encoding a NaN gives.
            pub const NAN: Self = Self(Self::FORMAT.nan());
            /// 0, positive.
            pub const ZERO: Self = Self(0);
            /// 1.
            pub const ONE: Self = Self((Self::FORMAT.bias() as u8) << Self::FORMAT.mantissa_bits());
            /// Significant binary digits, the implicit one included (as in `std`).
            pub const MANTISSA_DIGITS: u32 = Self::FORMAT.mantissa_bits() + 1;
            /// Decimal digits that survive a round trip through this type: none for certain.
            pub const DIGITS: u32 = 0;
            /// The base of the representation.
            pub const RADIX: u32 = 2;
            /// One above the exponent of the largest power of two (as in `std`).
            pub const MAX_EXP: i32 = $radix_max_exp;
            /// One above the exponent of the smallest normal value (as in `std`).
            pub const MIN_EXP: i32 = 2 - Self::FORMAT.bias();
            /// Largest `x` such that `10^x` is in the range of normal values.
            pub const MAX_10_EXP: i32 = $max_10_exp;
            /// Smallest `x` such that `10^x` is in the range of normal values.
            pub const MIN_10_EXP: i32 = $min_10_exp;

            /// The number with this code; every byte is a code.
            #[inline]
            pub const fn from_bits(bits: u8) -> Self {
                Self(bits)
            }

            /// The code.
            #[inline]
            pub const fn to_bits(self) -> u8 {
                self.0
            }

            /// The nearest value, ties to even, saturating: CUDA's `satfinite` cast.
            ///
            /// Infinities and values that round above [`MAX`](Self::MAX) become `MAX` of their
            /// sign, every NaN becomes [`NAN`](Self::NAN).
            #[inline]
            pub const fn from_f32(x: f32) -> Self {
                Self::from_f32_with(x, Rounding::NearestEven, Overflow::Saturate)
            }

            /// [`from_f32`](Self::from_f32) of an f64, rounded once.
            #[inline]
            pub const fn from_f64(x: f64) -> Self {
                Self::from_f64_with(x, Rounding::NearestEven, Overflow::Saturate)
            }

            /// [`from_f32`](Self::from_f32) of an f16, which widens without loss.
            #[inline]
            pub const fn from_f16(x: f16) -> Self {
                Self::from_f16_with(x, Rounding::NearestEven, Overflow::Saturate)
            }

            /// [`from_f32`](Self::from_f32) of a bf16, which widens without loss.
            #[inline]
            pub const fn from_bf16(x: bf16) -> Self {
                Self::from_bf16_with(x, Rounding::NearestEven, Overflow::Saturate)
            }

            /// The code of `x` under any rounding and overflow: [`Fp8Format::encode`].
            #[inline]
            pub const fn from_f32_with(x: f32, rounding: Rounding, overflow: Overflow) -> Self {
                Self(Self::FORMAT.encode(x, rounding, overflow))
            }

            /// The code of `x` under any rounding and overflow: [`Fp8Format::encode_f64`].
            #[inline]
            pub const fn from_f64_with(x: f64, rounding: Rounding, overflow: Overflow) -> Self {
                Self(Self::FORMAT.encode_f64(x, rounding, overflow))
            }

            /// [`from_f32_with`](Self::from_f32_with) of an f16, which widens without loss.
            #[inline]
            pub const fn from_f16_with(x: f16, rounding: Rounding, overflow: Overflow) -> Self {
                Self::from_f32_with(x.to_f32_const(), rounding, overflow)
            }

            /// [`from_f32_with`](Self::from_f32_with) of a bf16, which widens without loss.
            #[inline]
            pub const fn from_bf16_with(x: bf16, rounding: Rounding, overflow: Overflow) -> Self {
                Self::from_f32_with(x.to_f32_const(), rounding, overflow)
            }

            /// The value, exact. A NaN gives the f32 `7FFFFFFF`.
            #[inline]
            pub const fn to_f32(self) -> f32 {
                Self::FORMAT.decode(self.0)
            }

            /// The value, exact. A NaN gives the f64 `7FFFFFFF_FFFFFFFF`.
            #[inline]
            pub const fn to_f64(self) -> f64 {
                if self.is_nan() { f64::from_bits(0x7FFF_FFFF_FFFF_FFFF) } else { self.to_f32() as f64 }
            }

            /// The value, exact: f16 holds every value of this format (the small ones as f16
            /// subnormals where the format reaches below 2^-14). A NaN gives the f16 `7FFF`.
            #[inline]
            pub const fn to_f16(self) -> f16 {
                if self.is_nan() { f16::from_bits(0x7FFF) } else { f16::from_f32_const(self.to_f32()) }
            }

            /// The value, exact: bf16 holds every value of this format as a normal number. A NaN
            /// gives the bf16 `7FFF`.
            #[inline]
            pub const fn to_bf16(self) -> bf16 {
                // At most 4 significant bits: the lower half of the f32 is zero, or all ones in NaN.
                bf16::from_bits((self.to_f32().to_bits() >> 16) as u16)
            }

            /// Whether this is a NaN.
            #[inline]
            pub const fn is_nan(self) -> bool {
                Self::FORMAT.is_nan(self.0)
            }

            /// Whether this is +infinity or -infinity; never in a format without them.
            #[inline]
            pub const fn is_infinite(self) -> bool {
                Self::FORMAT.is_infinite(self.0)
            }

            /// Whether this is neither infinite nor NaN. [`MAX`](Self::MAX) is finite.
            #[inline]
            pub const fn is_finite(self) -> bool {
                Self::FORMAT.is_finite(self.0)
            }

            /// Whether this is neither zero, subnormal, infinite nor NaN.
            #[inline]
            pub const fn is_normal(self) -> bool {
                Self::FORMAT.is_normal(self.0)
            }

            /// Whether this is a subnormal number; zero is not.
            #[inline]
            pub const fn is_subnormal(self) -> bool {
                Self::FORMAT.is_subnormal(self.0)
            }

            /// Whether this is +0 or -0.
            #[inline]
            pub const fn is_zero(self) -> bool {
                Self::FORMAT.is_zero(self.0)
            }

            /// Whether the sign bit is set, of NaN too (so the one NaN of a FNUZ format counts as
            /// negative).
            #[inline]
            pub const fn is_sign_negative(self) -> bool {
                self.0 & 0x80 != 0
            }

            /// Whether the sign bit is clear.
            #[inline]
            pub const fn is_sign_positive(self) -> bool {
                self.0 & 0x80 == 0
            }

            /// Which of the five kinds of number this is.
            pub const fn classify(self) -> FpCategory {
                if self.is_nan() {
                    FpCategory::Nan
                } else if self.is_infinite() {
                    FpCategory::Infinite
                } else if self.is_zero() {
                    FpCategory::Zero
                } else if self.is_subnormal() {
                    FpCategory::Subnormal
                } else {
                    FpCategory::Normal
                }
            }

            /// The same number with the sign bit clear; the one NaN of a FNUZ format stays NaN.
            #[inline]
            pub const fn abs(self) -> Self {
                if Self::FORMAT.has_negative_zero() || self.0 != 0x80 { Self(self.0 & 0x7F) } else { self }
            }

            /// Orders all codes: as numbers, with -NaN < everything < NaN and -0 < +0, where the
            /// format has them (IEEE 754 `totalOrder`); the one NaN of a FNUZ format comes last.
            pub fn total_cmp(&self, other: &Self) -> Ordering {
                let key = |x: Self| {
                    if Self::FORMAT == Fp8Format::E4m3Fnuz || Self::FORMAT == Fp8Format::E5m2Fnuz {
                        if x.is_nan() {
                            return i16::MAX;
                        }
                    }
                    let magnitude = i16::from(x.0 & 0x7F);
                    if x.is_sign_negative() { -1 - magnitude } else { magnitude }
                };
                key(*self).cmp(&key(*other))
            }
        }

        impl PartialEq for $name {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                self.to_f32() == other.to_f32()
            }
        }

        impl PartialOrd for $name {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                self.to_f32().partial_cmp(&other.to_f32())
            }
        }

        impl Neg for $name {
            type Output = Self;

            /// Flips the sign bit; zero and NaN of a FNUZ format, which have no sign, stay.
            #[inline]
            fn neg(self) -> Self {
                if !Self::FORMAT.has_negative_zero() && self.0 & 0x7F == 0 { self } else { Self(self.0 ^ 0x80) }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.to_f32(), f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.to_f32(), f)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl fmt::UpperHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::UpperHex::fmt(&self.0, f)
            }
        }

        impl fmt::Binary for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Binary::fmt(&self.0, f)
            }
        }

        impl From<$name> for f32 {
            /// [`to_f32`](struct@$name::to_f32): exact.
            #[inline]
            fn from(x: $name) -> Self {
                x.to_f32()
            }
        }

        impl From<$name> for f64 {
            /// [`to_f64`](struct@$name::to_f64): exact.
            #[inline]
            fn from(x: $name) -> Self {
                x.to_f64()
            }
        }

        impl From<$name> for f16 {
            /// [`to_f16`](struct@$name::to_f16): exact.
            #[inline]
            fn from(x: $name) -> Self {
                x.to_f16()
            }
        }

        impl From<$name> for bf16 {
            /// [`to_bf16`](struct@$name::to_bf16): exact.
            #[inline]
            fn from(x: $name) -> Self {
                x.to_bf16()
            }
        }
    };
}

fp8_type! {
    /// A number in OCP E4M3 ("E4M3FN"): 4 exponent and 3 mantissa bits, bias 7, largest value 448,
    /// no infinity, NaN `7F` and `FF`.
    ///
    /// ```
    /// use fp8gemm_formats::E4m3;
    ///
    /// assert_eq!(E4m3::from_f32(1e9), E4m3::MAX);
    /// assert_eq!(E4m3::MAX.to_f32(), 448.0);
    /// assert!(E4m3::MAX.is_finite());
    /// assert_eq!(E4m3::from_f32(-f32::NAN).to_bits(), 0x7F);
    /// ```
    E4m3, 9, 2, -1
}

fp8_type! {
    /// A number in OCP E5M2: 5 exponent and 2 mantissa bits, bias 15, largest value 57344,
    /// infinities `7C` and `FC`; the upper byte of an f16.
    ///
    /// ```
    /// use fp8gemm_formats::{E5m2, Overflow, Rounding};
    ///
    /// assert_eq!(E5m2::from_f32(1e9), E5m2::MAX);
    /// let free = E5m2::from_f32_with(1e9, Rounding::NearestEven, Overflow::NonSaturating);
    /// assert_eq!(free, E5m2::INFINITY);
    /// ```
    E5m2, 16, 4, -4
}

fp8_type! {
    /// A number in E4M3FNUZ: 4 exponent and 3 mantissa bits, bias 8, largest value 240, one NaN
    /// (`80`), no infinity and no -0.
    ///
    /// ```
    /// use fp8gemm_formats::E4m3Fnuz;
    ///
    /// assert_eq!(E4m3Fnuz::MAX.to_f32(), 240.0);
    /// assert_eq!(E4m3Fnuz::from_f32(-0.0).to_bits(), 0x00);
    /// ```
    E4m3Fnuz, 8, 2, -2
}

fp8_type! {
    /// A number in E5M2FNUZ: 5 exponent and 2 mantissa bits, bias 16, largest value 57344, one NaN
    /// (`80`), no infinity and no -0.
    ///
    /// ```
    /// use fp8gemm_formats::E5m2Fnuz;
    ///
    /// assert_eq!(E5m2Fnuz::MIN_POSITIVE_SUBNORMAL.to_f32(), 2f32.powi(-17));
    /// ```
    E5m2Fnuz, 16, 4, -4
}

impl E4m3 {
    /// 0, negative.
    pub const NEG_ZERO: Self = Self(0x80);
}

impl E5m2 {
    /// 0, negative.
    pub const NEG_ZERO: Self = Self(0x80);
    /// +infinity.
    pub const INFINITY: Self = Self(0x7C);
    /// -infinity.
    pub const NEG_INFINITY: Self = Self(0xFC);
}

impl From<float8::F8E4M3> for E4m3 {
    /// The same code.
    fn from(x: float8::F8E4M3) -> Self {
        Self(x.to_bits())
    }
}

impl From<E4m3> for float8::F8E4M3 {
    /// The same code. `float8` 0.7 calls 448 infinite and has other NaNs: use its type for
    /// storage, this one for questions.
    fn from(x: E4m3) -> Self {
        Self::from_bits(x.0)
    }
}

impl From<float8::F8E5M2> for E5m2 {
    /// The same code.
    fn from(x: float8::F8E5M2) -> Self {
        Self(x.to_bits())
    }
}

impl From<E5m2> for float8::F8E5M2 {
    /// The same code. `float8` 0.7 does not know this format's infinity: use its type for storage,
    /// this one for questions.
    fn from(x: E5m2) -> Self {
        Self::from_bits(x.0)
    }
}
