//! Chains by the specification: any tensor core, one output at a time.
//!
//! Also what the SIMD paths turn to for rows that hold infinities or NaN.

use core::ops::Range;

use fp8gemm_formats::ScaledView;
use ndarray::{ArrayView2, Axis, Slice};

use super::drive::{K_CHUNK, Tile};
use crate::tensor_core::{InputFormat, Operand, TensorCore};

/// One operand's codes with the table that decodes them.
struct Codes<'a> {
    codes: ArrayView2<'a, u8>,
    table: [Operand; 256],
}

impl<'a> Codes<'a> {
    fn new(from: &ScaledView<'a>) -> Self {
        let format = InputFormat::from(from.ty());
        Self { codes: from.codes(), table: core::array::from_fn(|code| format.operand(code as u32)) }
    }

    fn decode(&self, row: usize, k: Range<usize>, to: &mut Vec<Operand>) {
        let row = self.codes.row(row);
        to.extend(row.slice_axis(Axis(0), Slice::from(k)).iter().map(|code| self.table[*code as usize]));
    }
}

/// The chains of one problem.
pub(super) struct Generic<'a> {
    a: Codes<'a>,
    b: Codes<'a>,
    core: TensorCore,
}

impl<'a> Generic<'a> {
    pub(super) fn new(a: &ScaledView<'a>, b: &ScaledView<'a>, core: TensorCore) -> Self {
        Self { a: Codes::new(a), b: Codes::new(b), core }
    }

    /// `out[r, c] = out[r, c] + A[r, k] . B[c, k]` for a whole tile, each as one chain.
    pub(super) fn tile(&self, tile: &Tile, k: Range<usize>, out: &mut [f32]) {
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        // Chunks are whole steps, so that a chain may pause between them.
        for start in k.clone().step_by(K_CHUNK) {
            let chunk = start..k.end.min(start + K_CHUNK);
            rows.clear();
            columns.clear();
            tile.rows.clone().for_each(|row| self.a.decode(row, chunk.clone(), &mut rows));
            tile.columns.clone().for_each(|column| self.b.decode(column, chunk.clone(), &mut columns));
            let rows = rows.chunks_exact(chunk.len());
            for (a, out) in rows.zip(out.chunks_exact_mut(tile.columns.len())) {
                for (b, out) in columns.chunks_exact(chunk.len()).zip(out) {
                    *out = f32::from_bits(self.core.chain(a, b, out.to_bits()));
                }
            }
        }
    }

    /// One output of the same.
    pub(super) fn one(&self, row: usize, column: usize, k: Range<usize>, c: f32) -> f32 {
        let mut out = [c];
        self.tile(&Tile { rows: row..row + 1, columns: column..column + 1 }, k, &mut out);
        out[0]
    }
}
