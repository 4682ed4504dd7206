//! What the accumulation studies share: one row of figures for a product under a policy.

use fp8gemm_formats::quantize::{Quantizer, Recipe};
use fp8gemm_problem::{Policy, ScaleLayout};
use fp8gemm_sim::metrics::Metrics;

use crate::sample::Distribution;
use crate::{Cell, Product, StudyError, Table};

/// One scale for a whole operand, so that every policy is legal and nothing but accumulation is
/// looked at; the largest element becomes 448.
///
/// The scale matters even to the error of accumulation alone: it moves products within their binade.
/// U(0,1) cast to E4M3 as it is has the bias -6.6 % without promotion at K = 4096, scaled -7.5 %.
pub(super) const TENSOR: Quantizer = Quantizer::new(Recipe::TorchaoFloat8).with_layout(ScaleLayout::Tensor);

/// An empty table with the columns of [`push`].
pub(super) fn table(name: &str, title: &str) -> Table {
    Table::new(name, title)
        .text("distribution", "of the elements of A and B")
        .text("policy", "accumulation policy")
        .count("K", "elements of each sum")
        .count("interval", "elements of K between promotions; K where there is none")
        .count("outputs", "how many")
        .count("inexact", "outputs that are not the f32 nearest to the exact sum")
        .bits("fingerprint", "of all outputs: sum (i + 1) bits(d_i) mod 2^64")
        .float("bias", "%", "sum of errors over sum of magnitudes")
        .float("relative Frobenius", "%", "norm of the error over norm of the exact product")
        .float("max over mean", "%", "largest error over mean magnitude")
        .float("SNR", "dB", "10 log10(sum of squares over sum of squared errors)")
}

/// Computes a product under a policy and adds its row.
pub(super) fn push(
    table: &mut Table,
    distribution: Distribution,
    product: &Product,
    policy: Policy,
) -> Result<(), StudyError> {
    let output = product.output(policy)?;
    let metrics = Metrics::new(product.exact.view(), output.view())?;
    let k = product.a.columns();
    let interval = match policy {
        Policy::Promote { every } => every as usize,
        Policy::Chain => k,
        _ => 128,
    };
    let inexact = product.exact.iter().zip(&output).filter(|&(exact, found)| (*exact as f32) != *found).count();
    table.push([
        Cell::from(distribution.to_string()),
        Cell::from(policy.to_string()),
        Cell::from(k),
        Cell::from(interval),
        Cell::from(metrics.elements),
        Cell::from(inexact),
        Cell::fingerprint(&output),
        Cell::from(metrics.bias * 100.0),
        Cell::from(metrics.relative_frobenius * 100.0),
        Cell::from(metrics.max_over_mean * 100.0),
        Cell::from(metrics.snr_db),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may

    use fp8gemm_formats::{Fp8Format, Overflow, Rounding, ScaledMatrix};
    use fp8gemm_problem::OperandType;

    use super::*;
    use crate::Shape;

    /// Breaks if the biases that docs/studies.md and `TENSOR` quote, of U(0,1) cast to E4M3 as it is and
    /// scaled, are others.
    #[test]
    fn a_scale_moves_the_bias() {
        let (shape, seed) = (Shape::square(96, 4096), 1);
        let cast = |role, rows| {
            let x = Distribution::UNIFORM.sample(seed, role, (rows, shape.k)).unwrap();
            let codes = x.mapv(|x| Fp8Format::E4m3.encode(x, Rounding::NearestEven, Overflow::Saturate));
            ScaledMatrix::unscaled(OperandType::E4m3, codes)
        };
        let plain = Product::new(cast("a", shape.m), cast("b", shape.n)).unwrap();
        let scaled = Product::sample(Distribution::UNIFORM, TENSOR, shape, seed).unwrap();
        let biases = [plain, scaled].map(|product| product.error(Policy::Chain).unwrap().bias * 100.0);
        assert_eq!(biases.map(|bias| format!("{bias:.1}")), ["-6.6", "-7.5"]);
    }
}
