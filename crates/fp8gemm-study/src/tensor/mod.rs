//! Tensors of one's own: what FP8 with each recipe and granularity does to their elements.
//!
//! [`profile`] is an ordinary function of a [`Source`] (an array, FP8 codes with scales, or what one
//! implements it for) and quantisers. For each quantiser, with `q = decode(code) * scale` of an element
//! `x` and `e = q - x`:
//!
//! | figure | formula |
//! |---|---|
//! | flushed to zero | elements `x != 0` whose code is 0 |
//! | subnormal | elements whose code is subnormal |
//! | saturated | elements that round beyond the largest value of the type at their scale, and are clipped |
//! | SNR | `10 log10(sum x^2 / sum e^2)`: the large elements decide it |
//! | mean relative error | mean `abs(e / x)` over `abs(x) >= 2^-126`: all elements count alike |
//!
//! Errors are rounded once to f32, then summed in f64 in an order that depends on the shape alone.
//!
//! **Memory.** Matrices are read in tiles of 128 x 2048 elements, two or three times; each thread holds
//! one tile as f32 (1 MiB), all together some MiB of counts. A tensor larger than memory is no problem if
//! its source is a mapped file.
//!
//! [`Survey`] collects the profiles of many tensors into tables and figures, and [`attribute`] says where
//! the error of a product of two of them comes from.
//!
//! ```
//! use fp8gemm_study::tensor::{Survey, default_quantizers, profile};
//! use ndarray::Array2;
//!
//! let x = Array2::from_shape_fn((256, 512), |(i, j)| ((i * 37 + j * 101) % 997) as f32 - 500.0);
//! let found = profile(&x.view(), &default_quantizers(), &|_| {})?;
//! let best = found.best().expect("there are quantisers");
//! println!("amax {}, best {} with {:.1} dB", found.amax, best.quantizer, best.snr_db);
//!
//! let mut survey = Survey::new();
//! survey.tensor("x", "f32", &found)?;
//! let outcome = survey.outcome()?;
//! println!("{}", outcome.tables[0].csv());
//! # Ok::<(), fp8gemm_study::StudyError>(())
//! ```

mod attribution;
mod codes;
mod cost;
mod distribution;
mod kernel;
mod scan;
mod source;
mod survey;

use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_problem::ScaleLayout;

pub use attribution::{Pair, SAMPLE_ROWS, attribute, default_pairs};
pub use codes::{Codes, codes};
pub use distribution::BlockAmax;
pub use source::Source;
pub use survey::Survey;

use crate::StudyError;

/// Rows of a tile: those of a 128x128 block.
const TILE_ROWS: usize = 128;
/// Columns of a tile: a whole number of blocks of any layout.
const TILE_COLUMNS: usize = 2048;
/// Stripes of rows whose results are held at once.
const BATCH: usize = 64;

/// What one matrix is like, and what quantisers do to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Largest magnitude.
    pub amax: f32,
    /// Smallest magnitude that is not zero; 0 where all are.
    pub smallest: f32,
    /// Elements that are zero.
    pub zeros: u64,
    /// Largest magnitudes of rows, 128x128 and 1x128 blocks.
    pub blocks: [(ScaleLayout, BlockAmax); 3],
    /// What the quantisers cost, in the order given.
    pub costs: Vec<Cost>,
}

/// What a quantiser does to a matrix; formulas in the [module](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Recipe, layout and type.
    pub quantizer: Quantizer,
    /// How many scales there are.
    pub scales: u64,
    /// Elements that became zero.
    pub flushed: u64,
    /// Elements with a subnormal code.
    pub subnormal: u64,
    /// Elements that were clipped.
    pub saturated: u64,
    /// Signal to noise ratio in decibels; infinite where nothing is lost.
    pub snr_db: f64,
    /// Mean relative error: 0.02 is two per cent.
    pub mean_relative: f64,
}

/// Decibels within which quantisers count as equal in [`Profile::best`].
pub const TIE_DB: f64 = 0.1;

impl Profile {
    /// How many elements.
    pub fn elements(&self) -> u64 {
        self.rows as u64 * self.columns as u64
    }

    /// The best quantiser: of those within [`TIE_DB`] of the highest SNR the one with the fewest scales,
    /// then the first in the order given. None where there is no quantiser.
    pub fn best(&self) -> Option<&Cost> {
        best(self.costs.iter())
    }

    /// The best quantiser among those with scales of this layout, which need equal storage.
    pub fn best_with(&self, layout: ScaleLayout) -> Option<&Cost> {
        best(self.costs.iter().filter(|cost| cost.quantizer.layout == layout))
    }
}

