//! A case as a kernel sees it: matrices in memory, with strides, between guard bands, everything that
//! is not theirs filled.

use fp8gemm_formats::{ScaledMatrix, ScaledView};
use fp8gemm_problem::{OutputType, Problem};
use fp8gemm_sim::{Matrix, MatrixView};
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2, ShapeBuilder};
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::{Case, DifftestError};

/// Bytes before and after each matrix: more than a tile of the widest rows here.
const GUARD: usize = 1 << 15;

/// The alignment that every matrix's memory begins with, before a case's own offset.
const BASE: usize = 256;

/// What a subject asks of addresses and strides, in bytes; 1 means whole elements are enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of A and B.
    pub operands: usize,
    /// Of C and D.
    pub outputs: usize,
    /// Whether C may lie in D's place.
    pub c_in_place: bool,
}

impl Alignment {
    /// Nothing is asked for.
    pub const NONE: Self = Self { operands: 1, outputs: 1, c_in_place: true };
}

/// One matrix in memory, rows `stride` elements apart, and all the memory around it.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    rows: usize,
    columns: usize,
    stride: usize,
    size: usize,
}

impl Buffer {
    /// `data` row by row between guards; everything else is `filler`.
    fn new(
        data: &[u8],
        (rows, columns): (usize, usize),
        stride: usize,
        size: usize,
        offset: usize,
        filler: u8,
    ) -> Self {
        let extent = rows.saturating_sub(1) * stride * size + columns * size;
        let mut bytes = vec![filler; GUARD + BASE + offset + extent + GUARD];
        // The vector never grows, so its address stays.
        let start = (bytes.as_ptr() as usize + GUARD).next_multiple_of(BASE) - bytes.as_ptr() as usize + offset;
        if columns > 0 {
            for (row, line) in data.chunks_exact(columns * size).enumerate() {
                bytes[start + row * stride * size..][..line.len()].copy_from_slice(line);
            }
        }
        Self { bytes, start, rows, columns, stride, size }
    }

    /// All memory, guards included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same to write to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Where the first element begins in [`bytes`](Self::bytes).
    pub fn start(&self) -> usize {
        self.start
    }

    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Elements from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes of an element.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The elements of a row.
    fn row(&self, row: usize) -> &[u8] {
        &self.bytes[self.start + row * self.stride * self.size..][..self.columns * self.size]
    }

    /// The elements row after row, without what lies between.
    pub fn packed(&self) -> Vec<u8> {
        let mut packed = Vec::with_capacity(self.rows * self.columns * self.size);
        (0..self.rows).for_each(|row| packed.extend_from_slice(self.row(row)));
        packed
    }

    /// Writes the elements, row after row; what lies between stays.
    pub fn write(&mut self, data: &[u8]) {
        let (stride, size, start) = (self.stride, self.size, self.start);
        for (row, line) in data.chunks_exact((self.columns * size).max(1)).take(self.rows).enumerate() {
            self.bytes[start + row * stride * size..][..line.len()].copy_from_slice(line);
        }
    }

    /// Where a byte lies, in words.
    pub(crate) fn place(&self, at: usize) -> String {
        let (pitch, end) = (self.stride * self.size, self.start + self.extent());
        if at < self.start {
            return format!("{} bytes before it", self.start - at);
        }
        if at >= end {
            return format!("{} bytes beyond its end", at - end + 1);
        }
        let (row, byte) = ((at - self.start) / pitch, (at - self.start) % pitch);
        let (column, columns, stride) = (byte / self.size, self.columns, self.stride);
        format!("row {row}, element {column} of {columns} (stride {stride})")
    }

    fn extent(&self) -> usize {
        self.rows.saturating_sub(1) * self.stride * self.size + self.columns * self.size
    }

    fn codes(&self) -> Result<ArrayView2<'_, u8>, DifftestError> {
        let shape = self.dim().strides((self.stride.max(1), 1));
        ArrayView2::from_shape(shape, &self.bytes[self.start..]).map_err(|_| self.unreadable())
    }

    fn elements<const N: usize, T: Clone>(&self, element: fn([u8; N]) -> T) -> Result<Array2<T>, DifftestError> {
        let values = self.packed().as_chunks::<N>().0.iter().map(|chunk| element(*chunk)).collect();
        Array2::from_shape_vec(self.dim(), values).map_err(|_| self.unreadable())
    }

    /// Never seen: buffers are made as large as their shape.
    fn unreadable(&self) -> DifftestError {
        DifftestError::Recording { what: "a buffer", found: self.bytes.len(), expected: self.extent() }
    }

    fn matrix(&self, ty: OutputType) -> Result<Matrix, DifftestError> {
        Ok(match ty {
            OutputType::Bf16 => Matrix::Bf16(self.elements(bf16::from_ne_bytes)?),
            OutputType::F16 => Matrix::F16(self.elements(f16::from_ne_bytes)?),
            OutputType::F32 => Matrix::F32(self.elements(f32::from_ne_bytes)?),
        })
    }
}

/// All matrices of a case in memory.
#[derive(Debug)]
pub struct Buffers {
    /// A: FP8 codes `[M, K]`.
    pub a: Buffer,
    /// B: FP8 codes `[N, K]`.
    pub b: Buffer,
    /// Scales of A, f32, in the layout's shape.
    pub scale_a: Buffer,
    /// Scales of B.
    pub scale_b: Buffer,
    /// C, where there is one of its own.
    pub c: Option<Buffer>,
    /// D; holds C where that is in place.
    pub d: Buffer,
    /// Whether D holds C.
    pub c_in_place: bool,
}

