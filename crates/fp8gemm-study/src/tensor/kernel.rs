//! The inner loops over pieces of rows, compiled for the vectors of the machine: magnitudes, and what
//! quantisation loses.

use pulp::{Arch, Simd, WithSimd};

/// Partial sums that are added up side by side: the order of additions does not depend on the width
/// of the machine's vectors.
const LANES: usize = 16;

/// Counts and sums over elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Loss {
    /// `sum e^2`.
    pub(super) error: f64,
    /// `sum |e / x|`.
    pub(super) relative: f64,
    pub(super) flushed: u64,
    pub(super) subnormal: u64,
    pub(super) saturated: u64,
}

impl Loss {
    pub(super) fn add(&mut self, other: &Self) {
        self.error += other.error;
        self.relative += other.relative;
        self.flushed += other.flushed;
        self.subnormal += other.subnormal;
        self.saturated += other.saturated;
    }
}

/// A piece of a row: what it was, what was cast, and what its codes mean.
pub(super) struct Piece<'a> {
    pub(super) values: &'a [f32],
    /// `1 / |x|`, or 0 where there is none.
    pub(super) reciprocals: &'a [f32],
    pub(super) scaled: &'a [f32],
    pub(super) decoded: &'a [f32],
    /// What dequantisation multiplies by, one for each block.
    pub(super) scales: &'a [f32],
    pub(super) block: usize,
    /// Of the format: below it decoded numbers are subnormal, above it scaled ones are clipped.
    pub(super) min_normal: f32,
    pub(super) overflow: f32,
}

/// What is lost in the piece.
pub(super) fn loss(piece: &Piece<'_>) -> Loss {
    struct Run<'a, 'p>(&'a Piece<'p>);
    impl WithSimd for Run<'_, '_> {
        type Output = Loss;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> Loss {
            let p = self.0;
            let mut lanes = Lanes::default();
            let mut start = 0;
            for &scale in p.scales {
                let end = (start + p.block).min(p.values.len());
                let (values, values_rest) = p.values[start..end].as_chunks::<LANES>();
                let (reciprocals, reciprocals_rest) = p.reciprocals[start..end].as_chunks::<LANES>();
                let (scaled, scaled_rest) = p.scaled[start..end].as_chunks::<LANES>();
                let (decoded, decoded_rest) = p.decoded[start..end].as_chunks::<LANES>();
                for (((x, r), s), d) in values.iter().zip(reciprocals).zip(scaled).zip(decoded) {
                    lanes.add(x, r, s, d, scale, p);
                }
                if !values_rest.is_empty() {
                    // Zeros lose nothing and count for nothing.
                    let pad = |rest: &[f32]| {
                        let mut padded = [0.0; LANES];
                        padded[..rest.len()].copy_from_slice(rest);
                        padded
                    };
                    let rests = [values_rest, reciprocals_rest, scaled_rest, decoded_rest].map(pad);
                    // A scale that is not finite would make NaN of the padding; it has made NaN of the
                    // sum already.
                    lanes.add(&rests[0], &rests[1], &rests[2], &rests[3], scale, p);
                }
                start = end;
            }
            lanes.sum()
        }
    }
    Arch::new().dispatch(Run(piece))
}

/// What is asked of a piece before it is quantised.
pub(super) struct Signal {
    /// `sum x^2`.
    pub(super) squares: f64,
    /// Elements that have a reciprocal.
    pub(super) counted: u64,
}

