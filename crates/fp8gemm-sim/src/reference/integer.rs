//! Dot products as exact integers, at the speed of f64 arithmetic.
//!
//! Over a short segment of K, the elements of a row are integers times one power of two. Cut into
//! planes of at most 18 bits, products stay below 2^36 and sums of [`LONGEST`] of them below 2^44:
//! f64 multiplies and adds such integers exactly, in any order, fused or not. The planes' sums are
//! joined in an i128.
//!
//! | operand | integers of | planes |
//! |---|---|---|
//! | E4M3 | 18 bits, unit 2^-9 | 1 |
//! | E5M2 | 32 bits, unit 2^-16 | 2: values below 1, values from 1 up |
//! | f32 | as many as the segment's elements span | 1 to 3, or too wide: beyond 54 bits |

use core::ops::Range;

use fp8gemm_formats::{Fp8Format, ScaledView};
use fp8gemm_problem::OperandType;
use ndarray::{ArrayView2, Axis, Slice};

/// Most elements of K in one integer dot product.
pub(super) const LONGEST: usize = 256;

/// Bits of a plane.
const PLANE_BITS: u32 = 18;

/// Most planes of an f32 operand, so that dot products times scales fit an i128: 54 + 54 + 8 bits of
/// two f32 operands without scales; 54 + 32 + 8 and 24 of one scale beside E5M2; 32 + 32 + 8 and 48
/// of two scales for FP8 alone.
const MOST_PLANES: u32 = 3;

/// Elements of K that are multiplied together; vectors are zero-padded to a multiple.
const LANES: usize = 8;

/// How one operand becomes integers.
pub(super) enum Loader<'a> {
    /// Codes, looked up in a table for each plane.
    Codes { codes: ArrayView2<'a, u8>, planes: Vec<[f64; 256]>, step: u32, unit: i32 },
    /// Numbers, cut as their exponents ask.
    Numbers(ArrayView2<'a, f32>),
}

impl<'a> Loader<'a> {
    pub(super) fn codes(view: &ScaledView<'a>) -> Self {
        let format = Fp8Format::from(view.ty());
        let plane = |unit: i32, covers: fn(f64) -> bool| -> [f64; 256] {
            core::array::from_fn(|code| {
                let value = f64::from(format.decode(code as u8));
                // Rows with codes that are not finite are dealt with elsewhere.
                if value.is_finite() && covers(value.abs()) { value * 2f64.powi(-unit) } else { 0.0 }
            })
        };
        let (planes, step, unit) = match view.ty() {
            OperandType::E4m3 => (vec![plane(-9, |_| true)], 0, -9),
            OperandType::E5m2 => (vec![plane(-16, |x| x < 1.0), plane(-2, |x| x >= 1.0)], 14, -16),
        };
        Self::Codes { codes: view.codes(), planes, step, unit }
    }
}

/// Some rows of an operand over one segment of K, as integers.
#[derive(Default)]
pub(super) struct Segment {
    /// Padded length of a row.
    length: usize,
    planes: usize,
    /// Binary places between one plane and the next.
    step: u32,
    /// `[plane, row, length]`.
    values: Vec<f64>,
    /// Exponent of each row's unit; none where the row's numbers span too many bits.
    units: Vec<Option<i32>>,
}

impl Segment {
    /// Exponent of the unit of a row; none if its numbers do not fit the planes.
    pub(super) fn unit(&self, row: usize) -> Option<i32> {
        self.units[row]
    }

    /// Cuts `rows` of the operand over `k`, at most [`LONGEST`] elements.
    pub(super) fn load(
        &mut self,
        loader: &Loader<'_>,
        rows: impl ExactSizeIterator<Item = usize> + Clone,
        k: Range<usize>,
    ) {
        self.length = k.len().next_multiple_of(LANES);
        self.values.clear();
        self.units.clear();
        match loader {
            Loader::Codes { codes, planes, step, unit } => {
                (self.planes, self.step) = (planes.len(), *step);
                self.units.resize(rows.len(), Some(*unit));
                let codes = codes.slice_axis(Axis(1), Slice::from(k));
                for plane in planes {
                    for row in rows.clone() {
                        self.values.extend(codes.row(row).iter().map(|code| plane[usize::from(*code)]));
                        self.values.resize(self.values.len().next_multiple_of(LANES), 0.0);
                    }
                }
            }
            Loader::Numbers(numbers) => self.cut(&numbers.slice_axis(Axis(1), Slice::from(k)), rows),
        }
    }

    fn cut(&mut self, numbers: &ArrayView2<'_, f32>, rows: impl ExactSizeIterator<Item = usize> + Clone) {
        let mut planes = 1;
        for row in rows.clone() {
            let (lowest, highest) = span(numbers.row(row).iter());
            let needed = (highest - lowest).max(1).unsigned_abs().div_ceil(PLANE_BITS);
            self.units.push((needed <= MOST_PLANES).then_some(lowest));
            planes = planes.max(needed.min(MOST_PLANES));
        }
        (self.planes, self.step) = (planes as usize, PLANE_BITS);
        let plane_length = rows.len() * self.length;
        self.values.resize(self.planes * plane_length, 0.0);
        for (i, row) in rows.enumerate() {
            let Some(unit) = self.units[i] else { continue };
            for (j, x) in numbers.row(row).iter().enumerate() {
                // At most 54 bits of which 24 count: exact as f64 and as integer.
                let integer = if x.is_finite() { (f64::from(*x) * scale(-unit)) as i64 } else { 0 };
                let (sign, mut magnitude) = (integer.signum() as f64, integer.unsigned_abs());
                for plane in 0..self.planes {
                    let digit = magnitude & ((1 << PLANE_BITS) - 1);
                    self.values[plane * plane_length + i * self.length + j] = sign * digit as f64;
                    magnitude >>= PLANE_BITS;
                }
            }
        }
    }

    fn row(&self, plane: usize, row: usize) -> &[f64] {
        &self.values[(plane * self.units.len() + row) * self.length..][..self.length]
    }
}

/// `2^exponent`, for the exponents of f32 bits and their negatives.
fn scale(exponent: i32) -> f64 {
    crate::kulisch::power_of_two(exponent)
}

/// Exponents of the lowest bit and of the place above the highest bit of the finite numbers; both
/// 0 if all are zero.
fn span<'a>(numbers: impl Iterator<Item = &'a f32>) -> (i32, i32) {
    let (mut lowest, mut highest) = (i32::MAX, i32::MIN);
    for x in numbers {
        let bits = x.to_bits();
        let field = (bits >> 23 & 0xFF) as i32;
        let significand = bits & 0x7F_FFFF | if field > 0 { 0x80_0000 } else { 0 };
        if significand != 0 && field < 0xFF {
            let exponent = field.max(1) - 150;
            lowest = lowest.min(exponent + significand.trailing_zeros() as i32);
            highest = highest.max(exponent + 32 - significand.leading_zeros() as i32);
        }
    }
    if lowest > highest { (0, 0) } else { (lowest, highest) }
}

