//! Where the error of an FP8 GEMM comes from, for two kinds of data and two ways to accumulate.
//!
//! ```text
//! cargo run --release -p fp8gemm-sim --example attribution
//! ```
//!
//! Zero-mean data: quantisation is nearly all of the error, however the products are accumulated.
//! Positive data (probabilities, activations after a ReLU): without promotion, truncation inside
//! the tensor core takes several per cent off every result.

use std::time::Instant;

use fp8gemm_formats::quantize::{Recipe, quantize};
use fp8gemm_problem::{OperandType, Policy, ScaleLayout};
use fp8gemm_sim::attribution::Attribution;
use ndarray::Array2;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (m, n, k) = (64, 128, 4096);
    let mut rng = StdRng::seed_from_u64(1);
    let mut normal =
        |rows| Array2::from_shape_simple_fn((rows, k), || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0);
    let zero_mean = (normal(m), normal(n));
    let positive = (zero_mean.0.mapv(|x| x.max(0.0)), zero_mean.1.mapv(|x| x.max(0.0)));
    for (name, (a, b)) in [("normal N(0, 1)", zero_mean), ("normal, negative values set to 0", positive)] {
        let fp8 = |x: &Array2<f32>| quantize(x.view(), Recipe::TorchaoFloat8, ScaleLayout::Row, OperandType::E4m3);
        let (quantized_a, quantized_b) = (fp8(&a)?, fp8(&b)?);
        for policy in [Policy::PROMOTE_128, Policy::Chain] {
            let start = Instant::now();
            let attributed =
                Attribution::new(a.view(), b.view(), quantized_a.view(), quantized_b.view()).policy(policy).run()?;
            let seconds = start.elapsed().as_secs_f64();
            let rate = (m * n * k) as f64 / seconds / 1e6;
            println!("{m} x {n} x {k}, {name}, row scales, {policy} ({seconds:.2} s, {rate:.0} MMAC/s)");
            println!("{}\n", attributed.summary());
        }
    }
    Ok(())
}
