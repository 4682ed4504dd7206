//! The inner loops over one row, compiled for each vector width and chosen at run time.
//!
//! They are plain loops: [`pulp`] compiles them with the instructions that the machine has. Every
//! operation is per element or a maximum of integers, so the width cannot change a bit.

use pulp::{Arch, Simd, WithSimd};

/// Bits of the largest f32 that is not NaN.
pub(super) const INFINITY_BITS: u32 = 0x7F80_0000;

const SIGN: u32 = 0x8000_0000;

/// The largest magnitude of a slice, as bits: magnitudes order like their bits, and any NaN is
/// above infinity. 0 for an empty slice.
pub(super) fn largest(arch: Arch, values: &[f32]) -> u32 {
    struct Largest<'a>(&'a [f32]);
    impl WithSimd for Largest<'_> {
        type Output = u32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> u32 {
            // A reduction of integers in any order: this vectorises as it stands.
            self.0.iter().fold(0, |largest, value| u32::max(largest, value.to_bits() & !SIGN))
        }
    }
    arch.dispatch(Largest(values))
}

/// [`largest`] of what is not NaN; slow, for blocks that have one.
pub(super) fn largest_number(values: &[f32]) -> u32 {
    values.iter().map(|value| value.to_bits() & !SIGN).filter(|&bits| bits <= INFINITY_BITS).fold(0, u32::max)
}

/// The running largest magnitude of each column, as bits.
pub(super) fn largest_by_column(arch: Arch, values: &[f32], ignore_nan: bool, largest: &mut [u32]) {
    struct ByColumn<'a>(&'a [f32], bool, &'a mut [u32]);
    impl WithSimd for ByColumn<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(values, ignore_nan, largest) = self;
            let limit = if ignore_nan { INFINITY_BITS } else { u32::MAX };
            for (largest, value) in largest.iter_mut().zip(values) {
                let bits = value.to_bits() & !SIGN;
                *largest = (*largest).max(if bits > limit { 0 } else { bits });
            }
        }
    }
    arch.dispatch(ByColumn(values, ignore_nan, largest));
}

/// What is done to each element of a slice, apart from its factor.
#[derive(Clone, Copy)]
pub(super) struct Scaling {
    /// Divide, do not multiply.
    pub(super) divide: bool,
    /// What a NaN result becomes.
    pub(super) nan: f32,
}

/// `scaled[i] = values[i] * factor`, or `/`.
pub(super) fn scale(arch: Arch, scaling: Scaling, factor: f32, values: &[f32], scaled: &mut [f32]) {
    struct Scale<'a>(Scaling, f32, &'a [f32], &'a mut [f32]);
    impl WithSimd for Scale<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(Scaling { divide, nan }, factor, values, scaled) = self;
            let number = |x: f32| if x.is_nan() { nan } else { x };
            if divide {
                for (scaled, value) in scaled.iter_mut().zip(values) {
                    *scaled = number(value / factor);
                }
            } else {
                for (scaled, value) in scaled.iter_mut().zip(values) {
                    *scaled = number(value * factor);
                }
            }
        }
    }
    arch.dispatch(Scale(scaling, factor, values, scaled));
}

/// `scaled[i] = values[i] * factors[i]`, or `/`.
pub(super) fn scale_by_column(arch: Arch, scaling: Scaling, factors: &[f32], values: &[f32], scaled: &mut [f32]) {
    struct ByColumn<'a>(Scaling, &'a [f32], &'a [f32], &'a mut [f32]);
    impl WithSimd for ByColumn<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(Scaling { divide, nan }, factors, values, scaled) = self;
            let number = |x: f32| if x.is_nan() { nan } else { x };
            if divide {
                for ((scaled, value), factor) in scaled.iter_mut().zip(values).zip(factors) {
                    *scaled = number(value / factor);
                }
            } else {
                for ((scaled, value), factor) in scaled.iter_mut().zip(values).zip(factors) {
                    *scaled = number(value * factor);
                }
            }
        }
    }
    arch.dispatch(ByColumn(scaling, factors, values, scaled));
}
