//! Codes rearranged for the SIMD paths.
//!
//! An FP8 value is `+/- m * 2^(e - f)` with a 4-bit (E4M3) or 3-bit (E5M2) integer `m`. A product
//! then is `m_a * m_b` with `f_a + f_b` fraction bits, and `m_a * m_b << (13 - f_a - f_b)` is its
//! magnitude with the 13 fraction bits of the tensor core, at most 28,800: it fits 16 bits. So
//! each element becomes three 16-bit numbers, exponent, magnitude and sign. Two neighbours along K
//! lie side by side, because the final sum of 16-bit terms adds neighbours into 32 bits.
//!
//! A rows are kept as they are (one value is broadcast to all lanes); B is cut into panels of
//! [`LANES`] columns of the output, transposed so that a vector holds one pair of K for each lane.

use core::ops::Range;

use fp8gemm_formats::ScaledView;
use fp8gemm_problem::OperandType;
use ndarray::{Axis, Slice};

use super::drive::{K_CHUNK, Tile};
use super::path::Path;
use crate::tensor_core::{InputFormat, Operand};

/// Outputs that are computed together.
pub(super) const LANES: usize = 16;

/// Pairs of K in one tensor-core step.
pub(super) const PAIRS: usize = 16;

/// One pair of K of one row of A.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowPair {
    pub(super) exponent: [i16; 2],
    /// Shifted to 13 fraction bits (to 14 for AVX2, see there).
    pub(super) magnitude: [u16; 2],
    /// 0 or -2, so that the exclusive or with B's sign is the product's.
    pub(super) sign: [i16; 2],
}

/// One pair of K of [`LANES`] columns: lane `i` is elements `2i` and `2i + 1`.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct PanelPair {
    pub(super) exponent: [i16; 2 * LANES],
    pub(super) magnitude: [u16; 2 * LANES],
    /// 1 or -1.
    pub(super) sign: [i16; 2 * LANES],
}

const EMPTY: PanelPair = PanelPair { exponent: [0; 2 * LANES], magnitude: [0; 2 * LANES], sign: [0; 2 * LANES] };

/// One tile's operands over one chunk of K, zero-padded to whole steps.
#[derive(Default)]
pub(super) struct Packed {
    /// Pairs of K in the chunk: a multiple of [`PAIRS`].
    pub(super) pairs: usize,
    rows: Vec<RowPair>,
    panels: Vec<PanelPair>,
    /// Rows of A, then columns of the output, whose chunk holds a NaN or an infinity: the integer
    /// form has no place for those.
    pub(super) special_rows: Vec<bool>,
    pub(super) special_columns: Vec<bool>,
    tables: Option<(Key, Tables)>,
}

type Key = (OperandType, OperandType, Path);

struct Tables {
    a: [Element; 256],
    b: [Element; 256],
}

#[derive(Clone, Copy, Default)]
struct Element {
    exponent: i16,
    magnitude: u16,
    sign: i16,
    special: bool,
}

impl Packed {
    pub(super) fn row(&self, row: usize) -> &[RowPair] {
        &self.rows[row * self.pairs..][..self.pairs]
    }

    pub(super) fn panel(&self, panel: usize) -> &[PanelPair] {
        &self.panels[panel * self.pairs..][..self.pairs]
    }

    pub(super) fn pack(&mut self, a: &ScaledView<'_>, b: &ScaledView<'_>, tile: &Tile, k: Range<usize>, path: Path) {
        let key = (a.ty(), b.ty(), path);
        let (_, tables) = match self.tables.take() {
            Some(tables) if tables.0 == key => self.tables.insert(tables),
            _ => self.tables.insert((key, Tables::new(key))),
        };
        self.pairs = k.len().div_ceil(2).next_multiple_of(PAIRS);
        self.rows.resize(tile.rows.len() * self.pairs, RowPair::default());
        self.panels.resize(tile.columns.len().div_ceil(LANES) * self.pairs, EMPTY);
        self.special_rows.clear();
        self.special_columns.clear();
        let mut codes = [0u8; K_CHUNK];
        for (row, out) in tile.rows.clone().zip(self.rows.chunks_exact_mut(self.pairs)) {
            copy_codes(a, row, &k, &mut codes);
            let mut special = false;
            for (out, pair) in out.iter_mut().zip(codes.as_chunks::<2>().0) {
                let [x, y] = pair.map(|code| tables.a[code as usize]);
                *out = RowPair {
                    exponent: [x.exponent, y.exponent],
                    magnitude: [x.magnitude, y.magnitude],
                    sign: [x.sign, y.sign],
                };
                special |= x.special | y.special;
            }
            self.special_rows.push(special);
        }
        for (i, column) in tile.columns.clone().enumerate() {
            copy_codes(b, column, &k, &mut codes);
            let lane = i % LANES;
            let mut special = false;
            let panel = &mut self.panels[i / LANES * self.pairs..][..self.pairs];
            for (out, pair) in panel.iter_mut().zip(codes.as_chunks::<2>().0) {
                for (slot, code) in (2 * lane..).zip(pair) {
                    let element = tables.b[*code as usize];
                    out.exponent[slot] = element.exponent;
                    out.magnitude[slot] = element.magnitude;
                    out.sign[slot] = element.sign;
                    special |= element.special;
                }
            }
            self.special_columns.push(special);
        }
    }
}

/// One row's codes of the chunk, followed by zeros.
fn copy_codes(from: &ScaledView<'_>, row: usize, k: &Range<usize>, to: &mut [u8; K_CHUNK]) {
    let codes = from.codes();
    let row = codes.row(row);
    let source = row.slice_axis(Axis(0), Slice::from(k.clone()));
    let (head, tail) = to.split_at_mut(k.len());
    match source.to_slice() {
        Some(source) => head.copy_from_slice(source),
        None => head.iter_mut().zip(source).for_each(|(to, from)| *to = *from),
    }
    tail.fill(0);
}

impl Tables {
    fn new((a, b, path): Key) -> Self {
        let fraction_bits = |ty| if ty == OperandType::E4m3 { 3 } else { 2 };
        // AVX2 shifts by a multiplication that keeps the upper half of twice the magnitude.
        let extra = u32::from(path == Path::Avx2);
        let shift = 13 - fraction_bits(a) - fraction_bits(b) + extra;
        let exponent = |e: Option<i16>| match (path, e) {
            (Path::Avx2, e) => i16::from_ne_bytes([e.map_or(i8::MIN, |e| e as i8) as u8; 2]),
            // Low enough that not even a sum with the largest exponent is ever a maximum.
            (_, e) => e.unwrap_or(-8192),
        };
        let element = |ty: OperandType, code: usize| match InputFormat::from(ty).operand(code as u32) {
            Operand::Finite { negative, significand, exponent: e, .. } => Element {
                exponent: exponent((significand != 0).then_some(e)),
                magnitude: significand as u16,
                sign: i16::from(negative),
                special: false,
            },
            Operand::Infinite { .. } | Operand::Nan => {
                Element { exponent: exponent(None), special: true, ..Element::default() }
            }
        };
        Self {
            a: core::array::from_fn(|code| {
                let e = element(a, code);
                Element { magnitude: e.magnitude << shift, sign: e.sign * -2, ..e }
            }),
            b: core::array::from_fn(|code| {
                let e = element(b, code);
                Element { sign: 1 - 2 * e.sign, ..e }
            }),
        }
    }
}
