//! Comparison of results: every bit counts, and each kind of difference is recognised when it is
//! made on purpose.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{Epilogue, OperandType, OutputType, Policy, ScaleLayout};
use fp8gemm_sim::{Bias, Difference, DifferenceKind, Gemm, Matrix, ScaleGroup, SimError, compare, compare_with_c};
use half::{bf16, f16};
use ndarray::{Array2, s};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const TYPES: [OutputType; 3] = OutputType::ALL;

/// Results of the size and spread of a GEMM's, as f32.
fn values(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, columns), || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() * 20.0 - 120.0)
}

fn matrix(values: &Array2<f32>, ty: OutputType) -> Matrix {
    Matrix::from_f32(values.clone(), ty)
}

/// What the difference between two results looks like.
fn kind(expected: &Matrix, actual: &Matrix) -> DifferenceKind {
    compare(&expected.view(), &actual.view()).unwrap().kind().unwrap().clone()
}

/// The kind, where `change` is made to a value before its cast.
fn kind_after(ty: OutputType, values: &Array2<f32>, change: impl FnOnce(&mut Array2<f32>)) -> DifferenceKind {
    let mut changed = values.clone();
    change(&mut changed);
    kind(&matrix(values, ty), &matrix(&changed, ty))
}

/// Breaks if a single differing bit anywhere goes unseen, or is reported at another place.
#[test]
fn every_bit_counts() {
    for ty in TYPES {
        let expected = matrix(&values(1, 9, 11), ty);
        let equal = compare(&expected.view(), &expected.view()).unwrap();
        assert!(equal.bits_equal() && equal.kind().is_none() && equal.max_ulp.is_none());
        assert_eq!(equal.to_string(), "all 99 elements are equal, bit for bit");
        for bit in 0..8 * ty.size() as u32 {
            let (row, column) = (bit as usize % 9, bit as usize % 11);
            let actual = flip(&expected, row, column, bit);
            let got = compare(&expected.view(), &actual.view()).unwrap();
            let (expected, actual) = (expected.view().bits(row, column), actual.view().bits(row, column));
            assert_eq!(got.first, Some(Difference { row, column, expected, actual }));
            assert_eq!((got.differing, got.elements), (1, 99));
            assert_eq!(got.kind(), Some(&DifferenceKind::OneBit { row, column, bit, ty }));
        }
    }
}

fn flip(matrix: &Matrix, row: usize, column: usize, bit: u32) -> Matrix {
    let mut flipped = matrix.clone();
    match &mut flipped {
        Matrix::Bf16(x) => x[(row, column)] = bf16::from_bits(x[(row, column)].to_bits() ^ 1 << bit),
        Matrix::F16(x) => x[(row, column)] = f16::from_bits(x[(row, column)].to_bits() ^ 1 << bit),
        Matrix::F32(x) => x[(row, column)] = f32::from_bits(x[(row, column)].to_bits() ^ 1 << bit),
    }
    flipped
}

/// Breaks if a flipped bit is not named after its field.
#[test]
fn flipped_bits_are_named() {
    let expected = matrix(&values(1, 4, 4), OutputType::Bf16);
    let name = |bit| kind(&expected, &flip(&expected, 2, 3, bit)).to_string();
    assert_eq!(name(0), "one flipped bit: bit 0 of the fraction of row 2 column 3");
    assert_eq!(name(7), "one flipped bit: bit 0 of the exponent of row 2 column 3");
    assert_eq!(name(15), "one flipped bit: the sign of row 2 column 3");
}

/// Breaks if matrices that cannot be compared are.
#[test]
fn refuses_other_types_and_shapes() {
    let x = matrix(&values(1, 4, 5), OutputType::F32);
    let bf16 = matrix(&values(1, 4, 5), OutputType::Bf16);
    let wide = matrix(&values(1, 4, 6), OutputType::F32);
    let type_error = compare(&x.view(), &bf16.view());
    assert!(matches!(type_error, Err(SimError::Type { ty: OutputType::Bf16, expected: OutputType::F32, .. })));
    assert!(matches!(compare(&x.view(), &wide.view()), Err(SimError::Shape { columns: 6, expected_columns: 5, .. })));
    let c_error = compare_with_c(&x.view(), &x.view(), &wide.view(), 1.0);
    assert!(matches!(c_error, Err(SimError::Shape { what: "C", .. })));
    let empty = Matrix::F32(Array2::zeros((0, 4)));
    assert!(compare(&empty.view(), &empty.view()).unwrap().bits_equal());
}

