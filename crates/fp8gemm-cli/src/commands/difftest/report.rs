//! The summary of a run, to people and as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use fp8gemm::sim::Path;
use fp8gemm_difftest::{Finding, Summary, Times};
use serde::Serialize;

use super::CaseArgs;
use crate::commands::{bad, good};
use crate::text::{Number, count, duration, grouped, list, path_name, table};

/// The result of `difftest`, in the form of its JSON document.
#[derive(Serialize)]
pub(super) struct Report {
    command: &'static str,
    /// What is tested: `hopper`, `twin` or `external`.
    engine: &'static str,
    subjects: Vec<String>,
    /// What D is compared with: the twin's implementation.
    oracle: &'static str,
    seed: u64,
    only: Vec<String>,
    cases: u64,
    passed_over: u64,
    /// Runs of a subject on a case, each of two launches.
    checks: u64,
    /// Elements of D compared, of both launches.
    outputs: u64,
    properties: u64,
    equal: bool,
    interrupted: bool,
    timed_out: bool,
    coverage: BTreeMap<&'static str, BTreeMap<String, u64>>,
    corner_outputs: Corners,
    /// Kinds of cases that were asked for and did not come up.
    gaps: Vec<String>,
    findings: Vec<FindingReport>,
    seconds: Number,
    #[serde(skip)]
    time: String,
    #[serde(skip)]
    rule: Option<String>,
    /// Where the time went.
    #[serde(skip)]
    parts: String,
}

#[derive(Serialize)]
struct Corners {
    nan: u64,
    infinite: u64,
    zero: u64,
    negative_zero: u64,
    subnormal: u64,
}

#[derive(Serialize)]
struct FindingReport {
    subject: String,
    configuration: String,
    seed: u64,
    index: u64,
    regimes: String,
    problem: String,
    fault: &'static str,
    what: String,
    shrunk_problem: String,
    shrunk_what: String,
    /// Where it is kept; null if it could not be written.
    file: Option<String>,
    #[serde(skip)]
    policy: String,
}

impl FindingReport {
    fn new(finding: &Finding, file: Option<&PathBuf>) -> Self {
        let origin = finding.origin;
        Self {
            subject: finding.subject.clone(),
            configuration: finding.configuration.clone(),
            seed: origin.seed,
            index: origin.index,
            regimes: origin.regimes(),
            problem: finding.problem.to_string(),
            fault: finding.fault.kind(),
            what: finding.fault.to_string(),
            shrunk_problem: finding.case.problem.to_string(),
            shrunk_what: finding.shrunk.to_string(),
            file: file.map(|file| file.display().to_string()),
            policy: finding.case.problem.policy.to_string(),
        }
    }
}

