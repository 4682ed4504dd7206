//! The kernels of `fp8gemm-hopper`: every candidate configuration of a problem is one way to compute it.

mod kernels;
mod launch;
mod memory;

use std::sync::Arc;

use fp8gemm_hopper::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError};
use fp8gemm_hopper::{Gpu, HopperError, HostMatrix, HostView, Operands, Plan, gemm_on_gpu};
use fp8gemm_jit::mutants::{KernelForm, KernelMutant};
use fp8gemm_jit::{Cache, Compiler, JitError, KernelConfig, tma_can_store};
use fp8gemm_problem::{Problem, Side};
use fp8gemm_sim::{Matrix, MatrixView};

pub(crate) use self::kernels::has_kernel;
use self::kernels::{Kernels, NoKernel, is_empty};
use self::launch::{CROWD, Manner, Other, behind, crowd, launch, replay};
use self::memory::{OnDevice, Scales};
use super::Subject;
use crate::memory::bytes;
use crate::{Alignment, Buffers, DifftestError, Prepare};

/// The way in which problems with an M, N or K of 0 are computed, which have no kernel of their own.
const EMPTY: &str = "gemm_on_gpu";

/// A GPU with the compiler of its kernels.
pub struct HopperSubject {
    gpu: Gpu,
    kernels: Arc<Kernels>,
    stream: Arc<CudaStream>,
    /// The last one, for the second run and for properties.
    plan: Option<(Problem, KernelConfig, Plan)>,
    /// Launches so far, which take turns in their manner.
    launches: usize,
}

impl HopperSubject {
    /// Opens the GPU of this ordinal; kernels come from the usual cache or from NVRTC.
    ///
    /// # Errors
    /// [`DifftestError::NoGpu`].
    pub fn open(ordinal: usize) -> Result<Self, DifftestError> {
        let gpu = Gpu::open(ordinal).map_err(|error| DifftestError::NoGpu { reason: error.to_string() })?;
        Self::of(gpu, Cache::from_environment(), None)
    }

    /// The same GPU with kernels that are wrong in one thing, on purpose, and only those of this form: a mistake
    /// that several forms can have is scored in each. They are compiled anew in each process: no cache keeps
    /// them.
    ///
    /// # Errors
    /// [`DifftestError::NoGpu`].
    pub fn mutant(&self, mutant: KernelMutant, form: KernelForm) -> Result<Self, DifftestError> {
        Self::of(self.gpu.clone(), Cache::in_memory(), Some((mutant, form)))
    }

    fn of(gpu: Gpu, cache: Cache, mutant: Option<(KernelMutant, KernelForm)>) -> Result<Self, DifftestError> {
        let stream = gpu.context().new_stream();
        let stream = stream.map_err(|error| DifftestError::NoGpu { reason: error.to_string() })?;
        let kernels = Arc::new(Kernels { compiler: Compiler::new(cache, None), sms: gpu.sms(), mutant });
        Ok(Self { gpu, kernels, stream, plan: None, launches: 0 })
    }

    /// The GPU, for tests of what is no problem.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The compiler of its kernels.
    pub fn compiler(&self) -> &Compiler {
        &self.kernels.compiler
    }

    fn candidates(&self, problem: &Problem) -> Result<Vec<KernelConfig>, DifftestError> {
        self.kernels.candidates(problem).map_err(|none| match none {
            NoKernel::Unsupported(rule) => self.unsupported(problem, rule),
            NoKernel::Failed(error) => self.failed(problem, &error),
        })
    }