/// Breaks if the sign of zero or the payload of NaN is taken for a number's difference, or the
/// other way round.
#[test]
fn zero_signs_and_nan_payloads() {
    for ty in TYPES {
        let mut x = values(2, 20, 20);
        x.slice_mut(s![3..5, ..]).fill(0.0);
        assert_eq!(kind_after(ty, &x, |x| x.slice_mut(s![3..5, 2..9]).fill(-0.0)), DifferenceKind::ZeroSigns);
    }
    let mut x = values(2, 20, 20);
    x[(4, 4)] = f32::NAN;
    x[(5, 4)] = f32::from_bits(0x7FFF_FFFF);
    let payload = |x: &mut Array2<f32>| x[(4, 4)] = f32::from_bits(0xFFC0_0001);
    assert_eq!(kind_after(OutputType::F32, &x, payload), DifferenceKind::NanPayloads);
    let mut with_number = x.clone();
    with_number[(4, 4)] = 1.0;
    let got = compare(&Matrix::F32(x).view(), &Matrix::F32(with_number).view()).unwrap();
    assert_eq!((got.nan_mismatches, got.max_ulp), (1, None));
    assert_eq!(got.kind(), Some(&DifferenceKind::Unstructured));
}

/// Breaks if a cast with the wrong rounding is not recognised by its bias.
#[test]
fn wrong_rounding_of_the_cast() {
    let x = values(3, 60, 70);
    let cut = |x: f32, direction: fn(f32) -> bool| {
        let low = x.to_bits() & !0xFFFF;
        bf16::from_bits(((low + if direction(x) && low != x.to_bits() { 0x1_0000 } else { 0 }) >> 16) as u16)
    };
    let rounded = matrix(&x, OutputType::Bf16);
    for (bias, away) in [
        (Bias::TowardZero, (|_| false) as fn(f32) -> bool),
        (Bias::AwayFromZero, |_| true),
        (Bias::Down, |x| x < 0.0),
        (Bias::Up, |x| x > 0.0),
    ] {
        let got = compare(&rounded.view(), &Matrix::Bf16(x.mapv(|x| cut(x, away))).view()).unwrap();
        assert_eq!(got.max_ulp, Some(1));
        let Some(kind @ DifferenceKind::OneUlp { bias: seen, share }) = got.kind() else { panic!("{got}") };
        assert_eq!(*seen, bias);
        assert!((0.4..0.6).contains(share), "{share}");
        assert!(kind.to_string().contains("a cast that"), "{kind}");
    }
    let mut rng = StdRng::seed_from_u64(4);
    let unbiased = x.mapv(|x| f32::from_bits(x.to_bits() + rng.random_range(0..3) - 1));
    let got = kind(&Matrix::F32(x.clone()), &Matrix::F32(unbiased));
    assert!(matches!(got, DifferenceKind::OneUlp { bias: Bias::None, .. }), "{got}");
    // Values a little too small before a right cast: few elements, and the cast is not to blame.
    let got = kind_after(OutputType::Bf16, &x, |x| x.mapv_inplace(|x| x * (1.0 - 2f32.powi(-14))));
    assert!(matches!(got, DifferenceKind::OneUlp { bias: Bias::TowardZero, share } if share < 0.1), "{got}");
    assert!(got.to_string().contains("before the last cast"), "{got}");
    // Three units too large everywhere is no scale.
    let got = kind_after(OutputType::F32, &x, |x| x.mapv_inplace(|x| f32::from_bits(x.to_bits() + 3)));
    assert!(matches!(got, DifferenceKind::Precision { bias: Bias::AwayFromZero, .. }), "{got}");
}

