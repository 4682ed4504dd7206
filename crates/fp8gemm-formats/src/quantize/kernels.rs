//! The inner loops over one row, compiled for each vector width and chosen at run time.
//!
//! They are plain loops: [`pulp`] compiles them with the instructions that the machine has. Every
//! operation is per element or a maximum of integers, so the width cannot change a bit.

use pulp::{Arch, Simd, WithSimd};

/// Bits of infinity: magnitudes order like their bits, and any NaN is above.
pub(super) const INFINITY_BITS: u32 = 0x7F80_0000;

const SIGN: u32 = 0x8000_0000;

/// Raises `largest[i]` to the largest magnitude, as bits, of the `i`th block of `block` values; the
/// last block may be partial.
pub(super) fn largest_by_block(arch: Arch, values: &[f32], block: usize, ignore_nan: bool, largest: &mut [u32]) {
    struct ByBlock<'a>(&'a [f32], usize, bool, &'a mut [u32]);
    impl WithSimd for ByBlock<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(values, block, ignore_nan, largest) = self;
            for (largest, values) in largest.iter_mut().zip(values.chunks(block)) {
                // A reduction of integers in any order: this vectorises as it stands.
                let mut bits = values.iter().fold(0, |bits, value| u32::max(bits, value.to_bits() & !SIGN));
                if ignore_nan && bits > INFINITY_BITS {
                    bits = largest_number(values);
                }
                *largest = (*largest).max(bits);
            }
        }
    }
    arch.dispatch(ByBlock(values, block, ignore_nan, largest));
}

/// The largest magnitude, as bits, of what is not NaN.
#[cold]
fn largest_number(values: &[f32]) -> u32 {
    values.iter().map(|value| value.to_bits() & !SIGN).filter(|&bits| bits <= INFINITY_BITS).fold(0, u32::max)
}

/// Raises `largest[i]` to the magnitude, as bits, of `values[i]`.
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

/// `scaled = values * factor`, or `/`, with one factor for each block of `block` values; the last
/// block may be partial.
pub(super) fn scale_by_block(
    arch: Arch,
    scaling: Scaling,
    factors: &[f32],
    block: usize,
    values: &[f32],
    scaled: &mut [f32],
) {
    struct ByBlock<'a>(Scaling, &'a [f32], usize, &'a [f32], &'a mut [f32]);
    impl WithSimd for ByBlock<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(Scaling { divide, nan }, factors, block, values, scaled) = self;
            let number = |x: f32| if x.is_nan() { nan } else { x };
            for ((values, scaled), &factor) in values.chunks(block).zip(scaled.chunks_mut(block)).zip(factors) {
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
    }
    arch.dispatch(ByBlock(scaling, factors, block, values, scaled));
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
