//! Conversion of whole slices, with the bits of the scalar codecs.

use half::{bf16, f16};

use crate::{FormatError, Fp8Format, Overflow, Rounding};

fn check_lengths(source_len: usize, destination_len: usize) -> Result<(), FormatError> {
    if source_len == destination_len {
        Ok(())
    } else {
        Err(FormatError::LengthMismatch { source_len, destination_len })
    }
}

/// Encodes `source` into `destination`, element by element as [`Fp8Format::encode`] does.
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
    check_lengths(source.len(), destination.len())?;
    for (code, &x) in destination.iter_mut().zip(source) {
        *code = format.encode(x, rounding, overflow);
    }
    Ok(())
}

/// [`encode_f32`] of f64 values, rounded once.
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
    check_lengths(source.len(), destination.len())?;
    for (code, &x) in destination.iter_mut().zip(source) {
        *code = format.encode_f64(x, rounding, overflow);
    }
    Ok(())
}

/// [`encode_f32`] of f16 values, which widen without loss.
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
    check_lengths(source.len(), destination.len())?;
    for (code, &x) in destination.iter_mut().zip(source) {
        *code = format.encode(x.to_f32(), rounding, overflow);
    }
    Ok(())
}

/// [`encode_f32`] of bf16 values, which widen without loss.
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
    check_lengths(source.len(), destination.len())?;
    for (code, &x) in destination.iter_mut().zip(source) {
        *code = format.encode(x.to_f32(), rounding, overflow);
    }
    Ok(())
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
    check_lengths(source.len(), destination.len())?;
    check_lengths(source.len(), random.len())?;
    for ((code, &x), &bits) in destination.iter_mut().zip(source).zip(random) {
        *code = format.encode(x, Rounding::Stochastic { bits }, overflow);
    }
    Ok(())
}

/// Decodes `source` into `destination`, exactly, as [`Fp8Format::decode`] does.
///
/// # Errors
/// [`FormatError::LengthMismatch`] if the slices differ in length.
pub fn decode_f32(format: Fp8Format, source: &[u8], destination: &mut [f32]) -> Result<(), FormatError> {
    check_lengths(source.len(), destination.len())?;
    for (x, &code) in destination.iter_mut().zip(source) {
        *x = format.decode(code);
    }
    Ok(())
}
