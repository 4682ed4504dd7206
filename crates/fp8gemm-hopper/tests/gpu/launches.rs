//! Ways to launch: slices, graphs, dependent launch, several threads and GPUs.

use std::time::Instant;

use fp8gemm_hopper::cudarc::driver::sys;
use fp8gemm_hopper::{
    DeviceMatrix, Gpu, HopperError, Inputs, LaunchOptions, Operands, Plan, Strided, StridedMut, gemm_on_gpu, probe,
};
use fp8gemm_jit::choose;
use fp8gemm_problem::Problem;
use fp8gemm_sim::Matrix;
use half::bf16;
use ndarray::Array2;
use rand::{SeedableRng, rngs::StdRng};

use crate::data::{Case, assert_bits, matrix};
use crate::device::{Device, all};
use crate::setup;

const ACCUMULATE: &str = "300x260x512 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1";

/// Breaks if a launch cannot be captured (it would allocate, wait or lock), or a replay gives other
/// bits than a launch.
#[test]
#[ignore = "needs Hopper"]
fn a_graph_replays_the_bits() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    for overlap in [false, true] {
        let mut device = Device::new(&gpu, &compiler, &stream, ACCUMULATE, 7);
        let operands = device.operands(&stream);
        let prepared = device.plan.prepare(&operands).unwrap();
        stream.synchronize().unwrap();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let options = LaunchOptions::default().overlapping_previous(overlap);
        // SAFETY: the buffers of `device` outlive the graph and are used by nothing else meanwhile.
        unsafe { prepared.launch(&stream).and_then(|()| prepared.launch_with(&stream, options)) }.unwrap();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a graph with two launches");
        assert_bits(&device.result(&stream), &device.twin_after(0), &"captured, not run");
        for replays in 1..=2 {
            graph.launch().unwrap();
            assert_bits(&device.result(&stream), &device.twin_after(2 * replays), &format!("{replays} replays"));
        }
    }
}

/// Breaks if a kernel that starts early reads what the kernel before it has not yet written: a
/// chain of 30 accumulations in place.
#[test]
#[ignore = "needs Hopper"]
fn dependent_launches_keep_their_order() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let options = LaunchOptions::default().overlapping_previous(true);
    for problem in [ACCUMULATE, "2000x1000x128 a=e4m3:tensor b=e5m2:tensor d=f32 c=f32 beta=1"] {
        let mut device = Device::new(&gpu, &compiler, &stream, problem, 7);
        let operands = device.operands(&stream);
        let prepared = device.plan.prepare(&operands).unwrap();
        for _ in 0..30 {
            // SAFETY: the buffers of `device` live on; the next kernel is this one, which waits.
            unsafe { prepared.launch_with(&stream, options) }.unwrap();
        }
        assert_bits(&device.result(&stream), &device.twin_after(30), &problem);
    }
}

