//! Error attribution: every value against independent arithmetic, exact telescoping, known regimes.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

#[allow(dead_code)]
mod reference_oracle;

use fp8gemm_formats::quantize::{Recipe, quantize};
use fp8gemm_formats::{Fp8Format, Overflow, Rounding, ScaledMatrix, ScaledView};
use fp8gemm_problem::{Epilogue, OperandType, OutputType, Policy, ScaleLayout, Side};
use fp8gemm_sim::attribution::{Attributed, Attribution, Stage};
use fp8gemm_sim::tensor_core::{InputFormat, Operand, TensorCore};
use fp8gemm_sim::{Gemm, Matrix, SimError};
use ndarray::{Array2, Axis};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reference_oracle::{exact_sum, two_product};
use std::sync::atomic::{AtomicU64, Ordering};

fn normal(seed: u64, rows: usize, k: usize) -> Array2<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, k), || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0)
}

fn uniform(seed: u64, rows: usize, k: usize) -> Array2<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, k), || rng.random())
}

/// Quantised with `amax / largest` per block: any layout and type.
fn quantized(x: &Array2<f32>, ty: OperandType, layout: ScaleLayout) -> ScaledMatrix {
    let format = Fp8Format::from(ty);
    let (block_rows, block_columns) = layout.block(x.nrows(), x.ncols());
    let mut scales = Array2::from_elem(layout.scale_shape(x.nrows(), x.ncols()), 0.0f32);
    for ((row, column), x) in x.indexed_iter() {
        let scale = &mut scales[(row / block_rows, column / block_columns)];
        *scale = scale.max(x.abs() / format.max_finite());
    }
    let codes = Array2::from_shape_fn(x.dim(), |(row, column)| {
        let scaled = x[(row, column)] / scales[(row / block_rows, column / block_columns)];
        format.encode(scaled, Rounding::NearestEven, Overflow::Saturate)
    });
    ScaledMatrix::new(ty, layout, codes, scales).unwrap()
}

/// Every legal pair of policy and scale layouts.
fn cases() -> Vec<(Policy, ScaleLayout, ScaleLayout)> {
    let mut cases = Vec::new();
    let policies = ["promote32", "promote96", "promote128", "promote256", "chain", "cutlass128", "split1", "split3"];
    for policy in policies.map(|policy| policy.parse::<Policy>().unwrap()) {
        for a in ScaleLayout::ALL {
            for b in ScaleLayout::ALL {
                if policy.check(a, b).is_ok() {
                    cases.push((policy, a, b));
                }
            }
        }
    }
    cases
}

/// Breaks if the errors of a single element do not add up to its total to the last bit, or if the
/// last value is not the result of the twin, under any policy and scale layout, with C, alpha and
/// every output type.
#[test]
fn errors_telescope_to_the_twins_bits() {
    let (m, n, k) = (5, 7, 500);
    let (x, y) = (normal(1, m, k), normal(2, n, k));
    let c = Matrix::F32(normal(3, m, n));
    let epilogues = [Epilogue::IDENTITY, Epilogue { alpha: 0.3, beta: -1.7 }, Epilogue { alpha: 1.0, beta: 1.0 }];
    let cases = cases();
    assert!(cases.len() > 70);
    for (i, (policy, layout_a, layout_b)) in cases.into_iter().enumerate() {
        let (output, epilogue) = (OutputType::ALL[i % 3], epilogues[i / 3 % 3]);
        let ty = OperandType::ALL[i % 2];
        let (a, b) = (quantized(&x, ty, layout_a), quantized(&y, OperandType::E4m3, layout_b));
        let attributed = Attribution::new(x.view(), y.view(), a.view(), b.view())
            .policy(policy)
            .output(output)
            .epilogue(epilogue)
            .c(c.view())
            .run()
            .unwrap();
        let gemm = Gemm::new(a.view(), b.view()).policy(policy).output(output).epilogue(epilogue).c(c.view());
        let d = gemm.run().unwrap();
        assert!(attributed.d().view().bits_equal(&d.view()), "{policy} {layout_a} {layout_b}");
        let values = attributed.values();
        assert_eq!(values[5], d.to_f32().mapv(f64::from));
        assert_eq!(values[4], gemm.output(OutputType::F32).run().unwrap().to_f32().mapv(f64::from));
        let errors = Stage::ALL.map(|stage| attributed.error(stage));
        for (index, total) in attributed.total().indexed_iter() {
            let sum = errors.iter().fold(0.0, |sum, error| sum + error[index]);
            assert_eq!(sum.to_bits(), total.to_bits());
            assert_eq!(values[0][index] + sum, values[5][index]);
        }
        assert_eq!(attributed.excluded(), 0);
    }
}

