//! A GPU with everything that is needed to time on it, and one problem's turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use fp8gemm_hopper::{EVICT_NORMAL, Gpu, HopperError, Plan, PlanOptions, l2_policy};
use fp8gemm_jit::sass::Interleave;
use fp8gemm_jit::tuning::Device;
use fp8gemm_jit::{Compiler, KernelConfig, MemoryKernel};
use fp8gemm_problem::Problem;
use fp8gemm_problem::ScaleLayout::{Block1x128, Block128x128, Tensor};

use crate::cold::{Timer, wait};
use crate::cublaslt::CublasLt;
use crate::inputs::{Operand, Pattern};
use crate::memory::{Buffer, check_fits};
use crate::memory_kernels::{Flush, Flusher, Loaded};
use crate::nvml::{Monitor, Readings};
use crate::report::{BLOCK, Entry, FLOOR, FLOOR_PLAIN, Machine, OURS, Row, TENSOR, is_floor, ours_with};
use crate::shapes::Shape;
use crate::stats::Times;
use crate::subject::{Buffers, Subject, block_buffers, initial_d, l2_bytes, stride_of_d, tensor_buffers};
use crate::{BenchError, check, configuration, graph, sustained};

/// What is measured and how.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// After a flush of the L2 cache: the regime of the recorded times.
    pub cold: bool,
    /// The same launch again and again.
    pub warm: bool,
    /// Back to back.
    pub sustained: bool,
    /// A CUDA graph of launches with different weights.
    pub graph: bool,
    /// Runs of each rival in the cold and warm regimes, replays in the graph regime.
    pub repeat: usize,
    /// How the L2 cache is flushed before each cold run.
    pub flush: Flush,
    /// Bytes that are set or read for that.
    pub flush_bytes: usize,
    /// Seconds of the sustained regime, for each rival.
    pub seconds: f64,
    /// Whether rows of D are compared with the twin first.
    pub check: bool,
    /// Whether cuBLASLt is measured too.
    pub rivals: bool,
    /// Whether a kernel that only moves memory is measured too.
    pub floor: bool,
    /// Use events even where CUPTI is there.
    pub events: bool,
    /// A kernel configuration instead of the chosen one: words of a name, e.g. `256x112` or
    /// `128x48_s5_xa_g8` (tile, stages, what clusters share, group; more words: `configuration.rs`). The best candidate that has them all, or the
    /// chosen one with these changed.
    pub configuration: Option<String>,
    /// Patterns of yield and reuse flags with which our kernel is measured too, beside the compiled one.
    pub interleave: Vec<Interleave>,
}

impl Default for Options {
    /// The method of the recorded times.
    fn default() -> Self {
        Self {
            cold: true,
            warm: false,
            sustained: false,
            graph: false,
            repeat: 30,
            flush: Flush::Memset,
            flush_bytes: Flush::Memset.default_bytes(),
            seconds: 2.0,
            check: true,
            rivals: true,
            floor: true,
            events: false,
            configuration: None,
            interleave: Vec::new(),
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
        if self.flush == Flush::Read && self.flush_bytes < Flush::LEAST_READ {
            let rule = "a flush that reads must read 256 MiB or more, or operands stay in the L2 cache";
            return fail("flush-bytes", self.flush_bytes.to_string(), rule);
        }
        Ok(())
    }
}

/// An opened GPU, ready to time.
pub struct Session {
    // Dropped from first to last: the library frees its workspace before the stream goes.
    cublaslt: Result<CublasLt, String>,
    pub(crate) flush: Option<Flusher>,
    floor: Option<Loaded>,
    scratch: Buffer,
    pub(crate) timer: Timer,
    pub(crate) monitor: Result<Monitor, String>,
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) gpu: Gpu,
    pub(crate) compiler: Compiler,
    pub(crate) options: Options,
}

