//! Single outputs that tell models of the tensor core apart.

use fp8gemm_jit::{ProbeAccumulator, ProbeKernel};
use fp8gemm_problem::OperandType;

use super::K;

/// One output of one `wgmma`, and what two models say of it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Question {
    /// What is asked.
    pub name: &'static str,
    /// Element type of A and B.
    pub ty: OperandType,
    /// Type of C and D.
    pub accumulator: ProbeAccumulator,
    /// Codes of A along K, from the first; the rest is zero.
    pub a: &'static [u8],
    /// Codes of B.
    pub b: &'static [u8],
    /// Bits of C.
    pub c: u32,
    /// The model's D.
    pub predicted: u32,
    /// What hardware that decides otherwise would give, where that is one number.
    pub alternative: Option<u32>,
}

impl Question {
    /// A kernel that answers it, in its first output.
    pub fn kernel(&self) -> ProbeKernel {
        ProbeKernel::Wgmma {
            n: 8,
            a: self.ty,
            b: self.ty,
            accumulator: self.accumulator,
            steps: 1,
            a_in_registers: false,
            negate: [false, false],
        }
    }

    /// All codes of A and of B.
    pub fn codes(&self) -> ([u8; K], [u8; K]) {
        let full = |codes: &[u8]| core::array::from_fn(|i| codes.get(i).copied().unwrap_or(0));
        (full(self.a), full(self.b))
    }
}

const fn e4m3(
    name: &'static str,
    a: &'static [u8],
    b: &'static [u8],
    c: u32,
    predicted: u32,
    alternative: Option<u32>,
) -> Question {
    let (ty, accumulator) = (OperandType::E4m3, ProbeAccumulator::F32);
    Question { name, ty, accumulator, a, b, c, predicted, alternative }
}

const fn e5m2(name: &'static str, a: &'static [u8], b: &'static [u8], predicted: u32) -> Question {
    Question { ty: OperandType::E5m2, ..e4m3(name, a, b, 0, predicted, None) }
}

const fn f16(name: &'static str, a: &'static [u8], b: &'static [u8], c: u32, predicted: u32) -> Question {
    Question { accumulator: ProbeAccumulator::F16, ..e4m3(name, a, b, c, predicted, None) }
}

/// The largest E4M3 code, in all of K.
const LARGEST: &[u8] = &[0x7E; K];

/// The questions. Predictions are the model's; alternatives are of models that the literature names.
pub const QUESTIONS: &[Question] = &[
    e4m3(
        "exponent of a subnormal operand: the smallest",
        &[0x01, 0x08],
        &[0x78, 0x08],
        0,
        0x3F00_0000,
        Some(0x3F00_1000),
    ),
    e4m3("a zero product takes no part in the maximum", &[0x00, 0x08], &[0x78, 0x08], 0, 0x3980_0000, Some(0)),
    e4m3("products are not renormalised", &[0x3F, 0x08, 0x08], &[0x3F, 0x0C, 0x0C], 0, 0x4061_0C00, Some(0x4061_0800)),
    e4m3("a sum of -0 is +0", &[0x80], &[0x38], 0x8000_0000, 0, Some(0x8000_0000)),
    e4m3("C is cut toward zero", &[], &[], 0xBF80_07FF, 0xBF80_0400, Some(0xBF80_0800)),
    e4m3("C of 13 fraction bits", &[], &[], 0x3F80_03FF, 0x3F80_0000, Some(0x3F80_03FF)),
    e4m3("a subnormal C keeps its grid", &[], &[], 0x007F_FFFF, 0x007F_FC00, Some(0)),
    e4m3("the smallest C that is kept", &[], &[], 0x0000_0400, 0x0000_0400, Some(0)),
    e4m3("a smaller C is lost", &[], &[], 0x0000_0001, 0, Some(0x0000_0001)),
    e4m3("the largest C does not overflow", LARGEST, LARGEST, 0x7F7F_FFFF, 0x7F7F_FC00, Some(0x7F80_0000)),
    e4m3("products that cancel take C with them", &[0x7E, 0xFE], &[0x7E, 0x7E], 0x3F80_0000, 0, Some(0x3F80_0000)),
    e4m3("C at the last bit of cancelling products", &[0x70, 0xF0], &[0x70, 0x70], 0x4000_0000, 0x4000_0000, Some(0)),
    e4m3("C below that bit", &[0x70, 0xF0], &[0x70, 0x70], 0x3FFF_FFFF, 0, Some(0x3FFF_FFFF)),
    e4m3("the largest sum", LARGEST, LARGEST, 0, 0x4AC4_0000, None),
    e4m3("the result is cut toward zero", &[0x38, 0x38], &[0x38, 0x38], 0x3F80_0400, 0x4040_0000, Some(0x4040_0400)),
    e4m3("NaN times 0", &[0x7F], &[0x00], 0, 0x7FFF_FFFF, None),
    e4m3("-NaN", &[0xFF], &[0x38], 0, 0x7FFF_FFFF, Some(0xFFFF_FFFF)),
    e4m3("a NaN of C loses its bits", &[], &[], 0xFFC1_2345, 0x7FFF_FFFF, Some(0xFFC1_2345)),
    e4m3("an infinite C", &[], &[], 0x7F80_0000, 0x7F80_0000, None),
    e5m2("a product below the last bit", &[0x3C, 0x1C], &[0x3C, 0x24], 0x3F80_0000),
    e5m2("a product at the last bit", &[0x3C, 0x20], &[0x3C, 0x24], 0x3F80_0400),
    e5m2("negative products are cut toward zero", &[0xBC, 0x9C], &[0x3C, 0x27], 0xBF80_0000),
    e5m2("the smallest product", &[0x01], &[0x01], 0x2F80_0000),
    e5m2("infinity times 0", &[0x7C], &[0x00], 0x7FFF_FFFF),
    e5m2("infinities of both signs", &[0x7C, 0xFC], &[0x3C, 0x3C], 0x7FFF_FFFF),
    e5m2("-infinity", &[0xFC], &[0x3C], 0xFF80_0000),
    f16("f16: overflow is infinity", &[0x7E], &[0x7E], 0, 0x7C00),
    f16("f16: products that cancel take C with them", &[0x7E, 0xFE], &[0x7E, 0x7E], 0x3C00, 0),
    f16("f16: C and a product overflow together", &[0x78], &[0x70], 0x7BFF, 0x7C00),
    f16("f16: -0 becomes +0", &[], &[], 0x8000, 0),
    f16("f16: a subnormal C is kept", &[], &[], 0x0001, 0x0001),
];
