//! Kernels that are wrong on purpose: what finds each.

use std::collections::BTreeMap;

use fp8gemm_difftest::{Case, Generator, HopperSubject, Menu, Only, Options, Subject, run};
use fp8gemm_jit::mutants::KernelMutant;
use fp8gemm_jit::sass::{Disassembler, Listing};
use fp8gemm_jit::{BASE_OPTIONS, KERNEL, Nvrtc, Unit, catalog, compile_checked};
use fp8gemm_sim::Path;

use crate::launches::{chain_is_right, many_tiles};
use crate::subject;

/// Breaks if a wrong kernel is not found: by generated cases; for what only a launch after a launch shows,
/// by a chain of them; for what is out of order only now and then, by many tiles in a row; and where no bit
/// need show it, in the machine code (`missing_fences_and_waits_show_in_machine_code` of `fp8gemm-jit`
/// proves that without a GPU). Prints what found each, as the table of `docs/mutants.md`. The environment
/// variable `FP8GEMM_MUTANTS` picks some by name, `tail-of-k,tail-of-m` say.
#[test]
#[ignore = "needs Hopper"]
fn kernel_mutants_are_found() {
    let gpu = subject();
    let tool = Disassembler::find(gpu.compiler().nvrtc().ok().map(Nvrtc::path));
    let mut survivors = Vec::new();
    println!("| wrong kernel | found by | on |\n|---|---|---|");
    let picked = std::env::var("FP8GEMM_MUTANTS").ok();
    let is_picked =
        |mutant: &KernelMutant| picked.as_ref().is_none_or(|names| names.split(',').any(|name| name == mutant.name()));
    for mutant in KernelMutant::ALL.into_iter().filter(is_picked) {
        let ordered = mutant.missing_instruction();
        let by = match mutant {
            KernelMutant::PredecessorUnawaited => {
                let wrong = !chain_is_right(&gpu, Some(mutant));
                wrong.then(|| Found::new("dependent launches", "a chain of twenty".to_owned()))
            }
            _ => by_cases(&gpu, mutant),
        };
        let by = by.or_else(|| by_many_tiles(&gpu, mutant));
        // Beside the bits, not only where they show nothing.
        let code = ordered.map(|missing| match &tool {
            Ok(tool) => in_machine_code(&gpu, tool, mutant, missing),
            Err(_) => Some(Found::new("machine code", "in the tests of fp8gemm-jit: no disassembler here".to_owned())),
        });
        let found: Vec<Found> = [by, code.flatten()].into_iter().flatten().collect();
        let text = |part: fn(&Found) -> &str| found.iter().map(part).collect::<Vec<_>>().join("; ");
        if found.is_empty() {
            println!("| {mutant} | **nothing** | |");
            survivors.push(mutant.name());
        } else {
            println!("| {mutant} | {} | {} |", text(|found| found.by), text(|found| &found.on));
        }
    }
    assert!(chain_is_right(&gpu, None), "the right kernel fails the chain");
    assert!(many_tiles(&gpu, None, 4).is_none(), "the right kernel fails the many tiles");
    assert!(survivors.is_empty(), "{survivors:?}");
}

/// What found a mutant, and on what.
struct Found {
    by: &'static str,
    on: String,
}

impl Found {
    fn new(by: &'static str, on: String) -> Self {
        Self { by, on }
    }
}

/// The first of the cases that shows a mutant.
fn by_cases(gpu: &HopperSubject, mutant: KernelMutant) -> Option<Found> {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(gpu.mutant(mutant).unwrap())];
    let mut options = Options::cases(150);
    options.oracle = Path::best();
    options.properties = false;
    // What is found need not be small here.
    options.effort.tries = 0;
    // A mutant computes nothing without products.
    let menu = Menu { empty: false, ..Menu::gpu() };
    let generator = Generator::new(1, menu, Only::default());
    let summary = run(&generator, &mut subjects, &options, &mut |_| {}).unwrap();
    let finding = summary.findings.first()?;
    let (origin, configuration) = (finding.origin, &finding.configuration);
    Some(Found::new(
        finding.fault.kind(),
        format!("case {}: {}, `{configuration}`", origin.index + 1, origin.regimes()),
    ))
}

/// Tiles in a row, each stored as soon as the one before, where an order that is mostly kept by itself may
/// not be: none of the cases has as many.
fn by_many_tiles(gpu: &HopperSubject, mutant: KernelMutant) -> Option<Found> {
    // For those that write beyond D there is no room here.
    mutant.missing_instruction()?;
    many_tiles(gpu, Some(mutant), 20).map(|on| Found::new("many tiles", on))
}

/// Whether the machine code of a mutant lacks what it should have.
fn in_machine_code(
    gpu: &HopperSubject,
    tool: &Disassembler,
    mutant: KernelMutant,
    missing: &'static str,
) -> Option<Found> {
    let config = catalog::cover().into_iter().find(|config| mutant.applies(config))?;
    let source = mutant.source(&config)?;
    let unit = Unit { source: &source, kernel: KERNEL, configuration: mutant.name(), options: &BASE_OPTIONS };
    let checked = compile_checked(gpu.compiler().nvrtc().unwrap(), &unit).unwrap();
    let summary = Listing::parse(&tool.disassemble(&checked.compiled.cubin).unwrap()).unwrap().summary();
    let fault = summary.faults(&config).into_iter().find(|fault| fault.what == missing)?;
    Some(Found::new("machine code", fault.to_string()))
}

/// Breaks if the cases that the GPU is tested with leave the kernels' paths out: they must be computed by
/// several configurations, with stream-K and shared operands among them. Needs no GPU.
#[test]
fn cases_reach_the_kernels_paths() {
    let generator = Generator::new(1, Menu { empty: false, ..Menu::gpu() }, Only::default());
    let mut names = BTreeMap::<&str, usize>::new();
    for index in 0..150 {
        let Case { problem, .. } = generator.case(index).unwrap();
        let Ok(choice) = fp8gemm_jit::choose(&problem, 132) else { continue };
        for candidate in choice.candidates {
            for mutant in KernelMutant::ALL.into_iter().filter(|mutant| mutant.applies(&candidate.config)) {
                *names.entry(mutant.name()).or_default() += 1;
            }
        }
    }
    for mutant in KernelMutant::ALL {
        assert!(names.get(mutant.name()).is_some_and(|count| *count > 5), "{mutant}: {names:?}");
    }
}
