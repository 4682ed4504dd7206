//! Host matrices brought to the GPU in the layouts that the kernels read, quantised there if need be.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut, DeviceRepr, ValidAsZeroBits, sys};
use fp8gemm_formats::ScaledView;
use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_jit::Compiler;
use fp8gemm_problem::{ScaleLayout, Side};
use ndarray::ArrayView2;

use crate::kernel::bind;
use crate::on_device::OnDevice;
use crate::scales::{ScaleForm, arrange, collect};
use crate::{
    Gpu, HopperError, HostOperand, HostStep, HostView, OperandLayout, OutputElement, Quantization, QuantizePlan,
    QuantizedOnGpu, RelayoutPlan, Strided, StridedMut,
};

/// What a kernel that works on an operand before the GEMM is made with.
pub(crate) type Toolkit<'a> = (&'a Gpu, &'a Compiler);

/// An operand of at least one row and column, with its scales in `form`; numbers are quantised there.
pub(crate) fn operand(
    stream: &Arc<CudaStream>,
    toolkit: Toolkit<'_>,
    side: Side,
    operand: &HostOperand<'_>,
    form: ScaleForm,
    steps: &mut Vec<HostStep>,
) -> Result<(OnDevice, Option<QuantizedOnGpu>), HopperError> {
    let quantized = match operand {
        HostOperand::Scaled(x) => return Ok((scaled(stream, Some(toolkit), side, x, form, steps)?, None)),
        HostOperand::Raw { matrix, quantizer } => match matrix {
            HostView::Bf16(x) => quantize(stream, toolkit, side, *x, *quantizer, steps),
            HostView::F16(x) => quantize(stream, toolkit, side, *x, *quantizer, steps),
            HostView::F32(x) => quantize(stream, toolkit, side, *x, *quantizer, steps),
        }?,
    };
    let mut data = quantized.data.clone();
    if data.form != form {
        // 128x128 scales where the GEMM reads one for each row: few numbers, by way of the host.
        let Quantization { rows, k, quantizer, .. } = quantized.quantization;
        let stored = stream.clone_dtoh(data.scales.as_ref()).map_err(HopperError::cuda("cuMemcpyDtoH"))?;
        let scales = collect(data.form, data.scale_stride, quantizer.layout, &stored, rows, k);
        let stored = arrange(form, quantizer.layout, scales.view(), rows, k);
        data.scales = Arc::new(slice(stream, &stored)?);
        (data.form, data.scale_stride) = (form, form.stride(rows, k));
        steps.push(HostStep::Scales { side, from: quantizer.layout, to: form });
    }
    Ok((data, Some(quantized)))
}

/// An operand that is FP8 already. `toolkit`: with what a column-major one is transposed on the GPU.
pub(crate) fn scaled(
    stream: &Arc<CudaStream>,
    toolkit: Option<Toolkit<'_>>,
    side: Side,
    operand: &ScaledView<'_>,
    form: ScaleForm,
    steps: &mut Vec<HostStep>,
) -> Result<OnDevice, HopperError> {
    let (codes, stride) = codes(stream, toolkit, side, operand, steps)?;
    let (scales, scale_stride) = scales(stream, form, side, operand, steps)?;
    Ok(OnDevice { codes: Arc::new(codes), stride, scales: Arc::new(scales), form, scale_stride })
}

/// Uploads numbers and quantises them, transposing on the way where K does not run fastest.
fn quantize<T: OutputElement + DeviceRepr + ValidAsZeroBits + Copy>(
    stream: &Arc<CudaStream>,
    (gpu, compiler): Toolkit<'_>,
    side: Side,
    x: ArrayView2<'_, T>,
    quantizer: Quantizer,
    steps: &mut Vec<HostStep>,
) -> Result<QuantizedOnGpu, HopperError> {
    let (rows, k) = x.dim();
    let quantization = Quantization { rows, k, input: T::TYPE, layout: layout_of(x), quantizer };
    let plan = QuantizePlan::new(gpu, compiler, &quantization)?;
    let (input, input_stride) = numbers(stream, side, x, quantization.layout, steps)?;
    let form = quantization.scale_form();
    let (stride, scale_stride) = (k.next_multiple_of(16), form.stride(rows, k));
    let failed = HopperError::cuda("cuMemAlloc");
    let mut codes = stream.alloc_zeros::<u8>(rows * stride).map_err(failed)?;
    let (height, _) = form.shape(rows, k);
    let mut scales = stream.alloc_zeros::<f32>(height * scale_stride).map_err(HopperError::cuda("cuMemAlloc"))?;
    plan.quantize(
        stream,
        &Strided::new(&input, input_stride),
        StridedMut::new(&mut codes, stride),
        StridedMut::new(&mut scales, scale_stride),
    )?;
    steps.push(HostStep::OnGpu { side, step: plan.step() });
    let data = OnDevice { codes: Arc::new(codes), stride, scales: Arc::new(scales), form, scale_stride };
    Ok(QuantizedOnGpu { quantization, data })
}

/// Numbers in the layout that [`layout_of`] gives, and the elements between rows.
fn numbers<T: DeviceRepr + ValidAsZeroBits + Copy>(
    stream: &Arc<CudaStream>,
    side: Side,
    x: ArrayView2<'_, T>,
    layout: OperandLayout,
    steps: &mut Vec<HostStep>,
) -> Result<(CudaSlice<T>, usize), HopperError> {
    let lines = if layout == OperandLayout::KMajor { x } else { x.reversed_axes() };
    if let Some(elements) = lines.to_slice() {
        return Ok((slice(stream, elements)?, lines.ncols()));
    }
    // Multiples of 16 bytes, which the kernel reads 16 at a time.
    let stride = lines.ncols().next_multiple_of(16 / size_of::<T>());
    if pitch(lines, stride).is_some() {
        let len = lines.nrows() * stride;
        let mut input = stream.alloc_zeros::<T>(len).map_err(HopperError::cuda("cuMemAlloc"))?;
        upload_rows(stream, lines, &mut input, stride)?;
        return Ok((input, stride));
    }
    steps.push(HostStep::Packed { side });
    let packed: Vec<T> = x.iter().copied().collect();
    Ok((slice(stream, &packed)?, x.ncols()))
}

