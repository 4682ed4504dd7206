//! One tensor of a file: its type, its shape, and its bytes as a matrix.

use core::fmt;
use core::ops::Range;

use fp8gemm::formats::E8m0;
use fp8gemm::formats::quantize::Element;
use fp8gemm::problem::OperandType;
use fp8gemm::sim::Matrix;
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2, ShapeBuilder};

use super::{FileError, TensorFault};

/// Element type of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// FP8 codes.
    Fp8(OperandType),
    /// 8-bit powers of two, as MX scales are.
    E8m0,
    /// Plain bytes, which may be FP8 codes.
    U8,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
    /// Anything else, by its name in the file.
    Other(String),
}

impl StoredType {
    /// Bytes of an element, where it is a type that can be used.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::Fp8(_) | Self::E8m0 | Self::U8 => Some(1),
            Self::Bf16 | Self::F16 => Some(2),
            Self::F32 => Some(4),
            Self::Other(_) => None,
        }
    }

    /// Whether it holds numbers that can be quantised.
    pub fn is_float(&self) -> bool {
        matches!(self, Self::Bf16 | Self::F16 | Self::F32)
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fp8(OperandType::E4m3) => "F8_E4M3",
            Self::Fp8(OperandType::E5m2) => "F8_E5M2",
            Self::E8m0 => "F8_E8M0",
            Self::U8 => "U8",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F32 => "F32",
            Self::Other(name) => name,
        })
    }
}

/// What a header says of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub ty: StoredType,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Whether the first index moves fastest (Fortran order), not the last.
    pub fortran: bool,
    /// Where its bytes are in the file.
    pub data: Range<usize>,
}

