//! Single instructions against the model, before anything is scaled or promoted.
//!
//! ```text
//! wgmma.m64nNk32   d = step(a, b, c), chained over 32 of K at a time
//! mma.sync FP8     d = emulation of it in f16, chained likewise
//! f32              fma, mul, add, additions in memory, casts
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`QUESTIONS`] | single outputs that tell models apart, each with the model's answer and another's |
//! | [`wgmmas`], [`mmas`] | the kernels that run: every N, type mix, accumulator, source of A and sign |
//! | [`Tiles`] | random tiles of every regime of data, and accumulators of every kind |
//! | [`predict`] | the model's D of a kernel's tiles |
//! | [`scalar`] | f32 instructions: inputs and predictions |
//! | [`examine`], [`ask`], [`examine_scalars`] | what a GPU gives, beside the model |
//!
//! The kernels are `fp8gemm_jit::ProbeKernel`s and run as `fp8gemm_hopper::Probe`. They have **not run on
//! a GPU yet**; the model's side is what the recordings in `vectors/` were explained with.

mod gpu;
mod questions;
pub mod scalar;
mod tiles;

use fp8gemm_jit::{ProbeAccumulator, ProbeKernel};
use fp8gemm_problem::OperandType;
use fp8gemm_sim::tensor_core::emulated::{mma_sync_fp8_f16, mma_sync_fp8_f32};
use fp8gemm_sim::tensor_core::{InputFormat, Operand, TensorCore};
use half::f16;
use rayon::prelude::*;

pub use gpu::{Examined, Scalars, ask, examine, examine_scalars};
pub use questions::{QUESTIONS, Question};
pub use tiles::Tiles;

/// K of one FP8 instruction.
const K: usize = 32;

/// Every way of `wgmma` that is asked about: all 32 N, each with another combination of the rest, and
/// every combination of the rest with one N. A name occurs once.
pub fn wgmmas() -> Vec<ProbeKernel> {
    let mut rest = Vec::new();
    for a in OperandType::ALL {
        for b in OperandType::ALL {
            for accumulator in [ProbeAccumulator::F32, ProbeAccumulator::F16] {
                for a_in_registers in [false, true] {
                    for negate in [[false, false], [true, false], [false, true], [true, true]] {
                        rest.push((a, b, accumulator, a_in_registers, negate));
                    }
                }
            }
        }
    }
    let wgmma = |n: u32, index: usize, steps: u32| {
        let (a, b, accumulator, a_in_registers, negate) = rest[index % rest.len()];
        ProbeKernel::Wgmma { n, a, b, accumulator, steps, a_in_registers, negate }
    };
    // 29 is coprime to the number of combinations, so that neighbours differ in everything.
    let mut all: Vec<_> = (1..=32).map(|i| wgmma(i * 8, i as usize * 29, 1 + i % 4)).collect();
    all.extend((0..rest.len()).map(|index| wgmma(8, index, 1 + index as u32 % 2 * 3)));
    let mut seen = std::collections::HashSet::new();
    all.retain(|kernel| seen.insert(*kernel));
    all
}

/// Every way of FP8 `mma.sync` that is asked about.
pub fn mmas() -> Vec<ProbeKernel> {
    let mut all = Vec::new();
    for a in OperandType::ALL {
        for b in OperandType::ALL {
            for accumulator in [ProbeAccumulator::F32, ProbeAccumulator::F16] {
                for steps in [1, 3] {
                    all.push(ProbeKernel::Mma { a, b, accumulator, steps });
                }
            }
        }
    }
    all
}

/// The model's D of `tiles` under `kernel`: bits of f32, or of f16 in the low half. Nothing for a kernel
/// without tiles, or tiles of another kernel.
///
/// Without `accumulate` (scale-d 0) C is not looked at, NaN included, and the sum starts at +0. An
/// imm-scale of -1 turns the sign of that operand's codes.
pub fn predict(kernel: ProbeKernel, tiles: &Tiles, accumulate: bool) -> Vec<u32> {
    let Some((rows, columns, k)) = kernel.tile() else { return Vec::new() };
    if tiles.a.len() != tiles.count * rows * k || tiles.b.len() != tiles.count * columns * k {
        return Vec::new();
    }
    let output = |index: usize| {
        let (tile, row, column) = (index / (rows * columns), index / columns % rows, index % columns);
        let a = &tiles.a[(tile * rows + row) * k..][..k];
        let b = &tiles.b[(tile * columns + column) * k..][..k];
        let c = if accumulate { tiles.c[index] } else { 0 };
        one(kernel, a, b, c)
    };
    (0..tiles.c.len()).into_par_iter().map(output).collect()
}

