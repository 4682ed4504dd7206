//! Which elements of an operand share one scale.

use core::fmt;
use core::str::FromStr;

use crate::ProblemError;

/// How scales cover a `[rows, K]` operand. The names are `rows x columns` of the block that shares
/// a scale; edge blocks may be partial (N = 576 with 128x128 has a last block of 64 rows).
///
/// | layout | scale shape | used by |
/// |---|---|---|
/// | `Tensor` | `[1, 1]` | cuBLASLt, TransformerEngine delayed and current scaling |
/// | `Row` | `[rows, 1]` | `torch._scaled_mm` row-wise |
/// | `Block1x128` | `[rows, ceil(K/128)]` | DeepSeek-V3 activations, DeepGEMM SFA |
/// | `Block128x128` | `[ceil(rows/128), ceil(K/128)]` | DeepSeek-V3 weights, DeepGEMM SFB |
/// | `Block128x1` | `[ceil(rows/128), K]` | DeepGEMM `per_channel_cast_to_fp8`; transposed it is 1x128 |
/// | `Block1x32` | `[rows, ceil(K/32)]` | OCP MX |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScaleLayout {
    /// One scale for all elements.
    Tensor,
    /// One scale for each row (token or output channel).
    Row,
    /// One scale for each 128 consecutive elements of a row.
    Block1x128,
    /// One scale for each square of 128 rows and 128 columns.
    Block128x128,
    /// One scale for each 128 consecutive elements of a column.
    Block128x1,
    /// One scale for each 32 consecutive elements of a row.
    Block1x32,
}

impl ScaleLayout {
    /// Every layout.
    pub const ALL: [Self; 6] =
        [Self::Tensor, Self::Row, Self::Block1x128, Self::Block128x128, Self::Block128x1, Self::Block1x32];

    /// Rows and columns of one block in an operand of the given shape; at least 1 each, so that
    /// an empty operand has blocks too (and no scale).
    pub fn block(self, rows: usize, columns: usize) -> (usize, usize) {
        match self {
            Self::Tensor => (rows.max(1), columns.max(1)),
            Self::Row => (1, columns.max(1)),
            Self::Block1x128 => (1, 128),
            Self::Block128x128 => (128, 128),
            Self::Block128x1 => (128, 1),
            Self::Block1x32 => (1, 32),
        }
    }

    /// Shape of the scale matrix of an operand of the given shape. Tensor and row scales exist
    /// even where the operand is empty along K: `D` of a GEMM with K = 0 still has rows.
    pub fn scale_shape(self, rows: usize, columns: usize) -> (usize, usize) {
        match self {
            Self::Tensor => (1, 1),
            Self::Row => (rows, 1),
            _ => {
                let (block_rows, block_columns) = self.block(rows, columns);
                (rows.div_ceil(block_rows), columns.div_ceil(block_columns))
            }
        }
    }

    /// How many elements along K share a scale, where scales change along K at all.
    pub const fn k_block(self) -> Option<usize> {
        match self {
            Self::Tensor | Self::Row => None,
            Self::Block1x128 | Self::Block128x128 => Some(128),
            Self::Block1x32 => Some(32),
            Self::Block128x1 => Some(1),
        }
    }

    /// The layout that the transposed matrix has, where it is one of ours.
    pub const fn transposed(self) -> Option<Self> {
        match self {
            Self::Tensor => Some(Self::Tensor),
            Self::Block128x128 => Some(Self::Block128x128),
            Self::Block1x128 => Some(Self::Block128x1),
            Self::Block128x1 => Some(Self::Block1x128),
            Self::Row | Self::Block1x32 => None,
        }
    }

    /// The layouts that scales of `shape` can mean for a `[rows, K]` operand, in the order tensor,
    /// row, 1x128, 128x128. More than one where the shapes coincide: `[rows, 1]` with K <= 128 is
    /// both row and 1x128; with one row, 1x128 and 128x128 are the same thing.
    ///
    /// Only the layouts that a file may leave to be guessed are tried (`Block128x1` and
    /// `Block1x32` are not).
    ///
    /// ```
    /// use fp8gemm_problem::ScaleLayout;
    /// assert_eq!(ScaleLayout::candidates(&[], 64, 512), [ScaleLayout::Tensor]);
    /// assert_eq!(ScaleLayout::candidates(&[64, 4], 64, 512), [ScaleLayout::Block1x128]);
    /// assert_eq!(ScaleLayout::candidates(&[5, 56], 576, 7168), [ScaleLayout::Block128x128]);
    /// assert!(ScaleLayout::candidates(&[3, 3], 64, 512).is_empty());
    /// ```
    pub fn candidates(shape: &[usize], rows: usize, k: usize) -> Vec<Self> {
        let fits = |layout: &Self| match (layout, shape) {
            (Self::Tensor, [] | [1] | [1, 1]) => true,
            (Self::Row, [r]) => *r == rows,
            (Self::Tensor, _) => false,
            (layout, [r, c]) => layout.scale_shape(rows, k) == (*r, *c),
            _ => false,
        };
        [Self::Tensor, Self::Row, Self::Block1x128, Self::Block128x128].into_iter().filter(fits).collect()
    }
}

impl fmt::Display for ScaleLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tensor => "tensor",
            Self::Row => "row",
            Self::Block1x128 => "1x128",
            Self::Block128x128 => "128x128",
            Self::Block128x1 => "128x1",
            Self::Block1x32 => "1x32",
        })
    }
}

impl FromStr for ScaleLayout {
    type Err = ProblemError;

    fn from_str(text: &str) -> Result<Self, ProblemError> {
        Self::ALL
            .into_iter()
            .find(|layout| layout.to_string() == text)
            .ok_or_else(|| ProblemError::parse("scale layout", text, "tensor, row, 1x128, 128x128, 128x1 or 1x32"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a printed layout no longer parses: saved failures would be unreadable.
    #[test]
    fn prints_and_parses() {
        for layout in ScaleLayout::ALL {
            assert_eq!(layout.to_string().parse(), Ok(layout));
        }
        assert!("128".parse::<ScaleLayout>().is_err());
    }

    /// Breaks if partial edge blocks lose their scale: N = 576 and 2112 are real weight shapes.
    #[test]
    fn partial_blocks_have_scales() {
        assert_eq!(ScaleLayout::Block128x128.scale_shape(576, 7168), (5, 56));
        assert_eq!(ScaleLayout::Block128x128.scale_shape(2112, 130), (17, 2));
        assert_eq!(ScaleLayout::Block1x128.scale_shape(3, 129), (3, 2));
        assert_eq!(ScaleLayout::Block128x1.scale_shape(129, 3), (2, 3));
        assert_eq!(ScaleLayout::Block1x32.scale_shape(2, 33), (2, 2));
        assert_eq!(ScaleLayout::Row.scale_shape(5, 0), (5, 1));
        assert_eq!(ScaleLayout::Block1x128.scale_shape(5, 0), (5, 0));
    }

    /// Breaks if a file's scale shape is silently taken for another layout.
    #[test]
    fn ambiguous_shapes_list_every_reading() {
        use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
        assert_eq!(ScaleLayout::candidates(&[8, 1], 8, 100), [Row, Block1x128]);
        assert_eq!(ScaleLayout::candidates(&[1, 2], 1, 256), [Block1x128, Block128x128]);
        assert_eq!(ScaleLayout::candidates(&[1, 1], 1, 1), [Tensor, Row, Block1x128, Block128x128]);
        assert_eq!(ScaleLayout::candidates(&[8], 8, 100), [Row]);
    }
}
