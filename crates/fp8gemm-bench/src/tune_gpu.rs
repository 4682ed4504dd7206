//! The measurements of tuning, on a GPU.

use std::sync::Arc;

use fp8gemm_hopper::{HopperError, Plan};
use fp8gemm_jit::KernelConfig;
use fp8gemm_jit::catalog::Entry;
use fp8gemm_jit::sass::Interleave;
use fp8gemm_problem::Problem;

use crate::check::Expected;
use crate::cold::wait;
use crate::inputs::{Operand, Pattern};
use crate::memory::{Buffer, check_fits};
use crate::nvml::Readings;
use crate::stats::Times;
use crate::subject::{Subject, empty_d, stride_of_d};
use crate::tune::{Measure, Variant};
use crate::{BenchError, Session};

/// Compiles configurations of a problem into the session's cache; for each, why not.
pub type Compile<'a> = Box<dyn FnMut(&Problem, &[KernelConfig]) -> Result<Vec<Option<String>>, BenchError> + 'a>;

/// A session that tunes: cold by its flush, warm by repetition, `repeat` runs of each.
pub struct GpuMeasure<'a> {
    session: &'a Session,
    compile: Compile<'a>,
    current: Option<Current>,
}

/// What all candidates of a problem have in common.
struct Current {
    problem: Problem,
    operands: [Operand; 2],
    expected: Expected,
    d: Arc<Buffer>,
    /// Values of C, where they are read.
    pattern: Option<Buffer>,
    /// A subject whose buffers others share.
    first: Option<Subject<'static>>,
}

impl<'a> GpuMeasure<'a> {
    /// The session must have been opened for the cold regime, which it is by default.
    pub fn new(session: &'a Session, compile: Compile<'a>) -> Self {
        Self { session, compile, current: None }
    }

    /// The operands on the GPU and the twin's rows, made anew where the problem is another one.
    fn current(&mut self, problem: &Problem) -> Result<&mut Current, BenchError> {
        let stream = &self.session.stream;
        let fresh = match self.current.take() {
            Some(current) if current.problem == *problem => current,
            // The former buffers are free before the next are there.
            former => {
                drop(former);
                let a = Operand::random(problem.a, problem.m, problem.k, 1)?;
                let b = Operand::random(problem.b, problem.n, problem.k, 2)?;
                let pattern = Pattern::random(3);
                let expected = Expected::new(problem, [&a, &b], &pattern)?;
                let encoded = || Buffer::upload(stream, &crate::check::encode(problem.d, &pattern.0));
                let pattern = problem.epilogue.reads_c().then(encoded).transpose()?;
                let d = Arc::new(empty_d(stream, problem)?);
                Current { problem: *problem, operands: [a, b], expected, d, pattern, first: None }
            }
        };
        Ok(self.current.insert(fresh))
    }

    /// A kernel bound to the problem's buffers.
    fn subject(&mut self, problem: &Problem, (config, pattern): Variant) -> Result<Subject<'static>, BenchError> {
        let session = self.session;
        let plan = Plan::with_interleave(&session.gpu, &session.compiler, problem, config, pattern)?;
        let current = self.current(problem)?;
        if let Some(first) = &current.first
            && let Some(subject) = first.with_plan(&session.stream, &plan)?
        {
            return Ok(subject);
        }
        let operands = [&current.operands[0], &current.operands[1]];
        let subject = Subject::ours(&session.stream, plan, operands, Arc::clone(&current.d))?;
        current.first = Some(subject.with_sets(vec![subject.buffers().clone()])?);
        Ok(subject)
    }
}

impl Measure for GpuMeasure<'_> {
    fn compile(&mut self, problem: &Problem, configs: &[KernelConfig]) -> Result<Vec<Option<String>>, BenchError> {
        // Before the compiler and the host work for nothing.
        if self.current.as_ref().is_none_or(|current| current.problem != *problem) {
            self.current = None;
            check_fits(&self.session.stream, problem)?;
        }
        (self.compile)(problem, configs)
    }

    fn patterns(&mut self, config: &KernelConfig) -> Result<Vec<Interleave>, BenchError> {
        let entry = Entry::Gemm(*config);
        let (source, name) = (entry.source(), entry.to_string());
        Ok(self.session.compiler.patterns(&entry.unit(&source, &name)).map_err(HopperError::Jit)?)
    }

    fn check(&mut self, problem: &Problem, variant: Variant) -> Result<(), BenchError> {
        let subject = self.subject(problem, variant)?;
        let stream = &self.session.stream;
        let current = self.current(problem)?;
        // What the candidate before wrote must not pass for this one's.
        match &current.pattern {
            Some(pattern) => current.d.tile(stream, pattern)?,
            None => current.d.fill(stream, 0xFF)?,
        }
        subject.launch(0, stream)?;
        wait(stream)?;
        let size = problem.d.size();
        let row = |row| current.d.download(stream, row * stride_of_d(problem) * size, problem.n * size);
        current.expected.compare(&subject.detail, row)?;
        Ok(())
    }

    fn time(&mut self, problem: &Problem, variants: &[Variant]) -> Result<Vec<(f64, f64)>, BenchError> {
        let subjects = variants.iter().map(|variant| self.subject(problem, *variant)).collect::<Result<Vec<_>, _>>()?;
        let subjects: Vec<_> = subjects.iter().collect();
        let Session { stream, timer, flush, monitor, options, .. } = self.session;
        let flush = flush.as_ref().ok_or(BenchError::Option {
            option: "cold",
            value: "false".to_owned(),
            rule: "tuning needs a session with the cold regime",
        })?;
        let (repeat, monitor) = (options.repeat, monitor.as_ref().ok());
        let cold = timer.cold(stream, &subjects, flush, repeat, monitor, &mut Readings::default())?;
        let warm = timer.warm(stream, &subjects, repeat)?;
        let median = |times: &Vec<f64>| Times::of(times).map_or(f64::INFINITY, |times| times.median);
        Ok(cold.iter().zip(&warm).map(|(cold, warm)| (median(cold), median(warm))).collect())
    }
}
