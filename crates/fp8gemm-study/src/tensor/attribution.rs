//! Where the error of a product of two tensors comes from, on a sample of their rows.

use core::sync::atomic::{AtomicU64, Ordering};

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_formats::quantize::{PieceQuantizer, Quantizer, Recipe};
use fp8gemm_problem::{Policy, ScaleLayout};
use fp8gemm_sim::attribution::{Attribution, Stage};
use ndarray::Array2;

use super::scan::scan;
use super::{Source, TILE_ROWS, check, check_elements};
use crate::{Cell, StudyError, Table};

/// Rows of A and of B from which on a sample stands for all.
pub const SAMPLE_ROWS: usize = 64;

/// Quantisers of A and B of one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Of A.
    pub a: Quantizer,
    /// Of B.
    pub b: Quantizer,
}

impl Pair {
    /// B as A, but with 128x128 scales where A has 1x128 ones and the recipe has such: how weights go
    /// with activations.
    pub fn of(a: Quantizer) -> Self {
        let square = ScaleLayout::Block128x128;
        let weights = a.layout == ScaleLayout::Block1x128 && a.recipe.layouts().contains(&square);
        Self { a, b: if weights { a.with_layout(square) } else { a } }
    }
}

/// The pairs that are tried unless others are named.
pub fn default_pairs() -> Vec<Pair> {
    use Recipe as R;
    let recipes = [R::TeCurrent, R::VllmToken, R::DeepGemm, R::DeepGemmUe8m0, R::TeBlock, R::TorchaoMxRceil];
    recipes.map(|recipe| Pair::of(Quantizer::new(recipe))).to_vec()
}

/// The policies under which a pair is tried: promotion every 128 elements (every 32 where the scales
/// need it), and none where the scales allow it.
fn policies(pair: Pair) -> Vec<Policy> {
    let legal = |policy: &Policy| policy.check(pair.a.layout, pair.b.layout).is_ok();
    let promoted = [Policy::PROMOTE_128, Policy::Promote { every: 32 }].into_iter().find(legal);
    promoted.into_iter().chain([Policy::Chain].into_iter().filter(legal)).collect()
}

/// The table `attribution` of `A B^T`, bf16 out: for each pair of quantisers and each policy the
/// errors of quantisation, alignment, accumulator, promotion and cast, as
/// [`fp8gemm_sim::attribution`] defines them.
///
/// At most [`SAMPLE_ROWS`] rows of either operand are multiplied, evenly spaced from the first to the
/// last. Scales are those of the whole tensors. `done` is called with the share that is done.
///
/// # Errors
/// [`StudyError::Argument`] where the operands disagree about K or are empty, a pair has no legal
/// policy, or for 128x1 scales; [`StudyError::NonFinite`] from either operand.
pub fn attribute(
    a: &dyn Source,
    b: &dyn Source,
    pairs: &[Pair],
    done: &(dyn Fn(f64) + Sync),
) -> Result<Table, StudyError> {
    let ((_, k), (_, k_b)) = (a.dim(), b.dim());
    if k != k_b {
        let value = format!("{k} columns in A, {k_b} in B");
        return Err(StudyError::Argument { argument: "K", value, rule: "both operands must have the same K" });
    }
    for pair in pairs {
        check(&[pair.a, pair.b])?;
        if policies(*pair).is_empty() {
            let value = format!("{} with {}", pair.a, pair.b);
            return Err(StudyError::Argument { argument: "quantiser", value, rule: "no policy takes these scales" });
        }
    }
    // Tensor scales need the largest element of all, and NaN must be found wherever it is.
    check_elements(a)?;
    check_elements(b)?;
    let (amax_a, amax_b) = (scan(a, &|_| {})?.amax, scan(b, &|_| {})?.amax);
    let (sample_a, sample_b) = (Sample::new(a, amax_a), Sample::new(b, amax_b));
    let mut table = table(&sample_a, &sample_b, k);
    let total: usize = pairs.iter().map(|&pair| policies(pair).len()).sum();
    let mut finished = 0usize;
    for &pair in pairs {
        let (quantized_a, quantized_b) = (sample_a.quantize(pair.a)?, sample_b.quantize(pair.b)?);
        for policy in policies(pair) {
            let (x, y) = (sample_a.values.view(), sample_b.values.view());
            let attributed = Attribution::new(x, y, quantized_a.view(), quantized_b.view()).policy(policy);
            let macs = 5.0 * (x.nrows() * y.nrows()) as f64 * k as f64;
            let progress = AtomicU64::new(0);
            let step = |macs_done: u64| {
                let sum = macs_done + progress.fetch_add(macs_done, Ordering::Relaxed);
                done((finished as f64 + sum as f64 / macs) / total as f64);
            };
            let summary = attributed.run_with(&step)?.summary();
            finished += 1;
            let text = [pair.a.to_string(), pair.b.to_string(), policy.to_string()].map(Cell::from);
            let total = [summary.total.snr_db, summary.total.relative_bias * 100.0].map(Cell::from);
            let snr = Stage::ALL.map(|stage| Cell::from(summary.stage(stage).snr_db));
            let bias = Stage::ALL.map(|stage| Cell::from(summary.stage(stage).relative_bias * 100.0));
            table.push(text.into_iter().chain(total).chain(snr).chain(bias))?;
        }
    }
    Ok(table)
}

