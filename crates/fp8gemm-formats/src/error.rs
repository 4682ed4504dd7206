//! The one error type of this crate.

use fp8gemm_problem::ScaleLayout;

/// Why a matrix cannot be scaled, quantised or converted. Each names the argument, its value and
/// the rule; places are `(row, column)`, counted from zero.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Two slices that must be equally long are not.
    #[error(
        "the source has {source_len} elements but the destination has {destination_len}: they must be equally long"
    )]
    LengthMismatch {
        /// Elements of the source.
        source_len: usize,
        /// Elements of the destination.
        destination_len: usize,
    },
    /// Text that names no FP8 format.
    #[error("FP8 format {text:?} is not known: expected e4m3, e5m2, e4m3fnuz or e5m2fnuz")]
    UnknownFormat {
        /// The text as given.
        text: String,
    },
    /// Scales whose shape does not cover the codes.
    #[error(
        "scales are [{}, {}], but layout {layout} of a [{rows}, {columns}] matrix needs [{}, {}]",
        got.0, got.1, expected.0, expected.1
    )]
    ScaleShape {
        /// The layout asked for.
        layout: ScaleLayout,
        /// Rows of the codes.
        rows: usize,
        /// Columns of the codes.
        columns: usize,
        /// Shape that the layout needs.
        expected: (usize, usize),
        /// Shape that was given.
        got: (usize, usize),
    },
    /// A layout whose transpose has no name here.
    #[error("scale layout {layout} has no transposed layout: only tensor, 1x128, 128x1 and 128x128 have one")]
    NotTransposable {
        /// The layout.
        layout: ScaleLayout,
    },
    /// Rows cannot be taken apart where each column has its own scale.
    #[error("rows of a matrix with scale layout {layout} cannot be gathered: each column of a row has its own scale")]
    NotGatherable {
        /// The layout.
        layout: ScaleLayout,
    },
    /// A row that is not there.
    #[error("row {index} does not exist: the matrix has {rows} rows")]
    RowOutOfRange {
        /// The row asked for.
        index: usize,
        /// Rows of the matrix.
        rows: usize,
    },
    /// A scale that E8M0 cannot hold.
    #[error("scale {value:e} at ({row}, {column}) is not a power of two in 2^-127 ..= 2^127, so E8M0 cannot hold it")]
    NotE8m0 {
        /// Row in the scale matrix.
        row: usize,
        /// Column in the scale matrix.
        column: usize,
        /// The scale.
        value: f32,
    },
}
