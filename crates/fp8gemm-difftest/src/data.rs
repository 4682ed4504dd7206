//! Codes, scales and C by regime.

use fp8gemm_formats::{Fp8Format, Overflow, Rounding, ScaledMatrix};
use fp8gemm_problem::{OperandSpec, OperandType, OutputType, Problem};
use fp8gemm_sim::Matrix;
use ndarray::Array2;
use proptest::prelude::RngExt;
use proptest::test_runner::TestRng;

use crate::{DataRegime, DifftestError, ScaleRegime};

/// Steps of the tensor core along K.
const STEP: usize = 32;

/// A and B of a problem.
pub(crate) fn operands(
    problem: &Problem,
    data: DataRegime,
    scales: [ScaleRegime; 2],
    rng: &mut TestRng,
) -> Result<[ScaledMatrix; 2], DifftestError> {
    let shared = Shared::new(problem.k, rng);
    let mut operand = |spec: OperandSpec, rows: usize, first: bool, regime: ScaleRegime| {
        let codes = Codes { ty: spec.ty, k: problem.k, first: first != shared.swapped, shared: &shared };
        let mut values = Vec::with_capacity(rows * problem.k);
        let gain = [1.0, 30.0][rng.random_range(0..2usize)];
        for _ in 0..rows {
            codes.row(data, gain, &mut values, rng);
        }
        // As many values as the shape has: `row` appends K.
        let codes = Array2::from_shape_fn((rows, problem.k), |(row, column)| values[row * problem.k + column]);
        let shape = spec.scales.scale_shape(rows, problem.k);
        let count = shape.0 * shape.1;
        let scales = Array2::from_shape_simple_fn(shape, || scale(regime, count, rng));
        ScaledMatrix::new(spec.ty, spec.scales, codes, scales)
    };
    Ok([operand(problem.a, problem.m, true, scales[0])?, operand(problem.b, problem.n, false, scales[1])?])
}

/// What both operands must agree on.
struct Shared {
    /// Which side plays A's part in regimes that have two parts.
    swapped: bool,
    /// Where along K products are not zero (regime sparse).
    occupied: Vec<bool>,
    /// Exponent of the products of each step (regime alignment-limit).
    exponents: Vec<i32>,
    /// Sides that are subnormal: the first, the other, both.
    subnormal: u8,
    /// Large channels (regime outlier-channels).
    channels: Vec<bool>,
}

impl Shared {
    fn new(k: usize, rng: &mut TestRng) -> Self {
        let steps = k.div_ceil(STEP);
        let mut occupied = Vec::with_capacity(steps * STEP);
        let mut exponents = Vec::with_capacity(steps);
        let mut exponent = rng.random_range(-10..=12);
        for _ in 0..steps {
            let count = 1usize << rng.random_range(0..=5);
            let at = rng.random_range(0..STEP);
            occupied.extend((0..STEP).map(|i| (i + STEP - at) % STEP < count));
            exponents.push(exponent);
            let jump = rng.random_range(11..=16);
            exponent = if exponent + jump > 14 { exponent - jump } else { exponent + jump };
            exponent = exponent.max(-12);
        }
        let channels = (0..k).map(|_| rng.random_range(0..64) == 0).collect();
        Self { swapped: rng.random(), occupied, exponents, subnormal: rng.random_range(0..3), channels }
    }
}

/// How the codes of one operand are drawn.
struct Codes<'a> {
    ty: OperandType,
    k: usize,
    first: bool,
    shared: &'a Shared,
}

