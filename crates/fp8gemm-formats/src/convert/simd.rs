//! Loops over lanes, compiled once per instruction set and chosen at run time by `pulp`.
//!
//! The loops are plain: what makes them vector code is that they are inlined, lane arithmetic and
//! all, into a function compiled for AVX2 or AVX-512. Hence `#[inline(always)]` on everything
//! below, and structs instead of closures, to which that attribute cannot be given.

use pulp::{Arch, Simd, WithSimd};

use super::lane::{Destination, Edges, NEAREST, STOCHASTIC, Source, TOWARD_ZERO};
use crate::codec::{Fp8Format, Overflow, Rounding};

/// Something to do with the best instructions of this machine.
pub(super) fn run<Op: WithSimd>(op: Op) -> Op::Output {
    Arch::new().dispatch(op)
}

/// Encodes equally long slices.
pub(super) struct Encode<'a, T> {
    pub(super) format: Fp8Format,
    pub(super) rounding: Rounding,
    pub(super) overflow: Overflow,
    pub(super) source: &'a [T],
    pub(super) destination: &'a mut [u8],
}

impl<T: Source> WithSimd for Encode<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        match self.format {
            Fp8Format::E4m3 => self.with_format::<0>(),
            Fp8Format::E5m2 => self.with_format::<1>(),
            Fp8Format::E4m3Fnuz => self.with_format::<2>(),
            Fp8Format::E5m2Fnuz => self.with_format::<3>(),
        }
    }
}

impl<T: Source> Encode<'_, T> {
    #[inline(always)]
    fn with_format<const F: usize>(self) {
        match self.rounding {
            Rounding::NearestEven => self.with_rounding::<F, NEAREST>(0),
            Rounding::TowardZero => self.with_rounding::<F, TOWARD_ZERO>(0),
            Rounding::Stochastic { bits } => self.with_rounding::<F, STOCHASTIC>(bits),
        }
    }

    #[inline(always)]
    fn with_rounding<const F: usize, const R: u8>(self, random: u32) {
        let edges = Edges::new(self.format, R, self.overflow);
        for (code, &x) in self.destination.iter_mut().zip(self.source) {
            *code = x.encode::<F, R>(random, edges);
        }
    }
}

/// Encodes equally long slices with random bits for each element.
pub(super) struct EncodeStochastic<'a, T> {
    pub(super) format: Fp8Format,
    pub(super) overflow: Overflow,
    pub(super) source: &'a [T],
    pub(super) random: &'a [u32],
    pub(super) destination: &'a mut [u8],
}

impl<T: Source> WithSimd for EncodeStochastic<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        match self.format {
            Fp8Format::E4m3 => self.with_format::<0>(),
            Fp8Format::E5m2 => self.with_format::<1>(),
            Fp8Format::E4m3Fnuz => self.with_format::<2>(),
            Fp8Format::E5m2Fnuz => self.with_format::<3>(),
        }
    }
}

impl<T: Source> EncodeStochastic<'_, T> {
    #[inline(always)]
    fn with_format<const F: usize>(self) {
        let edges = Edges::new(self.format, STOCHASTIC, self.overflow);
        for ((code, &x), &random) in self.destination.iter_mut().zip(self.source).zip(self.random) {
            *code = x.encode::<F, STOCHASTIC>(random, edges);
        }
    }
}

/// Decodes equally long slices.
pub(super) struct Decode<'a, T> {
    pub(super) format: Fp8Format,
    pub(super) source: &'a [u8],
    pub(super) destination: &'a mut [T],
}

impl<T: Destination> WithSimd for Decode<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        match self.format {
            Fp8Format::E4m3 => self.with_format::<0>(),
            Fp8Format::E5m2 => self.with_format::<1>(),
            Fp8Format::E4m3Fnuz => self.with_format::<2>(),
            Fp8Format::E5m2Fnuz => self.with_format::<3>(),
        }
    }
}

impl<T: Destination> Decode<'_, T> {
    #[inline(always)]
    fn with_format<const F: usize>(self) {
        for (x, &code) in self.destination.iter_mut().zip(self.source) {
            *x = T::decode::<F>(code);
        }
    }
}
