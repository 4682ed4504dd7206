//! Numbers and matrices out of the fuzzer's bytes. A plain reading of the bytes gives hardly ever
//! a tie, an edge of a format or a block of similar magnitudes, so these are chosen on purpose.

use arbitrary::{Result, Unstructured};
use fp8gemm_formats::Fp8Format;
use half::{bf16, f16};

use crate::oracle::Grid;

/// Any f32 bits; values at and around the codes, ties and ends of the FP8 formats are common.
pub fn f32_value(u: &mut Unstructured<'_>) -> Result<f32> {
    const SPECIAL: [u32; 12] = [
        0,
        0x8000_0000,
        0x7F80_0000,
        0xFF80_0000,
        0x7FC0_0000,
        0xFF80_0001,
        0x7F7F_FFFF,
        0xFF7F_FFFF,
        0x0000_0001,
        0x007F_FFFF,
        0x0080_0000,
        0x3F80_0000,
    ];
    Ok(match u.int_in_range(0..=7)? {
        0 | 1 => f32::from_bits(u.arbitrary()?),
        2 => f32::from_bits(*u.choose(&SPECIAL)?),
        3 | 4 => near_a_code(u)? as f32,
        5 => f32::from(u.arbitrary::<i16>()?) / 256.0,
        6 => f16::from_bits(u.arbitrary()?).to_f32(),
        _ => bf16::from_bits(u.arbitrary()?).to_f32(),
    })
}

/// Any f64 bits; as [`f32_value`], with the neighbours that only an f64 has.
pub fn f64_value(u: &mut Unstructured<'_>) -> Result<f64> {
    Ok(match u.int_in_range(0..=3)? {
        0 => f64::from_bits(u.arbitrary()?),
        1 => {
            let near = near_a_code(u)?;
            let steps: i8 = u.arbitrary()?;
            f64::from_bits(near.to_bits().wrapping_add_signed(i64::from(steps)))
        }
        2 => f64::from(u.arbitrary::<i32>()?) * 2f64.powi(-i32::from(u.arbitrary::<u8>()?)),
        _ => f64::from(f32_value(u)?),
    })
}

/// A code of a format, the middle to the next code, or an f32 a few steps from either.
fn near_a_code(u: &mut Unstructured<'_>) -> Result<f64> {
    let grid = Grid::of(*u.choose(&Fp8Format::ALL)?);
    let code: u8 = u.arbitrary()?;
    let below = grid.magnitude(u32::from(code & 0x7F));
    let above = grid.magnitude(u32::from(code & 0x7F) + 1);
    let middle = if u.arbitrary()? { (below + above) / 2.0 } else { below } as f32;
    let steps = i32::from(u.arbitrary::<i8>()?) / 32;
    let near = f64::from(f32::from_bits(middle.to_bits().saturating_add_signed(steps)));
    Ok(if code & 0x80 == 0 { near } else { -near })
}

/// A handful of values from which a matrix of any size is filled: the fuzzer's input stays short,
/// and equal, extreme and ordinary values meet in one block.
pub fn pool<T>(
    u: &mut Unstructured<'_>,
    most: usize,
    mut value: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let len = u.int_in_range(1..=most)?;
    (0..len).map(|_| value(u)).collect()
}

/// A fixed scrambling of places, to pick from a [`pool`]: the same seed, row and column give the
/// same number on every machine.
pub fn scramble(seed: u32, row: usize, column: usize) -> usize {
    let mut x = u64::from(seed) ^ (row as u64) << 32 ^ (column as u64) << 8;
    // The finaliser of MurmurHash3.
    x = (x ^ x >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    x = (x ^ x >> 33).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    (x ^ x >> 33) as usize
}

/// A mutation for inputs that are read as a long sequence of choices: every other time libFuzzer's
/// own, else fresh random bytes. Small changes of a corpus hardly ever bring together, say, K above
/// 256, a split in two, block scales and f32 output; a random case does in one of a few hundred.
pub fn mutate_or_renew(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    if seed % 2 == 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    // No field of a case is that far back; a multiple of the words written below.
    let size = 2048.min(max_size & !7).min(data.len() & !7);
    for (i, word) in data[..size].chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(scramble(seed, i, 0) as u64).to_le_bytes());
    }
    size
}
