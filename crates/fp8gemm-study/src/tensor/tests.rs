//! The profile against plain computation.

use fp8gemm_formats::Fp8Format;
use fp8gemm_formats::quantize::Element;
use fp8gemm_sim::metrics::Metrics;
use half::bf16;
use ndarray::{Array2, ArrayView2, Slice};

use super::*;
use crate::sample::Distribution;

fn sample(shape: (usize, usize)) -> Array2<f32> {
    let distribution = Distribution::OutlierElements { share: 0.001, factor: 1000.0 };
    let mut x = distribution.sample(1, "a", shape).unwrap();
    x[(0, 0)] = 0.0;
    x
}

fn agree<T: Element>(x: ArrayView2<'_, T>, quantizers: &[Quantizer]) {
    let found = profile(&x, quantizers, &|_| {}).unwrap();
    let wide = x.mapv(|x| f64::from(x.widen()));
    for cost in &found.costs {
        let quantized = cost.quantizer.quantize(x).unwrap();
        let format = Fp8Format::from(quantized.ty());
        let scales = quantized.scales();
        let (block_rows, block_columns) = quantized.layout().block(quantized.rows(), quantized.columns());
        let values = Array2::from_shape_fn(wide.dim(), |(row, column)| {
            let scale = scales[(row / block_rows, column / block_columns)];
            f64::from(format.decode(quantized.codes()[(row, column)])) * f64::from(scale)
        });
        let metrics = Metrics::new(wide.view(), values.view()).unwrap();
        let (mut flushed, mut subnormal, mut relative, mut counted) = (0, 0, 0.0, 0);
        for ((&x, &value), &code) in wide.iter().zip(&values).zip(&quantized.codes()) {
            flushed += u64::from(x != 0.0 && format.is_zero(code));
            subnormal += u64::from(format.is_subnormal(code));
            if x != 0.0 {
                counted += 1;
                relative += ((value - x) / x).abs();
            }
        }
        let name = cost.quantizer;
        assert_eq!((cost.flushed, cost.subnormal), (flushed, subnormal), "{name}");
        let same = cost.snr_db == metrics.snr_db || (cost.snr_db - metrics.snr_db).abs() < 1e-5;
        assert!(same, "{name}: {} {}", cost.snr_db, metrics.snr_db);
        let expected = relative / f64::from(counted.max(1));
        assert!((cost.mean_relative - expected).abs() <= 1e-6 * expected, "{name}");
        assert_eq!(cost.scales, scales.len() as u64, "{name}");
    }
}

/// Breaks if a figure of the second pass is not that of the whole matrix quantised at once: partial
/// blocks, several tiles and stripes, every default quantiser, f32 and bf16.
#[test]
fn costs_are_those_of_the_whole_matrix() {
    let quantizers = default_quantizers();
    assert_eq!(quantizers.len(), 20);
    for shape in [(1, 1), (130, 2100), (3, 200), (300, 33)] {
        let x = sample(shape);
        agree(x.view(), &quantizers);
        agree(x.mapv(bf16::from_f32).view(), &quantizers);
    }
}

/// Breaks if the first pass miscounts: largest and smallest magnitude, zeros, blocks and their quantiles.
#[test]
fn magnitudes_are_those_of_the_matrix() {
    let x = sample((130, 2100)).mapv(bf16::from_f32);
    let found = profile(&x.view(), &[], &|_| {}).unwrap();
    let magnitudes: Vec<f32> = x.iter().map(|x| x.to_f32().abs()).collect();
    assert_eq!(found.amax, magnitudes.iter().copied().fold(0.0, f32::max));
    assert_eq!(found.smallest, magnitudes.iter().copied().filter(|&x| x > 0.0).fold(f32::MAX, f32::min));
    assert_eq!(found.zeros, magnitudes.iter().filter(|&&x| x == 0.0).count() as u64);
    for (layout, blocks) in found.blocks {
        let (block_rows, block_columns) = layout.block(130, 2100);
        let mut amax = vec![];
        for row in (0..130).step_by(block_rows) {
            for column in (0..2100).step_by(block_columns) {
                let block = x.slice_each_axis(|axis| match axis.axis.index() {
                    0 => Slice::from(row..(row + block_rows).min(130)),
                    _ => Slice::from(column..(column + block_columns).min(2100)),
                });
                amax.push(block.iter().fold(0.0f32, |amax, x| amax.max(x.to_f32().abs())));
            }
        }
        amax.sort_by(f32::total_cmp);
        assert_eq!(blocks.blocks, amax.len() as u64, "{layout}");
        let expected = BlockAmax::PERCENT.map(|percent| amax[(amax.len() * percent as usize).div_ceil(100) - 1]);
        assert_eq!(blocks.quantiles, expected, "{layout}");
    }
}

