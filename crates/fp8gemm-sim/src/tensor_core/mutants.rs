//! Plausible wrong models of the Hopper FP8 tensor core.
//!
//! Each differs from [`TensorCore::HOPPER_FP8_F32`] in one decision that somebody has published,
//! or could believe. Test data is worth what it tells apart: the recorded vectors and the
//! generators of this crate must expose every one of these (`tests/mutants.rs` prints the rates),
//! and a fitter of an unknown chip searches the same space.

use super::{Accumulator, Alignment, TensorCore, TermOrder};
use crate::round::Rounding;

/// Name and model of every mutant of `base`; the accumulator's own format is kept.
pub fn all(base: TensorCore) -> Vec<(&'static str, TensorCore)> {
    let nearest = match base.accumulator {
        Accumulator::F32 { fraction_bits, .. } => Accumulator::F32 { fraction_bits, rounding: Rounding::NearestEven },
        // The f16 accumulator rounds to nearest already; its mutant truncates.
        Accumulator::F16 { .. } => Accumulator::F16 { rounding: Rounding::TowardZero },
    };
    let mut mutants = vec![
        ("floor alignment", TensorCore { alignment: Alignment::Floor, ..base }),
        ("nearest alignment", TensorCore { alignment: Alignment::NearestEven, ..base }),
        ("other output rounding", TensorCore { accumulator: nearest, ..base }),
        ("one fraction bit less", TensorCore { fraction_bits: base.fraction_bits - 1, ..base }),
        ("one fraction bit more", TensorCore { fraction_bits: base.fraction_bits + 1, ..base }),
        ("products renormalised", TensorCore { renormalised_products: true, ..base }),
        ("subnormals normalised", TensorCore { normalised_subnormals: true, ..base }),
        ("zero products in max", TensorCore { zero_products_in_max: true, ..base }),
        ("two groups, halves", TensorCore { terms: base.terms / 2, ..base }),
        ("two groups, interleaved", TensorCore { terms: base.terms / 2, order: TermOrder::Interleaved, ..base }),
    ];
    if let Accumulator::F32 { fraction_bits, rounding } = base.accumulator {
        let with = |fraction_bits| TensorCore { accumulator: Accumulator::F32 { fraction_bits, rounding }, ..base };
        mutants.push(("accumulator one bit less", with(fraction_bits - 1)));
        if fraction_bits < 23 {
            mutants.push(("accumulator one bit more", with(fraction_bits + 1)));
        }
    }
    mutants
}
