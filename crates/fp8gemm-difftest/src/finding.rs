//! A subject that is wrong: the case that showed it, and the smallest one that was found to.

use std::sync::atomic::Ordering;

use fp8gemm_problem::Problem;
use fp8gemm_sim::Matrix;

use crate::check::{Fault, check, compute};
use crate::{Case, Options, Origin, Subject, shrink};

/// A subject that is wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The subject.
    pub subject: String,
    /// The way in which it computed.
    pub configuration: String,
    /// The problem as generated, and where it came from.
    pub problem: Problem,
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

impl Finding {
    /// As it was found, before anything is made smaller.
    pub(crate) fn new(subject: String, configuration: String, case: Case, fault: Fault) -> Self {
        let (problem, origin, shrunk) = (case.problem, case.origin, fault.clone());
        Self { subject, configuration, problem, origin, fault, case, shrunk, tries: 0 }
    }

    /// The same with its case made as small as it goes; `configuration` is the number of the one in which
    /// it was found.
    pub(crate) fn shrunk(self, subject: &mut dyn Subject, configuration: usize, options: &Options<'_>) -> Self {
        let (fault, name, case) = (&self.fault, &self.configuration, &self.case);
        if let Fault::Failed { .. } = fault {
            // What makes a subject fail may leave it unusable: the case is kept as it is.
            return self;
        }
        // Memory was looked at: where bits alone differ, comparing them is enough, unless they only do so with
        // C in D's place or in the second run, which plain memory does not have.
        let plainly = |subject: &mut dyn Subject, case: &Case, configuration: usize, d: &Matrix| -> Option<Fault> {
            let there = compute(subject, case, configuration).ok()?;
            let comparison = fp8gemm_sim::compare(&d.view(), &there.view()).ok()?;
            (!comparison.bits_equal()).then_some(Fault::Bits { comparison, d: there })
        };
        let plain = matches!(fault, Fault::Bits { .. })
            && case.twin(options.oracle).is_ok_and(|d| plainly(subject, case, configuration, &d).is_some());
        // The same way of computing where the smaller problem has it, and the same kind of fault.
        let mut judge = |candidate: &Case| -> Option<Fault> {
            if options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return None;
            }
            let configurations = subject.configurations(&candidate.problem).ok()?;
            let configuration = configurations.iter().position(|other| *other == *name).unwrap_or(configuration);
            if configuration >= configurations.len().max(1) {
                return None;
            }
            let d = candidate.twin(options.oracle).ok()?;
            let found = match fault {
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
        let (small, tries) = shrink(case, options.effort, |candidate| match judge(candidate) {
            Some(found) => {
                last = found;
                true
            }
            None => false,
        });
        Self { case: small, shrunk: last, tries, ..self }
    }
}
