//! A [`Product`]: two quantised samples with their exact product, to hold accumulations against.

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_problem::{OutputType, Policy};
use fp8gemm_sim::metrics::Metrics;
use fp8gemm_sim::{Gemm, reference};
use ndarray::Array2;

use crate::StudyError;
use crate::sample::Distribution;

/// Sizes of `A [M, K] B [N, K]^T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of A.
    pub m: usize,
    /// Rows of B.
    pub n: usize,
    /// Elements of each sum.
    pub k: usize,
}

impl Shape {
    /// `M = N`.
    pub const fn square(mn: usize, k: usize) -> Self {
        Self { m: mn, n: mn, k }
    }
}

impl core::fmt::Display for Shape {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(&format!("{} x {} x {}", self.m, self.n, self.k))
    }
}

/// Quantised operands and their exact product.
///
/// ```
/// use fp8gemm_formats::quantize::{Quantizer, Recipe};
/// use fp8gemm_problem::Policy;
/// use fp8gemm_study::sample::Distribution;
/// use fp8gemm_study::{Product, Shape};
///
/// let product = Product::sample(Distribution::UNIFORM, Quantizer::new(Recipe::TeCurrent), Shape::square(16, 4096), 1)?;
/// assert!(product.error(Policy::Chain)?.bias < -0.05);
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Product {
    /// A, quantised.
    pub a: ScaledMatrix,
    /// B, quantised.
    pub b: ScaledMatrix,
    /// The exact product of the quantised operands, rounded once to f64.
    pub exact: Array2<f64>,
}

impl Product {
    /// Samples both operands (roles `a` and `b`) and quantises them alike.
    ///
    /// # Errors
    /// Of the distribution and the quantiser.
    pub fn sample(
        distribution: Distribution,
        quantizer: Quantizer,
        shape: Shape,
        seed: u64,
    ) -> Result<Self, StudyError> {
        let a = distribution.sample(seed, "a", (shape.m, shape.k))?;
        let b = distribution.sample(seed, "b", (shape.n, shape.k))?;
        Self::new(quantizer.quantize(a.view())?, quantizer.quantize(b.view())?)
    }

    /// Of operands that exist.
    ///
    /// # Errors
    /// Where they disagree about K.
    pub fn new(a: ScaledMatrix, b: ScaledMatrix) -> Result<Self, StudyError> {
        let exact = reference::exact(&a.view(), &b.view())?;
        Ok(Self { a, b, exact })
    }

    /// What Hopper computes under the policy, f32 out. Other cores and outputs: [`Gemm`] itself.
    ///
    /// # Errors
    /// Where the policy is not legal for the scales.
    pub fn output(&self, policy: Policy) -> Result<Array2<f32>, StudyError> {
        Ok(Gemm::new(self.a.view(), self.b.view()).policy(policy).output(OutputType::F32).run()?.to_f32())
    }

    /// The error of accumulation alone: [`output`](Self::output) against the exact product of the
    /// quantised operands.
    ///
    /// # Errors
    /// Those of [`output`](Self::output).
    pub fn error(&self, policy: Policy) -> Result<Metrics, StudyError> {
        Ok(Metrics::new(self.exact.view(), self.output(policy)?.view())?)
    }
}
