//! f32 instructions outside of the tensor cores: what the promotion and the epilogue are made of, and
//! additions in memory, which they are not made of.

use fp8gemm_formats::{Fp8Format, Overflow, Rounding};
use fp8gemm_sim::{NAN_F32, f32_to_bf16, f32_to_f16};

/// Words of one element's result, in order.
pub const WORDS: [&str; 8] = [
    "fma.rn(x, y, z)",
    "mul.rn(x, y)",
    "add.rn(x, z)",
    "z + x by red.global.add",
    "z + x by cp.reduce.async.bulk",
    "cvt.rn.bf16x2(x, y)",
    "cvt.rn.f16x2(x, y)",
    "cvt.rn.satfinite to e4m3x2, e5m2x2",
];

/// Inputs: every pair of special values in x and z, each with one of them in y, then `random` triples of
/// any bits.
pub fn inputs(random: usize, seed: u64) -> [Vec<f32>; 3] {
    use proptest::prelude::RngExt;
    use proptest::test_runner::{RngAlgorithm, TestRng};
    #[rustfmt::skip]
    const SPECIAL: [u32; 18] = [
        0x0000_0000, 0x8000_0000, 0x0000_0001, 0x8000_0001, 0x0040_0000, 0x007F_FFFF, 0x0080_0000, 0x8080_0000, 0x0100_0000,
        0x3F80_0000, 0xBF80_0000, 0x7F7F_FFFF, 0xFF7F_FFFF, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFFC1_2345, 0x7F80_0001,
    ];
    let mut triples = Vec::new();
    for (i, x) in SPECIAL.into_iter().enumerate() {
        for (j, z) in SPECIAL.into_iter().enumerate() {
            triples.push([x, SPECIAL[(i * 5 + j * 7) % SPECIAL.len()], z]);
        }
    }
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    triples.extend((0..random).map(|index| {
        let mut triple: [u32; 3] = rng.random();
        // Half of them with exponents near each other, where sums and subnormals happen.
        if index % 2 == 0 {
            let base = rng.random_range(0..250u32);
            for bits in &mut triple {
                *bits = *bits & 0x807F_FFFF | (base + rng.random_range(0..4u32)) << 23;
            }
            triple[1] = triple[1] & 0x807F_FFFF | rng.random_range(96..160u32) << 23;
        }
        triple
    }));
    [0, 1, 2].map(|part| triples.iter().map(|triple| f32::from_bits(triple[part])).collect())
}

/// What IEEE arithmetic with canonical NaN says. Words 3 and 4 are an addition that keeps subnormals:
/// the machine code of the first says that it flushes them ([`flushed_sum`]).
pub fn predict(x: f32, y: f32, z: f32) -> [u32; 8] {
    let canonical = |value: f32| if value.is_nan() { NAN_F32 } else { value.to_bits() };
    let sum = canonical(x + z);
    let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    let code = |format: Fp8Format, value: f32| {
        if value.is_nan() { 0x7F } else { format.encode(value, Rounding::NearestEven, Overflow::Saturate) }
    };
    let codes = |format| u32::from(code(format, x)) | u32::from(code(format, y)) << 8;
    [
        canonical(x.mul_add(y, z)),
        canonical(x * y),
        sum,
        sum,
        sum,
        pair(f32_to_bf16(x).to_bits(), f32_to_bf16(y).to_bits()),
        pair(f32_to_f16(x).to_bits(), f32_to_f16(y).to_bits()),
        codes(Fp8Format::E4m3) | codes(Fp8Format::E5m2) << 16,
    ]
}

/// An addition that takes subnormals for zero and gives none.
pub fn flushed_sum(x: f32, z: f32) -> u32 {
    let flush = |value: f32| if value.is_subnormal() { 0.0f32.copysign(value) } else { value };
    let sum = flush(flush(x) + flush(z));
    if sum.is_nan() { NAN_F32 } else { sum.to_bits() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if the predictions no longer have the values that the kernels' contract rests on.
    #[test]
    fn predictions_of_corners() {
        let tiny = f32::from_bits(1);
        let words = predict(tiny, 1.0, -0.0);
        assert_eq!((words[0], words[1], words[2]), (1, 1, 1));
        assert_eq!(flushed_sum(tiny, -0.0), 0);
        assert_eq!(predict(f32::NAN, 1.0, 1.0)[..3], [NAN_F32; 3]);
        assert_eq!(predict(464.0, f32::NAN, 0.0)[7], 0x7F_5F_7F_7E);
        let [x, y, z] = inputs(100, 1);
        assert_eq!((x.len(), y.len(), z.len()), (18 * 18 + 100, 18 * 18 + 100, 18 * 18 + 100));
    }
}
