//! Recipes against recorded results of the libraries' own code, and against vectors worked by hand.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

use fp8gemm_formats::quantize::{Quantizer, Recipe, quantize};
use fp8gemm_problem::{OperandType, ScaleLayout};
use half::{bf16, f16};
use ndarray::{Array2, array};

/// Upper halves of Knuth's 64-bit linear congruential generator, as in `data/recipes_torch.py`.
fn random_words(count: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        })
        .collect()
}

/// 24-bit numbers in [-4, 4).
fn uniform(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let values = random_words(rows * columns, seed)
        .into_iter()
        .map(|word| ((word >> 8) as i32 - (1 << 23)) as f32 * 2f32.powi(-21))
        .collect();
    Array2::from_shape_vec((rows, columns), values).unwrap()
}

/// The same with the lower half of the bits cleared.
fn bfloat(values: Array2<f32>) -> Array2<f32> {
    values.mapv(|value| f32::from_bits(value.to_bits() & 0xFFFF_0000))
}

/// Rows of every magnitude; with specials also rows of zeros, NaN, infinities, subnormals.
fn wide(columns: usize, specials: bool) -> Array2<f32> {
    let rows = if specials { 8 } else { 4 };
    let words = random_words(rows * columns, 7);
    Array2::from_shape_fn((rows, columns), |(row, column)| {
        let word = words[row * columns + column];
        let base = ((row * 67 + (column / 32) * 41) % 255) as u32;
        let exponent = base.saturating_sub((word >> 23) & 15);
        f32::from_bits(match row {
            4 => word & 0x8000_0000,
            5 if column % 64 == 7 => 0x7FC0_0000,
            6 if column == 70 => 0x7F80_0000,
            6 if column == 130 => 0xFF80_0000,
            7 => word & 0x8000_0FFF,
            _ => (word & 0x807F_FFFF) | (exponent << 23),
        })
    })
}

fn input(name: &str) -> Array2<f32> {
    match name {
        "f32" => uniform(5, 300, 1),
        "bf16" => bfloat(uniform(5, 300, 2)),
        "square" => bfloat(uniform(130, 140, 3)),
        "column" => uniform(256, 5, 4),
        "mx" => uniform(4, 256, 5),
        "wide" => wide(256, true),
        "finite" => wide(256, false),
        _ => panic!("no input {name}"),
    }
}

fn hex_bytes(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Breaks if a recipe differs in one bit from what the library's own Python code computed on the
/// CPU (torch, torchao, DeepGEMM, TransformerEngine's reference; provenance in the file).
#[test]
fn recorded_results_of_the_libraries() {
    assert_eq!(replay(include_str!("data/recipes_torch.txt")), 40);
}

/// Breaks if a recipe differs in one bit from what was computed on an H200 (DeepGEMM's own
/// functions, the CUDA kernels' arithmetic; provenance in the file).
#[test]
fn recorded_results_of_a_gpu() {
    assert_eq!(replay(include_str!("data/recipes_cuda.txt")), 78);
}

/// Quantises the input of each line and compares every bit; how many lines there were.
fn replay(recorded: &str) -> usize {
    let mut cases = 0;
    for line in recorded.lines().filter(|line| !line.starts_with('#')) {
        let [name, source, rows, columns, scales, codes] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("malformed line {line:.80}");
        };
        let x = input(source);
        assert_eq!((rows, columns), (&*x.nrows().to_string(), &*x.ncols().to_string()), "{name} {source}");
        let quantizer: Quantizer = name.parse().unwrap();
        assert_eq!(quantizer.to_string(), name);
        let quantized = if source == "bf16" {
            quantizer.quantize(x.mapv(bf16::from_f32).view()).unwrap()
        } else {
            quantizer.quantize(x.view()).unwrap()
        };
        let scales: Vec<u32> = scales.split(',').map(|word| u32::from_str_radix(word, 16).unwrap()).collect();
        let ours: Vec<u32> = quantized.scales().iter().map(|scale| canonical(*scale)).collect();
        assert_eq!(ours, scales, "scales of {name} on {source}");
        let codes = hex_bytes(codes);
        for (index, (ours, theirs)) in quantized.codes().iter().zip(&codes).enumerate() {
            let (row, column) = (index / x.ncols(), index % x.ncols());
            assert_eq!(ours, theirs, "{name} on {source} at ({row}, {column}), x = {:e}", x[[row, column]]);
        }
        assert_eq!(quantized.codes().len(), codes.len());
        cases += 1;
    }
    cases
}

