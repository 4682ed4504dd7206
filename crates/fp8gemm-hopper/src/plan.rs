//! A compiled kernel for one problem, and launches of it on device memory.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, sys};
use cudarc::nvrtc::Ptx;
use fp8gemm_jit::{BASE_OPTIONS, Compiler, JitError, KERNEL, KernelConfig, KernelScales, Unit, choose};
use fp8gemm_problem::{Problem, Side};

use crate::arguments::{Arguments, grid};
use crate::operands::Operands;
use crate::scales::ScaleForm;
use crate::{Gpu, HopperError};

/// A problem with the kernel that computes it, loaded on one GPU. Cheap to clone.
///
/// Making a plan may compile (a fraction of a second, once for each configuration and cache);
/// [`prepare`](Self::prepare) and [`Prepared::launch`] neither compile nor allocate device memory.
/// `Send` and `Sync`.
#[derive(Clone, Debug)]
pub struct Plan {
    problem: Problem,
    config: KernelConfig,
    sms: u32,
    function: CudaFunction,
    context: Arc<CudaContext>,
}

impl Plan {
    /// Chooses a configuration as [`fp8gemm_jit::choose`] does, compiles and loads it. A candidate
    /// that the compiler at hand makes spill registers is passed over with a warning: every
    /// candidate gives the same bits.
    ///
    /// # Errors
    /// [`HopperError::Jit`] where no kernel computes the problem (M, N or K of 0 among them) or the
    /// compiler is missing, [`HopperError::TooLarge`], [`HopperError::Cuda`].
    pub fn new(gpu: &Gpu, compiler: &Compiler, problem: &Problem) -> Result<Self, HopperError> {
        let mut rejected = None;
        for candidate in choose(problem, gpu.sms())?.candidates {
            match Self::with_config(gpu, compiler, problem, candidate.config) {
                Err(HopperError::Jit(error @ JitError::Rejected { .. })) => {
                    tracing::warn!(%problem, config = %candidate.config, %error, "configuration passed over");
                    rejected.get_or_insert(error);
                }
                plan => return plan,
            }
        }
        // `choose` gives at least one candidate, so that all were rejected.
        Err(rejected.map_or(HopperError::Unsupported { problem: *problem, rule: "no configuration" }, HopperError::Jit))
    }

    /// The same with a given configuration: any that computes the problem gives the same bits.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`HopperError::WrongConfiguration`].
    pub fn with_config(
        gpu: &Gpu,
        compiler: &Compiler,
        problem: &Problem,
        config: KernelConfig,
    ) -> Result<Self, HopperError> {
        // Whatever is chosen has the types, scales and accumulation that the problem needs.
        check_config(problem, &config, &choose(problem, gpu.sms())?.config())?;
        check_sizes(problem, &config)?;
        let (source, configuration) = (config.source(), config.to_string());
        let unit = Unit { source: &source, kernel: KERNEL, configuration: &configuration, options: &BASE_OPTIONS };
        let cubin = compiler.cubin(&unit)?;
        let context = Arc::clone(gpu.context());
        let module =
            context.load_module(Ptx::from_binary(cubin.to_vec())).map_err(HopperError::cuda("cuModuleLoadData"))?;
        let function = module.load_function(KERNEL).map_err(HopperError::cuda("cuModuleGetFunction"))?;
        function
            .set_attribute(
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                // At most SHARED_LIMIT, which `config.check` has seen to.
                config.shared_bytes() as i32,
            )
            .map_err(HopperError::cuda("cuFuncSetAttribute"))?;
        tracing::debug!(%problem, %config, device = gpu.info().ordinal, "plan");
        Ok(Self { problem: *problem, config, sms: gpu.sms(), function, context })
    }

    /// What it computes.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// How it computes it.
    pub fn config(&self) -> KernelConfig {
        self.config
    }

    /// The context that the kernel is loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// How the scales of this operand must lie in device memory.
    pub fn scale_form(&self, side: Side) -> ScaleForm {
        let operand = if side == Side::A { self.problem.a } else { self.problem.b };
        ScaleForm::of(self.config.scales, side, operand.scales)
    }

    /// Checks pointers and strides, and encodes them for the kernel. Touches no device memory.
    ///
    /// # Errors
    /// [`HopperError::Pointer`], [`HopperError::Stride`], [`HopperError::PresenceOfC`], each naming
    /// the argument, its value and the rule; [`HopperError::Cuda`].
    pub fn prepare(&self, operands: &Operands) -> Result<Prepared, HopperError> {
        let forms = [self.scale_form(Side::A), self.scale_form(Side::B)];
        operands.check(&self.problem, forms)?;
        let arguments = Arguments::encode(&self.problem, &self.config, operands, forms)?;
        Ok(Prepared { plan: self.clone(), arguments, grid: grid(&self.problem, &self.config, self.sms) })
    }

