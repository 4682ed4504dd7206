//! Two results side by side: whether every bit is equal, and if not, what the difference looks like.
//!
//! ```
//! use fp8gemm_sim::{Matrix, compare};
//! use ndarray::Array2;
//!
//! let expected = Matrix::F32(Array2::from_elem((4, 4), 1.5));
//! let mut actual = Array2::from_elem((4, 4), 1.5f32);
//! actual[(2, 1)] = -1.5;
//! let comparison = compare(&expected.view(), &Matrix::F32(actual).view())?;
//! assert!(!comparison.bits_equal());
//! assert_eq!(
//!     comparison.to_string(),
//!     "1 of 16 elements differ, first at row 2 column 1: expected 3FC00000, actual BFC00000; \
//!      one flipped bit: the sign of row 2 column 1"
//! );
//! # Ok::<(), fp8gemm_sim::SimError>(())
//! ```

mod detect;
mod evidence;
mod kind;

pub use kind::{Bias, DifferenceKind, ScaleGroup};

use core::fmt;

use fp8gemm_problem::OutputType;

use crate::{MatrixView, SimError};
use evidence::Evidence;

/// One element whose bits differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Row of the element.
    pub row: usize,
    /// Column of the element.
    pub column: usize,
    /// Its bits in the expected matrix (bf16 and f16 in the low 16).
    pub expected: u32,
    /// Its bits in the actual matrix.
    pub actual: u32,
}

/// What [`compare`] found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// Element type of both matrices.
    pub ty: OutputType,
    /// Elements compared.
    pub elements: usize,
    /// Elements whose bits differ: NaN payloads and the sign of zero count.
    pub differing: usize,
    /// The first of them in row-major order.
    pub first: Option<Difference>,
    /// The largest distance in units of the last place between two differing numbers, as
    /// [`Ulp`](crate::metrics::Ulp) counts: 0 between -0 and +0 and between two NaN. `None` where
    /// nothing differs, or only numbers from NaN.
    pub max_ulp: Option<u64>,
    /// Elements of which exactly one side is NaN.
    pub nan_mismatches: usize,
    kind: Option<DifferenceKind>,
}

impl Comparison {
    /// Whether every bit is equal.
    pub fn bits_equal(&self) -> bool {
        self.differing == 0
    }

    /// What the difference looks like; `None` where there is none.
    pub fn kind(&self) -> Option<&DifferenceKind> {
        self.kind.as_ref()
    }
}

/// Compares two matrices of the same type and shape bit by bit.
///
/// Takes a few nanoseconds for each element if all are equal, some passes more if not: the kind of
/// the difference is inferred from the data alone.
///
/// # Errors
/// [`SimError::Type`] or [`SimError::Shape`] where type or shape differ.
pub fn compare(expected: &MatrixView<'_>, actual: &MatrixView<'_>) -> Result<Comparison, SimError> {
    run(expected, actual, None)
}

/// [`compare`] of two results of `alpha * A B^T + beta * C`: knowing C, a missing or wrongly
/// weighted C can be told from other differences.
///
/// # Errors
/// As [`compare`], and [`SimError::Shape`] for a C of another shape.
pub fn compare_with_c(
    expected: &MatrixView<'_>,
    actual: &MatrixView<'_>,
    c: &MatrixView<'_>,
    beta: f32,
) -> Result<Comparison, SimError> {
    check_shape("C", expected, c)?;
    run(expected, actual, Some((c, beta)))
}

fn check_shape(what: &'static str, expected: &MatrixView<'_>, other: &MatrixView<'_>) -> Result<(), SimError> {
    let ((expected_rows, expected_columns), (rows, columns)) = (expected.dim(), other.dim());
    if (rows, columns) == (expected_rows, expected_columns) {
        return Ok(());
    }
    Err(SimError::Shape { what, rows, columns, expected_rows, expected_columns })
}

fn run(
    expected: &MatrixView<'_>,
    actual: &MatrixView<'_>,
    addend: Option<(&MatrixView<'_>, f32)>,
) -> Result<Comparison, SimError> {
    if expected.ty() != actual.ty() {
        return Err(SimError::Type { what: "the actual matrix", ty: actual.ty(), expected: expected.ty() });
    }
    check_shape("the actual matrix", expected, actual)?;
    let (rows, columns) = expected.dim();
    let mut comparison = Comparison {
        ty: expected.ty(),
        elements: rows * columns,
        differing: 0,
        first: None,
        max_ulp: None,
        nan_mismatches: 0,
        kind: None,
    };
    if !expected.bits_equal(actual) {
        let evidence = Evidence::new(expected, actual, addend);
        comparison.differing = evidence.differing;
        comparison.first = evidence.first;
        comparison.max_ulp = evidence.max_ulp;
        comparison.nan_mismatches = evidence.nan_mismatches;
        comparison.kind = Some(detect::kind(&evidence));
    }
    Ok(comparison)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Difference { row, column, expected, actual }) = self.first else {
            return write!(f, "all {} elements are equal, bit for bit", self.elements);
        };
        let digits = 2 * self.ty.size();
        write!(
            f,
            "{} of {} elements differ, first at row {row} column {column}: \
             expected {expected:0digits$X}, actual {actual:0digits$X}",
            self.differing, self.elements
        )?;
        if let (Some(ulp), true) = (self.max_ulp, self.differing > 1) {
            write!(f, "; max {ulp} ULP")?;
        }
        if let Some(kind) = &self.kind {
            write!(f, "; {kind}")?;
        }
        Ok(())
    }
}