/// Breaks if launches on slices compute something else than on pointers, take slices that are too
/// short or of the wrong elements, or lose the order between streams.
#[test]
#[ignore = "needs Hopper"]
fn slices_need_no_unsafe() {
    let (gpu, compiler) = setup();
    let (stream, other) = (gpu.context().new_stream().unwrap(), gpu.context().new_stream().unwrap());
    let mut device = Device::new(&gpu, &compiler, &stream, ACCUMULATE, 13);
    let (m, n, k) = (300, 260, 512);
    let inputs = Inputs {
        a: Strided::new(&device.a, k),
        scale_a: Strided::new(&device.scale_a, 1),
        b: Strided::new(&device.b, k),
        scale_b: Strided::new(&device.scale_b, 1),
    };
    // Both streams in turn: cudarc's events order them.
    for turn in [&stream, &other, &stream, &other] {
        device.plan.gemm_accumulate(turn, &inputs, StridedMut::new(&mut device.d, n)).unwrap();
    }
    let expected = device.twin_after(4);
    assert_bits(&device.result(&stream), &expected, &"accumulated on two streams");

    // C elsewhere, D a part of a larger allocation.
    let ones = stream.clone_htod(&vec![1.0f32; m * n]).unwrap();
    let mut wide = stream.clone_htod(&vec![f32::NAN; 64 + m * 320]).unwrap();
    let mut view = wide.slice_mut(64..);
    device.plan.gemm_add(&stream, &inputs, &Strided::new(&ones, n), StridedMut::new(&mut view, 320)).unwrap();
    let found = stream.clone_dtoh(&wide).unwrap();
    let found = Array2::from_shape_fn((m, n), |(i, j)| found[64 + i * 320 + j]);
    assert_bits(&Matrix::F32(found), &device.twin_after(1), &"C elsewhere, D a view");
    assert!(stream.clone_dtoh(&wide).unwrap()[64 + n..64 + 320].iter().all(|x| x.is_nan()));

    // And no C.
    let problem = Problem { c: None, epilogue: fp8gemm_problem::Epilogue::IDENTITY, ..device.case.problem };
    let plain = Plan::new(&gpu, &compiler, &problem).unwrap();
    plain.gemm(&stream, &inputs, StridedMut::new(&mut device.d, n)).unwrap();
    let case = Case { problem, c: None, ..device.case.rows(&all(&device.case)) };
    assert_bits(&device.result(&stream), &case.twin(), &"no C");

    let short = device.b.slice(1..);
    let bad = Inputs { b: Strided::new(&short, k), ..inputs };
    let error = plain.gemm(&stream, &bad, StridedMut::new(&mut device.d, n)).unwrap_err();
    assert!(matches!(error, HopperError::Length { argument: "B", .. }), "{error}");
    let mut halves = stream.clone_htod(&vec![bf16::ONE; m * n]).unwrap();
    let inputs = Inputs { b: Strided::new(&device.b, k), ..bad };
    let error = plain.gemm(&stream, &inputs, StridedMut::new(&mut halves, n)).unwrap_err();
    assert_eq!(error.to_string(), "D is bf16, but the problem wants f32");
    let error = plain.gemm_accumulate(&stream, &inputs, StridedMut::new(&mut device.d, n)).unwrap_err();
    assert!(matches!(error, HopperError::PresenceOfC { found: Some(_), expected: None }), "{error}");
    let error = device.plan.gemm(&stream, &inputs, StridedMut::new(&mut device.d, n)).unwrap_err();
    assert!(matches!(error, HopperError::PresenceOfC { found: None, expected: Some(_) }), "{error}");
}

/// Breaks if pointing a prepared launch at other matrices leaves an old pointer behind, or an error
/// half of the new ones.
#[test]
#[ignore = "needs Hopper"]
fn rebinding_forgets_the_old_pointers() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let mut first = Device::new(&gpu, &compiler, &stream, ACCUMULATE, 7);
    let mut second = Device::new(&gpu, &compiler, &stream, ACCUMULATE, 13);
    let (one, two) = (first.operands(&stream), second.operands(&stream));
    let mut prepared = first.plan.prepare(&one).unwrap();
    let misaligned = DeviceMatrix { pointer: two.b.pointer + 8, ..two.b };
    assert!(prepared.rebind(&Operands { b: misaligned, ..two }).is_err());
    assert_eq!(*prepared.operands(), one);
    // SAFETY: the buffers live on, and the results below wait for the stream.
    unsafe { prepared.launch(&stream) }.unwrap();
    prepared.rebind(&two).unwrap();
    // SAFETY: likewise.
    unsafe { prepared.launch(&stream) }.unwrap();
    assert_bits(&first.result(&stream), &first.twin_after(1), &"before");
    assert_bits(&second.result(&stream), &second.twin_after(1), &"after");
    // Only D is another one.
    let mut third = Device::new(&gpu, &compiler, &stream, ACCUMULATE, 16);
    let d = third.operands(&stream).d;
    prepared.rebind(&Operands { c: Some(d), d, ..two }).unwrap();
    // SAFETY: likewise.
    unsafe { prepared.launch(&stream) }.unwrap();
    assert_bits(&third.result(&stream), &second.twin_after(1), &"another D");
}

