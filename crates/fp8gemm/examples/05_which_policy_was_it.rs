//! Rung 5: a kernel's output is on the table; which accumulation did it perform?
//!
//! Here the "kernel" is the twin itself without promotion; with a real dump, `fp8gemm verify FILE`
//! does this for you.
//!
//! `cargo run --release -p fp8gemm --example 05_which_policy_was_it`

use fp8gemm::formats::ScaledMatrix;
use fp8gemm::problem::{OperandType, OutputType, Policy};
use fp8gemm::sim::{Gemm, compare};
use ndarray::Array2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let codes = |rows, seed: usize| {
        Array2::from_shape_fn((rows, 1024), |(row, k)| 0x20 + ((row * 31 + k * 17 + seed) % 37) as u8)
    };
    let a = ScaledMatrix::unscaled(OperandType::E4m3, codes(48, 1));
    let b = ScaledMatrix::unscaled(OperandType::E4m3, codes(80, 2));
    let gemm = Gemm::new(a.view(), b.view()).output(OutputType::F32);
    let recorded = gemm.clone().policy(Policy::Chain).run()?;

    for policy in Policy::COMMON {
        let predicted = gemm.clone().policy(policy).run()?;
        let comparison = compare(&predicted.view(), &recorded.view())?;
        match comparison.first {
            None => println!("{policy:>12}: every bit equal"),
            Some(first) => println!(
                "{policy:>12}: {} of {} differ, first at row {} column {}: {:08X} expected, {:08X} found",
                comparison.differing, comparison.elements, first.row, first.column, first.expected, first.actual
            ),
        }
    }
    Ok(())
}
