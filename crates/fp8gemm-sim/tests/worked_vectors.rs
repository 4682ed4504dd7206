//! Single steps worked out by hand or measured elsewhere, as exact bits.
//!
//! Hardware rows: MATLAB-tensor-core's published H100 / H200 outputs (row 0 of its E4M3 and E5M2
//! files). The rest are predictions that MMA-Sim 2.1.1 makes too, whose authors report equality
//! with an H100; the recorded tiles of `recorded.rs` cover the same rules on our own H200.

#![allow(clippy::unwrap_used)]

use fp8gemm_sim::tensor_core::{InputFormat, TensorCore};

const F32: TensorCore = TensorCore::HOPPER_FP8_F32;
const F16: TensorCore = TensorCore::HOPPER_FP8_F16;
const E4M3: InputFormat = InputFormat::E4m3;
const E5M2: InputFormat = InputFormat::E5m2;

/// One step over hex codes, missing ones 0; `38 08x31` repeats a code.
fn step(core: TensorCore, format: InputFormat, a: &str, b: &str, c: u32) -> u32 {
    let parse = |text: &str| {
        let mut codes = Vec::new();
        for word in text.split_whitespace() {
            let (code, times) = word.split_once('x').unwrap_or((word, "1"));
            let code = u32::from_str_radix(code, 16).unwrap();
            codes.extend(std::iter::repeat_n(format.operand(code), times.parse().unwrap()));
        }
        assert!(codes.len() <= 32);
        codes.resize(32, format.operand(0));
        codes
    };
    core.dot(&parse(a), &parse(b), c).unwrap()
}

fn pairs(hex: &str) -> String {
    hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>().join(" ")
}

/// Breaks if the model disagrees with other people's hardware.
#[test]
fn published_hardware_rows() {
    let a = pairs("3738AA3BB32A383E3635B82B0F293835B83703BAAEA63A3D9226B0AFB333422D");
    let b = pairs("31B22D29BF2FBCB91BB3B540874121AAB73FB231AD9DB83A3D3B9B86BCAC1283");
    assert_eq!(step(F32, E4M3, &a, &b, 0), 0x4072_7C00);
    let a = pairs("3B3CB53DB9353C3F3B3ABC3527343C3ABC3B1EBDB7B33D3EA933B8B7B9394136");
    let b = pairs("38B93634BF37BEBC2DB9BA40A34030B5BB3FB938B6AEBC3D3E3DADA2BEB6299E");
    assert_eq!(step(F32, E5M2, &a, &b, 0), 0x403F_DC00);
}

