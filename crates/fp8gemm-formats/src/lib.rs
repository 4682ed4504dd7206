//! FP8 formats, exact conversions, and scaled FP8 matrices.
//!
//! | | what it is |
//! |---|---|
//! | [`Fp8Format`] | the four formats (E4M3, E5M2 and their FNUZ variants): constants, predicates, exact decoding, encoding under any [`Rounding`] and [`Overflow`] |
//! | [`E4m3`], [`E5m2`], [`E4m3Fnuz`], [`E5m2Fnuz`] | one number of a format, in the manner of `half::f16` |
//! | [`E8m0`] | a power-of-two scale of the OCP microscaling formats |
//! | [`convert`] | whole slices, by SIMD, with the bits of the scalar codecs |
//! | [`ScaledMatrix`], [`ScaledView`] | FP8 codes with the scales of their blocks |
//! | [`quantize`] | the recipes of the libraries that quantise to FP8, bit for bit |
//!
//! A number is rounded once, from its own significand, in one place; a NaN becomes the format's
//! canonical NaN; nothing is flushed to zero. All of it is checked against independent
//! implementations on every f32 there is.
//!
//! ```
//! use fp8gemm_formats::{E4m3, E8m0, E8m0Rounding, Fp8Format, Overflow, Rounding, convert};
//!
//! // One number: to nearest, ties to even, saturating.
//! assert_eq!(E4m3::from_f32(0.3).to_f32(), 0.3125);
//! assert_eq!(E4m3::from_f32(500.0), E4m3::MAX);
//!
//! // Other roundings and overflow rules.
//! let code = Fp8Format::E5m2.encode(0.3, Rounding::TowardZero, Overflow::NonSaturating);
//! assert_eq!(Fp8Format::E5m2.decode(code), 0.25);
//!
//! // A block with a power-of-two scale.
//! let block = [3.0, -1000.0, 0.5, 700.0];
//! let scale = E8m0::from_f32(1000.0 / 448.0, E8m0Rounding::Up, Overflow::Saturate).to_f32();
//! let scaled = block.map(|x| x / scale);
//! let mut codes = [0; 4];
//! convert::encode_f32(Fp8Format::E4m3, Rounding::NearestEven, Overflow::Saturate, &scaled, &mut codes)?;
//! let mut back = [0.0; 4];
//! convert::decode_f32(Fp8Format::E4m3, &codes, &mut back)?;
//! assert_eq!(back.map(|x| x * scale), [3.0, -1024.0, 0.5, 704.0]);
//! # Ok::<(), fp8gemm_formats::FormatError>(())
//! ```

#![forbid(unsafe_code)]

mod codec;
pub mod convert;
mod error;
pub mod quantize;
mod scaled;

pub use codec::{E4m3, E4m3Fnuz, E5m2, E5m2Fnuz, E8m0, E8m0Rounding, Fp8Format, Overflow, Rounding};
pub use error::FormatError;
pub use scaled::{ScaledMatrix, ScaledView};

/// Runs the README's example with the other documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
