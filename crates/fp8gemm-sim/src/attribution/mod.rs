//! Where the error of a scaled FP8 GEMM comes from.
//!
//! Each output is computed six times, every time with one more source of error:
//!
//! | value | computed as | its step from the value before is |
//! |---|---|---|
//! | v0 | `alpha * A B^T + beta * C` of the unquantised operands, exact | |
//! | v1 | the same of the quantised operands (`code * scale`), exact | [`Stage::Quantization`] |
//! | v2 | products cut at alignment, accumulator never rounded; promoted and scaled exactly | [`Stage::Alignment`] |
//! | v3 | the tensor core's own results; promoted and scaled exactly | [`Stage::Accumulator`] |
//! | v4 | the kernel's f32 arithmetic: `fl(sa*sb)`, promotion, alpha, beta | [`Stage::Promotion`] |
//! | v5 | D, after the cast | [`Stage::OutputCast`] |
//!
//! v1 to v5 follow the [`Policy`], v5 is what [`Gemm`] gives.
//!
//! **Exactness.** All six values of an element are rounded (to nearest even, v0 to v3 first to f64)
//! to multiples of 2^-50 relative to the binade of the largest of them. Errors are differences of
//! such multiples, so every error is exact in f64, and so are their sums in the order of the stages:
//! the five errors add up to `v5 - v0` without remainder. v4 and v5 are already such multiples unless they
//! are 2^-26 of the largest value or less.
//!
//! **Alignment and accumulator.** The accumulator is cut at alignment like any product. Where its
//! rounding truncates to as many bits as alignment keeps (Hopper FP8: 13 and 13), rounding it first
//! changes nothing there, and `Stage::Accumulator` is only the last rounding of each chain.
//!
//! Outputs of which a value is not finite have no errors; they are left out and counted.
//!
//! For a large problem, gather some rows first:
//! [`ScaledView::gather_rows`](fp8gemm_formats::ScaledView::gather_rows), and the same rows of the
//! unquantised A and of C. An output depends on no other row.
//!
//! ```
//! use fp8gemm_formats::quantize::{Quantizer, Recipe};
//! use fp8gemm_problem::{Policy, ScaleLayout};
//! use fp8gemm_sim::attribution::{Attribution, Stage};
//! use ndarray::Array2;
//!
//! // Positive data over a long K: truncation is a bias, and without promotion the largest error.
//! let x = Array2::from_shape_fn((4, 4096), |(row, k)| ((row * 37 + k * 101) % 997) as f32 / 997.0);
//! let quantized = Quantizer::new(Recipe::TorchaoFloat8).with_layout(ScaleLayout::Row).quantize(x.view())?;
//! let errors = Attribution::new(x.view(), x.view(), quantized.view(), quantized.view())
//!     .policy(Policy::Chain)
//!     .run()?
//!     .summary();
//! assert!(errors.stage(Stage::Alignment).relative_bias < -0.05);
//! println!("{errors}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod stages;
mod summary;

pub use summary::{StageSummary, Summary};

use core::fmt;

use fp8gemm_formats::ScaledView;
use fp8gemm_problem::{Epilogue, OutputType, Policy, Side};
use ndarray::{Array2, ArrayView2, Zip};

use crate::kulisch::power_of_two;
use crate::tensor_core::TensorCore;
use crate::{Gemm, Matrix, MatrixView, SimError};

/// A source of error, in the order in which they arise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// FP8 codes and scales instead of the f32 operands.
    Quantization,
    /// Terms cut to the largest one's exponent in each tensor-core step.
    Alignment,
    /// Sums rounded to the accumulator's bits.
    Accumulator,
    /// f32 arithmetic outside the tensor core: scales, promotion, alpha and beta.
    Promotion,
    /// The cast to D's type.
    OutputCast,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 5] =
        [Self::Quantization, Self::Alignment, Self::Accumulator, Self::Promotion, Self::OutputCast];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Quantization => "quantisation",
            Self::Alignment => "alignment truncation",
            Self::Accumulator => "accumulator rounding",
            Self::Promotion => "promotion",
            Self::OutputCast => "output cast",
        })
    }
}

