//! Encoding against independent oracles: the fast lane. `exhaustive.rs` repeats the f32 part on all
//! 2^32 patterns.

mod codec_oracle;

use codec_oracle::{OVERFLOWS, ROUNDINGS, Table, apfloat, single};
use fp8gemm_formats::{E4m3, E4m3Fnuz, E5m2, E5m2Fnuz, Fp8Format, Overflow, Rounding, convert};
use half::{bf16, f16};
use proptest::prelude::*;
use rustc_apfloat::ieee::{Float8E4M3FN, Float8E5M2};
use rustc_apfloat::{Float, FloatConvert, Round};

/// Every boundary with its neighbours, and a stride through all patterns.
fn f32_sample(format: Fp8Format, stride: usize) -> Vec<f32> {
    let mut patterns = Table::new(format).boundaries(3);
    patterns.extend((0..=u32::MAX).step_by(stride));
    patterns.into_iter().map(f32::from_bits).collect()
}

fn assert_code(got: u8, expected: u8, what: &dyn Fn() -> String) {
    assert!(got == expected, "{}: {got:02X}, expected {expected:02X}", what());
}

/// Breaks if an f32 is rounded, saturated or made NaN otherwise than the table of values says, by
/// the scalar codec or in bulk.
#[test]
fn f32_agrees_with_the_table() {
    for format in Fp8Format::ALL {
        let table = Table::new(format);
        let sample = f32_sample(format, 3571);
        let mut bulk = vec![0; sample.len()];
        for rounding in ROUNDINGS {
            for overflow in OVERFLOWS {
                convert::encode_f32(format, rounding, overflow, &sample, &mut bulk).unwrap();
                for (&x, &bulk) in sample.iter().zip(&bulk) {
                    let expected = table.encode(f64::from(x), rounding, overflow);
                    let what = || format!("{x:e} ({:08X}) to {format} {rounding:?} {overflow:?}", x.to_bits());
                    assert_code(format.encode(x, rounding, overflow), expected, &what);
                    assert_code(bulk, expected, &what);
                }
            }
        }
    }
}

/// Breaks if the table, and with it the exhaustive lane, shares a mistake with the codec.
#[test]
fn f32_agrees_with_apfloat() {
    for format in Fp8Format::ALL {
        for x in f32_sample(format, 40_009) {
            for rounding in ROUNDINGS {
                for overflow in OVERFLOWS {
                    let expected = apfloat(format, f64::from(x), rounding, overflow);
                    let what = || format!("{x:e} ({:08X}) to {format} {rounding:?} {overflow:?}", x.to_bits());
                    assert_code(format.encode(x, rounding, overflow), expected, &what);
                }
            }
        }
    }
}

/// Breaks if our overflow rules part from LLVM's own E4M3FN and E5M2, which do not saturate.
#[test]
fn non_saturating_is_llvms_own_conversion() {
    for (rounding, round) in
        [(Rounding::NearestEven, Round::NearestTiesToEven), (Rounding::TowardZero, Round::TowardZero)]
    {
        for x in f32_sample(Fp8Format::E4m3, 70_001).into_iter().filter(|x| !x.is_nan()) {
            let expected: Float8E4M3FN = single(x).convert_r(round, &mut false).value;
            let got = Fp8Format::E4m3.encode(x, rounding, Overflow::NonSaturating);
            assert_code(got, expected.to_bits() as u8, &|| format!("{x:e} to e4m3 {rounding:?}"));
        }
        for x in f32_sample(Fp8Format::E5m2, 70_001).into_iter().filter(|x| !x.is_nan()) {
            let expected: Float8E5M2 = single(x).convert_r(round, &mut false).value;
            let got = Fp8Format::E5m2.encode(x, rounding, Overflow::NonSaturating);
            assert_code(got, expected.to_bits() as u8, &|| format!("{x:e} to e5m2 {rounding:?}"));
        }
    }
}

