//! The tensor core as arithmetic: one fused dot-product-add, generic in its parameters.
//!
//! One step takes `L` products and the accumulator `c` of one output element:
//!
//! ```text
//! operand  = (-1)^s * m * 2^e        e = max(exponent, emin), m in [0, 2): subnormals not normalised
//! p_i      = m_a * m_b               exact, in [0, 4), not renormalised;  e_i = e_a + e_b
//! E        = max(e_i of non-zero products, e_c if c != 0, floor)
//! t_i      = trunc(p_i * 2^(e_i - E + F))        and t_c likewise, magnitudes cut toward zero
//! S        = sum of +/- t_i and +/- t_c          exact
//! d        = round(S * 2^(E - F))                one rounding into the accumulator's format
//! ```
//!
//! A NaN operand, an infinity times zero, or infinities of both signs give the canonical NaN; an
//! infinity of one sign gives that infinity; a zero result is +0.
//!
//! | constant | L | F | accumulator | source |
//! |---|---|---|---|---|
//! | [`TensorCore::HOPPER_FP8_F32`] | 32 | 13 | f32 cut to 13 fraction bits, toward zero | 655,360 recorded outputs of an H200 |
//! | [`TensorCore::HOPPER_FP8_F16`] | 32 | 13 | f16, nearest even | 655,360 recorded outputs of an H200 |
//! | [`TensorCore::HOPPER_F16_F32`] | 16 | 25 | f32, toward zero | MMA-Sim (arXiv 2511.10909) |
//! | [`TensorCore::HOPPER_F16_F16`] | 16 | 25 | f16, nearest even | MMA-Sim |
//! | [`TensorCore::HOPPER_TF32_F32`] | 8 | 25 | f32, toward zero | MMA-Sim |
//! | [`TensorCore::ADA_FP8_F32`] | 16 | 13 | f32 cut to 13 fraction bits, toward zero | MMA-Sim |
//! | [`TensorCore::BLACKWELL_FP8_F32`] | 32 | 25 | f32, toward zero | MMA-Sim |
//!
//! Every field is public: a "what if F were 20" is a struct update, and so is each of the wrong
//! models ([`mutants`]) by which the test data of this crate is scored.
//!
//! ```
//! use fp8gemm_sim::tensor_core::{InputFormat, TensorCore};
//!
//! // 1 * 1 + 2^-14: the small term lies below the 13 fraction bits and is cut off.
//! let a = [0x38, 0x04].map(|code| InputFormat::E4m3.operand(code));
//! let d = TensorCore::HOPPER_FP8_F32.dot(&a, &a.map(|_| a[0]), 0)?;
//! assert_eq!(f32::from_bits(d), 1.0078125);
//! # Ok::<(), fp8gemm_sim::SimError>(())
//! ```

pub mod emulated;
mod input;
pub mod mutants;
mod step;

pub use input::{InputFormat, Operand};
pub(crate) use step::Exact;

use crate::SimError;
use crate::round::Rounding;

/// What is lost when a term is shifted to the common exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alignment {
    /// The magnitude's low bits are dropped: what the hardware does.
    TowardZero,
    /// Two's-complement shift: negative terms move away from zero.
    Floor,
    /// Each term is rounded to nearest even.
    NearestEven,
}

/// The format of c and d.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accumulator {
    /// f32 whose results have `fraction_bits` fraction bits (13: Hopper FP8; 23: all of them).
    F32 {
        /// Fraction bits of a result, at most 23. The rest of the stored ones are zero.
        fraction_bits: u32,
        /// Rounding of the sum.
        rounding: Rounding,
    },
    /// f16, all of its bits.
    F16 {
        /// Rounding of the sum.
        rounding: Rounding,
    },
}

/// Which products are summed together where K is longer than `terms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TermOrder {
    /// `terms` consecutive elements of K at a time.
    Consecutive,
    /// Within each 32 elements of K, every `32 / terms`-th element.
    Interleaved,
}

/// A tensor core: everything that decides the bits of a dot product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorCore {
    /// Products summed in one step (L); at most 32.
    pub terms: usize,
    /// Fraction bits kept at alignment (F); at most 48.
    pub fraction_bits: u32,
    /// How terms are cut at alignment.
    pub alignment: Alignment,
    /// Format and rounding of the result.
    pub accumulator: Accumulator,
    /// E is never below this (`e_zero`: -133 for f32, -21 for f16 results).
    pub exponent_floor: i32,
    /// Order of the terms along K.
    pub order: TermOrder,
    /// Whether a product in [2, 4) is first renormalised to [1, 2). Hardware: no.
    pub renormalised_products: bool,
    /// Whether a subnormal operand is first normalised. Hardware: no.
    pub normalised_subnormals: bool,
    /// Whether the exponent of a zero product takes part in the maximum. Hardware: no.
    pub zero_products_in_max: bool,
}