/// A GEMM whose errors are to be attributed: see the [module](self).
///
/// A `[M, K]` and B `[N, K]`, unquantised in f32 and quantised; everything else as in
/// [`Gemm`].
#[derive(Clone, Debug)]
pub struct Attribution<'a> {
    unquantized: (ArrayView2<'a, f32>, ArrayView2<'a, f32>),
    a: ScaledView<'a>,
    b: ScaledView<'a>,
    c: Option<MatrixView<'a>>,
    output: OutputType,
    policy: Policy,
    epilogue: Epilogue,
    core: TensorCore,
}

impl<'a> Attribution<'a> {
    /// Of `A B^T` with `promote128` on a Hopper FP8 tensor core, bf16 out. First the unquantised
    /// operands, then what they were quantised to.
    pub fn new(
        unquantized_a: ArrayView2<'a, f32>,
        unquantized_b: ArrayView2<'a, f32>,
        a: ScaledView<'a>,
        b: ScaledView<'a>,
    ) -> Self {
        Self {
            unquantized: (unquantized_a, unquantized_b),
            a,
            b,
            c: None,
            output: OutputType::Bf16,
            policy: Policy::default(),
            epilogue: Epilogue::default(),
            core: TensorCore::HOPPER_FP8_F32,
        }
    }

    /// The matrix C, `[M, N]`, read where the epilogue's beta is not 0. It is taken as given: no
    /// error is attributed to it.
    #[must_use]
    pub fn c(mut self, c: MatrixView<'a>) -> Self {
        self.c = Some(c);
        self
    }

    /// Element type of D; bf16 unless set.
    #[must_use]
    pub fn output(mut self, output: OutputType) -> Self {
        self.output = output;
        self
    }

    /// How products are accumulated; `promote128` unless set.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Alpha and beta; 1 and 0 unless set.
    #[must_use]
    pub fn epilogue(mut self, epilogue: Epilogue) -> Self {
        self.epilogue = epilogue;
        self
    }

    /// The tensor core; Hopper FP8 unless set.
    #[must_use]
    pub fn core(mut self, core: TensorCore) -> Self {
        self.core = core;
        self
    }

    /// The kernel whose result is explained.
    fn gemm(&self) -> Gemm<'a> {
        let gemm =
            Gemm::new(self.a, self.b).output(self.output).policy(self.policy).epilogue(self.epilogue).core(self.core);
        match &self.c {
            Some(c) => gemm.c(c.clone()),
            None => gemm,
        }
    }

    /// Checks everything that [`run`](Self::run) would refuse.
    ///
    /// # Errors
    /// What [`Gemm::check`] says; [`SimError::Shape`] where unquantised and quantised operands
    /// differ in shape; [`SimError::NonFinite`] for an unquantised value that is NaN or infinite.
    pub fn check(&self) -> Result<(), SimError> {
        self.gemm().check()?;
        for (side, what, unquantized, quantized) in [
            (Side::A, "the unquantised A", &self.unquantized.0, &self.a),
            (Side::B, "the unquantised B", &self.unquantized.1, &self.b),
        ] {
            let (rows, columns) = unquantized.dim();
            let (expected_rows, expected_columns) = (quantized.rows(), quantized.columns());
            if (rows, columns) != (expected_rows, expected_columns) {
                return Err(SimError::Shape { what, rows, columns, expected_rows, expected_columns });
            }
            if let Some(((row, column), &value)) = unquantized.indexed_iter().find(|(_, x)| !x.is_finite()) {
                let rule = "the error of a result that is not finite has no parts";
                return Err(SimError::NonFinite { side, row, column, value, rule });
            }
        }
        Ok(())
    }

    /// Computes all six values of every output, `48 * M * N` bytes.
    ///
    /// # Errors
    /// What [`check`](Self::check) says.
    pub fn run(&self) -> Result<Attributed, SimError> {
        self.run_with(&|_| {})
    }

    /// Like [`run`](Self::run), calling `done` with the number of multiply-adds just finished,
    /// from any thread. The numbers add up to `5 * M * N * K`: one pass for each of v0 to v4.
    ///
    /// # Errors
    /// What [`check`](Self::check) says.
    pub fn run_with(&self, done: &(dyn Fn(u64) + Sync)) -> Result<Attributed, SimError> {
        self.check()?;
        let (mut values, d) = stages::values(self, done)?;
        let excluded = to_common_grid(&mut values);
        Ok(Attributed { values, d, excluded })
    }
}

