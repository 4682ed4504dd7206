//! What the detectors look at: both matrices, and the counts of a first pass over them.

use fp8gemm_problem::OutputType;
use half::{bf16, f16};

use super::Difference;
use crate::MatrixView;
use crate::metrics::Ulp;

/// Both matrices and where they differ.
pub(super) struct Evidence<'a> {
    expected: MatrixView<'a>,
    actual: MatrixView<'a>,
    /// C and beta, where the caller knows them.
    pub(super) addend: Option<(MatrixView<'a>, f32)>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) differing: usize,
    pub(super) first: Option<Difference>,
    pub(super) max_ulp: Option<u64>,
    pub(super) nan_mismatches: usize,
    /// Differing elements in each row and column.
    pub(super) in_row: Vec<usize>,
    pub(super) in_column: Vec<usize>,
}

/// One pair of elements, widened to f64.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) expected: f64,
    pub(super) actual: f64,
    pub(super) differs: bool,
}

impl Pair {
    pub(super) fn is_finite(&self) -> bool {
        self.expected.is_finite() && self.actual.is_finite()
    }

    pub(super) fn error(&self) -> f64 {
        self.actual - self.expected
    }
}

impl<'a> Evidence<'a> {
    pub(super) fn new(
        expected: &'a MatrixView<'_>,
        actual: &'a MatrixView<'_>,
        addend: Option<(&'a MatrixView<'_>, f32)>,
    ) -> Self {
        let (rows, columns) = expected.dim();
        let (expected, actual) = (shorter(expected), shorter(actual));
        let addend = addend.map(|(c, beta)| (shorter(c), beta));
        let mut evidence = Self {
            expected,
            actual,
            addend,
            rows,
            columns,
            differing: 0,
            first: None,
            max_ulp: None,
            nan_mismatches: 0,
            in_row: vec![0; rows],
            in_column: vec![0; columns],
        };
        for row in 0..rows {
            for column in 0..columns {
                let (expected, actual) = (evidence.expected.bits(row, column), evidence.actual.bits(row, column));
                let difference = Difference { row, column, expected, actual };
                if difference.expected != difference.actual {
                    evidence.note(difference);
                }
            }
        }
        evidence
    }

    fn note(&mut self, difference: Difference) {
        let Difference { row, column, expected, actual } = difference;
        self.differing += 1;
        self.in_row[row] += 1;
        self.in_column[column] += 1;
        self.first.get_or_insert(difference);
        match ulps(self.ty(), expected, actual) {
            Some(ulp) => self.max_ulp = self.max_ulp.max(Some(ulp)),
            None => self.nan_mismatches += 1,
        }
    }

    pub(super) fn ty(&self) -> OutputType {
        self.expected.ty()
    }

    /// Every pair, in row-major order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = Pair> {
        (0..self.rows).flat_map(move |row| {
            (0..self.columns).map(move |column| Pair {
                row,
                column,
                expected: self.expected.get(row, column).into(),
                actual: self.actual.get(row, column).into(),
                differs: self.expected.bits(row, column) != self.actual.bits(row, column),
            })
        })
    }

    /// The pairs whose bits differ.
    pub(super) fn differing(&self) -> impl Iterator<Item = Pair> {
        self.pairs().filter(|pair| pair.differs)
    }

    /// Significand bits of the element type, the implicit one included.
    pub(super) fn precision(&self) -> i32 {
        match self.ty() {
            OutputType::Bf16 => 8,
            OutputType::F16 => 11,
            OutputType::F32 => 24,
        }
    }

    /// The unit in the last place of a number of this magnitude.
    pub(super) fn ulp(&self, x: f64) -> f64 {
        let smallest = if self.ty() == OutputType::F16 { -14 } else { -126 };
        let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(smallest);
        2f64.powi(exponent + 1 - self.precision())
    }
}

fn ulps(ty: OutputType, x: u32, y: u32) -> Option<u64> {
    match ty {
        OutputType::F32 => f32::from_bits(x).ulp_distance(f32::from_bits(y)),
        OutputType::Bf16 => bf16::from_bits(x as u16).ulp_distance(bf16::from_bits(y as u16)),
        OutputType::F16 => f16::from_bits(x as u16).ulp_distance(f16::from_bits(y as u16)),
    }
}

/// The same view with a lifetime that several can share: `ndarray` views do not shorten theirs by
/// themselves.
fn shorter<'a>(view: &'a MatrixView<'_>) -> MatrixView<'a> {
    match view {
        MatrixView::Bf16(x) => MatrixView::Bf16(x.view()),
        MatrixView::F16(x) => MatrixView::F16(x.view()),
        MatrixView::F32(x) => MatrixView::F32(x.view()),
    }
}
