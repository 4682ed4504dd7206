//! The arithmetic of a recipe as data: how the largest magnitude of a block becomes its scale,
//! how the scale is applied, what happens to NaN.

use fp8gemm_problem::OperandType;

use crate::{E8m0, E8m0Rounding, Overflow};

/// One recipe, taken apart. Everything the engine does differently between recipes is here.
pub(super) struct Rule {
    /// The largest magnitude is at least this ("eps" in several sources); 0 for no floor.
    pub(super) amax_floor: f32,
    /// What a NaN does to the largest magnitude of its block.
    pub(super) nan_amax: NanAmax,
    /// From the largest magnitude to the scale.
    pub(super) scale: ScaleRule,
    /// Elements are divided by the factor, not multiplied.
    pub(super) divide: bool,
    /// What is cast where the scaled element is NaN.
    pub(super) nan: NanElement,
    /// The scaled element is rounded to f16 before it is rounded to FP8.
    pub(super) through_f16: bool,
    /// The source excludes infinite input, so it is an error here.
    pub(super) finite_only: bool,
}

/// What a NaN does to the largest magnitude of its block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NanAmax {
    /// Nothing: CUDA's `fmaxf` returns the other operand.
    Ignored,
    /// The result is NaN: `torch.amax`.
    Propagates,
}

/// What is cast in place of a NaN, before the cast would make it 7F.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NanElement {
    /// NaN itself: no clamp, `torch.clamp`, or comparisons.
    Nan,
    /// The largest finite value: `fmaxf(-max, fminf(x, max))`.
    Largest,
    /// Its negative: `fminf(fmaxf(x, -max), max)`.
    NegativeLargest,
}

/// The rule for the scale. `a` is the largest magnitude after the floor, `max` the largest finite
/// value of the FP8 type, each operation one f32 operation rounded to nearest even.
#[derive(Clone, Copy)]
pub(super) enum ScaleRule {
    /// `stored = a * (1 / max)`, factor `1 / stored`.
    DeepGemm,
    /// `stored = a / max`, factor `1 / stored`.
    DeepGemmCpu,
    /// `stored = 2^ceil(log2(a * (1 / max)))`, factor `1 / stored`.
    DeepGemmPow2,
    /// `stored = a * (1 / max)`, factor `(1 / a) * max`.
    DeepGemmFirst,
    /// factor `max / a` (1 where `a` is 0 or not finite, the largest finite value where it
    /// overflows, with `pow2` its mantissa cleared), `stored = 1 / factor`.
    TransformerEngine { pow2: bool, cap: Cap },
    /// `stored = 2^(floor(log2 a) - emax)` or one of its variants, factor `1 / stored`.
    Mx(Mx),
    /// factor `f32((1 / max(a, 1e-12)) * max)` computed in f64, `stored = 1 / factor`.
    TorchaoFloat8,
    /// `stored = max(a / max, floor)`, where the floor may be relative to `1 / max`.
    Quotient { floor: Floor, factor: Factor },
    /// `stored = 2^ceil(log2(max(a / max, 1e-10)))`.
    VllmPow2,
    /// `stored = a * (1 / max)`, factor `max / a`.
    Sglang,
    /// `stored = 2^ceil(log2(a * (1 / max)))`, factor `1 / stored`.
    SglangPow2,
    /// factor `max / a` (1 where `a` is 0), `stored = 1 / factor`.
    MistralrsDeepGemm,
    /// `stored = a / max` where `a > 0`, else `1e-12`.
    MistralrsCpu,
}

/// What TransformerEngine takes for a scale that overflows f32.
#[derive(Clone, Copy)]
pub(super) enum Cap {
    /// The largest f32.
    F32,
    /// The largest finite value of the input type.
    Input,
}

/// torchao's `ScaleCalculationMode`.
#[derive(Clone, Copy)]
pub(super) enum Mx {
    Floor,
    Ceil,
    Even,
    Rceil,
}

/// Floor of [`ScaleRule::Quotient`].
#[derive(Clone, Copy)]
pub(super) enum Floor {
    None,
    Absolute(f32),
    /// `1 / (max * 512)`.
    VllmToken,
}

/// What elements are multiplied or divided by under [`ScaleRule::Quotient`].
#[derive(Clone, Copy)]
pub(super) enum Factor {
    /// The stored scale (elements are divided).
    Scale,
    /// Its reciprocal.
    Reciprocal,
    /// Its reciprocal, but 0 where the scale is 0.
    ReciprocalOrZero,
}

/// Constants of the FP8 type.
pub(super) struct Target {
    /// Largest finite value.
    pub(super) max: f32,
    /// Exponent of the largest finite value.
    emax: u32,
    mantissa_bits: u32,
}

impl Target {
    pub(super) const fn of(ty: OperandType) -> Self {
        match ty {
            OperandType::E4m3 => Self { max: 448.0, emax: 8, mantissa_bits: 3 },
            OperandType::E5m2 => Self { max: 57344.0, emax: 15, mantissa_bits: 2 },
        }
    }
}