/// Breaks if lost tiles or elements are not recognised as zeros.
#[test]
fn zeros_where_values_should_be() {
    for ty in TYPES {
        let x = values(5, 200, 300);
        let got = kind_after(ty, &x, |x| x.slice_mut(s![64..128, 128..256]).fill(0.0));
        assert_eq!(got, DifferenceKind::Zeros { rows: 64..128, columns: 128..256, all: true });
        let got = kind_after(ty, &x, |x| {
            x[(3, 4)] = 0.0;
            x[(13, 9)] = 0.0;
        });
        assert_eq!(got, DifferenceKind::Zeros { rows: 3..14, columns: 4..10, all: false });
    }
}

/// Breaks if a wrong scale is not found for the outputs that share it, with the factor.
#[test]
fn wrong_scales() {
    let x = values(6, 200, 300);
    let check = |ty, change: &dyn Fn(&mut Array2<f32>), per, groups, first, ratio: f64| match kind_after(ty, &x, change)
    {
        DifferenceKind::Scale { per: p, groups: g, first: f, ratio: r } => {
            assert_eq!((p, g, f), (per, groups, first));
            assert!((r / ratio - 1.0).abs() < 1e-3, "{r} {ratio}");
        }
        other => panic!("{per}: {other}"),
    };
    for ty in TYPES {
        check(ty, &|x| *x *= 0.3, ScaleGroup::Matrix, 1, 0, 0.3);
        check(ty, &|x| *x *= -1.0, ScaleGroup::Matrix, 1, 0, -1.0);
        check(ty, &|x| x.slice_mut(s![.., 128..256]).mapv_inplace(|x| x * 1.1), ScaleGroup::ColumnBlock, 1, 1, 1.1);
        check(ty, &|x| x.slice_mut(s![128.., ..]).mapv_inplace(|x| x * 2.0), ScaleGroup::RowBlock, 1, 1, 2.0);
        let rows = |x: &mut Array2<f32>| x.row_mut(7).mapv_inplace(|x| x * 1.7);
        check(ty, &rows, ScaleGroup::Row, 1, 7, 1.7);
        let every_row = |x: &mut Array2<f32>| {
            x.rows_mut().into_iter().enumerate().for_each(|(i, mut row)| row *= 1.25 + i as f32 * 0.01);
        };
        check(ty, &every_row, ScaleGroup::Row, 200, 0, 1.25);
        let columns = |x: &mut Array2<f32>| x.slice_mut(s![.., 5..9]).mapv_inplace(|x| x * 0.5);
        check(ty, &columns, ScaleGroup::Column, 4, 5, 0.5);
    }
}

/// Breaks if an output of the twin with one wrong scale of B is not recognised: with the roundings
/// of a real GEMM in between.
#[test]
fn wrong_scale_in_a_gemm() {
    let (a, b) = (operand(7, 100, 512), operand(8, 200, 512));
    let (codes, mut scales) = b.clone().into_parts();
    scales.row_mut(42).mapv_inplace(|scale| scale * 1.3);
    let wrong = ScaledMatrix::new(OperandType::E4m3, ScaleLayout::Block1x128, codes, scales).unwrap();
    for ty in TYPES {
        let run = |b: &ScaledMatrix| Gemm::new(a.view(), b.view()).output(ty).run().unwrap();
        let got = kind(&run(&b), &run(&wrong));
        assert!(matches!(got, DifferenceKind::Scale { per: ScaleGroup::Column, groups: 1, first: 42, .. }), "{got}");
    }
}

fn operand(seed: u64, rows: usize, k: usize) -> ScaledMatrix {
    let mut rng = StdRng::seed_from_u64(seed);
    let codes = Array2::from_shape_simple_fn((rows, k), || rng.random_range(0x20..0x50) | rng.random::<u8>() & 0x80);
    let scales = Array2::from_shape_simple_fn((rows, k.div_ceil(128)), || rng.random_range(0.5..2.0));
    ScaledMatrix::new(OperandType::E4m3, ScaleLayout::Block1x128, codes, scales).unwrap()
}

