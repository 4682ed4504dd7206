//! `ScaledMatrix` and `ScaledView`: shapes, transposes, rows, E8M0 scales, dequantisation.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

use fp8gemm_formats::{E8m0, FormatError, ScaledMatrix, ScaledView};
use fp8gemm_problem::{OperandType, ScaleLayout};
use ndarray::{Array2, Axis, Slice, array};
use proptest::prelude::*;

const E4M3: OperandType = OperandType::E4m3;

/// Codes that count up, scales that say where they are.
fn sample(layout: ScaleLayout, rows: usize, columns: usize) -> ScaledMatrix {
    let codes = Array2::from_shape_fn((rows, columns), |(row, column)| ((row * 31 + column) % 127) as u8);
    let scales =
        Array2::from_shape_fn(layout.scale_shape(rows, columns), |(row, column)| (1 + row * 1000 + column) as f32);
    ScaledMatrix::new(E4M3, layout, codes, scales).unwrap()
}

/// Breaks if scales that do not cover the codes are accepted, or the message does not say what
/// was expected.
#[test]
fn scale_shapes_are_checked() {
    for layout in ScaleLayout::ALL {
        let (rows, columns) = (129, 257);
        let expected = layout.scale_shape(rows, columns);
        let codes = Array2::<u8>::zeros((rows, columns));
        for got in [(expected.0 + 1, expected.1), (expected.0, expected.1 + 1), (0, 0)] {
            let scales = Array2::<f32>::zeros(got);
            let error = FormatError::ScaleShape { layout, rows, columns, expected, got };
            assert_eq!(ScaledView::new(E4M3, layout, codes.view(), scales.view()).unwrap_err(), error);
            assert_eq!(ScaledMatrix::new(E4M3, layout, codes.clone(), scales).unwrap_err(), error);
            assert!(error.to_string().contains(&format!("needs [{}, {}]", expected.0, expected.1)), "{error}");
        }
        assert!(ScaledMatrix::new(E4M3, layout, codes, Array2::zeros(expected)).is_ok());
    }
}

/// Breaks if an element is given the scale of another block, in partial blocks or strided views.
#[test]
fn dequantises_with_the_scale_of_the_block() {
    for layout in ScaleLayout::ALL {
        for (rows, columns) in [(1, 1), (129, 130), (130, 33), (3, 300)] {
            let matrix = sample(layout, rows, columns);
            let values = matrix.dequantize();
            let (block_rows, block_columns) = layout.block(rows, columns);
            for ((row, column), value) in values.indexed_iter() {
                let scale = matrix.scales()[[row / block_rows, column / block_columns]];
                let code = float8::F8E4M3::from_bits(matrix.codes()[[row, column]]);
                assert_eq!(*value, code.to_f32() * scale, "{layout} ({row}, {column})");
                assert_eq!(matrix.view().scale_at(row, column), scale);
            }
        }
    }
}

/// Breaks if a transposed matrix is not the transpose, or if a layout without one is transposed.
#[test]
fn transposes() {
    for layout in ScaleLayout::ALL {
        let matrix = sample(layout, 130, 257);
        let view = matrix.view().transposed();
        let owned = matrix.clone().transposed();
        if layout.transposed().is_none() {
            assert_eq!(view.unwrap_err(), FormatError::NotTransposable { layout });
            assert_eq!(owned.unwrap_err(), FormatError::NotTransposable { layout });
            continue;
        }
        let view = view.unwrap();
        assert_eq!((view.rows(), view.columns(), Some(view.layout())), (257, 130, layout.transposed()));
        assert_eq!(view.dequantize(), matrix.dequantize().reversed_axes());
        assert_eq!(owned.unwrap(), view.to_owned());
        assert_eq!(view.to_owned().transposed().unwrap(), matrix);
    }
}

/// Breaks if gathered rows lose their scales, above all those of 128x128 blocks.
#[test]
fn gathers_rows_with_their_scales() {
    let rows = [129usize, 0, 127, 128, 129];
    for layout in ScaleLayout::ALL {
        let matrix = sample(layout, 130, 257);
        let gathered = matrix.view().gather_rows(&rows);
        if layout == ScaleLayout::Block128x1 {
            assert_eq!(gathered.unwrap_err(), FormatError::NotGatherable { layout });
            continue;
        }
        let gathered = gathered.unwrap();
        assert_eq!(gathered.dequantize(), matrix.dequantize().select(Axis(0), &rows), "{layout}");
        let expected = if layout == ScaleLayout::Block128x128 { ScaleLayout::Block1x128 } else { layout };
        assert_eq!((gathered.layout(), gathered.rows(), gathered.ty()), (expected, 5, E4M3));
        assert_eq!(matrix.view().gather_rows(&[]).unwrap().rows(), 0);
        let error = matrix.view().gather_rows(&[3, 130, 131]).unwrap_err();
        assert_eq!(error, FormatError::RowOutOfRange { index: 130, rows: 130 });
    }
}