impl TensorCore {
    /// Hopper `wgmma.m64nNk32` on E4M3 / E5M2 (any mix) with an f32 accumulator.
    pub const HOPPER_FP8_F32: Self = Self {
        terms: 32,
        fraction_bits: 13,
        alignment: Alignment::TowardZero,
        accumulator: Accumulator::F32 { fraction_bits: 13, rounding: Rounding::TowardZero },
        exponent_floor: -133,
        order: TermOrder::Consecutive,
        renormalised_products: false,
        normalised_subnormals: false,
        zero_products_in_max: false,
    };

    /// Hopper `wgmma.m64nNk32` on E4M3 / E5M2 (any mix) with an f16 accumulator.
    pub const HOPPER_FP8_F16: Self = Self {
        accumulator: Accumulator::F16 { rounding: Rounding::NearestEven },
        exponent_floor: -21,
        ..Self::HOPPER_FP8_F32
    };

    /// Hopper `wgmma` and `mma.sync` on f16 or bf16 with an f32 accumulator.
    pub const HOPPER_F16_F32: Self = Self {
        terms: 16,
        fraction_bits: 25,
        accumulator: Accumulator::F32 { fraction_bits: 23, rounding: Rounding::TowardZero },
        ..Self::HOPPER_FP8_F32
    };

    /// Hopper `wgmma` and `mma.sync` on f16 with an f16 accumulator.
    pub const HOPPER_F16_F16: Self = Self {
        accumulator: Accumulator::F16 { rounding: Rounding::NearestEven },
        exponent_floor: -21,
        ..Self::HOPPER_F16_F32
    };

    /// Hopper `wgmma` and `mma.sync` on tf32.
    pub const HOPPER_TF32_F32: Self = Self { terms: 8, ..Self::HOPPER_F16_F32 };

    /// Ada (sm_89) `mma.sync.m16n8k32` on FP8: Hopper's precision, 16 products at a time.
    pub const ADA_FP8_F32: Self = Self { terms: 16, ..Self::HOPPER_FP8_F32 };

    /// Blackwell `tcgen05.mma` (and sm_120 `mma.sync`) on FP8: no FP8 deficiency.
    pub const BLACKWELL_FP8_F32: Self = Self {
        fraction_bits: 25,
        accumulator: Accumulator::F32 { fraction_bits: 23, rounding: Rounding::TowardZero },
        ..Self::HOPPER_FP8_F32
    };

    /// Checks that the engine can represent this core exactly.
    ///
    /// # Errors
    /// [`SimError::Core`] if `terms` is 0 or not a divisor of 32, `fraction_bits` is over 48 or an
    /// f32 accumulator asks for more than 23 fraction bits.
    pub fn check(&self) -> Result<(), SimError> {
        if self.terms == 0 || 32 % self.terms != 0 {
            let value = u32::try_from(self.terms).unwrap_or(u32::MAX);
            return Err(SimError::Core { field: "terms", value, rule: "it must be a divisor of 32" });
        }
        if self.fraction_bits > 48 {
            let rule = "at most 48 keep every sum exact in 64 bits";
            return Err(SimError::Core { field: "fraction_bits", value: self.fraction_bits, rule });
        }
        if let Accumulator::F32 { fraction_bits, .. } = self.accumulator
            && fraction_bits > 23
        {
            let rule = "an f32 has 23";
            return Err(SimError::Core { field: "accumulator.fraction_bits", value: fraction_bits, rule });
        }
        Ok(())
    }

    /// [`check`](Self::check), and that results are f32, as a GEMM's accumulators are.
    pub(crate) fn check_f32_accumulator(&self) -> Result<(), SimError> {
        if matches!(self.accumulator, Accumulator::F16 { .. }) {
            let rule = "a GEMM accumulates in f32";
            return Err(SimError::Core { field: "accumulator width", value: 16, rule });
        }
        self.check()
    }

    /// Chains steps over all of `a` and `b`: `d = a . b + c`, `terms` products at a time, a short
    /// last group padded with zeros. `c` and the result are bits of the accumulator's format (f16
    /// in the low 16 bits).
    ///
    /// # Errors
    /// [`SimError::LengthMismatch`], or [`SimError::Core`] as [`check`](Self::check) says.
    pub fn dot(&self, a: &[Operand], b: &[Operand], c: u32) -> Result<u32, SimError> {
        self.check()?;
        if a.len() != b.len() {
            return Err(SimError::LengthMismatch { a: a.len(), b: b.len() });
        }
        Ok(self.chain(a, b, c))
    }
}