/// One output.
pub(crate) fn one(kernel: ProbeKernel, a: &[u8], b: &[u8], c: u32) -> u32 {
    match kernel {
        ProbeKernel::Wgmma { a: a_type, b: b_type, accumulator, negate, .. } => {
            let core = match accumulator {
                ProbeAccumulator::F32 => TensorCore::HOPPER_FP8_F32,
                ProbeAccumulator::F16 => TensorCore::HOPPER_FP8_F16,
            };
            let a = operands(a_type, a, negate[0]);
            let b = operands(b_type, b, negate[1]);
            // Equally long, and the core is legal: there is no error.
            core.dot(&a, &b, c).unwrap_or(0)
        }
        ProbeKernel::Mma { a: a_type, b: b_type, accumulator, .. } => {
            let steps = a.as_chunks::<K>().0.iter().zip(b.as_chunks::<K>().0);
            steps.fold(c, |c, (a, b)| match accumulator {
                ProbeAccumulator::F32 => mma_sync_fp8_f32((a_type, a), (b_type, b), f32::from_bits(c)).to_bits(),
                ProbeAccumulator::F16 => {
                    mma_sync_fp8_f16((a_type, a), (b_type, b), f16::from_bits(c as u16)).to_bits().into()
                }
            })
        }
        ProbeKernel::Scalar => 0,
    }
}

fn operands(ty: OperandType, codes: &[u8], negate: bool) -> Vec<Operand> {
    let format = match ty {
        OperandType::E4m3 => InputFormat::E4m3,
        OperandType::E5m2 => InputFormat::E5m2,
    };
    let flip = if negate { 0x80 } else { 0 };
    codes.iter().map(|code| format.operand(u16::from(code ^ flip).into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Breaks if a value of an axis of `wgmma` is in no kernel, or a kernel cannot be.
    #[test]
    fn every_axis_is_asked_about() {
        let all = wgmmas();
        let mut values = BTreeSet::new();
        for kernel in &all {
            kernel.check().unwrap();
            let ProbeKernel::Wgmma { n, a, b, accumulator, steps, a_in_registers, negate } = *kernel else {
                panic!("{kernel}")
            };
            values.insert(format!("n {n}"));
            values.insert(format!("steps {steps}"));
            values.insert(format!("{a} {b} {accumulator} {a_in_registers} {negate:?}"));
        }
        assert_eq!(values.len(), 32 + 4 + 4 * 2 * 2 * 4);
        assert!(all.len() < 110, "{}", all.len());
        assert!(mmas().iter().all(|kernel| kernel.check().is_ok()));
    }

    /// Breaks if the model, or the way in which a question is put, no longer gives the answer that a
    /// question has on record.
    #[test]
    fn the_model_answers_its_questions() {
        for question in QUESTIONS {
            let (a, b) = question.codes();
            assert_eq!(one(question.kernel(), &a, &b, question.c), question.predicted, "{}", question.name);
            assert_ne!(Some(question.predicted), question.alternative, "{}", question.name);
        }
    }

    /// Breaks if imm-scale is not the sign of an operand, or scale-d 0 looks at C.
    #[test]
    fn signs_and_scale_d() {
        let kernel = |negate| ProbeKernel::Wgmma {
            n: 8,
            a: OperandType::E4m3,
            b: OperandType::E5m2,
            accumulator: ProbeAccumulator::F32,
            steps: 2,
            a_in_registers: false,
            negate,
        };
        let tiles = Tiles::generate(kernel([false, false]), 6, 3).unwrap();
        let plain = predict(kernel([false, false]), &tiles, false);
        assert_eq!(predict(kernel([true, true]), &tiles, false), plain);
        let negated = predict(kernel([true, false]), &tiles, false);
        for (one, other) in plain.iter().zip(&negated) {
            let special = *one == 0x7FFF_FFFF || *one == 0;
            assert!(if special { one == other } else { one ^ other == 1 << 31 }, "{one:#X} {other:#X}");
        }
        let mut poisoned = tiles.clone();
        poisoned.c.fill(0x7FC0_0000);
        assert_eq!(predict(kernel([false, false]), &poisoned, false), plain);
        assert!(predict(kernel([false, false]), &poisoned, true).iter().all(|d| *d == 0x7FFF_FFFF));
    }
}