impl Session {
    /// Opens the GPU and the libraries. Missing libraries are no error: without CUPTI events take the
    /// times, without cuBLASLt there are no rivals, without NVML no clocks; [`machine`](Self::machine)
    /// says so.
    ///
    /// The session works on one stream, of a `CudaContext` of its own with cudarc's event tracking off; that of
    /// [`Gpu::context`] keeps it.
    ///
    /// # Errors
    /// [`BenchError::Option`], [`BenchError::Hopper`] where there is no GPU, [`BenchError::Cuda`], out
    /// of memory among them.
    pub fn open(device: usize, compiler: Compiler, options: Options) -> Result<Self, BenchError> {
        options.check()?;
        let gpu = Gpu::open(device)?;
        // An object of its own for the same context: `gpu`'s orders other users' slices.
        let context = CudaContext::new(device).map_err(BenchError::cuda("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: only this session has the object, and every buffer made through it is used on one stream
        // only, in order, and the stream is waited for before the host reads.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(BenchError::cuda("cuStreamCreate"))?;
        let timer = Timer::new(&stream, &compiler, options.events)?;
        let cublaslt = if options.rivals {
            CublasLt::load(&stream).map_err(|error| error.to_string())
        } else {
            Err("not asked for".to_owned())
        };
        let monitor = Monitor::open(&context).map_err(|error| error.to_string());
        let sms = gpu.sms();
        let flusher = || Flusher::new(&stream, &compiler, options.flush, options.flush_bytes, sms);
        let flush = options.cold.then(flusher).transpose()?;
        let loaded = || Loaded::new(&context, &compiler, MemoryKernel::Stream, sms);
        // A machine may live on cached kernels, of which this is none.
        let floor = match options.floor.then(loaded).transpose() {
            Err(error) if error.is_missing() => {
                tracing::warn!(%error, "the floor is left out");
                None
            }
            floor => floor?,
        };
        let scratch = Buffer::filled(&stream, 4 * l2_bytes(&context), 0)?;
        wait(&stream)?;
        Ok(Self { cublaslt, flush, floor, scratch, timer, monitor, stream, gpu, compiler, options })
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

    /// What a tuning table is looked up by.
    pub fn device(&self) -> Device {
        self.gpu.device()
    }

    /// The compiler with its cache.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
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
        let config = plan.config();
        check_fits(stream, problem)?;
        let a = Operand::random(problem.a, problem.m, problem.k, 1)?;
        let b = Operand::random(problem.b, problem.n, problem.k, 2)?;
        let operands = [&a, &b];
        let pattern = Pattern::random(3);

        let d = Arc::new(initial_d(stream, problem, &pattern)?);
        let ours = Subject::ours(stream, plan, operands, Arc::clone(&d))?;
        let ours_buffers = ours.buffers().clone();
        ours.launch(0, stream)?;
        wait(stream)?;
        let checked_rows = self.compare(problem, &ours, operands, &pattern)?;

        let mut refused = BTreeMap::new();
        let mut subjects = self.interleaved(problem, config, &ours, operands, &pattern, &mut refused)?;
        subjects.insert(0, ours);
        if let Some(kernel) = &self.floor {
            let policy = l2_policy(ours_buffers.b.len() as u128);
            let mut join = |name, policy| -> Result<(), BenchError> {
                subjects.push(Subject::floor(name, stream, (kernel, policy), problem, &ours_buffers)?);
                Ok(())
            };
            join(FLOOR, policy)?;
            if policy != EVICT_NORMAL {
                join(FLOOR_PLAIN, EVICT_NORMAL)?;
            }
        }
        if let Ok(library) = &self.cublaslt {
            let tools = (stream, library, &self.scratch);
            let mut join = |names: [&'static str; 2], buffers: &Buffers, layouts| match Subject::cublaslt(
                names, tools, problem, buffers, layouts,
            ) {
                Ok(found) => subjects.extend(found),
                Err(error) => drop(refused.insert(names[0].to_owned(), error.to_string())),
            };
            let layouts = [problem.a.scales, problem.b.scales];
            let block = if layouts.iter().all(|layout| matches!(layout, Block1x128 | Block128x128)) {
                Some(block_buffers(stream, problem, &ours_buffers, operands)?)
            } else {
                None
            };
            join([TENSOR, "cublaslt_tensor_first"], &tensor_buffers(stream, problem, operands)?, [Tensor; 2]);
            if let Some(block) = block {
                join([BLOCK, "cublaslt_block_first"], &block, layouts);
            }
        }
        self.time(shape, subjects, checked_rows, refused)
    }

    /// Compares what was launched with the twin, if that is asked for; how many rows.
    fn compare(
        &self,
        problem: &Problem,
        ours: &Subject<'_>,
        operands: [&Operand; 2],
        pattern: &Pattern,
    ) -> Result<Option<usize>, BenchError> {
        if !self.options.check {
            return Ok(None);
        }
        let (size, d) = (problem.d.size(), &ours.buffers().d);
        let row = |row| d.download(&self.stream, row * stride_of_d(problem) * size, problem.n * size);
        check::compare(problem, &ours.detail, operands, pattern, row).map(Some)
    }

    /// Our kernel once more for each pattern that is asked for, its bits compared too. A kernel whose
    /// promotion has no runs of `FFMA` is no error.
    fn interleaved<'a>(
        &self,
        problem: &Problem,
        config: KernelConfig,
        ours: &Subject<'a>,
        operands: [&Operand; 2],
        pattern: &Pattern,
        refused: &mut BTreeMap<String, String>,
    ) -> Result<Vec<Subject<'a>>, BenchError> {
        let asked = |interleave: &Interleave| self.options.interleave.contains(interleave);
        let mut subjects = Vec::new();
        for interleave in Interleave::ALL.into_iter().skip(1).filter(asked) {
            let name = ours_with(interleave);
            let plan = match Plan::with_interleave(&self.gpu, &self.compiler, problem, config, interleave) {
                Err(HopperError::Jit(error)) if error.refuses_interleave() => {
                    refused.insert(name.to_owned(), error.to_string());
                    continue;
                }
                plan => plan?,
            };
            let subject = ours.variant(name, plan, Arc::new(initial_d(&self.stream, problem, pattern)?))?;
            subject.launch(0, &self.stream)?;
            wait(&self.stream)?;
            self.compare(problem, &subject, operands, pattern)?;
            subjects.push(subject);
        }
        Ok(subjects)
    }

