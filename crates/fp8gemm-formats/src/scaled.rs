//! FP8 codes with the scales that give them their values: [`ScaledMatrix`] and its borrowed form
//! [`ScaledView`].

use fp8gemm_problem::{OperandType, ScaleLayout};
use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayView2, Axis, Zip};

use crate::{E8m0, FormatError, Fp8Format};

/// FP8 codes with their scales: the value of an element is `decode(code) * scale of its block`.
///
/// Codes are `[rows, columns]` bytes, scales `layout.scale_shape(rows, columns)` f32; both may
/// have any strides. Partial blocks at the edges have a scale of their own. Scales multiply on
/// dequantisation, and every f32 is allowed: whether a NaN or infinite scale is an error is for
/// the caller to decide ([`ScaledView::first_nonfinite_scale`]).
///
/// An E8M0 scale is held as the f32 that it means: byte 0 is `2^-127` (an f32 subnormal, exact),
/// byte 255 is NaN.
///
/// ```
/// use fp8gemm_formats::ScaledMatrix;
/// use fp8gemm_problem::{OperandType, ScaleLayout};
/// use ndarray::array;
///
/// // 0x38 is 1.0 and 0xC0 is -2.0 in E4M3; one scale for each row.
/// let matrix = ScaledMatrix::new(
///     OperandType::E4m3,
///     ScaleLayout::Row,
///     array![[0x38, 0xC0], [0x38, 0x38]],
///     array![[0.5], [3.0]],
/// )?;
/// assert_eq!(matrix.dequantize(), array![[0.5, -1.0], [3.0, 3.0]]);
/// # Ok::<(), fp8gemm_formats::FormatError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ScaledMatrix {
    ty: OperandType,
    layout: ScaleLayout,
    codes: Array2<u8>,
    scales: Array2<f32>,
}

impl ScaledMatrix {
    /// Puts codes and scales together.
    ///
    /// # Errors
    /// [`FormatError::ScaleShape`] where the scales are not `layout.scale_shape(rows, columns)`.
    pub fn new(
        ty: OperandType,
        layout: ScaleLayout,
        codes: Array2<u8>,
        scales: Array2<f32>,
    ) -> Result<Self, FormatError> {
        check_shapes(layout, codes.dim(), scales.dim())?;
        Ok(Self { ty, layout, codes, scales })
    }

    /// Codes that mean what they decode to: layout `Tensor`, scale 1.
    pub fn unscaled(ty: OperandType, codes: Array2<u8>) -> Self {
        Self { ty, layout: ScaleLayout::Tensor, codes, scales: Array2::from_elem((1, 1), 1.0) }
    }

    /// Puts codes and E8M0 scales together. Each scale is kept as the f32 that it means.
    ///
    /// # Errors
    /// [`FormatError::ScaleShape`] where the scales are not `layout.scale_shape(rows, columns)`.
    pub fn from_e8m0(
        ty: OperandType,
        layout: ScaleLayout,
        codes: Array2<u8>,
        scales: ArrayView2<'_, E8m0>,
    ) -> Result<Self, FormatError> {
        Self::new(ty, layout, codes, scales.mapv(E8m0::to_f32))
    }

    /// The same matrix, borrowed.
    pub fn view(&self) -> ScaledView<'_> {
        ScaledView { ty: self.ty, layout: self.layout, codes: self.codes.view(), scales: self.scales.view() }
    }

    /// Element type of the codes.
    pub fn ty(&self) -> OperandType {
        self.ty
    }

    /// Which elements share a scale.
    pub fn layout(&self) -> ScaleLayout {
        self.layout
    }

    /// Rows of the codes.
    pub fn rows(&self) -> usize {
        self.codes.nrows()
    }

    /// Columns of the codes.
    pub fn columns(&self) -> usize {
        self.codes.ncols()
    }

    /// The codes, `[rows, columns]`.
    pub fn codes(&self) -> ArrayView2<'_, u8> {
        self.codes.view()
    }

    /// The scales, `layout.scale_shape(rows, columns)`.
    pub fn scales(&self) -> ArrayView2<'_, f32> {
        self.scales.view()
    }

    /// Codes and scales, taken apart.
    pub fn into_parts(self) -> (Array2<u8>, Array2<f32>) {
        (self.codes, self.scales)
    }

    /// The values, as [`ScaledView::dequantize`].
    pub fn dequantize(&self) -> Array2<f32> {
        self.view().dequantize()
    }

    /// The transposed matrix; nothing is copied or rounded, only strides change.
    ///
    /// # Errors
    /// [`FormatError::NotTransposable`] for layouts `Row` and `Block1x32`.
    pub fn transposed(self) -> Result<Self, FormatError> {
        let layout = transposed_layout(self.layout)?;
        Ok(Self { layout, codes: self.codes.reversed_axes(), scales: self.scales.reversed_axes(), ..self })
    }
}

