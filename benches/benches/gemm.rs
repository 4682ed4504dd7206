//! Throughput of the twin: one core, every path of this machine, in multiply-adds per second.
//!
//! `cargo bench -p fp8gemm-benches --bench gemm`. The generic path is the scalar specification, so
//! it runs a smaller problem; criterion's "elem/s" is MAC/s in all of them.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{OperandType, OutputType, Policy, ScaleLayout};
use fp8gemm_sim::{Gemm, Path};
use ndarray::Array2;

/// Codes of normally distributed values with a realistic spread, and scales near 1.
fn operand(rows: usize, k: usize, ty: OperandType, layout: ScaleLayout, seed: u64) -> ScaledMatrix {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32
    };
    let inverted = |code: u8| matches!(code & 0x7F, 0x7C..=0x7F);
    // Three uniform exponent-field draws added up: most codes lie in the middle of the range.
    let codes = Array2::from_shape_simple_fn((rows, k), || {
        let magnitude = (0..3).map(|_| next() % 38).sum::<u32>() as u8;
        let code = magnitude | (next() as u8 & 0x80);
        if inverted(code) { code ^ 0x40 } else { code }
    });
    let scales = Array2::from_shape_simple_fn(layout.scale_shape(rows, k), || 0.5 + next() as f32 / 2e9);
    ScaledMatrix::new(ty, layout, codes, scales).expect("shapes are the layout's own")
}

fn twin(criterion: &mut Criterion) {
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    let mut group = criterion.benchmark_group("twin");
    group.sample_size(10);
    let cases = [
        (OperandType::E4m3, Policy::PROMOTE_128, ScaleLayout::Block1x128, ScaleLayout::Block128x128),
        (OperandType::E5m2, Policy::PROMOTE_128, ScaleLayout::Block1x128, ScaleLayout::Block128x128),
        (OperandType::E4m3, Policy::Chain, ScaleLayout::Row, ScaleLayout::Row),
    ];
    for (ty, policy, layout_a, layout_b) in cases {
        for path in Path::available() {
            let (m, n, k) = if *path == Path::Generic { (32, 64, 1024) } else { (256, 512, 2048) };
            let (a, b) = (operand(m, k, ty, layout_a, 1), operand(n, k, ty, layout_b, 2));
            group.throughput(Throughput::Elements((m * n * k) as u64));
            group.bench_function(BenchmarkId::new(format!("{ty} {policy}"), format!("{path:?}")), |bench| {
                let gemm = Gemm::new(a.view(), b.view()).policy(policy).output(OutputType::Bf16).path(*path);
                one_core.install(|| bench.iter(|| gemm.run().expect("a legal problem")));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, twin);
criterion_main!(benches);
