//! Stochastic rounding: the probability is exact, and the definition is followed for every class
//! of input.

mod codec_oracle;

use codec_oracle::{OVERFLOWS, Table};
use fp8gemm_formats::{Fp8Format, Overflow, Rounding, convert};
use proptest::prelude::*;

/// The first value of `bits` that rounds the magnitude up; above u32, none does.
fn threshold(table: &Table, x: f64) -> u64 {
    (1 << 32) - table.fraction(x.abs())
}

/// Checks `x` at the random bits where the result must change, and at the ends.
fn check_f64(format: Fp8Format, table: &Table, x: f64, overflow: Overflow) -> Result<(), TestCaseError> {
    let threshold = threshold(table, x);
    for bits in [0, threshold - 1, threshold, u64::from(u32::MAX)] {
        let Ok(bits) = u32::try_from(bits) else { continue };
        let rounding = Rounding::Stochastic { bits };
        prop_assert_eq!(
            format.encode_f64(x, rounding, overflow),
            table.encode(x, rounding, overflow),
            "{} ({:016X}) to {} with {:08X}",
            x,
            x.to_bits(),
            format,
            bits
        );
    }
    Ok(())
}

/// Breaks if the random bits at which rounding turns from down to up are off by one anywhere near a
/// value, a middle, the overflow or the underflow; that place is the probability itself.
#[test]
fn the_turning_point_is_exact() {
    for format in Fp8Format::ALL {
        let table = Table::new(format);
        for overflow in OVERFLOWS {
            for pattern in table.boundaries(2).into_iter().chain((0..=u32::MAX).step_by(400_009)) {
                let x = f32::from_bits(pattern);
                if x.is_nan() {
                    continue;
                }
                check_f64(format, &table, x.into(), overflow).unwrap();
                check_f64(format, &table, f64::from(x) * (1.0 + 2f64.powi(-45)), overflow).unwrap();
                for bits in [threshold(&table, x.into()) - 1, threshold(&table, x.into())] {
                    let Ok(bits) = u32::try_from(bits) else { continue };
                    let rounding = Rounding::Stochastic { bits };
                    let expected = table.encode(x.into(), rounding, overflow);
                    assert_eq!(format.encode(x, rounding, overflow), expected, "{x:e} to {format} with {bits:08X}");
                }
            }
        }
    }
}

/// Breaks if the share of results rounded up over evenly spread random bits is not the fraction:
/// with 2^16 values of `bits`, spread over u32, the count is the fraction to one part in 2^16.
#[test]
fn the_mean_is_the_value() {
    let random: Vec<u32> = (0..1 << 16).map(|i| i << 16 | 0x7FFF).collect();
    for format in Fp8Format::ALL {
        for x in [1.0_f32, 1.03, -1.1, 100.7, -0.3, 0.0137, 1e-4, -2.5e-5, 7.6e-6, 3e-7] {
            let mut codes = vec![0; random.len()];
            let source = vec![x; random.len()];
            convert::encode_f32_stochastic(format, Overflow::Saturate, &source, &random, &mut codes).unwrap();
            let mean = codes.iter().map(|&code| f64::from(format.decode(code))).sum::<f64>() / random.len() as f64;
            let step = {
                let table = Table::new(format);
                let below = table.below(f64::from(x.abs()));
                table.value(below + 1) - table.value(below)
            };
            let error = (mean - f64::from(x)).abs();
            assert!(error <= step / 65536.0, "{x} to {format}: mean {mean}, step {step}");
        }
    }
}

proptest! {
    /// Breaks if a result is neither neighbour, or more random bits ever give a smaller magnitude.
    #[test]
    fn results_are_neighbours_and_monotone_in_the_bits(pattern: u32, low: u32, high: u32) {
        let x = f32::from_bits(pattern);
        prop_assume!(!x.is_nan());
        let (low, high) = (low.min(high), low.max(high));
        for format in Fp8Format::ALL {
            let code = |rounding| format.encode(x, rounding, Overflow::Saturate) & 0x7F;
            let down = code(Rounding::TowardZero);
            let (first, second) =
                (code(Rounding::Stochastic { bits: low }), code(Rounding::Stochastic { bits: high }));
            prop_assert!(down <= first && first <= second && second <= (down + 1).min(format.max_code()));
            if x.abs() == format.decode(down) {
                prop_assert_eq!(second, down);
            }
            check_f64(format, &Table::new(format), x.into(), Overflow::NonSaturating)?;
        }
    }
}
