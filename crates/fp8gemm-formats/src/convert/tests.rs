//! Every instruction set that this machine has, against the scalar codecs.
//!
//! Which bits are right is settled in the crate's `tests/`; here it is only that no instruction
//! set, slice length or source type gives other bits than the scalar codec.

use core::fmt::Debug;

use half::{bf16, f16};
use pulp::{Simd, WithSimd};

use super::lane::{Destination, Source};
use super::simd::{Decode, Encode, EncodeStochastic, run};
use crate::{FormatError, Fp8Format, Overflow, Rounding, convert};

const ROUNDINGS: [Rounding; 4] = [
    Rounding::NearestEven,
    Rounding::TowardZero,
    Rounding::Stochastic { bits: 0x8000_0000 },
    Rounding::Stochastic { bits: u32::MAX },
];
const OVERFLOWS: [Overflow; 2] = [Overflow::Saturate, Overflow::NonSaturating];

#[derive(Clone, Copy, Debug)]
enum Backend {
    Dispatched,
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
}

impl Backend {
    fn all() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Self::Dispatched, Self::Baseline];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(Self::Avx2));
            all.extend(pulp::x86::V4::try_new().map(Self::Avx512));
        }
        all
    }

    fn run<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self {
            Self::Dispatched => run(op),
            Self::Baseline => Simd::vectorize(pulp::Scalar, op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => Simd::vectorize(simd, op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => Simd::vectorize(simd, op),
        }
    }
}

/// f32 patterns where something could go wrong: around every code's value and the middles between
/// codes, around the ends of the f32 range, and a stride through everything else.
fn patterns() -> Vec<u32> {
    let mut patterns: Vec<u32> = (0..1 << 16).map(|i: u32| i.wrapping_mul(0x0001_0003)).collect();
    let mut near = |bits: u32| patterns.extend((0..7).map(|i| bits.wrapping_add(i).wrapping_sub(3)));
    for format in Fp8Format::ALL {
        for code in 1..=format.max_code() {
            let (below, value) = (format.decode(code - 1), format.decode(code));
            let half = (value - below) / 2.0;
            for x in [below + half, value, value + half, value + 2.0 * half] {
                near(x.to_bits());
            }
        }
    }
    for bits in [0, 1 << 23, f32::MAX.to_bits(), f32::INFINITY.to_bits(), f32::NAN.to_bits(), 0x7FFF_FFFF] {
        near(bits);
    }
    let negative: Vec<u32> = patterns.iter().map(|bits| bits ^ 0x8000_0000).collect();
    patterns.extend(negative);
    patterns
}

/// Encodes `source` on every backend and compares with the scalar codec.
fn check_encode<T: Source + PartialEq + Debug>(source: &[T], scalar: impl Fn(Fp8Format, T, Rounding, Overflow) -> u8) {
    for format in Fp8Format::ALL {
        for rounding in ROUNDINGS {
            for overflow in OVERFLOWS {
                let expected: Vec<u8> = source.iter().map(|&x| scalar(format, x, rounding, overflow)).collect();
                for backend in Backend::all() {
                    let mut codes = vec![0x55; source.len()];
                    backend.run(Encode { format, rounding, overflow, source, destination: &mut codes });
                    let wrong = (0..source.len()).find(|&i| codes[i] != expected[i]);
                    assert_eq!(
                        wrong.map(|i| (source[i], codes[i], expected[i])),
                        None,
                        "{backend:?} {format} {rounding:?} {overflow:?}: (x, bulk, scalar)"
                    );
                }
            }
        }
    }
}

/// Breaks if a vector path rounds any f32 differently from the scalar codec.
#[test]
fn f32_lanes_are_the_scalar_codec() {
    let source: Vec<f32> = patterns().into_iter().map(f32::from_bits).collect();
    check_encode(&source, Fp8Format::encode);
}

/// Breaks if a vector path widens an f16 wrongly (subnormals, infinities) or rounds it differently.
#[test]
fn f16_lanes_are_the_scalar_codec() {
    let source: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    check_encode(&source, |format, x, rounding, overflow| format.encode(x.to_f32(), rounding, overflow));
}

/// Breaks if a vector path widens a bf16 wrongly or rounds it differently.
#[test]
fn bf16_lanes_are_the_scalar_codec() {
    let source: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    check_encode(&source, |format, x, rounding, overflow| format.encode(x.to_f32(), rounding, overflow));
}

/// Breaks if a vector path loses the low bits of an f64, or mishandles exponents f32 has not.
#[test]
fn f64_lanes_are_the_scalar_codec() {
    let widened = patterns().into_iter().map(|bits| f64::from(f32::from_bits(bits)).to_bits());
    let source: Vec<f64> = widened
        .flat_map(|bits| [bits.wrapping_sub(1), bits, bits + 1, bits ^ (0x5A5 << 52)])
        .map(f64::from_bits)
        .collect();
    check_encode(&source, Fp8Format::encode_f64);
}