/// Breaks if any f16 or bf16 is encoded wrongly: all 2 * 65536 of them, by three ways in.
#[test]
fn all_f16_and_bf16_agree_with_both_oracles() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    let mut from_halves = vec![0; halves.len()];
    let mut from_brains = vec![0; brains.len()];
    for format in Fp8Format::ALL {
        let table = Table::new(format);
        for rounding in ROUNDINGS {
            for overflow in OVERFLOWS {
                convert::encode_f16(format, rounding, overflow, &halves, &mut from_halves).unwrap();
                convert::encode_bf16(format, rounding, overflow, &brains, &mut from_brains).unwrap();
                for (i, (&half, &brain)) in halves.iter().zip(&brains).enumerate() {
                    let what = || format!("{i:04X} to {format} {rounding:?} {overflow:?}");
                    for (value, bulk) in [(half.to_f64(), from_halves[i]), (brain.to_f64(), from_brains[i])] {
                        let expected = table.encode(value, rounding, overflow);
                        assert_code(apfloat(format, value, rounding, overflow), expected, &what);
                        assert_code(bulk, expected, &what);
                    }
                    let (h, b) = match format {
                        Fp8Format::E4m3 => (
                            E4m3::from_f16_with(half, rounding, overflow).to_bits(),
                            E4m3::from_bf16_with(brain, rounding, overflow).to_bits(),
                        ),
                        Fp8Format::E5m2 => (
                            E5m2::from_f16_with(half, rounding, overflow).to_bits(),
                            E5m2::from_bf16_with(brain, rounding, overflow).to_bits(),
                        ),
                        Fp8Format::E4m3Fnuz => (
                            E4m3Fnuz::from_f16_with(half, rounding, overflow).to_bits(),
                            E4m3Fnuz::from_bf16_with(brain, rounding, overflow).to_bits(),
                        ),
                        Fp8Format::E5m2Fnuz => (
                            E5m2Fnuz::from_f16_with(half, rounding, overflow).to_bits(),
                            E5m2Fnuz::from_bf16_with(brain, rounding, overflow).to_bits(),
                        ),
                    };
                    assert_code(h, from_halves[i], &what);
                    assert_code(b, from_brains[i], &what);
                }
            }
        }
    }
}

/// f64 values around every boundary: one and two f64 steps away, and less than an f32 step away,
/// where a detour through f32 would round twice.
fn f64_sample(format: Fp8Format) -> Vec<f64> {
    let table = Table::new(format);
    let mut points = vec![0.0, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY, f64::NAN, 1e-310, f64::from(f32::MAX)];
    for code in 0..table.beyond() {
        let (low, high) = (table.value(code), table.value(code + 1));
        points.extend([low, high, (low + high) / 2.0]);
    }
    let mut sample = Vec::new();
    for point in points {
        let bits = point.to_bits();
        for step in [0, 1, 2, 1 << 10, 1 << 12, 1 << 28, 1 << 29, 1 << 30] {
            sample.extend([bits.wrapping_add(step), bits.wrapping_sub(step)].map(f64::from_bits));
        }
    }
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for i in 0..20_000_u64 {
        state = state.wrapping_mul(0xD129_42F0_5EAC_7B41).wrapping_add(i | 1);
        sample.push(f64::from_bits(state));
        // The same fraction at an exponent in reach of the formats.
        sample.push(f64::from_bits((state & 0x800F_FFFF_FFFF_FFFF) | ((1000 + (state >> 40) % 48) << 52)));
    }
    let negative: Vec<f64> = sample.iter().map(|x| -x).collect();
    sample.extend(negative);
    sample
}

/// Breaks if an f64 is rounded twice, or its low bits are dropped.
#[test]
fn f64_agrees_with_both_oracles_and_is_rounded_once() {
    for format in Fp8Format::ALL {
        let table = Table::new(format);
        let sample = f64_sample(format);
        let mut bulk = vec![0; sample.len()];
        for rounding in ROUNDINGS {
            for overflow in OVERFLOWS {
                convert::encode_f64(format, rounding, overflow, &sample, &mut bulk).unwrap();
                let mut twice_rounded_is_wrong = 0;
                for (&x, &bulk) in sample.iter().zip(&bulk) {
                    let expected = table.encode(x, rounding, overflow);
                    let what = || format!("{x:e} ({:016X}) to {format} {rounding:?} {overflow:?}", x.to_bits());
                    assert_code(apfloat(format, x, rounding, overflow), expected, &what);
                    assert_code(format.encode_f64(x, rounding, overflow), expected, &what);
                    assert_code(bulk, expected, &what);
                    twice_rounded_is_wrong += u32::from(format.encode(x as f32, rounding, overflow) != expected);
                }
                assert!(twice_rounded_is_wrong > 100, "the sample has no power against a detour through f32");
            }
        }
    }
}

