//! What a launch costs the CPU, beside the cheapest launch that the driver has.

use std::ffi::c_void;
use std::hint::black_box;
use std::time::Instant;

use fp8gemm_hopper::cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, sys};
use fp8gemm_hopper::cudarc::nvrtc::Ptx;
use fp8gemm_hopper::{DeviceMatrix, Inputs, LaunchOptions, Operands, Plan, Strided, StridedMut};
use fp8gemm_jit::{BASE_OPTIONS, Unit};
use fp8gemm_problem::Problem;

use crate::setup;

const EMPTY: &str = "
extern \"C\" __global__ void empty() {}
struct Arguments { unsigned long long words[144]; };
extern \"C\" __global__ void large(const __grid_constant__ Arguments arguments) {}
";

/// A parameter of as many bytes as the kernels' own.
const WORDS: usize = 144;

/// Something to time, and its name.
type Timed<'a> = (&'static str, Box<dyn FnMut() + 'a>);

/// Microseconds of each: the median of 500 rounds of 20, in turn, so that what disturbs one disturbs
/// all; the stream is idle before each round, so that no launch waits for the GPU.
fn time(stream: &CudaStream, timed: &mut [Timed<'_>]) -> Vec<f64> {
    let mut rounds = vec![Vec::new(); timed.len()];
    for _ in 0..500 {
        for ((_, launch), rounds) in timed.iter_mut().zip(&mut rounds) {
            stream.synchronize().unwrap();
            let start = Instant::now();
            (0..20).for_each(|_| launch());
            rounds.push(start.elapsed().as_secs_f64() * 1e6 / 20.0);
        }
    }
    stream.synchronize().unwrap();
    let median = |mut rounds: Vec<f64>| {
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2]
    };
    let medians: Vec<f64> = rounds.into_iter().map(median).collect();
    for ((name, _), median) in timed.iter().zip(&medians) {
        println!("{median:6.2} us  {name}");
    }
    medians
}

/// Breaks if a launch takes the CPU more than the driver's own launch: half a microsecond with the
/// same pointers, 3 with new ones. What is aimed at, 3 and 5 microseconds in all, depends on the
/// machine too; run this alone.
#[test]
#[ignore = "needs Hopper"]
fn host_time_of_a_launch() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let mut unit = Unit { source: EMPTY, kernel: "empty", configuration: "empty kernels", options: &BASE_OPTIONS };
    let load = |unit: &Unit<'_>| {
        let module = gpu.context().load_module(Ptx::from_binary(compiler.cubin(unit).unwrap().to_vec())).unwrap();
        module.load_function(unit.kernel).unwrap()
    };
    let empty = load(&unit);
    unit.kernel = "large";
    let large = load(&unit);
    let launch_raw = |function: sys::CUfunction, parameters: &mut [*mut c_void]| {
        let config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream.cu_stream(),
            attrs: std::ptr::null_mut(),
            numAttrs: 0,
        };
        // SAFETY: the kernels do nothing; `parameters` is what they take.
        unsafe { sys::cuLaunchKernelEx(&raw const config, function, parameters.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .unwrap();
    };
    let words = [0u64; WORDS];

    for text in ["64x64x128 a=e4m3:tensor b=e4m3:tensor d=f32", "64x64x128 a=e4m3:1x128 b=e4m3:1x128 d=f32"] {
        let problem: Problem = text.parse().unwrap();
        let plan = Plan::new(&gpu, &compiler, &problem).unwrap();
        let codes: [_; 2] = std::array::from_fn(|_| stream.clone_htod(&[0x38u8; 64 * 128]).unwrap());
        let scales = stream.clone_htod(&[1.0f32; 64]).unwrap();
        let mut d = stream.clone_htod(&[0.0f32; 64 * 64]).unwrap();
        let at = |pointer, stride| DeviceMatrix { pointer, stride };
        let at_d = at(d.device_ptr_mut(&stream).0, 64);
        let both = [0, 1].map(|a| Operands {
            a: at(codes[a].device_ptr(&stream).0, 128),
            b: at(codes[0].device_ptr(&stream).0, 128),
            scale_a: at(scales.device_ptr(&stream).0, 64),
            scale_b: at(scales.device_ptr(&stream).0, 64),
            c: None,
            d: at_d,
        });
        let prepared = plan.prepare(&both[0]).unwrap();
        let mut other = prepared.clone();
        let mut turn = 0;
        let overlap = LaunchOptions::default().overlapping_previous(true);
        let inputs = Inputs {
            a: Strided::new(&codes[0], 128),
            scale_a: Strided::new(&scales, 64),
            b: Strided::new(&codes[0], 128),
            scale_b: Strided::new(&scales, 64),
        };
        println!("{text} ({})", plan.config());
        // SAFETY: here and below, everything was allocated above with these shapes, on this stream.
        let launch = |options| unsafe { prepared.launch_with(&stream, options).unwrap() };
        let new = || {
            // SAFETY: as above.
            unsafe { plan.launch(&stream, black_box(&both[1])).unwrap() }
        };
        let rebind = || {
            turn ^= 1;
            other.rebind(&both[turn]).unwrap();
            // SAFETY: as above.
            unsafe { other.launch(&stream).unwrap() }
        };
        let large_kernel = || {
            let parameter = (&raw const words).cast_mut().cast();
            launch_raw(large.cu_function(), &mut [parameter]);
        };
        let medians = time(
            &stream,
            &mut [
                ("empty kernel, no parameter", Box::new(|| launch_raw(empty.cu_function(), &mut []))),
                ("empty kernel, 1,152 bytes of parameter", Box::new(large_kernel)),
                ("prepared, the same pointers", Box::new(|| launch(LaunchOptions::default()))),
                ("the same, dependent launch", Box::new(|| launch(overlap))),
                ("new pointers: checked, encoded, launched", Box::new(new)),
                ("another A each time: rebound, launched", Box::new(rebind)),
                ("prepare alone", Box::new(|| drop(black_box(plan.prepare(black_box(&both[0])).unwrap())))),
                (
                    "on slices, with cudarc's events",
                    Box::new(|| plan.gemm(&stream, &inputs, StridedMut::new(&mut d, 64)).unwrap()),
                ),
            ],
        );
        assert!(medians[2] < medians[1] + 0.5 && medians[4] < medians[1] + 3.0, "{medians:?}");
    }
}
