//! A plan bound to pointers, and its launch: one driver call.

use std::ffi::c_void;

use cudarc::driver::{CudaStream, sys};

use crate::arguments::{Arguments, grid};
use crate::kernel::bind;
use crate::operands::Operands;
use crate::{HopperError, Plan};

/// How to launch; [`LaunchOptions::default`] is an ordinary launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LaunchOptions {
    /// Programmatic dependent launch: the kernel may start while the kernel before it on the stream
    /// still runs, and sets itself up in its shadow. It waits for that kernel's end
    /// (`griddepcontrol.wait`) before it touches global memory, so whatever kernel came before, what
    /// it wrote is seen and what it read is not overwritten. Between kernels with up to 128 rows it
    /// saves 0.1 to 0.7 us a launch; with at most 16 rows and many columns (24576x1536) it
    /// costs up to 29 % unless [`constant_weights`](Self::constant_weights) is set (docs/performance.md). Off by
    /// default.
    ///
    /// The other direction is the next kernel's duty: this one allows its successor to start early
    /// (`griddepcontrol.launch_dependents`). A kernel of yours that is launched after it *with this
    /// same attribute* must itself execute `griddepcontrol.wait`
    /// (`cudaGridDependencySynchronize`) before it reads D or writes anything that this kernel
    /// reads or writes. Without the attribute there is nothing to mind.
    pub overlap_previous: bool,
    /// B is a weight: no kernel before on the stream writes it. With
    /// [`overlap_previous`](Self::overlap_previous), kernels for few rows of A
    /// ([`Schedule::Swapped`](fp8gemm_jit::Schedule::Swapped)) then load B while the kernel before still runs, and wait
    /// for its end only before they read A, the scales of either side, and write D. Others wait as ever. Off by
    /// default.
    pub constant_weights: bool,
}

impl LaunchOptions {
    /// Sets [`overlap_previous`](Self::overlap_previous).
    ///
    /// ```
    /// use fp8gemm_hopper::LaunchOptions;
    ///
    /// let options = LaunchOptions::default().overlapping_previous(true);
    /// assert!(options.overlap_previous);
    /// ```
    #[must_use]
    pub fn overlapping_previous(self, overlap_previous: bool) -> Self {
        Self { overlap_previous, ..self }
    }

    /// Sets [`constant_weights`](Self::constant_weights).
    ///
    /// ```
    /// use fp8gemm_hopper::LaunchOptions;
    ///
    /// let options = LaunchOptions::default().overlapping_previous(true).constant_weights(true);
    /// assert!(options.constant_weights);
    /// ```
    #[must_use]
    pub fn constant_weights(self, constant_weights: bool) -> Self {
        Self { constant_weights, ..self }
    }
}

/// A plan bound to pointers: what is left is one driver call, without allocation, compilation or
/// lock, so that it can be captured in a CUDA graph. `Send` and `Sync`.
#[derive(Clone, Debug)]
pub struct Prepared {
    plan: Plan,
    operands: Operands,
    arguments: Arguments,
    grid: u32,
}

impl Prepared {
    pub(crate) fn new(plan: &Plan, operands: &Operands, workspace: u64) -> Result<Self, HopperError> {
        let (problem, config, forms) = (plan.problem(), plan.config(), plan.forms());
        operands.check(problem, forms, config.store)?;
        Ok(Self {
            plan: plan.clone(),
            operands: *operands,
            arguments: Arguments::encode(problem, &config, operands, forms, workspace)?,
            grid: grid(problem, &config, plan.sms()),
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The pointers.
    pub fn operands(&self) -> &Operands {
        &self.operands
    }

    /// Points at other matrices of the same problem: as [`Plan::prepare`], but what did not change
    /// is not encoded again. After an error nothing has changed.
    ///
    /// # Errors
    /// Those of [`Plan::prepare`].
    pub fn rebind(&mut self, operands: &Operands) -> Result<(), HopperError> {
        let (problem, config, forms) = (self.plan.problem(), self.plan.config(), self.plan.forms());
        operands.check(problem, forms, config.store)?;
        let mut arguments = self.arguments;
        arguments.point(problem, &config, forms, Some(&self.operands), operands)?;
        (self.arguments, self.operands) = (arguments, *operands);
        Ok(())
    }

    /// Launches the kernel on `stream` and returns at once. The result is in D when the stream has
    /// got there; errors of the kernel itself surface at a later call on this context, as always
    /// in CUDA. A stream of another runtime comes in by `CudaContext::wrap_borrowed_stream` of
    /// [`Plan::context`].
    ///
    /// # Errors
    /// [`HopperError::WrongContext`], [`HopperError::Cuda`], [`HopperError::ContextLost`].
    ///
    /// # Safety
    /// From now until the launch is done on the stream (for a graph that captured it: until the
    /// last replay is done), for each matrix of the [`Operands`], of the shape, type and scale form
    /// that the plan says:
    /// - every row, from the pointer on at multiples of the stride, is memory that this device can
    ///   access, and stays allocated;
    /// - A, B, C and the scales are initialised, and nothing writes them;
    /// - the workspace, where the plan needs one, stays allocated, nothing else uses it, and since it
    ///   was zeroed only completed launches of this plan have used it;
    /// - nothing else reads or writes D;
    /// - D overlaps nothing, except that C may be exactly D (same pointer and stride).
    ///
    /// And the stream has not been destroyed.
    pub unsafe fn launch(&self, stream: &CudaStream) -> Result<(), HopperError> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.launch_with(stream, LaunchOptions::default()) }
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    ///
    /// # Safety
    /// As [`launch`](Self::launch), what [`LaunchOptions`] says of the next kernel, and with
    /// [`constant_weights`](LaunchOptions::constant_weights) that no work before on the stream that may still run
    /// writes B.
    pub unsafe fn launch_with(&self, stream: &CudaStream, options: LaunchOptions) -> Result<(), HopperError> {
        let (plan, context) = (&self.plan, stream.context());
        if context.cu_ctx() != plan.context().cu_ctx() {
            return Err(HopperError::WrongContext {
                what: "the stream",
                found: context.ordinal(),
                plan: plan.context().ordinal(),
            });
        }
        bind(context)?;
        let config = plan.config();
        let mut attributes = [
            sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                pad: Default::default(),
                value: sys::CUlaunchAttributeValue {
                    clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: config.cluster(), y: 1, z: 1 },
                },
            },
            sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: Default::default(),
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            },
        ];
        // Those that are wanted lie side by side.
        let wanted = match (config.cluster() > 1, options.overlap_previous) {
            (true, true) => 0..2,
            (true, false) => 0..1,
            (false, true) => 1..2,
            (false, false) => 0..0,
        };
        let attributes = &mut attributes[wanted];
        let config = sys::CUlaunchConfig {
            gridDimX: self.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: config.threads(),
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: config.shared_bytes(),
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let constant;
        let arguments = if options.constant_weights {
            constant = self.arguments.with_constant_weights();
            &constant
        } else {
            &self.arguments
        };
        let mut parameters = [(&raw const *arguments).cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes one parameter of this layout, which the driver copies before it
        // returns; `config`, its attributes and `parameters` outlive the call; the function is kept
        // loaded by the plan. What the kernel does with memory is the caller's promise.
        let code = unsafe {
            sys::cuLaunchKernelEx(&raw const config, plan.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut())
        };
        code.result().map_err(HopperError::cuda("cuLaunchKernelEx"))
    }
}
