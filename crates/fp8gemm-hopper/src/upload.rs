//! Host matrices brought to the GPU in the layouts that the kernels read.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut, DeviceRepr, sys};
use fp8gemm_formats::ScaledView;
use fp8gemm_jit::Compiler;
use fp8gemm_problem::{ScaleLayout, Side};
use ndarray::ArrayView2;

use crate::kernel::bind;
use crate::scales::{ScaleForm, arrange};
use crate::{Gpu, HopperError, HostStep, RelayoutPlan, Strided, StridedMut};

/// What a transposition on the GPU needs, if there is one.
pub(crate) type Transposer<'a> = Option<(&'a Gpu, &'a Compiler)>;

/// The elements as they are.
pub(crate) fn slice<T: DeviceRepr>(stream: &Arc<CudaStream>, data: &[T]) -> Result<CudaSlice<T>, HopperError> {
    stream.clone_htod(data).map_err(HopperError::cuda("cuMemcpyHtoD"))
}

/// The scales in `form`, and their stride.
pub(crate) fn scales(
    stream: &Arc<CudaStream>,
    form: ScaleForm,
    side: Side,
    operand: &ScaledView<'_>,
    steps: &mut Vec<HostStep>,
) -> Result<(CudaSlice<f32>, usize), HopperError> {
    let (rows, k, layout) = (operand.rows(), operand.columns(), operand.layout());
    let as_given = matches!(
        (form, layout),
        (ScaleForm::One, ScaleLayout::Tensor)
            | (ScaleForm::Rows, ScaleLayout::Row)
            | (ScaleForm::Squares, ScaleLayout::Block128x128)
    );
    if !as_given {
        steps.push(HostStep::Scales { side, from: layout, to: form });
    }
    let stored = arrange(form, layout, operand.scales(), rows, k);
    Ok((slice(stream, &stored)?, form.stride(rows, k)))
}

/// The codes, K-major, and the bytes between their rows: multiples of 16.
pub(crate) fn codes(
    stream: &Arc<CudaStream>,
    transposer: Transposer<'_>,
    side: Side,
    operand: &ScaledView<'_>,
    steps: &mut Vec<HostStep>,
) -> Result<(CudaSlice<u8>, usize), HopperError> {
    let (codes, rows, k) = (operand.codes(), operand.rows(), operand.columns());
    if let Some(codes) = codes.to_slice().filter(|_| k.is_multiple_of(16)) {
        return Ok((slice(stream, codes)?, k));
    }
    let stride = k.next_multiple_of(16);
    let zeros = |len| stream.alloc_zeros::<u8>(len).map_err(HopperError::cuda("cuMemAlloc"));
    let mut packed = zeros(rows * stride)?;
    if upload_rows(stream, codes, &mut packed, stride)? {
        steps.push(HostStep::Repacked { side, stride });
        return Ok((packed, stride));
    }
    if let Some((gpu, compiler)) = transposer {
        let mut columns = zeros(rows * k)?;
        if upload_rows(stream, codes.reversed_axes(), &mut columns, rows)? {
            let relayout = RelayoutPlan::transpose(gpu, compiler, rows, k)?;
            relayout.relayout::<u8>(stream, &Strided::new(&columns, rows), StridedMut::new(&mut packed, stride))?;
            steps.push(HostStep::OnGpu { side, step: relayout.step() });
            return Ok((packed, stride));
        }
    }
    let mut stored = vec![0u8; rows * stride];
    for (line, row) in stored.chunks_exact_mut(stride).zip(codes.rows()) {
        line.iter_mut().zip(row).for_each(|(to, from)| *to = *from);
    }
    steps.push(HostStep::Repacked { side, stride });
    Ok((slice(stream, &stored)?, stride))
}

/// Copies rows of contiguous bytes, any distance apart, to rows of `stride` bytes; false, and
/// nothing done, if the rows are not contiguous or their distance is beyond what CUDA's
/// two-dimensional copy takes.
fn upload_rows(
    stream: &Arc<CudaStream>,
    from: ArrayView2<'_, u8>,
    to: &mut CudaSlice<u8>,
    stride: usize,
) -> Result<bool, HopperError> {
    const LONGEST_PITCH: usize = i32::MAX as usize;
    let (rows, columns) = from.dim();
    let [between_rows, within] = [from.strides()[0], from.strides()[1]];
    // A single row or column may have any stride.
    let pitch = if rows == 1 { columns } else { usize::try_from(between_rows).unwrap_or(0) };
    if (within != 1 && columns > 1) || pitch < columns || pitch.max(stride) > LONGEST_PITCH {
        return Ok(false);
    }
    bind(stream.context())?;
    debug_assert!(stride >= columns && to.len() >= rows * stride);
    let (pointer, _to) = to.device_ptr_mut(stream);
    let copy = sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        srcHost: from.as_ptr().cast(),
        srcDevice: 0,
        srcArray: std::ptr::null_mut(),
        srcPitch: pitch,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: std::ptr::null_mut(),
        dstDevice: pointer,
        dstArray: std::ptr::null_mut(),
        dstPitch: stride,
        WidthInBytes: columns,
        Height: rows,
    };
    // SAFETY: row i of the view is `columns` bytes from `as_ptr() + i * pitch` on, as its strides
    // say; `to` has `rows` rows of `stride` bytes; both live until the copy is waited for.
    unsafe { sys::cuMemcpy2DAsync_v2(&raw const copy, stream.cu_stream()) }
        .result()
        .map_err(HopperError::cuda("cuMemcpy2DAsync"))?;
    stream.synchronize().map_err(HopperError::cuda("cuStreamSynchronize"))?;
    Ok(true)
}
