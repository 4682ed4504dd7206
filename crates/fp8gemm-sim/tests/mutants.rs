//! Are the tests any good? Every plausible wrong model must be exposed, by the recorded hardware
//! outputs and by the random regimes, and this prints at which rate.
//!
//! `cargo test --release -p fp8gemm-sim --test mutants -- --nocapture` shows the tables of
//! `docs/mutants.md`.

#![allow(clippy::unwrap_used)]

mod common;

use common::cases::Regime;
use fp8gemm_problem::OperandType;
use fp8gemm_sim::tensor_core::{InputFormat, TensorCore, mutants};
use half::f16;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Share of differing outputs, as text; an untouched cell stays empty to the eye.
fn percent(killed: usize, of: usize) -> String {
    if killed == 0 { "-".into() } else { format!("{:.2} %", 100.0 * killed as f64 / of as f64) }
}

/// Breaks if some wrong model would pass the replay of the hardware's outputs: then the replay
/// proves less than it seems to.
#[test]
fn recorded_vectors_kill_every_mutant() {
    for base in [TensorCore::HOPPER_FP8_F32, TensorCore::HOPPER_FP8_F16] {
        println!("\nrecorded outputs, {:?} accumulator", base.accumulator);
        println!("| mutant | {} |", common::DISTRIBUTIONS.join(" | "));
        for (name, mutant) in mutants::all(base) {
            let mut killed = [(0, 0); 8];
            for tiles in common::tiles().iter().filter(|tiles| tiles.core == base) {
                tiles.compare(mutant, |distribution, predicted, recorded| {
                    killed[distribution].0 += usize::from(predicted != recorded);
                    killed[distribution].1 += 1;
                });
            }
            println!("| {name} | {} |", killed.map(|(killed, of)| percent(killed, of)).join(" | "));
            assert!(killed.iter().any(|(killed, _)| *killed > 0), "{name} reproduces every recorded output");
        }
    }
}

/// Breaks if the random regimes, by which SIMD paths and GPUs are tested, have a blind spot.
#[test]
fn generators_kill_every_mutant() {
    const CASES: usize = 20_000;
    for base in [TensorCore::HOPPER_FP8_F32, TensorCore::HOPPER_FP8_F16] {
        println!("\ngenerated cases, {:?} accumulator", base.accumulator);
        println!("| mutant | {} |", Regime::ALL.map(|regime| format!("{regime:?}")).join(" | "));
        let mut killed = vec![[0usize; 8]; mutants::all(base).len()];
        for (column, regime) in Regime::ALL.into_iter().enumerate() {
            let mut rng = StdRng::seed_from_u64(column as u64);
            for i in 0..CASES {
                let types = [OperandType::ALL[i % 2], OperandType::ALL[i / 2 % 2]];
                let case = regime.case(types[0], types[1], &mut rng);
                let a = case.a.map(|code| InputFormat::from(types[0]).operand(code.into()));
                let b = case.b.map(|code| InputFormat::from(types[1]).operand(code.into()));
                let c = match base {
                    TensorCore::HOPPER_FP8_F16 => f16::from_f32(f32::from_bits(case.c)).to_bits().into(),
                    _ => case.c,
                };
                let want = base.dot(&a, &b, c).unwrap();
                for ((_, mutant), killed) in mutants::all(base).iter().zip(&mut killed) {
                    killed[column] += usize::from(mutant.dot(&a, &b, c).unwrap() != want);
                }
            }
        }
        for ((name, _), killed) in mutants::all(base).iter().zip(&killed) {
            println!("| {name} | {} |", killed.map(|killed| percent(killed, CASES)).join(" | "));
            assert!(killed[3] > 0, "SparseWide never exposes {name}");
            assert!(killed.iter().sum::<usize>() > CASES / 200, "{name} is exposed in under 0.5 % of one regime");
        }
    }
}