/// A value on the grid that the six values of an element share.
fn on_grid(x: f64, attributed: &Attributed, index: (usize, usize)) -> f64 {
    let largest = attributed.values().iter().map(|values| values[index].abs()).fold(0.0, f64::max);
    let unit = 2f64.powi(largest.log2().floor() as i32 - 50);
    (x / unit).round_ties_even() * unit
}

/// Breaks if v0 to v3 are not what the module says: each is worked out again from its definition,
/// with another exact arithmetic and another model of the unrounded accumulator.
#[test]
fn values_are_what_they_are_called() {
    let (m, n, k) = (4, 5, 300);
    let (x, y) = (normal(4, m, k), normal(5, n, k));
    for (i, (policy, layout_a, layout_b)) in cases().into_iter().enumerate() {
        let core = [TensorCore::HOPPER_FP8_F32, TensorCore::ADA_FP8_F32, TensorCore::BLACKWELL_FP8_F32][i % 3];
        let (ty_a, ty_b) = (OperandType::ALL[i % 2], OperandType::ALL[i / 2 % 2]);
        let (a, b) = (quantized(&x, ty_a, layout_a), quantized(&y, ty_b, layout_b));
        let (a, b) = (a.view(), b.view());
        let attributed = Attribution::new(x.view(), y.view(), a, b).policy(policy).core(core).run().unwrap();
        for row in 0..m {
            for column in 0..n {
                let number = |x: &ScaledView<'_>, row, k| {
                    let code = Fp8Format::from(x.ty()).decode(x.codes()[(row, k)]);
                    f64::from(code) * f64::from(x.scale_at(row, k))
                };
                let v0 = exact_sum((0..k).map(|k| f64::from(x[(row, k)]) * f64::from(y[(column, k)])).collect());
                let products = (0..k).flat_map(|k| two_product(number(&a, row, k), number(&b, column, k)));
                let v1 = exact_sum(products.collect());
                let every = match policy {
                    Policy::Chain => k,
                    Policy::Promote { every } => every as usize,
                    _ => 128,
                };
                let (mut v2, mut v3) = (Vec::new(), Vec::new());
                for start in (0..k).step_by(every) {
                    let k = start..k.min(start + every);
                    let operands = |x: &ScaledView<'_>, row| -> Vec<Operand> {
                        let format = InputFormat::from(x.ty());
                        k.clone().map(|k| format.operand(x.codes()[(row, k)].into())).collect()
                    };
                    let (p, q) = (operands(&a, row), operands(&b, column));
                    let (scale_a, scale_b) = (f64::from(a.scale_at(row, start)), f64::from(b.scale_at(column, start)));
                    let scaled =
                        |chain: f64| two_product(chain, scale_a).into_iter().flat_map(move |x| two_product(x, scale_b));
                    v2.extend(scaled(unrounded_chain(&core, &p, &q)));
                    v3.extend(scaled(f32::from_bits(core.dot(&p, &q, 0).unwrap()).into()));
                }
                let wants = [v0, v1, exact_sum(v2), exact_sum(v3)];
                for (i, want) in wants.into_iter().enumerate() {
                    let index = (row, column);
                    let got = attributed.values()[i][index];
                    assert_eq!(got, on_grid(want, &attributed, index), "v{i} {policy} {layout_a} {layout_b}");
                }
            }
        }
    }
}

/// The chain whose terms are cut but whose accumulator is not rounded, from the definition, for
/// finite operands on a core like the hardware's. f64 holds every intermediate exactly.
fn unrounded_chain(core: &TensorCore, a: &[Operand], b: &[Operand]) -> f64 {
    let parts = |x: &Operand| match *x {
        Operand::Finite { negative, significand, exponent, fraction_bits } => {
            let magnitude = f64::from(significand) * 2f64.powi(i32::from(exponent) - i32::from(fraction_bits));
            (if negative { -magnitude } else { magnitude }, i32::from(exponent))
        }
        _ => panic!("not finite"),
    };
    let mut c = 0.0f64;
    for (a, b) in a.chunks(core.terms).zip(b.chunks(core.terms)) {
        let mut terms = vec![(c, c.abs().log2().floor() as i32)];
        terms.extend(a.iter().map(parts).zip(b.iter().map(parts)).map(|((a, ea), (b, eb))| (a * b, ea + eb)));
        terms.retain(|(value, _)| *value != 0.0);
        let Some(largest) = terms.iter().map(|(_, exponent)| *exponent).max() else { continue };
        let unit = 2f64.powi(largest - core.fraction_bits as i32);
        c = terms.iter().map(|(value, _)| (value / unit).trunc()).sum::<f64>() * unit;
    }
    c
}

