//! What a scaled FP8 GEMM is, with no arithmetic in it.
//!
//! ```text
//! D[m, n] = alpha * sum_k (A[m, k] * scale_a) * (B[n, k] * scale_b) + beta * C[m, n]
//! ```
//!
//! A is `[M, K]` and B is `[N, K]`, both K-major ("NT" in BLAS words), the only layout that FP8
//! `wgmma` reads. This crate names the pieces of that sentence and says which combinations are
//! legal; every other crate of the workspace speaks in its terms:
//!
//! | type | what it decides |
//! |---|---|
//! | [`OperandType`], [`OutputType`] | the element types of A and B, of C and D |
//! | [`ScaleLayout`] | which elements share a scale (tensor, row, 1x128, 128x128, ...) |
//! | [`Policy`] | in which order, and with which roundings, the products are accumulated |
//! | [`Epilogue`] | alpha and beta |
//! | [`Problem`] | all of the above with M, N and K: printable, parseable, checkable |
//!
//! Everything prints and parses, so that a failing case is one line of text:
//!
//! ```
//! use fp8gemm_problem::{Policy, Problem};
//!
//! let text = "64x256x1024 a=e4m3:1x128 b=e4m3:128x128 d=bf16 policy=promote128";
//! let problem: Problem = text.parse()?;
//! assert_eq!(problem.policy, Policy::PROMOTE_128);
//! assert_eq!(problem.to_string(), text);
//! problem.check()?;
//! # Ok::<(), fp8gemm_problem::ProblemError>(())
//! ```

#![forbid(unsafe_code)]

mod element;
mod epilogue;
mod error;
mod layout;
mod policy;
mod problem;

pub use element::{OperandType, OutputType};
pub use epilogue::Epilogue;
pub use error::ProblemError;
pub use layout::ScaleLayout;
pub use policy::Policy;
pub use problem::{OperandSpec, Problem, Side};
