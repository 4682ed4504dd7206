//! One case with all that is known before a subject runs it: data, the twin's D, and what subjects can prepare.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fp8gemm_problem::Problem;
use fp8gemm_sim::{Matrix, Path};
use rayon::ThreadPool;

use crate::check::Specials;
use crate::{Case, DifftestError, Generator, Property};

/// What a subject can have done for a problem before its turn, on other threads while it runs another one:
/// compiling kernels, say.
pub trait Prepare: Send + Sync {
    /// In how many ways the subject computes this problem, as
    /// [`Subject::configurations`](crate::Subject::configurations) says; 0 where it does not.
    fn configurations(&self, problem: &Problem) -> usize;

    /// Does the first part of the subject's run of this problem in this way, and keeps what comes of it for
    /// the run. What fails here is left to the run, which does it again and says so.
    fn prepare(&self, problem: &Problem, configuration: usize);
}

/// Where the time of a run went. Parts that several threads do at once are sums over the threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// Making the data of cases.
    pub generating: Duration,
    /// The twin's D of each case (not of properties).
    pub twin: Duration,
    /// What subjects had prepared: compiling kernels.
    pub preparing: Duration,
    /// The subjects' own runs, of properties and of shrinking too.
    pub subjects: Duration,
    /// The running thread waited for a case to be made.
    pub waiting: Duration,
}

/// A case, and all that is known before a subject runs it.
pub(crate) struct Made {
    pub(crate) case: Case,
    /// The twin's D; `None` where every subject says beforehand that it does not compute the case.
    pub(crate) twin: Option<Predicted>,
    /// What making it took.
    pub(crate) times: Times,
}

/// The twin's D.
pub(crate) struct Predicted {
    pub(crate) d: Matrix,
    pub(crate) specials: Specials,
}

impl Predicted {
    pub(crate) fn new(d: Matrix) -> Self {
        Self { specials: Specials::of(&d), d }
    }
}

impl Times {
    pub(crate) fn add(&mut self, other: Self) {
        self.generating += other.generating;
        self.twin += other.twin;
        self.preparing += other.preparing;
        self.subjects += other.subjects;
        self.waiting += other.waiting;
    }
}

/// Makes cases of a run.
pub(crate) struct Maker<'a> {
    pub(crate) generator: &'a Generator,
    pub(crate) oracle: Path,
    pub(crate) properties: bool,
    /// One for each subject.
    pub(crate) preparers: Vec<Option<Arc<dyn Prepare>>>,
}

impl Maker<'_> {
    /// All of one case. `go_on` is asked between steps that take long: what is left out is only slower.
    pub(crate) fn make(
        &self,
        index: u64,
        pool: Option<&ThreadPool>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Made, DifftestError> {
        let mut times = Times::default();
        let start = Instant::now();
        let case = self.generator.case(index)?;
        times.generating = start.elapsed();
        let start = Instant::now();
        let mut anybody = false;
        for preparer in &self.preparers {
            let Some(preparer) = preparer else {
                anybody = true;
                continue;
            };
            let count = preparer.configurations(&case.problem);
            if count > 0 {
                anybody = true;
                self.prepare(preparer.as_ref(), &case, turn(index, count), count, go_on);
            }
        }
        times.preparing = start.elapsed();
        let start = Instant::now();
        let twin = if anybody && go_on() {
            let d = match pool {
                Some(pool) => pool.install(|| case.twin(self.oracle))?,
                None => case.twin(self.oracle)?,
            };
            Some(Predicted::new(d))
        } else {
            None
        };
        times.twin = start.elapsed();
        Ok(Made { case, twin, times })
    }

    fn prepare(
        &self,
        preparer: &dyn Prepare,
        case: &Case,
        configuration: usize,
        count: usize,
        go_on: &dyn Fn() -> bool,
    ) {
        preparer.prepare(&case.problem, configuration);
        let property = Property::of_turn(case.origin.index);
        if !self.properties || !property.applies(case) {
            return;
        }
        // A case that the property cannot make of this one is told of when the property is checked.
        for (problem, configuration) in property.runs(case, configuration, count).unwrap_or_default() {
            let count = preparer.configurations(&problem);
            if count > 0 && go_on() {
                preparer.prepare(&problem, configuration % count);
            }
        }
    }
}

/// Which of so many configurations a case is run in: all have their turn, and not always with the same
/// property.
pub(crate) fn turn(index: u64, configurations: usize) -> usize {
    let turn = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    (turn % configurations.max(1) as u64) as usize
}
