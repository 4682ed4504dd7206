//! What is said of repeated times.

use serde::Serialize;

/// Microseconds of repeated runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Arithmetic mean: what the recorded times are.
    pub mean: f64,
    /// Half of the runs took no longer.
    pub median: f64,
    /// A tenth took no longer.
    pub p10: f64,
    /// Nine tenths took no longer.
    pub p90: f64,
    /// Number of runs.
    pub runs: usize,
}

impl Times {
    /// Of microseconds in any order; `None` of none. Quantiles are interpolated between neighbours.
    ///
    /// ```
    /// use fp8gemm_bench::Times;
    ///
    /// let times = Times::of(&[4.0, 1.0, 2.0]).unwrap();
    /// assert_eq!((times.median, times.p10), (2.0, 1.2));
    /// ```
    pub fn of(microseconds: &[f64]) -> Option<Self> {
        let mut sorted = microseconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let quantile = |q: f64| {
            let at = q * last as f64;
            let low = at.floor() as usize;
            sorted[low] + (sorted[(low + 1).min(last)] - sorted[low]) * (at - low as f64)
        };
        Some(Self {
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            median: quantile(0.5),
            p10: quantile(0.1),
            p90: quantile(0.9),
            runs: sorted.len(),
        })
    }
}

/// The geometric mean; `None` of nothing.
///
/// ```
/// assert_eq!(fp8gemm_bench::geometric_mean([2.0, 8.0]), Some(4.0));
/// ```
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.into_iter().fold((0.0, 0), |(sum, count), value| (sum + value.ln(), count + 1));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}
