//! Quantise a weight as DeepSeek-V3 stores it: one scale for each 128x128 square, the last ones
//! partial.
//!
//! ```text
//! cargo run --release -p fp8gemm-formats --example quantize_weight
//! ```

use fp8gemm_formats::quantize::Quantizer;
use half::bf16;
use ndarray::Array2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // [N, K] = [576, 7168], the kv projection: 4 and a half squares high, 56 wide.
    let weight = Array2::from_shape_fn((576, 7168), |(row, column)| {
        let angle = (row * 7168 + column) as f64;
        bf16::from_f64(0.02 * (angle * 0.7).sin() * (1.0 + (angle * 1e-5).cos()))
    });

    let quantizer: Quantizer = "deepgemm:128x128:e4m3".parse()?;
    let quantized = quantizer.quantize(weight.view())?;
    println!("{quantizer}: codes {:?}, scales {:?}", quantized.codes().dim(), quantized.scales().dim());

    let (mut signal, mut noise) = (0f64, 0f64);
    for (x, y) in weight.iter().zip(&quantized.dequantize()) {
        let x = x.to_f64();
        signal += x * x;
        noise += (x - f64::from(*y)).powi(2);
    }
    println!("signal to noise {:.1} dB", 10.0 * (signal / noise).log10());

    // The same weight with power-of-two scales, which fit in one byte each.
    let quantized = "deepgemm-ue8m0:128x128".parse::<Quantizer>()?.quantize(weight.view())?;
    println!(
        "first E8M0 scales: {:02X?}",
        quantized.view().e8m0_scales()?.row(0).iter().take(8).map(|s| s.to_bits()).collect::<Vec<_>>()
    );
    Ok(())
}
