//! How far an approximation is from a reference: ULP distance and [`Metrics`] of whole matrices.
//!
//! With reference `x`, approximation `y` and `e = y - x` over the elements of a matrix:
//!
//! | field of [`Metrics`] | formula | seen in |
//! |---|---|---|
//! | `snr_db` | `10 log10(sum x^2 / sum e^2)` | quantisation studies |
//! | `relative_frobenius` | `sqrt(sum e^2 / sum x^2)` | numerical linear algebra |
//! | `calc_diff` | `1 - 2 sum(xy) / sum(x^2 + y^2)` | DeepGEMM's tests (`deep_gemm/testing/numeric.py`) |
//! | `max_relative` | `max abs(e) / abs(x)` | unbounded where `x` cancels |
//! | `max_over_mean` | `max abs(e) / mean abs(x)` | bounded form of the above |
//! | `bias` | `sum e / sum abs(x)` | systematic error: truncation shows here |
//!
//! All sums are of f64 in a fixed order (each row from the left, then the rows from the top), so
//! the figures do not depend on the number of threads.
//!
//! ```
//! use fp8gemm_sim::metrics::Metrics;
//! use ndarray::array;
//!
//! let metrics = Metrics::new(array![[3.0, 4.0]].view(), array![[3.0f32, 4.5]].view())?;
//! assert_eq!(metrics.relative_frobenius, 0.1);
//! assert_eq!(metrics.snr_db, 20.0);
//! assert_eq!(metrics.max_relative, 0.125);
//! # Ok::<(), fp8gemm_sim::SimError>(())
//! ```

use core::fmt;

use half::{bf16, f16};
use ndarray::parallel::prelude::*;
use ndarray::{ArrayView1, ArrayView2, Axis};

use crate::SimError;

/// Types whose values can be counted, so that a distance in units of the last place makes sense.
pub trait Ulp: Copy {
    /// How many representable values lie between the two, one end included.
    ///
    /// -0 and +0 are the same point: 0 apart. Infinity is one step beyond the largest finite
    /// value. Two NaN are 0 apart whatever their bits; a NaN and a number have no distance: `None`.
    fn ulp_distance(self, other: Self) -> Option<u64>;
}

/// The place of a sign-magnitude word on the line of integers.
fn place(magnitude: u32, negative: bool) -> i64 {
    if negative { -i64::from(magnitude) } else { i64::from(magnitude) }
}

macro_rules! ulp {
    ($ty:ty, $magnitude:expr) => {
        impl Ulp for $ty {
            fn ulp_distance(self, other: Self) -> Option<u64> {
                let place = |x: Self| place(u32::from(x.to_bits() & $magnitude), x.is_sign_negative());
                match (self.is_nan(), other.is_nan()) {
                    (false, false) => Some(place(self).abs_diff(place(other))),
                    (true, true) => Some(0),
                    _ => None,
                }
            }
        }
    };
}

ulp!(f32, 0x7FFF_FFFF);
ulp!(bf16, 0x7FFF);
ulp!(f16, 0x7FFF);

/// Error measures of an approximation against a reference; see the [module](self) for formulas.
///
/// Pairs in which a side is NaN or infinite are left out of every sum and counted instead. Where a
/// quotient would be 0 / 0 the error is 0 (`snr_db` infinite); an error against a zero reference
/// makes the relative measures infinite (`snr_db` minus infinity).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// Pairs that entered the sums.
    pub elements: usize,
    /// Pairs left out because a side is NaN or infinite.
    pub non_finite: usize,
    /// Those of `non_finite` whose sides disagree: NaN against a number, or other infinities.
    pub non_finite_differing: usize,
    /// Signal to noise ratio in decibels.
    pub snr_db: f64,
    /// Frobenius norm of the error over that of the reference.
    pub relative_frobenius: f64,
    /// DeepGEMM's measure; its tests accept less than 1e-3. Evaluated as the equal
    /// `sum e^2 / sum(x^2 + y^2)`, which does not cancel.
    pub calc_diff: f64,
    /// Largest error relative to its own reference element.
    pub max_relative: f64,
    /// Largest error relative to the mean magnitude of the reference.
    pub max_over_mean: f64,
    /// Mean signed error relative to the mean magnitude of the reference. A row of equal positive
    /// values that all come out 1 % too small has the bias -0.01.
    pub bias: f64,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    elements: usize,
    non_finite: usize,
    non_finite_differing: usize,
    /// Squares of the reference, of the approximation, of the error.
    reference: f64,
    approximation: f64,
    error: f64,
    /// Magnitudes of the reference, signed errors.
    magnitude: f64,
    signed: f64,
    largest: f64,
    largest_relative: f64,
}

