//! Uses of slices after a launch on another stream: what cudarc's events must order, whichever `Gpu` and
//! stream they come from, and however many streams are left.

use std::sync::Arc;

use fp8gemm_hopper::cudarc::driver::{CudaContext, CudaStream};
use fp8gemm_hopper::{Gpu, HopperError, Inputs, Plan, RelayoutPlan, Strided, StridedMut};
use fp8gemm_jit::Compiler;
use fp8gemm_sim::Matrix;
use ndarray::Array2;

use crate::data::assert_bits;
use crate::device::Device;
use crate::setup;

/// A D that is copied in no time, from sums so long that the kernel still runs when the CPU goes on.
const LONG: &str = "64x128x1048576 a=e4m3:tensor b=e4m3:tensor d=f32";
const SEED: u64 = 7;

/// Launches on slices of `owner`, on the stream that `launch_on` makes and that is dropped at once; then
/// reads D on `owner`, and in a second turn releases it and writes to what may be the same memory.
fn used_after(gpu: &Gpu, compiler: &Compiler, owner: &Arc<CudaStream>, launch_on: &dyn Fn() -> Arc<CudaStream>) {
    let mut device = Device::new(gpu, compiler, owner, LONG, SEED);
    let (n, k) = (device.case.problem.n, device.case.problem.k);
    let rows = [0, 31, 63];
    let twin = device.case.rows(&rows).twin();
    let before = vec![1.0f32; device.d.len()];
    let launch = |device: &mut Device| {
        let inputs = Inputs {
            a: Strided::new(&device.a, k),
            scale_a: Strided::new(&device.scale_a, 1),
            b: Strided::new(&device.b, k),
            scale_b: Strided::new(&device.scale_b, 1),
        };
        device.plan.gemm(&launch_on(), &inputs, StridedMut::new(&mut device.d, n)).unwrap();
    };
    launch(&mut device);
    let found = device.result(owner);
    assert_bits(&found.view().gather_rows(&rows), &twin, &"read at once");

    launch(&mut device);
    drop(device.d);
    let fresh = owner.clone_htod(&before).unwrap();
    gpu.context().synchronize().unwrap();
    assert!(owner.clone_dtoh(&fresh).unwrap() == before, "the kernel wrote to memory that was released");
}

/// Breaks if D is read or released while the kernel still writes it, because the only stream that was
/// created is dropped after the launch and cudarc then takes all work to be on one stream. (Streams of tests beside it
/// would hide that: `.ci/gpu` runs one at a time.)
#[test]
#[ignore = "needs Hopper"]
fn a_stream_is_dropped_after_the_launch() {
    let (gpu, compiler) = setup();
    let context = gpu.context();
    assert!(context.is_managing_stream_synchronization(), "no stream keeps the events on");
    used_after(&gpu, &compiler, &context.default_stream(), &|| context.new_stream().unwrap());
    assert!(context.is_managing_stream_synchronization());
}

/// Breaks if a GPU that is opened twice has two contexts in cudarc's eyes: slices of one, a launch on a stream
/// of the other, and nothing that orders them.
#[test]
#[ignore = "needs Hopper"]
fn a_gpu_is_opened_twice() {
    let (first, compiler) = setup();
    let second = Gpu::open(0).unwrap();
    assert!(Arc::ptr_eq(first.context(), second.context()));
    let owner = first.context().new_stream().unwrap();
    used_after(&second, &compiler, &owner, &|| second.context().default_stream());
    drop((first, second));
    // What was opened stays, and so do the events.
    assert!(Arc::ptr_eq(owner.context(), Gpu::open(0).unwrap().context()));
    assert!(owner.context().is_managing_stream_synchronization());
}