    /// Checks, encodes and launches: [`prepare`](Self::prepare) and [`Prepared::launch`].
    ///
    /// # Errors
    /// Those of both.
    ///
    /// # Safety
    /// As [`Prepared::launch`].
    pub unsafe fn launch(&self, stream: &CudaStream, operands: &Operands) -> Result<(), HopperError> {
        let prepared = self.prepare(operands)?;
        // SAFETY: the caller promises what `Prepared::launch` asks for.
        unsafe { prepared.launch(stream) }
    }
}

/// A plan bound to pointers: what is left is one driver call. `Send` and `Sync`.
#[derive(Clone, Debug)]
pub struct Prepared {
    plan: Plan,
    arguments: Arguments,
    grid: u32,
}

impl Prepared {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Launches the kernel on `stream` and returns at once. The result is in D when the stream has
    /// got there; errors of the kernel itself surface at a later call on this context, as always
    /// in CUDA.
    ///
    /// # Errors
    /// [`HopperError::WrongContext`], [`HopperError::Cuda`].
    ///
    /// # Safety
    /// From now until the launch is done on the stream, for each matrix of the [`Operands`] that
    /// was prepared, of the shape, type and scale form that the plan says:
    /// - every row, from the pointer on at multiples of the stride, is memory that this device can
    ///   access, and stays allocated;
    /// - A, B, C and the scales are initialised, and nothing writes them;
    /// - every row of D, the last one too, is allocated up to the next multiple of 16 bytes, which
    ///   the kernel may write;
    /// - nothing else reads or writes D;
    /// - D overlaps nothing, except that C may be exactly D (same pointer and stride).
    pub unsafe fn launch(&self, stream: &CudaStream) -> Result<(), HopperError> {
        let (plan, context) = (&self.plan, stream.context());
        if context.cu_ctx() != plan.context.cu_ctx() {
            return Err(HopperError::WrongContext { stream: context.ordinal(), plan: plan.context.ordinal() });
        }
        context.bind_to_thread().map_err(HopperError::cuda("cuCtxSetCurrent"))?;
        let mut cluster = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: Default::default(),
            value: sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: plan.config.cluster, y: 1, z: 1 },
            },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: self.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: plan.config.threads(),
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: plan.config.shared_bytes(),
            hStream: stream.cu_stream(),
            attrs: &raw mut cluster,
            numAttrs: u32::from(plan.config.cluster > 1),
        };
        let mut parameters = [(&raw const self.arguments).cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes one parameter of this layout, which the driver copies before it
        // returns; `config`, its attribute and `parameters` outlive the call; the function is kept
        // loaded by the plan. What the kernel does with memory is the caller's promise.
        let code = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                plan.function.cu_function(),
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        code.result().map_err(HopperError::cuda("cuLaunchKernelEx"))
    }
}

/// A configuration computes a problem if it agrees with one that was chosen for it in all that
/// matters to the bits.
fn check_config(problem: &Problem, config: &KernelConfig, chosen: &KernelConfig) -> Result<(), HopperError> {
    config.check()?;
    let blocks = problem.k.div_ceil(128);
    let fields = [
        ("type of A", config.a == chosen.a),
        ("type of B", config.b == chosen.b),
        ("way of applying scales", config.scales == chosen.scales),
        ("accumulation", config.accumulation == chosen.accumulation),
        ("type of D", config.output == chosen.output),
        ("type of C", config.c == chosen.c),
        ("number of K blocks", config.scales != KernelScales::Block1d2d || blocks <= config.max_k_blocks as usize),
    ];
    for (field, agrees) in fields {
        if !agrees {
            return Err(HopperError::WrongConfiguration {
                configuration: config.to_string(),
                problem: *problem,
                field,
            });
        }
    }
    Ok(())
}

/// The kernel counts elements, tiles and tiles of a group in 32 bits, and TMA has signed coordinates.
fn check_sizes(problem: &Problem, config: &KernelConfig) -> Result<(), HopperError> {
    let too_large = |what, value, rule| Err(HopperError::TooLarge { what, value, rule });
    for (what, value) in [("M", problem.m), ("N", problem.n), ("K", problem.k)] {
        if value > (1 << 31) - 512 {
            return too_large(what, value as u128, "TMA's coordinates end at 2^31, tiles included");
        }
    }
    let rows = problem.m.div_ceil(config.block_m as usize) as u128;
    let columns = problem.n.div_ceil(config.block_n as usize) as u128 + 1;
    for (what, rows) in [("number of output tiles", rows), ("number of tiles in a group", u128::from(config.group))] {
        if rows * columns >= (1 << 32) - (1 << 16) {
            return too_large(what, rows * columns, "the kernel counts tiles in 32 bits");
        }
    }
    Ok(())
}
