//! FP8 formats and scaled FP8 matrices.

mod error;
mod scaled;

pub use error::FormatError;
pub use scaled::{ScaledMatrix, ScaledView};
