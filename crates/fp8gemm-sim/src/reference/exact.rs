//! [`ExactGemm`]: every output as an exact sum, rounded once.

use core::ops::Range;

use fp8gemm_formats::{FormatError, Fp8Format, ScaledView};
use fp8gemm_problem::{Epilogue, ProblemError};
use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::slice::ParallelSlice as _;

use super::integer::{LONGEST, Loader, Segment, dots};
use crate::kulisch::Accumulator;
use crate::{MatrixView, SimError};

/// Rows and columns of the outputs that are computed together: their accumulators and one segment
/// of both operands stay in the L2 cache.
const TILE: (usize, usize) = (32, 64);

/// An operand of an exact product.
#[derive(Clone, Copy, Debug)]
pub enum ExactOperand<'a> {
    /// FP8 codes with scales: the values are `code * scale`, not rounded.
    Scaled(ScaledView<'a>),
    /// f32 values.
    Plain(ArrayView2<'a, f32>),
}

impl<'a> From<ScaledView<'a>> for ExactOperand<'a> {
    fn from(view: ScaledView<'a>) -> Self {
        Self::Scaled(view)
    }
}

impl<'a> From<ArrayView2<'a, f32>> for ExactOperand<'a> {
    fn from(view: ArrayView2<'a, f32>) -> Self {
        Self::Plain(view)
    }
}

impl<'a> ExactOperand<'a> {
    fn dim(&self) -> (usize, usize) {
        match self {
            Self::Scaled(view) => (view.rows(), view.columns()),
            Self::Plain(view) => view.dim(),
        }
    }

    /// The values of a row over `k`, exact: an FP8 value times an f32 has 28 significant bits.
    fn values(&self, row: usize, k: Range<usize>) -> impl Iterator<Item = f64> {
        k.map(move |k| match self {
            Self::Scaled(view) => {
                let value = Fp8Format::from(view.ty()).decode(view.codes()[(row, k)]);
                f64::from(value) * f64::from(view.scale_at(row, k))
            }
            Self::Plain(view) => f64::from(view[(row, k)]),
        })
    }

    /// What the integers of a row are multiplied with at element `k`.
    fn scale(&self, row: usize, k: usize) -> f64 {
        match self {
            Self::Scaled(view) => view.scale_at(row, k).into(),
            Self::Plain(_) => 1.0,
        }
    }

    /// The end of the range of K over which the scales at `k` hold.
    fn scale_end(&self, k: usize) -> usize {
        let block = match self {
            Self::Scaled(view) => view.layout().k_block(),
            Self::Plain(_) => None,
        };
        block.map_or(usize::MAX, |block| (k / block + 1).saturating_mul(block))
    }

    /// Whether a row holds a value or a scale that is not finite.
    fn is_special(&self, row: usize) -> bool {
        match self {
            Self::Scaled(view) => {
                let format = Fp8Format::from(view.ty());
                let (block_rows, _) = view.layout().block(view.rows(), view.columns());
                view.columns() > 0
                    && (view.codes().row(row).iter().any(|code| !format.is_finite(*code))
                        || view.scales().row(row / block_rows).iter().any(|scale| !scale.is_finite()))
            }
            Self::Plain(view) => view.row(row).iter().any(|x| !x.is_finite()),
        }
    }

    fn loader(&self) -> Loader<'a> {
        match self {
            Self::Scaled(view) => Loader::codes(view),
            Self::Plain(view) => Loader::Numbers(*view),
        }
    }
}

/// `alpha * A B^T + beta * C` without any rounding but the last, to f64.
///
/// See [`exact`](super::exact) for what is exact and for infinities and NaN. Operands are multiplied
/// as integers, segment by segment of constant scales; only where 256 neighbours along K of an f32
/// operand span more than 54 bits, products are added one by one (some ten times slower).
///
/// ```
/// use fp8gemm_problem::Epilogue;
/// use fp8gemm_sim::Matrix;
/// use fp8gemm_sim::reference::ExactGemm;
/// use ndarray::array;
///
/// let a = array![[1e30f32, 1.0, -1e30]];
/// let ones = array![[1.0f32, 1.0, 1.0]];
/// let c = Matrix::F32(array![[4.0]]);
/// let epilogue = Epilogue { alpha: 0.5, beta: 2.0 };
/// let d = ExactGemm::new(a.view(), ones.view()).c(c.view()).epilogue(epilogue).run()?;
/// assert_eq!(d, array![[8.5]]);
/// # Ok::<(), fp8gemm_sim::SimError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ExactGemm<'a> {
    a: ExactOperand<'a>,
    b: ExactOperand<'a>,
    c: Option<MatrixView<'a>>,
    epilogue: Epilogue,
    rows: Option<&'a [usize]>,
}

