//! Quantisation of a 4096 x 7168 matrix, the size of a DeepSeek-V3 weight. Throughput counts the
//! bytes read (f32 or bf16).

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fp8gemm_formats::quantize::{Element, Quantizer};
use half::bf16;
use ndarray::{Array2, ArrayView2};

const ROWS: usize = 4096;
const COLUMNS: usize = 7168;

/// Values of every sign and of sizes within a few binades, cheap to make.
fn matrix() -> Array2<f32> {
    let mut state = 1u64;
    Array2::from_shape_simple_fn((ROWS, COLUMNS), || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as i32 - (1 << 23)) as f32 * 2f32.powi(-21)
    })
}

fn bench_type<T: Element>(criterion: &mut Criterion, type_name: &str, x: ArrayView2<'_, T>, names: &[&str]) {
    for threads in [1, rayon::current_num_threads()] {
        let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else {
            continue;
        };
        let mut group = criterion.benchmark_group(format!("quantize/{type_name}/{threads} threads"));
        group.throughput(Throughput::Bytes((x.len() * size_of::<T>()) as u64));
        group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        for name in names {
            match name.parse::<Quantizer>() {
                Ok(quantizer) => {
                    group.bench_function(*name, |bencher| {
                        bencher.iter(|| pool.install(|| quantizer.quantize(black_box(x)).is_ok()));
                    });
                }
                Err(error) => eprintln!("{error}"),
            }
        }
        group.finish();
    }
}

fn bench_quantize(criterion: &mut Criterion) {
    let x = matrix();
    let names =
        ["deepgemm:1x128", "deepgemm:128x128", "deepgemm:128x1", "vllm-group:1x128", "torchao-mx-floor", "te-current"];
    bench_type(criterion, "f32", x.view(), &names);
    let narrow = x.mapv(bf16::from_f32);
    bench_type(criterion, "bf16", narrow.view(), &names[..2]);
}

criterion_group!(benches, bench_quantize);
criterion_main!(benches);