impl Codes<'_> {
    /// Appends one row.
    fn row(&self, regime: DataRegime, gain: f32, values: &mut Vec<u8>, rng: &mut TestRng) {
        let format = Fp8Format::from(self.ty);
        let start = values.len();
        let factor = match regime {
            DataRegime::OutlierRows => [0.05, 1.0, 1.0, 100.0][rng.random_range(0..4usize)],
            _ => gain,
        };
        let all_negative_zero = regime == DataRegime::NegativeZero && rng.random_range(0..8) == 0;
        for column in 0..self.k {
            let before = if column % 2 == 1 { values.last().copied() } else { None };
            let code = match regime {
                DataRegime::Normal | DataRegime::OutlierRows => encode(format, gaussian(rng) * factor),
                DataRegime::Positive => encode(format, gaussian(rng) * factor) & 0x7F,
                DataRegime::Wide => wide(format, rng),
                DataRegime::Sparse => self.sparse(format, column, rng),
                DataRegime::Cancellation => self.cancelling(format, before, rng),
                DataRegime::Subnormal => self.subnormal(format, rng),
                DataRegime::AlignmentLimit => self.at_the_limit(format, column, rng),
                DataRegime::NegativeZero if all_negative_zero || rng.random_range(0..5) < 2 => 0x80,
                DataRegime::NegativeZero | DataRegime::Infinity | DataRegime::Nan => encode(format, gaussian(rng)),
                DataRegime::Saturated => format.max_code() | if rng.random_range(0..6) == 0 { 0x80 } else { 0 },
                DataRegime::OutlierChannels => {
                    let large = if self.shared.channels[column] && !self.first { 50.0 } else { 1.0 };
                    encode(format, about_exp(gaussian(rng)) * large) | sign(rng)
                }
                DataRegime::AnyBits => any(format, rng),
            };
            values.push(code);
        }
        let special = match regime {
            DataRegime::Infinity => format.infinity().unwrap_or(format.max_code()),
            DataRegime::Nan => format.nan(),
            _ => return,
        };
        // Most rows stay ordinary: a special value takes its whole row, and here one of five has one.
        if self.k > 0 && rng.random_range(0..5) == 0 {
            let at = start + rng.random_range(0..self.k);
            values[at] = special | sign(rng);
        }
    }

    fn sparse(&self, format: Fp8Format, column: usize, rng: &mut TestRng) -> u8 {
        if self.shared.occupied[column] || rng.random_range(0..3) == 0 {
            return wide(format, rng);
        }
        // Where one side is zero, the other may be as large as it likes.
        if self.first == column.is_multiple_of(3) { sign(rng) } else { format.max_code() | sign(rng) }
    }

    fn cancelling(&self, format: Fp8Format, before: Option<u8>, rng: &mut TestRng) -> u8 {
        let flipped = if self.first { 0x80 } else { 0 };
        match before {
            Some(code) if rng.random_range(0..40) != 0 => code ^ flipped,
            _ => wide(format, rng),
        }
    }

    fn subnormal(&self, format: Fp8Format, rng: &mut TestRng) -> u8 {
        let wanted = match self.shared.subnormal {
            0 => self.first,
            1 => !self.first,
            _ => true,
        };
        if wanted { rng.random_range(0..1u8 << format.mantissa_bits()) | sign(rng) } else { wide(format, rng) }
    }

    fn at_the_limit(&self, format: Fp8Format, column: usize, rng: &mut TestRng) -> u8 {
        // A few products of the step's exponent: the accumulator is what they are compared with.
        if rng.random_range(0..4) == 0 {
            return sign(rng);
        }
        let product = self.shared.exponents[column / STEP];
        // Half of the exponent each; the first side takes what is left over.
        let half = product.div_euclid(2);
        let exponent = if self.first { product - half } else { half };
        let fields = (1 << format.exponent_bits()) - 2;
        let field = (exponent + format.bias()).clamp(1, fields) as u8;
        field << format.mantissa_bits() | rng.random_range(0..1u8 << format.mantissa_bits()) | sign(rng)
    }
}

/// A code of any bits; of NaN and infinities few, since one takes its whole row and column.
fn any(format: Fp8Format, rng: &mut TestRng) -> u8 {
    let code: u8 = rng.random();
    if format.is_finite(code) || rng.random_range(0..60) == 0 { code } else { code ^ 0x10 }
}

/// Any finite code: 10 % zero, 15 % subnormal, the rest over all exponents.
fn wide(format: Fp8Format, rng: &mut TestRng) -> u8 {
    let normal = 1u8 << format.mantissa_bits();
    let magnitude = match rng.random_range(0..20) {
        0..=1 => 0,
        2..=4 => rng.random_range(1..normal),
        _ => rng.random_range(normal..=format.max_code()),
    };
    magnitude | sign(rng)
}

fn encode(format: Fp8Format, x: f32) -> u8 {
    format.encode(x, Rounding::NearestEven, Overflow::Saturate)
}

fn sign(rng: &mut TestRng) -> u8 {
    rng.random::<u8>() & 0x80
}

/// A sum of uniform numbers: near enough to normal, and cheap.
fn gaussian(rng: &mut TestRng) -> f32 {
    let sum: f32 = (0..6).map(|_| rng.random::<f32>()).sum();
    (sum - 3.0) * core::f32::consts::SQRT_2
}

/// Near enough to `exp(x)` for a log-normal distribution, and the same bits on every machine, which the
/// library's `exp` need not have: 2 to a power, linear between whole powers.
fn about_exp(x: f32) -> f32 {
    f32::from_bits(((127.0 + x * core::f32::consts::LOG2_E) * (1u32 << 23) as f32) as u32)
}

