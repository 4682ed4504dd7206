//! A whole run: cases in order, subjects on each, what was found and what was covered.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fp8gemm_problem::Problem;
use fp8gemm_sim::Path;

use crate::ahead::Ahead;
use crate::check::{Fault, check};
use crate::coverage::Coverage;
use crate::maker::{Made, Maker, Predicted, turn};
use crate::{Alignment, Buffers, Case, DifftestError, Effort, Finding, Generator, Property, Subject, Times};

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
    /// Threads that make cases ahead of their turn, beside the one that runs subjects; with 0 it makes each
    /// itself. Changes nothing but the time (and the memory: up to two cases wait for each thread).
    pub jobs: usize,
}

impl Options<'_> {
    /// So many cases against the specification, with properties; a thread makes cases for each core but one,
    /// at most 32.
    pub fn cases(cases: u64) -> Self {
        let (properties, effort) = (true, Effort::default());
        // One core is for the subjects.
        let jobs = thread::available_parallelism().map_or(1, NonZeroUsize::get).saturating_sub(1).clamp(1, 32);
        Self { cases, time: None, oracle: Path::Generic, properties, effort, stop: None, jobs }
    }
}

/// What happens in a run, as it happens.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// So many cases are done.
    Done(u64),
    /// A subject is wrong; the case is as it was generated.
    Found(&'a Finding),
    /// The same finding, with its case made smaller.
    Shrunk(&'a Finding),
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
    /// Where that time went.
    pub times: Times,
}

/// Runs the generator's cases on all subjects; `tell` hears of each finished case and each finding at once.
///
/// # Errors
/// [`DifftestError::Generate`], [`DifftestError::Sim`]: a case that cannot be made or predicted.
pub fn run(
    generator: &Generator,
    subjects: &mut [Box<dyn Subject>],
    options: &Options<'_>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, DifftestError> {
    let start = Instant::now();
    let (oracle, properties) = (options.oracle, options.properties);
    let preparers = subjects.iter().map(|subject| subject.preparer()).collect();
    let maker = Maker { generator, oracle, properties, preparers };
    let mut run = Run {
        options,
        wrong: vec![false; subjects.len()],
        summary: Summary {
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
            times: Times::default(),
        },
        tell,
    };
    Ahead::run(&maker, options.cases, options.jobs, |ahead| {
        for index in 0..options.cases {
            run.summary.interrupted = options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
            run.summary.timed_out = index > 0 && options.time.is_some_and(|time| start.elapsed() >= time);
            if run.summary.interrupted || run.summary.timed_out || run.wrong.iter().all(|wrong| *wrong) {
                break;
            }
            run.case(ahead.take(index)?, subjects)?;
            (run.tell)(Event::Done(index + 1));
        }
        Ok::<(), DifftestError>(())
    })?;
    run.summary.time = start.elapsed();
    Ok(run.summary)
}

/// A run so far.
struct Run<'a, 'b> {
    options: &'a Options<'b>,
    /// Subjects that are not asked again.
    wrong: Vec<bool>,
    summary: Summary,
    tell: &'a mut dyn for<'e> FnMut(Event<'e>),
}

/// What a subject did with a case.
struct Outcome {
    configuration: usize,
    name: String,
    fault: Option<Fault>,
}

impl Run<'_, '_> {
    /// One case on every subject that is not known to be wrong.
    fn case(&mut self, made: Made, subjects: &mut [Box<dyn Subject>]) -> Result<(), DifftestError> {
        let Made { case, mut twin, times } = made;
        self.summary.times.add(times);
        // A library that crashes takes this process with it: its last case is then in the log.
        tracing::debug!(%case, "case");
        let (mut computed, mut rule) = (false, None);
        for (number, subject) in subjects.iter_mut().enumerate() {
            if self.wrong[number] {
                continue;
            }
            let mut subject = Timed { subject: subject.as_mut(), time: Duration::ZERO };
            let outcome = match self.outcome(&mut subject, &case, &mut twin) {
                Ok(outcome) => {
                    computed = true;
                    Some(outcome)
                }
                // The case's own, not the subject's.
                Err(error @ DifftestError::Sim(_)) => return Err(error),
                Err(error) => passed_over(error, &mut rule).map(|fault| Outcome {
                    configuration: 0,
                    name: subject.name(),
                    fault: Some(fault),
                }),
            };
            if let Some(Outcome { configuration, name, fault: Some(fault) }) = outcome {
                tracing::info!(%case, configuration = name, %fault, "difference");
                self.wrong[number] = true;
                let finding = Finding::new(subject.name(), name, case.clone(), fault);
                (self.tell)(Event::Found(&finding));
                let finding = finding.shrunk(&mut subject, configuration, self.options);
                (self.tell)(Event::Shrunk(&finding));
                self.summary.findings.push(finding);
            }
            self.summary.times.subjects += subject.time;
        }
        if let Some(Predicted { specials, .. }) = twin.filter(|_| computed) {
            self.summary.cases += 1;
            self.summary.coverage.case(&case, specials);
        } else {
            self.summary.passed_over += 1;
            self.summary.rule = self.summary.rule.take().or(rule);
        }
        Ok(())
    }

    /// One case on one subject.
    fn outcome(
        &mut self,
        subject: &mut dyn Subject,
        case: &Case,
        twin: &mut Option<Predicted>,
    ) -> Result<Outcome, DifftestError> {
        let mut configurations = subject.configurations(&case.problem)?;
        let several = configurations.len() > 1;
        let index = case.origin.index;
        let configuration = turn(index, configurations.len());
        let name = if configuration < configurations.len() {
            configurations.swap_remove(configuration)
        } else {
            String::new()
        };
        let d = match twin {
            Some(predicted) => &predicted.d,
            None => &twin.insert(Predicted::new(case.twin(self.options.oracle)?)).d,
        };
        let outcome = |fault| Outcome { configuration, name: name.clone(), fault };
        let fault = match check(subject, case, d, configuration) {
            Err(error @ (DifftestError::Unsupported { .. } | DifftestError::Sim(_))) => return Err(error),
            Err(error) => return Ok(outcome(Some(Fault::Failed { reason: error.to_string() }))),
            Ok(fault) => fault,
        };
        self.summary.checks += 1;
        self.summary.outputs += 2 * d.dim().0 as u64 * d.dim().1 as u64;
        self.summary.coverage.count("configuration", &name);
        let property = Property::of_turn(index);
        let applies = property.applies(case) && (several || property != Property::Configurations);
        if fault.is_some() || !self.options.properties || !applies {
            return Ok(outcome(fault));
        }
        match property.check(subject, case, d, configuration) {
            Ok(fault) => {
                self.summary.properties += 1;
                self.summary.coverage.count("property", property);
                Ok(outcome(fault))
            }
            // The property's own problem may be one that the subject does not compute: then nothing was
            // checked, and the case itself was not passed over.
            Err(error) => Ok(outcome(passed_over(error, &mut None))),
        }
    }
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

/// A subject whose runs are timed.
struct Timed<'a> {
    subject: &'a mut dyn Subject,
    time: Duration,
}

impl Subject for Timed<'_> {
    fn name(&self) -> String {
        self.subject.name()
    }

    fn alignment(&self, problem: &Problem) -> Alignment {
        self.subject.alignment(problem)
    }

    fn configurations(&mut self, problem: &Problem) -> Result<Vec<String>, DifftestError> {
        self.subject.configurations(problem)
    }

    fn run(&mut self, problem: &Problem, configuration: usize, buffers: &mut Buffers) -> Result<(), DifftestError> {
        let start = Instant::now();
        let result = self.subject.run(problem, configuration, buffers);
        self.time += start.elapsed();
        result
    }
}