impl<'a> ExactGemm<'a> {
    /// `A B^T`, all rows.
    pub fn new(a: impl Into<ExactOperand<'a>>, b: impl Into<ExactOperand<'a>>) -> Self {
        Self { a: a.into(), b: b.into(), c: None, epilogue: Epilogue::IDENTITY, rows: None }
    }

    /// The matrix C, `[M, N]`. It is read only where the epilogue's beta is not 0.
    #[must_use]
    pub fn c(mut self, c: MatrixView<'a>) -> Self {
        self.c = Some(c);
        self
    }

    /// Alpha and beta; 1 and 0 unless set.
    #[must_use]
    pub fn epilogue(mut self, epilogue: Epilogue) -> Self {
        self.epilogue = epilogue;
        self
    }

    /// Computes only these rows of the output, in this order; repeats are allowed.
    #[must_use]
    pub fn rows(mut self, rows: &'a [usize]) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Computes the result, `[M, N]` or `[rows.len(), N]`.
    ///
    /// # Errors
    /// [`SimError::KMismatch`]; [`SimError::Shape`] for C; [`SimError::Problem`] for beta without
    /// C; [`SimError::Format`] for a row that A has not.
    pub fn run(&self) -> Result<Array2<f64>, SimError> {
        self.run_with(&|_| {})
    }

    /// Like [`run`](Self::run), calling `done` with the number of multiply-adds just finished,
    /// from any thread. The numbers add up to the rows computed times `N * K`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(&self, done: &(dyn Fn(u64) + Sync)) -> Result<Array2<f64>, SimError> {
        let ((m, k_a), (n, _)) = (self.a.dim(), self.b.dim());
        SimError::check_shapes(self.a.dim(), self.b.dim(), self.c.as_ref().map(MatrixView::dim))?;
        if self.epilogue.reads_c() && self.c.is_none() {
            return Err(ProblemError::MissingC { beta: self.epilogue.beta }.into());
        }
        if let Some(&index) = self.rows.unwrap_or_default().iter().find(|&&row| row >= m) {
            return Err(FormatError::RowOutOfRange { index, rows: m }.into());
        }
        let all: Vec<usize>;
        let rows = match self.rows {
            Some(rows) => rows,
            None => {
                all = (0..m).collect();
                &all
            }
        };
        Ok(self.compute(rows, n, k_a, done))
    }

    fn compute(&self, rows: &[usize], n: usize, k: usize, done: &(dyn Fn(u64) + Sync)) -> Array2<f64> {
        let product = Product::new(self.a, self.b, rows);
        let mut d = Array2::zeros((rows.len(), n));
        d.axis_chunks_iter_mut(Axis(0), TILE.0).into_par_iter().zip(rows.par_chunks(TILE.0)).for_each(
            |(mut band, rows)| {
                band.axis_chunks_iter_mut(Axis(1), TILE.1).into_par_iter().enumerate().for_each_init(
                    Scratch::default,
                    |scratch, (i, tile)| {
                        let columns = i * TILE.1..i * TILE.1 + tile.ncols();
                        product.sum(rows, columns.clone(), k, scratch);
                        done((tile.len() * k) as u64);
                        self.finish(rows, columns, &scratch.sums, tile);
                    },
                );
            },
        );
        d
    }

    /// Rounds a tile.
    fn finish(&self, rows: &[usize], columns: Range<usize>, sums: &[Accumulator], mut tile: ArrayViewMut2<'_, f64>) {
        for ((mut out, sums), row) in tile.rows_mut().into_iter().zip(sums.chunks_exact(columns.len())).zip(rows) {
            for ((out, sum), column) in out.iter_mut().zip(sums).zip(columns.clone()) {
                let c = self.c.as_ref().map(|c| c.get(*row, column));
                *out = exact_epilogue(sum, &self.epilogue, c);
            }
        }
    }
}

