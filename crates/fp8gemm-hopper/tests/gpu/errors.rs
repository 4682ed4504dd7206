//! A kernel that goes astray: the error surfaces, and nothing panics afterwards.

use std::process::Command;

use fp8gemm_hopper::cudarc::driver::{DevicePtr, DevicePtrMut};
use fp8gemm_hopper::{DeviceMatrix, Gpu, HopperError, Operands, Plan, gemm_on_gpu, probe};
use fp8gemm_problem::Problem;

use crate::data::Case;
use crate::setup;

const CHILD: &str = "FP8GEMM_LOSE_THE_CONTEXT";

/// Breaks if the error of a lost context is not told as such by the next call, or if any call or
/// release after it panics. In a process of its own, which no other test could use any more.
#[test]
#[ignore = "needs Hopper"]
fn a_lost_context_is_an_error_value() {
    if std::env::var_os(CHILD).is_some() {
        lose_the_context();
        return;
    }
    setup();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "errors::a_lost_context_is_an_error_value", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    println!("{text}");
    assert!(child.status.success(), "{}: {}", child.status, String::from_utf8_lossy(&child.stderr));
    assert!(text.contains("survived"), "{text}");
}

fn lose_the_context() {
    let (gpu, compiler) = setup();
    let problem: Problem = "64x64x128 a=e4m3:tensor b=e4m3:tensor d=f32".parse().unwrap();
    let case = Case::seeded(problem, 1);
    let run = || gemm_on_gpu(&gpu, &compiler, &case.a.view(), &case.b.view(), None, &problem);
    run().unwrap();
    let plan = Plan::new(&gpu, &compiler, &problem).unwrap();
    let stream = gpu.context().new_stream().unwrap();
    let codes = stream.clone_htod(case.a.codes().as_slice().unwrap()).unwrap();
    let scale = stream.clone_htod(&[1.0f32]).unwrap();
    let mut d = stream.clone_htod(&[0.0f32; 64 * 64]).unwrap();
    let at = |pointer, stride| DeviceMatrix { pointer, stride };
    let good = Operands {
        a: at(codes.device_ptr(&stream).0, 128),
        b: at(codes.device_ptr(&stream).0, 128),
        scale_a: at(scale.device_ptr(&stream).0, 1),
        scale_b: at(scale.device_ptr(&stream).0, 1),
        c: None,
        d: at(d.device_ptr_mut(&stream).0, 64),
    };
    // Aligned, and nowhere: no rule of ours is broken, but the caller's promise is.
    let nowhere = at(0x10_0000_0000_0000 >> 8, 64);
    let prepared = plan.prepare(&Operands { d: nowhere, ..good }).unwrap();
    // SAFETY: not kept, on purpose; the GPU's memory protection stops the kernel, and this process
    // ends soon.
    unsafe { prepared.launch(&stream) }.unwrap();
    let told = stream.synchronize().expect_err("the kernel wrote to memory that nobody has");
    println!("the stream says {:?}", told.0);

    let lost = |error: HopperError| {
        println!("{error}");
        assert!(matches!(error, HopperError::ContextLost { .. }), "{error:?}");
    };
    lost(run().unwrap_err());
    // SAFETY: nothing is launched any more.
    lost(unsafe { prepared.launch(&stream) }.unwrap_err());
    let other = Problem { epilogue: fp8gemm_problem::Epilogue { alpha: 2.0, beta: 0.0 }, m: 500, ..problem };
    for error in [Plan::new(&gpu, &compiler, &other).err(), probe().err(), Gpu::open(0).err()].into_iter().flatten() {
        println!("{error}");
    }
    drop((codes, scale, d, prepared, plan, stream));
    lost(run().unwrap_err());
    println!("survived");
}
