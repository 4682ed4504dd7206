//! The references against independent arithmetic.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

mod reference_oracle;

use fp8gemm_formats::{FormatError, ScaledMatrix};
use fp8gemm_problem::{Epilogue, OperandType, ProblemError, ScaleLayout};
use fp8gemm_sim::reference::{ExactGemm, exact, exact_f32, exact_rows, sequential_f32, sequential_f64};
use fp8gemm_sim::{Matrix, SimError};
use ndarray::{Array2, array};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reference_oracle::{exact_sum, two_product};
use std::sync::atomic::{AtomicU64, Ordering};

/// Finite codes of any size, scales over many binades.
fn operand(rng: &mut StdRng, rows: usize, k: usize, ty: OperandType, layout: ScaleLayout, spread: i32) -> ScaledMatrix {
    let finite = |code: u8| match ty {
        OperandType::E4m3 => code & 0x7F != 0x7F,
        OperandType::E5m2 => code & 0x7F < 0x7C,
    };
    let codes = Array2::from_shape_simple_fn((rows, k), || {
        loop {
            let code = rng.random();
            if finite(code) {
                break code;
            }
        }
    });
    let mut rng = StdRng::seed_from_u64(rng.random());
    let scales = Array2::from_shape_simple_fn(layout.scale_shape(rows, k), || {
        let exponent = rng.random_range(-spread..=spread);
        let sign = if rng.random_bool(0.2) { -1.0 } else { 1.0 };
        (sign * rng.random_range(1.0..2.0) * 2f64.powi(exponent)) as f32
    });
    ScaledMatrix::new(ty, layout, codes, scales).unwrap()
}

/// The terms of one output, each as the exact sum of two f64.
fn terms(a: &ScaledMatrix, b: &ScaledMatrix, row: usize, column: usize) -> Vec<f64> {
    (0..a.columns()).flat_map(|k| two_product(decode(a, row, k), decode(b, column, k))).collect()
}

/// Breaks if an exact product is not the correctly rounded one, for some type, scale layout, size
/// of a partial tile, or spread of the scales (up to both ends of f32, so that terms overlap in
/// one output and lie hundreds of binades apart in another).
#[test]
fn exact_is_correctly_rounded() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut outputs = 0;
    for layout_a in ScaleLayout::ALL {
        for layout_b in ScaleLayout::ALL {
            for (ty_a, ty_b, spread) in [
                (OperandType::E4m3, OperandType::E4m3, 3),
                (OperandType::E4m3, OperandType::E5m2, 30),
                (OperandType::E5m2, OperandType::E4m3, 126),
                (OperandType::E5m2, OperandType::E5m2, 149),
            ] {
                let (m, n, k) = (rng.random_range(1..40), rng.random_range(1..70), rng.random_range(1..600));
                let a = operand(&mut rng, m, k, ty_a, layout_a, spread.min(126));
                let b = operand(&mut rng, n, k, ty_b, layout_b, spread.min(126));
                let got = exact(&a.view(), &b.view()).unwrap();
                for _ in 0..20 {
                    let (row, column) = (rng.random_range(0..m), rng.random_range(0..n));
                    let want = exact_sum(terms(&a, &b, row, column));
                    assert_eq!(got[(row, column)].to_bits(), want.to_bits(), "{layout_a} {layout_b} {row} {column}");
                    outputs += 1;
                }
            }
        }
    }
    assert_eq!(outputs, 36 * 4 * 20);
}

/// Breaks if subnormal scales, the smallest FP8 values or their largest products fall out of the
/// accumulator.
#[test]
fn exact_reaches_both_ends() {
    let smallest =
        ScaledMatrix::new(OperandType::E5m2, ScaleLayout::Block1x128, array![[0x01]], array![[f32::from_bits(1)]])
            .unwrap();
    let largest = ScaledMatrix::new(
        OperandType::E5m2,
        ScaleLayout::Block1x128,
        Array2::from_elem((1, 300), 0x7B),
        Array2::from_elem((1, 3), f32::MAX),
    )
    .unwrap();
    let square = exact(&smallest.view(), &smallest.view()).unwrap();
    assert_eq!(square[(0, 0)], 2f64.powi(-2 * (16 + 149)));
    let scaled = ExactGemm::new(smallest.view(), smallest.view())
        .epilogue(Epilogue { alpha: f32::from_bits(1), beta: 0.0 })
        .run()
        .unwrap();
    assert_eq!(scaled[(0, 0)], 2f64.powi(-2 * (16 + 149) - 149));
    let square = exact(&largest.view(), &largest.view()).unwrap();
    let term = two_product(57344.0 * f64::from(f32::MAX), 57344.0 * f64::from(f32::MAX));
    assert_eq!(square[(0, 0)], exact_sum((0..300).flat_map(|_| term).collect()));
    let scaled = ExactGemm::new(largest.view(), largest.view())
        .epilogue(Epilogue { alpha: -f32::MAX, beta: 0.0 })
        .run()
        .unwrap();
    let with_alpha = term.iter().flat_map(|part| two_product(*part, -f64::from(f32::MAX)));
    assert_eq!(scaled[(0, 0)], exact_sum((0..300).flat_map(|_| with_alpha.clone()).collect()));
}