/// Breaks if the published biases of truncation are not found (reference: studies of positive
/// data, uniform on 0..1, K = 4096, by promotion interval), or are attributed to another source.
#[test]
fn truncation_bias_of_positive_data() {
    let (m, n, k) = (24, 24, 4096);
    let (x, y) = (uniform(6, m, k), uniform(7, n, k));
    let (a, b) =
        (quantized(&x, OperandType::E4m3, ScaleLayout::Tensor), quantized(&y, OperandType::E4m3, ScaleLayout::Tensor));
    for (policy, percent) in
        [("promote128", -0.055), ("promote256", -0.19), ("promote512", -0.58), ("promote1024", -1.5), ("chain", -7.5)]
    {
        let summary = Attribution::new(x.view(), y.view(), a.view(), b.view())
            .policy(policy.parse().unwrap())
            .output(OutputType::F32)
            .run()
            .unwrap()
            .summary();
        let inside = summary.stage(Stage::Alignment).relative_bias + summary.stage(Stage::Accumulator).relative_bias;
        assert!((inside * 100.0 / percent - 1.0).abs() < 0.1, "{policy}: {} %", inside * 100.0);
        assert!(summary.stage(Stage::Quantization).relative_bias.abs() < 1e-3);
        assert!(summary.stage(Stage::Promotion).relative_bias.abs() < 1e-6);
        assert_eq!(summary.stage(Stage::OutputCast).snr_db, f64::INFINITY);
    }
}

/// Breaks if the known budget of zero-mean data moves: quantisation near 28.6 dB, accumulation
/// invisible behind it, the bf16 cast in between.
#[test]
fn budget_of_normal_data() {
    let (m, n, k) = (32, 48, 4096);
    let (x, y) = (normal(8, m, k), normal(9, n, k));
    let a = quantize(x.view(), Recipe::DeepGemm, ScaleLayout::Block1x128, OperandType::E4m3).unwrap();
    let b = quantize(y.view(), Recipe::DeepGemm, ScaleLayout::Block128x128, OperandType::E4m3).unwrap();
    let summary = Attribution::new(x.view(), y.view(), a.view(), b.view()).run().unwrap().summary();
    let snr = |stage| summary.stage(stage).snr_db;
    assert!((27.5..29.5).contains(&snr(Stage::Quantization)), "{summary}");
    assert!((27.5..29.5).contains(&summary.total.snr_db), "{summary}");
    assert!((75.0..82.0).contains(&snr(Stage::Alignment)), "{summary}");
    assert!((53.0..57.0).contains(&snr(Stage::OutputCast)), "{summary}");
    assert!(snr(Stage::Promotion) > 120.0, "{summary}");
    assert!((summary.stage(Stage::Quantization).share - 1.0).abs() < 0.02, "{summary}");
}

/// Breaks if biases do not add up, or if the remainder of the variances is not twice the sum of
/// the covariances.
#[test]
fn biases_and_variances_add_up() {
    let (m, n, k) = (20, 30, 1024);
    let (x, y) = (uniform(10, m, k), normal(11, n, k));
    let (a, b) =
        (quantized(&x, OperandType::E4m3, ScaleLayout::Row), quantized(&y, OperandType::E5m2, ScaleLayout::Row));
    let attributed = Attribution::new(x.view(), y.view(), a.view(), b.view()).policy(Policy::Chain).run().unwrap();
    let summary = attributed.summary();
    assert_eq!(summary.elements, m * n);
    assert_eq!(summary.total.bias, summary.stages.iter().map(|stage| stage.bias).sum::<f64>());
    let mean = |x: Array2<f64>| x.sum() / (m * n) as f64;
    let direct = mean(attributed.total());
    assert!((summary.total.bias - direct).abs() < 1e-13 * summary.mean_magnitude, "{} {direct}", summary.total.bias);
    let centred = Stage::ALL.map(|stage| attributed.error(stage) - summary.stage(stage).bias);
    let mut covariance = 0.0;
    for i in 0..5 {
        assert!((mean(&centred[i] * &centred[i]) / summary.stages[i].variance - 1.0).abs() < 1e-12);
        for j in 0..i {
            covariance += 2.0 * mean(&centred[i] * &centred[j]);
        }
    }
    assert!((covariance - summary.covariance).abs() < 1e-12 * summary.total.variance, "{covariance}");
    let shares = summary.stages.iter().map(|stage| stage.share).sum::<f64>();
    assert!((shares + summary.covariance / summary.total.variance - 1.0).abs() < 1e-12);
    let energy = attributed.values()[0].mapv(|x| x * x).sum() / attributed.total().mapv(|x| x * x).sum();
    assert!((summary.total.snr_db - 10.0 * energy.log10()).abs() < 1e-9);
}

