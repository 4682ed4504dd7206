//! Rung 4: a whole block-scaled GEMM with DeepGEMM's bits, and how far it is from the exact result.
//!
//! `cargo run --release -p fp8gemm --example 04_a_scaled_gemm`

use fp8gemm::formats::quantize::{Quantizer, Recipe};
use fp8gemm::problem::{OutputType, Policy, ScaleLayout};
use fp8gemm::sim::metrics::Metrics;
use fp8gemm::sim::{Gemm, reference};
use ndarray::Array2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (m, n, k) = (64, 96, 4096);
    // Activations with a mean: where a truncating accumulator shows.
    let wave = |rows, seed: usize| {
        Array2::from_shape_fn((rows, k), move |(row, column)| {
            1.0 + (((row * 7919 + column * 104_729 + seed) % 1000) as f32 / 500.0 - 1.0)
        })
    };
    let deepgemm = Quantizer::new(Recipe::DeepGemm);
    let a = deepgemm.with_layout(ScaleLayout::Block1x128).quantize(wave(m, 1).view())?;
    let b = deepgemm.with_layout(ScaleLayout::Block128x128).quantize(wave(n, 2).view())?;
    let exact = reference::exact(&a.view(), &b.view())?;

    let gemm = Gemm::new(a.view(), b.view()).output(OutputType::F32);
    println!("{}", gemm.problem());
    for policy in [Policy::PROMOTE_128, Policy::Promote { every: 32 }, Policy::Cutlass128] {
        let d = gemm.clone().policy(policy).run()?;
        let metrics = Metrics::new(exact.view(), d.to_f32().view())?;
        println!(
            "{policy:>12}: D[0, 0] = {:08X}, SNR {:.1} dB, bias {:+.4} %",
            d.view().bits(0, 0),
            metrics.snr_db,
            100.0 * metrics.bias
        );
    }
    Ok(())
}