/// Stored scale and factor of a block whose largest magnitude is `amax` (not negative; NaN only
/// under [`NanAmax::Propagates`]). `largest_input` is the largest finite value of the input type.
pub(super) fn stored_and_factor(rule: &Rule, target: &Target, amax: f32, largest_input: f32) -> (f32, f32) {
    let max = target.max;
    // A NaN stays: it compares false.
    let a = if amax < rule.amax_floor { rule.amax_floor } else { amax };
    match rule.scale {
        ScaleRule::DeepGemm | ScaleRule::DeepGemmCpu | ScaleRule::DeepGemmPow2 => {
            let scale = match rule.scale {
                ScaleRule::DeepGemm => a * (1.0 / max),
                ScaleRule::DeepGemmCpu => a / max,
                _ => round_up_deepgemm(a * (1.0 / max)),
            };
            (scale, 1.0 / scale)
        }
        ScaleRule::DeepGemmFirst => (a * (1.0 / max), (1.0 / a) * max),
        ScaleRule::TransformerEngine { pow2, cap } => {
            let cap = match cap {
                Cap::F32 => f32::MAX,
                Cap::Input => largest_input,
            };
            let factor = transformer_engine(a, max, pow2, cap);
            (1.0 / factor, factor)
        }
        ScaleRule::Mx(mode) => mx(mode, target, a),
        ScaleRule::TorchaoFloat8 => {
            let wide = f64::from(a);
            let floored = if wide < 1e-12 { 1e-12 } else { wide };
            let factor = (1.0 / floored * f64::from(max)) as f32;
            (1.0 / factor, factor)
        }
        ScaleRule::Quotient { floor, factor } => {
            let floor = match floor {
                Floor::None => 0.0,
                Floor::Absolute(floor) => floor,
                Floor::VllmToken => 1.0 / (max * 512.0),
            };
            let scale = a / max;
            let scale = if scale < floor { floor } else { scale };
            match factor {
                Factor::Scale => (scale, scale),
                Factor::ReciprocalOrZero if scale == 0.0 => (scale, 0.0),
                Factor::Reciprocal | Factor::ReciprocalOrZero => (scale, 1.0 / scale),
            }
        }
        ScaleRule::VllmPow2 => {
            let scale = a / max;
            let scale = round_up(if scale < 1e-10 { 1e-10 } else { scale });
            (scale, scale)
        }
        ScaleRule::Sglang => (a * (1.0 / max), max / a),
        ScaleRule::SglangPow2 => {
            let scale = round_up(a * (1.0 / max));
            (scale, 1.0 / scale)
        }
        ScaleRule::MistralrsDeepGemm => {
            let factor = if a == 0.0 { 1.0 } else { max / a };
            (1.0 / factor, factor)
        }
        ScaleRule::MistralrsCpu => {
            let scale = if a > 0.0 { a / max } else { 1e-12 };
            (scale, scale)
        }
    }
}

/// The next power of two at or above a normal `x`; infinity stays.
fn round_up(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(((bits >> 23) + u32::from(bits & 0x7F_FFFF != 0)) << 23)
}

/// DeepGEMM's `ceil_to_ue8m0`: [`round_up`] with the exponent field kept at 254 or less, so that NaN
/// and infinity become `2^127`. (It also keeps the field at 1 or more, which the floor under the
/// largest magnitude makes needless.)
fn round_up_deepgemm(x: f32) -> f32 {
    let bits = x.to_bits() & 0x7FFF_FFFF;
    let field = (bits >> 23) + u32::from(bits & 0x7F_FFFF != 0);
    f32::from_bits(field.min(254) << 23)
}

fn transformer_engine(amax: f32, max: f32, pow2: bool, cap: f32) -> f32 {
    if amax == 0.0 || !amax.is_finite() {
        return 1.0;
    }
    let factor = max / amax;
    let factor = if factor.is_infinite() { cap } else { factor };
    if pow2 { f32::from_bits(factor.to_bits() & 0xFF80_0000) } else { factor }
}

fn mx(mode: Mx, target: &Target, amax: f32) -> (f32, f32) {
    let code = match mode {
        Mx::Rceil => E8m0::from_f32(amax * (1.0 / target.max), E8m0Rounding::Up, Overflow::NonSaturating),
        Mx::Floor | Mx::Ceil | Mx::Even => {
            let bits = amax.to_bits();
            let bits = if matches!(mode, Mx::Even) && !amax.is_nan() {
                // Half a unit of the FP8 mantissa, so that what rounds to a larger power of two
                // counts as one. The largest f32 values become infinite here.
                (bits + (1 << (22 - target.mantissa_bits))) & 0xFF80_0000
            } else {
                bits
            };
            if f32::from_bits(bits).is_finite() {
                let field = (bits >> 23) + u32::from(matches!(mode, Mx::Ceil) && bits & 0x7F_FFFF != 0);
                E8m0::from_bits(field.saturating_sub(target.emax) as u8)
            } else {
                E8m0::NAN
            }
        }
    };
    let reciprocal = if code.is_nan() { code } else { E8m0::from_bits(254 - code.to_bits()) };
    (code.to_f32(), reciprocal.to_f32())
}