/// Breaks if a C that was left out, or weighted wrongly, is not recognised when C is known.
#[test]
fn missing_c() {
    let (a, b) = (operand(9, 80, 256), operand(10, 90, 256));
    let c = values(11, 80, 90);
    for (ty, c_ty) in TYPES.into_iter().zip([OutputType::F32, OutputType::F32, OutputType::Bf16]) {
        let c = matrix(&c, c_ty);
        let run = |beta| {
            let gemm = Gemm::new(a.view(), b.view()).output(ty).c(c.view());
            gemm.epilogue(Epilogue { alpha: 1.0, beta }).run().unwrap()
        };
        let expected = run(1.5);
        let seen = |actual: &Matrix| {
            let got = compare_with_c(&expected.view(), &actual.view(), &c.view(), 1.5).unwrap();
            match got.kind() {
                Some(DifferenceKind::Addend { beta: 1.5, seen }) => *seen,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(seen(&run(0.0)), 0.0);
        assert!((seen(&run(1.0)) - 1.0).abs() < 1e-2);
        assert!((seen(&run(3.0)) - 3.0).abs() < 1e-2);
        let policy = Gemm::new(a.view(), b.view()).output(ty).c(c.view()).policy(Policy::Cutlass128);
        let other = policy.epilogue(Epilogue { alpha: 1.0, beta: 1.5 }).run().unwrap();
        let other = compare_with_c(&expected.view(), &other.view(), &c.view(), 1.5).unwrap();
        assert!(!matches!(other.kind(), Some(DifferenceKind::Addend { .. })), "{other}");
    }
}

/// Breaks if wrong tiles, rows or columns are not told from each other.
#[test]
fn wrong_regions() {
    for ty in TYPES {
        let (x, noise) = (values(12, 300, 300), values(13, 300, 300));
        let replaced = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| {
            kind_after(ty, &x, |x| {
                x.slice_mut(s![rows.clone(), columns.clone()]).assign(&noise.slice(s![rows, columns]));
            })
        };
        let tile = |size, wrong, of, rows, columns| DifferenceKind::Tiles { size, wrong, of, rows, columns };
        assert_eq!(replaced(128..256, 256..300), tile(128, 1, 9, 128..256, 256..300));
        assert_eq!(replaced(128..256, 0..300), tile(128, 3, 9, 128..256, 0..128));
        assert_eq!(replaced(192..256, 64..128), tile(64, 1, 25, 192..256, 64..128));
        assert_eq!(replaced(17..19, 0..300), DifferenceKind::Rows { wrong: 2, first: 17 });
        assert_eq!(replaced(0..300, 250..251), DifferenceKind::Columns { wrong: 1, first: 250 });
        assert_eq!(replaced(50..150, 50..150), DifferenceKind::Unstructured);
    }
}

/// Breaks if another accumulation policy is not recognised as a matter of precision, with its
/// bias: truncation on positive data leans toward zero.
#[test]
fn other_accumulation() {
    let positive = |seed, rows| {
        let mut rng = StdRng::seed_from_u64(seed);
        let codes = Array2::from_shape_simple_fn((rows, 2048), || rng.random_range(0x20..0x50));
        ScaledMatrix::unscaled(OperandType::E4m3, codes)
    };
    let (a, b) = (positive(14, 40), positive(15, 40));
    let run = |policy| Gemm::new(a.view(), b.view()).output(OutputType::F32).policy(policy).run().unwrap();
    let (chain, promote) = (run(Policy::Chain), run(Policy::PROMOTE_128));
    let leaning = |expected, actual| match kind(expected, actual) {
        DifferenceKind::Precision { relative, bias } if relative > 1e-3 => bias,
        other => panic!("{other}"),
    };
    assert_eq!(leaning(&promote, &chain), Bias::TowardZero);
    assert_eq!(leaning(&chain, &promote), Bias::AwayFromZero);
    let (a, b) = (operand(16, 100, 1024), operand(17, 100, 1024));
    let run = |policy| Gemm::new(a.view(), b.view()).output(OutputType::F32).policy(policy).run().unwrap();
    match kind(&run(Policy::PROMOTE_128), &run(Policy::Cutlass128)) {
        DifferenceKind::Precision { relative, bias: Bias::None } => assert!(relative < 1e-6, "{relative}"),
        other => panic!("{other}"),
    }
}

/// Breaks if unrelated results are said to have structure.
#[test]
fn noise_has_no_structure() {
    for ty in TYPES {
        let got = kind(&matrix(&values(18, 300, 200), ty), &matrix(&values(19, 300, 200), ty));
        assert_eq!(got, DifferenceKind::Unstructured);
    }
}