/// Breaks if f32 operands lose bits, alone or beside FP8 ones, or if the epilogue rounds: with
/// rows that fit one, two and three planes of integers, and too wide ones.
#[test]
fn f32_operands_and_epilogue_are_exact() {
    let mut rng = StdRng::seed_from_u64(2);
    let (m, n, k) = (33, 65, 300);
    for spread in [0, 5, 14, 40] {
        let mut plain = |rows, columns| {
            Array2::from_shape_simple_fn((rows, columns), || {
                rng.random_range(-1.0f32..1.0) * 2f32.powi(rng.random_range(-spread..=spread))
            })
        };
        let (a, mut b, c) = (plain(m, k), plain(n, k), Matrix::F32(plain(m, n)));
        // Rows of another width among the others, and one of zeros.
        b.row_mut(7).mapv_inplace(|x| half::bf16::from_f32(x).to_f32());
        b.row_mut(9)[100] = f32::from_bits(1);
        b.row_mut(10).fill(0.0);
        let scaled = operand(&mut rng, n, k, OperandType::E4m3, ScaleLayout::Block1x128, 20);
        let got = exact_f32(a.view(), b.view()).unwrap();
        let mixed = ExactGemm::new(a.view(), scaled.view()).run().unwrap();
        // Small integers times powers of two, so that the terms stay exact in f64.
        let epilogue = Epilogue { alpha: 0.125, beta: -3.0 };
        let whole = ExactGemm::new(a.view(), b.view()).c(c.view()).epilogue(epilogue).run().unwrap();
        for row in 0..m {
            for column in (0..n).filter(|column| column % 7 < 4) {
                let products = || (0..k).map(|k| f64::from(a[(row, k)]) * f64::from(b[(column, k)]));
                assert_eq!(got[(row, column)], exact_sum(products().collect()));
                let mut with_c: Vec<f64> = products().map(|x| x / 8.0).collect();
                with_c.push(-3.0 * f64::from(c.view().get(row, column)));
                assert_eq!(whole[(row, column)], exact_sum(with_c));
                let value = |k| f64::from(a[(row, k)]) * decode(&scaled, column, k);
                assert_eq!(mixed[(row, column)], exact_sum((0..k).map(value).collect()));
            }
        }
    }
}

/// Breaks if an infinity or NaN in an f32 operand is lost or spreads.
#[test]
fn f32_specials_follow_ieee() {
    let mut a = Array2::from_elem((3, 20), 1.0f32);
    a[(1, 4)] = f32::INFINITY;
    a[(2, 5)] = f32::NAN;
    let mut b = Array2::from_elem((3, 20), 2.0f32);
    b[(1, 4)] = 0.0;
    b[(2, 6)] = f32::NEG_INFINITY;
    let got = exact_f32(a.view(), b.view()).unwrap();
    let infinity = f64::INFINITY;
    for ((row, column), want) in
        array![[40.0, 38.0, -infinity], [infinity, f64::NAN, f64::NAN], [f64::NAN, f64::NAN, f64::NAN]].indexed_iter()
    {
        assert_eq!(got[(row, column)].to_bits(), want.to_bits(), "{row} {column}");
    }
}

/// One value, exact.
fn decode(x: &ScaledMatrix, row: usize, k: usize) -> f64 {
    let code = fp8gemm_formats::Fp8Format::from(x.ty()).decode(x.codes()[(row, k)]);
    f64::from(code) * f64::from(x.view().scale_at(row, k))
}

/// Breaks if a NaN or infinity in a code or scale spreads to outputs that do not use it, gets lost,
/// or gives another kind than term-by-term IEEE 754 arithmetic.
#[test]
fn specials_follow_ieee() {
    let mut rng = StdRng::seed_from_u64(3);
    for ty in OperandType::ALL {
        let (m, n, k) = (40, 70, 200);
        let mut a = operand(&mut rng, m, k, ty, ScaleLayout::Block1x128, 3).into_parts();
        let mut b = operand(&mut rng, n, k, ty, ScaleLayout::Block128x128, 3).into_parts();
        a.0[(3, 7)] = 0x7F;
        a.0[(5, 150)] = 0xFC;
        a.0[(6, 150)] = 0x7C;
        a.0[(6, 151)] = 0xFC;
        a.1[(8, 1)] = f32::INFINITY;
        a.1[(9, 0)] = f32::NAN;
        b.0[(64, 150)] = 0x00;
        b.0[(65, 3)] = 0x7C;
        let a = ScaledMatrix::new(ty, ScaleLayout::Block1x128, a.0, a.1).unwrap();
        let b = ScaledMatrix::new(ty, ScaleLayout::Block128x128, b.0, b.1).unwrap();
        let got = exact(&a.view(), &b.view()).unwrap();
        let (mut nan, mut infinite) = (0, 0);
        for ((row, column), got) in got.indexed_iter() {
            let want: f64 = (0..k).map(|k| decode(&a, row, k) * decode(&b, column, k)).sum();
            if want.is_nan() {
                assert_eq!(got.to_bits(), f64::NAN.to_bits(), "{row} {column}");
            } else if want.is_infinite() {
                assert_eq!(*got, want, "{row} {column}");
            } else {
                assert!(got.is_finite(), "{row} {column}");
            }
            nan += usize::from(want.is_nan());
            infinite += usize::from(want.is_infinite());
        }
        assert!(nan > n && (ty == OperandType::E4m3 || infinite > n));
    }
}

