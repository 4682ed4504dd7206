//! Which kernels compute a problem, and compiling them before they are needed.

use fp8gemm_jit::mutants::{KernelForm, KernelMutant};
use fp8gemm_jit::{BASE_OPTIONS, Compiler, JitError, KERNEL, KernelConfig, Schedule, Unit, choose};
use fp8gemm_problem::Problem;

use crate::Prepare;

/// The compiler of a subject's kernels; shared with the threads that compile ahead.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) compiler: Compiler,
    /// Of the GPU.
    pub(super) sms: u32,
    /// Kernels that are wrong in this, and no others than of this form.
    pub(super) mutant: Option<(KernelMutant, KernelForm)>,
}

/// Why there is no kernel.
pub(super) enum NoKernel {
    /// The problem is legal, and nobody computes it.
    Unsupported(String),
    /// Something else.
    Failed(JitError),
}

/// Whether nothing is multiplied: no kernel of ours is launched on such a problem as it is.
pub(super) fn is_empty(problem: &Problem) -> bool {
    problem.m == 0 || problem.n == 0 || problem.k == 0
}

/// Whether a problem has a kernel. The number of SMs decides which, not whether.
pub(crate) fn has_kernel(problem: &Problem) -> bool {
    choose(problem, 132).is_ok()
}

impl Kernels {
    /// The configurations that compute a problem.
    pub(super) fn candidates(&self, problem: &Problem) -> Result<Vec<KernelConfig>, NoKernel> {
        let choice = choose(problem, self.sms).map_err(|error| match error {
            JitError::Unsupported { rule, .. } => NoKernel::Unsupported(rule),
            error => NoKernel::Failed(error),
        })?;
        let mut configs: Vec<_> = choice.candidates.iter().map(|candidate| candidate.config).collect();
        if let Some((mutant, form)) = self.mutant {
            configs.retain(|config| mutant.applies(config) && KernelForm::of(config) == form);
            if configs.is_empty() {
                return Err(NoKernel::Unsupported("its kernels have no such part".to_owned()));
            }
        }
        Ok(configs)
    }

    /// Compiles, so that the cache has it; what fails is left to the plan.
    fn compile(&self, config: &KernelConfig) {
        let source = match self.mutant {
            None => Some(config.source()),
            Some((mutant, _)) => mutant.source(config),
        };
        let Some(source) = source else { return };
        let name = config.kernel_name();
        let unit = Unit { source: &source, kernel: KERNEL, configuration: &name, options: &BASE_OPTIONS };
        if let Err(error) = self.compiler.cubin(&unit) {
            tracing::debug!(%config, %error, "not compiled ahead");
        }
    }
}

impl Prepare for Kernels {
    fn configurations(&self, problem: &Problem) -> usize {
        if is_empty(problem) {
            return usize::from(self.mutant.is_none());
        }
        self.candidates(problem).map_or(0, |candidates| candidates.len())
    }

    fn prepare(&self, problem: &Problem, configuration: usize) {
        let config = if !is_empty(problem) {
            self.candidates(problem).ok().and_then(|candidates| candidates.get(configuration).copied())
        } else if problem.m > 0 && problem.n > 0 {
            // K of 0 is computed as K of 1, without a workspace.
            let candidates = self.candidates(&Problem { k: 1, ..*problem }).unwrap_or_default();
            candidates.into_iter().find(|config| config.schedule != Schedule::StreamK)
        } else {
            None
        };
        if let Some(config) = config {
            self.compile(&config);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm_jit::{Cache, Key};

    fn kernels(mutant: Option<(KernelMutant, KernelForm)>) -> Kernels {
        Kernels { compiler: Compiler::new(Cache::in_memory(), None), sms: 132, mutant }
    }

    /// Breaks if a problem is taken for one with kernels that has none, or the other way round. Needs no GPU.
    #[test]
    fn configurations_are_those_of_the_choice() {
        let count = |text: &str, mutant| kernels(mutant).configurations(&text.parse().unwrap());
        let fence = Some((KernelMutant::MissingFence, KernelForm::Blockwise));
        assert!(count("300x300x300 a=e4m3:1x128 b=e4m3:128x128 d=bf16", None) > 4);
        assert_eq!(count("300x300x300 a=e4m3:1x32 b=e4m3:1x32 d=bf16 policy=promote32", None), 0);
        for empty in ["0x3x3", "3x0x3", "3x3x0"] {
            let text = format!("{empty} a=e4m3:tensor b=e4m3:tensor d=f32");
            assert_eq!((count(&text, None), count(&text, fence)), (1, 0), "{text}");
        }
        // Odd rows of D are not stored by TMA.
        assert_eq!(count("300x301x300 a=e4m3:tensor b=e4m3:tensor d=bf16", fence), 0);
        // The one form and the other.
        let few = "8x300x1024 a=e4m3:1x128 b=e4m3:128x128 d=bf16";
        let twice = KernelForm::ALL.map(|form| count(few, Some((KernelMutant::StepTwice, form))));
        assert!(twice.iter().all(|count| *count > 0) && twice.iter().sum::<usize>() == count(few, None), "{twice:?}");
    }

    /// Breaks if what is compiled ahead is not what a plan asks the cache for: each kernel would be compiled
    /// twice. Needs NVRTC and no GPU.
    #[test]
    #[ignore = "needs NVRTC"]
    fn what_is_prepared_is_in_the_cache() {
        let problem: Problem = "64x64x64 a=e4m3:tensor b=e4m3:tensor d=f32".parse().unwrap();
        for mutant in [None, Some((KernelMutant::StepTwice, KernelForm::Blockwise))] {
            let kernels = kernels(mutant);
            let candidates = kernels.candidates(&problem).unwrap_or_default();
            let last = candidates.len() - 1;
            let source = match mutant {
                None => candidates[last].source(),
                Some((mutant, _)) => mutant.source(&candidates[last]).unwrap(),
            };
            let key = Key::new(&source, &BASE_OPTIONS, kernels.compiler.nvrtc().unwrap().version());
            assert!(kernels.compiler.cache().get(&key).is_none());
            kernels.prepare(&problem, last);
            assert!(kernels.compiler.cache().get(&key).is_some(), "{mutant:?}");
        }
    }
}