fn canonical(scale: f32) -> u32 {
    if scale.is_nan() { 0x7FFF_FFFF } else { scale.to_bits() }
}

/// Quantises one row and gives the scale's bits and the codes.
fn one(recipe: Recipe, ty: OperandType, row: &[f32]) -> (u32, Vec<u8>) {
    let x = Array2::from_shape_vec((1, row.len()), row.to_vec()).unwrap();
    let quantized = quantize(x.view(), recipe, recipe.layouts()[0], ty).unwrap();
    (canonical(quantized.scales()[[0, 0]]), quantized.codes().iter().copied().collect())
}

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

/// Breaks if a recipe treats zeros, subnormals, infinities or NaN unlike its source. Each line was
/// worked out from the source's text (see the recipe's documentation); `-0.0` and two elements of
/// a block show what happens to the others.
#[test]
fn special_values_go_where_the_source_sends_them() {
    use OperandType::E4m3;
    use Recipe::*;
    let tiny = f32::from_bits(1);
    #[rustfmt::skip]
    let cases: &[(Recipe, &[f32], u32, &[u8])] = &[
        // Zeros.
        (DeepGemm, &[0.0, -0.0], 0x346FACAD, &[0x00, 0x80]),
        (DeepGemmUe8m0, &[0.0, -0.0], 0x34800000, &[0x00, 0x80]),
        (DeepGemmV1, &[0.0, -0.0], 0x346FACAD, &[0x00, 0x80]),
        (TeCurrent, &[0.0, -0.0], 0x3F800000, &[0x00, 0x80]),
        (TeBlock, &[0.0, -0.0], 0x3F800000, &[0x00, 0x80]),
        (TorchaoMxFloor, &[0.0, -0.0], 0x00400000, &[0x00, 0x80]),
        (TorchaoMxRceil, &[0.0, -0.0], 0x00400000, &[0x00, 0x80]),
        (VllmTensor, &[0.0, -0.0], 0x00000000, &[0x7E, 0x7E]),
        (VllmToken, &[0.0, -0.0], 0x36924925, &[0x00, 0x80]),
        (VllmGroup, &[0.0, -0.0], 0x2A7B5123, &[0x00, 0x80]),
        (VllmGroupUe8m0, &[0.0, -0.0], 0x2F000000, &[0x00, 0x80]),
        (SglangTensor, &[0.0, -0.0], 0x00000000, &[0x7E, 0x7E]),
        (SglangToken, &[0.0, -0.0], 0x00000000, &[0x00, 0x80]),
        (SglangGroupUe8m0, &[0.0, -0.0], 0x2A800000, &[0x00, 0x80]),
        (MistralrsDeepGemm, &[0.0, -0.0], 0x3F800000, &[0x00, 0x80]),
        (MistralrsWeight, &[0.0, -0.0], 0x2B8CBCCC, &[0x00, 0x80]),
        (MistralrsWeightCpu, &[0.0, -0.0], 0x2B8CBCCC, &[0x00, 0x80]),
        // The smallest subnormal. 448 / 2^-149 overflows, 2^-149 / 448 is 0.
        (TeCurrent, &[tiny, 0.0], 0x00200000, &[0x00, 0x00]),
        (TeCurrentPow2, &[tiny, 0.0], 0x00400000, &[0x00, 0x00]),
        (TorchaoMxFloor, &[tiny, 0.0], 0x00400000, &[0x00, 0x00]),
        (VllmTensor, &[tiny, -tiny, 0.0], 0x00000000, &[0x7E, 0xFE, 0x7E]),
        (SglangToken, &[tiny, -tiny, 0.0], 0x00000000, &[0x00, 0x80, 0x00]),
        (MistralrsDeepGemm, &[tiny, -tiny, 0.0], 0x00000000, &[0x7E, 0xFE, 0x7F]),
        (MistralrsWeightCpu, &[tiny, -tiny, 0.0], 0x00000000, &[0x7E, 0xFE, 0x7F]),
        // Infinity.
        (DeepGemm, &[INF, -1.0], 0x7F800000, &[0x7F, 0x80]),
        (DeepGemmUe8m0, &[-INF, -1.0], 0x7F000000, &[0xFE, 0x80]),
        (DeepGemmV1, &[INF, 1.0], 0x7F800000, &[0x7F, 0x00]),
        (TeCurrent, &[-INF, 1.0], 0x3F800000, &[0xFE, 0x38]),
        (TeBlockF32, &[INF, 1.0], 0x3F800000, &[0x7E, 0x38]),
        (TorchaoMxFloor, &[INF, 1.0], 0x7FFFFFFF, &[0x7F, 0x7F]),
        (TorchaoFloat8, &[INF, 1.0], 0x7F800000, &[0x7F, 0x00]),
        (VllmTensor, &[-INF, -1.0], 0x7F800000, &[0x7E, 0x80]),
        (VllmToken, &[-INF, -1.0], 0x7F800000, &[0x7E, 0x80]),
        (VllmGroup, &[INF, -1.0], 0x7F800000, &[0xFE, 0x80]),
        (VllmGroupUe8m0, &[INF, -1.0], 0x7F800000, &[0xFE, 0x80]),
        (SglangGroup, &[INF, -1.0], 0x7F800000, &[0xFE, 0x80]),
        (MistralrsDeepGemm, &[INF, -1.0], 0x7F800000, &[0x7F, 0x80]),
        (MistralrsWeight, &[INF, -1.0], 0x7F800000, &[0x7F, 0x80]),
        // NaN: 7 / 448 = 1/64.
        (DeepGemm, &[NAN, 7.0], 0x7FFFFFFF, &[0x7F, 0x7F]),
        (DeepGemmUe8m0, &[NAN, 7.0], 0x7F000000, &[0x7F, 0x00]),
        (TeCurrent, &[-NAN, 7.0], 0x3C800000, &[0x7F, 0x7E]),
        (TeBlock, &[NAN, NAN], 0x3F800000, &[0x7F, 0x7F]),
        (TorchaoMxEven, &[NAN, 7.0], 0x7FFFFFFF, &[0x7F, 0x7F]),
        (VllmTensor, &[NAN, 7.0], 0x3C800000, &[0x7E, 0x7E]),
        (VllmToken, &[NAN, 7.0], 0x3C800000, &[0x7E, 0x7E]),
        (VllmGroup, &[NAN, 7.0], 0x3C800000, &[0xFE, 0x7E]),
        (SglangToken, &[NAN, 7.0], 0x3C800000, &[0x7E, 0x7E]),
        (SglangGroup, &[NAN, 7.0], 0x3C800000, &[0xFE, 0x7E]),
        (SglangGroupUe8m0, &[NAN, 7.0], 0x3C800000, &[0xFE, 0x7E]),
        (MistralrsCutlass, &[NAN, 7.0], 0x3C800000, &[0xFE, 0x7E]),
        (MistralrsWeight, &[NAN, 7.0], 0x3C800000, &[0x7F, 0x7E]),
        (MistralrsWeightCpu, &[NAN, 7.0], 0x3C800000, &[0x7F, 0x7E]),
    ];
    for (recipe, row, scale, codes) in cases {
        let (ours, our_codes) = one(*recipe, E4m3, row);
        assert_eq!((format!("{ours:08x}"), our_codes), (format!("{scale:08x}"), codes.to_vec()), "{recipe} {row:?}");
    }
}

