//! A whole run: cases in order, subjects on each, what was found and what was covered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fp8gemm_sim::{Matrix, Path};

use crate::check::{Fault, check, compute};
use crate::coverage::Coverage;
use crate::{Case, DifftestError, Effort, Generator, Origin, Property, Subject, shrink};

/// How long a run is and what it rests on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options<'a> {
    /// Cases.
    pub cases: u64,
    /// Ends the run after this time, between two cases; the first case always runs.
    pub time: Option<Duration>,
    /// The twin's implementation that D is compared with.
    pub oracle: Path,
    /// One property for each case, besides the comparison.
    pub properties: bool,
    /// How failures are shrunk.
    pub effort: Effort,
    /// Ends the run between two cases once it is true.
    pub stop: Option<&'a AtomicBool>,
}

impl Options<'_> {
    /// So many cases against the specification, with properties.
    pub fn cases(cases: u64) -> Self {
        Self { cases, time: None, oracle: Path::Generic, properties: true, effort: Effort::default(), stop: None }
    }
}

/// A subject that is wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The subject.
    pub subject: String,
    /// The way in which it computed.
    pub configuration: String,
    /// The problem as generated, and where it came from.
    pub problem: fp8gemm_problem::Problem,
    /// Seed, number and regimes.
    pub origin: Origin,
    /// What was wrong with it.
    pub fault: Fault,
    /// The smallest case that was found to fail.
    pub case: Case,
    /// What is wrong with that one.
    pub shrunk: Fault,
    /// Cases tried while shrinking.
    pub tries: usize,
}

/// What a run found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Summary {
    /// Cases that at least one subject computed.
    pub cases: u64,
    /// Cases that no subject computes.
    pub passed_over: u64,
    /// The first rule by which one was.
    pub rule: Option<String>,
    /// Runs of a subject on a case; each is two launches.
    pub checks: u64,
    /// Elements of D compared, each launch for itself.
    pub outputs: u64,
    /// Properties checked.
    pub properties: u64,
    /// Subjects.
    pub subjects: Vec<String>,
    /// What was covered.
    pub coverage: Coverage,
    /// One for each subject at most: a subject that is wrong is not asked again.
    pub findings: Vec<Finding>,
    /// Whether the run was ended from outside.
    pub interrupted: bool,
    /// Whether it ran out of time.
    pub timed_out: bool,
    /// How long it took.
    pub time: Duration,
}

/// Runs the generator's cases on all subjects; `done` is called with the number of each finished case.
///
/// # Errors
/// [`DifftestError::Generate`], [`DifftestError::Sim`]: a case that cannot be made or predicted.
pub fn run(
    generator: &Generator,
    subjects: &mut [Box<dyn Subject>],
    options: &Options<'_>,
    done: &mut dyn FnMut(u64),
) -> Result<Summary, DifftestError> {
    let start = Instant::now();
    let mut summary = Summary {
        cases: 0,
        passed_over: 0,
        rule: None,
        checks: 0,
        outputs: 0,
        properties: 0,
        subjects: subjects.iter().map(|subject| subject.name()).collect(),
        coverage: Coverage::expecting(generator),
        findings: Vec::new(),
        interrupted: false,
        timed_out: false,
        time: Duration::ZERO,
    };
    let mut wrong = vec![false; subjects.len()];
    for index in 0..options.cases {
        summary.interrupted = options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        summary.timed_out = index > 0 && options.time.is_some_and(|time| start.elapsed() >= time);
        if summary.interrupted || summary.timed_out || wrong.iter().all(|wrong| *wrong) {
            break;
        }
        let case = generator.case(index)?;
        // A library that crashes takes this process with it: its last case is then in the log.
        tracing::debug!(%case, "case");
        let mut expected: Option<Matrix> = None;
        let mut computed: Option<Matrix> = None;
        let mut rule = None;
        for (subject, wrong) in subjects.iter_mut().zip(&mut wrong).filter(|(_, wrong)| !**wrong) {
            let mut name = String::new();
            let (mut configuration, mut several) = (0, false);
            let outcome = subject.configurations(&case.problem).and_then(|mut configurations| {
                several = configurations.len() > 1;
                // All have their turn, and not always with the same property.
                let turn = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
                configuration = (turn % configurations.len().max(1) as u64) as usize;
                if configuration < configurations.len() {
                    name = configurations.swap_remove(configuration);
                }
                let d = match &expected {
                    Some(d) => d,
                    None => expected.insert(case.twin(options.oracle)?),
                };
                Ok((check(subject.as_mut(), &case, d, configuration)?, d.clone()))
            });
            let fault = match outcome {
                Err(error) => passed_over(error, &mut rule),
                Ok((fault, d)) => {
                    summary.checks += 1;
                    summary.outputs += 2 * d.dim().0 as u64 * d.dim().1 as u64;
                    computed.get_or_insert(d.clone());
                    summary.coverage.count("configuration", &name);
                    let property = Property::ALL[(index % Property::ALL.len() as u64) as usize];
                    let applies = property.applies(&case) && (several || property != Property::Configurations);
                    if fault.is_none() && options.properties && applies {
                        match property.check(subject.as_mut(), &case, &d, configuration) {
                            Ok(fault) => {
                                summary.properties += 1;
                                summary.coverage.count("property", property);
                                fault
                            }
                            // The property's own problem may be one that the subject does not compute: then
                            // nothing was checked, and the case itself was not passed over.
                            Err(error) => passed_over(error, &mut None),
                        }
                    } else {
                        fault
                    }
                }
            };
            if let Some(fault) = fault {
                tracing::info!(%case, configuration = name, %fault, "difference");
                *wrong = true;
                summary.findings.push(shrunk(subject.as_mut(), case.clone(), configuration, name, fault, options));
            }
        }
        if let Some(d) = &computed {
            summary.cases += 1;
            summary.coverage.case(&case, d);
        } else {
            summary.passed_over += 1;
            summary.rule = summary.rule.or(rule);
        }
        done(index + 1);
    }
    summary.time = start.elapsed();
    Ok(summary)
}