/// Breaks if the kernel's code is unloaded while it runs: the only plan that holds it is dropped at once.
#[test]
#[ignore = "needs Hopper"]
fn a_plan_is_dropped_after_the_launch() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let Device { case, plan, a, b, scale_a, scale_b, mut d } = Device::new(&gpu, &compiler, &stream, LONG, SEED);
    let problem = case.problem;
    let inputs = Inputs {
        a: Strided::new(&a, problem.k),
        scale_a: Strided::new(&scale_a, 1),
        b: Strided::new(&b, problem.k),
        scale_b: Strided::new(&scale_b, 1),
    };
    plan.gemm(&stream, &inputs, StridedMut::new(&mut d, problem.n)).unwrap();
    drop(plan);
    // What is loaded now may take the memory of what was unloaded.
    let other = "64x128x256 a=e5m2:row b=e4m3:row d=bf16".parse().unwrap();
    let other = Plan::new(&gpu, &compiler, &other).unwrap();
    let found = stream.clone_dtoh(&d).unwrap();
    let found = Matrix::F32(Array2::from_shape_vec((problem.m, problem.n), found).unwrap());
    let rows = [0, 31, 63];
    assert_bits(&found.view().gather_rows(&rows), &case.rows(&rows).twin(), &other.config());
}

/// Breaks if slices or a stream of a `CudaContext` of the caller's own are taken, whose uses nothing would
/// order, or if a launch on pointers is refused there, where the caller promises the order.
#[test]
#[ignore = "needs Hopper"]
fn a_context_of_the_callers_own_is_refused() {
    let (gpu, compiler) = setup();
    let own = CudaContext::new(0).unwrap();
    assert_eq!(own.cu_ctx(), gpu.context().cu_ctx(), "the primary context, as the Gpu's");
    let (here, there) = (gpu.context().default_stream(), own.default_stream());
    let problem = "64x128x256 a=e4m3:tensor b=e4m3:tensor d=f32";
    let refused = |what: &str, result: Result<(), HopperError>| match result {
        Err(HopperError::WrongContext { what: found, .. }) => assert_eq!(found, what),
        other => panic!("{what}: {other:?}"),
    };
    let gemm = |plan: &Plan, stream: &CudaStream, x: &Device, d: &mut _| {
        let inputs = Inputs {
            a: Strided::new(&x.a, 256),
            scale_a: Strided::new(&x.scale_a, 1),
            b: Strided::new(&x.b, 256),
            scale_b: Strided::new(&x.scale_b, 1),
        };
        plan.gemm(stream, &inputs, StridedMut::new(d, 128))
    };
    let mut ours = Device::new(&gpu, &compiler, &here, problem, SEED);
    let mut theirs = Device::new(&gpu, &compiler, &there, problem, SEED);
    let plan = ours.plan.clone();
    let (mut d, mut their_d) = (here.clone_dtod(&ours.d).unwrap(), there.clone_dtod(&theirs.d).unwrap());
    refused("the stream", gemm(&plan, &there, &ours, &mut d));
    refused("D", gemm(&plan, &here, &ours, &mut their_d));
    refused("A", gemm(&plan, &here, &theirs, &mut d));

    let relayout = RelayoutPlan::repack(&gpu, &compiler, 64, 256).unwrap();
    let mut codes = here.alloc_zeros::<u8>(64 * 256).unwrap();
    let mut repack =
        |stream, from| relayout.relayout(stream, &Strided::new(from, 256), StridedMut::new(&mut codes, 256));
    refused("the stream", repack(&there, &ours.a));
    refused("input", repack(&here, &theirs.a));

    let operands = ours.operands(&here);
    here.synchronize().unwrap();
    // SAFETY: the buffers live on, what was uploaded is there, and the result below waits for the stream.
    unsafe { plan.launch(&there, &operands) }.unwrap();
    there.synchronize().unwrap();
    assert_bits(&ours.result(&here), &ours.case.twin(), &"on pointers");
    assert_bits(&theirs.result(&there), &Matrix::F32(Array2::ones((64, 128))), &"not launched");
    let their_operands = theirs.operands(&there);
    // SAFETY: likewise.
    unsafe { theirs.plan.launch(&there, &their_operands) }.unwrap();
    assert_bits(&theirs.result(&there), &theirs.case.twin(), &"on pointers of their own");
}
