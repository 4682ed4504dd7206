//! Chains by the specification: any tensor core, one output at a time.
//!
//! Also what the SIMD paths turn to for rows that hold infinities or NaN.

use fp8gemm_formats::ScaledView;
use ndarray::ArrayView2;

use crate::tensor_core::{InputFormat, Operand, TensorCore};

/// Both operands' codes decoded through tables, so that a chain is only arithmetic.
pub(super) struct Decoded<'a> {
    a: ArrayView2<'a, u8>,
    b: ArrayView2<'a, u8>,
    table_a: [Operand; 256],
    table_b: [Operand; 256],
    core: TensorCore,
}

impl<'a> Decoded<'a> {
    pub(super) fn new(a: &ScaledView<'a>, b: &ScaledView<'a>, core: TensorCore) -> Self {
        let table = |x: &ScaledView<'_>| {
            let format = InputFormat::from(x.ty());
            core::array::from_fn(|code| format.operand(code as u32))
        };
        Self { a: a.codes(), b: b.codes(), table_a: table(a), table_b: table(b), core }
    }

    /// `c + A[row, k] . B[column, k]` as one chain.
    pub(super) fn chain(&self, row: usize, column: usize, k: core::ops::Range<usize>, c: f32) -> f32 {
        let (a, b) = (&self.a, &self.b);
        let pairs = k.map(|k| (self.table_a[a[(row, k)] as usize], self.table_b[b[(column, k)] as usize]));
        f32::from_bits(self.core.chain(pairs, c.to_bits()))
    }
}