impl Buffers {
    /// Lays a case out. Strides, addresses and whether C is in place follow from its origin.
    pub fn new(case: &Case, alignment: Alignment) -> Self {
        let p = &case.problem;
        let mut seed = [0x5A; 32];
        seed[..8].copy_from_slice(&case.origin.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&case.origin.index.to_le_bytes());
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut lay = |data: &[u8], dim: (usize, usize), size: usize, unit: usize, filler: u8| {
            let unit = (unit / size).max(1);
            let stride = dim.1.next_multiple_of(unit) + unit * rng.random_range(0..4usize);
            let offset = unit * size * rng.random_range(0..8usize);
            Buffer::new(data, dim, stride.max(1), size, offset, filler)
        };
        let codes = |x: &ScaledMatrix| -> Vec<u8> { x.codes().iter().copied().collect() };
        let scales = |x: &ScaledMatrix| -> Vec<u8> { x.scales().iter().flat_map(|s| s.to_ne_bytes()).collect() };
        // NaN between the rows of what is read: nothing there may be taken for data.
        let a = lay(&codes(&case.a), (p.m, p.k), 1, alignment.operands, 0x7F);
        let b = lay(&codes(&case.b), (p.n, p.k), 1, alignment.operands, 0x7F);
        let scale_a = lay(&scales(&case.a), case.a.scales().dim(), 4, 1, 0xFF);
        let scale_b = lay(&scales(&case.b), case.b.scales().dim(), 4, 1, 0xFF);
        let mut d = lay(&[], (p.m, p.n), p.d.size(), alignment.outputs, 0xAB);
        let own_c = case.c.as_ref().map(|c| (bytes(&c.view()), c.ty()));
        let c = own_c.as_ref().map(|(data, ty)| lay(data, (p.m, p.n), ty.size(), alignment.outputs, 0xFF));
        // Where beta is 0, what lies in D must not matter, and there is a C of its own.
        let possible = alignment.c_in_place && p.c == Some(p.d) && p.epilogue.reads_c();
        let c_in_place = possible && rng.random();
        if let Some((data, _)) = own_c.filter(|_| c_in_place) {
            d.write(&data);
        }
        Self { a, b, scale_a, scale_b, c: c.filter(|_| !c_in_place), d, c_in_place }
    }

    /// A as a view of this memory; `scales` are what [`scales`](Self::scales) gave.
    ///
    /// # Errors
    /// [`DifftestError::Format`], never for the problem that this was made for.
    pub fn operand_a<'a>(&'a self, p: &Problem, scales: &'a Array2<f32>) -> Result<ScaledView<'a>, DifftestError> {
        Ok(ScaledView::new(p.a.ty, p.a.scales, self.a.codes()?, scales.view())?)
    }

    /// The same of B.
    ///
    /// # Errors
    /// As [`operand_a`](Self::operand_a).
    pub fn operand_b<'a>(&'a self, p: &Problem, scales: &'a Array2<f32>) -> Result<ScaledView<'a>, DifftestError> {
        Ok(ScaledView::new(p.b.ty, p.b.scales, self.b.codes()?, scales.view())?)
    }

    /// The scales of A and of B.
    ///
    /// # Errors
    /// As [`operand_a`](Self::operand_a).
    pub fn scales(&self) -> Result<[Array2<f32>; 2], DifftestError> {
        Ok([self.scale_a.elements(f32::from_ne_bytes)?, self.scale_b.elements(f32::from_ne_bytes)?])
    }

    /// C, wherever it lies.
    ///
    /// # Errors
    /// As [`operand_a`](Self::operand_a).
    pub fn c_matrix(&self, problem: &Problem) -> Result<Option<Matrix>, DifftestError> {
        let Some(ty) = problem.c else { return Ok(None) };
        if self.c_in_place {
            return self.d.matrix(ty).map(Some);
        }
        self.c.as_ref().map(|c| c.matrix(ty)).transpose()
    }

    /// D as it is now.
    ///
    /// # Errors
    /// As [`operand_a`](Self::operand_a).
    pub fn d_matrix(&self, problem: &Problem) -> Result<Matrix, DifftestError> {
        self.d.matrix(problem.d)
    }

    /// Name and buffer of everything that is only read.
    pub(crate) fn inputs(&self) -> Vec<(&'static str, &Buffer)> {
        let mut inputs =
            vec![("A", &self.a), ("B", &self.b), ("scales of A", &self.scale_a), ("scales of B", &self.scale_b)];
        inputs.extend(self.c.as_ref().map(|c| ("C", c)));
        inputs
    }
}

/// The elements as they lie in memory, row after row.
pub(crate) fn bytes(x: &MatrixView<'_>) -> Vec<u8> {
    fn collect<T: Copy, const N: usize>(x: &ArrayView2<'_, T>, bytes: fn(T) -> [u8; N]) -> Vec<u8> {
        let mut all = Vec::with_capacity(x.len() * N);
        x.iter().for_each(|x| all.extend_from_slice(&bytes(*x)));
        all
    }
    match x {
        MatrixView::Bf16(x) => collect(x, bf16::to_ne_bytes),
        MatrixView::F16(x) => collect(x, f16::to_ne_bytes),
        MatrixView::F32(x) => collect(x, f32::to_ne_bytes),
    }
}