/// Breaks if one rule of the f32 accumulator changes; each row isolates one.
#[test]
fn f32_accumulator_rules() {
    for (why, format, a, b, c, want) in [
        ("c loses its low 10 bits", E4M3, "", "", 0x3F80_03FF, 0x3F80_0000),
        ("c keeps 13 bits", E4M3, "", "", 0x3F80_07FF, 0x3F80_0400),
        ("toward zero for negatives", E4M3, "", "", 0xBF80_03FF, 0xBF80_0000),
        ("toward zero for negatives", E4M3, "", "", 0xBF80_07FF, 0xBF80_0400),
        ("subnormal c below the grid", E4M3, "", "", 0x0000_0001, 0x0000_0000),
        ("subnormal c on the grid", E4M3, "", "", 0x0000_0400, 0x0000_0400),
        ("largest subnormal c", E4M3, "", "", 0x007F_FFFF, 0x007F_FC00),
        ("maximal products", E4M3, "7Ex32", "7Ex32", 0, 0x4AC4_0000),
        ("maximal products swallow 1", E4M3, "7Ex32", "7Ex32", 0x3F80_0000, 0x4AC4_0000),
        ("terms at 2^-12", E4M3, "38 08x31", "38 08x31", 0, 0x3F80_F800),
        ("terms at 2^-13", E4M3, "38 08x31", "38 04x31", 0, 0x3F80_7C00),
        ("terms at 2^-14 are lost", E4M3, "38 04x31", "38 04x31", 0, 0x3F80_0000),
        ("output toward zero", E4M3, "38 38", "38 38", 0x3F80_0400, 0x4040_0000),
        ("c cut before the sum", E4M3, "38", "38", 0x3F80_03FF, 0x4000_0000),
        ("e5m2 below the grid", E5M2, "3C 1C", "3C 24", 0, 0x3F80_0000),
        ("e5m2 on the grid", E5M2, "3C 20", "3C 24", 0, 0x3F80_0400),
        ("not the floor", E5M2, "BC 9C", "3C 27", 0, 0xBF80_0000),
        ("maximal e5m2", E5M2, "7Bx32", "7Bx32", 0, 0x51C4_0000),
        ("smallest e5m2 product", E5M2, "01", "01", 0, 0x2F80_0000),
        ("subnormal operand keeps emin", E4M3, "01 08", "78 08", 0, 0x3F00_0000),
        ("zero product not in the maximum", E4M3, "00 08", "78 08", 0, 0x3980_0000),
        ("products not renormalised", E4M3, "3F 08 08", "3F 0C 0C", 0, 0x4061_0C00),
        ("zero is +0", E4M3, "80", "38", 0x8000_0000, 0x0000_0000),
        ("c near overflow, products below its grid", E4M3, "7Ex32", "7Ex32", 0x7F7F_FFFF, 0x7F7F_FC00),
        ("cancelled products erase c", E4M3, "7E FE", "7E 7E", 0x3F80_0000, 0x0000_0000),
        ("c at the lowest kept bit", E4M3, "70 F0", "70 70", 0x4000_0000, 0x4000_0000),
        ("c just below it", E4M3, "70 F0", "70 70", 0x3FFF_FFFF, 0x0000_0000),
        ("NaN times zero", E4M3, "7F", "00", 0, 0x7FFF_FFFF),
        ("negative NaN", E4M3, "FF", "38", 0, 0x7FFF_FFFF),
        ("NaN in c loses its payload", E4M3, "", "", 0xFFC1_2345, 0x7FFF_FFFF),
        ("infinite c", E4M3, "", "", 0x7F80_0000, 0x7F80_0000),
        ("infinity times zero", E5M2, "7C", "00", 0, 0x7FFF_FFFF),
        ("infinities of both signs", E5M2, "7C FC", "3C 3C", 0, 0x7FFF_FFFF),
        ("negative infinity", E5M2, "FC", "3C", 0, 0xFF80_0000),
    ] {
        assert_eq!(step(F32, format, a, b, c), want, "{why}: a {a}, b {b}, c {c:08X}");
    }
}

/// Breaks if one rule of the f16 accumulator changes.
#[test]
fn f16_accumulator_rules() {
    for (why, format, a, b, c, want) in [
        ("overflow is infinity", E4M3, "7E", "7E", 0, 0x7C00),
        ("cancelled products erase c", E4M3, "7E FE", "7E 7E", 0x3C00, 0x0000),
        ("overflow by c", E4M3, "78", "70", 0x7BFF, 0x7C00),
        ("negative underflow is +0", E5M2, "81", "01", 0, 0x0000),
        ("-0 in c", E5M2, "", "", 0x8000, 0x0000),
        ("subnormal c", E5M2, "", "", 0x0001, 0x0001),
    ] {
        assert_eq!(step(F16, format, a, b, c), want, "{why}: a {a}, b {b}, c {c:04X}");
    }
}

/// Breaks if another architecture's constants drift: 1 + 31 * 2^-13 is grouped by 16 on Ada (the
/// second group sees an accumulator of 1 + 15 * 2^-13), and Blackwell keeps 25 bits.
#[test]
fn other_architectures() {
    let small = |core| step(core, E4M3, "38 04x31", "38 04x31", 0);
    assert_eq!(small(TensorCore::ADA_FP8_F32), 0x3F80_0000, "2^-14 terms are lost in the first group, and beside 1");
    assert_eq!(f32::from_bits(small(TensorCore::BLACKWELL_FP8_F32)), 1.0 + 31.0 * 2f32.powi(-14));
    // In Ada's second group of 16 only the carried c is large: the terms are cut beside it too.
    let groups = |core| step(core, E4M3, "00x16 38 04x15", "00x16 38 04x15", 0x3F80_0000);
    assert_eq!(groups(TensorCore::ADA_FP8_F32), 0x4000_0000);
    let half = |code: u32| InputFormat::F16.operand(code);
    // f16: 2048 + 1 + 1 in one group of 16 stays exact with F = 25.
    let d = TensorCore::HOPPER_F16_F32.dot(&[half(0x6800), half(0x3C00), half(0x3C00)], &[half(0x3C00); 3], 0);
    assert_eq!(d.map(f32::from_bits), Ok(2050.0));
    let d = TensorCore::HOPPER_F16_F16.dot(&[half(0x6800), half(0x3C00)], &[half(0x3C00); 2], 0);
    assert_eq!(d, Ok(0x6800), "2049 is a tie in f16 and goes to even");
}