fn table(a: &Sample<'_>, b: &Sample<'_>, k: usize) -> Table {
    let of = |rows: usize, all: usize| if rows < all { format!("{rows} of {all}") } else { rows.to_string() };
    let (m, n) = (of(a.rows.len(), a.source.dim().0), of(b.rows.len(), b.source.dim().0));
    let title = format!("Sources of the error of the product: {m} rows of A, {n} of B, K = {k}, bf16 out");
    let mut table = Table::new("attribution", title)
        .text("A", "recipe, scale layout and type of A")
        .text("B", "the same of B")
        .text("policy", "accumulation policy")
        .float(
            "SNR",
            "dB",
            "10 log10(sum d^2 / sum e^2) of the whole error, against the exact product of the originals",
        )
        .float("bias", "%", "mean error over mean magnitude of the product");
    for stage in Stage::ALL {
        table = table.float(&format!("{stage} SNR"), "dB", "the same of the error that this stage adds");
    }
    for stage in Stage::ALL {
        table = table.float(&format!("{stage} bias"), "%", "the same of the error that this stage adds");
    }
    table
}

/// Rows that stand for a tensor, with what their scales depend on.
struct Sample<'s> {
    source: &'s dyn Source,
    amax: f32,
    rows: Vec<usize>,
    values: Array2<f32>,
}

impl<'s> Sample<'s> {
    fn new(source: &'s dyn Source, amax: f32) -> Self {
        let (all, columns) = source.dim();
        let count = all.min(SAMPLE_ROWS);
        // In 128 bits: there may be any number of rows.
        let last = |i: usize| (i as u128 * (all as u128 - 1) / (count as u128 - 1).max(1)) as usize;
        let rows: Vec<usize> = (0..count).map(last).collect();
        let mut values = Array2::zeros((rows.len(), columns));
        for (&row, mut values) in rows.iter().zip(values.rows_mut()) {
            // A row of a new array is one piece.
            if let Some(values) = values.as_slice_mut() {
                source.read(row, 0..columns, values);
            }
        }
        Self { source, amax, rows, values }
    }

    /// The sampled rows as they are in the whole tensor, quantised. 128x128 scales become 1x128, as the
    /// rows come from different blocks.
    fn quantize(&self, quantizer: Quantizer) -> Result<ScaledMatrix, StudyError> {
        let pieces = PieceQuantizer::new(quantizer.recipe, quantizer.ty, self.source.ty());
        let square = quantizer.layout == ScaleLayout::Block128x128;
        let layout = if square { ScaleLayout::Block1x128 } else { quantizer.layout };
        let (rows, columns) = self.values.dim();
        let (_, block) = layout.block(rows, columns);
        let mut codes = Vec::with_capacity(rows * columns);
        let mut scales = Vec::new();
        let (mut scaled, mut row_codes) = (vec![0.0; columns], vec![0; columns]);
        let mut squares: Option<(usize, Vec<f32>)> = None;
        for (&row, values) in self.rows.iter().zip(self.values.rows()) {
            let values = values.to_vec();
            let amax = match layout {
                ScaleLayout::Tensor => vec![self.amax],
                _ if square => {
                    let first = row / TILE_ROWS * TILE_ROWS;
                    match &squares {
                        Some((known, amax)) if *known == first => amax.clone(),
                        _ => squares.insert((first, self.squares(first))).1.clone(),
                    }
                }
                _ => amaxes(&values, block).collect(),
            };
            let found: Vec<_> = amax.into_iter().map(|amax| pieces.scale(amax)).collect();
            let factors: Vec<f32> = found.iter().map(|scale| scale.factor()).collect();
            pieces.cast(&values, block, &factors, &mut scaled, &mut row_codes)?;
            codes.extend_from_slice(&row_codes);
            if layout != ScaleLayout::Tensor || scales.is_empty() {
                scales.extend(found.iter().map(|scale| scale.stored));
            }
        }
        let shape = layout.scale_shape(rows, columns);
        let codes = Array2::from_shape_fn((rows, columns), |(row, column)| codes[row * columns + column]);
        let scales = Array2::from_shape_fn(shape, |(row, column)| scales[row * shape.1 + column]);
        Ok(ScaledMatrix::new(quantizer.ty, layout, codes, scales)?)
    }

