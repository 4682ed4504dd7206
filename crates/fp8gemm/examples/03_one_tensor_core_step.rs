//! Rung 3: what one `wgmma` step does that f32 arithmetic does not.
//!
//! `cargo run --release -p fp8gemm --example 03_one_tensor_core_step`

use fp8gemm::sim::tensor_core::{InputFormat, TensorCore};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One product of 1 and 31 of 2^-14: exactly 1.00189...
    let mut a = [InputFormat::E4m3.operand(0x04); 32];
    a[0] = InputFormat::E4m3.operand(0x38);
    for (name, core) in [
        ("Hopper, F = 13", TensorCore::HOPPER_FP8_F32),
        ("what if F were 14", TensorCore { fraction_bits: 14, ..TensorCore::HOPPER_FP8_F32 }),
        ("Blackwell, F = 25", TensorCore::BLACKWELL_FP8_F32),
    ] {
        let d = core.dot(&a, &a, 0)?;
        println!("{name:>18}: {d:08X} = {}", f32::from_bits(d));
    }
    println!("{:>18}: {}", "exactly", 1.0 + 31.0 * 2f64.powi(-14));
    Ok(())
}
