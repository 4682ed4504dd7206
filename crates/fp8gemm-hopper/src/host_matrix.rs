//! Matrices in host memory, as [`gemm_on_gpu`](crate::gemm_on_gpu) takes and gives them.

use fp8gemm_formats::ScaledView;
use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_problem::{OperandSpec, OutputType, Problem};
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2};

use crate::upload::layout_of;
use crate::{HopperError, OperandLayout, Quantization};

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

/// A borrowed matrix of bf16, f16 or f32, any strides: C, or an operand that is yet to be quantised.
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

    /// Which index runs fastest, if this is quantised.
    fn layout(&self) -> OperandLayout {
        match self {
            Self::Bf16(x) => layout_of(*x),
            Self::F16(x) => layout_of(*x),
            Self::F32(x) => layout_of(*x),
        }
    }

    /// The elements row by row.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bf16(x) => x.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            Self::F16(x) => x.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            Self::F32(x) => x.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        }
    }
}

/// An operand in host memory, `[rows, K]` with any strides.
///
/// ```
/// use fp8gemm_formats::quantize::{Quantizer, Recipe};
/// use fp8gemm_hopper::{HostOperand, HostView};
/// use ndarray::Array2;
///
/// let x = Array2::<f32>::zeros((64, 256));
/// let a = HostOperand::Raw { matrix: HostView::F32(x.view()), quantizer: Quantizer::new(Recipe::DeepGemm) };
/// assert_eq!((a.dim(), a.spec().to_string()), ((64, 256), "e4m3:1x128".to_owned()));
/// ```
#[derive(Clone, Debug)]
pub enum HostOperand<'a> {
    /// FP8 codes with their scales.
    Scaled(ScaledView<'a>),
    /// Numbers that are uploaded as they are and quantised on the GPU, by a recipe and for scales that
    /// [`Quantization`] computes. Codes and scales, and so D, have the bits of
    /// [`Quantizer::quantize`] on the CPU (of a scale that is NaN, the sign and payload may differ).
    Raw {
        /// The numbers.
        matrix: HostView<'a>,
        /// Recipe (`deepgemm`, `deepgemm-ue8m0`), scale layout (1x128, 128x128) and code type.
        quantizer: Quantizer,
    },
}

impl HostOperand<'_> {
    /// Rows and K.
    pub fn dim(&self) -> (usize, usize) {
        match self {
            Self::Scaled(x) => (x.rows(), x.columns()),
            Self::Raw { matrix, .. } => matrix.dim(),
        }
    }

    /// Type and scale layout that are multiplied.
    pub fn spec(&self) -> OperandSpec {
        match self {
            Self::Scaled(x) => OperandSpec { ty: x.ty(), scales: x.layout() },
            Self::Raw { quantizer, .. } => OperandSpec { ty: quantizer.ty, scales: quantizer.layout },
        }
    }

    /// How it is quantised on the GPU, from `[K, rows]` where that is how it lies in memory; `None` for
    /// codes.
    pub fn quantization(&self) -> Option<Quantization> {
        let Self::Raw { matrix, quantizer } = self else { return None };
        let ((rows, k), input) = (matrix.dim(), matrix.ty());
        Some(Quantization { rows, k, input, layout: matrix.layout(), quantizer: *quantizer })
    }

    /// Whether there is a kernel for what must be quantised. Needs no GPU.
    ///
    /// # Errors
    /// Those of [`Quantization::check`]; none for codes.
    pub fn check(&self) -> Result<(), HopperError> {
        self.quantization().map_or(Ok(()), |quantization| quantization.check())
    }
}

impl<'a> From<&ScaledView<'a>> for HostOperand<'a> {
    fn from(operand: &ScaledView<'a>) -> Self {
        Self::Scaled(*operand)
    }
}

