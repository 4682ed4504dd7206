//! Quantisation on the GPU: bf16, f16 or f32 in, FP8 codes and block scales out, as the GEMM reads
//! them.

use cudarc::driver::CudaStream;
use fp8gemm_formats::quantize::{Quantizer, Recipe};
use fp8gemm_jit::{BlockScales, Compiler, ElementwiseKernel, QuantizeKernel};
use fp8gemm_problem::{OutputType, ScaleLayout};

use crate::context::ordered;
use crate::elementwise::{Arguments, Elementwise, check_sizes};
use crate::layout::scale_form;
use crate::operands::{aligned, tma, wide};
use crate::slices::{element, long_enough};
use crate::{
    DeviceMatrix, DeviceStep, Fp8, Gpu, HopperError, OperandLayout, OutputElement, ScaleForm, Strided, StridedMut,
};

/// What is quantised, from what, and how.
///
/// ```text
/// a     = max(largest |x| of the block, 1e-4)
/// scale = a * fl(1 / max)              deepgemm-ue8m0: rounded up to a power of two, 2^127 at most
/// code  = cast(x * fl(1 / scale))      nearest even, saturating, NaN to 7F
/// ```
///
/// with `max` 448 (E4M3) or 57344 (E5M2) and every operation one f32 operation: codes and scales have
/// the bits of [`fp8gemm_formats::quantize::quantize`] with recipe `deepgemm` or `deepgemm-ue8m0`,
/// subnormals, signed zeros, infinities and NaN among them. One thing differs: a scale that is NaN
/// is `7FFFFFFF` here, as the GPU makes it, while a CPU passes on some bits of the NaN it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantization {
    /// M or N of the GEMM.
    pub rows: usize,
    /// K of the GEMM, along which scales are shared.
    pub k: usize,
    /// Element type of the input.
    pub input: OutputType,
    /// Whether the input is `[rows, K]` or `[K, rows]`. The codes are `[rows, K]` in any case.
    pub layout: OperandLayout,
    /// Recipe (`deepgemm`, `deepgemm-ue8m0`), scale layout (1x128, 128x128) and code type.
    pub quantizer: Quantizer,
}

impl Quantization {
    /// Checks recipe, layout and sizes.
    ///
    /// # Errors
    /// [`HopperError::Quantizer`], [`HopperError::TooLarge`].
    pub fn check(&self) -> Result<(), HopperError> {
        check_sizes(self.kernel()?, self.rows, self.k)
    }

    /// How the scales lie in device memory: [`ScaleForm::BlocksByRows`] for 1x128,
    /// [`ScaleForm::Squares`] for 128x128.
    pub fn scale_form(&self) -> ScaleForm {
        scale_form(&self.quantizer)
    }

    fn kernel(&self) -> Result<ElementwiseKernel, HopperError> {
        let Quantizer { recipe, layout, ty } = self.quantizer;
        let unsupported = |rule| HopperError::Quantizer { quantizer: self.quantizer, rule };
        let pow2 = match recipe {
            Recipe::DeepGemm => false,
            Recipe::DeepGemmUe8m0 => true,
            _ => return Err(unsupported("there are kernels for the recipes deepgemm and deepgemm-ue8m0")),
        };
        let scales = match layout {
            ScaleLayout::Block1x128 => BlockScales::Block1x128,
            ScaleLayout::Block128x128 => BlockScales::Block128x128,
            _ => return Err(unsupported("there are kernels for 1x128 and 128x128 scales")),
        };
        let transposed = self.layout == OperandLayout::MnMajor;
        Ok(ElementwiseKernel::Quantize(QuantizeKernel { input: self.input, codes: ty, scales, pow2, transposed }))
    }

    /// Rows and columns of the input as it lies in memory.
    fn input_shape(&self) -> (usize, usize) {
        match self.layout {
            OperandLayout::KMajor => (self.rows, self.k),
            OperandLayout::MnMajor => (self.k, self.rows),
        }
    }
}

/// Device memory of one launch. Strides are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeOperands {
    /// `[rows, K]` or `[K, rows]`, as the layout says. The pointer is a multiple of the element size,
    /// the stride is any; where both are multiples of 16 bytes, loads are 16 bytes wide.
    pub input: DeviceMatrix,
    /// `[rows, K]` FP8; pointer and stride multiples of 16 bytes, as TMA needs. Nothing is written
    /// between K and the stride (TMA reads zeros there), so this may be a slice of columns.
    pub codes: DeviceMatrix,
    /// Scales in the form of [`Quantization::scale_form`], with the rules that the GEMM has for them:
    /// 1x128 as `[ceil(K / 128)][stride]`, the stride at least `rows` and a multiple of 4, the
    /// pointer of 16 bytes (nothing is written between `rows` and the stride); 128x128 as
    /// `[ceil(rows / 128)][ceil(K / 128)]`, contiguous.
    pub scales: DeviceMatrix,
}

