//! Kernels that are wrong on purpose: what finds each.

use std::collections::BTreeMap;

use fp8gemm_difftest::{Case, Generator, HopperSubject, Menu, Only, Options, Subject, run};
use fp8gemm_jit::mutants::{KernelForm, KernelMutant};
use fp8gemm_jit::sass::{Disassembler, Listing};
use fp8gemm_jit::{BASE_OPTIONS, KERNEL, KernelConfig, Nvrtc, Unit, catalog, compile_checked};
use fp8gemm_problem::{Policy, ScaleLayout};
use fp8gemm_sim::Path;

use crate::launches::{chain_is_right, chain_of_few_rows_is_right, many_tiles};
use crate::subject;

/// A mistake, in kernels of one form.
type Wrong = (KernelMutant, KernelForm);

/// Every mistake in every form that has it.
fn all() -> Vec<Wrong> {
    let cover = catalog::cover();
    let pairs = KernelMutant::ALL.into_iter().flat_map(|mutant| KernelForm::ALL.map(|form| (mutant, form)));
    pairs.filter(|wrong| cover.iter().any(|config| is_in(*wrong, config))).collect()
}

fn is_in((mutant, form): Wrong, config: &KernelConfig) -> bool {
    mutant.applies(config) && KernelForm::of(config) == form
}

/// The cases that score kernels of a form. Without an M, N or K of 0: a mutant computes nothing without
/// products. Blocks in flight are for few rows. So are swapped operands, which take 1x128 and 128x128 scales and
/// no C; there K can be split.
fn cases(form: KernelForm) -> Generator {
    let menu = Menu { empty: false, policies: Menu::kernels().policies, ..Menu::gpu() };
    let few =
        ["shape-small", "shape-ones", "shape-cluster-edge", "shape-scale-edge", "shape-step-edge", "shape-long-k"];
    let few = Only::parse(few).unwrap();
    match form {
        KernelForm::Blockwise => Generator::new(1, menu, Only::default()),
        KernelForm::InFlight => Generator::new(1, menu, few),
        KernelForm::Swapped => {
            let splits = [2, 4, 8].map(|parts| Policy::Split { parts });
            let policies = [Policy::PROMOTE_128].into_iter().chain(splits).collect();
            let layouts = vec![ScaleLayout::Block1x128, ScaleLayout::Block128x128];
            Generator::new(1, Menu { policies, layouts, ..menu }, few)
        }
    }
}

/// How many cases a mutant has at most. Those of few rows are small, and most have no kernel of the form: about
/// 150 are left.
fn most_cases(form: KernelForm) -> u64 {
    if form == KernelForm::Blockwise { 150 } else { 600 }
}

/// Breaks if a wrong kernel is not found: by generated cases; for what only a launch after a launch shows,
/// by a chain of them; for what is out of order only now and then, by many tiles in a row; and where no bit
/// need show it, in the machine code (`missing_fences_and_waits_show_in_machine_code` of `fp8gemm-jit`
/// proves that without a GPU). Prints what found each, as the table of `docs/mutants.md`. The environment
/// variable `FP8GEMM_MUTANTS` picks some by name of the mistake or of the form, `tail-of-k,swapped` say.
#[test]
#[ignore = "needs Hopper"]
fn kernel_mutants_are_found() {
    let gpu = subject();
    let tool = Disassembler::find(gpu.compiler().nvrtc().ok().map(Nvrtc::path));
    let mut survivors = Vec::new();
    println!("| wrong kernel | form | found by | on |\n|---|---|---|---|");
    let picked = std::env::var("FP8GEMM_MUTANTS").ok();
    let is_picked = |(mutant, form): &Wrong| {
        picked.as_ref().is_none_or(|names| names.split(',').any(|name| name == mutant.name() || name == form.name()))
    };
    for wrong @ (mutant, form) in all().into_iter().filter(is_picked) {
        let ordered = mutant.missing_instruction();
        let by = match mutant {
            KernelMutant::PredecessorUnawaited | KernelMutant::EarlyTokens | KernelMutant::EarlyScales => {
                by_chains(&gpu, wrong)
            }
            _ => by_cases(&gpu, wrong),
        };
        let by = by.or_else(|| by_many_tiles(&gpu, wrong));
        // Beside the bits, not only where they show nothing.
        let code = ordered.map(|missing| match &tool {
            Ok(tool) => in_machine_code(&gpu, tool, wrong, missing),
            Err(_) => Some(Found::new("machine code", "in the tests of fp8gemm-jit: no disassembler here".to_owned())),
        });
        let found: Vec<Found> = [by, code.flatten()].into_iter().flatten().collect();
        let text = |part: fn(&Found) -> &str| found.iter().map(part).collect::<Vec<_>>().join("; ");
        if found.is_empty() {
            println!("| {mutant} | {form} | **nothing** | |");
            survivors.push(format!("{mutant}, {form}"));
        } else {
            println!("| {mutant} | {form} | {} | {} |", text(|found| found.by), text(|found| &found.on));
        }
    }
    for form in KernelForm::ALL {
        assert!(chain_is_right(&gpu, form, None) != Some(false), "the right kernel fails the chain: {form}");
    }
    assert!(chain_of_few_rows_is_right(&gpu, None), "the right kernels fail the chain of few rows");
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
fn by_cases(gpu: &HopperSubject, (mutant, form): Wrong) -> Option<Found> {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(gpu.mutant(mutant, form).unwrap())];
    let mut options = Options::cases(most_cases(form));
    options.oracle = Path::best();
    options.properties = false;
    // What is found need not be small here.
    options.effort.tries = 0;
    let summary = run(&cases(form), &mut subjects, &options, &mut |_| {}).unwrap();
    let finding = summary.findings.first()?;
    let (origin, configuration) = (finding.origin, &finding.configuration);
    Some(Found::new(
        finding.fault.kind(),
        format!("case {}: {}, `{configuration}`", origin.index + 1, origin.regimes()),
    ))
}

