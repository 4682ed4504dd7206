//! The exhaustive lane: every f32 there is, through every format and mode.
//!
//! ```text
//! cargo test --release -p fp8gemm-formats --test exhaustive -- --ignored
//! ```
//!
//! | test | what is compared, on all 2^32 f32 patterns |
//! |---|---|
//! | `bulk_...` | the bulk encoder, 4 formats x 2 roundings x 2 overflow rules, with the table oracle |
//! | `scalar_...` | the scalar encoder, likewise |
//! | `minifloat_...` | the bulk encoder with `minifloat`, where that crate has the mode: nearest even, saturating in E4M3 and both FNUZ formats, to infinity in E5M2; NaN codes aside |
//! | `e8m0_...` | E8M0, 3 roundings x 2 overflow rules, with its table oracle |
//!
//! and besides: `rustc_apfloat` at every 199th pattern (21.6 million) in all 16 modes, and all 2^32
//! random numbers of stochastic rounding for a few values.
//!
//! The table oracle gives each mode as a list of runs, "patterns from here to there have this code"
//! (see `codec_oracle`), so that comparing costs no more than converting.

mod codec_oracle;

use codec_oracle::{OVERFLOWS, ROUNDINGS, Table, apfloat, e8m0_runs};
use fp8gemm_formats::{E8m0, E8m0Rounding, Fp8Format, Overflow, Rounding, convert};
use minifloat::{F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ};
use rayon::prelude::*;

/// Patterns converted at a time: floats and codes together stay in the first-level cache.
const BLOCK: u32 = 4096;

/// Calls `check` on all f32 in blocks of consecutive patterns, in parallel.
fn for_all_f32(check: impl Fn(u32, &[f32]) + Sync) {
    (0..u32::MAX / BLOCK + 1).into_par_iter().for_each_init(
        || vec![0.0; BLOCK as usize],
        |values, block| {
            let first = block * BLOCK;
            for (i, x) in values.iter_mut().enumerate() {
                *x = f32::from_bits(first + i as u32);
            }
            check(first, values);
        },
    );
}

/// One format and mode, and the codes that the oracle expects.
struct Mode {
    format: Fp8Format,
    rounding: Rounding,
    overflow: Overflow,
    runs: Vec<(u32, u32, u8)>,
}

fn all_modes() -> Vec<Mode> {
    let mut modes = Vec::new();
    for format in Fp8Format::ALL {
        for rounding in ROUNDINGS {
            for overflow in OVERFLOWS {
                let runs = Table::new(format).runs(rounding, overflow);
                modes.push(Mode { format, rounding, overflow, runs });
            }
        }
    }
    modes
}

/// Asserts that `codes` are those of the patterns from `first` on.
fn assert_runs(runs: &[(u32, u32, u8)], first: u32, codes: &[u8], what: &dyn Fn() -> String) {
    let last = first + (codes.len() as u32 - 1);
    let start = runs.partition_point(|run| run.1 < first);
    for &(from, to, expected) in runs[start..].iter().take_while(|run| run.0 <= last) {
        let (from, to) = (from.max(first), to.min(last));
        let part = &codes[(from - first) as usize..=(to - first) as usize];
        // Without early exit, so that it is a vector loop.
        let differ = part.iter().fold(0, |differ, &code| differ | (code ^ expected));
        if differ != 0 {
            let at = part.iter().position(|&code| code != expected).unwrap_or_default();
            panic!("{}: pattern {:08X} gives {:02X}, not {expected:02X}", what(), from + at as u32, part[at]);
        }
    }
}

/// Breaks if the runs leave a pattern out: everything below would then be blind to it.
#[test]
fn runs_cover_every_pattern_once() {
    for mode in all_modes() {
        let mut next = 0_u64;
        for &(first, last, _) in &mode.runs {
            assert_eq!(u64::from(first), next);
            assert!(first <= last);
            next = u64::from(last) + 1;
        }
        assert_eq!(next, 1 << 32);
    }
}

/// Breaks if the bulk encoder gives any f32 another code than the table of values, in any mode.
#[test]
#[ignore = "exhaustive: minutes"]
fn bulk_encoding_of_all_f32() {
    let modes = all_modes();
    for_all_f32(|first, values| {
        let mut codes = [0; BLOCK as usize];
        for Mode { format, rounding, overflow, runs } in &modes {
            convert::encode_f32(*format, *rounding, *overflow, values, &mut codes).unwrap();
            assert_runs(runs, first, &codes, &|| format!("bulk {format} {rounding:?} {overflow:?}"));
        }
    });
}

/// Codes of one block in the four modes of a format, in the order of `all_modes`.
type FourModes = [[u8; BLOCK as usize]; 4];

/// Breaks if the scalar encoder gives any f32 another code than the table of values, in any mode.
#[test]
#[ignore = "exhaustive: minutes"]
fn scalar_encoding_of_all_f32() {
    /// All modes of a constant format in one loop, so that the compiler unpacks each number once.
    fn encode_all(values: &[f32], codes: &mut FourModes, encode: impl Fn(f32, Rounding, Overflow) -> u8) {
        for (i, &x) in values.iter().enumerate() {
            codes[0][i] = encode(x, Rounding::NearestEven, Overflow::Saturate);
            codes[1][i] = encode(x, Rounding::NearestEven, Overflow::NonSaturating);
            codes[2][i] = encode(x, Rounding::TowardZero, Overflow::Saturate);
            codes[3][i] = encode(x, Rounding::TowardZero, Overflow::NonSaturating);
        }
    }
    let modes = all_modes();
    for_all_f32(|first, values| {
        let mut codes: FourModes = [[0; BLOCK as usize]; 4];
        for of_format in modes.chunks_exact(4) {
            match of_format[0].format {
                Fp8Format::E4m3 => encode_all(values, &mut codes, |x, r, o| Fp8Format::E4m3.encode(x, r, o)),
                Fp8Format::E5m2 => encode_all(values, &mut codes, |x, r, o| Fp8Format::E5m2.encode(x, r, o)),
                Fp8Format::E4m3Fnuz => encode_all(values, &mut codes, |x, r, o| Fp8Format::E4m3Fnuz.encode(x, r, o)),
                Fp8Format::E5m2Fnuz => encode_all(values, &mut codes, |x, r, o| Fp8Format::E5m2Fnuz.encode(x, r, o)),
            }
            for (Mode { format, rounding, overflow, runs }, codes) in of_format.iter().zip(&codes) {
                assert_runs(runs, first, codes, &|| format!("scalar {format} {rounding:?} {overflow:?}"));
            }
        }
    });
}