impl QuantizeOperands {
    /// Checks every rule for pointers and strides.
    ///
    /// # Errors
    /// [`HopperError::Pointer`], [`HopperError::Stride`].
    pub fn check(&self, quantization: &Quantization) -> Result<(), HopperError> {
        aligned("input", self.input.pointer, quantization.input.size() as u64)?;
        wide("input", self.input, quantization.input_shape().1)?;
        tma("codes", self.codes, quantization.k, 1)?;
        let (_, columns) = quantization.scale_form().shape(quantization.rows, quantization.k);
        if quantization.scale_form() == ScaleForm::BlocksByRows {
            return tma("scales", self.scales, columns, 4);
        }
        aligned("scales", self.scales.pointer, 4)?;
        if self.scales.stride != columns {
            let rule = format!("128x128 scales are contiguous, a row has {columns}");
            return Err(HopperError::Stride { argument: "scales", value: self.scales.stride, rule });
        }
        Ok(())
    }
}

/// A [`Quantization`] with its kernel, loaded on one GPU. Cheap to clone, `Send` and `Sync`.
///
/// Making it may compile (about 0.2 s, once for each combination of types, scales and layout and
/// cache; sizes do not matter). Launches neither compile nor allocate.
#[derive(Clone, Debug)]
pub struct QuantizePlan {
    quantization: Quantization,
    kernel: Elementwise,
}

impl QuantizePlan {
    /// Checks, compiles and loads.
    ///
    /// # Errors
    /// Those of [`Quantization::check`], [`HopperError::Jit`], [`HopperError::Cuda`].
    pub fn new(gpu: &Gpu, compiler: &Compiler, quantization: &Quantization) -> Result<Self, HopperError> {
        quantization.check()?;
        let kernel = Elementwise::load(gpu, compiler, quantization.kernel()?)?;
        Ok(Self { quantization: *quantization, kernel })
    }

    /// What it computes.
    pub fn quantization(&self) -> &Quantization {
        &self.quantization
    }

    /// What it computes, as a step with its cost.
    pub fn step(&self) -> DeviceStep {
        DeviceStep::Quantize(self.quantization)
    }

