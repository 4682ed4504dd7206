//! The Hopper FP8 chain on [`LANES`] outputs at once, in integers.
//!
//! One step, for one row of A and one panel of B (numbers as `pack` lays them out):
//!
//! ```text
//! E    = max over K of e_a + e_b, and of c's exponent
//! t    = (m_a * m_b) >> (E - e_a - e_b)          16 bits, magnitudes: truncation toward zero
//! S    = sum of +/- t, and of c * 2^(13 - E) cut to an integer       |S| < 2^20
//! c    = (S as f32, low 10 bits cleared) * 2^(E - 13)                RZ to 13 fraction bits, exact
//! ```
//!
//! `S` is exact as f32 and the scaling by a power of two too: within a chain from +0 every non-zero
//! c is at least 2^-41 (one unit of the smallest E5M2 product), so nothing is ever subnormal.
//! Rows and columns with NaN or infinity, and chains that already are one, go to the generic path.

use core::ops::Range;

use super::drive::Tile;
use super::generic::Generic;
use super::pack::{LANES, PAIRS, Packed, PanelPair, RowPair};
use super::path::Path;

/// Below every exponent that a product or a non-zero c can have, and far enough from the ends of
/// f32's range that `2^(E - 13)` and `2^(13 - E)` are normal.
const LOWEST: i32 = -100;

/// A chain implementation: `c += row . panel`, in steps of 32 along K.
trait Kernel: Copy {
    fn steps(self, row: &[[RowPair; PAIRS]], panel: &[[PanelPair; PAIRS]], c: &mut [f32; LANES]);
}

/// `out[r, c] += ` the chain over the packed chunk of K, for the whole tile.
pub(super) fn accumulate(
    packed: &Packed,
    generic: &Generic<'_>,
    tile: &Tile,
    k: Range<usize>,
    path: Path,
    out: &mut [f32],
) {
    let sweep = Sweep { packed, generic, tile, k, out };
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    match path {
        Path::Avx512 => {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return pulp::Simd::vectorize(simd, With(simd, sweep));
            }
        }
        Path::Avx2 => {
            if let Some(simd) = pulp::x86::V3::try_new() {
                return pulp::Simd::vectorize(simd, With(simd, sweep));
            }
        }
        Path::Portable | Path::Generic => {}
    }
    let _ = path;
    sweep.run(Portable);
}

/// The loop over rows and panels of one tile.
struct Sweep<'a, 'd> {
    packed: &'a Packed,
    generic: &'a Generic<'d>,
    tile: &'a Tile,
    k: Range<usize>,
    out: &'a mut [f32],
}

/// A sweep to be compiled with the instructions of a kernel.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
struct With<'a, 'd, K>(K, Sweep<'a, 'd>);

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
impl<K: Kernel> pulp::NullaryFnOnce for With<'_, '_, K> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.1.run(self.0);
    }
}

impl Sweep<'_, '_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let width = self.tile.columns.len();
        for first in (0..width).step_by(LANES) {
            let (panel, _) = self.packed.panel(first / LANES).as_chunks::<PAIRS>();
            let columns = first..width.min(first + LANES);
            let special_column = self.packed.special_columns[columns.clone()].contains(&true);
            for r in 0..self.tile.rows.len() {
                let (row, _) = self.packed.row(r).as_chunks::<PAIRS>();
                let out = r * width + columns.start..r * width + columns.end;
                let mut c = [0.0; LANES];
                c[..out.len()].copy_from_slice(&self.out[out.clone()]);
                let before = c;
                kernel.steps(row, panel, &mut c);
                let largest = before.iter().fold(0, |largest, c| (c.to_bits() & 0x7FFF_FFFF).max(largest));
                if special_column || self.packed.special_rows[r] || largest >= f32::INFINITY.to_bits() {
                    self.redo_specials(r, columns.clone(), &before, &mut c);
                }
                self.out[out.clone()].copy_from_slice(&c[..out.len()]);
            }
        }
    }

    /// Recomputes by the specification the lanes that the integer form cannot hold.
    #[cold]
    #[inline(never)]
    fn redo_specials(&self, r: usize, columns: Range<usize>, before: &[f32; LANES], c: &mut [f32; LANES]) {
        for (i, column) in columns.enumerate() {
            let special = self.packed.special_rows[r] || self.packed.special_columns[column] || !before[i].is_finite();
            if special {
                let (row, column) = (self.tile.rows.start + r, self.tile.columns.start + column);
                c[i] = self.generic.one(row, column, self.k.clone(), before[i]);
            }
        }
    }
}

