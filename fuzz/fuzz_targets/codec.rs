//! Codecs: every format, rounding and overflow mode of arbitrary f32, f64, f16 and bf16 bits.
//!
//! Checks that
//! - encoding gives the code that a search over the exact grid of the format gives;
//! - the typed wrappers and the four source types agree with it;
//! - bulk conversion of slices of any length and start gives the scalar bits, both ways;
//! - all codes decode to their exact value, NaN to the canonical one;
//! - E8M0 encoding agrees with its definition.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use fp8gemm_formats::{E4m3, E8m0, E8m0Rounding, Fp8Format, Overflow, Rounding, convert};
use fp8gemm_fuzz::input::{f32_value, f64_value, mutate_or_renew};
use fp8gemm_fuzz::oracle::{self, Grid};
use half::{bf16, f16};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

#[derive(Debug)]
struct Case {
    format: Fp8Format,
    rounding: Rounding,
    overflow: Overflow,
    /// Elements of the slices to leave out in front, so that vectors start anywhere.
    skip: usize,
    singles: Vec<f32>,
    doubles: Vec<f64>,
    halves: Vec<u16>,
    codes: Vec<u8>,
    random: Vec<u32>,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let rounding = match u.int_in_range(0..=2)? {
            0 => Rounding::NearestEven,
            1 => Rounding::TowardZero,
            _ => Rounding::Stochastic { bits: u.arbitrary()? },
        };
        // About as many values as the vectors of AVX-512 hold, twice, so that all tails occur.
        let len = u.int_in_range(0..=140)?;
        Ok(Self {
            format: *u.choose(&Fp8Format::ALL)?,
            rounding,
            overflow: *u.choose(&[Overflow::Saturate, Overflow::NonSaturating])?,
            skip: u.int_in_range(0..=3)?,
            singles: (0..len).map(|_| f32_value(u)).collect::<Result<_>>()?,
            doubles: (0..len).map(|_| f64_value(u)).collect::<Result<_>>()?,
            halves: (0..len).map(|_| u.arbitrary()).collect::<Result<_>>()?,
            codes: (0..len).map(|_| u.arbitrary()).collect::<Result<_>>()?,
            random: (0..len).map(|_| u.arbitrary()).collect::<Result<_>>()?,
        })
    }
}

/// Scalar against oracle for each element, then bulk against scalar for the slice.
fn encode<T: Copy + core::fmt::Debug>(
    case: &Case,
    all: &[T],
    wide: impl Fn(T) -> f64,
    scalar: impl Fn(T, Rounding) -> u8,
    bulk: impl Fn(&[T], &mut [u8]),
    bulk_stochastic: impl Fn(&[T], &[u32], &mut [u8]),
) {
    let grid = Grid::of(case.format);
    let source = all.get(case.skip..).unwrap_or_default();
    let random = case.random.get(case.skip..).unwrap_or_default();
    let mut codes = vec![0xA5; source.len()];
    bulk(source, &mut codes);
    for (&x, &code) in source.iter().zip(&codes) {
        let wanted = grid.encode(wide(x), case.rounding, case.overflow);
        assert_eq!(scalar(x, case.rounding), wanted, "scalar, {x:?} = {:e}", wide(x));
        assert_eq!(code, wanted, "bulk, {x:?} = {:e}", wide(x));
    }
    bulk_stochastic(source, random, &mut codes);
    for ((&x, &bits), &code) in source.iter().zip(random).zip(&codes) {
        let wanted = grid.encode(wide(x), Rounding::Stochastic { bits }, case.overflow);
        assert_eq!(code, wanted, "bulk stochastic {bits:08x}, {x:?} = {:e}", wide(x));
    }
}

fn decode(case: &Case) {
    let grid = Grid::of(case.format);
    let codes = case.codes.get(case.skip..).unwrap_or_default();
    let mut singles = vec![0.0; codes.len()];
    let mut halves = vec![f16::ZERO; codes.len()];
    let mut brains = vec![bf16::ZERO; codes.len()];
    convert::decode_f32(case.format, codes, &mut singles).expect("equal lengths");
    convert::decode_f16(case.format, codes, &mut halves).expect("equal lengths");
    convert::decode_bf16(case.format, codes, &mut brains).expect("equal lengths");
    for (i, &code) in codes.iter().enumerate() {
        let value = grid.value(code);
        let wanted = if value.is_nan() { 0x7FFF_FFFF } else { (value as f32).to_bits() };
        assert_eq!(case.format.decode(code).to_bits(), wanted, "{code:02x}");
        assert_eq!(singles[i].to_bits(), wanted, "bulk {code:02x}");
        let (half, brain) = (halves[i], brains[i]);
        if value.is_nan() {
            assert_eq!((half.to_bits(), brain.to_bits()), (0x7FFF, 0x7FFF), "{code:02x}");
        } else {
            assert_eq!(half.to_f32().to_bits(), wanted, "f16 {code:02x}");
            assert_eq!(brain.to_f32().to_bits(), wanted, "bf16 {code:02x}");
        }
    }
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_or_renew(data, size, max_size, seed)
});

fuzz_target!(|case: Case| {
    let Case { format, rounding, overflow, .. } = case;
    encode(
        &case,
        &case.singles,
        f64::from,
        |x, rounding| {
            let code = format.encode(x, rounding, overflow);
            if format == Fp8Format::E4m3 {
                assert_eq!(E4m3::from_f32_with(x, rounding, overflow).to_bits(), code);
            }
            code
        },
        |from, to| convert::encode_f32(format, rounding, overflow, from, to).expect("equal lengths"),
        |from, random, to| {
            convert::encode_f32_stochastic(format, overflow, from, random, to).expect("equal lengths");
        },
    );
    encode(
        &case,
        &case.doubles,
        |x| x,
        |x, rounding| format.encode_f64(x, rounding, overflow),
        |from, to| convert::encode_f64(format, rounding, overflow, from, to).expect("equal lengths"),
        |from, random, to| {
            convert::encode_f64_stochastic(format, overflow, from, random, to).expect("equal lengths");
        },
    );
    let halves: Vec<f16> = case.halves.iter().map(|bits| f16::from_bits(*bits)).collect();
    encode(
        &case,
        &halves,
        f16::to_f64,
        |x, rounding| format.encode(x.to_f32(), rounding, overflow),
        |from, to| convert::encode_f16(format, rounding, overflow, from, to).expect("equal lengths"),
        |from, random, to| {
            convert::encode_f16_stochastic(format, overflow, from, random, to).expect("equal lengths");
        },
    );
    let brains: Vec<bf16> = case.halves.iter().map(|bits| bf16::from_bits(*bits)).collect();
    encode(
        &case,
        &brains,
        bf16::to_f64,
        |x, rounding| format.encode(x.to_f32(), rounding, overflow),
        |from, to| convert::encode_bf16(format, rounding, overflow, from, to).expect("equal lengths"),
        |from, random, to| {
            convert::encode_bf16_stochastic(format, overflow, from, random, to).expect("equal lengths");
        },
    );
    decode(&case);
    for &x in &case.singles {
        for rounding in [E8m0Rounding::Down, E8m0Rounding::Up, E8m0Rounding::Nearest] {
            let code = E8m0::from_f32(x, rounding, overflow).to_bits();
            assert_eq!(code, oracle::e8m0(x, rounding, overflow), "E8M0 {rounding:?} of {x:e}");
        }
    }
});
