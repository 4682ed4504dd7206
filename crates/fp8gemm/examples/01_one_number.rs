//! Rung 1: one number in FP8, and what rounding and overflow do to it.
//!
//! `cargo run --release -p fp8gemm --example 01_one_number`

use fp8gemm::formats::{E4m3, E5m2, Overflow, Rounding};

fn main() {
    let x = 0.3f32;
    let (fine, wide) = (E4m3::from_f32(x), E5m2::from_f32(x));
    println!(
        "{x} is {} in E4M3 (code {:02X}) and {} in E5M2 (code {:02X})",
        fine.to_f32(),
        fine.to_bits(),
        wide.to_f32(),
        wide.to_bits()
    );

    // The default is CUDA's cast: nearest even, saturating. E4M3 has no infinity to overflow to.
    let strict = |x| E4m3::from_f32_with(x, Rounding::NearestEven, Overflow::NonSaturating);
    for x in [448.0, 464.0, 465.0, f32::INFINITY] {
        println!("{x} saturates to {} and otherwise becomes {}", E4m3::from_f32(x).to_f32(), strict(x).to_f32());
    }

    // Stochastic rounding: up in 3 of 8 cases here, by 32 random bits of yours.
    let x = 1.0 + 3.0 / 64.0;
    let up = (0..8u32).filter(|i| {
        let rounding = Rounding::Stochastic { bits: i << 29 };
        E4m3::from_f32_with(x, rounding, Overflow::Saturate).to_f32() > 1.0
    });
    println!("{x} goes up to 1.125 for {} of 8 random words", up.count());
}