/// Breaks if an element is given another element's random bits, or a lane adds them differently.
#[test]
fn stochastic_lanes_are_the_scalar_codec() {
    let source: Vec<f32> = patterns().into_iter().map(f32::from_bits).collect();
    let doubles: Vec<f64> = source.iter().map(|&x| f64::from(x) * (1.0 + 2f64.powi(-40))).collect();
    let random: Vec<u32> = (0..source.len() as u32).map(|i| i.wrapping_mul(0x9E37_79B1)).collect();
    for format in Fp8Format::ALL {
        for overflow in OVERFLOWS {
            let rounding = |i: usize| Rounding::Stochastic { bits: random[i] };
            for backend in Backend::all() {
                let mut codes = vec![0x55; source.len()];
                let destination = &mut codes;
                backend.run(EncodeStochastic { format, overflow, source: &source, random: &random, destination });
                let wrong = (0..source.len()).find(|&i| codes[i] != format.encode(source[i], rounding(i), overflow));
                assert_eq!(wrong.map(|i| source[i]), None, "{backend:?} {format} {overflow:?}");
                let destination = &mut codes;
                backend.run(EncodeStochastic { format, overflow, source: &doubles, random: &random, destination });
                let wrong =
                    (0..source.len()).find(|&i| codes[i] != format.encode_f64(doubles[i], rounding(i), overflow));
                assert_eq!(wrong.map(|i| doubles[i]), None, "{backend:?} {format} {overflow:?}");
            }
        }
    }
}

/// Decodes every code at every alignment and length up to a few vectors, on every backend.
fn check_decode<T: Destination + PartialEq + Debug>(zero: T, bits: fn(T) -> u32, scalar: fn(Fp8Format, u8) -> u32) {
    let source: Vec<u8> = (0..=u8::MAX).collect();
    for format in Fp8Format::ALL {
        for backend in Backend::all() {
            for start in 0..source.len() {
                let source = &source[start..];
                let mut values = vec![zero; source.len()];
                backend.run(Decode { format, source, destination: &mut values });
                for (&code, &value) in source.iter().zip(&values) {
                    assert_eq!(bits(value), scalar(format, code), "{backend:?} {format} {code:02X}");
                }
            }
        }
    }
}

/// Breaks if a vector path decodes any code to other bits than the table; NaN bits count.
#[test]
fn decoding_lanes_are_the_table() {
    check_decode(0.0_f32, f32::to_bits, |format, code| format.decode(code).to_bits());
    check_decode(
        bf16::ZERO,
        |x| u32::from(x.to_bits()),
        |format, code| if format.is_nan(code) { 0x7FFF } else { bf16::from_f32(format.decode(code)).to_bits().into() },
    );
    check_decode(
        f16::ZERO,
        |x| u32::from(x.to_bits()),
        |format, code| if format.is_nan(code) { 0x7FFF } else { f16::from_f32(format.decode(code)).to_bits().into() },
    );
}

/// Breaks if a loop's remainder is skipped, or writes past its end.
#[test]
fn every_length_is_converted_whole() {
    let source: Vec<f32> = (0..300).map(|i| i as f32).collect();
    for length in 0..source.len() {
        for backend in Backend::all() {
            let mut codes = vec![0x55; length + 1];
            backend.run(Encode {
                format: Fp8Format::E4m3,
                rounding: Rounding::NearestEven,
                overflow: Overflow::Saturate,
                source: &source[..length],
                destination: &mut codes[..length],
            });
            for (i, &code) in codes[..length].iter().enumerate() {
                let expected = Fp8Format::E4m3.encode(i as f32, Rounding::NearestEven, Overflow::Saturate);
                assert_eq!(code, expected, "{backend:?}, element {i} of {length}");
            }
            assert_eq!(codes[length], 0x55, "{backend:?} wrote past {length}");
        }
    }
}

/// Breaks if slices of different lengths are converted in part instead of refused.
#[test]
fn lengths_must_agree() {
    let mut codes = [0; 3];
    let wrong = |source_len| Err(FormatError::LengthMismatch { source_len, destination_len: 3 });
    let (format, rounding, overflow) = (Fp8Format::E4m3, Rounding::NearestEven, Overflow::Saturate);
    assert_eq!(convert::encode_f32(format, rounding, overflow, &[1.0; 2], &mut codes), wrong(2));
    assert_eq!(convert::encode_f64(format, rounding, overflow, &[1.0; 4], &mut codes), wrong(4));
    assert_eq!(convert::encode_f32_stochastic(format, overflow, &[1.0; 3], &[0; 2], &mut codes), wrong(2));
    assert_eq!(convert::decode_f32(format, &codes[..2], &mut [0.0; 3]), wrong(2));
    assert_eq!(codes, [0; 3]);
}