    /// Launches on cudarc's slices and the caller's stream; returns at once.
    ///
    /// Safe, as [`Plan::gemm`](crate::Plan::gemm) is: lengths are checked, cudarc's events order uses
    /// on other streams.
    ///
    /// ```no_run
    /// use fp8gemm_formats::quantize::{Quantizer, Recipe};
    /// use fp8gemm_hopper::{Gpu, OperandLayout, Quantization, QuantizePlan, Strided, StridedMut};
    /// use fp8gemm_jit::{Cache, Compiler};
    /// use fp8gemm_problem::OutputType;
    ///
    /// let gpu = Gpu::open(0)?;
    /// let quantizer = Quantizer::new(Recipe::DeepGemm); // 1x128, E4M3
    /// let what = Quantization { rows: 64, k: 256, input: OutputType::F32, layout: OperandLayout::KMajor, quantizer };
    /// let plan = QuantizePlan::new(&gpu, &Compiler::new(Cache::from_environment(), None), &what)?;
    /// let stream = gpu.context().new_stream()?;
    /// let x = stream.clone_htod(&[1.0f32; 64 * 256])?;
    /// let (mut codes, mut scales) = (stream.alloc_zeros::<u8>(64 * 256)?, stream.alloc_zeros::<f32>(2 * 64)?);
    /// let (codes_out, scales_out) = (StridedMut::new(&mut codes, 256), StridedMut::new(&mut scales, 64));
    /// plan.quantize(&stream, &Strided::new(&x, 256), codes_out, scales_out)?;
    /// assert_eq!(stream.clone_dtoh(&codes)?[0], 0x7E); // 448
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`HopperError::Type`], [`HopperError::Length`], [`HopperError::WrongContext`]; those of
    /// [`QuantizeOperands::check`]; [`HopperError::Cuda`].
    pub fn quantize<T: OutputElement, C: Fp8>(
        &self,
        stream: &CudaStream,
        input: &Strided<'_, T>,
        codes: StridedMut<'_, C>,
        scales: StridedMut<'_, f32>,
    ) -> Result<(), HopperError> {
        let q = &self.quantization;
        element("input", Some(T::TYPE), q.input)?;
        element("codes", C::TYPE, q.quantizer.ty)?;
        long_enough("input", input.data.len(), q.input_shape(), input.stride)?;
        long_enough("codes", codes.data.len(), (q.rows, q.k), codes.stride)?;
        long_enough("scales", scales.data.len(), q.scale_form().shape(q.rows, q.k), scales.stride)?;
        for (what, memory) in
            [("input", input.data.stream()), ("codes", codes.data.stream()), ("scales", scales.data.stream())]
        {
            ordered(what, memory, self.kernel.context())?;
        }
        ordered("the stream", stream, self.kernel.context())?;
        let (input_pointer, _input) = input.data.device_ptr(stream);
        let (codes_pointer, _codes) = codes.data.device_ptr_mut(stream);
        let (scales_pointer, _scales) = scales.data.device_ptr_mut(stream);
        // The guards above wait for events; cudarc keeps their errors for whoever asks.
        stream.context().check_err().map_err(HopperError::cuda("an earlier release or wait of cudarc"))?;
        let operands = QuantizeOperands {
            input: DeviceMatrix { pointer: input_pointer, stride: input.stride },
            codes: DeviceMatrix { pointer: codes_pointer, stride: codes.stride },
            scales: DeviceMatrix { pointer: scales_pointer, stride: scales.stride },
        };
        // SAFETY: every matrix lies inside its slice, of the plan's context; slices are initialised
        // memory (allocating without is unsafe in cudarc); codes and scales are borrowed mutably, so
        // overlap nothing; uses and releases of the slices after this launch are ordered as at
        // `Plan::run_slices`.
        unsafe { self.launch(stream, &operands) }
    }

    /// Checks pointers and strides, launches on the caller's stream, and returns at once: codes and
    /// scales are there when the stream has got there. With `rows` or `k` of 0 nothing runs.
    ///
    /// # Errors
    /// Those of [`QuantizeOperands::check`], [`HopperError::WrongContext`], [`HopperError::Cuda`].
    ///
    /// # Safety
    /// From now until the launch is done on the stream, for each matrix of the operands, of the
    /// quantisation's shape:
    /// - every element, from the pointer on, is memory that this device can access, and stays
    ///   allocated;
    /// - the input is initialised, and nothing writes it;
    /// - nothing else reads or writes elements of codes and scales, and they overlap nothing.
    pub unsafe fn launch(&self, stream: &CudaStream, operands: &QuantizeOperands) -> Result<(), HopperError> {
        let q = &self.quantization;
        operands.check(q)?;
        let QuantizeOperands { input, codes, scales } = operands;
        let arguments = Arguments {
            input: input.pointer,
            codes: codes.pointer,
            scales: scales.pointer,
            input_stride: input.stride as u64,
            codes_stride: codes.stride as u64,
            scales_stride: scales.stride as u64,
            // `Quantization::check` has seen that they fit.
            rows: q.rows as u32,
            k: q.k as u32,
            aligned: u32::from(wide_loads(*input, q.input.size())),
        };
        // SAFETY: the caller's promise.
        unsafe { self.kernel.launch(stream, &arguments) }
    }
}

