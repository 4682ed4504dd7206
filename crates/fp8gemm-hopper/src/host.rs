//! Host matrices in, host matrix out: for the command line, tests and first tries. Everything is
//! copied to the GPU and back on the default stream; engines keep their data there and use
//! [`Plan::gemm`] or [`Plan::launch`].

use core::fmt;

use cudarc::driver::{DevicePtr, DevicePtrMut, result};
use fp8gemm_formats::ScaledView;
use fp8gemm_jit::{Compiler, KernelConfig};
use fp8gemm_problem::{OperandSpec, OutputType, Problem, ScaleLayout, Side};
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2};

use crate::scales::ScaleForm;
use crate::upload::{self, Transposer};
use crate::{DeviceMatrix, DeviceStep, Gpu, HopperError, Operands, Plan};

/// An owned D of one of the output types.
#[derive(Clone, Debug, PartialEq)]
pub enum HostMatrix {
    /// bfloat16 elements.
    Bf16(Array2<bf16>),
    /// IEEE half elements.
    F16(Array2<f16>),
    /// f32 elements.
    F32(Array2<f32>),
}

/// A borrowed C of one of the output types, any strides.
#[derive(Clone, Debug)]
pub enum HostView<'a> {
    /// bfloat16 elements.
    Bf16(ArrayView2<'a, bf16>),
    /// IEEE half elements.
    F16(ArrayView2<'a, f16>),
    /// f32 elements.
    F32(ArrayView2<'a, f32>),
}

impl HostView<'_> {
    /// Element type.
    pub fn ty(&self) -> OutputType {
        match self {
            Self::Bf16(_) => OutputType::Bf16,
            Self::F16(_) => OutputType::F16,
            Self::F32(_) => OutputType::F32,
        }
    }

    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        match self {
            Self::Bf16(x) => x.dim(),
            Self::F16(x) => x.dim(),
            Self::F32(x) => x.dim(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bf16(x) => x.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            Self::F16(x) => x.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            Self::F32(x) => x.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        }
    }
}

/// A copy that the shape made necessary, besides those to the GPU and back.
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
    /// An operand was uploaded as it is and brought into K-major rows there.
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
    /// D has rows of `stride` elements on the GPU and was copied from there.
    PaddedD {
        /// Elements between its rows on the GPU.
        stride: usize,
    },
}

impl fmt::Display for HostStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repacked { side, stride } => {
                write!(f, "{side} copied to rows of {stride} bytes (contiguous rows, multiples of 16 bytes, for TMA)")
            }
            Self::OnGpu { side, step } => write!(f, "{side}: {step}"),
            Self::Scales { side, from, to } => write!(f, "{from} scales of {side} brought into form {to:?}"),
            Self::NoProducts => write!(f, "K = 0 computed as one column of zeros"),
            Self::PaddedD { stride } => {
                write!(f, "D computed in rows of {stride} elements (multiples of 16 bytes, for TMA)")
            }
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
    /// Copies beyond the plain ones.
    pub steps: Vec<HostStep>,
}

/// Computes `D = alpha A B^T + beta C` on the GPU from host matrices, by the problem's policy.
///
/// Any M, N and any strides; where TMA's rules do not hold, the data is copied to padded rows (see
/// [`Product::steps`]). With M or N of 0, D is empty and nothing runs; with K of 0, D is what the
/// epilogue makes of a sum of 0.
///
/// # Errors
/// [`HopperError::Shape`], [`HopperError::Type`], [`HopperError::PresenceOfC`] where the data is not
/// the problem's; those of [`Plan::new`] and of [`Plan::run`].
pub fn gemm_on_gpu(
    gpu: &Gpu,
    compiler: &Compiler,
    a: &ScaledView<'_>,
    b: &ScaledView<'_>,
    c: Option<&HostView<'_>>,
    problem: &Problem,
) -> Result<Product, HopperError> {
    problem.check()?;
    check(problem, a, b, c)?;
    if problem.m == 0 || problem.n == 0 {
        let d = from_bytes(problem, &[], problem.n);
        return Ok(Product { d, config: None, steps: Vec::new() });
    }
    if problem.k == 0 {
        return no_products(gpu, compiler, a, b, c, problem);
    }
    Plan::new(gpu, compiler, problem)?.run_with(Some((gpu, compiler)), a, b, c)
}

