//! How a kernel wants its scales in memory, and host scales brought into that form.

use fp8gemm_jit::KernelScales;
use fp8gemm_problem::{ScaleLayout, Side};
use ndarray::{Array2, ArrayView2};

/// How the scales of one operand (`rows` is M or N, `blocks` is `ceil(K / 128)`) lie in device
/// memory, all f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleForm {
    /// One number.
    One,
    /// `[rows]`: one for each row, contiguous.
    Rows,
    /// `[blocks][stride]` with `stride >= rows`: a whole column of scales for each 128 of K. The
    /// stride is a multiple of 4 and the pointer of 16 bytes, since TMA reads it.
    BlocksByRows,
    /// `[ceil(rows / 128)][blocks]`, contiguous.
    Squares,
}

impl ScaleForm {
    /// The form that a kernel with these `scales` reads on this side, from `layout`. Where the form
    /// has more scales than the layout, they are repeated: a 128x128 scale over its 128 rows, a row
    /// or tensor scale beside block scales along K.
    pub fn of(scales: KernelScales, side: Side, layout: ScaleLayout) -> Self {
        match (scales, side, layout) {
            (KernelScales::AtEnd, _, ScaleLayout::Tensor) => Self::One,
            (KernelScales::AtEnd, ..) => Self::Rows,
            (KernelScales::Block1d2d, Side::B, _) => Self::Squares,
            _ => Self::BlocksByRows,
        }
    }

    /// Rows and columns of the stored array, without padding.
    pub fn shape(self, rows: usize, k: usize) -> (usize, usize) {
        let blocks = k.div_ceil(128);
        match self {
            Self::One => (1, 1),
            Self::Rows => (1, rows),
            Self::BlocksByRows => (blocks, rows),
            Self::Squares => (rows.div_ceil(128), blocks),
        }
    }

    /// Elements between the starts of stored rows in what [`gemm_on_gpu`](crate::gemm_on_gpu) uploads:
    /// the smallest stride that is allowed.
    pub fn stride(self, rows: usize, k: usize) -> usize {
        let (_, columns) = self.shape(rows, k);
        if self == Self::BlocksByRows { columns.next_multiple_of(4) } else { columns }
    }
}

/// Brings the scales of a `[rows, k]` operand into `form`; padding is 0.
pub(crate) fn arrange(
    form: ScaleForm,
    layout: ScaleLayout,
    scales: ArrayView2<'_, f32>,
    rows: usize,
    k: usize,
) -> Vec<f32> {
    let (height, width) = form.shape(rows, k);
    let stride = form.stride(rows, k);
    let (block_rows, block_columns) = layout.block(rows, k);
    let mut stored = vec![0.0; height * stride];
    if stride == 0 {
        return stored;
    }
    for (i, line) in stored.chunks_exact_mut(stride).enumerate() {
        for (j, value) in line[..width].iter_mut().enumerate() {
            let (row, column) = match form {
                ScaleForm::One => (0, 0),
                ScaleForm::Rows => (j, 0),
                ScaleForm::BlocksByRows => (j, i * 128),
                ScaleForm::Squares => (i * 128, j * 128),
            };
            *value = scales[(row / block_rows, column / block_columns)];
        }
    }
    stored
}

/// The scales that are stored in `form`, as the layout has them: what [`arrange`] undoes.
pub(crate) fn collect(
    form: ScaleForm,
    stride: usize,
    layout: ScaleLayout,
    stored: &[f32],
    rows: usize,
    k: usize,
) -> Array2<f32> {
    let (block_rows, block_columns) = layout.block(rows, k);
    Array2::from_shape_fn(layout.scale_shape(rows, k), |(i, j)| {
        let (row, column) = (i * block_rows, j * block_columns);
        stored[match form {
            ScaleForm::One => 0,
            ScaleForm::Rows => row,
            ScaleForm::BlocksByRows => column / 128 * stride + row,
            ScaleForm::Squares => row / 128 * stride + column / 128,
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(layout: ScaleLayout, rows: usize, k: usize) -> Array2<f32> {
        let (height, width) = layout.scale_shape(rows, k);
        Array2::from_shape_fn((height, width), |(i, j)| (i * 100 + j) as f32)
    }

    /// Breaks if a scale lands at another element than the one it belongs to: every stored scale is
    /// compared with the layout's own rule, tails included.
    #[test]
    fn every_scale_is_where_its_elements_are() {
        use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
        for (rows, k) in [(1, 1), (130, 300), (256, 128), (7, 1000)] {
            for layout in [Tensor, Row, Block1x128, Block128x128] {
                let scales = numbered(layout, rows, k);
                let (block_rows, block_columns) = layout.block(rows, k);
                let at = |row: usize, column: usize| scales[(row / block_rows, column / block_columns)];
                let form = ScaleForm::BlocksByRows;
                let (stored, stride) = (arrange(form, layout, scales.view(), rows, k), form.stride(rows, k));
                assert_eq!(stride % 4, 0);
                for row in 0..rows {
                    for column in 0..k {
                        assert_eq!(stored[column / 128 * stride + row], at(row, column));
                    }
                }
                if layout == Tensor || layout == Block128x128 {
                    let stored = arrange(ScaleForm::Squares, layout, scales.view(), rows, k);
                    for row in 0..rows {
                        for column in 0..k {
                            assert_eq!(stored[row / 128 * k.div_ceil(128) + column / 128], at(row, column));
                        }
                    }
                }
            }
        }
    }

    /// Breaks if scales that come back from the GPU are not those that went there, in any form that
    /// holds them.
    #[test]
    fn scales_come_back_as_they_went() {
        use ScaleForm::{BlocksByRows, One, Rows, Squares};
        use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
        for (rows, k) in [(1, 1), (130, 300), (256, 128), (7, 1000)] {
            for (form, layout) in [
                (One, Tensor),
                (Rows, Row),
                (Rows, Tensor),
                (BlocksByRows, Block1x128),
                (BlocksByRows, Block128x128),
                (BlocksByRows, Row),
                (Squares, Block128x128),
                (Squares, Tensor),
            ] {
                let scales = numbered(layout, rows, k);
                let stored = arrange(form, layout, scales.view(), rows, k);
                let back = collect(form, form.stride(rows, k), layout, &stored, rows, k);
                assert_eq!(back, scales, "{form:?} {layout} {rows} x {k}");
            }
        }
    }

    /// Breaks if a kernel is given another form than it reads.
    #[test]
    fn forms_are_those_of_the_kernel() {
        use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
        let of = ScaleForm::of;
        assert_eq!(of(KernelScales::AtEnd, Side::A, Tensor), ScaleForm::One);
        assert_eq!(of(KernelScales::AtEnd, Side::B, Row), ScaleForm::Rows);
        assert_eq!(of(KernelScales::Block1d2d, Side::A, Block128x128), ScaleForm::BlocksByRows);
        assert_eq!(of(KernelScales::Block1d2d, Side::B, Tensor), ScaleForm::Squares);
        assert_eq!(of(KernelScales::Block1d1d, Side::B, Block1x128), ScaleForm::BlocksByRows);
        assert_eq!(of(KernelScales::Block1d1d, Side::A, Row), ScaleForm::BlocksByRows);
    }
}
