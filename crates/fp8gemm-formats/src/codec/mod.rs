//! The codecs of single numbers: formats, rounding, and the types that hold one code.

mod e8m0;
mod format;
mod round;
mod types;

pub use e8m0::{E8m0, E8m0Rounding};
pub use format::Fp8Format;
pub(crate) use format::Spec;
pub use round::{Overflow, Rounding};
pub use types::{E4m3, E4m3Fnuz, E5m2, E5m2Fnuz};
