//! The wrong kernels compile, and the machine code shows what is missing in them. Needs NVRTC and a
//! disassembler, and no GPU:
//!
//! `cargo test --release -p fp8gemm-jit --features mutants --test mutant_kernels -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use fp8gemm_jit::mutants::{KernelForm, KernelMutant};
use fp8gemm_jit::sass::{Disassembler, Listing};
use fp8gemm_jit::{BASE_OPTIONS, KERNEL, KernelConfig, Nvrtc, Schedule, Share, Unit, catalog, compile_checked};

/// A kernel's main loop, and with swapped operands whether results are on a diagonal.
fn part(config: &KernelConfig) -> (KernelForm, bool) {
    let form = KernelForm::of(config);
    (form, form == KernelForm::Swapped && config.block_n < 64)
}

/// Breaks if a mutant is no kernel at all, or one that the compiler mends or spoils: tests would then be
/// scored by something else. One configuration of each form that it is in.
#[test]
#[ignore = "needs NVRTC"]
fn every_mutant_compiles() {
    let nvrtc = Nvrtc::find(None).unwrap();
    let mut configs = catalog::cover();
    // Small tiles compile fast.
    configs.sort_by_key(|config| (config.block_m * config.block_n, config.to_string()));
    let parts = configs.iter().map(part).collect::<BTreeSet<_>>();
    assert_eq!(parts.len(), 4);
    for (mutant, of) in KernelMutant::ALL.into_iter().flat_map(|mutant| parts.iter().map(move |of| (mutant, *of))) {
        let Some(config) = configs.iter().find(|config| mutant.applies(config) && part(config) == of) else { continue };
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

/// Breaks if a kernel without a fence or a wait passes for a good one: no bit may show it for a long time,
/// so that the machine code is where it is found. Configurations of each store, schedule, main loop and cluster.
#[test]
#[ignore = "needs NVRTC and nvdisasm"]
fn missing_fences_and_waits_show_in_machine_code() {
    let nvrtc = Nvrtc::find(None).unwrap();
    let tool = Disassembler::find(Some(nvrtc.path())).unwrap();
    let faults = |source: &str, config: &KernelConfig| {
        let unit = Unit { source, kernel: KERNEL, configuration: "", options: &BASE_OPTIONS };
        let checked = compile_checked(&nvrtc, &unit).unwrap_or_else(|error| panic!("{config}: {error}"));
        let summary = Listing::parse(&tool.disassemble(&checked.compiled.cubin).unwrap()).unwrap().summary();
        summary.faults(config)
    };
    let mut configs = catalog::cover();
    configs.sort_by_key(|config| (config.block_m * config.block_n, config.to_string()));
    let kinds: [fn(&KernelConfig) -> bool; 9] = [
        |config| config.schedule == Schedule::StreamK && config.share != Share::Nothing,
        |config| config.schedule == Schedule::StreamK && config.share == Share::Nothing,
        |config| config.schedule == Schedule::Cooperative && config.share != Share::Nothing,
        |config| config.schedule == Schedule::Cooperative && config.share == Share::Nothing && config.in_flight == 1,
        |config| KernelForm::of(config) == KernelForm::InFlight,
        |config| config.schedule == Schedule::Swapped && config.block_n == 64 && config.cluster() == 1,
        |config| config.schedule == Schedule::Swapped && config.block_n == 64 && config.cluster() > 1,
        |config| config.schedule == Schedule::Swapped && config.block_n < 64 && config.cluster() == 1,
        |config| config.schedule == Schedule::Swapped && config.block_n < 64 && config.cluster() > 1,
    ];
    for mutant in KernelMutant::ALL {
        let Some(missing) = mutant.missing_instruction() else { continue };
        let mut tried = 0;
        for kind in kinds {
            let Some(config) = configs.iter().find(|config| mutant.applies(config) && kind(config)) else { continue };
            let wrong = faults(&mutant.source(config).unwrap(), config);
            println!("{mutant} of {config}: {wrong:?}");
            assert!(wrong.iter().any(|fault| fault.what == missing), "{mutant} of {config}: {wrong:?}");
            assert_eq!(faults(&config.source(), config), [], "{config}");
            tried += 1;
        }
        assert!(tried > 0, "{mutant}");
    }
}
