//! Host matrices in, host matrix out: for the command line, tests and first tries. Everything is
//! copied to the GPU and back on the default stream; engines keep their data there and use
//! [`Plan::gemm`] or [`Plan::launch`].

use core::fmt;

use cudarc::driver::{DevicePtr, DevicePtrMut, result};
use fp8gemm_formats::ScaledView;
use fp8gemm_jit::{Compiler, KernelConfig};
use fp8gemm_problem::{OutputType, Problem, ScaleLayout, Side};
use half::{bf16, f16};
use ndarray::Array2;

use crate::host_matrix::check;
use crate::on_device::OnDevice;
use crate::scales::ScaleForm;
use crate::upload;
use crate::{
    DeviceMatrix, DeviceStep, Gpu, HopperError, HostMatrix, HostOperand, HostView, Operands, Plan, PlanOptions,
    QuantizedOnGpu,
};

/// A copy or pass over data that was necessary, besides the copies to the GPU and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostStep {
    /// An operand was copied to rows of `stride` bytes.
    Repacked {
        /// Which one.
        side: Side,
        /// Bytes between its rows on the GPU.
        stride: usize,
    },
    /// An operand whose strides no copy to the GPU takes was copied to contiguous rows first.
    Packed {
        /// Which one.
        side: Side,
    },
    /// An operand was uploaded as it is, and quantised or brought into K-major rows there.
    OnGpu {
        /// Which one.
        side: Side,
        /// How, and what it costs.
        step: DeviceStep,
    },
    /// The scales of an operand were spread or transposed.
    Scales {
        /// Which one.
        side: Side,
        /// As given.
        from: ScaleLayout,
        /// As the kernel reads them.
        to: ScaleForm,
    },
    /// K is 0, and was taken for one column of zeros: the same outputs.
    NoProducts,
}

impl fmt::Display for HostStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repacked { side, stride } => {
                write!(f, "{side} copied to rows of {stride} bytes (contiguous rows, multiples of 16 bytes, for TMA)")
            }
            Self::Packed { side } => write!(f, "{side} copied to contiguous rows"),
            Self::OnGpu { side, step } => write!(f, "{side} on the GPU: {step}"),
            Self::Scales { side, from, to } => {
                let (rows, major) = if *side == Side::A { ("M", "M-major") } else { ("N", "N-major") };
                write!(f, "{from} scales of {side} ")?;
                match (to, from) {
                    (ScaleForm::BlocksByRows, ScaleLayout::Block1x128) => {
                        write!(f, "transposed to [K/128][{rows}] ({major})")
                    }
                    (ScaleForm::BlocksByRows, _) => write!(f, "repeated to [K/128][{rows}] ({major})"),
                    (ScaleForm::Squares, _) => write!(f, "repeated to [{rows}/128][K/128]"),
                    (ScaleForm::Rows, _) => write!(f, "repeated to [{rows}]"),
                    (ScaleForm::One, _) => write!(f, "reduced to one number"),
                }
            }
            Self::NoProducts => write!(f, "K = 0 computed as one column of zeros"),
        }
    }
}

/// A product, and how it came about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Product {
    /// D, `[M, N]`.
    pub d: HostMatrix,
    /// The kernel; `None` if D is empty and nothing ran.
    pub config: Option<KernelConfig>,
    /// Copies and passes beyond the plain copies, those of A first.
    pub steps: Vec<HostStep>,
    /// A as it was quantised on the GPU; `None` where codes were given, or M, N or K is 0.
    pub quantized_a: Option<QuantizedOnGpu>,
    /// The same for B.
    pub quantized_b: Option<QuantizedOnGpu>,
}

