//! A tensor of a mapped file as a source of elements.

use core::ops::Range;

use fp8gemm::problem::OutputType;
use fp8gemm_study::tensor::Source;

use crate::error::CliError;
use crate::files::{StoredType, TensorView};
use crate::operands::Operand;

/// The elements of a tensor, still in the file.
pub(super) enum Data<'f> {
    Numbers(Numbers<'f>),
    /// FP8 codes with their scales.
    Codes(Box<Operand<'f>>),
}

impl Data<'_> {
    pub(super) fn source(&self) -> Result<Box<dyn Source + '_>, CliError> {
        Ok(match self {
            Self::Numbers(numbers) => Box::new(*numbers),
            Self::Codes(operand) => Box::new(operand.view()?),
        })
    }
}

/// A matrix of F32, F16 or BF16.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'f>(pub(super) TensorView<'f>);

impl Source for Numbers<'_> {
    fn ty(&self) -> OutputType {
        match self.0.ty() {
            StoredType::Bf16 => OutputType::Bf16,
            StoredType::F16 => OutputType::F16,
            _ => OutputType::F32,
        }
    }

    fn dim(&self) -> (usize, usize) {
        self.0.matrix_shape().unwrap_or_default()
    }

    fn read(&self, row: usize, columns: Range<usize>, values: &mut [f32]) {
        self.0.widen(row, columns.start, values);
    }
}
