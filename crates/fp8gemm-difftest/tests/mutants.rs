//! The suite scored: every wrong kernel must be found by the generated cases.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use fp8gemm_difftest::mutants::{Mutant, score};
use fp8gemm_difftest::{Effort, Fault, Generator, Menu, Only, Options, Subject, TwinPath, run};

/// Breaks if generated cases do not expose some wrong kernel: a kernel with that mistake would pass.
#[test]
fn every_mutant_is_found() {
    const CASES: u64 = 300;
    let generator = Generator::new(0, Menu::kernels(), Only::default());
    let scores = score(&generator, &Mutant::all(), CASES, &mut |_| {}).unwrap();
    for score in &scores {
        match &score.found {
            Some(found) => {
                let (name, part, cases, differing) = (score.name, score.part.name(), found.cases, found.differing);
                println!("| {part} | {name} | {cases} | {differing} of {} | {} |", found.elements, found.origin);
            }
            None => println!("| {} | {} | survived |", score.part.name(), score.name),
        }
    }
    let survivors: Vec<&str> = scores.iter().filter(|score| score.found.is_none()).map(|score| score.name).collect();
    assert!(survivors.is_empty(), "not found in {CASES} cases: {survivors:?}");
}

/// Breaks if the runner misses a wrong subject, names the wrong one, or leaves its case large.
#[test]
fn findings_are_small() {
    for name in ["zero products in max", "C ignored", "scales applied one after the other", "cast toward zero"] {
        let mutant = Mutant::all().into_iter().find(|mutant| mutant.name() == name).unwrap();
        let mut subjects: Vec<Box<dyn Subject>> = TwinPath::all()
            .into_iter()
            .map(|path| Box::new(path) as Box<dyn Subject>)
            .chain([Box::new(mutant) as Box<dyn Subject>])
            .collect();
        let mut options = Options::cases(60);
        options.effort = Effort { time: Duration::from_secs(60), ..Effort::default() };
        let generator = Generator::new(0, Menu::kernels(), Only::default());
        let summary = run(&generator, &mut subjects, &options, &mut |_| {}).unwrap();
        let [finding] = &summary.findings[..] else { panic!("{name}: {} findings", summary.findings.len()) };
        assert_eq!(finding.subject, format!("mutant: {name}"));
        let p = finding.case.problem;
        let codes = finding.case.a.codes().iter().filter(|code| **code != 0).count();
        println!(
            "{name}: {} from {}, {codes} codes of A, {} tries: {}",
            p, finding.problem, finding.tries, finding.shrunk
        );
        assert!(matches!(finding.shrunk, Fault::Bits { .. }), "{}", finding.shrunk);
        assert!(p.m * p.n == 1 && codes <= 8, "{name}: {p} with {codes} codes of A");
    }
}
