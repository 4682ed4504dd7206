//! Dot products of FP8 codes as exact integers, at the speed of f64 arithmetic.
//!
//! An E4M3 value is an integer below 2^18 times 2^-9, so a product is an integer below 2^36 and a
//! sum of [`LONGEST`] of them stays below 2^44: f64 multiplies and adds such integers exactly, in
//! any order, with or without fusing. E5M2 spans 32 bits; it is cut into two planes of at most 18
//! bits each, values from 1 up and values below 1, of which each element is zero in one.

use core::ops::Range;

use fp8gemm_formats::{Fp8Format, ScaledView};
use fp8gemm_problem::OperandType;
use ndarray::{Axis, Slice};

/// Most elements of K in one integer dot product.
pub(super) const LONGEST: usize = 256;

/// Elements of K that are multiplied together; vectors are zero-padded to a multiple.
const LANES: usize = 8;

/// A plane: integers below 2^18 in magnitude, times `2^exponent`.
struct Plane {
    exponent: i32,
    table: [f64; 256],
}

/// How the codes of a format become integers.
pub(super) struct Planes(Vec<Plane>);

impl Planes {
    pub(super) fn new(ty: OperandType) -> Self {
        let plane = |exponent: i32, covers: fn(f64) -> bool| {
            let format = Fp8Format::from(ty);
            let table = core::array::from_fn(|code| {
                let value = f64::from(format.decode(code as u8));
                // Codes that are not finite are dealt with elsewhere.
                if value.is_finite() && covers(value.abs()) { value * 2f64.powi(-exponent) } else { 0.0 }
            });
            Plane { exponent, table }
        };
        Self(match ty {
            OperandType::E4m3 => vec![plane(-9, |_| true)],
            OperandType::E5m2 => vec![plane(-2, |x| x >= 1.0), plane(-16, |x| x < 1.0)],
        })
    }
}

/// Integers of some rows over one segment of K.
#[derive(Default)]
pub(super) struct Segment {
    /// Padded length of a row.
    length: usize,
    rows: usize,
    /// One plane after the other, each `[rows, length]`.
    values: Vec<f64>,
    exponents: Vec<i32>,
}

impl Segment {
    /// Decodes `rows` of the operand over `k`, at most [`LONGEST`] elements.
    pub(super) fn load(
        &mut self,
        view: &ScaledView<'_>,
        planes: &Planes,
        rows: impl ExactSizeIterator<Item = usize> + Clone,
        k: Range<usize>,
    ) {
        self.length = k.len().next_multiple_of(LANES);
        self.rows = rows.len();
        self.values.clear();
        self.exponents.clear();
        let codes = view.codes().slice_axis_move(Axis(1), Slice::from(k));
        for plane in &planes.0 {
            self.exponents.push(plane.exponent);
            for row in rows.clone() {
                let start = self.values.len();
                self.values.extend(codes.row(row).iter().map(|code| plane.table[usize::from(*code)]));
                self.values.resize(start + self.length, 0.0);
            }
        }
    }

    fn row(&self, plane: usize, row: usize) -> &[f64] {
        &self.values[(plane * self.rows + row) * self.length..][..self.length]
    }
}

/// `out[r * columns + c] += a[r] . b[c]` as integers in units of `2^unit(a, b)`.
pub(super) fn dots(a: &Segment, b: &Segment, out: &mut [i128]) {
    let lowest = unit(a, b);
    for (i, ea) in a.exponents.iter().enumerate() {
        for (j, eb) in b.exponents.iter().enumerate() {
            let shift = (ea + eb - lowest) as u32;
            pulp::Arch::new().dispatch(Planewise { a, b, planes: (i, j), shift, out });
        }
    }
}

/// Exponent of the integers that [`dots`] gives.
pub(super) fn unit(a: &Segment, b: &Segment) -> i32 {
    let lowest = |x: &Segment| x.exponents.iter().copied().min().unwrap_or(0);
    lowest(a) + lowest(b)
}

/// The dot products of one plane of A with one of B: a struct, so that `pulp` compiles the loop
/// for the widest vectors of the machine.
struct Planewise<'a> {
    a: &'a Segment,
    b: &'a Segment,
    planes: (usize, usize),
    shift: u32,
    out: &'a mut [i128],
}

impl pulp::WithSimd for Planewise<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { a, b, planes, shift, out } = self;
        for (row, out) in out.chunks_exact_mut(b.rows).enumerate() {
            let x = a.row(planes.0, row);
            let mut column = 0;
            while column < b.rows {
                // Four columns at a time share the loads of `x`; the last ones may repeat.
                let y: [&[f64]; 4] = core::array::from_fn(|i| b.row(planes.1, (column + i).min(b.rows - 1)));
                let sums = four(x, y);
                for (out, sum) in out[column..].iter_mut().zip(sums) {
                    *out += i128::from(sum as i64) << shift;
                }
                column += 4;
            }
        }
    }
}

#[inline(always)]
fn four(x: &[f64], y: [&[f64]; 4]) -> [f64; 4] {
    let mut sums = [[0.0; LANES]; 4];
    let (x, _) = x.as_chunks::<LANES>();
    let y = y.map(|y| y.as_chunks::<LANES>().0);
    for (i, x) in x.iter().enumerate() {
        for (sums, y) in sums.iter_mut().zip(y) {
            for (lane, sum) in sums.iter_mut().enumerate() {
                *sum += x[lane] * y[i][lane];
            }
        }
    }
    sums.map(|sums| sums.iter().sum())
}
