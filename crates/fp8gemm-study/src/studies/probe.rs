//! Probes that find a tensor core's parameters, and the tree of its sums, from outputs alone.

use std::collections::BTreeSet;

use fp8gemm_formats::{Fp8Format, Overflow, Rounding, ScaledMatrix};
use fp8gemm_problem::{OperandType, OutputType, Policy};
use fp8gemm_sim::Gemm;
use fp8gemm_sim::tensor_core::{InputFormat, Operand, TensorCore};

use crate::StudyError;

/// Exponents of the factors: `M = 2^(8 + 8)`, small terms `2^(-9 - 9)`, so that 512 of them vanish
/// beside M even with 25 fraction bits, or in an f32.
const LARGE: i32 = 8;
const SMALL: i32 = -9;

/// What the probes find.
pub(super) struct Probe {
    pub(super) sizes: Vec<usize>,
    pub(super) terms: usize,
    pub(super) fraction_bits: usize,
    pub(super) result_bits: usize,
    pub(super) toward_zero: bool,
}

/// The E5M2 code of a number that E5M2 has.
fn code(x: f64) -> u8 {
    Fp8Format::E5m2.encode(x as f32, Rounding::NearestEven, Overflow::Saturate)
}

fn operand(x: f64) -> Operand {
    InputFormat::E5m2.operand(code(x).into())
}

/// `x` as two factors that E5M2 has, for `x = 2^e` or `1.5 * 2^e` with e from -28 to 30.
fn factors(x: f64) -> (f64, f64) {
    let exponent = if x == 0.0 { 0 } else { libm::ilogb(x) };
    let half = exponent.div_euclid(2);
    (x / f64::powi(2.0, half), f64::powi(2.0, half))
}

/// A sum of products with these values, from 0.
fn sum(core: &TensorCore, products: &[f64]) -> Result<f32, StudyError> {
    sum_from(core, products, 0.0)
}

/// The same from `c`.
pub(super) fn sum_from(core: &TensorCore, products: &[f64], c: f32) -> Result<f32, StudyError> {
    let (a, b): (Vec<_>, Vec<_>) = products
        .iter()
        .map(|product| {
            let (a, b) = factors(*product);
            (operand(a), operand(b))
        })
        .unzip();
    Ok(f32::from_bits(core.dot(&a, &b, c.to_bits())?))
}

/// The row of the study `fttn`.
pub(super) fn row(core: &TensorCore, depth: i32) -> Result<f32, StudyError> {
    let large = f64::powi(2.0, 2 * LARGE);
    let mut products = [1.5 * f64::powi(2.0, 2 * LARGE - depth); 16];
    (products[0], products[15]) = (large, -large);
    sum(core, &products)
}

/// The products that find where leaves `i` and `j` of `k` meet.
fn meeting(i: usize, j: usize, k: usize) -> Vec<f64> {
    let mut products = vec![f64::powi(2.0, 2 * SMALL); k];
    products[i] = f64::powi(2.0, 2 * LARGE);
    products[j] = -products[i];
    products
}

/// Leaves below the node where the two meet, from the output: all but those still in the sum.
fn size(output: f32, k: usize) -> usize {
    k - (f64::from(output) / f64::powi(2.0, 2 * SMALL)) as usize
}

/// Everything about a core, from sums of `k` products (two instructions of it, at least).
pub(super) fn core(core: &TensorCore, k: usize) -> Result<Probe, StudyError> {
    let meet = |i: usize, j: usize| Ok::<_, StudyError>(size(sum(core, &meeting(i, j, k))?, k));
    let sizes = (1..k).map(|j| meet(0, j)).collect::<Result<BTreeSet<_>, _>>()?;
    // The leaves of the last node meet every other leaf there.
    let mut terms = 0;
    for j in 0..k {
        let others = (0..k).filter(|i| *i != j).map(|i| meet(i, j)).collect::<Result<Vec<_>, _>>()?;
        terms += usize::from(others.iter().all(|size| *size == k));
    }
    // In one step: 1 - 1 + 2^-n. One 4-term step is the narrowest there is.
    let mut fraction_bits = 0;
    for n in 1..=28 {
        if sum(core, &[1.0, f64::powi(2.0, -n), -1.0])? != 0.0 {
            fraction_bits = n.unsigned_abs() as usize;
        }
    }
    let mut result_bits = 0;
    for n in 1..=28 {
        if sum(core, &[1.0, f64::powi(2.0, -n)])? != 1.0 {
            result_bits = n.unsigned_abs() as usize;
        }
    }
    // One place below the last: nothing of it may be seen, of either sign.
    let below = f64::powi(2.0, -(fraction_bits as i32) - 1) * 1.5;
    let toward_zero = sum(core, &[1.0, below, -1.0])? == 0.0 && sum(core, &[1.0, -below, -1.0])? == 0.0;
    Ok(Probe { sizes: sizes.into_iter().collect(), terms, fraction_bits, result_bits, toward_zero })
}