/// Plain Rust over arrays.
#[derive(Clone, Copy)]
struct Portable;

impl Kernel for Portable {
    #[inline(always)]
    fn steps(self, row: &[[RowPair; PAIRS]], panel: &[[PanelPair; PAIRS]], c: &mut [f32; LANES]) {
        for (row, panel) in row.iter().zip(panel) {
            let mut largest = [i16::MIN; 2 * LANES];
            for (a, b) in row.iter().zip(panel) {
                for (i, largest) in largest.iter_mut().enumerate() {
                    *largest = (*largest).max(a.exponent[i % 2] + b.exponent[i]);
                }
            }
            let mut e = [0i32; LANES];
            for lane in 0..LANES {
                let c_exponent = (c[lane].to_bits() >> 23 & 0xFF) as i32 - 127;
                e[lane] = i32::from(largest[2 * lane].max(largest[2 * lane + 1])).max(c_exponent).max(LOWEST);
                largest[2 * lane] = e[lane] as i16;
                largest[2 * lane + 1] = e[lane] as i16;
            }
            let mut sum = [0i32; 2 * LANES];
            for (a, b) in row.iter().zip(panel) {
                for (i, sum) in sum.iter_mut().enumerate() {
                    // 15 already empties the largest magnitude; 31 keeps the power of two normal.
                    let shift = i32::from(largest[i] - (a.exponent[i % 2] + b.exponent[i])).min(31);
                    let magnitude = i32::from(a.magnitude[i % 2]) * i32::from(b.magnitude[i]);
                    let sign = i32::from(a.sign[i % 2] ^ b.sign[i]);
                    *sum += ((magnitude * sign) as f32 * power_of_two(-shift)) as i32;
                }
            }
            for lane in 0..LANES {
                let cut = (c[lane] * power_of_two(13 - e[lane])) as i32;
                let whole = (sum[2 * lane] + sum[2 * lane + 1] + cut) as f32;
                c[lane] = f32::from_bits(whole.to_bits() & !0x3FF) * power_of_two(e[lane] - 13);
            }
        }
    }
}

/// `2^exponent` for exponents of normal f32 values.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
mod avx512 {
    use pulp::cast;
    use pulp::x86::V4;

    #[cfg(target_arch = "x86")]
    use core::arch::x86::{__m512, __m512i};
    #[cfg(target_arch = "x86_64")]
    use core::arch::x86_64::{__m512, __m512i};

    use super::{Kernel, LANES, LOWEST, PAIRS, PanelPair, RowPair};