    fn time(
        &self,
        shape: &Shape,
        subjects: Vec<Subject<'_>>,
        checked_rows: Option<usize>,
        refused: BTreeMap<String, String>,
    ) -> Result<Row, BenchError> {
        let (stream, options, monitor) = (&self.stream, &self.options, self.monitor.as_ref().ok());
        let mut pairs = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let entry = Entry {
                name: subject.name.to_owned(),
                detail: subject.detail.clone(),
                host: Timer::host(stream, &subject)?,
                cold: None,
                ratio: None,
                warm: None,
                sustained: None,
                graph_launches: None,
                graph: None,
                graph_dependent: None,
                graph_constant_weights: None,
            };
            pairs.push((subject, entry));
        }
        let mut readings = Readings::default();
        if let Some(flush) = &self.flush {
            let all: Vec<_> = pairs.iter().map(|(subject, _)| subject).collect();
            let times = self.timer.cold(stream, &all, flush, options.repeat, monitor, &mut readings)?;
            let ours = times.first().cloned().unwrap_or_default();
            for ((_, entry), times) in pairs.iter_mut().zip(times) {
                entry.cold = Times::of(&times);
                let ratios: Vec<_> = times.iter().zip(&ours).map(|(time, ours)| time / ours).collect();
                entry.ratio = Times::of(&ratios).map(|ratios| ratios.median).filter(|_| entry.name != OURS);
            }
            drop_slower(&mut pairs);
        }
        if options.warm {
            let all: Vec<_> = pairs.iter().map(|(subject, _)| subject).collect();
            let times = self.timer.warm(stream, &all, options.repeat)?;
            pairs.iter_mut().zip(times).for_each(|((_, entry), times)| entry.warm = Times::of(&times));
        }
        // The heuristic's first algorithm is there for the cold regime only.
        for (subject, entry) in pairs.iter_mut().filter(|(_, entry)| !entry.name.ends_with("_first")) {
            // The floor draws little power: back to back says nothing of it.
            if options.sustained && !is_floor(&entry.name) {
                entry.sustained = Some(sustained::run(stream, subject, options.seconds, monitor)?);
            }
            if options.graph {
                let chain = graph::run(stream, subject, options.repeat)?;
                (entry.graph, entry.graph_dependent) = (chain.plain, chain.dependent);
                entry.graph_constant_weights = chain.constant_weights;
                entry.graph_launches = Some(chain.launches);
            }
        }
        let entries = pairs.into_iter().map(|(_, entry)| entry).collect();
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
        let (gpu, compiler) = (&self.gpu, &self.compiler);
        let plan = match &self.options.configuration {
            None => Plan::with_options(gpu, compiler, problem, PlanOptions::default().workspace(true))?,
            Some(text) => Plan::with_config(gpu, compiler, problem, configuration::find(text, problem, gpu.sms())?)?,
        };
        if self.options.interleave.is_empty() {
            return Ok(plan);
        }
        // Patterns are held against what the compiler made, not against the usual one or a table's.
        Ok(Plan::with_interleave(gpu, compiler, problem, plan.config(), Interleave::AsCompiled)?)
    }
}

/// Where the cold runs show that the heuristic's first algorithm is as fast as the one that the trial
/// found, the first is the rival, and the other is forgotten.
fn drop_slower<T>(pairs: &mut Vec<(T, Entry)>) {
    let median = |entry: &Entry| entry.cold.map_or(f64::INFINITY, |times| times.median);
    for name in [TENSOR, BLOCK] {
        let place = |pairs: &[(T, Entry)], name: &str| pairs.iter().position(|(_, entry)| entry.name == name);
        let (Some(found), Some(first)) = (place(pairs, name), place(pairs, &format!("{name}_first"))) else { continue };
        if median(&pairs[first].1) <= median(&pairs[found].1) {
            pairs[first].1.name = name.to_owned();
            pairs.remove(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if the slower of a rival's algorithms is what we are compared with, or the ruler is not
    /// the heuristic's first any more.
    #[test]
    fn the_faster_algorithm_is_the_rival() {
        let entry = |name: &str, us: f64| {
            let cold = Times::of(&[us]);
            (
                (),
                Entry {
                    name: name.to_owned(),
                    detail: String::new(),
                    host: None,
                    cold,
                    ratio: None,
                    warm: None,
                    sustained: None,
                    graph_launches: None,
                    graph: None,
                    graph_dependent: None,
                    graph_constant_weights: None,
                },
            )
        };
        let mut pairs = vec![
            entry(OURS, 3.0),
            entry(TENSOR, 2.0),
            entry("cublaslt_tensor_first", 1.0),
            entry(BLOCK, 4.0),
            entry("cublaslt_block_first", 5.0),
        ];
        drop_slower(&mut pairs);
        let left: Vec<_> = pairs.iter().map(|(_, e)| (e.name.as_str(), e.cold.unwrap().median)).collect();
        assert_eq!(left, [(OURS, 3.0), (TENSOR, 1.0), (BLOCK, 4.0), ("cublaslt_block_first", 5.0)]);
    }
}
