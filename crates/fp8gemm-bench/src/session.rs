//! A GPU with everything that is needed to time on it, and one problem's turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use fp8gemm_hopper::{Gpu, Plan};
use fp8gemm_jit::Compiler;
use fp8gemm_problem::{Problem, ScaleLayout};

use crate::cold::{Timer, wait};
use crate::cublaslt::CublasLt;
use crate::inputs::{Operand, Pattern};
use crate::memory::Buffer;
use crate::nvml::{Monitor, Readings};
use crate::report::{Entry, Machine, Row};
use crate::shapes::Shape;
use crate::stats::Times;
use crate::subject::{Subject, block_buffers, initial_d, tensor_buffers};
use crate::{BenchError, check, configuration, graph, sustained};

/// What is measured and how.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// After a flush of the L2 cache: the regime of the recorded times.
    pub cold: bool,
    /// Back to back.
    pub sustained: bool,
    /// A CUDA graph of launches with different weights.
    pub graph: bool,
    /// Runs of each rival in the cold regime, replays in the graph regime.
    pub repeat: usize,
    /// Bytes that are set before each cold run.
    pub flush_bytes: usize,
    /// Seconds of the sustained regime, for each rival.
    pub seconds: f64,
    /// Whether rows of D are compared with the twin first.
    pub check: bool,
    /// Whether cuBLASLt is measured too.
    pub rivals: bool,
    /// Use events even where CUPTI is there.
    pub events: bool,
    /// A kernel configuration instead of the chosen one: words of a name, e.g. `256x112` or
    /// `128x48_s5_x2_g8` (tile, stages, cluster, group). The best candidate that has them all, or the
    /// chosen one with these changed.
    pub configuration: Option<String>,
}

impl Default for Options {
    /// The method of the recorded times.
    fn default() -> Self {
        Self {
            cold: true,
            sustained: false,
            graph: false,
            repeat: 30,
            flush_bytes: 8_000_000_000,
            seconds: 2.0,
            check: true,
            rivals: true,
            events: false,
            configuration: None,
        }
    }
}

impl Options {
    /// Checks everything that can be known without a GPU.
    ///
    /// # Errors
    /// [`BenchError::Option`].
    pub fn check(&self) -> Result<(), BenchError> {
        let fail = |option, value: String, rule| Err(BenchError::Option { option, value, rule });
        if !(1..=10_000).contains(&self.repeat) {
            return fail("repeat", self.repeat.to_string(), "it must be 1 to 10000");
        }
        if !(self.seconds > 0.0 && self.seconds <= 600.0) {
            return fail("seconds", self.seconds.to_string(), "it must be above 0 and at most 600");
        }
        Ok(())
    }
}

/// An opened GPU, ready to time.
pub struct Session {
    // Dropped from first to last: the library frees its workspace before the stream goes.
    cublaslt: Result<CublasLt, String>,
    flush: Buffer,
    timer: Timer,
    monitor: Result<Monitor, String>,
    stream: Arc<CudaStream>,
    gpu: Gpu,
    compiler: Compiler,
    options: Options,
}

impl Session {
    /// Opens the GPU and the libraries. Missing libraries are no error: without CUPTI events take the
    /// times, without cuBLASLt there are no rivals, without NVML no clocks; [`machine`](Self::machine)
    /// says so.
    ///
    /// The session turns cudarc's event tracking off for the GPU's context: it works on one stream.
    ///
    /// # Errors
    /// [`BenchError::Option`], [`BenchError::Hopper`] where there is no GPU, [`BenchError::Cuda`], out
    /// of memory among them.
    pub fn open(device: usize, compiler: Compiler, options: Options) -> Result<Self, BenchError> {
        options.check()?;
        let gpu = Gpu::open(device)?;
        // SAFETY: every buffer of this crate is used on one stream only, in order, and the stream is
        // waited for before the host reads.
        unsafe { gpu.context().disable_event_tracking() };
        let stream = gpu.context().new_stream().map_err(BenchError::cuda("cuStreamCreate"))?;
        let timer = Timer::new(&stream, &compiler, options.events)?;
        let cublaslt = if options.rivals {
            CublasLt::load(&stream).map_err(|error| error.to_string())
        } else {
            Err("not asked for".to_owned())
        };
        let monitor = Monitor::open(gpu.context()).map_err(|error| error.to_string());
        let flush = Buffer::filled(&stream, if options.cold { options.flush_bytes } else { 1 }, 0)?;
        wait(&stream)?;
        Ok(Self { cublaslt, flush, timer, monitor, stream, gpu, compiler, options })
    }