    impl Kernel for V4 {
        #[inline(always)]
        fn steps(self, row: &[[RowPair; PAIRS]], panel: &[[PanelPair; PAIRS]], c: &mut [f32; LANES]) {
            let (f, bw) = (self.avx512f, self.avx512bw);
            let pair_i = |x: [i16; 2]| f._mm512_set1_epi32(cast(x));
            let pair_u = |x: [u16; 2]| f._mm512_set1_epi32(cast(x));
            let power_of_two = |e: __m512i| -> __m512 {
                cast(f._mm512_slli_epi32::<23>(f._mm512_add_epi32(e, f._mm512_set1_epi32(127))))
            };
            let mut acc: __m512 = cast(*c);
            for (row, panel) in row.iter().zip(panel) {
                let mut exponents = [f._mm512_setzero_si512(); PAIRS];
                let mut largest = f._mm512_set1_epi32(i32::from_ne_bytes([0, 0x80, 0, 0x80]));
                for i in 0..PAIRS {
                    exponents[i] = bw._mm512_add_epi16(cast(panel[i].exponent), pair_i(row[i].exponent));
                    largest = bw._mm512_max_epi16(largest, exponents[i]);
                }
                let largest = bw._mm512_max_epi16(largest, f._mm512_rol_epi32::<16>(largest));
                let c_exponent = f._mm512_sub_epi32(
                    f._mm512_and_si512(f._mm512_srli_epi32::<23>(cast(acc)), f._mm512_set1_epi32(0xFF)),
                    f._mm512_set1_epi32(127),
                );
                let e = f._mm512_max_epi32(
                    f._mm512_srai_epi32::<16>(largest),
                    f._mm512_max_epi32(c_exponent, f._mm512_set1_epi32(LOWEST)),
                );
                // The exponent of each output in both 16-bit halves of its lane.
                let e16 =
                    f._mm512_or_si512(f._mm512_slli_epi32::<16>(e), f._mm512_and_si512(e, f._mm512_set1_epi32(0xFFFF)));
                // Two sums, so that an addition need not wait for the one before.
                let mut sums = [f._mm512_setzero_si512(); 2];
                for i in (0..PAIRS).step_by(2) {
                    for (i, sum) in (i..).zip(&mut sums) {
                        let magnitude = bw._mm512_mullo_epi16(cast(panel[i].magnitude), pair_u(row[i].magnitude));
                        // Counts over 15 give 0, which is what is left of a term that far below.
                        let term = bw._mm512_srlv_epi16(magnitude, bw._mm512_sub_epi16(e16, exponents[i]));
                        let sign = f._mm512_xor_si512(cast(panel[i].sign), pair_i(row[i].sign));
                        *sum = f._mm512_add_epi32(*sum, bw._mm512_madd_epi16(term, sign));
                    }
                }
                let thirteen = f._mm512_set1_epi32(13);
                let cut = f._mm512_cvttps_epi32(f._mm512_mul_ps(acc, power_of_two(f._mm512_sub_epi32(thirteen, e))));
                let whole = f._mm512_add_epi32(f._mm512_add_epi32(sums[0], sums[1]), cut);
                let kept = f._mm512_and_si512(cast(f._mm512_cvtepi32_ps(whole)), f._mm512_set1_epi32(!0x3FF));
                acc = f._mm512_mul_ps(cast(kept), power_of_two(f._mm512_sub_epi32(e, thirteen)));
            }
            *c = cast(acc);
        }
    }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
mod avx2 {
    use pulp::cast;
    use pulp::x86::V3;

    #[cfg(target_arch = "x86")]
    use core::arch::x86::{__m256, __m256i};
    #[cfg(target_arch = "x86_64")]
    use core::arch::x86_64::{__m256, __m256i};

    use super::{Kernel, LANES, LOWEST, PAIRS, PanelPair, RowPair};

    /// Above every product exponent by more than a term's width: a larger c empties all terms the
    /// same way, and the byte arithmetic below stays in range.
    const HIGHEST_SHIFT_BASE: i32 = 60;

