//! Where recipes disagree: how many codes and scales differ on bf16 N(0,1), as Markdown tables. The
//! book's chapter "Quantisation recipes" records what this prints.
//!
//! ```text
//! cargo run --release -p fp8gemm-formats --example quantize_disagreement
//! ```

use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_formats::{FormatError, ScaledMatrix};
use half::bf16;
use ndarray::{Array2, ArrayView2};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Normal numbers by Box and Muller's method, rounded to bf16.
fn normal(rows: usize, columns: usize) -> Array2<bf16> {
    let mut rng = StdRng::seed_from_u64(0);
    Array2::from_shape_simple_fn((rows, columns), || {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        bf16::from_f64(radius * (2.0 * std::f64::consts::PI * rng.random::<f64>()).cos())
    })
}

/// The share of places where two arrays differ in a bit.
fn differ<T: Copy>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>, bits: impl Fn(T) -> u32) -> f64 {
    let different = a.iter().zip(&b).filter(|(a, b)| bits(**a) != bits(**b)).count();
    different as f64 / a.len() as f64
}

/// One table: codes that differ, of each pair, and scales that differ from the first recipe's.
fn table(title: &str, x: ArrayView2<'_, bf16>, names: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let quantized = names
        .iter()
        .map(|name| name.parse::<Quantizer>()?.quantize(x))
        .collect::<Result<Vec<ScaledMatrix>, FormatError>>()?;
    println!(
        "\n{title}\n\n| # | recipe | scales | {} |",
        (1..=names.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(" | ")
    );
    println!("|{}", "---|".repeat(3 + names.len()));
    for (number, (name, row)) in names.iter().zip(&quantized).enumerate() {
        print!("| {} | `{name}` | {} |", number + 1, share(differ(row.scales(), quantized[0].scales(), f32::to_bits)));
        for column in &quantized {
            print!(" {} |", share(differ(row.codes(), column.codes(), u32::from)));
        }
        println!();
    }
    Ok(())
}

fn share(share: f64) -> String {
    if share == 0.0 { "0".to_owned() } else { format!("{share:.1e}") }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Rows of 128, so that a row and a 1x128 block are the same thing.
    let x = normal(131072, 128);
    table(
        "f32 scales, 128 elements to a scale",
        x.view(),
        &[
            "deepgemm:1x128",
            "deepgemm-cpu:1x128",
            "deepgemm-v1:1x128",
            "te-block-f32:1x128",
            "torchao-float8:row",
            "vllm-token:row",
            "vllm-group:1x128",
            "sglang-token:row",
            "sglang-group:1x128",
            "mistralrs-deepgemm:1x128",
        ],
    )?;
    table(
        "power-of-two scales, 128 elements to a scale",
        x.view(),
        &["deepgemm-ue8m0:1x128", "te-block:1x128", "vllm-group-ue8m0:1x128", "sglang-group-ue8m0:1x128"],
    )?;
    table(
        "power-of-two scales, 32 elements to a scale",
        x.view(),
        &[
            "torchao-mx-floor",
            "torchao-mx-rceil",
            "torchao-mx-ceil",
            "torchao-mx-even",
            "deepgemm-ue8m0:1x32",
            "vllm-group-ue8m0:1x32",
            "sglang-group-ue8m0:1x32",
        ],
    )?;
    let square = x.to_shape((4096, 4096))?;
    table(
        "f32 scales, 128x128 elements to a scale",
        square.view(),
        &[
            "deepgemm:128x128",
            "deepgemm-cpu:128x128",
            "te-block-f32:128x128",
            "mistralrs-weight",
            "mistralrs-weight-cpu",
        ],
    )
}