/// A borrowed [`ScaledMatrix`]: views of codes and scales, of any strides.
#[derive(Clone, Copy, Debug)]
pub struct ScaledView<'a> {
    ty: OperandType,
    layout: ScaleLayout,
    codes: ArrayView2<'a, u8>,
    scales: ArrayView2<'a, f32>,
}

impl<'a> ScaledView<'a> {
    /// Puts borrowed codes and scales together.
    ///
    /// # Errors
    /// [`FormatError::ScaleShape`] where the scales are not `layout.scale_shape(rows, columns)`.
    pub fn new(
        ty: OperandType,
        layout: ScaleLayout,
        codes: ArrayView2<'a, u8>,
        scales: ArrayView2<'a, f32>,
    ) -> Result<Self, FormatError> {
        check_shapes(layout, codes.dim(), scales.dim())?;
        Ok(Self { ty, layout, codes, scales })
    }

    /// Element type of the codes.
    pub fn ty(&self) -> OperandType {
        self.ty
    }

    /// Which elements share a scale.
    pub fn layout(&self) -> ScaleLayout {
        self.layout
    }

    /// Rows of the codes.
    pub fn rows(&self) -> usize {
        self.codes.nrows()
    }

    /// Columns of the codes.
    pub fn columns(&self) -> usize {
        self.codes.ncols()
    }

