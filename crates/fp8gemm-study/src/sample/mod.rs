//! Matrices drawn from a [`Distribution`], the same to the last bit on every platform.
//!
//! A matrix is decided by the distribution, a seed, a role (`"a"`, `"b"`: so that two operands of
//! one seed are independent) and its shape. Row `r` is stream `r` of ChaCha8 under the key
//! `seed || role`, drawn from the left, so that neither the number of threads nor that of rows
//! changes a row ([`SoftmaxRows`](Distribution::SoftmaxRows) depends on the columns too,
//! [`Drift`](Distribution::Drift) on the rows). With
//!
//! ```text
//! u = (k + 1/2) 2^-52    k: the upper 52 of the next 64 bits
//! z = sqrt(-2 ln u) cos(2 pi v), then, for the next, the same with sin    (Box and Muller)
//! ```
//!
//! each element is computed in f64 and rounded once to f32. `ln`, `exp`, `pow`, `sin` and `cos` are
//! those of the `libm` crate; everything else is one IEEE operation.
//!
//! | text | element |
//! |---|---|
//! | `normal(mean, std)` | `mean + std z` |
//! | `uniform(low, high)` | `low + (high - low) u` |
//! | `log-normal(mu, sigma)` | `exp(mu + sigma z)` |
//! | `laplace(scale)` | `-scale ln(u1)`, negative where `u2 < 1/2` |
//! | `student-t(degrees)` | `z / sqrt((z1^2 + ... + zn^2) / n)` |
//! | `outlier-elements(share, factor)` | `z`, times `factor` where `u < share` |
//! | `outlier-channels(share, factor)` | `z`, times `factor` in the columns for which `u < share` (drawn once, from the last stream) |
//! | `softmax-rows(scale)` | `exp(scale z - m) / sum`, over the row, m its maximum: positive, sums to 1 |
//! | `drift(from, to)` | `std z`, std going geometrically from the first row to the last |
//!
//! ```
//! use fp8gemm_study::sample::Distribution;
//!
//! let distribution: Distribution = "outlier-elements(0.001, 100)".parse()?;
//! let x = distribution.sample(1, "a", (4, 256))?;
//! assert_eq!(x, distribution.sample(1, "a", (8, 256))?.slice_move(ndarray::s![..4, ..]));
//! # Ok::<(), fp8gemm_study::StudyError>(())
//! ```

mod source;
mod text;

use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayViewMut1, Axis};

use self::source::Source;
use crate::StudyError;

/// Bytes that a role may have.
pub const ROLE_BYTES: usize = 24;

/// Uniform random words, as stochastic rounding takes them: the first `count` of one stream.
///
/// # Errors
/// [`StudyError::Argument`] for a role of more than [`ROLE_BYTES`] bytes.
pub fn random_words(seed: u64, role: &str, stream: u64, count: usize) -> Result<Vec<u32>, StudyError> {
    check_role(role)?;
    let mut source = Source::new(seed, role, stream);
    Ok((0..count).map(|_| source.word()).collect())
}

fn check_role(role: &str) -> Result<(), StudyError> {
    if role.len() <= ROLE_BYTES {
        return Ok(());
    }
    let rule = "a role has at most 24 bytes";
    Err(StudyError::Argument { argument: "role", value: role.to_owned(), rule })
}

/// A distribution of the elements of a matrix; see the [module](self) for formulas.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Distribution {
    /// Normal.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation, at least 0.
        std: f64,
    },
    /// Uniform.
    Uniform {
        /// Lower end.
        low: f64,
        /// Upper end, at least `low`.
        high: f64,
    },
    /// Logarithm normally distributed: positive, skewed.
    LogNormal {
        /// Mean of the logarithm.
        mu: f64,
        /// Standard deviation of the logarithm, at least 0.
        sigma: f64,
    },
    /// Two-sided exponential; standard deviation `sqrt(2) scale`.
    Laplace {
        /// Scale, at least 0.
        scale: f64,
    },
    /// Student's t: heavy tails.
    StudentT {
        /// Degrees of freedom, 1 (Cauchy) to 64.
        degrees: u32,
    },
    /// N(0, 1) with some elements, anywhere, larger.
    OutlierElements {
        /// Share of the elements, 0 to 1.
        share: f64,
        /// How much larger.
        factor: f64,
    },
    /// N(0, 1) with some columns (of K) larger, as in activations.
    OutlierChannels {
        /// Share of the columns, 0 to 1.
        share: f64,
        /// How much larger.
        factor: f64,
    },
    /// Attention-like probabilities: each row positive with sum 1.
    SoftmaxRows {
        /// Standard deviation of the logits, at least 0.
        scale: f64,
    },
    /// N(0, std^2) with std changing from row to row: rows are steps in time.
    Drift {
        /// Standard deviation of the first row, positive.
        from: f64,
        /// Standard deviation of the last row, positive.
        to: f64,
    },
}