    impl Kernel for V3 {
        /// AVX2 has no 16-bit shift by a variable. `x >> s` is instead the upper half of
        /// `2x * 2^(15 - s)`; `2^(15 - s)` comes from a byte shuffle, whose table index is formed
        /// from exponents that fill both bytes of their 16-bit element:
        ///
        /// ```text
        /// table[i] = 2^(7 - i) for i < 8, else 0;  an index with bit 7 set also gives 0
        /// upper byte: index = s + 0x70          2^(7 - s)  where s < 8,       else 0
        /// lower byte: index = s - 8 + 0x70      2^(15 - s) where 8 <= s < 16, else 0
        /// ```
        #[inline(always)]
        fn steps(self, row: &[[RowPair; PAIRS]], panel: &[[PanelPair; PAIRS]], c: &mut [f32; LANES]) {
            let (avx, avx2) = (self.avx, self.avx2);
            let pair_i = |x: [i16; 2]| avx._mm256_set1_epi32(cast(x));
            let pair_u = |x: [u16; 2]| avx._mm256_set1_epi32(cast(x));
            let splat = |x: i32| avx._mm256_set1_epi32(x);
            let power_of_two =
                |e: __m256i| -> __m256 { cast(avx2._mm256_slli_epi32::<23>(avx2._mm256_add_epi32(e, splat(127)))) };
            let table: __m256i = cast(TABLE);
            let low_bytes: __m256i = cast(LOW_BYTES);
            let halves: [[f32; 8]; 2] = cast(*c);
            let mut acc: [__m256; 2] = halves.map(cast);
            for (row, panel) in row.iter().zip(panel) {
                for (half, acc) in acc.iter_mut().enumerate() {
                    let part = |x: &[i16; 2 * LANES]| -> __m256i { cast(cast::<_, [[i16; 16]; 2]>(*x)[half]) };
                    let part_u = |x: &[u16; 2 * LANES]| -> __m256i { cast(cast::<_, [[u16; 16]; 2]>(*x)[half]) };
                    let mut exponents = [avx._mm256_setzero_si256(); PAIRS];
                    let mut largest = avx._mm256_set1_epi8(i8::MIN);
                    for i in 0..PAIRS {
                        exponents[i] = avx2._mm256_adds_epi8(part(&panel[i].exponent), pair_i(row[i].exponent));
                        largest = avx2._mm256_max_epi8(largest, exponents[i]);
                    }
                    let swapped = avx2
                        ._mm256_or_si256(avx2._mm256_slli_epi32::<16>(largest), avx2._mm256_srli_epi32::<16>(largest));
                    let largest = avx2._mm256_srai_epi32::<24>(avx2._mm256_max_epi8(largest, swapped));
                    let c_exponent = avx2._mm256_sub_epi32(
                        avx2._mm256_and_si256(avx2._mm256_srli_epi32::<23>(cast(*acc)), splat(0xFF)),
                        splat(127),
                    );
                    let e = avx2._mm256_max_epi32(largest, avx2._mm256_max_epi32(c_exponent, splat(LOWEST)));
                    let base = avx2._mm256_shuffle_epi8(avx2._mm256_min_epi32(e, splat(HIGHEST_SHIFT_BASE)), low_bytes);
                    let base = avx2._mm256_add_epi8(base, splat(0x7068_7068));
                    let mut sums = [avx._mm256_setzero_si256(); 2];
                    for i in (0..PAIRS).step_by(2) {
                        for (i, sum) in (i..).zip(&mut sums) {
                            let twice = avx2._mm256_mullo_epi16(part_u(&panel[i].magnitude), pair_u(row[i].magnitude));
                            let factor = avx2._mm256_shuffle_epi8(table, avx2._mm256_sub_epi8(base, exponents[i]));
                            let term = avx2._mm256_mulhi_epu16(twice, factor);
                            let sign = avx2._mm256_xor_si256(part(&panel[i].sign), pair_i(row[i].sign));
                            *sum = avx2._mm256_add_epi32(*sum, avx2._mm256_madd_epi16(term, sign));
                        }
                    }
                    let scaled = avx._mm256_mul_ps(*acc, power_of_two(avx2._mm256_sub_epi32(splat(13), e)));
                    let cut = avx._mm256_cvttps_epi32(scaled);
                    let whole = avx2._mm256_add_epi32(avx2._mm256_add_epi32(sums[0], sums[1]), cut);
                    let kept = avx2._mm256_and_si256(cast(avx._mm256_cvtepi32_ps(whole)), splat(!0x3FF));
                    *acc = avx._mm256_mul_ps(cast(kept), power_of_two(avx2._mm256_sub_epi32(e, splat(13))));
                }
            }
            *c = cast(acc.map(|half| -> [f32; 8] { cast(half) }));
        }
    }

    const TABLE: [u8; 32] = {
        let mut table = [0; 32];
        let mut i = 0;
        while i < 8 {
            table[i] = 1 << (7 - i);
            table[i + 16] = table[i];
            i += 1;
        }
        table
    };

    /// Copies the lowest byte of each 32-bit element to all four.
    const LOW_BYTES: [u8; 32] = {
        let mut bytes = [0; 32];
        let mut i = 0;
        while i < 32 {
            bytes[i] = (i as u8 & 15) & !3;
            i += 1;
        }
        bytes
    };
}
