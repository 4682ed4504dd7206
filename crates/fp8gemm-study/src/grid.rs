//! An experiment of one's own: every policy with every quantisation on every distribution.
//!
//! ```
//! use fp8gemm_problem::Policy;
//! use fp8gemm_study::{Figure, Grid, Scale, Shape};
//!
//! let table = Grid {
//!     distributions: vec!["normal".parse()?, "outlier-elements(0.001, 100)".parse()?],
//!     quantizers: vec!["deepgemm:1x128".parse()?, "torchao-float8:tensor".parse()?],
//!     policies: vec![Policy::PROMOTE_128, Policy::Chain],
//!     shape: Shape::square(16, 512),
//!     seed: 1,
//! }
//! .run()?;
//! let figure = Figure::bars("snr", "SNR", "grid").x("distribution", Scale::Linear).y(["total SNR"], Scale::Linear);
//! println!("{}\n{}", table.csv(), figure.by("quantiser").by("policy").svg(&table)?);
//! assert_eq!(table.rows().len(), 6); // `chain` has no meaning with 1x128 scales
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_problem::Policy;
use fp8gemm_sim::metrics::Metrics;
use fp8gemm_sim::reference;

use crate::sample::Distribution;
use crate::{Cell, Product, Shape, StudyError, Table};

/// What is combined; all orders are kept.
#[derive(Clone, Debug)]
pub struct Grid {
    /// Both operands are drawn from each of these (roles `a` and `b`).
    pub distributions: Vec<Distribution>,
    /// Both operands are quantised by each of these.
    pub quantizers: Vec<Quantizer>,
    /// Accumulation policies. Pairs that are not legal are left out.
    pub policies: Vec<Policy>,
    /// Sizes.
    pub shape: Shape,
    /// Seed of the samples.
    pub seed: u64,
}

impl Grid {
    /// Whether the policy has a meaning with the quantiser's scales.
    pub fn legal(quantizer: Quantizer, policy: Policy) -> bool {
        policy.check(quantizer.layout, quantizer.layout).is_ok()
    }

    /// The table `grid`: a row for each legal combination, with the error of the quantisation, of the
    /// accumulation, and of both, f32 out.
    ///
    /// # Errors
    /// Of the distributions, the quantisers and policies (an interval that is not a multiple of 32);
    /// [`StudyError::Argument`] where no combination is legal.
    pub fn run(&self) -> Result<Table, StudyError> {
        let mut table = Table::new("grid", format!("Errors of {} products", self.shape))
            .text("distribution", "of the elements of A and B")
            .text("quantiser", "recipe, scale layout and type of A and B")
            .text("policy", "accumulation policy")
            .float("quantisation SNR", "dB", "exact product of the quantised operands against that of the originals")
            .float("accumulation SNR", "dB", "Hopper's output against the exact product of the quantised operands")
            .float("total SNR", "dB", "Hopper's output against the exact product of the originals")
            .float("accumulation bias", "%", "sum of errors over sum of magnitudes, accumulation alone")
            .float("total bias", "%", "the same of the whole error");
        for distribution in &self.distributions {
            let a = distribution.sample(self.seed, "a", (self.shape.m, self.shape.k))?;
            let b = distribution.sample(self.seed, "b", (self.shape.n, self.shape.k))?;
            let original = reference::exact_f32(a.view(), b.view())?;
            for &quantizer in &self.quantizers {
                let policies: Vec<Policy> =
                    self.policies.iter().copied().filter(|&policy| Self::legal(quantizer, policy)).collect();
                if policies.is_empty() {
                    continue;
                }
                let product = Product::new(quantizer.quantize(a.view())?, quantizer.quantize(b.view())?)?;
                let quantisation = Metrics::new(original.view(), product.exact.view())?;
                for policy in policies {
                    let output = product.output(policy)?;
                    let accumulation = Metrics::new(product.exact.view(), output.view())?;
                    let total = Metrics::new(original.view(), output.view())?;
                    table.push([
                        Cell::from(distribution.to_string()),
                        Cell::from(quantizer.to_string()),
                        Cell::from(policy.to_string()),
                        Cell::from(quantisation.snr_db),
                        Cell::from(accumulation.snr_db),
                        Cell::from(total.snr_db),
                        Cell::from(accumulation.bias * 100.0),
                        Cell::from(total.bias * 100.0),
                    ])?;
                    tracing::debug!(%distribution, %quantizer, %policy, "computed");
                }
            }
        }
        if table.rows().is_empty() {
            return Err(StudyError::Argument {
                argument: "grid",
                value: format!(
                    "{} distributions, {} quantisers, {} policies",
                    self.distributions.len(),
                    self.quantizers.len(),
                    self.policies.len()
                ),
                rule: "at least one combination must be legal",
            });
        }
        Ok(table)
    }
}