impl Report {
    pub(super) fn new(
        engine: &'static str,
        oracle: Path,
        cases: &CaseArgs,
        summary: &Summary,
        files: &[Option<PathBuf>],
        jobs: usize,
    ) -> Self {
        let specials = summary.coverage.specials;
        Self {
            command: "difftest",
            engine,
            subjects: summary.subjects.clone(),
            oracle: path_name(oracle),
            seed: cases.seed,
            only: cases.only.clone(),
            cases: summary.cases,
            passed_over: summary.passed_over,
            checks: summary.checks,
            outputs: summary.outputs,
            properties: summary.properties,
            equal: summary.findings.is_empty(),
            interrupted: summary.interrupted,
            timed_out: summary.timed_out,
            coverage: summary.coverage.counts.clone(),
            corner_outputs: Corners {
                nan: specials.nan,
                infinite: specials.infinite,
                zero: specials.zero,
                negative_zero: specials.negative_zero,
                subnormal: specials.subnormal,
            },
            gaps: summary.coverage.gaps(),
            findings: summary
                .findings
                .iter()
                .zip(files)
                .map(|(f, file)| FindingReport::new(f, file.as_ref()))
                .collect(),
            seconds: Number(summary.time.as_secs_f64()),
            time: duration(summary.time),
            rule: summary.rule.clone(),
            parts: parts(&summary.times, jobs),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, what: String| rows.push(vec![name.to_owned(), what]);
        row("tested", self.subjects.join(", "));
        row("against", format!("the CPU twin ({})", self.oracle));
        let mut cases = format!("{}, seed {}", grouped(self.cases), self.seed);
        if self.passed_over > 0 {
            let rule = self.rule.clone().unwrap_or_default();
            cases += &format!("; {} passed over ({rule})", grouped(self.passed_over));
        }
        row("cases", cases);
        row("outputs", format!("{} compared, each case run twice", grouped(self.outputs)));
        row("properties", format!("{} checked", grouped(self.properties)));
        for (family, counts) in &self.coverage {
            row(family, coverage_text(counts));
        }
        let Corners { nan, infinite, zero, negative_zero, subnormal } = self.corner_outputs;
        let corners =
            [("NaN", nan), ("infinite", infinite), ("+0", zero), ("-0", negative_zero), ("subnormal", subnormal)];
        row("corner outputs", corners.map(|(name, number)| format!("{name} {}", grouped(number))).join(", "));
        row("time", self.parts.clone());
        // A run that ended early has gaps of course.
        if !self.gaps.is_empty() && self.equal && !self.interrupted && !self.timed_out {
            row("not covered", self.gaps.join(", "));
        }
        let mut text = format!("difftest, engine {}\n{}\n", self.engine, table(2, &rows));
        for finding in &self.findings {
            text += &format!(
                "{}: {}, seed {} case {} ({})\n",
                bad("DIFFERENT"),
                finding.subject,
                finding.seed,
                finding.index,
                finding.regimes
            );
            let mut rows = vec![
                vec!["configuration".to_owned(), finding.configuration.clone()],
                vec!["problem".to_owned(), finding.problem.clone()],
                vec![finding.fault.to_owned(), finding.what.clone()],
                vec!["shrunk to".to_owned(), finding.shrunk_problem.clone()],
                vec![finding.fault.to_owned(), finding.shrunk_what.clone()],
            ];
            if let Some(file) = &finding.file {
                rows.push(vec!["kept as".to_owned(), file.clone()]);
                if finding.fault == "bits" || finding.fault == "unstable" {
                    let policy = &finding.policy;
                    rows.push(vec!["try".to_owned(), format!("fp8gemm verify {file} --policy {policy}")]);
                }
            }
            text += &table(2, &rows);
        }
        let end = match (self.interrupted, self.timed_out) {
            (true, _) => " (interrupted)",
            (_, true) => " (time is up)",
            _ => "",
        };
        if self.equal {
            let (checks, outputs) = (count(self.checks, "run"), count(self.outputs, "output"));
            text += &format!(
                "{}: {outputs} of {checks}, bit for bit, nothing else written ({}){end}\n",
                good("EQUAL"),
                self.time
            );
        } else {
            let wrong: Vec<&str> = self.findings.iter().map(|finding| finding.subject.as_str()).collect();
            text += &format!("{}: {} ({}){end}\n", bad("DIFFERENT"), list(&wrong), self.time);
        }
        text
    }
}

/// Seconds of each part of a run: of all threads that make cases, then of the one that runs subjects.
fn parts(times: &Times, jobs: usize) -> String {
    let Times { generating, twin, preparing, subjects, waiting, .. } = *times;
    let [generating, twin, preparing, subjects, waiting] =
        [generating, twin, preparing, subjects, waiting].map(duration);
    let compiling = format!("compiling {preparing}, ");
    let compiling = if times.preparing < Duration::from_millis(10) { String::new() } else { compiling };
    format!(
        "{compiling}twin {twin}, data {generating} on {}; what is tested {subjects}, waiting for cases {waiting}",
        count(jobs as u64, "thread")
    )
}

/// Names with counts, or where there are many, how many.
fn coverage_text(counts: &BTreeMap<String, u64>) -> String {
    const SHOWN: usize = 24;
    let covered: Vec<_> = counts.iter().filter(|(_, number)| **number > 0).collect();
    if covered.len() > SHOWN {
        let least = covered.iter().map(|(_, number)| **number).min().unwrap_or(0);
        return format!("{} kinds, each at least {} times", covered.len(), grouped(least));
    }
    covered.iter().map(|(name, number)| format!("{name} {}", grouped(**number))).collect::<Vec<_>>().join(", ")
}
