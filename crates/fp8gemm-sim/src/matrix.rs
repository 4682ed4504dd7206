//! C and D: matrices of bf16, f16 or f32, compared by their bits.

use fp8gemm_problem::OutputType;
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2};

use crate::round::{f32_to_bf16, f32_to_f16};

/// An owned matrix of one of the output types, row-major as computed.
#[derive(Clone, Debug, PartialEq)]
pub enum Matrix {
    /// bfloat16 elements.
    Bf16(Array2<bf16>),
    /// IEEE half elements.
    F16(Array2<f16>),
    /// f32 elements.
    F32(Array2<f32>),
}

/// A borrowed matrix of one of the output types, any strides.
#[derive(Clone, Debug)]
pub enum MatrixView<'a> {
    /// bfloat16 elements.
    Bf16(ArrayView2<'a, bf16>),
    /// IEEE half elements.
    F16(ArrayView2<'a, f16>),
    /// f32 elements.
    F32(ArrayView2<'a, f32>),
}

macro_rules! each {
    ($value:expr, $array:ident => $body:expr) => {
        match $value {
            Self::Bf16($array) => $body,
            Self::F16($array) => $body,
            Self::F32($array) => $body,
        }
    };
}

impl Matrix {
    /// Casts f32 values to `ty`, one rounding to nearest even, NaN to the canonical one.
    pub fn from_f32(values: Array2<f32>, ty: OutputType) -> Self {
        match ty {
            OutputType::Bf16 => Self::Bf16(values.mapv(f32_to_bf16)),
            OutputType::F16 => Self::F16(values.mapv(f32_to_f16)),
            OutputType::F32 => Self::F32(values),
        }
    }

    /// A view of the whole matrix.
    pub fn view(&self) -> MatrixView<'_> {
        match self {
            Self::Bf16(x) => MatrixView::Bf16(x.view()),
            Self::F16(x) => MatrixView::F16(x.view()),
            Self::F32(x) => MatrixView::F32(x.view()),
        }
    }

    /// Element type.
    pub fn ty(&self) -> OutputType {
        self.view().ty()
    }

    /// Number of rows and of columns.
    pub fn dim(&self) -> (usize, usize) {
        each!(self, x => x.dim())
    }

    /// The values, widened exactly.
    pub fn to_f32(&self) -> Array2<f32> {
        self.view().to_f32()
    }
}

impl<'a> MatrixView<'a> {
    /// Element type.
    pub fn ty(&self) -> OutputType {
        match self {
            Self::Bf16(_) => OutputType::Bf16,
            Self::F16(_) => OutputType::F16,
            Self::F32(_) => OutputType::F32,
        }
    }

    /// Number of rows and of columns.
    pub fn dim(&self) -> (usize, usize) {
        each!(self, x => x.dim())
    }

    /// One element widened exactly to f32 (a NaN keeps its payload, shifted up).
    ///
    /// # Panics
    /// As array indexing does, outside [`dim`](Self::dim).
    pub fn get(&self, row: usize, column: usize) -> f32 {
        match self {
            Self::Bf16(x) => x[(row, column)].to_f32(),
            Self::F16(x) => x[(row, column)].to_f32(),
            Self::F32(x) => x[(row, column)],
        }
    }

    /// The bits of one element, in the low 16 or all 32 bits.
    ///
    /// # Panics
    /// As array indexing does, outside [`dim`](Self::dim).
    pub fn bits(&self, row: usize, column: usize) -> u32 {
        match self {
            Self::Bf16(x) => u32::from(x[(row, column)].to_bits()),
            Self::F16(x) => u32::from(x[(row, column)].to_bits()),
            Self::F32(x) => x[(row, column)].to_bits(),
        }
    }

    /// The values, widened exactly.
    pub fn to_f32(&self) -> Array2<f32> {
        match self {
            Self::Bf16(x) => x.mapv(bf16::to_f32),
            Self::F16(x) => x.mapv(f16::to_f32),
            Self::F32(x) => x.to_owned(),
        }
    }

    /// The chosen rows, in the order given.
    ///
    /// # Panics
    /// As array indexing does, if a row does not exist.
    pub fn gather_rows(&self, rows: &[usize]) -> Matrix {
        let axis = ndarray::Axis(0);
        match self {
            Self::Bf16(x) => Matrix::Bf16(x.select(axis, rows)),
            Self::F16(x) => Matrix::F16(x.select(axis, rows)),
            Self::F32(x) => Matrix::F32(x.select(axis, rows)),
        }
    }

    /// Whether type, shape and every bit are equal: NaN payloads and the sign of zero count.
    pub fn bits_equal(&self, other: &MatrixView<'_>) -> bool {
        if self.dim() != other.dim() {
            return false;
        }
        match (self, other) {
            (Self::Bf16(x), MatrixView::Bf16(y)) => x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits()),
            (Self::F16(x), MatrixView::F16(y)) => x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits()),
            (Self::F32(x), MatrixView::F32(y)) => x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits()),
            _ => false,
        }
    }
}
