//! Random single-step cases: 32 pairs of codes and an accumulator, by regime.
//!
//! The regimes matter more than the number of cases: uniform bits and normal data never expose the
//! exponent rules of subnormal and zero operands (`mutants.rs` prints the rates).

use fp8gemm_problem::OperandType;
use rand::Rng;

pub struct Case {
    pub a: [u8; 32],
    pub b: [u8; 32],
    /// Bits of an f32.
    pub c: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// Uniform random codes and uniform random c bits, NaN and infinities included.
    Bits,
    /// Normally distributed values, c = 0.
    Normal,
    /// The same with a c of the size of the sum.
    NormalWithC,
    /// 1 to 32 non-zeros over the whole exponent range, 15 % subnormal, 10 % zero, c within 16
    /// binades of the largest product.
    SparseWide,
    /// Large products that cancel exactly, small ones that remain.
    Cancellation,
    /// Subnormal operands only, c on their scale.
    Subnormal,
    /// One product, and a c whose bits straddle the alignment limit.
    AlignmentLimit,
    /// A few NaN, infinities and signed zeros among ordinary values.
    Specials,
}

impl Regime {
    pub const ALL: [Self; 8] = [
        Self::Bits,
        Self::Normal,
        Self::NormalWithC,
        Self::SparseWide,
        Self::Cancellation,
        Self::Subnormal,
        Self::AlignmentLimit,
        Self::Specials,
    ];

    pub fn case(self, ty_a: OperandType, ty_b: OperandType, rng: &mut impl Rng) -> Case {
        let mut case = Case { a: [0; 32], b: [0; 32], c: 0 };
        let types = [ty_a, ty_b];
        let sides = [&mut case.a, &mut case.b];
        match self {
            Self::Bits => {
                rng.fill(&mut case.a);
                rng.fill(&mut case.b);
                case.c = rng.random();
            }
            Self::Normal | Self::NormalWithC => {
                for (side, ty) in sides.into_iter().zip(types) {
                    side.fill_with(|| encode(ty, normal(rng)));
                }
                if self == Self::NormalWithC {
                    case.c = (normal(rng) * 8.0).to_bits();
                }
            }
            Self::SparseWide => {
                let count = 1 << rng.random_range(0..=5);
                for (side, ty) in sides.into_iter().zip(types) {
                    side[..count].fill_with(|| wide(ty, rng));
                }
                let largest = largest_exponent(ty_a, &case.a) + largest_exponent(ty_b, &case.b);
                case.c = c_near(largest + rng.random_range(-16..=16), rng);
            }
            Self::Cancellation => {
                for (side, ty) in sides.into_iter().zip(types) {
                    side.fill_with(|| wide(ty, rng));
                }
                for i in 0..8 {
                    case.a[i + 8] = case.a[i] ^ 0x80;
                    case.b[i + 8] = case.b[i];
                }
                case.c = c_near(rng.random_range(-20..20), rng);
            }
            Self::Subnormal => {
                for (side, ty) in sides.into_iter().zip(types) {
                    side.fill_with(|| rng.random_range(0..mantissa_end(ty)) | sign(rng));
                }
                let smallest = -2 * if ty_a == OperandType::E4m3 { 6 } else { 14 };
                case.c = c_near(smallest + rng.random_range(-20..=4), rng);
            }
            Self::AlignmentLimit => {
                let at = rng.random_range(0..32);
                for (side, ty) in sides.into_iter().zip(types) {
                    side[at] = wide(ty, rng);
                }
                let e = largest_exponent(ty_a, &case.a) + largest_exponent(ty_b, &case.b);
                case.c = c_near(e + [-15, -14, -13, -12, 12, 13, 14, 15][rng.random_range(0..8)], rng);
            }
            Self::Specials => {
                for (side, ty) in sides.into_iter().zip(types) {
                    side.fill_with(|| encode(ty, normal(rng)));
                    for _ in 0..rng.random_range(0..3) {
                        side[rng.random_range(0..32)] = special(ty, rng);
                    }
                }
                case.c = [0, 0x8000_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0x3F80_0000][rng.random_range(0..6)];
            }
        }
        case
    }
}

/// Any finite code, weighted as in numerics studies: 15 % subnormal, 10 % zero.
pub fn wide(ty: OperandType, rng: &mut impl Rng) -> u8 {
    let magnitude = match rng.random_range(0..20) {
        0..=1 => 0,
        2..=4 => rng.random_range(1..mantissa_end(ty)),
        _ => rng.random_range(mantissa_end(ty)..=largest(ty)),
    };
    magnitude | sign(rng)
}

fn special(ty: OperandType, rng: &mut impl Rng) -> u8 {
    let codes: &[u8] =
        if ty == OperandType::E4m3 { &[0x7F, 0xFF, 0x80, 0x00] } else { &[0x7C, 0xFC, 0x7E, 0xFF, 0x80, 0x00] };
    codes[rng.random_range(0..codes.len())]
}

pub fn encode(ty: OperandType, x: f32) -> u8 {
    fp8gemm_formats::Fp8Format::from(ty).encode(
        x,
        fp8gemm_formats::Rounding::NearestEven,
        fp8gemm_formats::Overflow::Saturate,
    )
}

/// A sum of uniform numbers: near enough to normal for test data.
pub fn normal(rng: &mut impl Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

fn sign(rng: &mut impl Rng) -> u8 {
    rng.random::<u8>() & 0x80
}

/// The first code of a normal number.
fn mantissa_end(ty: OperandType) -> u8 {
    if ty == OperandType::E4m3 { 8 } else { 4 }
}

fn largest(ty: OperandType) -> u8 {
    if ty == OperandType::E4m3 { 0x7E } else { 0x7B }
}

fn largest_exponent(ty: OperandType, codes: &[u8]) -> i32 {
    let (shift, bias) = if ty == OperandType::E4m3 { (3, 7) } else { (2, 15) };
    codes.iter().map(|code| i32::from((code & 0x7F) >> shift).max(1) - bias).max().unwrap_or(0)
}

/// An f32 with this exponent, random sign, and either all 23 fraction bits random or only the 13
/// that an accumulator can have.
fn c_near(exponent: i32, rng: &mut impl Rng) -> u32 {
    let bits = (exponent.clamp(-126, 127) + 127) as u32;
    let fraction: u32 = rng.random::<u32>() >> 9;
    let kept = if rng.random() { fraction } else { fraction & !0x3FF };
    rng.random::<u32>() & 0x8000_0000 | bits << 23 | kept
}
