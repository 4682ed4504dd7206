//! The wrong kernels compile. Needs NVRTC and no GPU:
//!
//! `cargo test --release -p fp8gemm-jit --features mutants --test mutant_kernels -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

use fp8gemm_jit::mutants::KernelMutant;
use fp8gemm_jit::{BASE_OPTIONS, KERNEL, Nvrtc, Unit, catalog, compile_checked};

/// Breaks if a mutant is no kernel at all, or one that the compiler mends or spoils: tests would then be
/// scored by something else. One configuration of each.
#[test]
#[ignore = "needs NVRTC"]
fn every_mutant_compiles() {
    let nvrtc = Nvrtc::find(None).unwrap();
    let mut configs = catalog::cover();
    // Small tiles compile fast.
    configs.sort_by_key(|config| (config.block_m * config.block_n, config.to_string()));
    for mutant in KernelMutant::ALL {
        let config = configs.iter().find(|config| mutant.applies(config)).unwrap();
        let source = mutant.source(config).unwrap();
        let name = format!("{mutant} of {}", config.kernel_name());
        let unit = Unit { source: &source, kernel: KERNEL, configuration: &name, options: &BASE_OPTIONS };
        let right = config.source();
        let right = Unit { source: &right, ..unit };
        let checked = compile_checked(&nvrtc, &unit).unwrap_or_else(|error| panic!("{name}: {error}"));
        let right = compile_checked(&nvrtc, &right).unwrap();
        assert_ne!(checked.compiled.cubin, right.compiled.cubin, "{name}: the same machine code");
        println!("{:6.0} ms  {name}", checked.compiled.elapsed.as_secs_f64() * 1e3);
    }
}
