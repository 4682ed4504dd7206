//! FP8 codes transposed or repacked on the GPU: the steps that operands need which TMA or `wgmma`
//! cannot read as they are.

use cudarc::driver::CudaStream;
use fp8gemm_jit::{Compiler, ElementwiseKernel};

use crate::context::ordered;
use crate::elementwise::{Arguments, Elementwise, check_sizes};
use crate::operands::{aligned, tma, wide};
use crate::slices::long_enough;
use crate::{DeviceMatrix, DeviceStep, Fp8, Gpu, HopperError, Strided, StridedMut};

/// FP8 codes brought to `[rows, K]` with rows of 16-byte multiples. Cheap to clone, `Send` and
/// `Sync`.
///
/// Making it may compile (about 0.2 s, once for each cache); launches neither compile nor allocate.
#[derive(Clone, Debug)]
pub struct RelayoutPlan {
    step: DeviceStep,
    /// Rows and columns of the input as it lies in memory, and of the codes.
    from: (usize, usize),
    to: (usize, usize),
    kernel: Elementwise,
}

impl RelayoutPlan {
    /// Transposes `[K, rows]` to `[rows, K]`: what NN, TN and TT operands need that are FP8 already.
    ///
    /// # Errors
    /// [`HopperError::TooLarge`], [`HopperError::Jit`], [`HopperError::Cuda`].
    pub fn transpose(gpu: &Gpu, compiler: &Compiler, rows: usize, k: usize) -> Result<Self, HopperError> {
        let kernel = ElementwiseKernel::TransposeCodes;
        check_sizes(kernel, rows, k)?;
        let kernel = Elementwise::load(gpu, compiler, kernel)?;
        Ok(Self { step: DeviceStep::Transpose { rows, k }, from: (k, rows), to: (rows, k), kernel })
    }

    /// Copies `[rows, K]` of any pointer and stride to rows that TMA can read.
    ///
    /// # Errors
    /// As [`transpose`](Self::transpose).
    pub fn repack(gpu: &Gpu, compiler: &Compiler, rows: usize, k: usize) -> Result<Self, HopperError> {
        let kernel = ElementwiseKernel::RepackCodes;
        check_sizes(kernel, rows, k)?;
        let kernel = Elementwise::load(gpu, compiler, kernel)?;
        Ok(Self { step: DeviceStep::Repack { rows, k }, from: (rows, k), to: (rows, k), kernel })
    }

    /// What it does, as a step with its cost.
    pub fn step(&self) -> DeviceStep {
        self.step
    }

    /// Launches on cudarc's slices and the caller's stream; returns at once. Safe, as
    /// [`Plan::gemm`](crate::Plan::gemm) is.
    ///
    /// # Errors
    /// [`HopperError::Length`], [`HopperError::WrongContext`]; those of [`launch`](Self::launch).
    pub fn relayout<C: Fp8>(
        &self,
        stream: &CudaStream,
        from: &Strided<'_, C>,
        to: StridedMut<'_, C>,
    ) -> Result<(), HopperError> {
        long_enough("input", from.data.len(), self.from, from.stride)?;
        long_enough("codes", to.data.len(), self.to, to.stride)?;
        ordered("input", from.data.stream(), self.kernel.context())?;
        ordered("codes", to.data.stream(), self.kernel.context())?;
        ordered("the stream", stream, self.kernel.context())?;
        let (from_pointer, _from) = from.data.device_ptr(stream);
        let (to_pointer, _to) = to.data.device_ptr_mut(stream);
        // The guards above wait for events; cudarc keeps their errors for whoever asks.
        stream.context().check_err().map_err(HopperError::cuda("an earlier release or wait of cudarc"))?;
        let from = DeviceMatrix { pointer: from_pointer, stride: from.stride };
        let to = DeviceMatrix { pointer: to_pointer, stride: to.stride };
        // SAFETY: both matrices lie inside their slices, of the plan's context; slices are initialised
        // memory; `to` is borrowed mutably, so overlaps nothing; uses and releases of the slices after
        // this launch are ordered as at `Plan::run_slices`.
        unsafe { self.launch(stream, from, to) }
    }

    /// Checks pointers and strides (in bytes), launches on the caller's stream, and returns at once.
    /// `from` may have any pointer and any stride that holds its rows; `to` has multiples of 16
    /// bytes. Nothing is written between K and the stride. With `rows` or `k` of 0 nothing runs.
    ///
    /// # Errors
    /// [`HopperError::Pointer`], [`HopperError::Stride`], [`HopperError::WrongContext`],
    /// [`HopperError::Cuda`].
    ///
    /// # Safety
    /// From now until the launch is done on the stream:
    /// - every element of both matrices is memory that this device can access, and stays allocated;
    /// - `from` is initialised, and nothing writes it;
    /// - nothing else reads or writes elements of `to`, and it does not overlap `from`.
    pub unsafe fn launch(&self, stream: &CudaStream, from: DeviceMatrix, to: DeviceMatrix) -> Result<(), HopperError> {
        let (rows, k) = self.to;
        check(from, to, self.from.1, k)?;
        let arguments = Arguments {
            input: from.pointer,
            codes: to.pointer,
            scales: 0,
            input_stride: from.stride as u64,
            codes_stride: to.stride as u64,
            scales_stride: 0,
            // `check_sizes` has seen that they fit.
            rows: rows as u32,
            k: k as u32,
            aligned: u32::from(from.pointer.is_multiple_of(16) && from.stride.is_multiple_of(16)),
        };
        // SAFETY: the caller's promise.
        unsafe { self.kernel.launch(stream, &arguments) }
    }
}

/// Every rule for pointers and strides.
fn check(from: DeviceMatrix, to: DeviceMatrix, columns: usize, k: usize) -> Result<(), HopperError> {
    aligned("input", from.pointer, 1)?;
    wide("input", from, columns)?;
    tma("codes", to, k, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a pointer or stride that TMA cannot read is made, or a row would overlap the next.
    #[test]
    fn every_rule_has_its_error() {
        let at = |pointer, stride| DeviceMatrix { pointer, stride };
        assert!(check(at(0x1001, 5), at(0x2000, 144), 5, 130).is_ok());
        let pointer = |result| matches!(result, Err(HopperError::Pointer { .. }));
        assert!(pointer(check(at(0, 5), at(0x2000, 144), 5, 130)));
        assert!(pointer(check(at(0x1001, 5), at(0x2008, 144), 5, 130)));
        let stride = |result| matches!(result, Err(HopperError::Stride { .. }));
        assert!(stride(check(at(0x1001, 4), at(0x2000, 144), 5, 130)));
        assert!(stride(check(at(0x1001, 5), at(0x2000, 128), 5, 130)));
        assert!(stride(check(at(0x1001, 5), at(0x2000, 136), 5, 130)));
    }
}