/// Breaks if CUDA's rule for NaN (one code, no sign) or the rules for zero and infinity are lost.
#[test]
fn special_values_are_as_documented() {
    let code = |format: Fp8Format, x: f32, overflow| format.encode(x, Rounding::NearestEven, overflow);
    for (format, nan, max, overflow, negative_overflow, negative_zero) in [
        (Fp8Format::E4m3, 0x7F, 0x7E, 0x7F, 0xFF, 0x80),
        (Fp8Format::E5m2, 0x7F, 0x7B, 0x7C, 0xFC, 0x80),
        (Fp8Format::E4m3Fnuz, 0x80, 0x7F, 0x80, 0x80, 0x00),
        (Fp8Format::E5m2Fnuz, 0x80, 0x7F, 0x80, 0x80, 0x00),
    ] {
        for bits in [0x7FC0_0000, 0xFFC0_0000, 0x7F80_0001, 0xFFFF_FFFF, 0x7FFF_FFFF] {
            for overflow in OVERFLOWS {
                assert_eq!(code(format, f32::from_bits(bits), overflow), nan, "{format} {bits:08X}");
                let wide = f64::from_bits(u64::from(bits) << 32 | 0x7FF0_0000_0000_0001);
                assert_eq!(format.encode_f64(wide, Rounding::TowardZero, overflow), nan, "{format} {bits:08X}");
            }
        }
        for x in [f32::INFINITY, f32::MAX, 65536.0] {
            assert_eq!(code(format, x, Overflow::Saturate), max, "{format} {x}");
            assert_eq!(code(format, -x, Overflow::Saturate), 0x80 | max, "{format} {x}");
            assert_eq!(code(format, x, Overflow::NonSaturating), overflow, "{format} {x}");
            assert_eq!(code(format, -x, Overflow::NonSaturating), negative_overflow, "{format} {x}");
        }
        let truncated = |x: f32| format.encode(x, Rounding::TowardZero, Overflow::NonSaturating);
        assert_eq!((truncated(f32::MAX), truncated(f32::INFINITY)), (max, overflow), "{format}");
        for x in [-0.0, -1e-30, -f32::from_bits(1)] {
            assert_eq!(code(format, x, Overflow::Saturate), negative_zero, "{format} {x}");
        }
    }
}

/// Breaks if the place where overflow begins moves: the ties of the four formats.
#[test]
fn overflow_begins_where_documented() {
    for (format, tie, tie_overflows) in [
        (Fp8Format::E4m3, 464.0_f32, false),
        (Fp8Format::E5m2, 61440.0, true),
        (Fp8Format::E4m3Fnuz, 248.0, true),
        (Fp8Format::E5m2Fnuz, 61440.0, true),
    ] {
        let finite = |x: f32| format.is_finite(format.encode(x, Rounding::NearestEven, Overflow::NonSaturating));
        assert!(finite(tie.next_down()), "{format}");
        assert_eq!(finite(tie), !tie_overflows, "{format}");
        assert!(!finite(tie.next_up()), "{format}");
    }
}

proptest! {
    /// Breaks if a code does not encode to itself (canonical NaN apart) under some mode.
    #[test]
    fn decoded_codes_encode_to_themselves(code: u8, bits: u32) {
        for format in Fp8Format::ALL {
            for rounding in [Rounding::NearestEven, Rounding::TowardZero, Rounding::Stochastic { bits }] {
                let expected = if format.is_nan(code) { format.nan() } else { code };
                let value = format.decode(code);
                prop_assert_eq!(format.encode(value, rounding, Overflow::NonSaturating), expected);
                prop_assert_eq!(format.encode_f64(value.into(), rounding, Overflow::NonSaturating), expected);
            }
        }
    }

    /// Breaks if encoding is not monotone, or f32 and its exact f64 part ways.
    #[test]
    fn encoding_is_monotone(x: u32, y: u32, bits: u32) {
        let (x, y) = (f32::from_bits(x), f32::from_bits(y));
        prop_assume!(x <= y);
        for format in Fp8Format::ALL {
            for rounding in [Rounding::NearestEven, Rounding::TowardZero, Rounding::Stochastic { bits }] {
                let code = |x: f32| format.encode(x, rounding, Overflow::Saturate);
                prop_assert!(format.decode(code(x)) <= format.decode(code(y)));
                prop_assert_eq!(code(x), format.encode_f64(x.into(), rounding, Overflow::Saturate));
            }
        }
    }
}
