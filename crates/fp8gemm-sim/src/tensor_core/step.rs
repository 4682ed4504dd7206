//! The fused dot-product-add itself, one output element at a time.
//!
//! This is the specification that the SIMD paths are held against: it follows the formula of the
//! module above line by line.

use super::{Accumulator, Alignment, Operand, TensorCore, TermOrder};
use crate::round::{Layout, NAN_16, NAN_F32, Rounding, pack};

/// A sum before rounding: `(-1)^negative * magnitude * 2^exponent`, or what specials left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Exact {
    Finite { negative: bool, magnitude: u64, exponent: i32 },
    Infinite { negative: bool },
    Nan,
}

/// One term of the sum: an integer significand whose unit is `2^(exponent - fraction_bits)`.
#[derive(Clone, Copy)]
struct Term {
    negative: bool,
    significand: u64,
    exponent: i32,
    fraction_bits: i32,
}

impl TensorCore {
    /// Chains steps over `a` and `b` (of equal length), from `c`; bits of the accumulator's format.
    pub(crate) fn chain(&self, a: &[Operand], b: &[Operand], c: u32) -> u32 {
        let mut c = c;
        self.for_each_group(a, b, |a, b| c = self.round(self.step(a, b, self.decode_accumulator(c))));
        c
    }

    /// The same from zero and without ever rounding the accumulator: only the cuts at alignment
    /// remain.
    pub(crate) fn chain_unrounded(&self, a: &[Operand], b: &[Operand]) -> Exact {
        let mut c = Exact::Finite { negative: false, magnitude: 0, exponent: 0 };
        self.for_each_group(a, b, |a, b| c = self.step(a, b, c));
        c
    }

    /// Cuts K into the groups that one step sums; a short last group has fewer terms, which is the
    /// same as zeros.
    fn for_each_group(&self, a: &[Operand], b: &[Operand], mut each: impl FnMut(&[Operand], &[Operand])) {
        match self.order {
            TermOrder::Consecutive => {
                a.chunks(self.terms).zip(b.chunks(self.terms)).for_each(|(a, b)| each(a, b));
            }
            TermOrder::Interleaved => {
                let groups = 32 / self.terms;
                let gather = |x: &[Operand], group| {
                    let mut gathered = [Operand::ZERO; 32];
                    gathered.iter_mut().zip(x.iter().skip(group).step_by(groups)).for_each(|(to, from)| *to = *from);
                    gathered
                };
                for (a, b) in a.chunks(32).zip(b.chunks(32)) {
                    for group in 0..groups {
                        each(&gather(a, group)[..self.terms], &gather(b, group)[..self.terms]);
                    }
                }
            }
        }
    }

    /// One step: the sum of the products and `c`, cut at alignment but not yet rounded.
    fn step(&self, a: &[Operand], b: &[Operand], c: Exact) -> Exact {
        let mut terms = [Term { negative: false, significand: 0, exponent: 0, fraction_bits: 0 }; 33];
        let mut count = 0;
        let mut largest = self.exponent_floor;
        let (mut nan, mut plus_infinity, mut minus_infinity) = (false, false, false);
        let mut infinite = |negative: bool| if negative { minus_infinity = true } else { plus_infinity = true };
        for (&a, &b) in a.iter().zip(b) {
            match (a, b) {
                (
                    Operand::Finite { negative: na, significand: sa, exponent: ea, fraction_bits: fa },
                    Operand::Finite { negative: nb, significand: sb, exponent: eb, fraction_bits: fb },
                ) => {
                    let mut term = Term {
                        negative: na != nb,
                        significand: u64::from(sa) * u64::from(sb),
                        exponent: i32::from(ea) + i32::from(eb),
                        fraction_bits: i32::from(fa) + i32::from(fb),
                    };
                    if term.significand == 0 {
                        if self.zero_products_in_max {
                            largest = largest.max(term.exponent);
                        }
                        continue;
                    }
                    self.renormalise(&mut term, (sa, fa), (sb, fb));
                    largest = largest.max(term.exponent);
                    terms[count] = term;
                    count += 1;
                }
                (Operand::Nan, _) | (_, Operand::Nan) => nan = true,
                (Operand::Infinite { .. }, Operand::Finite { significand: 0, .. })
                | (Operand::Finite { significand: 0, .. }, Operand::Infinite { .. }) => nan = true,
                (
                    Operand::Infinite { negative: na },
                    Operand::Infinite { negative: nb } | Operand::Finite { negative: nb, .. },
                )
                | (Operand::Finite { negative: na, .. }, Operand::Infinite { negative: nb }) => infinite(na != nb),
            }
        }
        match c {
            Exact::Nan => nan = true,
            Exact::Infinite { negative } => infinite(negative),
            Exact::Finite { magnitude: 0, .. } => {}
            Exact::Finite { negative, magnitude, exponent } => {
                // c's exponent is that of its leading bit, but never below the format's smallest:
                // a subnormal c is not normalised either.
                let top = magnitude.ilog2() as i32 + exponent;
                let fraction_bits = top.max(self.smallest_exponent()) - exponent;
                let term = Term { negative, significand: magnitude, exponent: exponent + fraction_bits, fraction_bits };
                largest = largest.max(term.exponent);
                terms[count] = term;
                count += 1;
            }
        }
        if nan || (plus_infinity && minus_infinity) {
            return Exact::Nan;
        }
        if plus_infinity || minus_infinity {
            return Exact::Infinite { negative: minus_infinity };
        }
        let unit = largest - self.fraction_bits as i32;
        let sum: i64 = terms[..count].iter().map(|term| self.align(term, unit)).sum();
        Exact::Finite { negative: sum < 0, magnitude: sum.unsigned_abs(), exponent: unit }
    }