/// Puts `1 / |x|` of each value into `reciprocals`; 0 for zeros and numbers below the smallest normal
/// f32, whose reciprocal may be infinite.
pub(super) fn signal(values: &[f32], reciprocals: &mut [f32]) -> Signal {
    struct Run<'a>(&'a [f32], &'a mut [f32]);
    impl WithSimd for Run<'_> {
        type Output = Signal;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> Signal {
            let Self(values, reciprocals) = self;
            let mut counted = 0u32;
            for (&x, reciprocal) in values.iter().zip(reciprocals) {
                let has_one = x.abs() >= f32::MIN_POSITIVE;
                *reciprocal = if has_one { 1.0 / x.abs() } else { 0.0 };
                counted += u32::from(has_one);
            }
            let mut lanes = [0.0f64; LANES];
            let (chunks, rest) = values.as_chunks::<LANES>();
            for chunk in chunks {
                for i in 0..LANES {
                    lanes[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(rest) {
                *lane += f64::from(x) * f64::from(x);
            }
            Signal { squares: lanes.iter().sum(), counted: counted.into() }
        }
    }
    Arch::new().dispatch(Run(values, reciprocals))
}

/// Largest magnitudes of the runs of 32 values, the last of which may be shorter, as bits: they order
/// like magnitudes, and any NaN is above infinity.
pub(super) fn largest(values: &[f32], largest: &mut [u32]) {
    struct Run<'a>(&'a [f32], &'a mut [u32]);
    impl WithSimd for Run<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let (chunks, rest) = self.0.as_chunks::<32>();
            let bits = |amax: u32, x: &f32| amax.max(x.to_bits() & 0x7FFF_FFFF);
            for (chunk, largest) in chunks.iter().zip(self.1.iter_mut()) {
                *largest = chunk.iter().fold(0, bits);
            }
            if let (false, Some(largest)) = (rest.is_empty(), self.1.get_mut(chunks.len())) {
                *largest = rest.iter().fold(0, bits);
            }
        }
    }
    Arch::new().dispatch(Run(values, largest));
}

/// The smallest magnitude that is not zero, as bits (the largest u32 where there is none), and how many
/// zeros there are.
pub(super) fn smallest(values: &[f32]) -> (u32, u64) {
    struct Run<'a>(&'a [f32]);
    impl WithSimd for Run<'_> {
        type Output = (u32, u32);

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> (u32, u32) {
            let mut smallest = u32::MAX;
            let mut zeros = 0;
            for x in self.0 {
                let bits = x.to_bits() & 0x7FFF_FFFF;
                // Zero wraps around to the largest.
                smallest = smallest.min(bits.wrapping_sub(1));
                zeros += u32::from(bits == 0);
            }
            (smallest, zeros)
        }
    }
    let (smallest, zeros) = Arch::new().dispatch(Run(values));
    (smallest.saturating_add(1), zeros.into())
}

#[derive(Default)]
struct Lanes {
    error: [f64; LANES],
    relative: [f64; LANES],
    flushed: [u32; LANES],
    subnormal: [u32; LANES],
    saturated: [u32; LANES],
}

impl Lanes {
    #[inline(always)]
    fn add(
        &mut self,
        x: &[f32; LANES],
        reciprocal: &[f32; LANES],
        scaled: &[f32; LANES],
        decoded: &[f32; LANES],
        scale: f32,
        piece: &Piece<'_>,
    ) {
        for i in 0..LANES {
            // One rounding: the product itself is not rounded.
            let error = decoded[i].mul_add(scale, -x[i]);
            let wide = f64::from(error);
            self.error[i] += wide * wide;
            self.relative[i] += f64::from(error.abs() * reciprocal[i]);
            let zero = decoded[i] == 0.0;
            self.flushed[i] += u32::from(zero & (x[i] != 0.0));
            self.subnormal[i] += u32::from(!zero & (decoded[i].abs() < piece.min_normal));
            self.saturated[i] += u32::from(scaled[i].abs() > piece.overflow);
        }
    }

    fn sum(&self) -> Loss {
        let total = |lanes: &[u32; LANES]| lanes.iter().map(|&count| u64::from(count)).sum();
        Loss {
            error: self.error.iter().sum(),
            relative: self.relative.iter().sum(),
            flushed: total(&self.flushed),
            subnormal: total(&self.subnormal),
            saturated: total(&self.saturated),
        }
    }
}
