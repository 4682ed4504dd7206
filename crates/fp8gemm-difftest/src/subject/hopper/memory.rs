//! Matrices and scales of a case in a GPU's memory, guards included.

use std::sync::Arc;

use fp8gemm_formats::ScaledView;
use fp8gemm_hopper::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use fp8gemm_hopper::{DeviceMatrix, ScaleForm};

use super::Trouble;
use crate::Buffer;

/// Device memory starts at multiples of this.
const BASE: usize = 256;

/// Guards of the scales, which are brought into the form that a kernel wants.
const GUARD: usize = 1 << 12;

/// Fills them and the gaps between rows: NaN, as f32.
const FILLER: u8 = 0xFF;

/// A buffer's memory, guards included, on the GPU.
pub(super) struct OnDevice {
    pub(super) device: CudaSlice<u8>,
    /// Bytes at the buffer's begin that stay behind, so that addresses have the same remainder by
    /// [`BASE`] there as here.
    pub(super) shift: usize,
}

impl OnDevice {
    pub(super) fn new(stream: &Arc<CudaStream>, buffer: &Buffer) -> Result<Self, Trouble> {
        let address = buffer.bytes().as_ptr() as usize;
        let shift = address.next_multiple_of(BASE) - address;
        Ok(Self { device: stream.clone_htod(&buffer.bytes()[shift..])?, shift })
    }

    pub(super) fn matrix(&self, stream: &CudaStream, buffer: &Buffer) -> DeviceMatrix {
        let start = (buffer.start() - self.shift) as u64;
        DeviceMatrix { pointer: self.device.device_ptr(stream).0 + start, stride: buffer.stride() }
    }

    pub(super) fn fetch(&self, stream: &Arc<CudaStream>, buffer: &mut Buffer) -> Result<(), Trouble> {
        stream.memcpy_dtoh(&self.device, &mut buffer.bytes_mut()[self.shift..])?;
        Ok(stream.synchronize()?)
    }
}

/// Scales in the form that a kernel reads, between guards.
pub(super) struct Scales {
    pub(super) image: Vec<u8>,
    pub(super) device: CudaSlice<u8>,
    stride: usize,
}

impl Scales {
    pub(super) fn new(stream: &Arc<CudaStream>, form: ScaleForm, x: &ScaledView<'_>) -> Result<Self, Trouble> {
        let (image, stride) = scale_image(form, x);
        let device = stream.clone_htod(&image)?;
        Ok(Self { image, device, stride })
    }

    pub(super) fn matrix(&self, stream: &CudaStream) -> DeviceMatrix {
        DeviceMatrix { pointer: self.device.device_ptr(stream).0 + GUARD as u64, stride: self.stride }
    }
}

/// The scales as the kernel reads them, between guards, and the numbers from one row of them to the next.
fn scale_image(form: ScaleForm, x: &ScaledView<'_>) -> (Vec<u8>, usize) {
    let (height, width) = form.shape(x.rows(), x.columns());
    // 1x128 scales come through TMA: rows of multiples of 16 bytes.
    let stride = if form == ScaleForm::BlocksByRows { width.next_multiple_of(4) + 4 } else { width };
    let mut image = vec![FILLER; GUARD + height * stride * 4 + GUARD];
    for i in 0..height {
        for j in 0..width {
            let (row, column) = match form {
                ScaleForm::One => (0, 0),
                ScaleForm::Rows => (j, 0),
                ScaleForm::BlocksByRows => (j, i * 128),
                ScaleForm::Squares => (i * 128, j * 128),
            };
            let at = GUARD + (i * stride + j) * 4;
            image[at..at + 4].copy_from_slice(&x.scale_at(row, column).to_ne_bytes());
        }
    }
    (image, stride)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm_formats::ScaledMatrix;
    use fp8gemm_problem::{OperandType, ScaleLayout};
    use ndarray::Array2;

    /// Breaks if a scale lies where a kernel would take it for another row's or block's. Needs no GPU.
    #[test]
    fn scales_lie_where_kernels_read_them() {
        let number = |image: &[u8], at: usize| f32::from_ne_bytes(image[at..at + 4].try_into().unwrap());
        let (rows, k) = (130, 300);
        for (layout, form, expected) in [
            (ScaleLayout::Tensor, ScaleForm::One, vec![((0, 0), 0.0)]),
            (ScaleLayout::Row, ScaleForm::Rows, vec![((0, 129), 129.0)]),
            (ScaleLayout::Tensor, ScaleForm::Rows, vec![((0, 129), 0.0)]),
            // Row 5 in block 2 is number 5 * 3 + 2 of the matrix.
            (ScaleLayout::Block1x128, ScaleForm::BlocksByRows, vec![((2, 5), 17.0), ((0, 129), 387.0)]),
            (ScaleLayout::Block128x128, ScaleForm::Squares, vec![((1, 2), 5.0)]),
            (ScaleLayout::Block128x128, ScaleForm::BlocksByRows, vec![((2, 127), 2.0), ((2, 128), 5.0)]),
        ] {
            let shape = layout.scale_shape(rows, k);
            let scales = Array2::from_shape_fn(shape, |(row, column)| (row * shape.1 + column) as f32);
            let x = ScaledMatrix::new(OperandType::E4m3, layout, Array2::zeros((rows, k)), scales).unwrap();
            let (image, stride) = scale_image(form, &x.view());
            for ((row, column), value) in expected {
                assert_eq!(number(&image, GUARD + (row * stride + column) * 4), value, "{layout} {form:?}");
            }
            assert!(image[..GUARD].iter().chain(&image[image.len() - GUARD..]).all(|byte| *byte == FILLER));
            assert!(form != ScaleForm::BlocksByRows || stride.is_multiple_of(4));
        }
    }
}