/// Computes `D = alpha A B^T + beta C` on the GPU from host matrices, by the problem's policy.
///
/// Operands are FP8 codes with scales ([`ScaledView`]) or numbers that are quantised on the GPU
/// ([`HostOperand::Raw`]); both give the same D. Any M, N and any strides; where TMA's rules do not
/// hold, the data is copied to padded rows (see [`Product::steps`]). With M or N of 0, D is empty and
/// nothing runs; with K of 0, D is what the epilogue makes of a sum of 0.
///
/// ```no_run
/// use fp8gemm_formats::quantize::{Quantizer, Recipe};
/// use fp8gemm_hopper::{Gpu, HostOperand, HostView, gemm_on_gpu};
/// use fp8gemm_jit::{Cache, Compiler};
/// use fp8gemm_problem::{Problem, ScaleLayout};
/// use ndarray::Array2;
///
/// let gpu = Gpu::open(0)?;
/// let compiler = Compiler::new(Cache::from_environment(), None);
/// let problem: Problem = "64x256x512 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse()?;
/// let (x, w) = (Array2::<f32>::ones((64, 512)), Array2::<f32>::ones((256, 512)));
/// let quantizer = Quantizer::new(Recipe::DeepGemm); // 1x128, E4M3
/// let a = HostOperand::Raw { matrix: HostView::F32(x.view()), quantizer };
/// let quantizer = quantizer.with_layout(ScaleLayout::Block128x128);
/// let b = HostOperand::Raw { matrix: HostView::F32(w.view()), quantizer };
/// let product = gemm_on_gpu(&gpu, &compiler, a, b, None, &problem)?;
/// println!("{:?}", product.d); // 512 everywhere
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`HopperError::Shape`], [`HopperError::Type`], [`HopperError::PresenceOfC`] where the data is not
/// the problem's, those of [`HostOperand::check`]; those of [`Plan::new`] and of [`Plan::run`].
pub fn gemm_on_gpu<'a, 'b>(
    gpu: &Gpu,
    compiler: &Compiler,
    a: impl Into<HostOperand<'a>>,
    b: impl Into<HostOperand<'b>>,
    c: Option<&HostView<'_>>,
    problem: &Problem,
) -> Result<Product, HopperError> {
    let (a, b) = (a.into(), b.into());
    problem.check()?;
    check(problem, &a, &b, c)?;
    if problem.m == 0 || problem.n == 0 {
        let d = from_bytes(problem, &[]);
        return Ok(Product { d, config: None, steps: Vec::new(), quantized_a: None, quantized_b: None });
    }
    if problem.k == 0 {
        return no_products(gpu, compiler, &a, &b, c, problem);
    }
    let plan = Plan::with_options(gpu, compiler, problem, PlanOptions::default().workspace(true))?;
    let stream = plan.context().default_stream();
    let mut steps = Vec::new();
    let toolkit = (gpu, compiler);
    let (form_a, form_b) = (plan.scale_form(Side::A), plan.scale_form(Side::B));
    let (a, quantized_a) = upload::operand(&stream, toolkit, Side::A, &a, form_a, &mut steps)?;
    let (b, quantized_b) = upload::operand(&stream, toolkit, Side::B, &b, form_b, &mut steps)?;
    let product = plan.multiply(&a, &b, c, steps)?;
    Ok(Product { quantized_a, quantized_b, ..product })
}

/// K = 0 as K = 1 with zeros. Block scales, of which there are none, become 1, so that the sum stays
/// +0; scales at the end are applied to it as ever.
fn no_products(
    gpu: &Gpu,
    compiler: &Compiler,
    a: &HostOperand<'_>,
    b: &HostOperand<'_>,
    c: Option<&HostView<'_>>,
    problem: &Problem,
) -> Result<Product, HopperError> {
    let padded = Problem { k: 1, ..*problem };
    let at_end = problem.a.scales.k_block().is_none() && problem.b.scales.k_block().is_none();
    let plan = Plan::new(gpu, compiler, &padded)?;
    let zeros = |x: &HostOperand<'_>| {
        let (rows, _) = x.dim();
        let scales = match x {
            HostOperand::Scaled(x) if at_end => x.scales().to_owned(),
            _ => Array2::ones(x.spec().scales.scale_shape(rows, 1)),
        };
        (Array2::zeros((rows, 1)), scales)
    };
    let ((codes_a, scales_a), (codes_b, scales_b)) = (zeros(a), zeros(b));
    let view = |x: &HostOperand<'_>, codes, scales| ScaledView::new(x.spec().ty, x.spec().scales, codes, scales);
    let a = view(a, codes_a.view(), scales_a.view())?;
    let b = view(b, codes_b.view(), scales_b.view())?;
    let mut product = plan.run(&a, &b, c)?;
    product.steps.insert(0, HostStep::NoProducts);
    Ok(product)
}

impl Plan {
    /// Runs this plan on host matrices and waits for the result; allocates the workspace of a plan
    /// that needs one.
    ///
    /// # Errors
    /// As [`gemm_on_gpu`] for the data; [`HopperError::Cuda`], out of memory among them.
    pub fn run(
        &self,
        a: &ScaledView<'_>,
        b: &ScaledView<'_>,
        c: Option<&HostView<'_>>,
    ) -> Result<Product, HopperError> {
        let problem = self.problem();
        check(problem, &a.into(), &b.into(), c)?;
        let stream = self.context().default_stream();
        let mut steps = Vec::new();
        let a = upload::scaled(&stream, None, Side::A, a, self.scale_form(Side::A), &mut steps)?;
        let b = upload::scaled(&stream, None, Side::B, b, self.scale_form(Side::B), &mut steps)?;
        self.multiply(&a, &b, c, steps)
    }

