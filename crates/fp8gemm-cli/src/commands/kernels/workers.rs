//! Processes that compile side by side: threads that share one NVRTC take turns inside it.
//!
//! A worker is this program, started with `kernels compile --worker`. It reads places in the list
//! of all kernels, one to a line, and answers each with a line of JSON. It ends with its standard
//! input, so that none outlives the command; the cache writes entries whole or not at all, so that
//! Ctrl-C may come at any time.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fp8gemm::jit::catalog::{self, Entry};
use fp8gemm::jit::{Cache, Compiler, Report};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::commands::SUCCESS;
use crate::error::CliError;

/// What became of one kernel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) name: String,
    pub(super) milliseconds: f64,
    pub(super) registers: u32,
    /// Bytes of spill stores and loads.
    pub(super) spills: u32,
    /// Why there is no kernel.
    pub(super) error: Option<String>,
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
        }
    }
}

/// Compiles the entries at these places, in `jobs` processes.
pub(super) fn compile(all: &[Entry], places: &[usize], jobs: Option<usize>) -> Result<Vec<Done>, CliError> {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let jobs = jobs.unwrap_or_else(cores).min(places.len());
    let failed = |error: io::Error| CliError::Usage(format!("a worker process cannot be started: {error}"));
    let workers = (0..jobs).map(|_| Worker::start()).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    let bar = bar(places.len() as u64);
    let next = Mutex::new(places.iter());
    let done = Mutex::new(Vec::with_capacity(places.len()));
    thread::scope(|scope| {
        for mut worker in workers {
            let (next, done, bar) = (&next, &done, &bar);
            scope.spawn(move || {
                // A worker that is gone leaves the rest to the others.
                let mut alive = true;
                while alive {
                    let Some(&place) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { break };
                    let answer = worker.ask(place).unwrap_or_else(|error| {
                        alive = false;
                        let error = Some(format!("its worker process ended: {error}"));
                        Done { name: all[place].to_string(), error, ..Done::default() }
                    });
                    bar.inc(1);
                    bar.set_message(answer.name.clone());
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                }
                worker.end();
            });
        }
    });
    bar.finish_and_clear();
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Where every worker is gone.
    let left = next.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.extend(left.map(|place| Done {
        name: all[*place].to_string(),
        error: Some("not tried: no worker process is left".to_owned()),
        ..Done::default()
    }));
    Ok(done)
}

fn bar(length: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) =
        ProgressStyle::with_template("[{bar:30}] {pos} of {len} kernels  {elapsed} elapsed, {eta} left  {msg}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
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

    fn ask(&mut self, place: usize) -> io::Result<Done> {
        let stdin = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(stdin, "{place}")?;
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
    let all = catalog::entries();
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(CliError::Stdout)?;
        let entry = line.trim().parse().ok().and_then(|place: usize| all.get(place));
        let entry =
            entry.ok_or_else(|| CliError::Usage(format!("--worker: {line:?} is no place in the list of kernels")))?;
        let mut answer =
            serde_json::to_string(&make(&compiler, entry)).map_err(|error| CliError::Stdout(error.into()))?;
        answer.push('\n');
        out.write_all(answer.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Stdout)?;
    }
    Ok(SUCCESS)
}

fn make(compiler: &Compiler, entry: &Entry) -> Done {
    let (source, name) = (entry.source(), entry.to_string());
    match compiler.make(&entry.unit(&source, &name)) {
        Ok(made) => match made.compiled {
            Some((report, time)) => Done::new(name, &report, time),
            // Another process was faster.
            None => Done { name, ..Done::default() },
        },
        Err(error) => Done { name, error: Some(error.to_string()), ..Done::default() },
    }
}
