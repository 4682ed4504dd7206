//! What the crates must compute, written again from the specifications, in f64 and by search:
//! slow, plain, and sharing no line with the code under test.
//!
//! Every quantity here is exact in f64: FP8 values have 4 significant bits, their products 8, sums
//! of a tensor-core step 20, and differences of an f64 and the FP8 value below it lose nothing.

use std::sync::LazyLock;

use fp8gemm_formats::{E8m0Rounding, Fp8Format, Overflow, Rounding, ScaledView};
use fp8gemm_problem::{Epilogue, OutputType, Policy};
use half::{bf16, f16};
use ndarray::Array2;

/// The numbers of an FP8 format.
pub struct Grid {
    bias: i32,
    /// Magnitude code of the largest finite value.
    max: u8,
    /// Code of +Inf, where there is one.
    infinity: Option<u8>,
    /// One NaN, 80, and one zero.
    fnuz: bool,
    /// Values of the magnitude codes as if the exponent field had no end; the one after `max` is
    /// the next step above the largest finite value.
    magnitudes: [f64; 129],
}

static GRIDS: LazyLock<[Grid; 4]> = LazyLock::new(|| Fp8Format::ALL.map(Grid::new));

impl Grid {
    pub fn of(format: Fp8Format) -> &'static Self {
        &GRIDS[format as usize]
    }

    fn new(format: Fp8Format) -> Self {
        let (mantissa_bits, bias, max, infinity, fnuz) = match format {
            Fp8Format::E4m3 => (3, 7, 0x7E, None, false),
            Fp8Format::E5m2 => (2, 15, 0x7B, Some(0x7C), false),
            Fp8Format::E4m3Fnuz => (3, 8, 0x7F, None, true),
            Fp8Format::E5m2Fnuz => (2, 16, 0x7F, None, true),
        };
        let magnitudes = core::array::from_fn(|code| {
            let field = (code >> mantissa_bits) as i32;
            let fraction = (code % (1 << mantissa_bits)) as f64 / f64::from(1 << mantissa_bits);
            let lead = if field == 0 { 0.0 } else { 1.0 };
            (lead + fraction) * 2f64.powi(field.max(1) - bias)
        });
        Self { bias, max, infinity, fnuz, magnitudes }
    }

    /// The value of a magnitude code up to 80, which is one step above 7F.
    pub fn magnitude(&self, code: u32) -> f64 {
        self.magnitudes[code as usize]
    }

    /// The value of a code.
    pub fn value(&self, code: u8) -> f64 {
        let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
        let magnitude = code & 0x7F;
        if self.fnuz && code == 0x80 {
            f64::NAN
        } else if magnitude <= self.max {
            sign * self.magnitude(u32::from(magnitude))
        } else if Some(magnitude) == self.infinity {
            sign * f64::INFINITY
        } else {
            f64::NAN
        }
    }

    /// The code of a value, by search for the nearest codes below and above.
    pub fn encode(&self, x: f64, rounding: Rounding, overflow: Overflow) -> u8 {
        if x.is_nan() {
            return if self.fnuz { 0x80 } else { 0x7F };
        }
        let sign = if x.is_sign_negative() { 0x80 } else { 0 };
        let overflowed = match (overflow, self.infinity) {
            (Overflow::Saturate, _) => sign | self.max,
            (Overflow::NonSaturating, Some(infinity)) => sign | infinity,
            (Overflow::NonSaturating, None) if self.fnuz => 0x80,
            (Overflow::NonSaturating, None) => sign | 0x7F,
        };
        let size = x.abs();
        if size.is_infinite() {
            return overflowed;
        }
        let finite = &self.magnitudes[..=usize::from(self.max)];
        let below = finite.partition_point(|value| *value <= size) as u32 - 1;
        let step = self.magnitude(below + 1) - self.magnitude(below);
        let rest = (size - self.magnitude(below)) / step;
        let up = match rounding {
            Rounding::TowardZero => false,
            Rounding::NearestEven => rest > 0.5 || (rest == 0.5 && below % 2 == 1),
            Rounding::Stochastic { bits } => rest * 2f64.powi(32) >= 2f64.powi(32) - f64::from(bits),
        };
        let code = below + u32::from(up);
        match u8::try_from(code) {
            Ok(0) if self.fnuz => 0,
            Ok(code) if code <= self.max => sign | code,
            _ => overflowed,
        }
    }
}

/// The E8M0 code of a value.
pub fn e8m0(x: f32, rounding: E8m0Rounding, overflow: Overflow) -> u8 {
    static POWERS: LazyLock<[f64; 255]> = LazyLock::new(|| core::array::from_fn(|code| 2f64.powi(code as i32 - 127)));
    let size = f64::from(x).abs();
    let beyond = match overflow {
        Overflow::Saturate => 0xFE,
        Overflow::NonSaturating => 0xFF,
    };
    if x.is_nan() {
        return 0xFF;
    }
    if size <= POWERS[0] {
        return 0;
    }
    if size.is_infinite() {
        return beyond;
    }
    let below = POWERS.partition_point(|value| *value <= size) - 1;
    let up = match rounding {
        E8m0Rounding::Down => false,
        E8m0Rounding::Up => POWERS[below] < size,
        // The lowest step is the documented quirk.
        E8m0Rounding::Nearest if below == 0 => true,
        E8m0Rounding::Nearest => size >= 1.5 * POWERS[below],
    };
    u8::try_from(below + usize::from(up)).ok().filter(|code| *code < 0xFF).unwrap_or(beyond)
}