/// Binary places of the common grid below the largest value of an element.
const GRID_BITS: i32 = 50;

/// Rounds the values of each element to its common grid; elements with values that are not finite
/// become NaN in all six. Returns how many those are.
fn to_common_grid(values: &mut [Array2<f64>; 6]) -> usize {
    let mut excluded = 0;
    let [v0, v1, v2, v3, v4, v5] = values;
    // Six arrays are one too many for a single Zip.
    let mut grid =
        Zip::from(&*v0).and(&*v1).and(&*v2).and(&*v3).map_collect(|x0, x1, x2, x3| largest(&[*x0, *x1, *x2, *x3]));
    Zip::from(&mut grid).and(&*v4).and(&*v5).for_each(|grid, x4, x5| {
        *grid = largest(&[*grid, *x4, *x5]);
        excluded += usize::from(!grid.is_finite());
    });
    for values in [v0, v1, v2, v3, v4, v5] {
        Zip::from(values).and(&grid).for_each(|value, largest| *value = on_grid(*value, *largest));
    }
    excluded
}

/// The largest magnitude; not finite if one of the values is not.
fn largest(values: &[f64]) -> f64 {
    if values.iter().all(|x| x.is_finite()) { values.iter().fold(0.0, |m, x| x.abs().max(m)) } else { f64::NAN }
}

/// `x` as a multiple of 2^-50 times the binade of `largest`; NaN if that is not finite.
fn on_grid(x: f64, largest: f64) -> f64 {
    if largest == 0.0 || !largest.is_finite() {
        return largest * 0.0;
    }
    // Magnitudes lie between 2^-480 and 2^460, far from the ends of f64: both scalings are exact.
    let unit = (largest.to_bits() >> 52) as i32 - 1023 - GRID_BITS;
    (x * power_of_two(-unit)).round_ties_even() * power_of_two(unit)
}

/// The six values of every output; see the [module](self).
#[derive(Clone, Debug)]
pub struct Attributed {
    values: [Array2<f64>; 6],
    d: Matrix,
    excluded: usize,
}

impl Attributed {
    /// v0 to v5 on the common grid of each element; NaN in all six where one is not finite.
    pub fn values(&self) -> &[Array2<f64>; 6] {
        &self.values
    }

    /// The result itself, with the bits of [`Gemm::run`].
    pub fn d(&self) -> &Matrix {
        &self.d
    }

    /// Elements left out because a value is not finite.
    pub fn excluded(&self) -> usize {
        self.excluded
    }

    /// The error that a stage adds to each output, exact.
    pub fn error(&self, stage: Stage) -> Array2<f64> {
        &self.values[stage as usize + 1] - &self.values[stage as usize]
    }

    /// `v5 - v0` of each output: exactly the sum of the five errors, added in order.
    pub fn total(&self) -> Array2<f64> {
        &self.values[5] - &self.values[0]
    }

    /// Biases, variances and shares of the stages over all outputs.
    pub fn summary(&self) -> Summary {
        Summary::new(self)
    }
}
