//! An experiment of one's own: what block scales and promotion do to activations with outlier
//! channels. Prints the table and writes the plot.
//!
//! `cargo run --release -p fp8gemm-study --example own_grid`

use fp8gemm_problem::Policy;
use fp8gemm_study::{Figure, Grid, Scale, Shape};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let table = Grid {
        distributions: vec!["normal".parse()?, "outlier-channels(0.01, 50)".parse()?],
        quantizers: vec!["torchao-float8:tensor".parse()?, "deepgemm:1x128".parse()?, "deepgemm-ue8m0:1x128".parse()?],
        policies: vec![Policy::PROMOTE_128, Policy::Chain],
        shape: Shape::square(64, 2048),
        seed: 1,
    }
    .run()?;
    print!("{}", table.csv());
    let figure = Figure::bars("total", "Error of the whole GEMM", "grid")
        .x("distribution", Scale::Linear)
        .y(["total SNR"], Scale::Linear)
        .by("quantiser")
        .only("policy", "promote128");
    let path = std::env::temp_dir().join("fp8gemm_own_grid.svg");
    std::fs::write(&path, figure.svg(&table)?)?;
    println!("plot: {}", path.display());
    Ok(())
}