impl Distribution {
    /// N(0, 1).
    pub const NORMAL: Self = Self::Normal { mean: 0.0, std: 1.0 };
    /// U(0, 1): positive data, where truncation is a bias.
    pub const UNIFORM: Self = Self::Uniform { low: 0.0, high: 1.0 };

    /// A matrix `[rows, columns]`, rows computed in parallel.
    ///
    /// # Errors
    /// [`StudyError::Distribution`] where a parameter is outside its range, [`StudyError::Argument`]
    /// for a role of more than [`ROLE_BYTES`] bytes.
    pub fn sample(&self, seed: u64, role: &str, shape: (usize, usize)) -> Result<Array2<f32>, StudyError> {
        self.check()?;
        check_role(role)?;
        let (rows, columns) = shape;
        let factors = self.column_factors(seed, role, columns);
        let mut matrix = Array2::zeros(shape);
        matrix.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(row, out)| {
            let time = if rows > 1 { row as f64 / (rows - 1) as f64 } else { 0.0 };
            self.fill(&mut Source::new(seed, role, row as u64), time, &factors, out);
        });
        Ok(matrix)
    }

    /// What each column is multiplied with; empty where columns are alike.
    fn column_factors(&self, seed: u64, role: &str, columns: usize) -> Vec<f64> {
        let Self::OutlierChannels { share, factor } = *self else { return Vec::new() };
        let mut source = Source::new(seed, role, u64::MAX);
        (0..columns).map(|_| if source.unit() < share { factor } else { 1.0 }).collect()
    }

    /// One row. `time` goes from 0 in the first row to 1 in the last.
    fn fill(&self, source: &mut Source, time: f64, factors: &[f64], mut out: ArrayViewMut1<'_, f32>) {
        let mut each = |mut draw: Box<dyn FnMut() -> f64 + '_>| out.iter_mut().for_each(|slot| *slot = draw() as f32);
        match *self {
            Self::Normal { mean, std } => each(Box::new(|| mean + std * source.normal())),
            Self::Uniform { low, high } => each(Box::new(|| low + (high - low) * source.unit())),
            Self::LogNormal { mu, sigma } => each(Box::new(|| libm::exp(mu + sigma * source.normal()))),
            Self::Laplace { scale } => each(Box::new(|| {
                let magnitude = -scale * libm::log(source.unit());
                if source.unit() < 0.5 { -magnitude } else { magnitude }
            })),
            Self::StudentT { degrees } => each(Box::new(|| {
                let numerator = source.normal();
                let mut squares = 0.0;
                for _ in 0..degrees {
                    let z = source.normal();
                    squares += z * z;
                }
                numerator / (squares / f64::from(degrees)).sqrt()
            })),
            Self::OutlierElements { share, factor } => each(Box::new(|| {
                let z = source.normal();
                if source.unit() < share { z * factor } else { z }
            })),
            Self::OutlierChannels { .. } => {
                let mut factors = factors.iter();
                each(Box::new(|| source.normal() * factors.next().copied().unwrap_or(1.0)));
            }
            Self::SoftmaxRows { scale } => {
                let logits: Vec<f64> = out.iter().map(|_| scale * source.normal()).collect();
                let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = logits.iter().map(|x| libm::exp(x - largest)).collect();
                let sum: f64 = powers.iter().sum();
                out.iter_mut().zip(powers).for_each(|(slot, power)| *slot = (power / sum) as f32);
            }
            Self::Drift { from, to } => {
                let std = from * libm::pow(to / from, time);
                each(Box::new(|| std * source.normal()));
            }
        }
    }

    fn check(&self) -> Result<(), StudyError> {
        let rule = match *self {
            _ if self.parameters().iter().any(|x| !x.is_finite()) => "parameters are finite numbers",
            Self::Normal { std, .. } if std < 0.0 => "the standard deviation is at least 0",
            Self::Uniform { low, high } if low > high => "the upper end is at least the lower end",
            Self::LogNormal { sigma, .. } if sigma < 0.0 => "sigma is at least 0",
            Self::Laplace { scale } | Self::SoftmaxRows { scale } if scale < 0.0 => "the scale is at least 0",
            Self::StudentT { degrees } if !(1..=64).contains(&degrees) => "degrees of freedom are 1 to 64",
            Self::OutlierElements { share, .. } | Self::OutlierChannels { share, .. }
                if !(0.0..=1.0).contains(&share) =>
            {
                "the share is between 0 and 1"
            }
            Self::Drift { from, to } if from <= 0.0 || to <= 0.0 => "both standard deviations are positive",
            _ => return Ok(()),
        };
        Err(StudyError::Distribution { text: self.to_string(), rule })
    }
}
