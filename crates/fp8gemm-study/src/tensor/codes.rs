//! FP8 tensors as they are: which codes and scales a checkpoint holds.

use fp8gemm_formats::{E8m0, Fp8Format, ScaledView};
use ndarray::Axis;
use rayon::prelude::*;

/// What the codes and scales of an FP8 tensor are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Codes {
    /// How many codes.
    pub elements: u64,
    /// Codes of zero, either sign.
    pub zero: u64,
    /// Codes of subnormal numbers.
    pub subnormal: u64,
    /// Codes of the largest finite value, either sign: clipped, or the largest of their block.
    pub saturated: u64,
    /// Codes of NaN and infinity.
    pub non_finite: u64,
    /// How many scales.
    pub scales: u64,
    /// The smallest scale; NaN where one is.
    pub smallest_scale: f32,
    /// The largest scale; NaN where one is.
    pub largest_scale: f32,
    /// Scales that are powers of two from 2^-127 to 2^127, as E8M0 holds them.
    pub powers_of_two: u64,
}

/// Counts the codes and scales of an FP8 tensor, reading it once.
///
/// ```
/// use fp8gemm_formats::ScaledMatrix;
/// use fp8gemm_problem::OperandType;
/// use fp8gemm_study::tensor::codes;
/// use ndarray::array;
///
/// // 448, 0, the smallest subnormal, 1.
/// let found = codes(&ScaledMatrix::unscaled(OperandType::E4m3, array![[0x7E, 0x80, 0x01, 0x38]]).view());
/// assert_eq!((found.saturated, found.zero, found.subnormal, found.powers_of_two), (1, 1, 1, 1));
/// ```
pub fn codes(view: &ScaledView<'_>) -> Codes {
    let format = Fp8Format::from(view.ty());
    let matrix = view.codes();
    let counts = matrix
        .axis_iter(Axis(0))
        .into_par_iter()
        .fold(
            || [0u64; 256],
            |mut counts, row| {
                row.iter().for_each(|&code| counts[usize::from(code)] += 1);
                counts
            },
        )
        .reduce(
            || [0; 256],
            |mut counts, other| {
                counts.iter_mut().zip(other).for_each(|(count, other)| *count += other);
                counts
            },
        );
    let count = |predicate: &dyn Fn(u8) -> bool| {
        (0..=u8::MAX).filter(|&code| predicate(code)).map(|code| counts[usize::from(code)]).sum()
    };
    let scales = view.scales();
    // NaN wins, so that it is not overlooked.
    let pick = |better: fn(f32, f32) -> bool| {
        scales
            .iter()
            .copied()
            .reduce(|best, scale| if scale.is_nan() || (!best.is_nan() && better(scale, best)) { scale } else { best })
    };
    Codes {
        elements: matrix.len() as u64,
        zero: count(&|code| format.is_zero(code)),
        subnormal: count(&|code| format.is_subnormal(code)),
        saturated: count(&|code| format.is_finite(code) && code & 0x7F == format.max_code()),
        non_finite: count(&|code| !format.is_finite(code)),
        scales: scales.len() as u64,
        smallest_scale: pick(|scale, best| scale < best).unwrap_or(f32::NAN),
        largest_scale: pick(|scale, best| scale > best).unwrap_or(f32::NAN),
        powers_of_two: scales.iter().filter(|&&scale| E8m0::exact(scale).is_some()).count() as u64,
    }
}
