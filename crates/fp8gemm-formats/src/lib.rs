//! FP8 formats and scaled FP8 matrices.

#![forbid(unsafe_code)]

mod codec;
pub mod convert;
mod error;
pub mod quantize;
mod scaled;

pub use codec::{E4m3, E4m3Fnuz, E5m2, E5m2Fnuz, E8m0, E8m0Rounding, Fp8Format, Overflow, Rounding};
pub use error::FormatError;
pub use scaled::{ScaledMatrix, ScaledView};