/// A decoded operand: the value, and the exponent that alignment goes by.
#[derive(Clone, Copy)]
struct Term {
    value: f64,
    exponent: i32,
}

fn terms(format: Fp8Format) -> [Term; 256] {
    let grid = Grid::of(format);
    core::array::from_fn(|code| {
        let value = grid.value(code as u8);
        // Subnormals keep the smallest normal exponent.
        Term { value, exponent: exponent(value).max(1 - grid.bias) }
    })
}

/// `floor(log2 |x|)` of a normal f64.
fn exponent(x: f64) -> i32 {
    (x.to_bits() >> 52 & 0x7FF) as i32 - 1023
}

/// One Hopper FP8 step with f32 accumulator: at most 32 products and c.
fn step(a: impl Iterator<Item = Term> + Clone, b: impl Iterator<Item = Term> + Clone, c: f32) -> f32 {
    let products = a.zip(b).map(|(a, b)| Term { value: a.value * b.value, exponent: a.exponent + b.exponent });
    let wide = f64::from(c);
    let terms = products.chain([Term { value: wide, exponent: exponent(wide).max(-126) }]);
    // Infinities and NaN behave as in an f64 sum; f64 sums of finite terms here never overflow.
    let naive: f64 = terms.clone().map(|term| term.value).sum();
    if !naive.is_finite() {
        return if naive.is_nan() { f32::from_bits(0x7FFF_FFFF) } else { naive as f32 };
    }
    let Some(top) = terms.clone().filter(|term| term.value != 0.0).map(|term| term.exponent).max() else {
        return 0.0;
    };
    // 2^(13 - top): what is left of the point is kept, the conversion cuts toward zero.
    let scale = f64::from_bits(((1023 + 13 - top) as u64) << 52);
    let sum: i64 = terms.map(|term| (term.value * scale) as i64).sum();
    // At most 21 bits on a grid of 2^-139: exact in f32, of which 13 fraction bits are kept.
    f32::from_bits(((sum as f64 / scale) as f32).to_bits() & !0x3FF)
}

/// A whole GEMM by the table of `Policy` and the three lines of `Epilogue`: the bits of D, 16-bit
/// results in the low half. C must be there if beta is not 0.
pub fn gemm(
    a: ScaledView<'_>,
    b: ScaledView<'_>,
    c: Option<&Array2<f32>>,
    policy: Policy,
    epilogue: Epilogue,
    output: OutputType,
) -> Array2<u32> {
    let k = a.columns();
    let (terms_a, terms_b) = (terms(a.ty().into()), terms(b.ty().into()));
    let block = a.layout().k_block().into_iter().chain(b.layout().k_block()).min();
    // Whole scale blocks: a promotion of zeros is not nothing where the scale is infinite.
    let (block_scaled, padded) = (block.is_some(), block.map_or(k, |block| k.next_multiple_of(block)));
    Array2::from_shape_fn((a.rows(), b.rows()), |(row, column)| {
        let chain = |from: usize, to: usize| {
            (from..to).step_by(32).fold(0.0, |c, from| {
                let to = to.min(from + 32);
                // What lies beyond K is padding: zeros.
                let code = |x: &ScaledView<'_>, row, k| usize::from(x.codes().get((row, k)).copied().unwrap_or(0));
                let a = (from..to).map(|k| terms_a[code(&a, row, k)]);
                let b = (from..to).map(|k| terms_b[code(&b, column, k)]);
                step(a, b, c)
            })
        };
        let promoted = |from: usize, to: usize, every: usize| {
            (from..to).step_by(every).fold(0.0f32, |sum, from| {
                let x = chain(from, to.min(from.saturating_add(every)));
                let (sa, sb) = (a.scale_at(row, from.min(k - 1)), b.scale_at(column, from.min(k - 1)));
                match policy {
                    _ if !block_scaled => sum + x,
                    Policy::Cutlass128 => (x * sa).mul_add(sb, sum),
                    _ => (sa * sb).mul_add(x, sum),
                }
            })
        };
        let mut sum = match policy {
            Policy::Chain => chain(0, k),
            Policy::Promote { every } => promoted(0, padded, every as usize),
            Policy::Cutlass128 => promoted(0, k, 128),
            Policy::Split { parts } => {
                let (blocks, parts) = (k.div_ceil(128), parts as usize);
                let length = |part: usize| blocks / parts + usize::from(part < blocks % parts);
                let mut sum = None;
                let mut from = 0;
                for part in 0..parts.min(blocks) {
                    let to = k.min(from + 128 * length(part));
                    let partial = promoted(from, to, 128);
                    sum = Some(sum.map_or(partial, |sum: f32| sum + partial));
                    from = to;
                }
                sum.unwrap_or(0.0)
            }
        };
        if !block_scaled {
            sum *= a.scale_at(row, 0) * b.scale_at(column, 0);
        }
        if epilogue.alpha != 1.0 {
            sum *= epilogue.alpha;
        }
        if let Some(c) = c.filter(|_| epilogue.beta != 0.0) {
            sum = epilogue.beta.mul_add(c[(row, column)], sum);
        }
        match output {
            OutputType::F32 if sum.is_nan() => 0x7FFF_FFFF,
            _ if sum.is_nan() => 0x7FFF,
            OutputType::F32 => sum.to_bits(),
            OutputType::Bf16 => bf16::from_f32(sum).to_bits().into(),
            OutputType::F16 => f16::from_f32(sum).to_bits().into(),
        }
    })
}