    /// The codes, `[rows, columns]`.
    pub fn codes(&self) -> ArrayView2<'a, u8> {
        self.codes
    }

    /// The scales, `layout.scale_shape(rows, columns)`.
    pub fn scales(&self) -> ArrayView2<'a, f32> {
        self.scales
    }

    /// The scale of one element.
    ///
    /// # Panics
    /// Like indexing, where the element is outside the matrix (and not in its last block).
    pub fn scale_at(&self, row: usize, column: usize) -> f32 {
        let (block_rows, block_columns) = self.layout.block(self.rows(), self.columns());
        self.scales[[row / block_rows, column / block_columns]]
    }

    /// The values: one f32 multiplication, rounded to nearest even, for each element:
    /// `fl(decode(code) * scale)`. Subnormal results are kept; every NaN is `0x7FFF_FFFF`.
    ///
    /// The result is `[rows, columns]` in standard (row-major) order. Rows are computed in
    /// parallel; the number of threads does not matter to the bits.
    pub fn dequantize(&self) -> Array2<f32> {
        let mut values = Array2::zeros(self.codes.dim());
        if values.is_empty() {
            return values;
        }
        let table = Fp8Format::from(self.ty).decode_table();
        let (block_rows, block_columns) = self.layout.block(self.rows(), self.columns());
        Zip::indexed(values.axis_iter_mut(Axis(0))).and(self.codes.axis_iter(Axis(0))).into_par_iter().for_each(
            |(row, mut values, codes)| {
                let scales = self.scales.row(row / block_rows);
                let blocks = values.axis_chunks_iter_mut(Axis(0), block_columns);
                for ((values, codes), &scale) in blocks.zip(codes.axis_chunks_iter(Axis(0), block_columns)).zip(scales)
                {
                    Zip::from(values).and(codes).for_each(|value, &code| {
                        *value = canonical(table[usize::from(code)] * scale);
                    });
                }
            },
        );
        values
    }

    /// The same matrix, owned and in standard order.
    pub fn to_owned(&self) -> ScaledMatrix {
        ScaledMatrix {
            ty: self.ty,
            layout: self.layout,
            codes: self.codes.as_standard_layout().into_owned(),
            scales: self.scales.as_standard_layout().into_owned(),
        }
    }

    /// The transposed view; nothing is copied or rounded, only strides change.
    ///
    /// # Errors
    /// [`FormatError::NotTransposable`] for layouts `Row` and `Block1x32`.
    pub fn transposed(&self) -> Result<Self, FormatError> {
        let layout = transposed_layout(self.layout)?;
        Ok(Self { layout, codes: self.codes.reversed_axes(), scales: self.scales.reversed_axes(), ..*self })
    }

    /// A matrix of the given rows, in the given order (repeats allowed), each with the scales it
    /// had: what is wanted to compute a few rows of a large product. 128x128 scales become
    /// 1x128, since the chosen rows may come from different blocks.
    ///
    /// # Errors
    /// [`FormatError::RowOutOfRange`] for a row that is not there, [`FormatError::NotGatherable`]
    /// for layout `Block128x1`.
    pub fn gather_rows(&self, rows: &[usize]) -> Result<ScaledMatrix, FormatError> {
        if let Some(&index) = rows.iter().find(|&&row| row >= self.rows()) {
            return Err(FormatError::RowOutOfRange { index, rows: self.rows() });
        }
        let (layout, scale_rows) = match self.layout {
            ScaleLayout::Block128x1 => return Err(FormatError::NotGatherable { layout: self.layout }),
            ScaleLayout::Tensor => (ScaleLayout::Tensor, vec![0]),
            ScaleLayout::Block128x128 => (ScaleLayout::Block1x128, rows.iter().map(|row| row / 128).collect()),
            layout @ (ScaleLayout::Row | ScaleLayout::Block1x128 | ScaleLayout::Block1x32) => (layout, rows.to_vec()),
        };
        let codes = self.codes.select(Axis(0), rows);
        let scales = self.scales.select(Axis(0), &scale_rows);
        ScaledMatrix::new(self.ty, layout, codes, scales)
    }

    /// The scales as E8M0 codes, where every one is a power of two (or NaN, code `FF`).
    ///
    /// # Errors
    /// [`FormatError::NotE8m0`], naming the first that is not, in row-major order.
    ///
    /// ```
    /// use fp8gemm_formats::quantize::{Quantizer, Recipe};
    /// use ndarray::array;
    ///
    /// let quantized = Quantizer::new(Recipe::TorchaoMxFloor).quantize(array![[3.0f32, 0.1]].view())?;
    /// let scales = quantized.view().e8m0_scales()?;
    /// assert_eq!(scales.mapv(|scale| scale.to_bits()), array![[120]]);
    /// # Ok::<(), fp8gemm_formats::FormatError>(())
    /// ```
    pub fn e8m0_scales(&self) -> Result<Array2<E8m0>, FormatError> {
        let mut codes = Array2::from_elem(self.scales.dim(), E8m0::NAN);
        for (((row, column), code), &value) in codes.indexed_iter_mut().zip(&self.scales) {
            if !value.is_nan() {
                *code = E8m0::exact(value).ok_or(FormatError::NotE8m0 { row, column, value })?;
            }
        }
        Ok(codes)
    }

    /// The first scale, in row-major order, that is NaN or infinite, with its place in the scale
    /// matrix.
    pub fn first_nonfinite_scale(&self) -> Option<(usize, usize, f32)> {
        self.scales
            .indexed_iter()
            .find(|(_, scale)| !scale.is_finite())
            .map(|((row, column), &scale)| (row, column, scale))
    }
}

/// The GPU's one NaN; x86 would pass payloads through.
fn canonical(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(0x7FFF_FFFF) } else { value }
}

fn check_shapes(layout: ScaleLayout, codes: (usize, usize), scales: (usize, usize)) -> Result<(), FormatError> {
    let (rows, columns) = codes;
    let expected = layout.scale_shape(rows, columns);
    if scales == expected {
        Ok(())
    } else {
        Err(FormatError::ScaleShape { layout, rows, columns, expected, got: scales })
    }
}

fn transposed_layout(layout: ScaleLayout) -> Result<ScaleLayout, FormatError> {
    layout.transposed().ok_or(FormatError::NotTransposable { layout })
}
