//! Which engine computes a product: the CPU twin, or a Hopper GPU. Both give the same bits.

mod gpu;
mod progress;

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use fp8gemm::formats::{ScaledMatrix, ScaledView};
use fp8gemm::hopper::{HopperError, HostOperand};
use fp8gemm::jit::JitError;
use fp8gemm::problem::{Epilogue, OutputType, Policy, Problem};
use fp8gemm::sim::{Gemm, Matrix, MatrixView, Path};
use ndarray::Array2;
use serde::Serialize;

use crate::args::{Engine, EngineArgs};
use crate::error::{CliError, note};
use crate::text::{count, duration, path_name};

pub(crate) use gpu::{COMPUTES, GpuRun, Hopper, one_line, ordinal};
pub(crate) use progress::Progress;

/// Which engine computed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Chosen {
    Twin,
    Hopper,
}

/// A product to compute.
#[derive(Clone)]
pub(crate) struct Task<'a> {
    pub(crate) a: ScaledView<'a>,
    pub(crate) b: ScaledView<'a>,
    /// Present only if the epilogue reads it.
    pub(crate) c: Option<MatrixView<'a>>,
    pub(crate) output: OutputType,
    pub(crate) policy: Policy,
    pub(crate) epilogue: Epilogue,
}

impl<'a> Task<'a> {
    /// The same as the twin's task.
    pub(crate) fn gemm(&self) -> Gemm<'a> {
        let gemm = Gemm::new(self.a, self.b).output(self.output).policy(self.policy);
        let gemm = gemm.epilogue(self.epilogue);
        match &self.c {
            Some(c) => gemm.c(c.clone()),
            None => gemm,
        }
    }

    pub(crate) fn problem(&self) -> Problem {
        self.gemm().problem()
    }
}

/// D, and how it came about.
pub(crate) struct Computed {
    pub(crate) d: Matrix,
    /// Time of the computation; on a GPU with the copies there and back and the quantisation there,
    /// without making the kernels.
    pub(crate) time: Duration,
    /// The kernel, where a GPU computed.
    pub(crate) gpu: Option<GpuRun>,
    /// A and B, where a GPU quantised them.
    pub(crate) quantized: [Option<ScaledMatrix>; 2],
}

impl Computed {
    /// D without elements, for which no engine is needed: a file can name any number of rows without a byte of data.
    pub(crate) fn empty(problem: &Problem) -> Self {
        let dim = (problem.m, problem.n);
        let d = match problem.d {
            OutputType::Bf16 => Matrix::Bf16(Array2::default(dim)),
            OutputType::F16 => Matrix::F16(Array2::default(dim)),
            OutputType::F32 => Matrix::F32(Array2::default(dim)),
        };
        Self { d, time: Duration::ZERO, gpu: None, quantized: [None, None] }
    }

    /// Who computed D; nobody one [without elements](Self::empty).
    pub(crate) fn engine(&self) -> Option<Chosen> {
        match (&self.gpu, self.d.dim()) {
            (Some(_), _) => Some(Chosen::Hopper),
            (None, (0, _) | (_, 0)) => None,
            (None, _) => Some(Chosen::Twin),
        }
    }
}

/// The engines that this run may use.
pub(crate) struct Engines {
    asked: Engine,
    hopper: Option<Hopper>,
    /// Why there is no GPU to use, or none any more.
    absence: OnceCell<String>,
}

impl Engines {
    /// Opens what the flags ask for. `policy` is the one asked for, if one is.
    ///
    /// # Errors
    /// [`CliError::Usage`] for flags that contradict each other; [`CliError::Missing`] if engine
    /// hopper is asked for and there is no usable GPU.
    pub(crate) fn open(args: EngineArgs, policy: Option<Policy>) -> Result<Self, CliError> {
        let asked = args.engine;
        let twin_only = Self { asked, hopper: None, absence: OnceCell::new() };
        if asked == Engine::Twin {
            return match args.device {
                Some(device) => {
                    Err(CliError::Usage(format!("--device {device} names a GPU, but engine twin uses none")))
                }
                None => Ok(twin_only),
            };
        }
        if let (Engine::Hopper, Some(policy)) = (asked, policy)
            && let Some(rule) = gpu::rule_against_policy(policy)
        {
            return Err(unsupported(&format!("policy {policy}"), &rule));
        }
        match Hopper::open(args.device) {
            Ok(hopper) => Ok(Self { hopper: Some(hopper), ..twin_only }),
            Err(error) if asked == Engine::Hopper => Err(missing(&error)),
            Err(error) => Ok(Self { absence: OnceCell::from(one_line(&error)), ..twin_only }),
        }
    }

    /// Whether the GPU computes this problem.
    pub(crate) fn gpu_takes(&self, problem: &Problem) -> bool {
        self.hopper.is_some() && self.absence.get().is_none() && gpu::rule_against(problem).is_none()
    }

