//! skeleton
#![forbid(unsafe_code)]
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
