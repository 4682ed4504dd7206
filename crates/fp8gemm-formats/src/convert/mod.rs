//! Conversion of whole slices, with the bits of the scalar codecs.
//!
//! The loops run on AVX-512 or AVX2 where the processor has them (looked up at run time), on NEON
//! on aarch64, and on whatever the target's baseline gives elsewhere. They are single-threaded: to
//! use all cores, cut the slices into chunks.
//!
//! ```
//! use fp8gemm_formats::{Fp8Format, Overflow, Rounding, convert};
//!
//! let values: Vec<f32> = (0..1000).map(|i| i as f32 * 0.5).collect();
//! let mut codes = vec![0; values.len()];
//! convert::encode_f32(Fp8Format::E4m3, Rounding::NearestEven, Overflow::Saturate, &values, &mut codes)?;
//! let mut back = vec![0.0; values.len()];
//! convert::decode_f32(Fp8Format::E4m3, &codes, &mut back)?;
//! assert_eq!((back[29], back[999]), (14.0, 448.0));
//! # Ok::<(), fp8gemm_formats::FormatError>(())
//! ```

mod lane;
mod simd;
#[cfg(test)]
mod tests;

use half::{bf16, f16};

use self::lane::{Destination, Source};
use crate::{FormatError, Fp8Format, Overflow, Rounding};

fn check_lengths(source_len: usize, destination_len: usize) -> Result<(), FormatError> {
    if source_len == destination_len {
        Ok(())
    } else {
        Err(FormatError::LengthMismatch { source_len, destination_len })
    }
}

fn encode<T: Source>(
    format: Fp8Format,
    rounding: Rounding,
    overflow: Overflow,
    source: &[T],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    check_lengths(source.len(), destination.len())?;
    simd::run(simd::Encode { format, rounding, overflow, source, destination });
    Ok(())
}

fn encode_stochastic<T: Source>(
    format: Fp8Format,
    overflow: Overflow,
    source: &[T],
    random: &[u32],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    check_lengths(source.len(), destination.len())?;
    check_lengths(random.len(), destination.len())?;
    simd::run(simd::EncodeStochastic { format, overflow, source, random, destination });
    Ok(())
}

fn decode<T: Destination>(format: Fp8Format, source: &[u8], destination: &mut [T]) -> Result<(), FormatError> {
    check_lengths(source.len(), destination.len())?;
    simd::run(simd::Decode { format, source, destination });
    Ok(())
}

/// Encodes `source` into `destination`, element by element as [`Fp8Format::encode`] does.
///
/// [`Rounding::Stochastic`] uses the same random bits for every element here; for independent
/// rounding see [`encode_f32_stochastic`].
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn encode_f32(
    format: Fp8Format,
    rounding: Rounding,
    overflow: Overflow,
    source: &[f32],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    encode(format, rounding, overflow, source, destination)
}

/// [`encode_f32`] of f64 values: [`Fp8Format::encode_f64`], rounded once.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn encode_f64(
    format: Fp8Format,
    rounding: Rounding,
    overflow: Overflow,
    source: &[f64],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    encode(format, rounding, overflow, source, destination)
}

/// [`encode_f32`] of f16 values, which widen to f32 without loss.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn encode_f16(
    format: Fp8Format,
    rounding: Rounding,
    overflow: Overflow,
    source: &[f16],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    encode(format, rounding, overflow, source, destination)
}

/// [`encode_f32`] of bf16 values, which widen to f32 without loss.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn encode_bf16(
    format: Fp8Format,
    rounding: Rounding,
    overflow: Overflow,
    source: &[bf16],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    encode(format, rounding, overflow, source, destination)
}

/// Encodes with stochastic rounding, `random[i]` being the random bits of `source[i]`
/// ([`Rounding::Stochastic`]).
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn encode_f32_stochastic(
    format: Fp8Format,
    overflow: Overflow,
    source: &[f32],
    random: &[u32],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    encode_stochastic(format, overflow, source, random, destination)
}

/// [`encode_f32_stochastic`] of f64 values, rounded once.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn encode_f64_stochastic(
    format: Fp8Format,
    overflow: Overflow,
    source: &[f64],
    random: &[u32],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    encode_stochastic(format, overflow, source, random, destination)
}

/// [`encode_f32_stochastic`] of f16 values, which widen to f32 without loss.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn encode_f16_stochastic(
    format: Fp8Format,
    overflow: Overflow,
    source: &[f16],
    random: &[u32],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    encode_stochastic(format, overflow, source, random, destination)
}

/// [`encode_f32_stochastic`] of bf16 values, which widen to f32 without loss.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn encode_bf16_stochastic(
    format: Fp8Format,
    overflow: Overflow,
    source: &[bf16],
    random: &[u32],
    destination: &mut [u8],
) -> Result<(), FormatError> {
    encode_stochastic(format, overflow, source, random, destination)
}

/// Decodes `source` into `destination`, exactly, as [`Fp8Format::decode`] does. NaN gives
/// `7FFFFFFF`.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn decode_f32(format: Fp8Format, source: &[u8], destination: &mut [f32]) -> Result<(), FormatError> {
    decode(format, source, destination)
}

/// Decodes `source` into `destination`, exactly: f16 holds every FP8 value (those below 2^-14 as
/// f16 subnormals). NaN gives `7FFF`.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn decode_f16(format: Fp8Format, source: &[u8], destination: &mut [f16]) -> Result<(), FormatError> {
    decode(format, source, destination)
}

/// Decodes `source` into `destination`, exactly: bf16 holds every FP8 value. NaN gives `7FFF`.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn decode_bf16(format: Fp8Format, source: &[u8], destination: &mut [bf16]) -> Result<(), FormatError> {
    decode(format, source, destination)
}
