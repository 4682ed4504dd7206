//! The one error type of this crate.

use fp8gemm_formats::FormatError;
use fp8gemm_problem::{OutputType, ProblemError, Side};

/// Why a simulation was refused. Nothing is computed before all of these are checked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// The problem itself is not legal: policy against scales, beta without C, sizes.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// An operand is not well formed.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A and B disagree about K.
    #[error("A is [{m}, {k_a}] but B is [{n}, {k_b}]: both operands are K-major and must have the same K")]
    KMismatch {
        /// Rows of A.
        m: usize,
        /// Columns of A.
        k_a: usize,
        /// Rows of B.
        n: usize,
        /// Columns of B.
        k_b: usize,
    },
    /// A matrix has not the shape that the problem gives it.
    #[error("{what} is [{rows}, {columns}] but must be [{expected_rows}, {expected_columns}]")]
    Shape {
        /// Which matrix.
        what: &'static str,
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
        /// Rows it must have.
        expected_rows: usize,
        /// Columns it must have.
        expected_columns: usize,
    },
    /// Two matrices that must have the same element type have not.
    #[error("{what} is {ty} but must be {expected}")]
    Type {
        /// Which matrix.
        what: &'static str,
        /// Its type.
        ty: OutputType,
        /// The type it must have.
        expected: OutputType,
    },
    /// A tensor-core description whose numbers the engine cannot represent.
    #[error("tensor core: {field} is {value}, but {rule}")]
    Core {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Vectors of one tensor-core step whose lengths differ.
    #[error("a has {a} elements along K but b has {b}")]
    LengthMismatch {
        /// Elements of a.
        a: usize,
        /// Elements of b.
        b: usize,
    },
    /// An input value for which the quantity asked for is not defined.
    #[error("{side} holds {value} at row {row} column {column}: {rule}")]
    NonFinite {
        /// The operand.
        side: Side,
        /// Row of the value.
        row: usize,
        /// Column of the value.
        column: usize,
        /// The value.
        value: f32,
        /// Why it is refused.
        rule: &'static str,
    },
}

impl SimError {
    /// The shapes that every product here must have: A `[M, K]`, B `[N, K]`, C `[M, N]` if any.
    pub(crate) fn check_shapes(
        (m, k_a): (usize, usize),
        (n, k_b): (usize, usize),
        c: Option<(usize, usize)>,
    ) -> Result<(), Self> {
        if k_a != k_b {
            return Err(Self::KMismatch { m, k_a, n, k_b });
        }
        match c {
            Some((rows, columns)) if (rows, columns) != (m, n) => {
                Err(Self::Shape { what: "C", rows, columns, expected_rows: m, expected_columns: n })
            }
            _ => Ok(()),
        }
    }
}
