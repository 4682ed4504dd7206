//! An operand of a GEMM: codes of a file, or numbers that are quantised where D is computed.

use std::sync::OnceLock;

use fp8gemm::convert::host_view;
use fp8gemm::formats::quantize::Quantizer;
use fp8gemm::formats::{ScaledMatrix, ScaledView};
use fp8gemm::hopper::HostOperand;
use fp8gemm::problem::{OperandSpec, OperandType, ScaleLayout};
use fp8gemm::sim::Matrix;
use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use super::quantize;
use crate::error::CliError;

/// An operand, ready to be multiplied.
pub(crate) struct Operand<'f> {
    /// Name of its tensor.
    pub(crate) tensor: String,
    /// Name of the tensor of its scales, where there is one.
    pub(crate) scale_tensor: Option<String>,
    data: Data<'f>,
}

pub(super) enum Data<'f> {
    Stored { ty: OperandType, layout: ScaleLayout, codes: ArrayView2<'f, u8>, scales: Array2<f32> },
    Numbers(Numbers),
}

/// Numbers that this run quantises: a GPU while it multiplies, or else the CPU when codes are asked for.
/// Both give the same codes and scales.
pub(super) struct Numbers {
    original: Matrix,
    quantizer: Quantizer,
    quantized: OnceLock<(ScaledMatrix, Place)>,
}

/// Where an operand was quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    Cpu,
    Gpu,
}

impl Numbers {
    /// Quantises at once what no kernel quantises, so that what is wrong with it is said first.
    pub(super) fn new(tensor: &str, original: Matrix, quantizer: Quantizer) -> Result<Self, CliError> {
        let numbers = Self { original, quantizer, quantized: OnceLock::new() };
        if numbers.raw().check().is_err() {
            numbers.quantized(tensor)?;
        }
        Ok(numbers)
    }

    fn raw(&self) -> HostOperand<'_> {
        HostOperand::Raw { matrix: host_view(&self.original.view()), quantizer: self.quantizer }
    }

    fn quantized(&self, tensor: &str) -> Result<&ScaledMatrix, CliError> {
        if let Some((matrix, _)) = self.quantized.get() {
            return Ok(matrix);
        }
        let matrix = quantize(&self.original, self.quantizer)
            .map_err(|source| CliError::Quantize { tensor: tensor.to_owned(), source })?;
        Ok(&self.quantized.get_or_init(|| (matrix, Place::Cpu)).0)
    }
}

impl<'f> Operand<'f> {
    pub(super) fn new(tensor: String, scale_tensor: Option<String>, data: Data<'f>) -> Self {
        Self { tensor, scale_tensor, data }
    }

    /// Rows and K.
    pub(crate) fn dim(&self) -> (usize, usize) {
        match &self.data {
            Data::Stored { codes, .. } => codes.dim(),
            Data::Numbers(numbers) => numbers.original.dim(),
        }
    }

    /// Type and scales, quantised yet or not.
    pub(crate) fn spec(&self) -> OperandSpec {
        match &self.data {
            Data::Stored { ty, layout, .. } => OperandSpec { ty: *ty, scales: *layout },
            Data::Numbers(Numbers { quantizer, .. }) => OperandSpec { ty: quantizer.ty, scales: quantizer.layout },
        }
    }

    /// The same with the scales read as another layout, as in [`view_as`](Self::view_as).
    pub(super) fn spec_as(&self, layout: ScaleLayout) -> OperandSpec {
        match &self.data {
            Data::Stored { ty, .. } => OperandSpec { ty: *ty, scales: layout },
            Data::Numbers(_) => self.spec(),
        }
    }

