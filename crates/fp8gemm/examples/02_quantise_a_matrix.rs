//! Rung 2: a matrix becomes FP8 codes with scales, as the library you name would do it.
//!
//! `cargo run --release -p fp8gemm --example 02_quantise_a_matrix`

use fp8gemm::formats::quantize::{Quantizer, Recipe};
use fp8gemm::problem::ScaleLayout;
use ndarray::Array2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 130 rows and 200 columns: the blocks at both edges are partial.
    let x =
        Array2::from_shape_fn((130, 200), |(row, column)| ((row * 200 + column) as f32).sin() * (1.0 + column as f32));
    for layout in [ScaleLayout::Tensor, ScaleLayout::Block128x128, ScaleLayout::Block1x128] {
        let recipe = if layout == ScaleLayout::Tensor { Recipe::TeCurrent } else { Recipe::DeepGemm };
        let quantized = Quantizer::new(recipe).with_layout(layout).quantize(x.view())?;
        let error = &quantized.dequantize() - &x;
        let rms = (error.mapv(|e| e * e).mean().unwrap_or(0.0) / x.mapv(|x| x * x).mean().unwrap_or(1.0)).sqrt();
        println!("{layout:>8}: scales {:?}, relative rms error {:.3} %", quantized.scales().dim(), 100.0 * rms);
    }
    Ok(())
}