    /// Says why the GPU computes none of these problems, where it does not: before anything is
    /// computed.
    ///
    /// # Errors
    /// [`CliError::Usage`] if engine hopper was asked for and no kernel computes any of them.
    pub(crate) fn announce(&self, problems: &[Problem]) -> Result<(), CliError> {
        if self.asked == Engine::Twin || problems.iter().any(|problem| self.gpu_takes(problem)) {
            return Ok(());
        }
        if let Some(reason) = self.absence.get() {
            note(format!("engine auto takes the CPU twin: {reason}"));
            return Ok(());
        }
        let Some(problem) = problems.first() else { return Ok(()) };
        if let Some(rule) = gpu::rule_against(problem) {
            if self.asked == Engine::Hopper {
                return Err(unsupported(&problem.to_string(), &rule));
            }
            note(format!("engine auto takes the CPU twin: no kernel computes {problem}: {rule}"));
        }
        Ok(())
    }

    /// Computes D, on the GPU where [`gpu_takes`](Self::gpu_takes) says so.
    ///
    /// # Errors
    /// As [`on_gpu`](Self::on_gpu).
    pub(crate) fn compute(&self, task: &Task<'_>) -> Result<Computed, CliError> {
        let computed = self.on_gpu(&task.problem(), |hopper| hopper.run(task))?;
        computed.map_or_else(|| twin(task, &task.policy.to_string()), Ok)
    }

    /// Computes D on the GPU, which quantises what is not FP8; nothing where
    /// [`gpu_takes`](Self::gpu_takes) says that it does not, or no longer.
    ///
    /// # Errors
    /// As [`on_gpu`](Self::on_gpu).
    pub(crate) fn quantize_and_compute(
        &self,
        problem: &Problem,
        (a, b): (HostOperand<'_>, HostOperand<'_>),
        c: Option<&MatrixView<'_>>,
    ) -> Result<Option<Computed>, CliError> {
        self.on_gpu(problem, |hopper| hopper.multiply(problem, a, b, c))
    }

    /// What the GPU makes of a problem, if it takes it.
    ///
    /// # Errors
    /// [`CliError::Missing`] where the GPU fails, [`CliError::Usage`] where no GPU would do it; under engine auto a lack of memory, or of an NVRTC
    /// that compiles the kernel, is a note, and the twin computes from then on.
    fn on_gpu(
        &self,
        problem: &Problem,
        compute: impl FnOnce(&Hopper) -> Result<Computed, HopperError>,
    ) -> Result<Option<Computed>, CliError> {
        let Some(hopper) = self.hopper.as_ref().filter(|_| self.gpu_takes(problem)) else { return Ok(None) };
        match compute(hopper) {
            Ok(computed) => Ok(Some(computed)),
            Err(error) if self.asked == Engine::Auto && gpu::is_lack(&error) => {
                let reason = one_line(&error);
                note(format!("engine auto takes the CPU twin: {reason}"));
                // Set once: nothing is tried on the GPU after it.
                let _ = self.absence.set(reason);
                Ok(None)
            }
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Computes D on the CPU; `what` is what a progress bar says.
///
/// # Errors
/// [`CliError::Sim`].
pub(crate) fn twin(task: &Task<'_>, what: &str) -> Result<Computed, CliError> {
    let gemm = task.gemm();
    let progress = Progress::new(what, gemm.problem().macs());
    let start = Instant::now();
    let d = gemm.run_with(&|macs| progress.advance(macs))?;
    let time = start.elapsed();
    progress.finish();
    tracing::info!(what, time = %duration(time), "computed by the twin");
    Ok(Computed { d, time, gpu: None, quantized: [None, None] })
}

/// The twin in words: `CPU twin (avx512, 2 threads)`.
pub(crate) fn twin_name() -> String {
    let threads = count(rayon::current_num_threads() as u64, "thread");
    format!("CPU twin ({}, {threads})", path_name(Path::best()))
}

fn unsupported(what: &str, rule: &str) -> CliError {
    CliError::Usage(format!("engine hopper: no kernel computes {what}: {rule} (engines auto and twin compute it)"))
}

fn missing(error: &HopperError) -> CliError {
    CliError::Missing { engine: "hopper", reason: one_line(error) }
}

/// Sizes and problems that no GPU computes are wrong input; for the rest another machine may do.
fn failed(error: &HopperError) -> CliError {
    use HopperError::{Jit, Problem, TooLarge, Unsupported};
    match error {
        TooLarge { .. }
        | Unsupported { .. }
        | Problem(_)
        | Jit(JitError::Unsupported { .. } | JitError::Problem(_)) => {
            CliError::Usage(format!("engine hopper: {}", one_line(error)))
        }
        _ => missing(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a script takes sizes that no GPU computes for a machine without a GPU, or the other way round.
    #[test]
    fn too_large_is_wrong_input() {
        let too_large = HopperError::TooLarge { what: "M", value: 1 << 31, rule: "a rule" };
        let error = failed(&too_large);
        assert_eq!((error.exit_code(), error.to_string().as_str()), (2, "engine hopper: M is 2147483648: a rule"));
        let lost = HopperError::Cuda { call: "cuLaunchKernel", code: 2, name: "no memory".to_owned() };
        assert_eq!(failed(&lost).exit_code(), 3);
        assert_eq!(failed(&HopperError::NoDevice).exit_code(), 3);
    }
}
