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
struct Arguments { unsigned long long words[112]; };
extern \"C\" __global__ void large(const __grid_constant__ Arguments arguments) {}
";

/// Microseconds of a launch: the median of 500 rounds of 20, the stream idle before each, so that no
/// launch waits for the GPU.
fn time(stream: &CudaStream, launch: &mut dyn FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..500)
        .map(|_| {
            stream.synchronize().unwrap();
            let start = Instant::now();
            (0..20).for_each(|_| launch());
            start.elapsed().as_secs_f64() * 1e6 / 20.0
        })
        .collect();
    stream.synchronize().unwrap();
    rounds.sort_by(f64::total_cmp);
    rounds[250]
}

/// Breaks if a launch takes the CPU more than the few microseconds of the driver's own launch: 4 us
/// beyond it with the same pointers, 6 with new ones (what is aimed at, 3 and 5 in all, depends on
/// the machine; run this alone).
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
    let launch_raw = |function: sys::CUfunction, parameters: &mut [*mut c_void], threads: u32| {
        let config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: threads,
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
    let driver = time(&stream, &mut || launch_raw(empty.cu_function(), &mut [], 32));
    let words = [0u64; 112];
    let pointer = (&raw const words).cast_mut().cast();
    let driver_large = time(&stream, &mut || launch_raw(large.cu_function(), &mut [pointer], 32));
    println!("{driver:6.2} us  empty kernel, no parameter");
    println!("{driver_large:6.2} us  empty kernel, 896 bytes of parameter");

    for text in ["64x64x128 a=e4m3:tensor b=e4m3:tensor d=f32", "64x64x128 a=e4m3:1x128 b=e4m3:1x128 d=bf16"] {
        let problem: Problem = text.parse().unwrap();
        let plan = Plan::new(&gpu, &compiler, &problem).unwrap();
        let codes: [_; 2] = std::array::from_fn(|_| stream.clone_htod(&[0x38u8; 64 * 128]).unwrap());
        let scales = stream.clone_htod(&[1.0f32; 64]).unwrap();
        let mut d = stream.clone_htod(&[0.0f32; 64 * 64]).unwrap();
        let at = |pointer, stride| DeviceMatrix { pointer, stride };
        let operands = |a: usize| Operands {
            a: at(codes[a].device_ptr(&stream).0, 128),
            b: at(codes[0].device_ptr(&stream).0, 128),
            scale_a: at(scales.device_ptr(&stream).0, 64),
            scale_b: at(scales.device_ptr(&stream).0, 64),
            c: None,
            d: at(0, 64),
        };
        let d_pointer = at(d.device_ptr_mut(&stream).0, 64);
        let both = [0, 1].map(|a| Operands { d: d_pointer, ..operands(a) });
        let mut prepared = plan.prepare(&both[0]).unwrap();
        println!("{text} ({})", plan.config());
        // SAFETY: here and below, everything was allocated above with these shapes, on this
        // stream.
        let same = time(&stream, &mut || unsafe { prepared.launch(&stream).unwrap() });
        println!("{same:6.2} us  prepared, the same pointers");
        let overlap = LaunchOptions::default().overlapping_previous(true);
        // SAFETY: as above.
        let dependent = time(&stream, &mut || unsafe { prepared.launch_with(&stream, overlap).unwrap() });
        println!("{dependent:6.2} us  the same, dependent launch");
        // SAFETY: as above.
        let new = time(&stream, &mut || unsafe { plan.launch(&stream, black_box(&both[1])).unwrap() });
        println!("{new:6.2} us  checked, encoded, launched");
        let mut turn = 0;
        let rebound = time(&stream, &mut || {
            turn ^= 1;
            prepared.rebind(&both[turn]).unwrap();
            // SAFETY: as above.
            unsafe { prepared.launch(&stream).unwrap() }
        });
        println!("{rebound:6.2} us  another A each time (rebind)");
        let encode = time(&stream, &mut || drop(black_box(plan.prepare(black_box(&both[0])).unwrap())));
        println!("{encode:6.2} us  prepare alone");
        if text.contains("d=f32") {
            let inputs = Inputs {
                a: Strided::new(&codes[0], 128),
                scale_a: Strided::new(&scales, 64),
                b: Strided::new(&codes[0], 128),
                scale_b: Strided::new(&scales, 64),
            };
            let slices = time(&stream, &mut || plan.gemm(&stream, &inputs, StridedMut::new(&mut d, 64)).unwrap());
            println!("{slices:6.2} us  on slices, with cudarc's events");
        }
        assert!(same < driver + 4.0 && new < driver + 6.0);
    }
}