/// Breaks if recipes that differ only in the order of roundings become the same: `x * (1 / (a * r))`
/// with `r = 1 / 448`, `x * ((1 / a) * 448)`, `x / (a / 448)`, `x * (1 / (a / 448))` and
/// `x * (448 / a)`. The bf16 pairs were found, and their codes computed, with numpy 2.4 and ml_dtypes
/// 0.6; each row is a pattern of disagreement that no other row has.
#[test]
fn the_order_of_roundings_decides_ties() {
    use Recipe::*;
    #[rustfmt::skip]
    let cases: [(u32, u32, [u8; 5]); 8] = [
        (0x3F8A0000, 0x3C4F0000, [0x4A, 0x4B, 0x4A, 0x4B, 0x4A]),
        (0x3F980000, 0x3C640000, [0x4A, 0x4A, 0x4A, 0x4B, 0x4A]),
        (0x3F9A0000, 0x3C510000, [0x49, 0x4A, 0x4A, 0x4A, 0x4A]),
        (0x3FB80000, 0x3C0A0000, [0x42, 0x43, 0x42, 0x42, 0x42]),
        (0x3FC40000, 0x3C050000, [0x41, 0x41, 0x42, 0x42, 0x42]),
        (0x3FC40000, 0x3C2F0000, [0x44, 0x44, 0x44, 0x45, 0x45]),
        (0x3FCC0000, 0x3C190000, [0x42, 0x43, 0x42, 0x43, 0x43]),
        (0x3FF80000, 0x3C3A0000, [0x42, 0x42, 0x43, 0x42, 0x42]),
    ];
    for (a, x, codes) in cases {
        let row = [f32::from_bits(a), f32::from_bits(x)];
        let ours = [DeepGemm, DeepGemmV1, VllmGroup, DeepGemmCpu, TeBlockF32]
            .map(|recipe| one(recipe, OperandType::E4m3, &row).1[1]);
        assert_eq!(ours, codes, "a {a:08x} x {x:08x}");
    }
}