/// One scale of `count`.
fn scale(regime: ScaleRegime, count: usize, rng: &mut TestRng) -> f32 {
    let ordinary = rng.random::<f32>() * 1e-2 + 1e-4;
    // Two of a small matrix, one in 40 of a large one.
    let rare = rng.random_range(0..count.clamp(2, 40)) == 0;
    match regime {
        ScaleRegime::PowerOfTwo => f32::from_bits(rng.random_range(107u32..140) << 23),
        ScaleRegime::Tiny => ordinary * 1e-35,
        ScaleRegime::Huge => ordinary * 1e36,
        ScaleRegime::Subnormal => f32::from_bits(rng.random_range(1u32..1 << 24)),
        ScaleRegime::Zero if rare => [0.0, -0.0, -ordinary][rng.random_range(0..3usize)],
        ScaleRegime::NonFinite if rare => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.random_range(0..3usize)],
        ScaleRegime::Ordinary | ScaleRegime::Zero | ScaleRegime::NonFinite => ordinary,
    }
}

/// A C: any bits, zeros of both signs, small or large numbers.
pub(crate) fn addend(ty: OutputType, shape: (usize, usize), rng: &mut TestRng) -> Matrix {
    let kind = rng.random_range(0..5);
    let value = || match kind {
        0 => f32::from_bits(rng.random()),
        1 => [0.0, -0.0][usize::from(rng.random::<bool>())],
        2 => (rng.random::<f32>() - 0.5) * 1e-3,
        3 => f32::from_bits(rng.random_range(0u32..1 << 24) | u32::from(rng.random::<bool>()) << 31),
        _ => (rng.random::<f32>() - 0.5) * 1e3,
    };
    Matrix::from_f32(Array2::from_shape_simple_fn(shape, value), ty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::test_runner::RngAlgorithm;

    fn codes(regime: DataRegime, ty: OperandType) -> [ScaledMatrix; 2] {
        let problem: Problem = format!("60x50x300 a={ty}:row b={ty}:row d=f32").parse().unwrap();
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[regime as u8; 32]);
        operands(&problem, regime, [ScaleRegime::Ordinary; 2], &mut rng).unwrap()
    }

    /// Breaks if a regime's codes are not what its name says.
    #[test]
    fn regimes_are_what_they_say() {
        for ty in OperandType::ALL {
            let format = Fp8Format::from(ty);
            let count = |regime, is: &dyn Fn(u8) -> bool| -> usize {
                codes(regime, ty).iter().flat_map(|x| x.codes().to_owned()).filter(|code| is(*code)).count()
            };
            let all = 110 * 300;
            assert_eq!(count(DataRegime::Positive, &|code| code & 0x80 != 0), 0);
            assert!(count(DataRegime::Wide, &|code| format.is_subnormal(code)) > all / 10);
            assert_eq!(count(DataRegime::Wide, &|code| !format.is_finite(code)), 0);
            assert!(count(DataRegime::Subnormal, &|code| format.is_subnormal(code)) > all / 5);
            assert!(count(DataRegime::NegativeZero, &|code| code == 0x80) > all / 3);
            assert!(count(DataRegime::Nan, &|code| format.is_nan(code)) > 5);
            assert_eq!(count(DataRegime::Saturated, &|code| code & 0x7F == format.max_code()), all);
            let infinite = count(DataRegime::Infinity, &|code| format.is_infinite(code));
            assert_eq!(infinite > 5, ty == OperandType::E5m2);
            assert!((1..all / 20).contains(&count(DataRegime::AnyBits, &|code| !format.is_finite(code))));
        }
    }

    /// Breaks if the log-normal data is not about that.
    #[test]
    fn exponentials_are_about_right() {
        for x in [-4.0f32, -1.3, 0.0, 0.7, 4.2] {
            assert!((about_exp(x) / x.exp() - 1.0).abs() < 0.09, "{x}");
        }
    }

    /// Breaks if products of neighbours do not cancel, or all do.
    #[test]
    fn cancelling_products_cancel() {
        let [a, b] = codes(DataRegime::Cancellation, OperandType::E4m3);
        let decode = |code: u8| f64::from(Fp8Format::E4m3.decode(code));
        let (mut cancelled, mut all) = (0, 0);
        for (a, b) in a.codes().rows().into_iter().zip(b.codes().rows()) {
            for i in (0..300).step_by(2) {
                let (x, y) = (decode(a[i]) * decode(b[i]), decode(a[i + 1]) * decode(b[i + 1]));
                cancelled += usize::from(x != 0.0 && x == -y);
                all += 1;
            }
        }
        assert!(cancelled > all / 2 && cancelled < all, "{cancelled} of {all}");
    }
}
