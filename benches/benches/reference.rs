//! Throughput of the references and of error attribution: one core, in multiply-adds per second (criterion's "elem/s").
//!
//! `cargo bench -p fp8gemm-benches --bench reference`. The exact sums of FP8 operands are integer
//! dot products joined in a fixed-point accumulator; f32 operands are cut into planes of integers
//! first. Attribution runs five such passes, one of them on the generic tensor core.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_formats::quantize::{Recipe, quantize};
use fp8gemm_problem::{OperandType, Policy, ScaleLayout};
use fp8gemm_sim::attribution::Attribution;
use fp8gemm_sim::reference::{exact, exact_f32, sequential_f32, sequential_f64};
use ndarray::Array2;

const SIZE: (usize, usize, usize) = (128, 256, 2048);

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// A sum of uniform numbers, normal enough.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.next() as f32 / 2f32.powi(31)).sum::<f32>() - 6.0
    }

    fn operand(&mut self, rows: usize, k: usize, ty: OperandType, layout: ScaleLayout) -> ScaledMatrix {
        let codes = Array2::from_shape_simple_fn((rows, k), || (self.next() % 0x70) as u8 | (self.next() as u8 & 0x80));
        let scales = Array2::from_shape_simple_fn(layout.scale_shape(rows, k), || 0.5 + self.next() as f32 / 2e9);
        ScaledMatrix::new(ty, layout, codes, scales).expect("shapes are the layout's own")
    }
}

fn references(criterion: &mut Criterion) {
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    let mut random = Random(1);
    let mut group = criterion.benchmark_group("reference");
    group.sample_size(10);
    let (m, n, k) = SIZE;
    group.throughput(Throughput::Elements((m * n * k) as u64));
    let cases = [
        (OperandType::E4m3, ScaleLayout::Block1x128),
        (OperandType::E4m3, ScaleLayout::Row),
        (OperandType::E4m3, ScaleLayout::Block1x32),
        (OperandType::E5m2, ScaleLayout::Block1x128),
    ];
    for (ty, layout) in cases {
        let (a, b) = (random.operand(m, k, ty, layout), random.operand(n, k, ty, layout));
        group.bench_function(BenchmarkId::new("exact", format!("{ty} {layout}")), |bench| {
            one_core.install(|| bench.iter(|| exact(&a.view(), &b.view()).expect("the same K")));
        });
    }
    let (a, b) = (
        Array2::from_shape_simple_fn((m, k), || random.normal()),
        Array2::from_shape_simple_fn((n, k), || random.normal()),
    );
    group.bench_function(BenchmarkId::new("exact", "f32 operands"), |bench| {
        one_core.install(|| bench.iter(|| exact_f32(a.view(), b.view()).expect("the same K")));
    });
    let layout = ScaleLayout::Block1x128;
    let (a, b) = (random.operand(m, k, OperandType::E4m3, layout), random.operand(n, k, OperandType::E4m3, layout));
    group.bench_function(BenchmarkId::new("sequential", "f64"), |bench| {
        one_core.install(|| bench.iter(|| sequential_f64(&a.view(), &b.view()).expect("the same K")));
    });
    group.bench_function(BenchmarkId::new("sequential", "f32"), |bench| {
        one_core.install(|| bench.iter(|| sequential_f32(&a.view(), &b.view()).expect("the same K")));
    });
    group.finish();
}

fn attribution(criterion: &mut Criterion) {
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    let mut random = Random(2);
    let mut group = criterion.benchmark_group("attribution");
    group.sample_size(10);
    let (m, n, k) = (32, 64, 2048);
    group.throughput(Throughput::Elements((m * n * k) as u64));
    let mut operand = |rows| {
        let x = Array2::from_shape_simple_fn((rows, k), || random.normal());
        let fp8 = quantize(x.view(), Recipe::TorchaoFloat8, ScaleLayout::Row, OperandType::E4m3).expect("finite data");
        (x, fp8)
    };
    let ((x, a), (y, b)) = (operand(m), operand(n));
    for policy in [Policy::PROMOTE_128, Policy::Chain] {
        group.bench_function(BenchmarkId::from_parameter(policy), |bench| {
            let attribution = Attribution::new(x.view(), y.view(), a.view(), b.view()).policy(policy);
            one_core.install(|| bench.iter(|| attribution.run().expect("a legal problem")));
        });
    }
    group.finish();
}

criterion_group!(benches, references, attribution);
criterion_main!(benches);
