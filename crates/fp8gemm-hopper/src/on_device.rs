//! Operands in GPU memory as the kernels read them, and quantised ones brought back.

use core::fmt;
use std::sync::Arc;

use cudarc::driver::CudaSlice;
use fp8gemm_formats::ScaledMatrix;
use ndarray::Array2;

use crate::scales::{ScaleForm, collect};
use crate::{DeviceStep, HopperError, Quantization};

/// An uploaded operand: K-major codes and scales in the form of a plan.
#[derive(Clone, Debug)]
pub(crate) struct OnDevice {
    pub(crate) codes: Arc<CudaSlice<u8>>,
    /// Bytes between rows of codes.
    pub(crate) stride: usize,
    pub(crate) scales: Arc<CudaSlice<f32>>,
    pub(crate) form: ScaleForm,
    /// Elements between rows of scales.
    pub(crate) scale_stride: usize,
}

/// An operand that was quantised on the GPU, in GPU memory until this is dropped. Cheap to clone.
#[derive(Clone)]
pub struct QuantizedOnGpu {
    pub(crate) quantization: Quantization,
    pub(crate) data: OnDevice,
}

impl QuantizedOnGpu {
    /// How it was quantised, and from what.
    pub fn quantization(&self) -> &Quantization {
        &self.quantization
    }

    /// The same as a step with its cost.
    pub fn step(&self) -> DeviceStep {
        DeviceStep::Quantize(self.quantization)
    }

    /// Bytes that [`download`](Self::download) copies.
    pub fn bytes(&self) -> u128 {
        let OnDevice { codes, scales, .. } = &self.data;
        codes.len() as u128 + 4 * scales.len() as u128
    }

    /// Copies codes and scales to the host: what [`fp8gemm_formats::quantize::quantize`] gives there.
    ///
    /// # Errors
    /// [`HopperError::Cuda`].
    pub fn download(&self) -> Result<ScaledMatrix, HopperError> {
        let Quantization { rows, k, quantizer, .. } = self.quantization;
        let OnDevice { codes, stride, scales, form, scale_stride } = &self.data;
        let stream = codes.stream();
        let copied = HopperError::cuda("cuMemcpyDtoH");
        let stored = stream.clone_dtoh(codes.as_ref()).map_err(copied)?;
        let scales = stream.clone_dtoh(scales.as_ref()).map_err(HopperError::cuda("cuMemcpyDtoH"))?;
        stream.synchronize().map_err(HopperError::cuda("cuStreamSynchronize"))?;
        let scales = collect(*form, *scale_stride, quantizer.layout, &scales, rows, k);
        Ok(ScaledMatrix::new(quantizer.ty, quantizer.layout, rows_of(&stored, *stride, rows, k), scales)?)
    }
}

impl fmt::Debug for QuantizedOnGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuantizedOnGpu").field("quantization", &self.quantization).finish_non_exhaustive()
    }
}

/// The first `k` bytes of each stored row.
fn rows_of(stored: &[u8], stride: usize, rows: usize, k: usize) -> Array2<u8> {
    let mut codes = Array2::zeros((rows, k));
    for (mut row, line) in codes.rows_mut().into_iter().zip(stored.chunks(stride.max(1))) {
        row.iter_mut().zip(line).for_each(|(to, from)| *to = *from);
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if padding between rows is taken for codes.
    #[test]
    fn padding_is_dropped() {
        let stored: Vec<u8> = (0..32).collect();
        assert_eq!(rows_of(&stored, 16, 2, 3), ndarray::array![[0, 1, 2], [16, 17, 18]]);
        assert_eq!(rows_of(&stored, 16, 2, 16).into_raw_vec_and_offset().0, stored);
    }
}