/// Breaks if the OCP floor rule stops clipping, or the others start: amax 1.76 of numerics notes.
#[test]
fn microscaling_modes_on_one_block() {
    let scale_and_code = |recipe, x: f32| {
        let (scale, codes) = one(recipe, OperandType::E4m3, &[x, x / 2.0]);
        (f32::from_bits(scale).log2(), codes)
    };
    // 1.76 * 2^8 = 450.56 -> 448; 0.88 * 2^8 = 225.28 -> 224.
    assert_eq!(scale_and_code(Recipe::TorchaoMxFloor, 1.76), (-8.0, vec![0x7E, 0x76]));
    assert_eq!(scale_and_code(Recipe::TorchaoMxRceil, 1.76), (-7.0, vec![0x76, 0x6E]));
    assert_eq!(scale_and_code(Recipe::TorchaoMxCeil, 1.76), (-7.0, vec![0x76, 0x6E]));
    // 1.76 + 1/16 stays below 2, 1.95 + 1/16 does not.
    assert_eq!(scale_and_code(Recipe::TorchaoMxEven, 1.76), (-8.0, vec![0x7E, 0x76]));
    assert_eq!(scale_and_code(Recipe::TorchaoMxEven, 1.95), (-7.0, vec![0x78, 0x70]));
    // 1.75 = 448 / 256 exactly: only CEIL goes up.
    assert_eq!(scale_and_code(Recipe::TorchaoMxRceil, 1.75).0, -8.0);
    assert_eq!(scale_and_code(Recipe::TorchaoMxCeil, 1.75).0, -7.0);
    assert_eq!(scale_and_code(Recipe::TorchaoMxCeil, 1.0).0, -8.0);
}

/// Breaks if the scale that overflows f32 loses its dependence on the input type: 448 / 2^-133 is
/// infinite, and TransformerEngine's block scaling takes the largest bf16 or f32.
#[test]
fn block_scaling_knows_the_input_type() {
    let (layout, ty) = (ScaleLayout::Block1x128, OperandType::E4m3);
    let tiny = f32::from_bits(0x0001_0000);
    let narrow = quantize(array![[bf16::from_f32(tiny)]].view(), Recipe::TeBlockF32, layout, ty).unwrap();
    let wide = quantize(array![[tiny]].view(), Recipe::TeBlockF32, layout, ty).unwrap();
    assert_eq!(narrow.scales()[[0, 0]], 1.0 / f32::from_bits(0x7F7F_0000));
    assert_eq!(wide.scales()[[0, 0]], 1.0 / f32::MAX);
    // Cleared mantissas are the same: 2^127. f16 never overflows: its smallest is 2^-24.
    let narrow = quantize(array![[bf16::from_f32(tiny)]].view(), Recipe::TeBlock, layout, ty).unwrap();
    assert_eq!(narrow.scales()[[0, 0]], 2f32.powi(-127));
    let half = quantize(array![[f16::from_bits(1)]].view(), Recipe::TeBlockF32, layout, ty).unwrap();
    assert_eq!((half.scales()[[0, 0]], half.codes()[[0, 0]]), (1.0 / (448.0 * 2f32.powi(24)), 0x7E));
}

/// Breaks if the double rounding of mistral.rs' CUDA kernel is lost. With amax 448 the scale is 1;
/// 17.0001 rounds to f16 17.0, a tie between 16 and 18 that goes to 16, while it is above the tie.
#[test]
fn rounding_through_f16_is_kept() {
    let row = [448.0, 17.0001];
    assert_eq!(one(Recipe::MistralrsWeight, OperandType::E4m3, &row).1[1], 0x58);
    assert_eq!(one(Recipe::MistralrsWeightCpu, OperandType::E4m3, &row).1[1], 0x59);
}