/// Breaks if plans, kernels or the cache cannot be used from several threads at once, or if a second
/// plan of a configuration compiles or loads again.
#[test]
#[ignore = "needs Hopper"]
fn threads_share_a_kernel() {
    let (gpu, compiler) = setup();
    let problem: Problem = "500x300x700 a=e5m2:row b=e4m3:tensor d=bf16".parse().unwrap();
    let functions: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u64)
            .map(|seed| {
                let (gpu, compiler) = (&gpu, &compiler);
                scope.spawn(move || {
                    let plan = Plan::new(gpu, compiler, &problem).unwrap();
                    let mut rng = StdRng::seed_from_u64(seed);
                    let case = Case::random(problem, &mut rng);
                    let twin = case.twin();
                    for _ in 0..10 {
                        let product = plan.run(&case.a.view(), &case.b.view(), None).unwrap();
                        assert_bits(&matrix(product.d), &twin, &format!("thread {seed}"));
                    }
                    (plan.cu_function() as usize, plan)
                })
            })
            .collect();
        // Plans are kept until all are there, so that none is unloaded between.
        let plans: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        plans.iter().map(|(function, _)| *function).collect()
    });
    assert!(functions.iter().all(|function| *function == functions[0]), "{functions:x?}");

    let plan = Plan::new(&gpu, &compiler, &problem).unwrap();
    let start = Instant::now();
    for _ in 0..1000 {
        assert_eq!(Plan::new(&gpu, &compiler, &problem).unwrap().cu_function(), plan.cu_function());
    }
    let again = start.elapsed().as_secs_f64() * 1e6 / 1000.0;
    let start = Instant::now();
    drop(plan);
    let unloaded = Plan::new(&gpu, &compiler, &problem).unwrap();
    println!(
        "another plan of a loaded configuration: {again:.2} us; with loading from the cache: {:.0} us ({})",
        start.elapsed().as_secs_f64() * 1e6,
        unloaded.config()
    );
    assert!(again < 200.0, "{again} us: the kernel was loaded again");
}

/// Breaks if a plan of one GPU launches on another, or if two GPUs in one process give other bits.
/// Fails where there are fewer than two: `--skip two_gpus` leaves it out.
#[test]
#[ignore = "needs two Hoppers"]
fn two_gpus_in_one_process() {
    let devices = probe().unwrap();
    assert!(devices.len() >= 2, "needs two Hoppers, found {}; --skip two_gpus leaves this test out", devices.len());
    let (_, compiler) = setup();
    let gpus: Vec<Gpu> = devices.iter().map(|device| Gpu::open(device.ordinal).unwrap()).collect();
    let problem: Problem = "500x300x700 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
    let case = Case::seeded(problem, 7);
    let twin = case.twin();
    for gpu in gpus.iter().chain(gpus.iter().rev()) {
        let product = gemm_on_gpu(gpu, &compiler, &case.a.view(), &case.b.view(), None, &problem).unwrap();
        assert_bits(&matrix(product.d), &twin, &format!("device {}", gpu.info().ordinal));
    }
    let mut device = Device::new(&gpus[0], &compiler, &gpus[0].context().default_stream(), ACCUMULATE, 21);
    let operands = device.operands(&gpus[0].context().default_stream());
    let there = gpus[1].context().default_stream();
    // SAFETY: refused before anything is launched.
    let error = unsafe { device.plan.launch(&there, &operands) }.unwrap_err();
    assert!(matches!(error, HopperError::WrongContext { .. }), "{error}");
    println!("{} GPUs", gpus.len());
}

/// Breaks if a smaller Hopper's choice (78 SMs: H20, 114: H100 PCIe) gives other bits: its
/// configurations run on this GPU too.
#[test]
#[ignore = "needs Hopper"]
fn choices_for_other_gpus_give_the_same_bits() {
    let (gpu, compiler) = setup();
    for text in ["1000x576x1000 a=e4m3:1x128 b=e4m3:128x128 d=bf16", "700x900x300 a=e4m3:1x128 b=e4m3:1x128 d=f32"] {
        let problem: Problem = text.parse().unwrap();
        let case = Case::seeded(problem, 9);
        let twin = case.twin();
        for sms in [78, 114, 132] {
            let config = choose(&problem, sms).unwrap().config();
            let plan = Plan::with_config(&gpu, &compiler, &problem, config).unwrap();
            let product = plan.run(&case.a.view(), &case.b.view(), None).unwrap();
            assert_bits(&matrix(product.d), &twin, &format!("{text} as for {sms} SMs: {config}"));
        }
    }
}