/// Remembers why a subject does not compute a case; anything else is a fault of the subject.
fn passed_over(error: DifftestError, because: &mut Option<String>) -> Option<Fault> {
    match error {
        DifftestError::Unsupported { rule, .. } => {
            because.get_or_insert(rule);
            None
        }
        error => Some(Fault::Failed { reason: error.to_string() }),
    }
}

/// The finding, with its case made as small as it goes.
fn shrunk(
    subject: &mut dyn Subject,
    case: Case,
    configuration: usize,
    name: String,
    fault: Fault,
    options: &Options<'_>,
) -> Finding {
    if let Fault::Failed { .. } = fault {
        // What makes a subject fail may leave it unusable: the case is kept as it is.
        let (subject, problem, origin, tries) = (subject.name(), case.problem, case.origin, 0);
        let (configuration, shrunk) = (name, fault.clone());
        return Finding { subject, configuration, problem, origin, fault, case, shrunk, tries };
    }
    // Memory was looked at: where bits alone differ, comparing them is enough, unless they only do so with
    // C in D's place or in the second run, which plain memory does not have.
    let plainly = |subject: &mut dyn Subject, case: &Case, configuration: usize, d: &Matrix| -> Option<Fault> {
        let there = compute(subject, case, configuration).ok()?;
        let comparison = fp8gemm_sim::compare(&d.view(), &there.view()).ok()?;
        (!comparison.bits_equal()).then_some(Fault::Bits { comparison, d: there })
    };
    let plain = matches!(fault, Fault::Bits { .. })
        && case.twin(options.oracle).is_ok_and(|d| plainly(subject, &case, configuration, &d).is_some());
    // The same way of computing where the smaller problem has it, and the same kind of fault.
    let mut judge = |candidate: &Case| -> Option<Fault> {
        if options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return None;
        }
        let configurations = subject.configurations(&candidate.problem).ok()?;
        let configuration = configurations.iter().position(|other| *other == name).unwrap_or(configuration);
        if configuration >= configurations.len().max(1) {
            return None;
        }
        let d = candidate.twin(options.oracle).ok()?;
        let found = match &fault {
            Fault::Property { property, .. } => {
                if !property.applies(candidate) {
                    return None;
                }
                property.check(subject, candidate, &d, configuration).ok()?
            }
            Fault::Bits { .. } if plain => plainly(subject, candidate, configuration, &d),
            _ => check(subject, candidate, &d, configuration).ok()?,
        };
        found.filter(|found| found.kind() == fault.kind())
    };
    // What the smallest case showed when it was tried: a race need not show itself again.
    let mut last = fault.clone();
    let (small, tries) = shrink(&case, options.effort, |candidate| match judge(candidate) {
        Some(found) => {
            last = found;
            true
        }
        None => false,
    });
    let subject_name = subject.name();
    Finding {
        subject: subject_name,
        configuration: name,
        problem: case.problem,
        origin: case.origin,
        fault,
        case: small,
        shrunk: last,
        tries,
    }
}
