//! The CPU twin: Hopper's FP8 tensor core and whole scaled GEMM kernels, bit for bit.
//!
//! ```text
//! D[m, n] = cast(alpha * sum_k (A[m, k] * scale_a) * (B[n, k] * scale_b) + beta * C[m, n])
//! ```
//!
//! | module or item | what it answers |
//! |---|---|
//! | [`tensor_core`] | what does one `wgmma` step give? Hopper, Ada, Blackwell and what-ifs |
//! | [`Gemm`] | which bits does a whole kernel give, under a [`Policy`](fp8gemm_problem::Policy)? |
//! | [`mod@reference`] | what is the exact result? |
//! | [`attribution`] | which part of an error comes from quantisation, truncation, promotion, the cast? |
//! | [`compare()`] | where do two outputs differ, and what does the difference look like? |
//! | [`metrics`] | how large is an error: SNR, ULP, relative, bias, DeepGEMM's `calc_diff` |
//!
//! The model reproduces 163,840 recorded outputs of single instructions and eight recorded kernels
//! of DeepGEMM 2.6.1 and cuBLASLt 13.0 (H200, driver 580.159.04) without a differing bit; the
//! recordings are in the repository's `vectors/` and replayed by this crate's tests.
//!
//! Everything is deterministic: bits depend on the inputs alone, not on threads, SIMD width or the
//! other rows of a batch. Errors are values and come before any work; no input panics.

#![forbid(unsafe_code)]

pub mod attribution;
mod compare;
mod error;
mod gemm;
mod kulisch;
mod matrix;
pub mod metrics;
pub mod reference;
mod round;
pub mod tensor_core;

pub use compare::{Bias, Comparison, Difference, DifferenceKind, ScaleGroup, compare, compare_with_c};
pub use error::SimError;
pub use gemm::{Gemm, Path};
pub use matrix::{Matrix, MatrixView};
pub use round::{NAN_16, NAN_F32, Rounding, f32_to_bf16, f32_to_f16};
