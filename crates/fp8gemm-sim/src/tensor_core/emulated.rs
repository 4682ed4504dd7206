//! FP8 `mma.sync` on Hopper, which is no tensor-core instruction of its own.
//!
//! Hopper has FP8 `wgmma`. `mma.sync.m16n8k32` on FP8 operands is emulated with two f16 instructions of
//! K = 16, so that probing with it shows nothing of `wgmma`'s 13 fraction bits. One output, with
//! `G0 = {k : k mod 4 < 2}` and `G1 = {k : k mod 4 >= 2}`:
//!
//! ```text
//! operands converted to f16, exactly
//! r = f16 tensor core over G0, from +0
//! r = f16 tensor core over G1, from r
//! D = fl(r + C), nearest even
//! ```
//!
//! With the f16 accumulator this gives all of 20,000 outputs that the MATLAB-tensor-core project
//! published for H100 and H200 (E4M3 and E5M2; compared when the order was looked for, one of them is
//! replayed by the tests); other groupings, the other order and C first fail on 16 to 36 % of them. For the
//! f32 accumulator nobody has published outputs. The machine code that NVRTC 13.0.88 makes for sm_90a has
//! the order of [`mma_sync_fp8_f32`]: conversions, `HMMA.16816.F32` over G0 from zero, another over G1 from its
//! result, `FADD` of C. What those two `HMMA` give is the f16 core's model; outputs have **not been compared**
//! with hardware yet.

use fp8gemm_formats::Fp8Format;
use fp8gemm_problem::OperandType;
use half::f16;

use super::{InputFormat, Operand, TensorCore};
use crate::round::{canonical, f32_to_f16};

/// K of the instruction.
const K: usize = 32;

/// One output of FP8 `mma.sync.m16n8k32` with an f16 accumulator on Hopper (sm_90).
///
/// `a` and `b` are the codes along K with their types; see the [module](self) for the arithmetic and
/// what it rests on. NaN is `0x7FFF`.
///
/// ```
/// use fp8gemm_problem::OperandType::E4m3;
/// use fp8gemm_sim::tensor_core::{InputFormat, TensorCore, emulated::mma_sync_fp8_f16};
/// use half::f16;
///
/// // 1 - 1 + 2^-14: wgmma cuts the small product off, the emulation keeps it.
/// let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
/// (a[0], a[1], a[2]) = (0x38, 0xB8, 0x04);
/// (b[0], b[1], b[2]) = (0x38, 0x38, 0x04);
/// assert_eq!(mma_sync_fp8_f16((E4m3, &a), (E4m3, &b), f16::ZERO), f16::from_f32(2f32.powi(-14)));
/// let [a, b] = [a, b].map(|x| x.map(|code| InputFormat::E4m3.operand(code.into())));
/// assert_eq!(TensorCore::HOPPER_FP8_F16.dot(&a, &b, 0)?, 0);
/// # Ok::<(), fp8gemm_sim::SimError>(())
/// ```
pub fn mma_sync_fp8_f16(a: (OperandType, &[u8; K]), b: (OperandType, &[u8; K]), c: f16) -> f16 {
    let r = both_groups(TensorCore::HOPPER_F16_F16, a, b);
    // The sum of two f16 in f32 and then in f16 is rounded as if once: 24 >= 2 * 11 + 2.
    f32_to_f16(f16::from_bits(r as u16).to_f32() + c.to_f32())
}

/// One output of FP8 `mma.sync.m16n8k32` with an f32 accumulator on Hopper: the order of the f16 accumulator,
/// partial sums in f32 toward zero, and one f32 addition of C to nearest even. NaN is `0x7FFF_FFFF`.
///
/// Source: the machine code, and 1,720,320 outputs of an H200 on 2026-11-29, every bit; 43,008 of them are in
/// `vectors/difftest/mma_m16n8k32.safetensors`.
pub fn mma_sync_fp8_f32(a: (OperandType, &[u8; K]), b: (OperandType, &[u8; K]), c: f32) -> f32 {
    let r = both_groups(TensorCore::HOPPER_F16_F32, a, b);
    canonical(f32::from_bits(r) + c)
}

/// The two f16 instructions: bits of the accumulator.
fn both_groups(core: TensorCore, a: (OperandType, &[u8; K]), b: (OperandType, &[u8; K])) -> u32 {
    let (a, b) = (as_f16(a), as_f16(b));
    [0, 2].into_iter().fold(0, |r, first| {
        let group = |x: &[Operand; K]| -> [Operand; K / 2] { core::array::from_fn(|i| x[4 * (i / 2) + first + i % 2]) };
        core.chain(&group(&a), &group(&b), r)
    })
}

