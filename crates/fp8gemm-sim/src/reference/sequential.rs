//! Plain sums in the order of K, as simple loops on a CPU or on CUDA cores give them.

use core::ops::Range;

use fp8gemm_formats::{Fp8Format, ScaledView};
use ndarray::parallel::prelude::*;
use ndarray::{Array2, Axis};

use crate::SimError;

/// `acc = fl(acc + fl(x * y))` in f64 over k = 0, 1, ..., from +0, with `x = a sa` and `y = b sb`
/// (both exact in f64): what a reference in double precision computes.
///
/// # Errors
/// [`SimError::KMismatch`].
pub fn sequential_f64(a: &ScaledView<'_>, b: &ScaledView<'_>) -> Result<Array2<f64>, SimError> {
    run(a, b, |code, scale| f64::from(code) * f64::from(scale))
}

/// `acc = fma(x, y, acc)` in f32, to nearest even, over k = 0, 1, ..., from +0, with `x = fl(a sa)`
/// and `y = fl(b sb)`: dequantise, then multiply on CUDA cores. No tensor core is involved; the
/// difference to [`exact`](super::exact) is what f32 costs.
///
/// # Errors
/// [`SimError::KMismatch`].
pub fn sequential_f32(a: &ScaledView<'_>, b: &ScaledView<'_>) -> Result<Array2<f32>, SimError> {
    run(a, b, |code, scale| code * scale)
}

/// The arithmetic of one of the sums above.
trait Real: Copy + Default + Send + Sync {
    fn add_product(self, x: Self, y: Self) -> Self;
}

impl Real for f64 {
    #[inline(always)]
    fn add_product(self, x: f64, y: f64) -> f64 {
        self + x * y
    }
}

impl Real for f32 {
    #[inline(always)]
    fn add_product(self, x: f32, y: f32) -> f32 {
        x.mul_add(y, self)
    }
}

/// Outputs that are computed together: as many sums as fit the vector registers, none reordered.
const LANES: usize = 32;

/// Elements of K that are dequantised at once.
const CHUNK: usize = 128;

fn run<T: Real>(
    a: &ScaledView<'_>,
    b: &ScaledView<'_>,
    dequantise: impl Fn(f32, f32) -> T + Sync,
) -> Result<Array2<T>, SimError> {
    let (m, k_a, n, k_b) = (a.rows(), a.columns(), b.rows(), b.columns());
    SimError::check_shapes((m, k_a), (n, k_b), None)?;
    // Bands of LANES rows of B, transposed on the fly; the result is built transposed, [N, M].
    let mut transposed = Array2::from_elem((n, m), T::default());
    transposed.axis_chunks_iter_mut(Axis(0), LANES).into_par_iter().enumerate().for_each(|(i, mut out)| {
        let columns = i * LANES..i * LANES + out.nrows();
        let mut panel = Vec::new();
        let mut row = Vec::new();
        for start in (0..k_a).step_by(CHUNK) {
            let k = start..k_a.min(start + CHUNK);
            panel.clear();
            panel.resize(k.len(), [T::default(); LANES]);
            for (lane, column) in columns.clone().enumerate() {
                let values = values(b, column, k.clone(), &dequantise);
                panel.iter_mut().zip(values).for_each(|(panel, value)| panel[lane] = value);
            }
            for r in 0..m {
                row.clear();
                row.extend(values(a, r, k.clone(), &dequantise));
                let mut sums = [T::default(); LANES];
                sums.iter_mut().zip(out.column(r)).for_each(|(sum, before)| *sum = *before);
                pulp::Arch::new().dispatch(Sums { row: &row, panel: &panel, sums: &mut sums });
                out.column_mut(r).iter_mut().zip(sums).for_each(|(after, sum)| *after = sum);
            }
        }
    });
    Ok(transposed.reversed_axes().as_standard_layout().into_owned())
}

fn values<T>(
    view: &ScaledView<'_>,
    row: usize,
    k: Range<usize>,
    dequantise: &impl Fn(f32, f32) -> T,
) -> impl Iterator<Item = T> {
    let table = Fp8Format::from(view.ty()).decode_table();
    k.map(move |k| dequantise(table[usize::from(view.codes()[(row, k)])], view.scale_at(row, k)))
}

/// A struct, so that `pulp` compiles the loop with FMA where there is one.
struct Sums<'a, T> {
    row: &'a [T],
    panel: &'a [[T; LANES]],
    sums: &'a mut [T; LANES],
}

impl<T: Real> pulp::WithSimd for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let mut sums = *self.sums;
        for (x, y) in self.row.iter().zip(self.panel) {
            for (sum, y) in sums.iter_mut().zip(y) {
                *sum = sum.add_product(*x, *y);
            }
        }
        *self.sums = sums;
    }
}
