//! What the quantisation studies share: the errors of the elements of one quantised matrix.

use fp8gemm_formats::{Fp8Format, ScaledMatrix};
use fp8gemm_sim::metrics::Metrics;
use ndarray::{Array2, ArrayView2};

use crate::{Cell, StudyError, Table};

/// Counts and errors of all elements `x` against `y = code * scale`, `e = y - x`.
pub(super) struct Elements {
    /// How many there are.
    pub(super) elements: usize,
    /// Other than 0, but their code is 0.
    pub(super) zero: usize,
    /// With a subnormal code.
    pub(super) subnormal: usize,
    /// Larger than the largest finite code times the scale.
    pub(super) above: usize,
    /// So much larger that the nearest value is not the largest code: what saturation cuts.
    pub(super) saturated: usize,
    /// `10 log10(sum x^2 / sum e^2)`.
    pub(super) snr_db: f64,
    /// `sqrt(mean (e/x)^2)` over elements with a normal code.
    pub(super) rms_relative: f64,
    /// `max |e/x|` over the same.
    pub(super) max_relative: f64,
    /// `mean |e/x|` over all elements other than 0: 1 for each that became 0.
    pub(super) mean_relative: f64,
    /// `sum (|y| - |x|) / sum |x|`: magnitudes too small on the whole where negative.
    pub(super) shrinkage: f64,
}

impl Elements {
    /// Of a matrix and what it was quantised to; all sums in row-major order.
    pub(super) fn new(x: ArrayView2<'_, f32>, quantized: &ScaledMatrix) -> Result<Self, StudyError> {
        let format = Fp8Format::from(quantized.ty());
        let values = quantized.dequantize();
        let metrics = Metrics::new(x.mapv(f64::from).view(), values.view())?;
        let view = quantized.view();
        let largest = f64::from(format.max_finite());
        // Half a step above the largest: E4M3 464, E5M2 61440.
        let limit = largest + (largest - f64::from(format.decode(format.max_code() - 1))) / 2.0;
        let mut found = Self {
            elements: x.len(),
            zero: 0,
            subnormal: 0,
            above: 0,
            saturated: 0,
            snr_db: metrics.snr_db,
            rms_relative: 0.0,
            max_relative: 0.0,
            mean_relative: 0.0,
            shrinkage: 0.0,
        };
        let (mut normal, mut nonzero, mut squares) = (0usize, 0usize, 0.0);
        let (mut relatives, mut magnitudes, mut changes) = (0.0, 0.0, 0.0);
        for (((row, column), &x), (&value, &code)) in x.indexed_iter().zip(values.iter().zip(&quantized.codes())) {
            let (x, value) = (f64::from(x), f64::from(value));
            // Exact: 24 bits times at most 5.
            let scale = f64::from(view.scale_at(row, column));
            found.above += usize::from(x.abs() > largest * scale);
            found.saturated += usize::from(x.abs() > limit * scale);
            found.subnormal += usize::from(format.is_subnormal(code));
            magnitudes += x.abs();
            changes += value.abs() - x.abs();
            if x == 0.0 {
                continue;
            }
            let relative = ((value - x) / x).abs();
            nonzero += 1;
            relatives += relative;
            found.zero += usize::from(format.is_zero(code));
            if format.is_normal(code) {
                normal += 1;
                squares += relative * relative;
                found.max_relative = found.max_relative.max(relative);
            }
        }
        found.rms_relative = (squares / normal.max(1) as f64).sqrt();
        found.mean_relative = relatives / nonzero.max(1) as f64;
        found.shrinkage = if magnitudes == 0.0 { 0.0 } else { changes / magnitudes };
        Ok(found)
    }

    /// Adds the columns of [`cells`](Self::cells).
    pub(super) fn columns(table: Table) -> Table {
        table
            .count("elements", "how many")
            .count("zero", "elements other than 0 whose code is 0")
            .count("subnormal", "elements whose code is subnormal")
            .count("saturated", "elements that would round to more than the largest code")
            .float("SNR", "dB", "10 log10(sum x^2 / sum e^2)")
            .float("RMS relative", "%", "sqrt(mean (e/x)^2) over elements with a normal code")
            .float("mean relative", "%", "mean |e/x| over elements other than 0; 100 % for one that became 0")
    }

    /// Its figures, in the order of [`columns`](Self::columns).
    pub(super) fn cells(&self) -> [Cell; 7] {
        [
            Cell::from(self.elements),
            Cell::from(self.zero),
            Cell::from(self.subnormal),
            Cell::from(self.saturated),
            Cell::from(self.snr_db),
            Cell::from(self.rms_relative * 100.0),
            Cell::from(self.mean_relative * 100.0),
        ]
    }
}

/// The SNR over those elements for which `chosen` is true.
pub(super) fn partial_snr(
    x: ArrayView2<'_, f32>,
    quantized: &ScaledMatrix,
    chosen: impl Fn(usize, usize, f32) -> bool,
) -> Result<f64, StudyError> {
    let (mut reference, mut values) = (x.mapv(f64::from), quantized.dequantize());
    for ((row, column), &x) in x.indexed_iter() {
        if !chosen(row, column, x) {
            (reference[(row, column)], values[(row, column)]) = (0.0, 0.0);
        }
    }
    Ok(Metrics::new(reference.view(), values.view())?.snr_db)
}

/// The largest magnitude of each block of scales.
pub(super) fn block_maxima(x: ArrayView2<'_, f32>, quantized: &ScaledMatrix) -> Array2<f32> {
    let (block_rows, block_columns) = quantized.layout().block(x.nrows(), x.ncols());
    let mut maxima = Array2::zeros(quantized.scales().dim());
    for ((row, column), &x) in x.indexed_iter() {
        let slot: &mut f32 = &mut maxima[(row / block_rows, column / block_columns)];
        *slot = slot.max(x.abs());
    }
    maxima
}
