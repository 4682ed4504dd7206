//! The kernels compile, and to what they should. Needs NVRTC and no GPU:
//!
//! `cargo test --release -p fp8gemm-jit --test kernels -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use fp8gemm_jit::{BASE_OPTIONS, KERNEL, KernelConfig, Nvrtc, Unit, choose, compile_checked};
use fp8gemm_problem::Problem;

/// Every tile of the choice for the usual problem, and a cover of the other axes: type mixes,
/// scale layouts, outputs, C, policies, long and short K.
fn configurations() -> BTreeMap<String, KernelConfig> {
    let problems = [
        "4096x4096x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "128x256x131072 a=e4m3:1x128 b=e4m3:128x128 d=f16",
        "4096x4096x7168 a=e4m3:1x128 b=e5m2:1x128 d=f32 c=f32 beta=1",
        "4096x4096x512 a=e4m3:1x128 b=e5m2:1x128 d=f16",
        "4096x4096x7168 a=e5m2:1x128 b=e4m3:1x128 d=bf16",
        "4096x4096x512 a=e5m2:128x128 b=e4m3:128x128 d=f32 c=bf16 beta=1",
        "4096x4096x7168 a=e5m2:row b=e5m2:tensor d=bf16 policy=chain",
        "4096x4096x7168 a=e4m3:row b=e4m3:row d=f32 c=f16 beta=1 alpha=2",
    ];
    let candidates = problems.into_iter().flat_map(|problem| {
        let problem: Problem = problem.parse().unwrap();
        choose(&problem, 132).unwrap().candidates
    });
    candidates.map(|estimate| (estimate.config.to_string(), estimate.config)).collect()
}

/// Breaks if some configuration that can be chosen does not compile, spills, uses the stack, or is
/// serialised by ptxas (C75xx): the checks of `compile_checked`.
#[test]
#[ignore = "needs NVRTC"]
fn every_choice_compiles_cleanly() {
    let nvrtc = Nvrtc::find(None).unwrap();
    println!("NVRTC {:?} at {}", nvrtc.version(), nvrtc.path().display());
    let configurations = configurations();
    assert!(configurations.len() > 30, "{} configurations", configurations.len());
    for (name, config) in configurations {
        let source = config.source();
        let unit = Unit { source: &source, kernel: KERNEL, configuration: &name, options: &BASE_OPTIONS };
        let checked = compile_checked(&nvrtc, &unit).unwrap();
        println!(
            "{:6.0} ms  {:6} bytes  {name}",
            checked.compiled.elapsed.as_secs_f64() * 1e3,
            checked.compiled.cubin.len()
        );
    }
}
