//! First rung: one number, in every format.
//!
//! ```text
//! cargo run -p fp8gemm-formats --example codec_one_number -- 0.3
//! ```
//!
//! Prints, for each 8-bit format, the code that the number becomes (rounded to nearest even,
//! saturating), its bits taken apart, the value that the code stands for, and the error.

use std::process::ExitCode;

use fp8gemm_formats::{E8m0, E8m0Rounding, Fp8Format, Overflow, Rounding};

fn main() -> ExitCode {
    let text = std::env::args().nth(1).unwrap_or_else(|| "0.3".to_owned());
    let Ok(x) = text.parse::<f64>() else {
        eprintln!("{text:?} is not a number; try 0.3, -1e-3, inf or nan");
        return ExitCode::from(2);
    };
    println!("{x} becomes");
    println!("{:<9} {:>4}  {:<10} {:>14} {:>11}", "format", "code", "s e m", "value", "error");
    for format in Fp8Format::ALL {
        let code = format.encode_f64(x, Rounding::NearestEven, Overflow::Saturate);
        let value = f64::from(format.decode(code));
        let mantissa_bits = format.mantissa_bits() as usize;
        let exponent_bits = format.exponent_bits() as usize;
        let bits = format!(
            "{:b} {:0exponent_bits$b} {:0mantissa_bits$b}",
            code >> 7,
            (code & 0x7F) >> mantissa_bits,
            code & ((1 << mantissa_bits) - 1),
        );
        println!("{format:<9}   {code:02X}  {bits:<10} {:>14} {:>11}", short(value), error(x, value, format));
    }
    // A scale is never negative and never zero: E8M0 takes the magnitude.
    let scale = E8m0::from_f32(x as f32, E8m0Rounding::Up, Overflow::Saturate);
    let (code, value) = (scale.to_bits(), short(scale.to_f64()));
    println!("{:<9}   {code:02X}  {scale:<10} {value:>14}  (as a scale, rounded up)", "e8m0");
    ExitCode::SUCCESS
}

fn short(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) { format!("{value:.6e}") } else { value.to_string() }
}

fn error(x: f64, value: f64, format: Fp8Format) -> String {
    if x == value {
        "exact".to_owned()
    } else if x.is_nan() {
        "-".to_owned()
    } else if x.abs() > f64::from(format.max_finite()) && value.abs() == f64::from(format.max_finite()) {
        "saturated".to_owned()
    } else {
        format!("{:+.2} %", (value - x) / x.abs() * 100.0)
    }
}
