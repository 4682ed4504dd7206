//! E8M0 against its definition. `exhaustive.rs` has all 2^32 f32.

mod codec_oracle;

use codec_oracle::{OVERFLOWS, e8m0, e8m0_runs};
use fp8gemm_formats::{E8m0, E8m0Rounding};

const ROUNDINGS: [E8m0Rounding; 3] = [E8m0Rounding::Down, E8m0Rounding::Up, E8m0Rounding::Nearest];

/// Breaks if a code stands for another power of two; code 0 is the one that a shift gets wrong.
#[test]
fn all_256_decodes() {
    for code in 0..=u8::MAX {
        let scale = E8m0::from_bits(code);
        assert_eq!(scale.to_bits(), code);
        if code == 0xFF {
            assert!(scale.is_nan() && scale.to_f32().is_nan() && scale.to_f64().is_nan());
            assert_eq!((scale.to_f32().to_bits(), scale.exponent()), (0x7FFF_FFFF, None));
            assert_eq!(scale.to_string(), "NaN");
            continue;
        }
        let exponent = i32::from(code) - 127;
        assert_eq!(scale.to_f64(), 2f64.powi(exponent));
        assert_eq!(f64::from(f32::from(scale)), 2f64.powi(exponent));
        assert_eq!(scale.exponent(), Some(exponent));
        assert_eq!(scale.to_string(), format!("2^{exponent}"));
        assert_eq!(E8m0::exact(scale.to_f32()), Some(scale));
        for rounding in ROUNDINGS {
            assert_eq!(E8m0::from_f32(scale.to_f32(), rounding, OVERFLOWS[1]), scale, "{scale} {rounding:?}");
        }
    }
    assert_eq!(E8m0::MIN.to_f32().to_bits(), 0x0040_0000);
    assert_eq!((E8m0::ONE.to_f32(), E8m0::MAX.to_f64(), E8m0::NAN.is_nan()), (1.0, 2f64.powi(127), true));
}

/// Breaks if `exact` takes something that is not a positive power of two in range.
#[test]
fn exact_takes_nothing_else() {
    for x in
        [0.0, -0.0, -1.0, 1.5, 3.0, f32::MAX, f32::INFINITY, f32::NAN, f32::from_bits(1), f32::from_bits(0x20_0000)]
    {
        assert_eq!(E8m0::exact(x), None, "{x:e}");
    }
}

/// Breaks if rounding turns at another place than the definition says: every run's ends.
#[test]
fn rounding_turns_where_it_should() {
    for rounding in ROUNDINGS {
        for overflow in OVERFLOWS {
            let runs = e8m0_runs(rounding, overflow);
            assert_eq!(runs.last().map(|run| run.1), Some(0x7FFF_FFFF));
            for (first, last, code) in runs {
                for pattern in [first, last, first | 0x8000_0000, last | 0x8000_0000] {
                    let x = f32::from_bits(pattern);
                    assert_eq!(e8m0(x, rounding, overflow), code);
                    let got = E8m0::from_f32(x, rounding, overflow).to_bits();
                    assert_eq!(got, code, "{x:e} ({pattern:08X}) {rounding:?} {overflow:?}");
                }
            }
        }
    }
}

/// Breaks if "round up" is no longer TransformerEngine's and cuBLAS's rule: amax / 448 for the amax
/// of the worked example, powers of two kept, Inf to FE, NaN to FF, zero to 00.
#[test]
fn round_up_is_the_published_rule() {
    let up = |x: f32| E8m0::from_f32(x, E8m0Rounding::Up, OVERFLOWS[0]).to_bits();
    assert_eq!((up(1.76 / 448.0), up(0.25), up(0.25_f32.next_up()), up(0.0)), (120, 125, 126, 0));
    assert_eq!((up(f32::INFINITY), up(f32::MAX), up(f32::NAN)), (0xFE, 0xFE, 0xFF));
    assert_eq!((up(f32::from_bits(0x40_0000)), up(f32::from_bits(0x40_0001))), (0, 1));
}