    fn plan(&mut self, problem: &Problem, config: KernelConfig) -> Result<Plan, DifftestError> {
        if let Some((of, with, plan)) = &self.plan
            && (*of, *with) == (*problem, config)
        {
            return Ok(plan.clone());
        }
        let plan = match self.kernels.mutant {
            None => Plan::with_config(&self.gpu, self.compiler(), problem, config),
            Some((mutant, _)) => Plan::mutant(&self.gpu, self.compiler(), problem, config, mutant),
        };
        let plan = match plan {
            // As a plan does by itself: another candidate has the same bits.
            Err(HopperError::Jit(error @ JitError::Rejected { .. })) => {
                return Err(self.unsupported(problem, error.to_string()));
            }
            plan => plan.map_err(|error| self.failed(problem, &error))?,
        };
        self.plan = Some((*problem, config, plan.clone()));
        Ok(plan)
    }

    /// D of a problem with an M, N or K of 0, by the function that takes those.
    fn empty(&self, problem: &Problem, buffers: &mut Buffers) -> Result<(), DifftestError> {
        let [scales_a, scales_b] = buffers.scales()?;
        let (a, b) = (buffers.operand_a(problem, &scales_a)?, buffers.operand_b(problem, &scales_b)?);
        let c = buffers.c_matrix(problem)?;
        let c = c.as_ref().map(|c| match c.view() {
            MatrixView::Bf16(x) => HostView::Bf16(x),
            MatrixView::F16(x) => HostView::F16(x),
            MatrixView::F32(x) => HostView::F32(x),
        });
        let product = gemm_on_gpu(&self.gpu, self.compiler(), &a, &b, c.as_ref(), problem);
        let d = match product.map_err(|error| self.failed(problem, &error))?.d {
            HostMatrix::Bf16(x) => Matrix::Bf16(x),
            HostMatrix::F16(x) => Matrix::F16(x),
            HostMatrix::F32(x) => Matrix::F32(x),
        };
        buffers.d.write(&bytes(&d.view()));
        Ok(())
    }

    fn unsupported(&self, problem: &Problem, rule: String) -> DifftestError {
        DifftestError::Unsupported { subject: self.name(), problem: *problem, rule }
    }

    fn failed(&self, problem: &Problem, error: &dyn std::error::Error) -> DifftestError {
        DifftestError::Subject { subject: self.name(), problem: *problem, reason: error.to_string() }
    }

    fn launch(&mut self, plan: &Plan, problem: &Problem, buffers: &mut Buffers) -> Result<(), Trouble> {
        let stream = self.stream.clone();
        let [scales_a, scales_b] = buffers.scales().map_err(|error| Trouble(error.to_string()))?;
        let views = (buffers.operand_a(problem, &scales_a), buffers.operand_b(problem, &scales_b));
        let (view_a, view_b) = (views.0.map_err(Trouble::of)?, views.1.map_err(Trouble::of)?);
        let sa = Scales::new(&stream, plan.scale_form(Side::A), &view_a)?;
        let sb = Scales::new(&stream, plan.scale_form(Side::B), &view_b)?;
        let (a, b) = (OnDevice::new(&stream, &buffers.a)?, OnDevice::new(&stream, &buffers.b)?);
        let d = OnDevice::new(&stream, &buffers.d)?;
        let c = buffers.c.as_ref().filter(|_| problem.epilogue.reads_c());
        let c = c.map(|c| OnDevice::new(&stream, c)).transpose()?;
        let at_d = d.matrix(&stream, &buffers.d);
        let at_c = match (&c, &buffers.c) {
            (Some(c), Some(buffer)) => Some(c.matrix(&stream, buffer)),
            _ => buffers.c_in_place.then_some(at_d),
        };
        let operands = Operands {
            a: a.matrix(&stream, &buffers.a),
            b: b.matrix(&stream, &buffers.b),
            scale_a: sa.matrix(&stream),
            scale_b: sb.matrix(&stream),
            c: at_c,
            d: at_d,
        };
        let workspace: CudaSlice<u8> = stream.alloc_zeros(plan.workspace_bytes().max(1))?;
        let (pointer, _used) = workspace.device_ptr(&stream);
        let prepared = plan.prepare_with_workspace(&operands, pointer).map_err(Trouble::of)?;
        let manner = Manner::ALL[self.launches % Manner::ALL.len()];
        self.launches += 1;
        match manner {
            Manner::Plain => launch(&prepared, &stream, false)?,
            Manner::Dependent => launch(&prepared, &stream, true)?,
            Manner::Graph => replay(&prepared, &stream)?,
            Manner::EarlyWeights | Manner::Crowd => {
                let others = if manner == Manner::Crowd { CROWD } else { 1 };
                let others = (0..others).map(|_| Other::new(plan, &stream, &operands, &buffers.d));
                let others = others.collect::<Result<Vec<_>, Trouble>>()?;
                if manner == Manner::Crowd {
                    crowd(&prepared, &stream, &others)?;
                } else {
                    behind(&prepared, &stream, &others[0])?;
                }
                d.fetch(&stream, &mut buffers.d)?;
                let expected = &buffers.d.bytes()[d.shift..];
                for other in &others {
                    if stream.clone_dtoh(&other.d.device)? != expected {
                        return Err(Trouble(format!("launches of the same differ ({manner:?})")));
                    }
                }
            }
        }
        d.fetch(&stream, &mut buffers.d)?;
        // Inputs too: the runner looks for what was written there.
        a.fetch(&stream, &mut buffers.a)?;
        b.fetch(&stream, &mut buffers.b)?;
        if let (Some(c), Some(buffer)) = (&c, &mut buffers.c) {
            c.fetch(&stream, buffer)?;
        }
        for (side, scales) in [("A", &sa), ("B", &sb)] {
            if stream.clone_dtoh(&scales.device)? != scales.image {
                return Err(Trouble(format!("the scales of {side}, or memory beside them, were written")));
            }
        }
        Ok(())
    }
}

