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
    pub(super) codes: &'a [u8],
    pub(super) decoded: &'a [f32],
    /// What dequantisation multiplies by, one for each block.
    pub(super) scales: &'a [f32],
    pub(super) block: usize,
    /// Of the format: the first normal code, the largest finite one, and the magnitude from which on
    /// scaled elements are clipped.
    pub(super) normal: u8,
    pub(super) largest: u8,
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
                let (decoded, decoded_rest) = p.decoded[start..end].as_chunks::<LANES>();
                for ((x, reciprocal), decoded) in values.iter().zip(reciprocals).zip(decoded) {
                    lanes.add(x, reciprocal, decoded, scale);
                }
                if !values_rest.is_empty() {
                    // Zeros lose nothing. (A scale that is not finite would make NaN of them; it has
                    // made NaN of the sum already.)
                    let pad = |rest: &[f32]| {
                        let mut padded = [0.0; LANES];
                        padded[..rest.len()].copy_from_slice(rest);
                        padded
                    };
                    lanes.add(&pad(values_rest), &pad(reciprocals_rest), &pad(decoded_rest), scale);
                }
                start = end;
            }
            let mut loss = lanes.sum();
            let [zero, subnormal, largest] = count_codes(p.codes, p.normal, p.largest);
            loss.subnormal = subnormal;
            // Loops and no closures, to which the vectors of this function do not reach.
            if zero > 0 {
                let mut flushed = 0u32;
                for (&x, &decoded) in p.values.iter().zip(p.decoded) {
                    flushed += u32::from((x != 0.0) & (decoded == 0.0));
                }
                loss.flushed = flushed.into();
            }
            if largest > 0 {
                let mut saturated = 0u32;
                for scaled in p.scaled {
                    saturated += u32::from(scaled.abs() > p.overflow);
                }
                loss.saturated = saturated.into();
            }
            loss
        }
    }
    Arch::new().dispatch(Run(piece))
}

/// How many codes are zero, subnormal, and of the largest magnitude (clipped ones are among these).
#[inline(always)]
fn count_codes(codes: &[u8], normal: u8, largest: u8) -> [u64; 3] {
    let mut counts = [0u64; 3];
    // Counts of so few fit into bytes, and bytes are what most of fit into a vector.
    for codes in codes.chunks(128) {
        let (mut zero, mut subnormal, mut clipped) = (0u8, 0u8, 0u8);
        for &code in codes {
            let magnitude = code & 0x7F;
            zero += u8::from(magnitude == 0);
            subnormal += u8::from((magnitude != 0) & (magnitude < normal));
            clipped += u8::from(magnitude == largest);
        }
        for (count, part) in counts.iter_mut().zip([zero, subnormal, clipped]) {
            *count += u64::from(part);
        }
    }
    counts
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
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, x: &[f32; LANES], reciprocal: &[f32; LANES], decoded: &[f32; LANES], scale: f32) {
        for i in 0..LANES {
            // One rounding: the product itself is not rounded.
            let error = decoded[i].mul_add(scale, -x[i]);
            let wide = f64::from(error);
            self.error[i] = wide.mul_add(wide, self.error[i]);
            self.relative[i] += f64::from(error.abs() * reciprocal[i]);
        }
    }

    fn sum(&self) -> Loss {
        Loss { error: self.error.iter().sum(), relative: self.relative.iter().sum(), ..Loss::default() }
    }
}