/// `alpha * sum + beta * c` of one output, and the only rounding. C is not read if beta is 0.
pub(crate) fn exact_epilogue(sum: &Accumulator, epilogue: &Epilogue, c: Option<f32>) -> f64 {
    let c = c.filter(|_| epilogue.reads_c());
    if epilogue.alpha == 1.0 && c.is_none() {
        return sum.to_f64();
    }
    let mut sum = sum.times(epilogue.alpha);
    if let Some(c) = c {
        sum.add_product(epilogue.beta, c.into());
    }
    sum.to_f64()
}

/// A thread's buffers.
#[derive(Default)]
struct Scratch {
    sums: Vec<Accumulator>,
    dots: Vec<i128>,
    segments: (Segment, Segment),
    scales: Vec<f64>,
}

/// Two operands, prepared for integer dot products.
struct Product<'a> {
    a: ExactOperand<'a>,
    b: ExactOperand<'a>,
    loaders: (Loader<'a>, Loader<'a>),
    /// Which rows of either hold a value or a scale that is not finite.
    special_rows: Vec<bool>,
    special_columns: Vec<bool>,
}

impl<'a> Product<'a> {
    fn new(a: ExactOperand<'a>, b: ExactOperand<'a>, rows: &[usize]) -> Self {
        let mut special_rows = vec![false; a.dim().0];
        for &row in rows {
            special_rows[row] = a.is_special(row);
        }
        let special_columns = (0..b.dim().0).map(|row| b.is_special(row)).collect();
        Self { a, b, loaders: (a.loader(), b.loader()), special_rows, special_columns }
    }

    /// `scratch.sums = ` the exact sums of a tile of outputs.
    fn sum(&self, rows: &[usize], columns: Range<usize>, k: usize, scratch: &mut Scratch) {
        scratch.sums.clear();
        scratch.sums.resize(rows.len() * columns.len(), Accumulator::ZERO);
        scratch.dots.resize(rows.len() * columns.len(), 0);
        let mut start = 0;
        while start < k {
            let end = k.min(start + LONGEST).min(self.a.scale_end(start)).min(self.b.scale_end(start));
            self.add_segment(rows, columns.clone(), start..end, scratch);
            start = end;
        }
        for (row, sums) in rows.iter().zip(scratch.sums.chunks_exact_mut(columns.len())) {
            for (column, sum) in columns.clone().zip(sums) {
                if self.special_rows[*row] || self.special_columns[column] {
                    *sum = Accumulator::ZERO;
                    sum.add_f64(self.special(*row, column, k));
                }
            }
        }
    }

    fn add_segment(&self, rows: &[usize], columns: Range<usize>, k: Range<usize>, scratch: &mut Scratch) {
        let Scratch { sums, dots: integers, segments: (a, b), scales } = scratch;
        a.load(&self.loaders.0, rows.iter().copied(), k.clone());
        b.load(&self.loaders.1, columns.clone(), k.clone());
        dots(a, b, integers);
        scales.clear();
        scales.extend(columns.clone().map(|column| self.b.scale(column, k.start)));
        let width = columns.len();
        let tile = integers.chunks_exact(width).zip(sums.chunks_exact_mut(width));
        for (i, (row, (integers, sums))) in rows.iter().zip(tile).enumerate() {
            let scale_a = self.a.scale(*row, k.start);
            for (j, ((integer, scale_b), sum)) in integers.iter().zip(&*scales).zip(sums).enumerate() {
                match (a.unit(i), b.unit(j)) {
                    (Some(unit_a), Some(unit_b)) => sum.add_scaled(*integer, unit_a + unit_b, scale_a * scale_b),
                    _ => self.add_one_by_one(*row, columns.start + j, k.clone(), sum),
                }
            }
        }
    }

    /// Adds every product separately: exact in f64, since at least one factor is an f32.
    #[cold]
    fn add_one_by_one(&self, row: usize, column: usize, k: Range<usize>, sum: &mut Accumulator) {
        self.a.values(row, k.clone()).zip(self.b.values(column, k)).for_each(|(a, b)| sum.add_f64(a * b));
    }

    /// The sum of an output that has terms which are not finite: infinity or NaN. No product of
    /// finite factors overflows or vanishes in f64, so plain arithmetic gets the kind right.
    #[cold]
    fn special(&self, row: usize, column: usize, k: usize) -> f64 {
        self.a.values(row, 0..k).zip(self.b.values(column, 0..k)).map(|(a, b)| a * b).sum()
    }
}