/// The nodes on the way from a leaf to the root of a whole sum on Hopper FP8.
pub(super) fn policy(policy: Policy, leaf: usize, k: usize) -> Result<Vec<usize>, StudyError> {
    let mut sizes = BTreeSet::new();
    for j in (0..k).filter(|j| *j != leaf) {
        let products = meeting(leaf, j, k);
        let matrix = |side: fn((f64, f64)) -> f64| {
            let codes = products.iter().map(|product| code(side(factors(*product)))).collect();
            let codes = ndarray::Array2::from_shape_vec((1, k), codes).unwrap_or_default();
            ScaledMatrix::unscaled(OperandType::E5m2, codes)
        };
        let (a, b) = (matrix(|pair| pair.0), matrix(|pair| pair.1));
        let output = Gemm::new(a.view(), b.view()).policy(policy).output(OutputType::F32).run()?.to_f32();
        sizes.insert(size(output[(0, 0)], k));
    }
    Ok(sizes.into_iter().collect())
}

/// `32, 64, 96, ..., 512` for a long list.
pub(super) fn text(sizes: &[usize]) -> String {
    match sizes {
        [a, b, c, .., last] if sizes.len() > 10 => format!("{a}, {b}, {c}, ..., {last}"),
        _ => sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may
    use super::*;
    use fp8gemm_sim::tensor_core::{Accumulator, Alignment, TermOrder};

    /// Breaks if a probe reads the model's parameters where it should see them, or sees them wrongly:
    /// every what-if core must be found as it is.
    #[test]
    fn probes_find_what_a_core_is() {
        for terms in [4, 8, 16, 32] {
            for fraction_bits in [12, 13, 20, 25] {
                let bits = fraction_bits.min(23);
                let accumulator = Accumulator::F32 { fraction_bits: bits, rounding: fp8gemm_sim::Rounding::TowardZero };
                let model = TensorCore { terms, fraction_bits, accumulator, ..TensorCore::HOPPER_FP8_F32 };
                let found = core(&model, 64).unwrap();
                let (terms_found, bits_found) = (found.terms, found.fraction_bits);
                assert_eq!((terms_found, bits_found), (terms, fraction_bits as usize), "{model:?}");
                assert_eq!(found.result_bits, bits as usize, "{model:?}");
                assert_eq!(found.sizes, (1..=64 / terms).map(|n| n * terms).collect::<Vec<_>>(), "{model:?}");
                assert!(found.toward_zero);
                let floor = TensorCore { alignment: Alignment::Floor, ..model };
                assert!(!core(&floor, 64).unwrap().toward_zero);
            }
        }
        // Leaf 0 meets the other even leaves first where terms are interleaved by two.
        let interleaved = TensorCore { order: TermOrder::Interleaved, ..TensorCore::ADA_FP8_F32 };
        assert_eq!(size(sum(&interleaved, &meeting(0, 2, 64)).unwrap(), 64), 16);
        assert_eq!(size(sum(&interleaved, &meeting(0, 1, 64)).unwrap(), 64), 32);
    }

    /// Breaks if the tree of a policy is not the documented one.
    #[test]
    fn trees_of_policies() {
        let sizes = |text: &str, leaf: usize| policy(text.parse().unwrap(), leaf, 512).unwrap();
        assert_eq!(sizes("chain", 0), (1..=16).map(|n| n * 32).collect::<Vec<_>>());
        assert_eq!(sizes("promote128", 0), [32, 64, 96, 128, 256, 384, 512]);
        assert_eq!(sizes("promote128", 511), [128, 512]);
        assert_eq!(sizes("split2", 511), [128, 256, 512]);
    }
}
