//! Random tiles for single instructions.

use fp8gemm_jit::{ProbeAccumulator, ProbeKernel};
use fp8gemm_problem::{Epilogue, OperandSpec, OutputType, Policy, Problem, ScaleLayout};
use fp8gemm_sim::f32_to_f16;
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::{DataRegime, DifftestError, ScaleRegime, data};

/// Operands and accumulators of a kernel's tiles, each of one regime of data in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tiles {
    /// Tiles.
    pub count: usize,
    /// Codes `[count, rows, K]`.
    pub a: Vec<u8>,
    /// Codes `[count, columns, K]`.
    pub b: Vec<u8>,
    /// Bits `[count, rows, columns]`, f16 in the low half.
    pub c: Vec<u32>,
    /// The regime of each tile: its place in [`DataRegime::ALL`].
    pub regimes: Vec<u8>,
}

impl Tiles {
    /// `count` tiles for `kernel`, the same for the same seed. Empty for a kernel without tiles.
    ///
    /// # Errors
    /// None that legal kernels can reach.
    pub fn generate(kernel: ProbeKernel, count: usize, seed: u64) -> Result<Self, DifftestError> {
        let mut tiles = Self { count: 0, a: Vec::new(), b: Vec::new(), c: Vec::new(), regimes: Vec::new() };
        let (a, b, accumulator) = match kernel {
            ProbeKernel::Wgmma { a, b, accumulator, .. } | ProbeKernel::Mma { a, b, accumulator, .. } => {
                (a, b, accumulator)
            }
            ProbeKernel::Scalar => return Ok(tiles),
        };
        let Some((m, n, k)) = kernel.tile() else { return Ok(tiles) };
        let spec = |ty| OperandSpec { ty, scales: ScaleLayout::Tensor };
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let (a, b, d, c, policy) = (spec(a), spec(b), OutputType::F32, None, Policy::Chain);
        let problem = Problem { m, n, k, a, b, c, d, policy, epilogue: Epilogue::default() };
        for index in 0..count {
            let place = index % DataRegime::ALL.len();
            let [a, b] = data::operands(&problem, DataRegime::ALL[place], [ScaleRegime::Ordinary; 2], &mut rng)?;
            tiles.a.extend(a.codes());
            tiles.b.extend(b.codes());
            // Another kind of C for each round of regimes, and for neighbours.
            let kind = (index + index / DataRegime::ALL.len()) % 6;
            tiles.c.extend((0..m * n).map(|_| addend(kind, accumulator, &mut rng)));
            tiles.regimes.push(place as u8);
            tiles.count += 1;
        }
        Ok(tiles)
    }
}

/// Bits of one element of C: 0, numbers near 1, numbers of any exponent a product can meet, any bits,
/// subnormal and tiny ones, those near overflow.
fn addend(kind: usize, accumulator: ProbeAccumulator, rng: &mut TestRng) -> u32 {
    let power = |rng: &mut TestRng, from: i32, to: i32| 2f32.powi(rng.random_range(from..=to));
    let mantissa = |rng: &mut TestRng| f32::from_bits(0x3F80_0000 | rng.random::<u32>() >> 9);
    let sign = if rng.random() { 1.0 } else { -1.0 };
    let value = match kind {
        0 => return 0,
        1 => sign * mantissa(rng),
        2 => sign * mantissa(rng) * power(rng, -20, 18),
        3 => match accumulator {
            ProbeAccumulator::F32 => return rng.random(),
            ProbeAccumulator::F16 => return rng.random::<u16>().into(),
        },
        4 => match accumulator {
            ProbeAccumulator::F32 => return rng.random::<u32>() & 0x80FF_FFFF,
            ProbeAccumulator::F16 => return (rng.random::<u16>() & 0x87FF).into(),
        },
        _ => match accumulator {
            ProbeAccumulator::F32 => sign * mantissa(rng) * power(rng, 120, 127),
            ProbeAccumulator::F16 => sign * mantissa(rng) * power(rng, 12, 15),
        },
    };
    match accumulator {
        ProbeAccumulator::F32 => value.to_bits(),
        ProbeAccumulator::F16 => f32_to_f16(value).to_bits().into(),
    }
}