impl Subject for HopperSubject {
    fn name(&self) -> String {
        let mutant =
            self.kernels.mutant.map_or_else(String::new, |(mutant, form)| format!(", mutant {mutant}, {form}"));
        format!("GPU {}, {}{mutant}", self.gpu.info().ordinal, self.gpu.info().name)
    }

    /// What TMA asks for; C and D may lie anywhere where their rows do not allow TMA anyway.
    fn alignment(&self, problem: &Problem) -> Alignment {
        Alignment { operands: 16, outputs: if tma_can_store(problem) { 16 } else { 1 }, c_in_place: true }
    }

    fn configurations(&mut self, problem: &Problem) -> Result<Vec<String>, DifftestError> {
        if is_empty(problem) {
            return match self.kernels.mutant {
                None => Ok(vec![EMPTY.to_owned()]),
                Some(_) => Err(self.unsupported(problem, "M, N or K is 0".to_owned())),
            };
        }
        Ok(self.candidates(problem)?.iter().map(ToString::to_string).collect())
    }

    fn preparer(&self) -> Option<Arc<dyn Prepare>> {
        Some(self.kernels.clone())
    }

    fn run(&mut self, problem: &Problem, configuration: usize, buffers: &mut Buffers) -> Result<(), DifftestError> {
        if is_empty(problem) {
            return self.empty(problem, buffers);
        }
        let candidates = self.candidates(problem)?;
        let Some(config) = candidates.get(configuration).copied() else {
            let (subject, index, configurations) = (self.name(), configuration, candidates.len());
            return Err(DifftestError::Configuration { subject, index, configurations });
        };
        let plan = self.plan(problem, config)?;
        self.launch(&plan, problem, buffers).map_err(|Trouble(reason)| DifftestError::Subject {
            subject: self.name(),
            problem: *problem,
            reason: format!("{config}: {reason}"),
        })
    }
}

/// What went wrong on the way to a launch and back.
#[derive(Debug)]
struct Trouble(String);

impl Trouble {
    fn of(error: impl std::error::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<DriverError> for Trouble {
    fn from(error: DriverError) -> Self {
        Self::of(error)
    }
}
