//! The one error type of this crate.

use fp8gemm_problem::ScaleLayout;

use crate::quantize::Recipe;

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
    /// Text that names no recipe.
    #[error("recipe {text:?} is not known: expected one of {}", Recipe::ALL.map(Recipe::name).join(", "))]
    UnknownRecipe {
        /// The text as given.
        text: String,
    },
    /// Text that is no recipe with a layout and a type.
    #[error(
        "{text:?} is not <recipe>:<scale layout>:<type>, e.g. deepgemm:128x128:e4m3 (layout and type may be left out)"
    )]
    BadQuantizer {
        /// The text as given.
        text: String,
    },
    /// Text that names no algorithm of delayed scaling.
    #[error("amax algorithm {text:?} is not known: expected max or most_recent")]
    UnknownAmaxAlgorithm {
        /// The text as given.
        text: String,
    },
    /// A layout that the recipe's source does not have.
    #[error(
        "recipe {recipe} has no {layout} scales: it is defined for {}",
        recipe.layouts().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    RecipeLayout {
        /// The recipe.
        recipe: Recipe,
        /// The layout asked for.
        layout: ScaleLayout,
    },
    /// An infinite element where the recipe's source excludes them.
    #[error("element ({row}, {column}) is {value}: recipe {recipe} is defined for finite input only")]
    Infinite {
        /// The recipe.
        recipe: Recipe,
        /// Row of the element.
        row: usize,
        /// Column of the element.
        column: usize,
        /// Its value.
        value: f32,
    },
    /// A history of delayed scaling without a slot.
    #[error("the amax history of delayed scaling has 0 steps: it needs at least 1")]
    EmptyHistory,
    /// A result that does not fit the address space or the memory.
    #[error("a [{rows}, {columns}] matrix of codes and its scales cannot be allocated")]
    TooLarge {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
}
