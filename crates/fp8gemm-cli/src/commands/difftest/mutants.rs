//! `fp8gemm difftest mutants`: how many cases it takes to find each wrong kernel.

use std::path::PathBuf;

use clap::Args;
use fp8gemm_difftest::mutants::{Mutant, Score, score};
use fp8gemm_difftest::{Menu, Options, Subject, run as run_cases};
use serde::Serialize;

use super::{CaseArgs, case_file};
use crate::commands::{DIFFERENT, SUCCESS, bad, good, print};
use crate::engine::Progress;
use crate::error::{CliError, note};
use crate::text::{count, table};

#[derive(Debug, Args)]
pub(super) struct MutantsArgs {
    #[command(flatten)]
    cases: CaseArgs,
    /// Keep a shrunk case of each mutant in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only mutants whose name contains this
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    seed: u64,
    cases: u64,
    equal: bool,
    mutants: Vec<MutantReport>,
}

#[derive(Serialize)]
struct MutantReport {
    part: &'static str,
    name: &'static str,
    /// Cases until it was found; null if it survived.
    found_after: Option<u64>,
    regimes: Option<String>,
    problem: Option<String>,
    differing: Option<usize>,
    elements: Option<usize>,
    file: Option<String>,
}

impl MutantReport {
    fn new(score: &Score) -> Self {
        let found = score.found.as_ref();
        Self {
            part: score.part.name(),
            name: score.name,
            found_after: found.map(|found| found.cases),
            regimes: found.map(|found| found.origin.regimes()),
            problem: found.map(|found| found.problem.to_string()),
            differing: found.map(|found| found.differing),
            elements: found.map(|found| found.elements),
            file: None,
        }
    }
}

/// Runs the command: [`SUCCESS`] only if every mutant is found.
pub(super) fn run(args: &MutantsArgs, json: bool) -> Result<u8, CliError> {
    let mut mutants = Mutant::all();
    if let Some(text) = &args.name {
        mutants.retain(|mutant| mutant.name().contains(text.as_str()));
        if mutants.is_empty() {
            let names: Vec<&str> = Mutant::all().iter().map(Mutant::name).collect();
            let all = names.join(", ");
            return Err(CliError::Usage(format!("--name {text}: no mutant's name contains it; there are {all}")));
        }
    }
    if let Some(folder) = &args.out {
        case_file::ready(folder)?;
    }
    let generator = args.cases.generator(Menu::kernels())?;
    let progress = Progress::new("mutants", mutants.len() as u128);
    let mut before = 0;
    let scores = score(&generator, &mutants, args.cases.cases, &mut |found| {
        progress.advance((found - before) as u64);
        before = found;
    })?;
    progress.finish();
    let mut reports: Vec<MutantReport> = scores.iter().map(MutantReport::new).collect();
    if let Some(folder) = &args.out {
        for (mutant, report) in mutants.into_iter().zip(&mut reports) {
            let Some(cases) = report.found_after else { continue };
            // Through the runner, as any other subject; properties find nothing that bits do not.
            let mut options = Options::cases(cases);
            options.oracle = fp8gemm::sim::Path::best();
            options.properties = false;
            let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(mutant)];
            let summary = run_cases(&generator, &mut subjects, &options, &mut |_| {})?;
            match summary.findings.first() {
                Some(finding) => report.file = Some(case_file::keep(folder, finding)?.display().to_string()),
                None => note(format!("mutant {} was not found again", report.name)),
            }
        }
    }
    let survivors = reports.iter().filter(|report| report.found_after.is_none()).count();
    let report = Report {
        command: "difftest mutants",
        seed: args.cases.seed,
        cases: args.cases.cases,
        equal: survivors == 0,
        mutants: reports,
    };
    print(json, &report, || report.text())?;
    Ok(if survivors == 0 { SUCCESS } else { DIFFERENT })
}

impl Report {
    fn text(&self) -> String {
        let head = ["part", "mutant", "found after", "differing", "case"].map(str::to_owned).to_vec();
        let mut rows = vec![head];
        for mutant in &self.mutants {
            let found = mutant.found_after.map_or_else(|| "survived".to_owned(), |cases| count(cases, "case"));
            let share = match (mutant.differing, mutant.elements) {
                (Some(differing), Some(elements)) => format!("{differing} of {elements}"),
                _ => "-".to_owned(),
            };
            let regimes = mutant.regimes.clone().unwrap_or_default();
            rows.push(vec![mutant.part.to_owned(), mutant.name.to_owned(), found, share, regimes]);
        }
        let mut text = format!("wrong kernels on the cases of seed {}\n{}\n", self.seed, table(2, &rows));
        for mutant in &self.mutants {
            if let Some(file) = &mutant.file {
                text += &format!("  kept: {file}\n");
            }
        }
        let all = self.mutants.len();
        let found = self.mutants.iter().filter(|mutant| mutant.found_after.is_some()).count();
        let most = self.mutants.iter().filter_map(|mutant| mutant.found_after).max().unwrap_or(0);
        let verdict = if found == all { good("ALL FOUND") } else { bad("SURVIVORS") };
        text + &format!(
            "{verdict}: {found} of {all} mutants in at most {}\n",
            count(most.max(if found == all { most } else { self.cases }), "case")
        )
    }
}