/// Launches that may start before those before them have ended.
fn by_chains(gpu: &HopperSubject, (mutant, form): Wrong) -> Option<Found> {
    let wrong = match form {
        KernelForm::Swapped => !chain_of_few_rows_is_right(gpu, Some(mutant)),
        _ => chain_is_right(gpu, form, Some(mutant)) == Some(false),
    };
    wrong.then(|| Found::new("dependent launches", "a chain of twenty".to_owned()))
}

/// Tiles in a row, each stored as soon as the one before, where an order that is mostly kept by itself may
/// not be: none of the cases has as many.
fn by_many_tiles(gpu: &HopperSubject, wrong: Wrong) -> Option<Found> {
    // For those that write beyond D there is no room here.
    wrong.0.missing_instruction()?;
    many_tiles(gpu, Some(wrong), 20).map(|on| Found::new("many tiles", on))
}

/// Whether the machine code of a mutant lacks what it should have.
fn in_machine_code(gpu: &HopperSubject, tool: &Disassembler, wrong: Wrong, missing: &'static str) -> Option<Found> {
    let config = catalog::cover().into_iter().find(|config| is_in(wrong, config))?;
    let source = wrong.0.source(&config)?;
    let unit = Unit { source: &source, kernel: KERNEL, configuration: wrong.0.name(), options: &BASE_OPTIONS };
    let checked = compile_checked(gpu.compiler().nvrtc().unwrap(), &unit).unwrap();
    let summary = Listing::parse(&tool.disassemble(&checked.compiled.cubin).unwrap()).unwrap().summary();
    let fault = summary.faults(&config).into_iter().find(|fault| fault.what == missing)?;
    Some(Found::new("machine code", fault.to_string()))
}

/// Breaks if the cases that the GPU is tested with leave the kernels' paths out: every mistake, in every form
/// that has it, must be in several of them, with stream-K and shared operands, split K and a diagonal among
/// them. Needs no GPU.
#[test]
fn cases_reach_the_kernels_paths() {
    let mut met = BTreeMap::<String, usize>::new();
    for form in KernelForm::ALL {
        let generator = cases(form);
        for index in 0..most_cases(form) {
            let Case { problem, .. } = generator.case(index).unwrap();
            let Ok(choice) = fp8gemm_jit::choose(&problem, 132) else { continue };
            for mutant in KernelMutant::ALL {
                if choice.candidates.iter().any(|candidate| is_in((mutant, form), &candidate.config)) {
                    *met.entry(format!("{mutant}, {form}")).or_default() += 1;
                }
            }
        }
    }
    for (mutant, form) in all() {
        assert!(met.get(&format!("{mutant}, {form}")).is_some_and(|count| *count > 5), "{mutant}, {form}: {met:?}");
    }
}
