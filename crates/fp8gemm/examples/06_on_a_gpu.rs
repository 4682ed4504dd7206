//! Rung 6: the same GEMM on a Hopper GPU, and every bit of it predicted by the CPU. Without a GPU it
//! says what is missing.
//!
//! `cargo run --release -p fp8gemm --features hopper --example 06_on_a_gpu`

use fp8gemm::convert;
use fp8gemm::formats::quantize::{Quantizer, Recipe};
use fp8gemm::hopper::{Gpu, gemm_on_gpu};
use fp8gemm::jit::{Cache, Compiler};
use fp8gemm::problem::ScaleLayout;
use fp8gemm::sim::Gemm;
use ndarray::Array2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (m, n, k) = (512, 576, 4096);
    let noise = |rows, seed: usize| {
        Array2::from_shape_fn((rows, k), move |(row, column)| {
            ((row * 7919 + column * 104_729 + seed) % 1000) as f32 / 500.0 - 1.0
        })
    };
    let deepgemm = Quantizer::new(Recipe::DeepGemm);
    let a = deepgemm.with_layout(ScaleLayout::Block1x128).quantize(noise(m, 1).view())?;
    let b = deepgemm.with_layout(ScaleLayout::Block128x128).quantize(noise(n, 2).view())?;

    // The twin first: what the GPU has to give.
    let gemm = Gemm::new(a.view(), b.view());
    let problem = gemm.problem();
    let predicted = gemm.run()?;

    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(error) => {
            println!("{problem}: predicted, but not computed: {error}");
            return Ok(());
        }
    };
    let compiler = Compiler::new(Cache::from_environment(), None);
    let product = gemm_on_gpu(&gpu, &compiler, &a.view(), &b.view(), None, &problem)?;
    let equal = convert::matrix(product.d).view().bits_equal(&predicted.view());
    println!("{problem} on {}: every bit as predicted: {equal}", gpu.info().name);
    Ok(())
}