/// K = 0 as K = 1 with zeros. Block scales, of which there are none, become 1, so that the sum stays
/// +0; scales at the end are applied to it as ever.
fn no_products(
    gpu: &Gpu,
    compiler: &Compiler,
    a: &ScaledView<'_>,
    b: &ScaledView<'_>,
    c: Option<&HostView<'_>>,
    problem: &Problem,
) -> Result<Product, HopperError> {
    let padded = Problem { k: 1, ..*problem };
    let at_end = a.layout().k_block().is_none() && b.layout().k_block().is_none();
    let plan = Plan::new(gpu, compiler, &padded)?;
    let zeros = |x: &ScaledView<'_>| {
        let ones = Array2::ones(x.layout().scale_shape(x.rows(), 1));
        (Array2::zeros((x.rows(), 1)), if at_end { x.scales().to_owned() } else { ones })
    };
    let ((codes_a, scales_a), (codes_b, scales_b)) = (zeros(a), zeros(b));
    let view = |x: &ScaledView<'_>, codes, scales| ScaledView::new(x.ty(), x.layout(), codes, scales);
    let a = view(a, codes_a.view(), scales_a.view())?;
    let b = view(b, codes_b.view(), scales_b.view())?;
    let mut product = plan.run(&a, &b, c)?;
    product.steps.insert(0, HostStep::NoProducts);
    Ok(product)
}

impl Plan {
    /// Runs this plan on host matrices and waits for the result.
    ///
    /// # Errors
    /// As [`gemm_on_gpu`] for the data; [`HopperError::Cuda`], out of memory among them.
    pub fn run(
        &self,
        a: &ScaledView<'_>,
        b: &ScaledView<'_>,
        c: Option<&HostView<'_>>,
    ) -> Result<Product, HopperError> {
        self.run_with(None, a, b, c)
    }

    /// `transposer`: with what a column-major operand may be transposed on the GPU.
    fn run_with(
        &self,
        transposer: Transposer<'_>,
        a: &ScaledView<'_>,
        b: &ScaledView<'_>,
        c: Option<&HostView<'_>>,
    ) -> Result<Product, HopperError> {
        let problem = self.problem();
        check(problem, a, b, c)?;
        let stream = self.context().default_stream();
        let mut steps = Vec::new();
        let (codes_a, stride_a) = upload::codes(&stream, transposer, Side::A, a, &mut steps)?;
        let (codes_b, stride_b) = upload::codes(&stream, transposer, Side::B, b, &mut steps)?;
        let (form_a, form_b) = (self.scale_form(Side::A), self.scale_form(Side::B));
        let (scales_a, scale_stride_a) = upload::scales(&stream, form_a, Side::A, a, &mut steps)?;
        let (scales_b, scale_stride_b) = upload::scales(&stream, form_b, Side::B, b, &mut steps)?;
        let c = match c.filter(|_| problem.epilogue.reads_c()) {
            Some(c) => Some(upload::slice(&stream, &c.bytes())?),
            None => None,
        };
        let size = problem.d.size();
        let stride_d = problem.n.next_multiple_of(16 / size);
        if stride_d != problem.n {
            steps.push(HostStep::PaddedD { stride: stride_d });
        }
        let bytes = problem.m * stride_d * size;
        // SAFETY: all of it is written by the fill below before anything reads it.
        let mut d = unsafe { stream.alloc::<u8>(bytes) }.map_err(HopperError::cuda("cuMemAlloc"))?;
        {
            let (pointer_d, _d) = d.device_ptr_mut(&stream);
            // An element that the kernel missed would be NaN, not what lay there before.
            // SAFETY: `d` has this many bytes, and only this stream knows of it.
            unsafe { result::memset_d8_async(pointer_d, 0xFF, bytes, stream.cu_stream()) }
                .map_err(HopperError::cuda("cuMemsetD8Async"))?;
            // The guards order this launch after the uploads, and the downloads after it.
            let (pointer_a, _a) = codes_a.device_ptr(&stream);
            let (pointer_b, _b) = codes_b.device_ptr(&stream);
            let (pointer_sa, _sa) = scales_a.device_ptr(&stream);
            let (pointer_sb, _sb) = scales_b.device_ptr(&stream);
            let c = c.as_ref().map(|c| c.device_ptr(&stream));
            let at = |pointer, stride| DeviceMatrix { pointer, stride };
            let operands = Operands {
                a: at(pointer_a, stride_a),
                b: at(pointer_b, stride_b),
                scale_a: at(pointer_sa, scale_stride_a),
                scale_b: at(pointer_sb, scale_stride_b),
                c: c.as_ref().map(|(pointer, _)| at(*pointer, problem.n)),
                d: at(pointer_d, stride_d),
            };
            // SAFETY: every buffer was made above with the problem's shape in these strides, is
            // initialised, overlaps no other and lives until the stream is waited for below.
            unsafe { self.launch(&stream, &operands)? };
        }
        let stored = stream.clone_dtoh(&d).map_err(HopperError::cuda("cuMemcpyDtoH"))?;
        stream.synchronize().map_err(HopperError::cuda("cuStreamSynchronize"))?;
        Ok(Product { d: from_bytes(problem, &stored, stride_d), config: Some(self.config()), steps })
    }
}