/// Breaks if minifloat, written by others from the same definitions, disagrees about any f32.
#[test]
#[ignore = "exhaustive: minutes"]
fn minifloat_agrees_on_all_f32() {
    fn check(values: &[f32], format: Fp8Format, overflow: Overflow, other: impl Fn(f32) -> u8) {
        let mut codes = [0; BLOCK as usize];
        convert::encode_f32(format, Rounding::NearestEven, overflow, values, &mut codes).unwrap();
        let differ = values.iter().zip(&codes).filter(|&(&x, &code)| other(x) != code && !x.is_nan()).count();
        assert_eq!(differ, 0, "{format} from {:08X}", values[0].to_bits());
    }
    for_all_f32(|_, values| {
        check(values, Fp8Format::E4m3, Overflow::Saturate, |x| F8E4M3FN::from_f32(x).to_bits());
        check(values, Fp8Format::E5m2, Overflow::NonSaturating, |x| F8E5M2::from_f32(x).to_bits());
        check(values, Fp8Format::E4m3Fnuz, Overflow::Saturate, |x| F8E4M3FNUZ::from_f32(x).to_bits());
        check(values, Fp8Format::E5m2Fnuz, Overflow::Saturate, |x| F8E5M2FNUZ::from_f32(x).to_bits());
    });
}

/// Breaks if LLVM's rounding and this project's part somewhere in a regular sample of all f32.
#[test]
#[ignore = "exhaustive: minutes"]
fn apfloat_agrees_on_a_stride() {
    (0..u32::MAX / 199).into_par_iter().for_each(|i| {
        let x = f32::from_bits(i * 199);
        for format in Fp8Format::ALL {
            for rounding in ROUNDINGS {
                for overflow in OVERFLOWS {
                    let expected = apfloat(format, x.into(), rounding, overflow);
                    let got = format.encode(x, rounding, overflow);
                    assert_eq!(got, expected, "{x:e} to {format} {rounding:?} {overflow:?}");
                }
            }
        }
    });
}

/// Breaks if any f32 gets another E8M0 scale than the definition says, in any mode.
#[test]
#[ignore = "exhaustive: minutes"]
fn e8m0_of_all_f32() {
    use E8m0Rounding::{Down, Nearest, Up};
    use Overflow::{NonSaturating, Saturate};
    const MODES: [(E8m0Rounding, Overflow); 6] = [
        (Down, Saturate),
        (Down, NonSaturating),
        (Up, Saturate),
        (Up, NonSaturating),
        (Nearest, Saturate),
        (Nearest, NonSaturating),
    ];
    let runs = MODES.map(|(rounding, overflow)| {
        // The sign does not matter: the same runs again for the negative half.
        let positive = e8m0_runs(rounding, overflow);
        let negative = positive.iter().map(|&(first, last, code)| (first | 1 << 31, last | 1 << 31, code));
        positive.iter().copied().chain(negative).collect::<Vec<_>>()
    });
    for_all_f32(|first, values| {
        let mut codes = [[0; BLOCK as usize]; 6];
        for (i, &x) in values.iter().enumerate() {
            for (codes, (rounding, overflow)) in codes.iter_mut().zip(MODES) {
                codes[i] = E8m0::from_f32(x, rounding, overflow).to_bits();
            }
        }
        for ((mode, runs), codes) in MODES.iter().zip(&runs).zip(&codes) {
            assert_runs(runs, first, codes, &|| format!("e8m0 {mode:?}"));
        }
    });
}

/// Breaks if the number of random words that round a value up is not its fraction of 2^32 exactly.
#[test]
#[ignore = "exhaustive: minutes"]
fn stochastic_rounding_with_all_random_bits() {
    for (format, x) in [
        (Fp8Format::E4m3, 1.03_f32),
        (Fp8Format::E4m3, 0.001),
        (Fp8Format::E4m3, 1e-8),
        (Fp8Format::E4m3, 470.0),
        (Fp8Format::E5m2, -3.3),
        (Fp8Format::E4m3Fnuz, 0.0123),
        (Fp8Format::E5m2Fnuz, 1.2e-6),
    ] {
        let table = Table::new(format);
        let size = f64::from(x.abs());
        let below = table.below(size) as u8;
        let sources = vec![x; BLOCK as usize];
        let ups: u64 = (0..u32::MAX / BLOCK + 1)
            .into_par_iter()
            .map(|block| {
                let random: Vec<u32> = (0..BLOCK).map(|i| block * BLOCK + i).collect();
                let mut codes = [0; BLOCK as usize];
                let overflow = Overflow::NonSaturating;
                convert::encode_f32_stochastic(format, overflow, &sources, &random, &mut codes).unwrap();
                codes.iter().filter(|&&code| code & 0x7F != below).count() as u64
            })
            .sum();
        assert_eq!(ups, table.fraction(size), "{x} to {format}");
    }
}