/// `out[r, c] = a[r] . b[c]`, an integer in units of `2^(unit of r + unit of c)`; meaningless where
/// a row has no unit.
pub(super) fn dots(a: &Segment, b: &Segment, out: &mut [i128]) {
    out.fill(0);
    for i in 0..a.planes {
        for j in 0..b.planes {
            let shift = a.step * i as u32 + b.step * j as u32;
            pulp::Arch::new().dispatch(Planewise { a, b, planes: (i, j), shift, out });
        }
    }
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
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let Self { a, b, planes, shift, out } = self;
        let columns = b.units.len();
        for (i, out) in out.chunks_mut(ROWS * columns).enumerate() {
            // Blocks of outputs share the loads of their rows; at the edges, rows repeat.
            let x: [&[f64]; ROWS] = core::array::from_fn(|r| a.row(planes.0, (ROWS * i + r).min(a.units.len() - 1)));
            for first in (0..columns).step_by(COLUMNS) {
                let y: [&[f64]; COLUMNS] = core::array::from_fn(|c| b.row(planes.1, (first + c).min(columns - 1)));
                for (out, sums) in out.chunks_exact_mut(columns).zip(block(simd, x, y)) {
                    for (out, sum) in out[first..].iter_mut().zip(sums) {
                        *out += i128::from(sum as i64) << shift;
                    }
                }
            }
        }
    }
}

/// Outputs whose sums are held in registers together.
const ROWS: usize = 2;
const COLUMNS: usize = 4;

#[inline(always)]
fn block<S: pulp::Simd>(simd: S, x: [&[f64]; ROWS], y: [&[f64]; COLUMNS]) -> [[f64; COLUMNS]; ROWS] {
    let x = x.map(|x| S::as_simd_f64s(x).0);
    let y = y.map(|y| S::as_simd_f64s(y).0);
    let mut sums = [[simd.splat_f64s(0.0); COLUMNS]; ROWS];
    for i in 0..x[0].len() {
        for (sums, x) in sums.iter_mut().zip(x) {
            for (sum, y) in sums.iter_mut().zip(y) {
                *sum = simd.add_f64s(*sum, simd.mul_f64s(x[i], y[i]));
            }
        }
    }
    // A loop and not `map`: closures would be compiled without the vector instructions.
    let mut totals = [[0.0; COLUMNS]; ROWS];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = simd.reduce_sum_f64s(sum);
        }
    }
    totals
}