    /// What was found.
    pub fn machine(&self) -> Machine {
        let info = self.gpu.info();
        let said = |text: &String| text.clone();
        Machine {
            gpu: info.name.clone(),
            sms: info.sms,
            driver: info.driver,
            timer: self.timer.describe(),
            cublaslt: self.cublaslt.as_ref().map_or_else(said, CublasLt::describe),
            monitor: self.monitor.as_ref().map_or_else(said, |_| "NVML".to_owned()),
        }
    }

    /// Times one problem in every regime that is asked for.
    ///
    /// # Errors
    /// [`BenchError::WrongBits`] before anything is timed; those of the kernel, the driver and the
    /// libraries. That cuBLASLt does not do a product is no error: see [`Row::refused`].
    pub fn run(&self, shape: &Shape) -> Result<Row, BenchError> {
        let (problem, stream) = (&shape.problem, &self.stream);
        problem.check()?;
        let plan = self.plan(problem)?;
        let a = Operand::random(problem.a, problem.m, problem.k, 1)?;
        let b = Operand::random(problem.b, problem.n, problem.k, 2)?;
        let operands = [&a, &b];
        let pattern = Pattern::random(3);

        let d = Arc::new(initial_d(stream, problem, &pattern)?);
        let ours = Subject::ours(stream, plan, operands, Arc::clone(&d))?;
        ours.launch(0, stream)?;
        wait(stream)?;
        let checked_rows = match self.options.check {
            true => Some(check::compare(stream, problem, &ours.detail, operands, &pattern, &d)?),
            false => None,
        };

        let mut subjects = vec![ours];
        let mut refused = BTreeMap::new();
        if let Ok(library) = &self.cublaslt {
            let tensor = tensor_buffers(stream, problem, operands)?;
            let layouts = [ScaleLayout::Tensor; 2];
            match Subject::cublaslt("cublaslt_tensor", stream, library, problem, tensor, layouts) {
                Ok((fastest, first)) => {
                    subjects.push(fastest);
                    subjects.extend(first.map(|first| first.named("cublaslt_tensor_first")));
                }
                Err(error) => drop(refused.insert("cublaslt_tensor".to_owned(), error.to_string())),
            }
            let layouts = [problem.a.scales, problem.b.scales];
            if layouts.iter().all(|layout| matches!(layout, ScaleLayout::Block1x128 | ScaleLayout::Block128x128)) {
                let block = block_buffers(stream, problem, subjects[0].buffers(), operands)?;
                match Subject::cublaslt("cublaslt_block", stream, library, problem, block, layouts) {
                    Ok((fastest, _)) => subjects.push(fastest),
                    Err(error) => drop(refused.insert("cublaslt_block".to_owned(), error.to_string())),
                }
            }
        }
        self.time(shape, &subjects, checked_rows, refused)
    }

    fn time(
        &self,
        shape: &Shape,
        subjects: &[Subject<'_>],
        checked_rows: Option<usize>,
        refused: BTreeMap<String, String>,
    ) -> Result<Row, BenchError> {
        let (stream, options, monitor) = (&self.stream, &self.options, self.monitor.as_ref().ok());
        let mut entries = Vec::with_capacity(subjects.len());
        for subject in subjects {
            entries.push(Entry {
                name: subject.name.to_owned(),
                detail: subject.detail.clone(),
                host: Timer::host(stream, subject)?,
                cold: None,
                sustained: None,
                graph: None,
                graph_overlapped: None,
            });
        }
        let mut readings = Readings::default();
        if options.cold {
            let all: Vec<_> = subjects.iter().collect();
            let times = self.timer.cold(stream, &all, &self.flush, options.repeat, monitor, &mut readings)?;
            for (entry, times) in entries.iter_mut().zip(times) {
                entry.cold = Times::of(&times);
            }
        }
        // The heuristic's first algorithm is there for the cold ruler only.
        for (entry, subject) in entries.iter_mut().zip(subjects).filter(|(entry, _)| !entry.name.ends_with("_first")) {
            if options.sustained {
                entry.sustained = Some(sustained::run(stream, subject, options.seconds, monitor)?);
            }
            if options.graph {
                (entry.graph, entry.graph_overlapped) = graph::run(stream, subject, options.repeat)?;
            }
        }
        Ok(Row {
            problem: shape.problem,
            checked_rows,
            entries,
            refused,
            recorded: shape.recorded.clone(),
            gpu: readings.state(),
        })
    }

    fn plan(&self, problem: &Problem) -> Result<Plan, BenchError> {
        let Some(text) = &self.options.configuration else {
            return Ok(Plan::new(&self.gpu, &self.compiler, problem)?);
        };
        let config = configuration::find(text, problem, self.gpu.sms())?;
        Ok(Plan::with_config(&self.gpu, &self.compiler, problem, config)?)
    }
}
