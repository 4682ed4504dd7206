//! Two oracles for the codecs that share nothing with them.
//!
//! [`Table`] writes down the values of a format from its definition and encodes by looking up
//! between which two a number lies; there are no bit tricks in it. [`apfloat_unbounded`] lets
//! `rustc_apfloat` (LLVM's software floating point) do the rounding, into a format of the same
//! precision and smallest exponent but a far larger largest one, so that all that is left to say
//! here is what becomes of an overflow.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use fp8gemm_formats::{E8m0Rounding, Fp8Format, Overflow, Rounding};
use rustc_apfloat::ieee::{Double, IeeeFloat, Semantics, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

/// The deterministic roundings.
pub(crate) const ROUNDINGS: [Rounding; 2] = [Rounding::NearestEven, Rounding::TowardZero];
/// Both overflow rules.
pub(crate) const OVERFLOWS: [Overflow; 2] = [Overflow::Saturate, Overflow::NonSaturating];

/// What the specifications say of a format: written down a second time, on purpose.
#[derive(Clone, Copy)]
pub(crate) struct Facts {
    mantissa_bits: u32,
    bias: i32,
    max: f64,
    max_code: u8,
    /// Codes (positive, negative) for a non-saturating overflow.
    overflow: (u8, u8),
    nan: u8,
    negative_zero: u8,
}

/// The facts of `format`.
pub(crate) fn facts(format: Fp8Format) -> Facts {
    match format {
        Fp8Format::E4m3 => Facts {
            mantissa_bits: 3,
            bias: 7,
            max: 448.0,
            max_code: 0x7E,
            overflow: (0x7F, 0xFF),
            nan: 0x7F,
            negative_zero: 0x80,
        },
        Fp8Format::E5m2 => Facts {
            mantissa_bits: 2,
            bias: 15,
            max: 57344.0,
            max_code: 0x7B,
            overflow: (0x7C, 0xFC),
            nan: 0x7F,
            negative_zero: 0x80,
        },
        Fp8Format::E4m3Fnuz => Facts {
            mantissa_bits: 3,
            bias: 8,
            max: 240.0,
            max_code: 0x7F,
            overflow: (0x80, 0x80),
            nan: 0x80,
            negative_zero: 0,
        },
        Fp8Format::E5m2Fnuz => Facts {
            mantissa_bits: 2,
            bias: 16,
            max: 57344.0,
            max_code: 0x7F,
            overflow: (0x80, 0x80),
            nan: 0x80,
            negative_zero: 0,
        },
    }
}

/// A format as the list of its values.
pub(crate) struct Table {
    facts: Facts,
    /// Values of the non-negative finite codes, in order, and last the next step of the grid, with
    /// which overflow begins.
    values: Vec<f64>,
}

impl Table {
    /// Writes down the values of `format`.
    pub(crate) fn new(format: Fp8Format) -> Self {
        let facts = facts(format);
        let step = 1 << facts.mantissa_bits;
        let value = |code: i32| {
            let (field, fraction) = (code / step, f64::from(code % step) / f64::from(step));
            if field == 0 {
                2f64.powi(1 - facts.bias) * fraction
            } else {
                2f64.powi(field - facts.bias) * (1.0 + fraction)
            }
        };
        let values: Vec<f64> = (0..=i32::from(facts.max_code) + 1).map(value).collect();
        assert_eq!(values[usize::from(facts.max_code)], facts.max);
        Self { facts, values }
    }

    /// The largest finite code.
    fn last(&self) -> usize {
        self.values.len() - 2
    }

    /// The finite value of a magnitude code, or one step beyond.
    pub(crate) fn value(&self, code: usize) -> f64 {
        self.values[code]
    }

    /// The first magnitude code whose value is not finite.
    pub(crate) fn beyond(&self) -> usize {
        self.last() + 1
    }

    /// The magnitude code of the largest value not above `size`; one step beyond counts.
    pub(crate) fn below(&self, size: f64) -> usize {
        self.values.partition_point(|&value| value <= size) - 1
    }

    /// Encodes any f64 (and so any f32, f16, bf16) by comparison with exact values and middles.
    pub(crate) fn encode(&self, x: f64, rounding: Rounding, overflow: Overflow) -> u8 {
        if x.is_nan() {
            return self.facts.nan;
        }
        let size = x.abs();
        let below = self.below(size);
        let code = match rounding {
            _ if below > self.last() => below,
            Rounding::TowardZero => below,
            Rounding::NearestEven => {
                let middle = (self.values[below] + self.values[below + 1]) / 2.0;
                if size > middle || (size == middle && below % 2 == 1) { below + 1 } else { below }
            }
            Rounding::Stochastic { bits } => below + usize::from(u64::from(bits) + self.fraction(size) >= 1 << 32),
        };
        let finite_overflow = size.is_finite() && code > self.last();
        if finite_overflow && rounding == Rounding::TowardZero {
            return self.join(x, self.last());
        }
        if code <= self.last() {
            return self.join(x, code);
        }
        match overflow {
            Overflow::Saturate => self.join(x, self.last()),
            Overflow::NonSaturating if x > 0.0 => self.facts.overflow.0,
            Overflow::NonSaturating => self.facts.overflow.1,
        }
    }

    /// How far `size` is from the value below to the next, in 2^-32, rounded down. Exact: the
    /// difference of neighbours in one binade has no more bits than `size`, the step is a power of
    /// two. 0 from the first step beyond the finite values on.
    pub(crate) fn fraction(&self, size: f64) -> u64 {
        let below = self.below(size);
        if below == self.beyond() {
            return 0;
        }
        let step = self.values[below + 1] - self.values[below];
        ((size - self.values[below]) / step * 2f64.powi(32)).floor() as u64
    }

    fn join(&self, x: f64, code: usize) -> u8 {
        match (x.is_sign_negative(), code) {
            (true, 0) => self.facts.negative_zero,
            (true, _) => 0x80 | code as u8,
            (false, _) => code as u8,
        }
    }

    /// All f32 patterns as runs of equal codes: `(first pattern, last pattern, code)`, in order and
    /// without gaps. Between two of its boundaries a run is constant because encoding is monotone;
    /// the boundaries are found by bisection.
    pub(crate) fn runs(&self, rounding: Rounding, overflow: Overflow) -> Vec<(u32, u32, u8)> {
        const INFINITY: u32 = 0x7F80_0000;
        let mut runs = Vec::new();
        for sign in [0, 0x8000_0000] {
            let code = |pattern: u32| self.encode(f64::from(f32::from_bits(sign | pattern)), rounding, overflow);
            runs.extend(
                bisect(INFINITY, code).into_iter().map(|(first, last, code)| (sign | first, sign | last, code)),
            );
            runs.push((sign | INFINITY, sign | INFINITY, code(INFINITY)));
            runs.push((sign | (INFINITY + 1), sign | 0x7FFF_FFFF, self.facts.nan));
        }
        runs
    }

    /// The f32 patterns at which the code changes under any rounding: all values and all middles,
    /// with their neighbours up to `reach` patterns away, both signs.
    pub(crate) fn boundaries(&self, reach: u32) -> Vec<u32> {
        let middles = self.values.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        let points = self.values.iter().copied().chain(middles).map(|x| (x as f32).to_bits());
        let specials = [0x0080_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7FC0_0000, 0x7FFF_FFFF];
        points
            .chain(specials)
            .flat_map(|point| (0..=2 * reach).map(move |i| point.wrapping_add(i).wrapping_sub(reach)))
            .flat_map(|pattern| [pattern, pattern ^ 0x8000_0000])
            .collect()
    }
}

/// An IEEE format with a 12-bit exponent field, but the smallest exponent `MIN_EXP` and `MANTISSA`
/// mantissa bits of an FP8 format: its codes run on where those of the FP8 format end.
pub(crate) struct Unbounded<const MIN_EXP: i32, const MANTISSA: usize>;

impl<const MIN_EXP: i32, const MANTISSA: usize> Semantics for Unbounded<MIN_EXP, MANTISSA> {
    const BITS: usize = 1 + 12 + MANTISSA;
    const EXP_BITS: usize = 12;
    const MIN_EXP: i32 = MIN_EXP;
}

fn unbounded_code<F, const MIN_EXP: i32, const MANTISSA: usize>(x: F, round: Round) -> u32
where
    F: FloatConvert<IeeeFloat<Unbounded<MIN_EXP, MANTISSA>>>,
{
    let rounded = x.convert_r(round, &mut false).value;
    rounded.to_bits() as u32 & ((1 << (12 + MANTISSA)) - 1)
}

/// Encodes an f64 with `rustc_apfloat`'s rounding and this project's overflow rules.
pub(crate) fn apfloat(format: Fp8Format, x: f64, rounding: Rounding, overflow: Overflow) -> u8 {
    let facts = facts(format);
    if x.is_nan() {
        return facts.nan;
    }
    let round = match rounding {
        Rounding::NearestEven => Round::NearestTiesToEven,
        Rounding::TowardZero => Round::TowardZero,
        Rounding::Stochastic { .. } => panic!("apfloat has no stochastic rounding"),
    };
    let double = Double::from_bits(u128::from(x.to_bits()));
    let code = match format {
        Fp8Format::E4m3 => unbounded_code::<_, -6, 3>(double, round),
        Fp8Format::E5m2 => unbounded_code::<_, -14, 2>(double, round),
        Fp8Format::E4m3Fnuz => unbounded_code::<_, -7, 3>(double, round),
        Fp8Format::E5m2Fnuz => unbounded_code::<_, -15, 2>(double, round),
    };
    let last = u32::from(facts.max_code);
    let negative = x.is_sign_negative();
    match code {
        0 => {
            if negative {
                facts.negative_zero
            } else {
                0
            }
        }
        _ if code <= last => code as u8 | if negative { 0x80 } else { 0 },
        _ if overflow == Overflow::Saturate || (x.is_finite() && rounding == Rounding::TowardZero) => {
            last as u8 | if negative { 0x80 } else { 0 }
        }
        _ => {
            if negative {
                facts.overflow.1
            } else {
                facts.overflow.0
            }
        }
    }
}

/// The exact f32 as apfloat's single, for its own FP8 formats.
pub(crate) fn single(x: f32) -> Single {
    Single::from_bits(u128::from(x.to_bits()))
}

/// E8M0 by comparison with powers of two in f64.
pub(crate) fn e8m0(x: f32, rounding: E8m0Rounding, overflow: Overflow) -> u8 {
    if x.is_nan() {
        return 0xFF;
    }
    let size = f64::from(x.abs());
    let value = |code: i32| 2f64.powi(code - 127);
    // The largest code not above, 0 for everything below 2^-127 too.
    let below = (0..=255).rev().find(|&code| value(code) <= size).unwrap_or(0);
    let above = size > value(below);
    let code = below
        + i32::from(match rounding {
            E8m0Rounding::Down => false,
            E8m0Rounding::Up => above,
            // torch: between 2^-127 and 2^-126 (f32 subnormals) always up.
            E8m0Rounding::Nearest => above && (below == 0 || size >= 1.5 * value(below)),
        });
    match (code, overflow) {
        (0..=254, _) => code as u8,
        (_, Overflow::Saturate) => 0xFE,
        (_, Overflow::NonSaturating) => 0xFF,
    }
}

/// All non-negative f32 patterns as runs of equal E8M0 codes, NaN last; the sign does not matter.
pub(crate) fn e8m0_runs(rounding: E8m0Rounding, overflow: Overflow) -> Vec<(u32, u32, u8)> {
    const NAN: u32 = 0x7F80_0001;
    let mut runs = bisect(NAN, |pattern| e8m0(f32::from_bits(pattern), rounding, overflow));
    runs.push((NAN, 0x7FFF_FFFF, 0xFF));
    runs
}

/// Cuts `0..end` into runs of equal codes, for a code that never returns to an earlier value.
fn bisect(end: u32, code: impl Fn(u32) -> u8) -> Vec<(u32, u32, u8)> {
    let mut runs = Vec::new();
    let mut first = 0;
    while first < end {
        let here = code(first);
        let (mut same, mut other) = (first, end);
        while other - same > 1 {
            let middle = same + (other - same) / 2;
            if code(middle) == here { same = middle } else { other = middle }
        }
        runs.push((first, other - 1, here));
        first = other;
    }
    runs
}
