//! The tensor cores that studies compare, each with the name it has in their tables.

use fp8gemm_sim::tensor_core::TensorCore;

/// Ampere `mma` on f16 and bf16: 8 products at a time, 24 fraction bits (MMA-Sim, arXiv 2511.10909).
/// Ada's f16 path is the same.
pub(super) const AMPERE_F16: TensorCore = TensorCore { terms: 8, fraction_bits: 24, ..TensorCore::HOPPER_F16_F32 };
/// Volta `mma` on f16: 4 products, 23 fraction bits (MMA-Sim). Turing has Ampere's parameters.
pub(super) const VOLTA_F16: TensorCore = TensorCore { terms: 4, fraction_bits: 23, ..TensorCore::HOPPER_F16_F32 };

/// The FP8 tensor cores with an f32 accumulator, oldest first.
pub(super) const FP8: [(&str, TensorCore); 3] = [
    ("Ada FP8", TensorCore::ADA_FP8_F32),
    ("Hopper FP8", TensorCore::HOPPER_FP8_F32),
    ("Blackwell FP8", TensorCore::BLACKWELL_FP8_F32),
];

/// L and F as a parameter's text.
pub(super) fn describe(cores: &[(&str, TensorCore)]) -> String {
    let text = |(name, core): &(&str, TensorCore)| format!("{name} L{} F{}", core.terms, core.fraction_bits);
    cores.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The f32 next to `x` toward zero; `x` in the range of f32.
pub(super) fn toward_zero(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest).abs() > x.abs() { f32::from_bits(nearest.to_bits() - 1) } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if an exact f32 is moved, or a value between two is not cut to the smaller magnitude.
    #[test]
    fn toward_zero_cuts() {
        let next = f32::from_bits(1.0f32.to_bits() + 1);
        let between = |share: f64| 1.0 + share * (f64::from(next) - 1.0);
        for sign in [1.0, -1.0f32] {
            let cut = |x: f64| toward_zero(f64::from(sign) * x) * sign;
            assert_eq!(cut(1.0), 1.0);
            assert_eq!([cut(between(0.3)), cut(between(0.5)), cut(between(0.9))], [1.0; 3]);
            assert_eq!(cut(between(1.0)), next);
            assert_eq!(cut(0.0), 0.0);
        }
    }
}