/// Breaks if gathered rows of a large problem get other errors than in the whole, or if the number
/// of threads matters, or progress does not add up.
#[test]
fn rows_threads_and_progress() {
    let (m, n, k) = (140, 150, 260);
    let (x, y) = (normal(12, m, k), normal(13, n, k));
    let (a, b) = (
        quantized(&x, OperandType::E4m3, ScaleLayout::Block128x128),
        quantized(&y, OperandType::E4m3, ScaleLayout::Block1x128),
    );
    let counted = AtomicU64::new(0);
    let whole = Attribution::new(x.view(), y.view(), a.view(), b.view())
        .run_with(&|macs| {
            counted.fetch_add(macs, Ordering::Relaxed);
        })
        .unwrap();
    assert_eq!(counted.into_inner(), (5 * m * n * k) as u64);
    let rows = [139, 3, 128];
    let (some_x, some_a) = (x.select(Axis(0), &rows), a.view().gather_rows(&rows).unwrap());
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let some = Attribution::new(some_x.view(), y.view(), some_a.view(), b.view());
        let some = pool.install(|| some.run().unwrap());
        for (some, whole) in some.values().iter().zip(whole.values()) {
            assert_eq!(some, whole.select(Axis(0), &rows));
        }
    }
}

/// Breaks if an output that overflows, or a NaN scale, poisons the summary instead of being left
/// out and counted.
#[test]
fn elements_that_are_not_finite_are_left_out() {
    let (x, y) = (normal(14, 6, 200), normal(15, 5, 200));
    let a = quantized(&x, OperandType::E4m3, ScaleLayout::Row);
    let (codes, mut scales) = quantized(&y, OperandType::E4m3, ScaleLayout::Row).into_parts();
    scales[(2, 0)] = f32::NAN;
    let b = ScaledMatrix::new(OperandType::E4m3, ScaleLayout::Row, codes, scales).unwrap();
    let mut large = Array2::zeros((6, 5));
    large[(4, 3)] = 1e6f32;
    let large = Matrix::F32(large);
    let attributed = Attribution::new(x.view(), y.view(), a.view(), b.view())
        .output(OutputType::F16)
        .c(large.view())
        .epilogue(Epilogue::ACCUMULATE)
        .run()
        .unwrap();
    assert_eq!(attributed.excluded(), 7);
    for values in attributed.values() {
        assert_eq!(values.iter().filter(|x| x.is_nan()).count(), 7);
        assert!(values[(4, 3)].is_nan() && values.column(2).iter().all(|x| x.is_nan()));
    }
    let summary = attributed.summary();
    assert_eq!((summary.elements, summary.excluded), (23, 7));
    assert!(summary.total.snr_db > 20.0, "{summary}");
    assert!(summary.to_string().ends_with("7 more left out: not finite"), "{summary}");
}

/// Breaks if an impossible request is computed or panics, or an empty one is refused.
#[test]
fn refuses_what_has_no_meaning() {
    let (x, y) = (normal(16, 3, 64), normal(17, 4, 64));
    let (a, b) =
        (quantized(&x, OperandType::E4m3, ScaleLayout::Row), quantized(&y, OperandType::E4m3, ScaleLayout::Row));
    let short = x.select(Axis(0), &[0, 1]);
    let got = Attribution::new(short.view(), y.view(), a.view(), b.view()).run();
    assert!(matches!(got, Err(SimError::Shape { what: "the unquantised A", rows: 2, expected_rows: 3, .. })));
    let mut infinite = y.clone();
    infinite[(2, 5)] = f32::INFINITY;
    let got = Attribution::new(x.view(), infinite.view(), a.view(), b.view()).run();
    assert!(matches!(got, Err(SimError::NonFinite { side: Side::B, row: 2, column: 5, .. })));
    let illegal = Attribution::new(x.view(), y.view(), a.view(), b.view()).epilogue(Epilogue::ACCUMULATE);
    assert!(matches!(illegal.run(), Err(SimError::Problem(_))));
    let (x, y) = (normal(16, 0, 64), normal(17, 4, 64));
    let a = quantized(&x, OperandType::E4m3, ScaleLayout::Row);
    let empty = Attribution::new(x.view(), y.view(), a.view(), b.view()).run().unwrap().summary();
    assert_eq!((empty.elements, empty.total.bias, empty.total.snr_db), (0, 0.0, f64::INFINITY));
}