/// Breaks if E8M0 byte 0 becomes 0 (it is 2^-127, an f32 subnormal), FF is not NaN, or a scale that
/// is no power of two passes for one.
#[test]
fn e8m0_scales_are_exact() {
    let bytes = Array2::from_shape_fn((256, 1), |(row, _)| E8m0::from_bits(row as u8));
    let codes = Array2::from_elem((256, 32), 0x38u8);
    let matrix = ScaledMatrix::from_e8m0(E4M3, ScaleLayout::Block1x32, codes, bytes.view()).unwrap();
    assert_eq!(matrix.scales()[[0, 0]].to_bits(), 0x0040_0000);
    assert_eq!(matrix.scales()[[127, 0]], 1.0);
    assert_eq!(matrix.view().e8m0_scales().unwrap(), bytes);
    assert_eq!(matrix.dequantize()[[0, 5]].to_bits(), 0x0040_0000);
    let (row, column, scale) = matrix.view().first_nonfinite_scale().unwrap();
    assert!((row, column) == (255, 0) && scale.is_nan());
    for value in [3.0, 0.0, -1.0, f32::INFINITY, 2f32.powi(-128)] {
        let matrix =
            ScaledMatrix::new(E4M3, ScaleLayout::Row, Array2::zeros((3, 2)), array![[1.0], [f32::NAN], [value]]);
        let error = matrix.unwrap().view().e8m0_scales().unwrap_err();
        assert_eq!(error, FormatError::NotE8m0 { row: 2, column: 0, value });
    }
}

/// Breaks if NaN leaves with other bits than the GPU's, or subnormal values are flushed.
#[test]
fn dequantises_special_values() {
    let matrix = ScaledMatrix::new(
        OperandType::E5m2,
        ScaleLayout::Row,
        array![[0x7C, 0xFC, 0x7D, 0xFF], [0x7C, 0x00, 0x3C, 0x80], [0x01, 0x81, 0x80, 0x3C]],
        array![[2.0], [0.0], [f32::from_bits(0x0040_0000)]],
    )
    .unwrap();
    let bits = matrix.dequantize().mapv(f32::to_bits);
    assert_eq!(bits.row(0).to_vec(), [0x7F80_0000, 0xFF80_0000, 0x7FFF_FFFF, 0x7FFF_FFFF]);
    assert_eq!(bits.row(1).to_vec(), [0x7FFF_FFFF, 0, 0, 0x8000_0000]);
    // 2^-16 * 2^-127 = 2^-143 = 64 units of 2^-149.
    assert_eq!(bits.row(2).to_vec(), [0x40, 0x8000_0040, 0x8000_0000, 0x0040_0000]);
    assert_eq!(matrix.view().first_nonfinite_scale(), None);
}

/// Breaks if parts do not come back, or codes without scales are scaled.
#[test]
fn puts_together_and_takes_apart() {
    let matrix = sample(ScaleLayout::Block1x128, 3, 200);
    let (codes, scales) = matrix.clone().into_parts();
    assert_eq!(ScaledMatrix::new(E4M3, ScaleLayout::Block1x128, codes.clone(), scales).unwrap(), matrix);
    assert_eq!((matrix.rows(), matrix.columns(), matrix.ty()), (3, 200, E4M3));
    let unscaled = ScaledMatrix::unscaled(E4M3, codes.clone());
    assert_eq!((unscaled.layout(), unscaled.scales()), (ScaleLayout::Tensor, array![[1.0f32]].view()));
    assert_eq!(unscaled.dequantize(), codes.mapv(|code| float8::F8E4M3::from_bits(code).to_f32()));
}

proptest! {
    /// Breaks if the strides of codes or scales matter.
    #[test]
    fn strides_do_not_matter(rows in 0usize..140, columns in 0usize..140, layout in 0usize..6) {
        let layout = ScaleLayout::ALL[layout];
        let matrix = sample(layout, rows, columns);
        let codes = matrix.codes().reversed_axes().as_standard_layout().into_owned();
        let wide = ndarray::concatenate![Axis(1), matrix.scales(), matrix.scales()];
        let scales = wide.slice_axis(Axis(1), Slice::from(..matrix.scales().ncols()));
        let view = ScaledView::new(E4M3, layout, codes.t(), scales).unwrap();
        prop_assert_eq!(view.dequantize(), matrix.dequantize());
        prop_assert_eq!(view.to_owned(), matrix);
    }
}