    /// Largest magnitudes of the 128x128 blocks that begin at this row.
    fn squares(&self, first: usize) -> Vec<f32> {
        let (rows, columns) = self.source.dim();
        let mut values = vec![0.0; columns];
        let mut squares = vec![0.0f32; columns.div_ceil(128)];
        for row in first..(first + TILE_ROWS).min(rows) {
            self.source.read(row, 0..columns, &mut values);
            squares.iter_mut().zip(amaxes(&values, 128)).for_each(|(square, amax)| *square = square.max(amax));
        }
        squares
    }
}

/// Largest magnitudes of the blocks of a row.
fn amaxes(values: &[f32], block: usize) -> impl Iterator<Item = f32> {
    values.chunks(block).map(|values| values.iter().fold(0.0f32, |amax, x| amax.max(x.abs())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Distribution;

    /// Breaks if the sampled rows get other codes or scales than they have in the whole tensor.
    #[test]
    fn samples_are_quantised_as_the_whole() {
        let distribution = Distribution::OutlierElements { share: 0.001, factor: 1000.0 };
        let x = distribution.sample(1, "a", (300, 200)).unwrap();
        let view = x.view();
        let amax = x.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
        let sample = Sample::new(&view, amax);
        assert_eq!((sample.rows.len(), sample.rows[0], sample.rows[63]), (64, 0, 299));
        for quantizer in ["te-current", "vllm-token", "deepgemm:1x128", "deepgemm:128x128", "torchao-mx-even"] {
            let quantizer: Quantizer = quantizer.parse().unwrap();
            let whole = quantizer.quantize(view).unwrap();
            let expected = whole.view().gather_rows(&sample.rows).unwrap();
            assert_eq!(sample.quantize(quantizer).unwrap(), expected, "{quantizer}");
        }
    }

    /// Breaks if a small product is sampled, its errors are not those of the whole, or operands that do
    /// not fit together are multiplied.
    #[test]
    fn small_products_are_not_sampled() {
        let a = Distribution::NORMAL.sample(1, "a", (5, 256)).unwrap();
        let b = Distribution::NORMAL.sample(1, "b", (7, 256)).unwrap();
        let table = attribute(&a.view(), &b.view(), &default_pairs(), &|_| {}).unwrap();
        assert!(table.title().contains("5 rows of A, 7 of B"), "{}", table.title());
        let policies: Vec<String> = table.rows().iter().map(|row| row[2].to_string()).collect();
        let expected =
            ["promote128", "chain", "promote128", "chain", "promote128", "promote128", "promote128", "promote32"];
        assert_eq!(policies, expected);
        let pair = default_pairs()[2];
        assert_eq!(pair.b.to_string(), "deepgemm:128x128:e4m3");
        let (x, y) = (pair.a.quantize(a.view()).unwrap(), pair.b.quantize(b.view()).unwrap());
        let summary = Attribution::new(a.view(), b.view(), x.view(), y.view()).run().unwrap().summary();
        assert_eq!(table.rows()[4][3], Cell::from(summary.total.snr_db));
        let other = Distribution::NORMAL.sample(1, "b", (7, 255)).unwrap();
        assert!(attribute(&a.view(), &other.view(), &default_pairs(), &|_| {}).is_err());
    }
}