fn best<'a>(costs: impl Iterator<Item = &'a Cost> + Clone) -> Option<&'a Cost> {
    // NaN, of a recipe whose scale overflows, is the worst.
    let snr = |cost: &Cost| if cost.snr_db.is_nan() { f64::NEG_INFINITY } else { cost.snr_db };
    let highest = costs.clone().map(snr).fold(f64::NEG_INFINITY, f64::max);
    costs.filter(|cost| snr(cost) >= highest - TIE_DB).min_by_key(|cost| cost.scales)
}

/// The quantisers that are tried unless others are named: recipes in use for each granularity to E4M3,
/// one of each to E5M2.
pub fn default_quantizers() -> Vec<Quantizer> {
    const NAMES: [&str; 20] = [
        "te-current:tensor",
        "te-current-pow2:tensor",
        "vllm-tensor:tensor",
        "torchao-float8:row",
        "vllm-token:row",
        "deepgemm:128x128",
        "deepgemm-ue8m0:128x128",
        "te-block:128x128",
        "deepgemm:1x128",
        "deepgemm-ue8m0:1x128",
        "te-block:1x128",
        "vllm-group:1x128",
        "torchao-mx-floor:1x32",
        "torchao-mx-rceil:1x32",
        "torchao-mx-even:1x32",
        "te-current:tensor:e5m2",
        "torchao-float8:row:e5m2",
        "deepgemm:128x128:e5m2",
        "deepgemm:1x128:e5m2",
        "torchao-mx-rceil:1x32:e5m2",
    ];
    // A test says that all are names.
    NAMES.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Profiles a matrix, calling `done` from any thread with the number of elements just finished; the
/// numbers add up to twice those of the matrix.
///
/// # Errors
/// [`StudyError::Argument`] for an empty matrix, and for 128x1 scales, which run across the rows in
/// which the matrix comes; [`StudyError::NonFinite`], naming the first element that is NaN or infinite;
/// what a recipe refuses.
pub fn profile(
    source: &dyn Source,
    quantizers: &[Quantizer],
    done: &(dyn Fn(u64) + Sync),
) -> Result<Profile, StudyError> {
    let (rows, columns) = source.dim();
    check_elements(source)?;
    check(quantizers)?;
    let scan = scan::scan(source, done)?;
    let found = cost::cost(source, scan.amax, quantizers, done)?;
    let ratio = |numerator: f64, denominator: f64| if numerator == 0.0 { 0.0 } else { numerator / denominator };
    let costs = quantizers.iter().zip(&found.losses).map(|(&quantizer, loss)| {
        let (scale_rows, scale_columns) = quantizer.layout.scale_shape(rows, columns);
        let noise = ratio(loss.error, found.signal);
        Cost {
            quantizer,
            scales: scale_rows as u64 * scale_columns as u64,
            flushed: loss.flushed,
            subnormal: loss.subnormal,
            saturated: loss.saturated,
            snr_db: if noise == 0.0 { f64::INFINITY } else { -10.0 * libm::log10(noise) },
            mean_relative: ratio(loss.relative, found.counted as f64),
        }
    });
    let costs = costs.collect();
    Ok(Profile {
        rows,
        columns,
        amax: scan.amax,
        smallest: scan.smallest,
        zeros: scan.zeros,
        blocks: scan.blocks,
        costs,
    })
}

fn check_elements(source: &dyn Source) -> Result<(), StudyError> {
    let (rows, columns) = source.dim();
    if rows == 0 || columns == 0 {
        let value = format!("{rows} x {columns}");
        return Err(StudyError::Argument { argument: "matrix", value, rule: "it must have elements" });
    }
    Ok(())
}

/// Checks that [`profile`] can follow these quantisers, before anything is read.
///
/// # Errors
/// [`StudyError::Argument`] for 128x1 scales, [`fp8gemm_formats::FormatError::RecipeLayout`] where a
/// recipe has no such scales.
pub fn check(quantizers: &[Quantizer]) -> Result<(), StudyError> {
    for quantizer in quantizers {
        if quantizer.layout == ScaleLayout::Block128x1 {
            let rule = "blocks must lie along rows: tensor, row, 128x128, 1x128 or 1x32";
            return Err(StudyError::Argument { argument: "quantiser", value: quantizer.to_string(), rule });
        }
        // Parsing knows the rule.
        quantizer.to_string().parse::<Quantizer>()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
