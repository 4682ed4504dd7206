//! Processes that compile side by side: threads that share one NVRTC take turns inside it.
//!
//! A worker is this program, started with `kernels compile --worker`. It reads kernels, one to a line
//! (its place in the list of all kernels, the name of one that quantises or transposes, or a candidate of a
//! problem), and answers each with a line of JSON. It ends with its standard input or output, silently, so that
//! none outlives the command; the cache writes entries whole or not at all, so that Ctrl-C may come at any time.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fp8gemm::jit::catalog::{self, Entry};
use fp8gemm::jit::tuning::all_candidates;
use fp8gemm::jit::{Cache, Compiler, ElementwiseKernel, JitError, KernelConfig, Report};
use fp8gemm::problem::Problem;
use serde::{Deserialize, Serialize};

use crate::commands::SUCCESS;
use crate::engine::Progress;
use crate::error::CliError;

/// What became of one kernel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) name: String,
    pub(crate) milliseconds: f64,
    pub(crate) registers: u32,
    /// Bytes of spill stores and loads.
    pub(crate) spills: u32,
    /// Why there is no kernel.
    pub(crate) error: Option<String>,
    /// Whether it compiles, but to a kernel that must not be run.
    #[serde(default)]
    pub(crate) rejected: bool,
}

impl Done {
    pub(super) fn new(name: String, report: &Report, time: Duration) -> Self {
        let most =
            |figure: fn(&fp8gemm::jit::KernelReport) -> u32| report.kernels.iter().map(figure).max().unwrap_or(0);
        Self {
            name,
            milliseconds: time.as_secs_f64() * 1e3,
            registers: most(|kernel| kernel.registers),
            spills: most(|kernel| kernel.memory.spill_stores + kernel.memory.spill_loads),
            error: None,
            rejected: false,
        }
    }

    fn failed(name: String, error: String) -> Self {
        Self { name, error: Some(error), ..Self::default() }
    }
}

/// A kernel to compile.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The kernel's name.
    pub(crate) name: String,
    line: String,
}

/// A candidate of a problem, on a worker's line.
#[derive(Serialize, Deserialize)]
struct Candidate {
    problem: String,
    sms: u32,
    kernel: String,
}

impl Job {
    /// The kernel at this place in the list of all.
    pub(crate) fn at(place: usize, entry: &Entry) -> Self {
        Self { name: entry.to_string(), line: place.to_string() }
    }

    /// A kernel that quantises, transposes or repacks.
    pub(crate) fn elementwise(kernel: ElementwiseKernel) -> Self {
        Self { name: kernel.to_string(), line: kernel.to_string() }
    }

    /// A candidate of a problem on a GPU with `sms` SMs, or a neighbour of one.
    pub(crate) fn candidate(problem: &Problem, sms: u32, config: &KernelConfig) -> Result<Self, CliError> {
        let name = config.kernel_name();
        let candidate = Candidate { problem: problem.to_string(), sms, kernel: name.clone() };
        let line = serde_json::to_string(&candidate).map_err(|error| CliError::Stdout(error.into()))?;
        Ok(Self { name, line })
    }
}

/// Told how many of how many kernels are done, after each.
pub(crate) type Step<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// As [`compile`], with a bar.
pub(crate) fn compile_shown(jobs: &[Job], processes: Option<usize>) -> Result<Vec<Done>, CliError> {
    let progress = Progress::new("kernels", jobs.len() as u128);
    let step = |done, all| {
        progress.about(format!("{done} of {all} kernels"));
        progress.advance(1);
    };
    let done = compile(jobs, processes, &step);
    progress.finish();
    done
}

/// Does the jobs, in so many processes, or one for each core.
pub(crate) fn compile(jobs: &[Job], processes: Option<usize>, step: Step<'_>) -> Result<Vec<Done>, CliError> {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let processes = processes.unwrap_or_else(cores).min(jobs.len());
    let failed = |error: io::Error| CliError::Usage(format!("a worker process cannot be started: {error}"));
    let workers = (0..processes).map(|_| Worker::start()).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    let next = Mutex::new(jobs.iter());
    let done = Mutex::new(Vec::with_capacity(jobs.len()));
    thread::scope(|scope| {
        for mut worker in workers {
            let (next, done) = (&next, &done);
            scope.spawn(move || {
                // A worker that is gone leaves the rest to the others.
                let mut alive = true;
                while alive {
                    let Some(job) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { break };
                    let answer = worker.ask(job).unwrap_or_else(|error| {
                        alive = false;
                        Done::failed(job.name.clone(), format!("its worker process ended: {error}"))
                    });
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push(answer);
                    step(done.len(), jobs.len());
                }
                worker.end();
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Where every worker is gone.
    let left = next.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.extend(left.map(|job| Done::failed(job.name.clone(), "not tried: no worker process is left".to_owned())));
    Ok(done)
}

struct Worker {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Worker {
    fn start() -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["kernels", "compile", "--worker"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, answers: BufReader::new(stdout) })
    }

    fn ask(&mut self, job: &Job) -> io::Result<Done> {
        let stdin = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(stdin, "{}", job.line)?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Closes its standard input, at which it ends.
    fn end(mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The worker's side.
pub(super) fn work() -> Result<u8, CliError> {
    let compiler = Compiler::new(Cache::from_environment(), None);
    // Made at the first place: candidates need none of it.
    let mut all = None;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(CliError::Stdout)?;
        let entry = match line.trim().parse::<usize>() {
            Ok(place) => all.get_or_insert_with(catalog::entries).get(place).copied(),
            Err(_) => elementwise(&line).or_else(|| candidate(&line)),
        };
        let entry = entry.ok_or_else(|| CliError::Usage(format!("--worker: {line:?} is no kernel")))?;
        let done = make(&compiler, &entry);
        let mut answer = serde_json::to_string(&done).map_err(|error| CliError::Stdout(error.into()))?;
        answer.push('\n');
        match out.write_all(answer.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            // The command was killed: nobody is left to tell.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(CliError::Stdout(error)),
        }
    }
    Ok(SUCCESS)
}

fn elementwise(line: &str) -> Option<Entry> {
    let kernels = ElementwiseKernel::all();
    kernels.into_iter().find(|kernel| kernel.to_string() == line).map(Entry::Elementwise)
}

fn candidate(line: &str) -> Option<Entry> {
    let Candidate { problem, sms, kernel } = serde_json::from_str(line).ok()?;
    let candidates = all_candidates(&problem.parse().ok()?, sms).ok()?;
    candidates.into_iter().find(|config| config.kernel_name() == kernel).map(Entry::Gemm)
}

fn make(compiler: &Compiler, entry: &Entry) -> Done {
    let (source, name) = (entry.source(), entry.to_string());
    match compiler.make(&entry.unit(&source, &name)) {
        Ok(made) => match made.compiled {
            Some((report, time)) => Done::new(name, &report, time),
            // Another process was faster.
            None => Done { name, ..Done::default() },
        },
        Err(error) => {
            let rejected = matches!(error, JitError::Rejected { .. });
            Done { rejected, ..Done::failed(name, error.to_string()) }
        }
    }
}