/// Whether every row of elements of `size` bytes, a power of two, starts at a multiple of 16 bytes. A
/// stride that is nowhere used, of a single row, may be any number: in bytes it need not fit.
fn wide_loads(matrix: DeviceMatrix, size: usize) -> bool {
    matrix.pointer.is_multiple_of(16) && matrix.stride.is_multiple_of(16 / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> (Quantization, QuantizeOperands) {
        let quantizer = Quantizer::new(Recipe::DeepGemm);
        let q = Quantization { rows: 5, k: 130, input: OutputType::Bf16, layout: OperandLayout::KMajor, quantizer };
        let at = |pointer, stride| DeviceMatrix { pointer, stride };
        (q, QuantizeOperands { input: at(0x1002, 131), codes: at(0x2000, 144), scales: at(0x3000, 8) })
    }

    /// Breaks if a pointer or stride that the kernel, or the GEMM after it, cannot take is launched.
    #[test]
    fn every_rule_has_its_error() {
        let (q, o) = good();
        assert!(q.check().is_ok() && o.check(&q).is_ok());
        let mn_major = Quantization { layout: OperandLayout::MnMajor, ..q };
        assert!(QuantizeOperands { input: DeviceMatrix { stride: 5, ..o.input }, ..o }.check(&mn_major).is_ok());
        let squares = Quantization { quantizer: q.quantizer.with_layout(ScaleLayout::Block128x128), ..q };
        assert!(QuantizeOperands { scales: DeviceMatrix { pointer: 4, stride: 2 }, ..o }.check(&squares).is_ok());
        let pointers: [(&str, QuantizeOperands); 4] = [
            ("input", QuantizeOperands { input: DeviceMatrix { pointer: 0x1001, ..o.input }, ..o }),
            ("input", QuantizeOperands { input: DeviceMatrix { pointer: 0, ..o.input }, ..o }),
            ("codes", QuantizeOperands { codes: DeviceMatrix { pointer: 0x2008, ..o.codes }, ..o }),
            ("scales", QuantizeOperands { scales: DeviceMatrix { pointer: 0x3004, ..o.scales }, ..o }),
        ];
        for (name, bad) in pointers {
            match bad.check(&q) {
                Err(HopperError::Pointer { argument, .. }) => assert_eq!(argument, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        let strides: [(&str, Quantization, QuantizeOperands); 7] = [
            ("input", q, QuantizeOperands { input: DeviceMatrix { stride: 129, ..o.input }, ..o }),
            ("input", mn_major, QuantizeOperands { input: DeviceMatrix { stride: 4, ..o.input }, ..o }),
            ("codes", q, QuantizeOperands { codes: DeviceMatrix { stride: 136, ..o.codes }, ..o }),
            ("codes", q, QuantizeOperands { codes: DeviceMatrix { stride: 128, ..o.codes }, ..o }),
            ("scales", q, QuantizeOperands { scales: DeviceMatrix { stride: 4, ..o.scales }, ..o }),
            ("scales", q, QuantizeOperands { scales: DeviceMatrix { stride: 6, ..o.scales }, ..o }),
            ("scales", squares, o),
        ];
        for (name, q, bad) in strides {
            match bad.check(&q) {
                Err(HopperError::Stride { argument, .. }) => assert_eq!(argument, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    /// Breaks if loads of 16 bytes are made at other addresses, or the stride of a single row, which no rule
    /// limits, is an overflow.
    #[test]
    fn wide_loads_are_aligned() {
        let wide = |pointer, stride, size| wide_loads(DeviceMatrix { pointer, stride }, size);
        assert!(wide(0x1000, 8, 2) && wide(0x1000, 4, 4) && wide(0x1000, 0, 4));
        assert!(!wide(0x1000, 4, 2) && !wide(0x1000, 6, 4) && !wide(0x1008, 8, 2));
        assert!(!wide(0x1000, usize::MAX, 4) && wide(0x1000, usize::MAX - 15, 4));

        let (q, o) = good();
        let one = Quantization { rows: 1, ..q };
        let input = DeviceMatrix { stride: usize::MAX, ..o.input };
        assert!(QuantizeOperands { input, ..o }.check(&one).is_ok());
        assert!(long_enough("input", q.k, one.input_shape(), usize::MAX).is_ok());
    }

    /// Breaks if plans cannot be shared between threads any more.
    #[test]
    fn plans_are_send_and_sync() {
        fn is<T: Send + Sync>() {}
        is::<QuantizePlan>();
        is::<crate::RelayoutPlan>();
    }

    /// Breaks if a recipe or layout without a kernel is computed as another one, or a size beyond
    /// what the kernel counts is launched.
    #[test]
    fn what_has_no_kernel_is_refused() {
        let (q, _) = good();
        for bad in ["deepgemm-v1:1x128", "deepgemm:row", "deepgemm:1x32", "te-block:1x128"] {
            let quantizer = bad.parse().unwrap();
            let error = Quantization { quantizer, ..q }.check().unwrap_err();
            assert!(matches!(error, HopperError::Quantizer { .. }));
            assert!(error.to_string().contains(bad), "{error}");
        }
        for (rows, k) in [(1 << 31, 1), (1, 1 << 31), (1 << 25, 1 << 25)] {
            let result = Quantization { rows, k, ..q }.check();
            assert!(matches!(result, Err(HopperError::TooLarge { .. })), "{rows} x {k}: {result:?}");
        }
        // More than 2^31 elements are fine.
        assert!(Quantization { rows: 1 << 18, k: 1 << 16, ..q }.check().is_ok());
        assert!(Quantization { rows: 0, k: 0, ..q }.check().is_ok());
    }
}
