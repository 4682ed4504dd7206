//! How fast quantisation, transposition and repacking are beside a plain copy of as many bytes.
//! Needs a Hopper GPU, its driver and NVRTC:
//! `cargo test --release -p fp8gemm-hopper --test quantize_speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use fp8gemm_formats::quantize::{Quantizer, Recipe};
use fp8gemm_hopper::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result, sys};
use fp8gemm_hopper::{
    DeviceMatrix, DeviceStep, Gpu, OperandLayout, Quantization, QuantizeOperands, QuantizePlan, RelayoutPlan,
};
use fp8gemm_jit::{Cache, Compiler};
use fp8gemm_problem::{OutputType, ScaleLayout};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Runs in each regime; the median counts.
const RUNS: usize = 15;

/// Device memory for the largest case, random bf16 of magnitudes 0.125 to 2.
struct Arena {
    stream: Arc<CudaStream>,
    memory: CudaSlice<u8>,
    flush: CudaSlice<u8>,
}

const INPUT_BYTES: u64 = 8192 * 16384 * 4;
const CODES_BYTES: u64 = 8192 * 16384;

impl Arena {
    fn new(gpu: &Gpu) -> Self {
        let stream = gpu.context().new_stream().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let pattern: Vec<u8> = (0..1 << 22)
            .flat_map(|_| {
                let bits: u16 = rng.random();
                (bits & 0x81FF | 0x3E00).to_ne_bytes()
            })
            .collect();
        let mut memory = stream.alloc_zeros::<u8>((INPUT_BYTES + 4 * CODES_BYTES) as usize).unwrap();
        for start in (0..INPUT_BYTES as usize).step_by(pattern.len()) {
            stream.memcpy_htod(&pattern, &mut memory.slice_mut(start..start + pattern.len())).unwrap();
        }
        let flush = stream.alloc_zeros(1 << 31).unwrap();
        Self { stream, memory, flush }
    }

    fn input(&self, offset: u64) -> u64 {
        self.memory.device_ptr(&self.stream).0 + offset
    }

    fn codes(&self) -> u64 {
        self.input(INPUT_BYTES)
    }

    fn scales(&self) -> u64 {
        self.input(INPUT_BYTES + 2 * CODES_BYTES)
    }

    /// Microseconds by events around one launch, median: after a memset that filled the L2 with dirty
    /// lines (as in the baseline), and again at once.
    fn time(&self, launch: &dyn Fn()) -> [f64; 2] {
        let stream = &self.stream;
        let event = || stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        let (begin, end) = (event(), event());
        let (pointer, bytes) = (self.flush.device_ptr(stream).0, self.flush.len());
        [true, false].map(|flush| {
            launch();
            let mut times: Vec<f64> = (0..RUNS)
                .map(|_| {
                    if flush {
                        // SAFETY: this memory is this stream's alone.
                        unsafe { result::memset_d8_async(pointer, 1, bytes, stream.cu_stream()).unwrap() };
                    }
                    begin.record(stream).unwrap();
                    launch();
                    end.record(stream).unwrap();
                    f64::from(begin.elapsed_ms(&end).unwrap()) * 1e3
                })
                .collect();
            times.sort_by(f64::total_cmp);
            times[RUNS / 2]
        })
    }

    /// Microseconds of a launch among many in a row, without events between them.
    fn sustained(&self, launch: &dyn Fn()) -> f64 {
        let stream = &self.stream;
        let event = || stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        let (begin, end) = (event(), event());
        (0..20).for_each(|_| launch());
        begin.record(stream).unwrap();
        (0..200).for_each(|_| launch());
        end.record(stream).unwrap();
        f64::from(begin.elapsed_ms(&end).unwrap()) * 1e3 / 200.0
    }

    /// Prints and returns the times after a memset and in a row.
    fn report(&self, what: &str, bytes: u128, launch: &dyn Fn()) -> [f64; 2] {
        let [cold, again] = self.time(launch);
        let row = self.sustained(launch);
        let rate = |us: f64| bytes as f64 / us * 1e-6;
        println!(
            "{what:57} {:6.1} MB | after a memset {cold:6.1} us {:4.2} TB/s | again {again:6.1} {:4.2} | in a row {row:6.1} {:4.2}",
            bytes as f64 / 1e6,
            rate(cold),
            rate(again),
            rate(row),
        );
        [cold, row]
    }

