//! Our kernels on a Hopper GPU, single instructions, and kernels that are wrong on purpose:
//!
//! `cargo test --release -p fp8gemm-difftest --features hopper --test gpu -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod launches;
mod mutants;

use common::Regression;
use fp8gemm_difftest::instruction::{QUESTIONS, ask, examine, examine_scalars, mmas, scalar, wgmmas};
use fp8gemm_difftest::{
    DifftestError, Generator, HopperSubject, Menu, Only, Options, ShapeRegime, Subject, replay, run,
};
use fp8gemm_jit::ProbeKernel;
use fp8gemm_sim::Path;

pub(crate) fn subject() -> HopperSubject {
    HopperSubject::open(0).unwrap()
}

/// Breaks if one output of one instruction has other bits than the model: every N, type mix,
/// accumulator, source of A and sign of `wgmma`, chains of one to four, with C and without, on data of
/// every regime.
#[test]
#[ignore = "needs Hopper"]
fn wgmma_is_as_modelled() {
    all_as_modelled(&wgmmas(), |columns| if columns <= 32 { 84 } else { 14 });
}

/// Breaks if `mma.sync` on FP8 is not the emulation that it is modelled as: settles the order of the
/// f32 accumulator, which nobody has published.
#[test]
#[ignore = "needs Hopper"]
fn mma_sync_is_the_emulation() {
    all_as_modelled(&mmas(), |_| 840);
}

fn all_as_modelled(kernels: &[ProbeKernel], count: impl Fn(usize) -> usize) {
    let gpu = subject();
    let (mut outputs, mut faults) = (0, Vec::new());
    for kernel in kernels {
        let (_, columns, _) = kernel.tile().unwrap();
        for accumulate in [true, false] {
            let examined = examine(gpu.gpu(), gpu.compiler(), *kernel, count(columns), 11, accumulate).unwrap();
            outputs += examined.d.len();
            if let Some((place, found, model)) = examined.first {
                let (differing, all) = (examined.differing, examined.d.len());
                faults.push(format!(
                    "{kernel}, C {accumulate}: {differing} of {all}, output {place}: {found:#010X}, model {model:#010X}"
                ));
            }
        }
    }
    println!("{} kernels, {outputs} outputs", kernels.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Breaks if a question on record has another answer than the model's.
#[test]
#[ignore = "needs Hopper"]
fn questions_have_the_models_answers() {
    let gpu = subject();
    let mut faults = Vec::new();
    for question in QUESTIONS {
        let answer = ask(gpu.gpu(), gpu.compiler(), question).unwrap();
        println!("{answer:#010X}  {}", question.name);
        if answer != question.predicted {
            faults.push(format!("{}: {answer:#010X}, model {:#010X}", question.name, question.predicted));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Breaks if fma, mul, add or a cast of f32 is not IEEE arithmetic with canonical NaN. Prints what
/// additions in memory do.
#[test]
#[ignore = "needs Hopper"]
fn scalar_instructions_are_ieee() {
    let gpu = subject();
    let scalars = examine_scalars(gpu.gpu(), gpu.compiler(), 1 << 20, 5).unwrap();
    for (word, name) in scalar::WORDS.iter().enumerate() {
        let (differing, all, first) = (scalars.differing[word], scalars.elements, scalars.first[word]);
        println!("{name}: {differing} of {all} differ from IEEE; first {first:X?}");
    }
    println!("additions in memory that do not flush subnormals: {:?}", &scalars.not_flushed[3..5]);
    for word in [0, 1, 2, 5, 6, 7] {
        assert_eq!(scalars.differing[word], 0, "{}: {:X?}", scalar::WORDS[word], scalars.first[word]);
    }
}

/// Breaks if one of our kernels gives one bit that the twin does not, on generated cases of every regime,
/// or breaks a property.
#[test]
#[ignore = "needs Hopper"]
fn generated_cases() {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(subject())];
    let mut options = Options::cases(60);
    options.oracle = Path::best();
    let summary = run(&Generator::new(3, Menu::gpu(), Only::default()), &mut subjects, &options, &mut |_| {}).unwrap();
    println!("{} cases, {} outputs, {} properties", summary.cases, summary.outputs, summary.properties);
    println!("{:.1?}, {:.1?}", summary.time, summary.times);
    assert!(summary.findings.is_empty(), "{:?}", summary.findings[0].fault);
    assert!(summary.cases >= 55);
}

/// Breaks if D of M, N or K of 0 is not what the twin says: nothing, or what the epilogue makes of +0.
#[test]
#[ignore = "needs Hopper"]
fn problems_without_products() {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(subject())];
    let mut options = Options::cases(60);
    options.oracle = Path::best();
    let only = Only::parse([ShapeRegime::Empty.name()]).unwrap();
    let summary = run(&Generator::new(5, Menu::gpu(), only), &mut subjects, &options, &mut |_| {}).unwrap();
    println!("{} cases, {} outputs", summary.cases, summary.outputs);
    assert!(summary.findings.is_empty(), "{:?}", summary.findings[0].fault);
    assert!(summary.cases == 60 && summary.outputs > 10_000);
}

/// Breaks if one of our kernels gives other bits than a kept case should have, in any configuration.
#[test]
#[ignore = "needs Hopper"]
fn regressions_stay_right() {
    let mut gpu = subject();
    let (files, mut configurations) = (common::files(), 0);
    assert!(files.len() >= 4, "{files:?}");
    for path in &files {
        let Regression { case, expected, .. } = common::read(path);
        match replay(&mut gpu, &case, &expected) {
            Ok(replayed) => {
                assert!(replayed.fault.is_none(), "{}: {:?}", path.display(), replayed.fault);
                configurations += replayed.configurations;
            }
            // A policy of the twin alone, say.
            Err(error @ DifftestError::Unsupported { .. }) => println!("passed over: {error}"),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    println!("{} kept cases, {configurations} runs, every bit equal, each twice", files.len());
    assert!(configurations >= files.len());
}