/// The elements as they are.
pub(crate) fn slice<T: DeviceRepr>(stream: &Arc<CudaStream>, data: &[T]) -> Result<CudaSlice<T>, HopperError> {
    stream.clone_htod(data).map_err(HopperError::cuda("cuMemcpyHtoD"))
}

/// Whether numbers are uploaded as `[rows, K]` or as `[K, rows]`: the latter where only that has
/// contiguous rows.
pub(crate) fn layout_of<T>(x: ArrayView2<'_, T>) -> OperandLayout {
    let has_rows = |lines: ArrayView2<'_, T>| lines.to_slice().is_some() || pitch(lines, lines.ncols()).is_some();
    if !has_rows(x) && has_rows(x.reversed_axes()) { OperandLayout::MnMajor } else { OperandLayout::KMajor }
}

/// The scales in `form`, and their stride.
fn scales(
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
fn codes(
    stream: &Arc<CudaStream>,
    toolkit: Option<Toolkit<'_>>,
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
    if let Some((gpu, compiler)) = toolkit {
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

/// Copies rows of contiguous elements, any distance apart, to rows of `stride` elements; false, and
/// nothing done, if the rows are not contiguous or their distance is beyond what CUDA's
/// two-dimensional copy takes.
fn upload_rows<T: DeviceRepr>(
    stream: &Arc<CudaStream>,
    from: ArrayView2<'_, T>,
    to: &mut CudaSlice<T>,
    stride: usize,
) -> Result<bool, HopperError> {
    let Some(pitch) = pitch(from, stride) else { return Ok(false) };
    let (rows, columns) = from.dim();
    let size = size_of::<T>();
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
        srcPitch: pitch * size,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: std::ptr::null_mut(),
        dstDevice: pointer,
        dstArray: std::ptr::null_mut(),
        dstPitch: stride * size,
        WidthInBytes: columns * size,
        Height: rows,
    };
    // SAFETY: row i of the view is `columns` elements from `as_ptr() + i * pitch` on, as its strides
    // say; `to` has `rows` rows of `stride` elements; both live until the copy is waited for.
    unsafe { sys::cuMemcpy2DAsync_v2(&raw const copy, stream.cu_stream()) }
        .result()
        .map_err(HopperError::cuda("cuMemcpy2DAsync"))?;
    stream.synchronize().map_err(HopperError::cuda("cuStreamSynchronize"))?;
    Ok(true)
}

/// Elements between rows, if CUDA's two-dimensional copy can bring them to rows of `stride` elements.
fn pitch<T>(from: ArrayView2<'_, T>, stride: usize) -> Option<usize> {
    const LONGEST: usize = i32::MAX as usize;
    let (rows, columns) = from.dim();
    let [between_rows, within] = [from.strides()[0], from.strides()[1]];
    // A single row or column may have any stride.
    let pitch = if rows == 1 { columns } else { usize::try_from(between_rows).unwrap_or(0) };
    let copied = (within == 1 || columns <= 1) && pitch >= columns && pitch.max(stride) <= LONGEST / size_of::<T>();
    copied.then_some(pitch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, s};

    /// Breaks if a matrix is quantised as the transpose of what it is, or a column-major one is copied
    /// on the host first.
    #[test]
    fn layouts_follow_strides() {
        use OperandLayout::{KMajor, MnMajor};
        let x = Array2::<f32>::zeros((6, 10));
        assert_eq!(layout_of(x.view()), KMajor);
        assert_eq!(layout_of(x.slice(s![1..;2, 1..8])), KMajor);
        assert_eq!(layout_of(x.t()), MnMajor);
        assert_eq!(layout_of(x.slice(s![1..5, ..;3]).reversed_axes()), KMajor);
        assert_eq!(layout_of(x.slice(s![1..5;2, 3..]).reversed_axes()), MnMajor);
        assert_eq!(layout_of(x.slice(s![..1, ..])), KMajor);
        assert_eq!(layout_of(Array2::<f32>::zeros((6, 1)).view()), KMajor);
    }

    /// Breaks if rows that are not contiguous, or overlap, or run backwards, are copied as if they
    /// were rows.
    #[test]
    fn only_rows_are_copied_as_rows() {
        let x = Array2::<f32>::zeros((6, 10));
        assert_eq!(pitch(x.view(), 12), Some(10));
        assert_eq!(pitch(x.slice(s![..;2, 1..8]), 8), Some(20));
        assert_eq!(pitch(x.t(), 8), None);
        assert_eq!(pitch(x.slice(s![.., ..;2]), 8), None);
        assert_eq!(pitch(x.slice(s![..;-1, ..]), 12), None);
        assert_eq!(pitch(x.slice(s![..1, ..;-1]), 12), None);
        assert_eq!(pitch(x.slice(s![..1, ..]), 12), Some(10));
        assert_eq!(pitch(x.slice(s![..;3, 2..3]), 4), Some(30));
        let row = Array2::<f32>::zeros((1, 10));
        assert_eq!(pitch(row.broadcast((6, 10)).unwrap(), 12), None);
        assert_eq!(pitch(x.view(), (i32::MAX as usize) / 4), Some(10));
        assert_eq!(pitch(x.view(), (i32::MAX as usize) / 4 + 1), None);
    }
}