/// The codes as f16 operands: every FP8 number is an f16, and none but E5M2's subnormals is subnormal.
fn as_f16((ty, codes): (OperandType, &[u8; K])) -> [Operand; K] {
    let format = Fp8Format::from(ty);
    codes.map(|code| InputFormat::F16.operand(f16::from_f32(format.decode(code)).to_bits().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> [u8; K] {
        core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    /// A row of the MATLAB-tensor-core project's H200 data (E4M3): codes, C and D = 0x4085A000, which is
    /// f16 0x442D; `wgmma` gives 0x40727C00 on the same codes from 0.
    const A: &str = "3738AA3BB32A383E3635B82B0F293835B83703BAAEA63A3D9226B0AFB333422D";
    const B: &str = "31B22D29BF2FBCB91BB3B540874121AAB73FB231AD9DB83A3D3B9B86BCAC1283";
    const C: u32 = 0x3EC4_5FDA;

    /// Breaks if the emulation is not what Hopper's `mma.sync` gives, in the one published output that is
    /// quoted in full.
    #[test]
    fn published_output() {
        let (a, b) = (codes(A), codes(B));
        let c = f16::from_f32(f32::from_bits(C));
        let d = mma_sync_fp8_f16((OperandType::E4m3, &a), (OperandType::E4m3, &b), c);
        assert_eq!((d.to_bits(), d.to_f32().to_bits()), (0x442D, 0x4085_A000));
        let [a, b] = [a, b].map(|x| x.map(|code| InputFormat::E4m3.operand(code.into())));
        assert_eq!(TensorCore::HOPPER_FP8_F32.dot(&a, &b, 0), Ok(0x4072_7C00));
    }

    /// Breaks if the groups overlap or leave out an element, if they change places, or if an E4M3
    /// subnormal keeps the exponent that only FP8 hardware gives it.
    #[test]
    fn groups_cover_k_in_their_order() {
        let one = |k: usize| {
            let mut x = [0u8; K];
            x[k] = 0x38;
            x
        };
        for k in 0..K {
            let d = mma_sync_fp8_f16((OperandType::E4m3, &one(k)), (OperandType::E4m3, &one(k)), f16::ZERO);
            assert_eq!(d, f16::ONE);
            let d = mma_sync_fp8_f32((OperandType::E4m3, &one(k)), (OperandType::E4m3, &one(k)), 0.5);
            assert_eq!(d, 1.5);
        }
        // k = 0, 1 and 2: 2048 + 1 rounds to 2048 in f16, and then comes -2048. In one group, or with the
        // groups the other way round, the 1 would stay.
        let (mut a, mut b) = ([0u8; K], [0u8; K]);
        (a[0], b[0]) = (0x78, 0x50);
        (a[1], b[1]) = (0x38, 0x38);
        (a[2], b[2]) = (0xF8, 0x50);
        let d = mma_sync_fp8_f16((OperandType::E4m3, &a), (OperandType::E4m3, &b), f16::ZERO);
        assert_eq!(d, f16::ZERO);
        (a[1], a[3], b[3]) = (0x00, 0x38, 0x38);
        let d = mma_sync_fp8_f16((OperandType::E4m3, &a), (OperandType::E4m3, &b), f16::ZERO);
        assert_eq!(d, f16::ONE);
        // The smallest subnormal times 2^-6: exact in f16's range.
        let (mut a, mut b) = ([0u8; K], [0u8; K]);
        (a[0], b[0]) = (0x01, 0x08);
        let d = mma_sync_fp8_f32((OperandType::E4m3, &a), (OperandType::E4m3, &b), 0.0);
        assert_eq!(d, 2f32.powi(-15));
    }

    /// Breaks if a special value is lost on the way through f16.
    #[test]
    fn specials() {
        let with = |code: u8| {
            let mut x = [0u8; K];
            x[5] = code;
            x
        };
        let f16_of = |a: u8, b: u8, c: f16| {
            mma_sync_fp8_f16((OperandType::E5m2, &with(a)), (OperandType::E5m2, &with(b)), c).to_bits()
        };
        assert_eq!(f16_of(0x7C, 0x3C, f16::ZERO), 0x7C00);
        assert_eq!(f16_of(0x7C, 0x00, f16::ZERO), 0x7FFF);
        assert_eq!(f16_of(0x7F, 0x3C, f16::ZERO), 0x7FFF);
        assert_eq!(f16_of(0x7C, 0x3C, f16::NEG_INFINITY), 0x7FFF);
        assert_eq!(f16_of(0x00, 0x00, f16::NEG_ZERO), 0x0000);
    }
}