/// Whether the data is what the problem says.
pub(crate) fn check(
    problem: &Problem,
    a: &HostOperand<'_>,
    b: &HostOperand<'_>,
    c: Option<&HostView<'_>>,
) -> Result<(), HopperError> {
    for (argument, found, given, spec, rows) in
        [("A", a.dim(), a.spec(), problem.a, problem.m), ("B", b.dim(), b.spec(), problem.b, problem.n)]
    {
        let expected = (rows, problem.k);
        if found != expected {
            return Err(HopperError::Shape { argument, found, expected });
        }
        if given != spec {
            return Err(HopperError::Type { argument, found: given.to_string(), expected: spec.to_string() });
        }
    }
    a.check()?;
    b.check()?;
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
    use fp8gemm_problem::{OperandType, ScaleLayout};

    /// Breaks if numbers that are not the problem's, or for which there is no kernel, are uploaded.
    #[test]
    fn numbers_must_be_the_problems() {
        let problem: Problem = "3x4x200 a=e4m3:1x128 b=e5m2:128x128 d=f32".parse().unwrap();
        let (x, y) = (Array2::<bf16>::zeros((3, 200)), Array2::<f32>::zeros((4, 200)));
        let a = |quantizer: &str| HostOperand::Raw {
            matrix: HostView::Bf16(x.view()),
            quantizer: quantizer.parse().unwrap(),
        };
        let b = |quantizer: &str| HostOperand::Raw {
            matrix: HostView::F32(y.view()),
            quantizer: quantizer.parse().unwrap(),
        };
        let (good_a, good_b) = (a("deepgemm:1x128:e4m3"), b("deepgemm-ue8m0:128x128:e5m2"));
        assert!(check(&problem, &good_a, &good_b, None).is_ok());
        // One side may be FP8 already.
        let codes = ScaledMatrix::new(
            OperandType::E4m3,
            ScaleLayout::Block1x128,
            Array2::zeros((3, 200)),
            Array2::ones((3, 2)),
        );
        assert!(check(&problem, &HostOperand::from(&codes.unwrap().view()), &good_b, None).is_ok());
        let swapped = check(&problem, &b("deepgemm:1x128:e4m3"), &good_b, None);
        assert!(matches!(swapped, Err(HopperError::Shape { argument: "A", found: (4, 200), expected: (3, 200) })));
        for (a, b, argument) in [
            (a("deepgemm:128x128:e4m3"), good_b.clone(), "A"),
            (a("deepgemm:1x128:e5m2"), good_b.clone(), "A"),
            (good_a.clone(), b("deepgemm:128x128:e4m3"), "B"),
        ] {
            match check(&problem, &a, &b, None) {
                Err(HopperError::Type { argument: found, .. }) => assert_eq!(found, argument),
                other => panic!("{other:?}"),
            }
        }
        let refused = check(&problem, &a("te-block:1x128:e4m3"), &good_b, None);
        assert!(matches!(refused, Err(HopperError::Quantizer { .. })), "{refused:?}");
    }

    /// Breaks if data that is not the problem's would be uploaded and computed as something else.
    #[test]
    fn data_must_be_the_problems() {
        let matrix = |rows, k| ScaledMatrix::unscaled(OperandType::E4m3, Array2::zeros((rows, k)));
        let problem: Problem = "3x4x5 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1".parse().unwrap();
        let (a, b, c) = (matrix(3, 5), matrix(4, 5), Array2::<f32>::zeros((3, 4)));
        let c = HostView::F32(c.view());
        assert!(check(&problem, &(&a.view()).into(), &(&b.view()).into(), Some(&c)).is_ok());
        let swapped = check(&problem, &(&b.view()).into(), &(&a.view()).into(), Some(&c));
        assert!(matches!(swapped, Err(HopperError::Shape { argument: "A", found: (4, 5), expected: (3, 5) })));
        assert!(matches!(
            check(&problem, &(&a.view()).into(), &(&b.view()).into(), None),
            Err(HopperError::PresenceOfC { found: None, expected: Some(OutputType::F32) })
        ));
        let bf16_c = Problem { c: Some(OutputType::Bf16), ..problem };
        assert!(matches!(
            check(&bf16_c, &(&a.view()).into(), &(&b.view()).into(), Some(&c)),
            Err(HopperError::Type { argument: "C", .. })
        ));
        let e5m2 = Problem { b: OperandSpec { ty: OperandType::E5m2, ..problem.b }, ..problem };
        assert!(matches!(
            check(&e5m2, &(&a.view()).into(), &(&b.view()).into(), Some(&c)),
            Err(HopperError::Type { argument: "B", .. })
        ));
    }

    /// Breaks if a recipe or layout without a kernel is found out only after something was uploaded.
    #[test]
    fn quantisers_without_a_kernel_are_refused() {
        let x = Array2::<bf16>::zeros((3, 200));
        let raw = |quantizer: &str| HostOperand::Raw {
            matrix: HostView::Bf16(x.view()),
            quantizer: quantizer.parse().unwrap(),
        };
        for good in ["deepgemm:1x128", "deepgemm:128x128:e5m2", "deepgemm-ue8m0:1x128"] {
            assert!(raw(good).check().is_ok(), "{good}");
        }
        for bad in ["deepgemm-v1:1x128", "deepgemm:row", "te-block:1x128", "vllm-token:row"] {
            let error = raw(bad).check().unwrap_err();
            assert!(matches!(error, HopperError::Quantizer { .. }), "{error}");
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
