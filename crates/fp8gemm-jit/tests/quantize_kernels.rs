//! The kernels that quantise and transpose compile. Needs NVRTC and no GPU:
//!
//! `cargo test --release -p fp8gemm-jit --test quantize_kernels -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

use fp8gemm_jit::{BASE_OPTIONS, ElementwiseKernel, Nvrtc, Unit, compile_checked};

/// Breaks if one of them does not compile, spills or uses the stack (the checks of
/// `compile_checked`), or needs so many registers that too few loads are under way.
#[test]
#[ignore = "needs NVRTC"]
fn every_elementwise_kernel_compiles_cleanly() {
    let nvrtc = Nvrtc::find(None).unwrap();
    println!("NVRTC {:?} at {}", nvrtc.version(), nvrtc.path().display());
    for kernel in ElementwiseKernel::all() {
        let (source, name) = (kernel.source(), kernel.to_string());
        let unit = Unit { source: &source, kernel: kernel.symbol(), configuration: &name, options: &BASE_OPTIONS };
        let checked = compile_checked(&nvrtc, &unit).unwrap();
        let registers = checked.report.kernels.iter().map(|kernel| kernel.registers).max().unwrap();
        println!(
            "{:6.0} ms  {:6} bytes  {registers:3} registers  {name}",
            checked.compiled.elapsed.as_secs_f64() * 1e3,
            checked.compiled.cubin.len()
        );
        // 1,024 threads in an SM.
        assert!(registers <= 64, "{name}: {registers} registers");
    }
}