    /// A plain copy that reads and writes as many bytes together.
    fn copy(&self, bytes: u128) -> [f64; 2] {
        let half = (bytes / 2) as usize;
        self.report("cuMemcpyDtoDAsync", bytes, &|| {
            // SAFETY: both halves lie in the arena: the largest is 3 bytes for each code.
            unsafe {
                result::memcpy_dtod_async(self.codes(), self.input(0), half, self.stream.cu_stream()).unwrap();
            }
        })
    }

    fn quantize(&self, plan: &QuantizePlan) -> [f64; 2] {
        let q = plan.quantization();
        let (stride, scale_stride) = (
            if q.layout == OperandLayout::KMajor { q.k } else { q.rows },
            if q.quantizer.layout == ScaleLayout::Block128x128 { q.k.div_ceil(128) } else { q.rows },
        );
        let operands = QuantizeOperands {
            input: DeviceMatrix { pointer: self.input(0), stride },
            codes: DeviceMatrix { pointer: self.codes(), stride: q.k },
            scales: DeviceMatrix { pointer: self.scales(), stride: scale_stride },
        };
        let bytes = plan.step().bytes();
        let name = plan.step().to_string();
        let name = name.split(": ").next().unwrap();
        self.report(name, bytes.read + bytes.written, &|| {
            // SAFETY: the arena is large enough for every case, and this stream's alone.
            unsafe { plan.launch(&self.stream, &operands).unwrap() };
        })
    }
}

/// Breaks if quantising bf16 with 1x128 scales takes longer than a copy of as many bytes at 80 % of
/// its rate. Prints the table of docs/performance.md.
#[test]
#[ignore = "needs Hopper"]
fn at_least_80_percent_of_a_copy() {
    let gpu = Gpu::open(0).unwrap_or_else(|error| panic!("{error}"));
    let compiler = Compiler::new(Cache::from_environment(), None);
    println!("{:?}", gpu.info());
    let arena = Arena::new(&gpu);
    arena.report("an empty pair of events", 0, &|| {});
    let quantizer = Quantizer::new(Recipe::DeepGemm);
    let squares = quantizer.with_layout(ScaleLayout::Block128x128);
    let plan = |rows, k, input, layout, quantizer| {
        QuantizePlan::new(&gpu, &compiler, &Quantization { rows, k, input, layout, quantizer }).unwrap()
    };
    use OperandLayout::{KMajor, MnMajor};
    for (rows, k) in [(4096, 7168), (4096, 16384), (8192, 16384)] {
        let main = plan(rows, k, OutputType::Bf16, KMajor, quantizer);
        let bytes = main.step().bytes();
        let copy = arena.copy(bytes.read + bytes.written);
        let times = arena.quantize(&main);
        for (regime, (time, copy)) in ["after a memset", "in a row"].into_iter().zip(times.into_iter().zip(copy)) {
            assert!(time * 0.8 <= copy, "{rows}x{k}, {regime}: {time:.1} us, the copy {copy:.1} us");
        }
        for (input, layout, quantizer) in [
            (OutputType::Bf16, KMajor, squares),
            (OutputType::Bf16, MnMajor, quantizer),
            (OutputType::Bf16, MnMajor, squares),
            (OutputType::F32, KMajor, quantizer),
            (OutputType::F32, MnMajor, quantizer),
            (OutputType::F16, KMajor, quantizer),
        ] {
            arena.quantize(&plan(rows, k, input, layout, quantizer));
        }
        let transpose = RelayoutPlan::transpose(&gpu, &compiler, rows, k).unwrap();
        relayout(&arena, &transpose, rows, 0, k);
        relayout(&arena, &RelayoutPlan::repack(&gpu, &compiler, rows, k).unwrap(), k, 0, k);
        relayout(&arena, &RelayoutPlan::repack(&gpu, &compiler, rows, k - 3).unwrap(), k - 3, 1, k);
    }
}

fn relayout(arena: &Arena, plan: &RelayoutPlan, stride: usize, offset: u64, stride_to: usize) {
    let from = DeviceMatrix { pointer: arena.input(offset), stride };
    let to = DeviceMatrix { pointer: arena.codes(), stride: stride_to };
    let step: DeviceStep = plan.step();
    let bytes = step.bytes();
    let name = step.to_string();
    arena.report(name.split(": ").next().unwrap(), bytes.read + bytes.written, &|| {
        // SAFETY: the arena is large enough for every case, and this stream's alone.
        unsafe { plan.launch(&arena.stream, from, to).unwrap() };
    });
}