/// Breaks if chosen rows are not the rows of the whole, if progress does not add up, or if the
/// number of threads matters.
#[test]
fn rows_threads_and_progress() {
    let mut rng = StdRng::seed_from_u64(4);
    let (m, n, k) = (150, 130, 260);
    let a = operand(&mut rng, m, k, OperandType::E4m3, ScaleLayout::Block128x1, 10);
    let b = operand(&mut rng, n, k, OperandType::E5m2, ScaleLayout::Row, 10);
    let whole = exact(&a.view(), &b.view()).unwrap();
    let rows = [149, 0, 77, 77];
    let counted = AtomicU64::new(0);
    let some = exact_rows(&a.view(), &b.view(), &rows, &|macs| {
        counted.fetch_add(macs, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!(some, whole.select(ndarray::Axis(0), &rows));
    assert_eq!(counted.into_inner(), (rows.len() * n * k) as u64);
    let one = rayon_pool(1).install(|| exact(&a.view(), &b.view()).unwrap());
    let three = rayon_pool(3).install(|| exact(&a.view(), &b.view()).unwrap());
    assert_eq!(one, whole);
    assert_eq!(three, whole);
}

fn rayon_pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Breaks if an impossible request is computed or panics, or an empty one is refused.
#[test]
fn refuses_what_has_no_meaning() {
    let matrix = |rows, k| ScaledMatrix::unscaled(OperandType::E4m3, Array2::from_elem((rows, k), 0x38));
    let (a, b) = (matrix(2, 3), matrix(4, 5));
    let mismatch = SimError::KMismatch { m: 2, k_a: 3, n: 4, k_b: 5 };
    assert_eq!(exact(&a.view(), &b.view()), Err(mismatch.clone()));
    assert_eq!(sequential_f64(&a.view(), &b.view()), Err(mismatch.clone()));
    assert_eq!(sequential_f32(&a.view(), &b.view()), Err(mismatch));
    let b = matrix(4, 3);
    assert_eq!(
        exact_rows(&a.view(), &b.view(), &[0, 2], &|_| {}),
        Err(SimError::Format(FormatError::RowOutOfRange { index: 2, rows: 2 }))
    );
    let gemm = ExactGemm::new(a.view(), b.view()).epilogue(Epilogue::ACCUMULATE);
    assert_eq!(gemm.run(), Err(SimError::Problem(ProblemError::MissingC { beta: 1.0 })));
    let c = Matrix::F32(Array2::zeros((2, 5)));
    assert!(matches!(gemm.c(c.view()).run(), Err(SimError::Shape { what: "C", .. })));
    assert_eq!(exact(&matrix(0, 3).view(), &b.view()).unwrap().dim(), (0, 4));
    assert_eq!(exact(&a.view(), &matrix(0, 3).view()).unwrap().dim(), (2, 0));
    assert_eq!(exact(&matrix(2, 0).view(), &matrix(4, 0).view()).unwrap(), Array2::<f64>::zeros((2, 4)));
}

/// Breaks if the plain sums are not the plain loops that they claim to be, bit for bit.
#[test]
fn sequential_sums_are_plain_loops() {
    let mut rng = StdRng::seed_from_u64(5);
    let (m, n, k) = (5, 67, 300);
    let a = operand(&mut rng, m, k, OperandType::E4m3, ScaleLayout::Block1x128, 4);
    let b = operand(&mut rng, n, k, OperandType::E5m2, ScaleLayout::Block128x128, 4);
    let (in_f64, in_f32) =
        (sequential_f64(&a.view(), &b.view()).unwrap(), sequential_f32(&a.view(), &b.view()).unwrap());
    let (x, y) = (a.dequantize(), b.dequantize());
    for row in 0..m {
        for column in 0..n {
            let (mut double, mut single) = (0.0f64, 0.0f32);
            for k in 0..k {
                double += decode(&a, row, k) * decode(&b, column, k);
                single = x[(row, k)].mul_add(y[(column, k)], single);
            }
            assert_eq!(in_f64[(row, column)].to_bits(), double.to_bits());
            assert_eq!(in_f32[(row, column)].to_bits(), single.to_bits());
        }
    }
    assert!(in_f32.is_standard_layout() && in_f64.is_standard_layout());
}
