//! The kinds of difference that can be told apart, each as one sentence.

use core::fmt;
use core::ops::Range;

use fp8gemm_problem::OutputType;

/// Which outputs share a factor that they should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleGroup {
    /// All of them: alpha, or a tensor-wise scale.
    Matrix,
    /// A block of 128 columns: the scale of a block of 128 rows of B.
    ColumnBlock,
    /// A block of 128 rows: the scale of a block of 128 rows of A.
    RowBlock,
    /// A row: a scale of A.
    Row,
    /// A column: a scale of B.
    Column,
}

impl ScaleGroup {
    /// From few large groups to many small ones.
    pub(super) const ALL: [Self; 5] = [Self::Matrix, Self::ColumnBlock, Self::RowBlock, Self::Row, Self::Column];
}

impl fmt::Display for ScaleGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Matrix => "matrix",
            Self::ColumnBlock => "block of 128 columns",
            Self::RowBlock => "block of 128 rows",
            Self::Row => "row",
            Self::Column => "column",
        })
    }
}

/// To which side a set of small errors leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bias {
    /// Nearly all magnitudes are too small.
    TowardZero,
    /// Nearly all magnitudes are too large.
    AwayFromZero,
    /// Nearly all values are too low, of both signs.
    Down,
    /// Nearly all values are too high, of both signs.
    Up,
    /// Errors of both directions occur, or too few errors to tell.
    None,
}

impl fmt::Display for Bias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TowardZero => "nearly always toward zero",
            Self::AwayFromZero => "nearly always away from zero",
            Self::Down => "nearly always downward",
            Self::Up => "nearly always upward",
            Self::None => "to either side",
        })
    }
}

/// From this share of differing elements on, the last cast is to blame: another direction of
/// rounding changes half of them.
const CAST: f64 = 0.25;

/// What a difference looks like. Inferred from the two results, so a hint, not a proof.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// All differing pairs are -0 against +0.
    ZeroSigns,
    /// All differing pairs are NaN on both sides.
    NanPayloads,
    /// A single element differs in a single bit.
    OneBit {
        /// Row of the element.
        row: usize,
        /// Column of the element.
        column: usize,
        /// The bit, counted from the least significant.
        bit: u32,
        /// Element type, which says what the bit means.
        ty: OutputType,
    },
    /// `actual - expected` is a multiple of C; only seen by [`compare_with_c`](super::compare_with_c).
    Addend {
        /// The factor of C in `expected`.
        beta: f32,
        /// The factor that `actual` seems to have used: 0 if C is missing.
        seen: f64,
    },
    /// All differing elements are zero where a value should be.
    Zeros {
        /// Bounding rows.
        rows: Range<usize>,
        /// Bounding columns.
        columns: Range<usize>,
        /// Whether every non-zero value in those bounds is lost.
        all: bool,
    },
    /// Outputs are multiplied by a constant that differs from group to group at most.
    Scale {
        /// Which outputs share a factor.
        per: ScaleGroup,
        /// Number of groups whose factor is not 1.
        groups: usize,
        /// Index of the first of them.
        first: usize,
        /// `actual / expected` in that group.
        ratio: f64,
    },
    /// Every differing element is off by one unit in the last place.
    OneUlp {
        /// Whether they lean to a side.
        bias: Bias,
        /// Differing elements over all: about a half if the cast rounds in another direction,
        /// less if the values before the cast are a little off.
        share: f64,
    },
    /// Whole tiles of the output are wrong, all others right.
    Tiles {
        /// Rows and columns of a tile: 128 or 64.
        size: usize,
        /// Number of wrong tiles.
        wrong: usize,
        /// Number of tiles.
        of: usize,
        /// Rows of the first wrong tile.
        rows: Range<usize>,
        /// Columns of the first wrong tile.
        columns: Range<usize>,
    },
    /// Whole rows are wrong, all others right.
    Rows {
        /// Number of wrong rows.
        wrong: usize,
        /// The first of them.
        first: usize,
    },
    /// Whole columns are wrong, all others right.
    Columns {
        /// Number of wrong columns.
        wrong: usize,
        /// The first of them.
        first: usize,
    },
    /// Errors are small against the size of the results.
    Precision {
        /// Root mean square of the errors over that of the expected values.
        relative: f64,
        /// Whether they lean to a side, as truncation makes them.
        bias: Bias,
    },
    /// None of the above.
    Unstructured,
}

