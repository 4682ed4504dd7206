//! Errors of many outputs as a few numbers for each stage.

use core::fmt;

use super::{Attributed, Stage};
use crate::metrics::decibels;

/// The error of one stage, or all of them together, over all outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageSummary {
    /// Mean error.
    pub bias: f64,
    /// Bias over the mean magnitude of v0: -0.01 is one per cent too small on the whole.
    pub relative_bias: f64,
    /// Mean squared deviation of the errors from their mean.
    pub variance: f64,
    /// Variance over that of the total error. The shares of the stages and of the covariance add
    /// up to 1; a stage that makes up for another's errors can make a share exceed 1.
    pub share: f64,
    /// `10 log10(sum v0^2 / sum error^2)`.
    pub snr_db: f64,
}

/// Biases and variances of the stages: biases add up, variances do so with a remainder.
///
/// Prints as a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Outputs that entered.
    pub elements: usize,
    /// Outputs left out because one of their values is not finite.
    pub excluded: usize,
    /// Mean of the magnitude of v0.
    pub mean_magnitude: f64,
    /// One for each of [`Stage::ALL`].
    pub stages: [StageSummary; 5],
    /// Of `v5 - v0`. Its bias is the sum of the stages' biases, added in order.
    pub total: StageSummary,
    /// Total variance less the sum of the stages' variances, added in order: twice the sum of the
    /// covariances of all pairs of stages.
    pub covariance: f64,
}

impl Summary {
    /// The summary of one stage.
    pub fn stage(&self, stage: Stage) -> &StageSummary {
        &self.stages[stage as usize]
    }

    /// All sums run over the outputs in row-major order.
    pub(super) fn new(attributed: &Attributed) -> Self {
        let values = attributed.values();
        let elements = values[0].len() - attributed.excluded();
        // An empty mean is 0.
        let mean = |sum: f64| if elements == 0 { 0.0 } else { sum / elements as f64 };
        let finite = |i: usize| values[i].iter().copied().filter(|x| !x.is_nan());
        let mean_magnitude = mean(finite(0).map(f64::abs).sum());
        let signal: f64 = finite(0).map(|x| x * x).sum();
        let relative = |bias: f64| if bias == 0.0 { 0.0 } else { bias / mean_magnitude };
        // Of the errors between two values, with a bias that may be known already.
        let summary = |from: usize, to: usize, bias: Option<f64>| {
            let errors = || finite(from).zip(finite(to)).map(|(from, to)| to - from);
            let bias = bias.unwrap_or_else(|| mean(errors().sum()));
            StageSummary {
                bias,
                relative_bias: relative(bias),
                variance: mean(errors().map(|e| (e - bias).powi(2)).sum()),
                share: 0.0,
                snr_db: decibels(signal, errors().map(|e| e * e).sum()),
            }
        };
        let mut stages: [StageSummary; 5] = core::array::from_fn(|i| summary(i, i + 1, None));
        let mut total = summary(0, 5, Some(stages.iter().map(|stage| stage.bias).sum()));
        let covariance = total.variance - stages.iter().map(|stage| stage.variance).sum::<f64>();
        for stage in &mut stages {
            stage.share = if stage.variance == 0.0 { 0.0 } else { stage.variance / total.variance };
        }
        total.share = if total.variance == 0.0 { 0.0 } else { 1.0 };
        Self { elements, excluded: attributed.excluded(), mean_magnitude, stages, total, covariance }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &dyn fmt::Display, x: &StageSummary| {
            writeln!(
                f,
                "{name:<21} {:>+11.3e} {:>+10.4} % {:>11.3e} {:>10.3} % {:>9.2}",
                x.bias,
                x.relative_bias * 100.0,
                x.variance.sqrt(),
                x.share * 100.0,
                x.snr_db
            )
        };
        writeln!(
            f,
            "{:<21} {:>11} {:>12} {:>11} {:>12} {:>9}",
            "source of error", "bias", "of mean |v|", "std. dev.", "of variance", "SNR dB"
        )?;
        for (stage, summary) in Stage::ALL.iter().zip(&self.stages) {
            line(f, stage, summary)?;
        }
        let covariance = if self.covariance == 0.0 { 0.0 } else { self.covariance / self.total.variance };
        writeln!(f, "{:<21} {:>11} {:>12} {:>11} {:>10.3} %", "covariance", "", "", "", covariance * 100.0)?;
        line(f, &"total", &self.total)?;
        write!(f, "{} outputs, mean |v| {:.4e}", self.elements, self.mean_magnitude)?;
        if self.excluded > 0 {
            write!(f, ", {} more left out: not finite", self.excluded)?;
        }
        Ok(())
    }
}