    /// Codes and scales, quantised on the CPU if nobody did it yet.
    pub(crate) fn view(&self) -> Result<ScaledView<'_>, CliError> {
        self.view_as(self.spec().scales)
    }

    /// The operand with its scales read as another layout that their shape can mean. What is
    /// quantised in this run has one layout only.
    pub(crate) fn view_as(&self, layout: ScaleLayout) -> Result<ScaledView<'_>, CliError> {
        match &self.data {
            // The shapes were checked when this was made.
            Data::Stored { ty, codes, scales, .. } => ScaledView::new(*ty, layout, *codes, scales.view())
                .map_err(|source| CliError::Quantize { tensor: self.tensor.clone(), source }),
            Data::Numbers(numbers) => Ok(numbers.quantized(&self.tensor)?.view()),
        }
    }

    /// What a GPU is given: the numbers, if it has a kernel that quantises them and nobody did so yet;
    /// else codes and scales.
    pub(crate) fn for_gpu(&self, layout: ScaleLayout) -> Result<HostOperand<'_>, CliError> {
        match &self.data {
            Data::Numbers(numbers) if numbers.quantized.get().is_none() => Ok(numbers.raw()),
            _ => Ok(HostOperand::Scaled(self.view_as(layout)?)),
        }
    }

    /// Keeps what a GPU has quantised, if nobody quantised before.
    pub(crate) fn keep(&self, quantized: ScaledMatrix) {
        if let Data::Numbers(numbers) = &self.data {
            numbers.quantized.get_or_init(|| (quantized, Place::Gpu));
        }
    }

    /// Where this run quantised it, if it did.
    pub(crate) fn quantized_on(&self) -> Option<Place> {
        match &self.data {
            Data::Stored { .. } => None,
            Data::Numbers(numbers) => numbers.quantized.get().map(|(_, place)| *place),
        }
    }

    /// The numbers before quantisation, and how they are quantised, where this run does it.
    pub(crate) fn original(&self) -> Option<(&Matrix, Quantizer)> {
        match &self.data {
            Data::Stored { .. } => None,
            Data::Numbers(numbers) => Some((&numbers.original, numbers.quantizer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operand(quantizer: &str) -> Operand<'static> {
        let original = Matrix::F32(Array2::from_shape_fn((3, 200), |(i, j)| (i * 200 + j) as f32 - 250.0));
        let numbers = Numbers::new("x", original, quantizer.parse().unwrap()).unwrap();
        Operand::new("x".to_owned(), None, Data::Numbers(numbers))
    }

    /// Breaks if a GPU is given numbers that it has no kernel for, codes where it could quantise, or
    /// numbers that the CPU has quantised already.
    #[test]
    fn what_a_gpu_is_given() {
        let layout = ScaleLayout::Block1x128;
        for quantizer in ["deepgemm", "deepgemm-ue8m0:1x128:e5m2", "deepgemm:128x128"] {
            let x = operand(quantizer);
            assert_eq!(x.quantized_on(), None, "{quantizer}");
            assert!(matches!(x.for_gpu(layout), Ok(HostOperand::Raw { .. })), "{quantizer}");
            x.view().unwrap();
            assert_eq!(x.quantized_on(), Some(Place::Cpu), "{quantizer}");
            assert!(matches!(x.for_gpu(layout), Ok(HostOperand::Scaled(_))), "{quantizer}");
        }
        for quantizer in ["te-block", "vllm-token", "deepgemm-v1"] {
            let x = operand(quantizer);
            assert_eq!(x.quantized_on(), Some(Place::Cpu), "{quantizer}");
            assert!(matches!(x.for_gpu(layout), Ok(HostOperand::Scaled(_))), "{quantizer}");
        }
    }

    /// Breaks if what a GPU quantised is quantised again, or replaces what the CPU did.
    #[test]
    fn what_a_gpu_quantised_is_kept() {
        let (x, y) = (operand("deepgemm"), operand("deepgemm"));
        let mut codes = y.view().unwrap().codes().to_owned();
        codes[(0, 0)] ^= 1;
        let spec = x.spec();
        let scales = y.view().unwrap().scales().to_owned();
        let other = ScaledMatrix::new(spec.ty, spec.scales, codes, scales).unwrap();
        for z in [&x, &y] {
            z.keep(other.clone());
        }
        assert_eq!((x.quantized_on(), y.quantized_on()), (Some(Place::Gpu), Some(Place::Cpu)));
        assert_eq!(x.view().unwrap().codes(), other.codes());
        assert_ne!(y.view().unwrap().codes(), other.codes());
    }

    /// Breaks if the problem that is announced before quantising is another than what is computed.
    #[test]
    fn specs_need_no_codes() {
        for quantizer in ["deepgemm:128x128:e5m2", "vllm-token"] {
            let x = operand(quantizer);
            let (spec, dim) = (x.spec(), x.dim());
            let view = x.view().unwrap();
            assert_eq!((spec.ty, spec.scales, dim), (view.ty(), view.layout(), (view.rows(), view.columns())));
        }
    }
}