    /// The what-if knobs on a non-zero product; the hardware has both off.
    fn renormalise(&self, term: &mut Term, a: (u32, u16), b: (u32, u16)) {
        if self.normalised_subnormals {
            for (significand, fraction_bits) in [a, b] {
                let shift = i32::from(fraction_bits) - significand.ilog2() as i32;
                term.exponent -= shift;
                term.fraction_bits -= shift;
            }
        }
        if self.renormalised_products && term.significand.ilog2() as i32 > term.fraction_bits {
            term.exponent += 1;
            term.fraction_bits += 1;
        }
    }

    /// The term in units of `2^unit`, cut as [`Alignment`] says.
    fn align(&self, term: &Term, unit: i32) -> i64 {
        let shift = term.exponent - term.fraction_bits - unit;
        let signed = |magnitude: u64| if term.negative { -(magnitude as i64) } else { magnitude as i64 };
        if shift >= 0 {
            return signed(term.significand << shift);
        }
        let drop = shift.unsigned_abs();
        let whole = term.significand.checked_shr(drop).unwrap_or(0);
        let exact = drop < 64 && whole << drop == term.significand;
        let away = match self.alignment {
            Alignment::TowardZero => false,
            Alignment::Floor => term.negative && !exact,
            Alignment::NearestEven => {
                let twice = u128::from(term.significand) * 2;
                let middle = (u128::from(whole) * 2 + 1).checked_shl(drop).filter(|_| drop < 64);
                middle.is_some_and(|middle| twice > middle || (twice == middle && whole & 1 == 1))
            }
        };
        signed(whole + u64::from(away))
    }

    fn layout(&self) -> (Layout, Rounding) {
        match self.accumulator {
            Accumulator::F32 { fraction_bits, rounding } => (Layout::f32_with(fraction_bits), rounding),
            Accumulator::F16 { rounding } => (Layout::F16, rounding),
        }
    }

    fn smallest_exponent(&self) -> i32 {
        match self.accumulator {
            Accumulator::F32 { .. } => -126,
            Accumulator::F16 { .. } => -14,
        }
    }

    /// The single rounding at the end of a step.
    fn round(&self, sum: Exact) -> u32 {
        let (layout, rounding) = self.layout();
        let is_f16 = matches!(self.accumulator, Accumulator::F16 { .. });
        match sum {
            Exact::Finite { negative, magnitude, exponent } => pack(negative, magnitude, exponent, layout, rounding),
            Exact::Infinite { negative } if is_f16 => 0x7C00 | u32::from(negative) << 15,
            Exact::Infinite { negative } => 0x7F80_0000 | u32::from(negative) << 31,
            Exact::Nan if is_f16 => u32::from(NAN_16),
            Exact::Nan => NAN_F32,
        }
    }

    fn decode_accumulator(&self, bits: u32) -> Exact {
        let (layout, _) = self.layout();
        let (exponent_bits, stored) = (layout.exponent_bits, layout.stored_bits);
        let fraction = bits & ((1 << stored) - 1);
        let top = (1 << exponent_bits) - 1;
        let biased = (bits >> stored) & top;
        let negative = (bits >> (exponent_bits + stored)) & 1 == 1;
        if biased == top {
            return if fraction == 0 { Exact::Infinite { negative } } else { Exact::Nan };
        }
        let hidden = if biased == 0 { 0 } else { 1 << stored };
        let exponent = biased.max(1) as i32 - ((1 << (exponent_bits - 1)) - 1) - stored as i32;
        Exact::Finite { negative, magnitude: u64::from(hidden | fraction), exponent }
    }
}