    /// Launches on uploaded operands of the problem's shapes, and waits for the result.
    fn multiply(
        &self,
        a: &OnDevice,
        b: &OnDevice,
        c: Option<&HostView<'_>>,
        steps: Vec<HostStep>,
    ) -> Result<Product, HopperError> {
        let problem = self.problem();
        let stream = self.context().default_stream();
        let c = match c.filter(|_| problem.epilogue.reads_c()) {
            Some(c) => Some(upload::slice(&stream, &c.bytes())?),
            None => None,
        };
        let bytes = problem.m * problem.n * problem.d.size();
        // SAFETY: all of it is written by the fill below before anything reads it.
        let mut d = unsafe { stream.alloc::<u8>(bytes) }.map_err(HopperError::cuda("cuMemAlloc"))?;
        let workspace = match self.workspace_bytes() {
            0 => None,
            bytes => Some(stream.alloc_zeros::<u8>(bytes).map_err(HopperError::cuda("cuMemAlloc"))?),
        };
        {
            let (pointer_d, _d) = d.device_ptr_mut(&stream);
            // An element that the kernel missed would be NaN, not what lay there before.
            // SAFETY: `d` has this many bytes, and only this stream knows of it.
            unsafe { result::memset_d8_async(pointer_d, 0xFF, bytes, stream.cu_stream()) }
                .map_err(HopperError::cuda("cuMemsetD8Async"))?;
            // The guards order this launch after the uploads, and the downloads after it.
            let (pointer_a, _a) = a.codes.device_ptr(&stream);
            let (pointer_b, _b) = b.codes.device_ptr(&stream);
            let (pointer_sa, _sa) = a.scales.device_ptr(&stream);
            let (pointer_sb, _sb) = b.scales.device_ptr(&stream);
            let c = c.as_ref().map(|c| c.device_ptr(&stream));
            let workspace = workspace.as_ref().map(|workspace| workspace.device_ptr(&stream));
            let at = |pointer, stride| DeviceMatrix { pointer, stride };
            let operands = Operands {
                a: at(pointer_a, a.stride),
                b: at(pointer_b, b.stride),
                scale_a: at(pointer_sa, a.scale_stride),
                scale_b: at(pointer_sb, b.scale_stride),
                c: c.as_ref().map(|(pointer, _)| at(*pointer, problem.n)),
                d: at(pointer_d, problem.n),
            };
            let prepared =
                self.prepare_with_workspace(&operands, workspace.as_ref().map_or(0, |(pointer, _)| *pointer))?;
            // SAFETY: every buffer was made, above or by `upload`, with the problem's shape in these
            // strides, is initialised, overlaps no other and lives until the stream is waited for; the
            // workspace has been zeroed.
            unsafe { prepared.launch(&stream)? };
        }
        let stored = stream.clone_dtoh(&d).map_err(HopperError::cuda("cuMemcpyDtoH"))?;
        stream.synchronize().map_err(HopperError::cuda("cuStreamSynchronize"))?;
        let d = from_bytes(problem, &stored);
        Ok(Product { d, config: Some(self.config()), steps, quantized_a: None, quantized_b: None })
    }
}

/// D as it lies in memory.
fn from_bytes(problem: &Problem, stored: &[u8]) -> HostMatrix {
    let shape = (problem.m, problem.n);
    let size = problem.d.size();
    let element = |i: usize, j: usize| &stored[(i * problem.n + j) * size..][..size];
    let half = |(i, j)| {
        let bytes = element(i, j);
        u16::from_ne_bytes([bytes[0], bytes[1]])
    };
    match problem.d {
        OutputType::Bf16 => HostMatrix::Bf16(Array2::from_shape_fn(shape, |at| bf16::from_bits(half(at)))),
        OutputType::F16 => HostMatrix::F16(Array2::from_shape_fn(shape, |at| f16::from_bits(half(at)))),
        OutputType::F32 => HostMatrix::F32(Array2::from_shape_fn(shape, |(i, j)| {
            let bytes = element(i, j);
            f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Breaks if a copy that was made is called by another name than the field has for it.
    #[test]
    fn steps_say_what_became_of_scales() {
        use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
        for (side, from, to, text) in [
            (Side::A, Block1x128, ScaleForm::BlocksByRows, "1x128 scales of A transposed to [K/128][M] (M-major)"),
            (Side::B, Block1x128, ScaleForm::BlocksByRows, "1x128 scales of B transposed to [K/128][N] (N-major)"),
            (Side::A, Block128x128, ScaleForm::BlocksByRows, "128x128 scales of A repeated to [K/128][M] (M-major)"),
            (Side::B, Tensor, ScaleForm::Squares, "tensor scales of B repeated to [N/128][K/128]"),
            (Side::B, Tensor, ScaleForm::Rows, "tensor scales of B repeated to [N]"),
            (Side::A, Row, ScaleForm::BlocksByRows, "row scales of A repeated to [K/128][M] (M-major)"),
        ] {
            assert_eq!(HostStep::Scales { side, from, to }.to_string(), text);
        }
    }

    /// Breaks if bytes are taken for another element's.
    #[test]
    fn elements_are_where_they_are_stored() {
        let problem: Problem = "2x3x1 a=e4m3:row b=e4m3:row d=f32".parse().unwrap();
        let stored: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_ne_bytes()).collect();
        let expected = ndarray::array![[0.0f32, 1.0, 2.0], [3.0, 4.0, 5.0]];
        assert_eq!(from_bytes(&problem, &stored), HostMatrix::F32(expected));
    }
}
