//! What a GEMM's result should have been: the exact product, and plain f64 and f32 sums.
//!
//! | function | what it computes for each output |
//! |---|---|
//! | [`exact`] | `sum_k a sa b sb` with no rounding at all, then one rounding to f64 |
//! | [`exact_rows`] | the same for some rows of the output, with progress |
//! | [`exact_f32`] | `sum_k a b` of two f32 matrices, likewise exact |
//! | [`ExactGemm`] | all of the above, also `alpha * sum + beta * C`, operands of either kind |
//! | [`sequential_f64`] | f64 arithmetic in the order of K |
//! | [`sequential_f32`] | f32 fused multiply-adds in the order of K |
//!
//! Everywhere A is `[M, K]`, B is `[N, K]`, both K-major, and the result `[M, N]` in standard
//! order, computed in parallel over outputs; the number of threads does not matter to the bits.
//!
//! ```
//! use fp8gemm_formats::ScaledMatrix;
//! use fp8gemm_problem::OperandType;
//! use fp8gemm_sim::reference;
//! use ndarray::{Array2, array};
//!
//! // 256 * 256 + 2^-9 * 2^-9, exactly: twelve bits more than the tensor core keeps.
//! let a = ScaledMatrix::unscaled(OperandType::E4m3, array![[0x78, 0x01]]);
//! let exact = reference::exact(&a.view(), &a.view())?;
//! assert_eq!(exact[(0, 0)], 65536.0 + f64::powi(2.0, -18));
//! # Ok::<(), fp8gemm_sim::SimError>(())
//! ```

mod exact;
mod integer;
mod sequential;

pub(crate) use exact::exact_epilogue;
pub use exact::{ExactGemm, ExactOperand};
pub use sequential::{sequential_f32, sequential_f64};

use fp8gemm_formats::ScaledView;
use ndarray::{Array2, ArrayView2};

use crate::SimError;

/// The f64 nearest (ties to even) to the exact `sum_k a sa b sb` of every output.
///
/// Nothing is rounded before the end: FP8 products are integers times a power of two, products of
/// f32 scales are exact in 48 bits, and the sum is a fixed-point integer of 1152 bits. A sum of
/// exactly zero is +0.
///
/// Non-finite codes and scales follow IEEE 754 term by term: an output is NaN (always
/// [`f64::NAN`]) if one of its terms is, or if terms are infinities of both signs; else the
/// infinity that occurs. A term is NaN if a factor is, or if an infinite factor meets a zero one.
///
/// # Errors
/// [`SimError::KMismatch`].
pub fn exact(a: &ScaledView<'_>, b: &ScaledView<'_>) -> Result<Array2<f64>, SimError> {
    ExactGemm::new(shorter(a)?, shorter(b)?).run()
}

/// [`exact`] for the chosen rows of A only, in the order given: `[rows.len(), N]`.
///
/// `done` is called with the number of multiply-adds just finished, from any thread; the numbers
/// add up to `rows.len() * N * K`.
///
/// # Errors
/// [`SimError::KMismatch`], or [`SimError::Format`] for a row that A has not.
pub fn exact_rows(
    a: &ScaledView<'_>,
    b: &ScaledView<'_>,
    rows: &[usize],
    done: &(dyn Fn(u64) + Sync),
) -> Result<Array2<f64>, SimError> {
    ExactGemm::new(shorter(a)?, shorter(b)?).rows(rows).run_with(done)
}

/// The f64 nearest to the exact `sum_k a b` of every output, with the rules of [`exact`].
///
/// # Errors
/// [`SimError::KMismatch`].
pub fn exact_f32(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Result<Array2<f64>, SimError> {
    ExactGemm::new(a.reborrow(), b.reborrow()).run()
}

/// The same view with a lifetime that two operands can share: `ndarray` views do not shorten theirs
/// by themselves.
fn shorter<'a>(view: &'a ScaledView<'_>) -> Result<ScaledView<'a>, SimError> {
    Ok(ScaledView::new(view.ty(), view.layout(), view.codes().reborrow(), view.scales().reborrow())?)
}