impl Sums {
    fn of_row<T: Copy + Into<f64>>(reference: ArrayView1<'_, f64>, approximation: ArrayView1<'_, T>) -> Self {
        let mut sums = Self::default();
        for (x, y) in reference.iter().zip(approximation) {
            let (x, y) = (*x, (*y).into());
            if !x.is_finite() || !y.is_finite() {
                sums.non_finite += 1;
                sums.non_finite_differing += usize::from(x != y && !(x.is_nan() && y.is_nan()));
                continue;
            }
            let e = y - x;
            sums.elements += 1;
            sums.reference += x * x;
            sums.approximation += y * y;
            sums.error += e * e;
            sums.magnitude += x.abs();
            sums.signed += e;
            sums.largest = sums.largest.max(e.abs());
            sums.largest_relative = sums.largest_relative.max(ratio(e.abs(), x.abs()));
        }
        sums
    }

    fn and(self, next: &Self) -> Self {
        Self {
            elements: self.elements + next.elements,
            non_finite: self.non_finite + next.non_finite,
            non_finite_differing: self.non_finite_differing + next.non_finite_differing,
            reference: self.reference + next.reference,
            approximation: self.approximation + next.approximation,
            error: self.error + next.error,
            magnitude: self.magnitude + next.magnitude,
            signed: self.signed + next.signed,
            largest: self.largest.max(next.largest),
            largest_relative: self.largest_relative.max(next.largest_relative),
        }
    }
}

/// `numerator / denominator`, where no error at all is 0 whatever it is compared with.
fn ratio(numerator: f64, denominator: f64) -> f64 {
    if numerator == 0.0 { 0.0 } else { numerator / denominator }
}

/// `10 log10(signal / noise)` of two sums of squares; infinite where there is no noise.
pub(crate) fn decibels(signal: f64, noise: f64) -> f64 {
    if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() }
}

impl Metrics {
    /// Compares `approximation` (f64, f32, bf16 or f16, widened exactly) with `reference`.
    ///
    /// Squares must not overflow f64: magnitudes up to 1e150 are safe, which covers every GEMM of
    /// f32 data with scales within 2^±60.
    ///
    /// # Errors
    /// [`SimError::Shape`] where the shapes differ.
    pub fn new<T>(reference: ArrayView2<'_, f64>, approximation: ArrayView2<'_, T>) -> Result<Self, SimError>
    where
        T: Copy + Into<f64> + Sync,
    {
        let ((expected_rows, expected_columns), (rows, columns)) = (reference.dim(), approximation.dim());
        if (rows, columns) != (expected_rows, expected_columns) {
            return Err(SimError::Shape { what: "the approximation", rows, columns, expected_rows, expected_columns });
        }
        let rows: Vec<Sums> = (0..rows)
            .into_par_iter()
            .map(|row| Sums::of_row(reference.index_axis(Axis(0), row), approximation.index_axis(Axis(0), row)))
            .collect();
        let sums = rows.iter().fold(Sums::default(), Sums::and);
        Ok(Self {
            elements: sums.elements,
            non_finite: sums.non_finite,
            non_finite_differing: sums.non_finite_differing,
            snr_db: decibels(sums.reference, sums.error),
            relative_frobenius: ratio(sums.error, sums.reference).sqrt(),
            calc_diff: ratio(sums.error, sums.reference + sums.approximation),
            max_relative: sums.largest_relative,
            max_over_mean: ratio(sums.largest, sums.magnitude / sums.elements as f64),
            bias: ratio(sums.signed, sums.magnitude),
        })
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SNR {:.2} dB, relative Frobenius {:.3e}, calc_diff {:.3e}, bias {:+.3e}, max |e|/mean |x| {:.3e}, \
             max |e/x| {:.3e}",
            self.snr_db, self.relative_frobenius, self.calc_diff, self.bias, self.max_over_mean, self.max_relative
        )?;
        if self.non_finite > 0 {
            write!(f, " ({} of {} non-finite pairs differ)", self.non_finite_differing, self.non_finite)?;
        }
        Ok(())
    }
}
