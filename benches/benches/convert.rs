//! Bulk FP8 conversion: from cache against a loop over `float8`, from memory against a plain copy.
//!
//! Groups `encode/cache` and `decode/cache` work on 16 Ki elements (throughput in elements), `memory`
//! on 256 MiB of f32 (throughput in bytes read plus written, `copy` being the bandwidth that the
//! others are a fraction of).

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use fp8gemm_formats::{Fp8Format, Overflow, Rounding, convert};
use half::{bf16, f16};

const CACHE_ELEMENTS: usize = 16 << 10;
const MEMORY_ELEMENTS: usize = (256 << 20) / size_of::<f32>();
const SATURATE: Overflow = Overflow::Saturate;

/// Values spread over the whole range of E4M3, subnormals and overflow included, both signs: a
/// multiplicative hash gives the mantissa and the exponent (2^-12 to 2^9).
fn values(count: usize) -> Vec<f32> {
    (0..count as u32)
        .map(|i| {
            let hash = i.wrapping_mul(0x9E37_79B1) ^ (i >> 7);
            f32::from_bits((hash & 0x807F_FFFF) | ((115 + (hash >> 23) % 22) << 23))
        })
        .collect()
}

fn encode_from_cache(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode/cache");
    group.throughput(Throughput::Elements(CACHE_ELEMENTS as u64));
    let source = values(CACHE_ELEMENTS);
    let mut codes = vec![0; CACHE_ELEMENTS];
    group.bench_function("f32 to e4m3, float8 loop", |b| {
        b.iter(|| {
            for (code, &x) in codes.iter_mut().zip(black_box(&source)) {
                *code = float8::F8E4M3::from_f32(x).to_bits();
            }
            black_box(&mut codes);
        });
    });
    group.bench_function("f32 to e4m3, scalar codec loop", |b| {
        b.iter(|| {
            for (code, &x) in codes.iter_mut().zip(black_box(&source)) {
                *code = Fp8Format::E4m3.encode(x, Rounding::NearestEven, SATURATE);
            }
            black_box(&mut codes);
        });
    });
    for format in Fp8Format::ALL {
        for (name, rounding) in [("nearest", Rounding::NearestEven), ("toward zero", Rounding::TowardZero)] {
            group.bench_function(format!("f32 to {format}, {name}"), |b| {
                b.iter(|| convert::encode_f32(format, rounding, SATURATE, black_box(&source), black_box(&mut codes)));
            });
        }
    }
    let format = Fp8Format::E4m3;
    let nearest = Rounding::NearestEven;
    let random: Vec<u32> = (0..CACHE_ELEMENTS as u32).map(|i| i.wrapping_mul(0x85EB_CA6B)).collect();
    group.bench_function("f32 to e4m3, stochastic", |b| {
        b.iter(|| convert::encode_f32_stochastic(format, SATURATE, black_box(&source), &random, black_box(&mut codes)));
    });
    let halves: Vec<f16> = source.iter().map(|&x| f16::from_f32(x)).collect();
    group.bench_function("f16 to e4m3, nearest", |b| {
        b.iter(|| convert::encode_f16(format, nearest, SATURATE, black_box(&halves), black_box(&mut codes)));
    });
    let brains: Vec<bf16> = source.iter().map(|&x| bf16::from_f32(x)).collect();
    group.bench_function("bf16 to e4m3, nearest", |b| {
        b.iter(|| convert::encode_bf16(format, nearest, SATURATE, black_box(&brains), black_box(&mut codes)));
    });
    let doubles: Vec<f64> = source.iter().map(|&x| f64::from(x)).collect();
    group.bench_function("f64 to e4m3, nearest", |b| {
        b.iter(|| convert::encode_f64(format, nearest, SATURATE, black_box(&doubles), black_box(&mut codes)));
    });
    group.finish();
}

fn decode_from_cache(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode/cache");
    group.throughput(Throughput::Elements(CACHE_ELEMENTS as u64));
    let codes: Vec<u8> = (0..CACHE_ELEMENTS as u32).map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect();
    let mut values = vec![0.0_f32; CACHE_ELEMENTS];
    group.bench_function("e4m3 to f32, float8 loop", |b| {
        b.iter(|| {
            for (x, &code) in values.iter_mut().zip(black_box(&codes)) {
                *x = float8::F8E4M3::from_bits(code).to_f32();
            }
            black_box(&mut values);
        });
    });
    group.bench_function("e4m3 to f32, table loop", |b| {
        b.iter(|| {
            for (x, &code) in values.iter_mut().zip(black_box(&codes)) {
                *x = Fp8Format::E4m3.decode(code);
            }
            black_box(&mut values);
        });
    });
    let mut halves = vec![f16::ZERO; CACHE_ELEMENTS];
    let mut brains = vec![bf16::ZERO; CACHE_ELEMENTS];
    for format in Fp8Format::ALL {
        group.bench_function(format!("{format} to f32"), |b| {
            b.iter(|| convert::decode_f32(format, black_box(&codes), black_box(&mut values)));
        });
        group.bench_function(format!("{format} to f16"), |b| {
            b.iter(|| convert::decode_f16(format, black_box(&codes), black_box(&mut halves)));
        });
        group.bench_function(format!("{format} to bf16"), |b| {
            b.iter(|| convert::decode_bf16(format, black_box(&codes), black_box(&mut brains)));
        });
    }
    group.finish();
}

fn memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory");
    group.sample_size(10);
    let source = values(MEMORY_ELEMENTS);
    let mut codes = vec![0_u8; MEMORY_ELEMENTS];
    let mut copy = source.clone();
    let bytes = |group: &mut BenchmarkGroup<'_, WallTime>, count: usize| {
        group.throughput(Throughput::Bytes((MEMORY_ELEMENTS * count) as u64));
    };
    bytes(&mut group, 8);
    group.bench_function("copy 256 MiB", |b| b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&source))));
    bytes(&mut group, 5);
    let nearest = Rounding::NearestEven;
    group.bench_function("f32 to e4m3", |b| {
        b.iter(|| convert::encode_f32(Fp8Format::E4m3, nearest, SATURATE, black_box(&source), black_box(&mut codes)));
    });
    group.bench_function("e4m3 to f32", |b| {
        b.iter(|| convert::decode_f32(Fp8Format::E4m3, black_box(&codes), black_box(&mut copy)));
    });
    group.finish();
}

criterion_group!(benches, encode_from_cache, decode_from_cache, memory);
criterion_main!(benches);
