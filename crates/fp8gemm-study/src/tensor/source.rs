//! Where the elements of a matrix come from: an array, FP8 codes, or a mapped file.

use core::ops::Range;

use fp8gemm_formats::quantize::Element;
use fp8gemm_formats::{Fp8Format, ScaledView};
use fp8gemm_problem::OutputType;
use ndarray::{ArrayView2, Axis, Slice};

/// A matrix that is read in pieces of rows, each piece two or three times, from several threads.
///
/// Implement it for what is not an array in memory; elements come as f32, to which all input types
/// widen exactly.
pub trait Source: Sync {
    /// The type that the elements had before they were widened.
    fn ty(&self) -> OutputType;

    /// Rows and columns.
    fn dim(&self) -> (usize, usize);

    /// Puts the elements of these columns of the row into `values`, which is as long as the range. Both
    /// are within [`dim`](Self::dim).
    fn read(&self, row: usize, columns: Range<usize>, values: &mut [f32]);
}

impl<T: Element> Source for ArrayView2<'_, T> {
    fn ty(&self) -> OutputType {
        T::TYPE
    }

    fn dim(&self) -> (usize, usize) {
        ArrayView2::dim(self)
    }

    fn read(&self, row: usize, columns: Range<usize>, values: &mut [f32]) {
        let row = self.row(row);
        let piece = row.slice_axis(Axis(0), Slice::from(columns));
        match piece.to_slice() {
            Some(piece) => T::widen_slice(piece, values),
            None => values.iter_mut().zip(piece).for_each(|(value, x)| *value = x.widen()),
        }
    }
}

/// The dequantised values, `fl(decode(code) * scale)`, of type f32.
impl Source for ScaledView<'_> {
    fn ty(&self) -> OutputType {
        OutputType::F32
    }

    fn dim(&self) -> (usize, usize) {
        (self.rows(), self.columns())
    }

    fn read(&self, row: usize, columns: Range<usize>, values: &mut [f32]) {
        let table = Fp8Format::from(ScaledView::ty(self)).decode_table();
        let (block_rows, block_columns) = self.layout().block(self.rows(), self.columns());
        let (codes, scales) = (self.codes(), self.scales());
        let (codes, scales) = (codes.row(row), scales.row(row / block_rows));
        let mut column = columns.start;
        let mut codes = codes.slice_axis(Axis(0), Slice::from(columns.clone())).into_iter();
        let mut values = values.iter_mut();
        while column < columns.end {
            let end = ((column / block_columns + 1) * block_columns).min(columns.end);
            let scale = scales[column / block_columns];
            for (value, &code) in values.by_ref().take(end - column).zip(codes.by_ref()) {
                *value = table[usize::from(code)] * scale;
            }
            column = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use fp8gemm_formats::quantize::Quantizer;
    use ndarray::Array2;

    use super::*;

    /// Breaks if FP8 codes read in pieces have other values than all at once, whatever the layout.
    #[test]
    fn pieces_of_codes_are_dequantised() {
        let x = Array2::from_shape_fn((130, 300), |(row, column)| (row as f32 - 60.5) * (column as f32 - 7.0));
        for quantizer in ["deepgemm:128x128", "deepgemm:1x128", "deepgemm:tensor", "deepgemm:128x1", "vllm-token"] {
            let quantized = quantizer.parse::<Quantizer>().unwrap().quantize(x.view()).unwrap();
            let values = quantized.dequantize();
            for columns in [0..300, 5..6, 100..290, 128..256] {
                for row in [0, 127, 128, 129] {
                    let mut piece = vec![0.0; columns.len()];
                    quantized.view().read(row, columns.clone(), &mut piece);
                    assert_eq!(piece, values.row(row).to_vec()[columns.clone()], "{quantizer} {columns:?}");
                }
            }
        }
    }
}