/// Rows and columns in words, both ends included.
struct Rectangle<'a>(&'a Range<usize>, &'a Range<usize>);

impl fmt::Display for Rectangle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |f: &mut fmt::Formatter<'_>, name, range: &Range<usize>| match range.len() {
            0 | 1 => write!(f, "{name} {}", range.start),
            _ => write!(f, "{name}s {} to {}", range.start, range.end - 1),
        };
        side(f, "row", self.0)?;
        f.write_str(", ")?;
        side(f, "column", self.1)
    }
}

impl fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroSigns => f.write_str("only the signs of zeros differ"),
            Self::NanPayloads => f.write_str("only the bits of NaN differ"),
            Self::OneBit { row, column, bit, ty } => {
                write!(f, "one flipped bit: {} of row {row} column {column}", Field { bit: *bit, ty: *ty })
            }
            Self::Addend { beta, seen } => match *seen {
                0.0 => write!(f, "C is missing (as if beta were 0 instead of {beta})"),
                seen => write!(f, "C is weighted with {seen:.6} instead of beta = {beta}"),
            },
            Self::Zeros { rows, columns, all } => {
                let what = match (rows.len() * columns.len(), all) {
                    (1, _) => "",
                    (_, true) => "all of ",
                    (_, false) => "some values in ",
                };
                write!(f, "zeros where values should be: {what}{}", Rectangle(rows, columns))
            }
            Self::Scale { per: ScaleGroup::Matrix, ratio, .. } => {
                write!(f, "every element is {ratio:.6} times what it should be: alpha or a tensor-wise scale is wrong")
            }
            Self::Scale { per, groups, first, ratio } => {
                let whose = match per {
                    ScaleGroup::Row | ScaleGroup::RowBlock => "A",
                    _ => "B",
                };
                write!(
                    f,
                    "a constant factor in each {per} (number {first}: {ratio:.6}; {groups} in all): \
                     scales of {whose} are wrong"
                )
            }
            Self::OneUlp { bias, share } if *share >= CAST && *bias != Bias::None => f.write_str(match bias {
                Bias::TowardZero => "off by one ULP toward zero: a cast that truncates instead of rounding",
                Bias::AwayFromZero => "off by one ULP away from zero: a cast that rounds magnitudes up",
                Bias::Down => "off by one ULP downward: a cast that rounds toward minus infinity",
                _ => "off by one ULP upward: a cast that rounds toward plus infinity",
            }),
            Self::OneUlp { bias, .. } => write!(f, "off by one ULP, {bias}: other roundings before the last cast"),
            Self::Tiles { size, wrong, of, rows, columns } => write!(
                f,
                "{wrong} of {of} tiles of {size} x {size} are wrong throughout, the first is {}",
                Rectangle(rows, columns)
            ),
            Self::Rows { wrong, first } => write!(f, "{wrong} whole rows are wrong, the first is row {first}"),
            Self::Columns { wrong, first } => {
                write!(f, "{wrong} whole columns are wrong, the first is column {first}")
            }
            Self::Precision { relative, bias } => {
                write!(f, "small errors ({relative:.1e} of the results), {bias}: ")?;
                f.write_str(match bias {
                    Bias::TowardZero | Bias::Down => "the accumulation truncates more (fewer promotions, fewer bits)",
                    Bias::AwayFromZero | Bias::Up => "the accumulation truncates less (more promotions, more bits)",
                    Bias::None => "another order of accumulation or other roundings",
                })
            }
            Self::Unstructured => f.write_str("no structure was recognised"),
        }
    }
}

/// Names a bit of an element.
struct Field {
    bit: u32,
    ty: OutputType,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fraction, exponent) = match self.ty {
            OutputType::Bf16 => (7, 8),
            OutputType::F16 => (10, 5),
            OutputType::F32 => (23, 8),
        };
        match self.bit {
            bit if bit < fraction => write!(f, "bit {bit} of the fraction"),
            bit if bit < fraction + exponent => write!(f, "bit {} of the exponent", bit - fraction),
            _ => f.write_str("the sign"),
        }
    }
}