/// Breaks if NaN or infinity is taken for a number, or another than the first in row-major order named.
#[test]
fn the_first_fault_is_named() {
    let mut x = sample((300, 4200));
    for place in [(299, 0), (140, 5), (131, 4100), (132, 1)] {
        x[place] = f32::INFINITY;
    }
    x[(131, 4199)] = f32::NAN;
    let error = profile(&x.view(), &default_quantizers(), &|_| {}).unwrap_err();
    assert!(matches!(error, StudyError::NonFinite { row: 131, column: 4100, value } if value.is_infinite()), "{error}");
    let empty = Array2::<f32>::zeros((0, 5));
    assert!(matches!(profile(&empty.view(), &[], &|_| {}), Err(StudyError::Argument { .. })));
    let across = ["deepgemm:128x1".parse().unwrap()];
    assert!(matches!(profile(&x.view(), &across, &|_| {}), Err(StudyError::Argument { .. })));
}

/// Breaks if clipping is not counted, or counted where a recipe's scale leaves room.
#[test]
fn clipping_is_counted() {
    // 1.76 * 256 = 450.6 is beyond 448 and rounds to it; 1.9 * 256 = 486 is clipped.
    let x = ndarray::array![[1.9f32, 1.76, 0.5, -1.9]];
    let quantizers = ["torchao-mx-floor", "torchao-mx-rceil"].map(|name| name.parse().unwrap());
    let found = profile(&x.view(), &quantizers, &|_| {}).unwrap();
    assert_eq!([found.costs[0].saturated, found.costs[1].saturated], [2, 0]);
}

/// Breaks if results depend on the number of threads, or the progress does not add up.
#[test]
fn threads_do_not_matter() {
    use core::sync::atomic::{AtomicU64, Ordering};
    let x = sample((700, 2100));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let seen = AtomicU64::new(0);
        let count = |elements| {
            seen.fetch_add(elements, Ordering::Relaxed);
        };
        let found = pool.install(|| profile(&x.view(), &default_quantizers(), &count)).unwrap();
        assert_eq!(seen.into_inner(), 2 * found.elements());
        found
    };
    assert_eq!(run(1), run(3));
}

/// Breaks if the best quantiser breaks its rule: within 0.1 dB the fewest scales, then the first.
#[test]
fn the_best_is_by_its_rule() {
    let cost = |quantizer: &str, scales, snr_db| Cost {
        quantizer: quantizer.parse().unwrap(),
        scales,
        flushed: 0,
        subnormal: 0,
        saturated: 0,
        snr_db,
        mean_relative: 0.0,
    };
    let chosen = |costs: &[Cost]| best(costs.iter()).map(|cost| cost.quantizer.to_string());
    let [fine, coarse, same] =
        [cost("deepgemm:1x128", 64, 32.0), cost("te-current", 1, 31.95), cost("vllm-tensor", 1, 31.99)];
    assert_eq!(chosen(&[fine, coarse, same]).as_deref(), Some("te-current:tensor:e4m3"));
    assert_eq!(chosen(&[fine, Cost { snr_db: 31.8, ..coarse }]).as_deref(), Some("deepgemm:1x128:e4m3"));
    assert_eq!(chosen(&[Cost { snr_db: f64::NAN, ..fine }, coarse]).as_deref(), Some("te-current:tensor:e4m3"));
    let exact = [Cost { snr_db: f64::INFINITY, ..fine }, Cost { snr_db: f64::INFINITY, ..coarse }];
    assert_eq!(chosen(&exact).as_deref(), Some("te-current:tensor:e4m3"));
    assert_eq!(chosen(&[]), None);
}

/// Breaks if a survey of nothing, of zeros alone, of few or of many tensors has a figure that cannot be
/// drawn or a table without rows, or does not survive its file.
#[test]
fn surveys_of_any_size_can_be_written() {
    let zeros = profile(&Array2::<f32>::zeros((4, 8)).view(), &default_quantizers(), &|_| {}).unwrap();
    let x = profile(&sample((130, 300)).view(), &default_quantizers(), &|_| {}).unwrap();
    for (count, found, figures) in [(0, &x, 0), (2, &zeros, 1), (2, &x, 2), (40, &x, 1)] {
        let mut survey = Survey::new();
        for number in 0..count {
            survey.tensor(&format!("layers.{number}.weight"), "f32", found).unwrap();
        }
        survey.skip("ids", "I64", &[1, 8], "no matrix").unwrap();
        assert_eq!((survey.len(), survey.is_empty()), (count, count == 0));
        let outcome = survey.outcome().unwrap();
        assert_eq!(outcome.figures.len(), figures, "{count}");
        for figure in &outcome.figures {
            figure.svg(outcome.table(figure.table()).unwrap()).unwrap();
        }
        assert!(outcome.tables.iter().all(|table| !table.rows().is_empty()));
        let folder = tempfile::tempdir().unwrap();
        crate::results::write(folder.path(), &outcome, false).unwrap();
        assert_eq!(crate::results::read(folder.path()).unwrap(), [outcome]);
    }
}
