//! The twin: a whole scaled GEMM, bit for bit as a Hopper kernel computes it.
//!
//! ```text
//! D[m, n] = cast(alpha * sum_k A[m, k] B[n, k] * scales + beta * C[m, n])
//! ```
//!
//! with the accumulation of [`Policy`](fp8gemm_problem::Policy) and the roundings of
//! [`Epilogue`](fp8gemm_problem::Epilogue). Outputs are computed in tiles, in parallel over tiles
//! with rayon; no sum is ever reordered, so the bits depend neither on the number of threads nor on
//! which [`Path`] computed them, and an output depends only on its own row of A, row of B, scales
//! and element of C.
//!
//! Checked against whole recorded kernels of DeepGEMM 2.6.1 (1D2D, 1D1D) and cuBLASLt 13.0 (fast
//! accumulation on and off) in `tests/recorded.rs`: every bit.
//!
//! ```
//! use fp8gemm_formats::ScaledMatrix;
//! use fp8gemm_problem::{OperandType, OutputType};
//! use fp8gemm_sim::{Gemm, Matrix};
//! use ndarray::Array2;
//!
//! // 2 x 128 ones times 3 x 128 halves: every output is 64.
//! let a = ScaledMatrix::unscaled(OperandType::E4m3, Array2::from_elem((2, 128), 0x38));
//! let b = ScaledMatrix::unscaled(OperandType::E4m3, Array2::from_elem((3, 128), 0x30));
//! let d = Gemm::new(a.view(), b.view()).output(OutputType::F32).run()?;
//! assert_eq!(d, Matrix::F32(Array2::from_elem((2, 3), 64.0)));
//! # Ok::<(), fp8gemm_sim::SimError>(())
//! ```

mod drive;
mod generic;
mod pack;
mod path;
mod simd;

pub use path::Path;

use fp8gemm_formats::ScaledView;
use fp8gemm_problem::{Epilogue, OperandSpec, OutputType, Policy, Problem};

use crate::tensor_core::TensorCore;
use crate::{Matrix, MatrixView, SimError};

/// One GEMM to simulate: operands, and everything that decides the bits of the result.
///
/// Built with [`Gemm::new`] and adjusted by the methods below; [`Gemm::run`] computes it. A is
/// `[M, K]`, B is `[N, K]`, both K-major; scales multiply on dequantisation. Non-finite scales are
/// computed with as the hardware would.
#[derive(Clone, Debug)]
pub struct Gemm<'a> {
    a: ScaledView<'a>,
    b: ScaledView<'a>,
    c: Option<MatrixView<'a>>,
    output: OutputType,
    policy: Policy,
    epilogue: Epilogue,
    core: TensorCore,
    path: Path,
}

impl<'a> Gemm<'a> {
    /// `A B^T` with `promote128` on a Hopper FP8 tensor core, bf16 out.
    pub fn new(a: ScaledView<'a>, b: ScaledView<'a>) -> Self {
        Self {
            a,
            b,
            c: None,
            output: OutputType::Bf16,
            policy: Policy::default(),
            epilogue: Epilogue::default(),
            core: TensorCore::HOPPER_FP8_F32,
            path: Path::best(),
        }
    }

    /// The matrix C, `[M, N]`. It is read only where the epilogue's beta is not 0.
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

    /// The tensor core to model; Hopper FP8 with f32 accumulator unless set. Every other one is
    /// computed on [`Path::Generic`], and must have an f32 accumulator.
    #[must_use]
    pub fn core(mut self, core: TensorCore) -> Self {
        self.core = core;
        self
    }

    /// Which implementation to use; the fastest of this machine unless set. All give the same
    /// bits; the choice exists for tests and benches. A path that this machine lacks falls back
    /// to [`Path::Portable`].
    #[must_use]
    pub fn path(mut self, path: Path) -> Self {
        self.path = path;
        self
    }

    /// The problem without its data.
    pub fn problem(&self) -> Problem {
        let spec = |x: &ScaledView<'_>| OperandSpec { ty: x.ty(), scales: x.layout() };
        Problem {
            m: self.a.rows(),
            n: self.b.rows(),
            k: self.a.columns(),
            a: spec(&self.a),
            b: spec(&self.b),
            c: self.c.as_ref().map(MatrixView::ty),
            d: self.output,
            policy: self.policy,
            epilogue: self.epilogue,
        }
    }

    /// Checks everything that [`run`](Self::run) checks, without computing.
    ///
    /// # Errors
    /// [`SimError::KMismatch`], [`SimError::Shape`] for C, [`SimError::Core`], or
    /// [`SimError::Problem`].
    pub fn check(&self) -> Result<(), SimError> {
        let (a, b) = ((self.a.rows(), self.a.columns()), (self.b.rows(), self.b.columns()));
        SimError::check_shapes(a, b, self.c.as_ref().map(MatrixView::dim))?;
        self.core.check_f32_accumulator()?;
        Ok(self.problem().check()?)
    }

    /// Computes D. M or N of 0 gives an empty D; K of 0 gives `beta * C`.
    ///
    /// Time is about `M * N * K / 8e9` seconds on one AVX-512 core (`docs/performance.md`); memory
    /// is D plus about a megabyte for each thread.
    ///
    /// # Errors
    /// What [`check`](Self::check) says.
    pub fn run(&self) -> Result<Matrix, SimError> {
        self.run_with(&|_| {})
    }

    /// Like [`run`](Self::run), calling `done` with the number of multiply-adds just finished:
    /// often enough for a progress bar, from any thread. The numbers add up to `M * N * K`.
    ///
    /// # Errors
    /// What [`check`](Self::check) says.
    pub fn run_with(&self, done: &(dyn Fn(u64) + Sync)) -> Result<Matrix, SimError> {
        self.check()?;
        Ok(drive::run(self, done))
    }
}