/// The first N elements of each stored row.
fn from_bytes(problem: &Problem, stored: &[u8], stride: usize) -> HostMatrix {
    let shape = (problem.m, problem.n);
    let size = problem.d.size();
    let element = |i: usize, j: usize| &stored[(i * stride + j) * size..][..size];
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

/// Whether the data is what the problem says.
fn check(
    problem: &Problem,
    a: &ScaledView<'_>,
    b: &ScaledView<'_>,
    c: Option<&HostView<'_>>,
) -> Result<(), HopperError> {
    let shape_and_spec = |x: &ScaledView<'_>| ((x.rows(), x.columns()), OperandSpec { ty: x.ty(), scales: x.layout() });
    for (argument, (found, given), spec, rows) in
        [("A", shape_and_spec(a), problem.a, problem.m), ("B", shape_and_spec(b), problem.b, problem.n)]
    {
        let expected = (rows, problem.k);
        if found != expected {
            return Err(HopperError::Shape { argument, found, expected });
        }
        if given != spec {
            return Err(HopperError::Type { argument, found: given.to_string(), expected: spec.to_string() });
        }
    }
    let (found, expected) = (c.map(HostView::ty), problem.c);
    if found.is_some() != expected.is_some() {
        return Err(HopperError::PresenceOfC { found, expected });
    }
    if let (Some(c), Some(ty)) = (c, expected) {
        if c.ty() != ty {
            return Err(HopperError::Type { argument: "C", found: c.ty().to_string(), expected: ty.to_string() });
        }
        if c.dim() != (problem.m, problem.n) {
            return Err(HopperError::Shape { argument: "C", found: c.dim(), expected: (problem.m, problem.n) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm_formats::ScaledMatrix;
    use fp8gemm_problem::OperandType;

    /// Breaks if data that is not the problem's would be uploaded and computed as something else.
    #[test]
    fn data_must_be_the_problems() {
        let matrix = |rows, k| ScaledMatrix::unscaled(OperandType::E4m3, Array2::zeros((rows, k)));
        let problem: Problem = "3x4x5 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1".parse().unwrap();
        let (a, b, c) = (matrix(3, 5), matrix(4, 5), Array2::<f32>::zeros((3, 4)));
        let c = HostView::F32(c.view());
        assert!(check(&problem, &a.view(), &b.view(), Some(&c)).is_ok());
        let swapped = check(&problem, &b.view(), &a.view(), Some(&c));
        assert!(matches!(swapped, Err(HopperError::Shape { argument: "A", found: (4, 5), expected: (3, 5) })));
        assert!(matches!(
            check(&problem, &a.view(), &b.view(), None),
            Err(HopperError::PresenceOfC { found: None, expected: Some(OutputType::F32) })
        ));
        let bf16_c = Problem { c: Some(OutputType::Bf16), ..problem };
        assert!(matches!(check(&bf16_c, &a.view(), &b.view(), Some(&c)), Err(HopperError::Type { argument: "C", .. })));
        let e5m2 = Problem { b: OperandSpec { ty: OperandType::E5m2, ..problem.b }, ..problem };
        assert!(matches!(check(&e5m2, &a.view(), &b.view(), Some(&c)), Err(HopperError::Type { argument: "B", .. })));
    }

    /// Breaks if padding of a row is taken for the next row's elements.
    #[test]
    fn padding_is_dropped() {
        let problem: Problem = "2x3x1 a=e4m3:row b=e4m3:row d=f32".parse().unwrap();
        let stored: Vec<u8> = (0..8).flat_map(|i| (i as f32).to_ne_bytes()).collect();
        let expected = ndarray::array![[0.0f32, 1.0, 2.0], [4.0, 5.0, 6.0]];
        assert_eq!(from_bytes(&problem, &stored, 4), HostMatrix::F32(expected));
    }
}