/// A tensor with its bytes.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    info: &'a TensorInfo,
    bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// `bytes` are those of `info.data`.
    pub(super) fn new(info: &'a TensorInfo, bytes: &'a [u8]) -> Self {
        Self { info, bytes }
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        &self.info.name
    }

    /// Its element type.
    pub fn ty(&self) -> &'a StoredType {
        &self.info.ty
    }

    /// Its shape.
    pub fn shape(&self) -> &'a [usize] {
        &self.info.shape
    }

    /// Its bytes, in the order of the file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Rows and columns of a matrix that has some.
    ///
    /// # Errors
    /// [`TensorFault::NotMatrix`] and [`TensorFault::Empty`].
    pub fn matrix_shape(&self) -> Result<(usize, usize), FileError> {
        match self.dim()? {
            (rows, columns) if rows > 0 && columns > 0 => Ok((rows, columns)),
            _ => Err(TensorFault::Empty { shape: self.shape().to_vec() }.at(self)),
        }
    }

    /// Rows and columns of a matrix, which may have none.
    ///
    /// # Errors
    /// [`TensorFault::NotMatrix`].
    pub fn dim(&self) -> Result<(usize, usize), FileError> {
        match *self.shape() {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(TensorFault::NotMatrix { shape: self.shape().to_vec() }.at(self)),
        }
    }

    /// The bytes as FP8 codes, borrowed; plain bytes are of type `plain`, which must be given for
    /// them.
    ///
    /// # Errors
    /// [`TensorFault::Type`], [`TensorFault::NeedsDtype`] and [`TensorFault::NotMatrix`].
    pub fn codes(&self, plain: Option<OperandType>) -> Result<(OperandType, ArrayView2<'a, u8>), FileError> {
        let ty = match (self.ty(), plain) {
            (StoredType::Fp8(ty), _) => *ty,
            (StoredType::U8, Some(ty)) => ty,
            (StoredType::U8, None) => return Err(TensorFault::NeedsDtype { got: self.ty().to_string() }.at(self)),
            _ => return Err(self.type_fault("F8_E4M3 or F8_E5M2")),
        };
        let shape = self.dim()?.set_f(self.info.fortran);
        let codes = ArrayView2::from_shape(shape, self.bytes).map_err(|_| self.size_fault())?;
        Ok((ty, codes))
    }

    /// The elements as a matrix of their own type.
    ///
    /// # Errors
    /// [`TensorFault::Type`] for a type that is not F32, F16 or BF16, and [`TensorFault::NotMatrix`].
    pub fn matrix(&self) -> Result<Matrix, FileError> {
        Ok(match self.ty() {
            StoredType::F32 => Matrix::F32(self.elements(f32::from_le_bytes)?),
            StoredType::F16 => Matrix::F16(self.elements(f16::from_le_bytes)?),
            StoredType::Bf16 => Matrix::Bf16(self.elements(bf16::from_le_bytes)?),
            _ => return Err(self.type_fault("F32, F16 or BF16")),
        })
    }

    /// The elements as f32 in row-major order, whatever the number of dimensions; scales may be
    /// stored in any of the types that widen to f32 exactly.
    ///
    /// # Errors
    /// [`TensorFault::Type`] for a type other than F32, F16, BF16 and F8_E8M0.
    pub fn to_f32(&self) -> Result<Vec<f32>, FileError> {
        let values: Vec<f32> = match self.ty() {
            StoredType::F32 => words(self.bytes, f32::from_le_bytes),
            StoredType::F16 => words(self.bytes, |x| f16::from_le_bytes(x).to_f32()),
            StoredType::Bf16 => words(self.bytes, |x| bf16::from_le_bytes(x).to_f32()),
            StoredType::E8m0 => self.bytes.iter().map(|&byte| E8m0::from_bits(byte).to_f32()).collect(),
            _ => return Err(self.type_fault("F32 (or F16, BF16, F8_E8M0)")),
        };
        match *self.shape() {
            // Only a matrix has another order in Fortran; nothing of more dimensions is used.
            [rows, columns] if self.info.fortran => {
                let values = ArrayView2::from_shape((rows, columns).f(), &values[..]).map_err(|_| self.size_fault())?;
                Ok(values.iter().copied().collect())
            }
            _ => Ok(values),
        }
    }

    /// Some elements of a row of a matrix whose type is F32, F16 or BF16, as f32: as many as there are
    /// `values`, from that column on. Reads nothing else, and does nothing for other types and places
    /// outside the matrix.
    pub fn widen(&self, row: usize, column: usize, values: &mut [f32]) {
        match self.ty() {
            StoredType::F32 => self.widen_words(f32::from_le_bytes, row, column, values),
            StoredType::F16 => self.widen_words(f16::from_le_bytes, row, column, values),
            StoredType::Bf16 => self.widen_words(bf16::from_le_bytes, row, column, values),
            _ => {}
        }
    }

    fn widen_words<const N: usize, T: Element + Default>(
        &self,
        element: fn([u8; N]) -> T,
        row: usize,
        column: usize,
        values: &mut [f32],
    ) {
        const PIECE: usize = 256;
        let [rows, columns] = *self.shape() else { return };
        let words = self.bytes.as_chunks::<N>().0;
        if self.info.fortran {
            let place = |column: usize| column * rows + row;
            for (column, value) in (column..columns).zip(values) {
                *value = words.get(place(column)).map_or(0.0, |&word| element(word).widen());
            }
            return;
        }
        let first = row * columns + column;
        let Some(words) = words.get(first..first + values.len()) else { return };
        // Bytes of a file have any alignment; a piece of them is copied to where there is one.
        let mut aligned = [T::default(); PIECE];
        for (words, values) in words.chunks(PIECE).zip(values.chunks_mut(PIECE)) {
            let aligned = &mut aligned[..words.len()];
            aligned.iter_mut().zip(words).for_each(|(aligned, &word)| *aligned = element(word));
            T::widen_slice(aligned, values);
        }
    }

    fn elements<const N: usize, T: Clone>(&self, element: fn([u8; N]) -> T) -> Result<Array2<T>, FileError> {
        let shape = self.dim()?.set_f(self.info.fortran);
        Array2::from_shape_vec(shape, words(self.bytes, element)).map_err(|_| self.size_fault())
    }

    fn type_fault(&self, expected: &'static str) -> FileError {
        TensorFault::Type { got: self.ty().to_string(), expected }.at(self)
    }

    fn size_fault(&self) -> FileError {
        let (ty, bytes) = (self.ty().to_string(), self.bytes.len() as u64);
        TensorFault::Size { ty, shape: self.shape().to_vec(), bytes }.at(self)
    }
}

impl fmt::Display for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {} {:?}", self.name().escape_debug(), self.ty(), self.shape())
    }
}

/// Little-endian words, from bytes of any alignment.
fn words<const N: usize, T>(bytes: &[u8], word: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| word(*chunk)).collect()
}
