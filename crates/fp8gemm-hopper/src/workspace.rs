//! Launches on slices with a workspace, for plans whose schedule is stream-K.

use core::fmt;

use cudarc::driver::{CudaStream, DevicePtrMut};

use crate::slices::{Addend, Fp8, Inputs, OutputElement, Strided, StridedMut};
use crate::{HopperError, Plan};

/// A plan together with its workspace, from [`Plan::with_workspace`]: the launches of [`Plan`] on
/// slices, for plans that need a workspace and for those that do not.
pub struct WithWorkspace<'a> {
    plan: &'a Plan,
    workspace: &'a mut dyn DevicePtrMut<u8>,
}

impl Plan {
    /// Launches on slices with a workspace of at least [`Plan::workspace_bytes`], at a multiple of 128
    /// bytes (every allocation of cudarc starts at one).
    ///
    /// **The workspace belongs to this plan**: it is zeroed before the plan's first launch with it,
    /// and every completed launch leaves it ready for the plan's next. Plans of another configuration,
    /// or for another number of CTAs, lay it out differently; zero it again before it changes hands.
    /// Where that was forgotten D is wrong, but nothing else is touched.
    ///
    /// ```no_run
    /// use fp8gemm_hopper::{Gpu, Inputs, Plan, PlanOptions, Strided, StridedMut};
    /// use fp8gemm_jit::{Cache, Compiler};
    /// use half::bf16;
    ///
    /// let gpu = Gpu::open(0)?;
    /// let compiler = Compiler::new(Cache::from_environment(), None);
    /// let problem = "4096x2112x7168 a=e4m3:row b=e4m3:row d=bf16".parse()?;
    /// let plan = Plan::with_options(&gpu, &compiler, &problem, PlanOptions::default().workspace(true))?;
    /// let stream = gpu.context().new_stream()?;
    /// let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(1))?;
    /// let a = stream.clone_htod(&vec![0x38u8; 4096 * 7168])?;
    /// let b = stream.clone_htod(&vec![0x38u8; 2112 * 7168])?;
    /// let (sa, sb) = (stream.clone_htod(&vec![1.0f32; 4096])?, stream.clone_htod(&vec![0.5f32; 2112])?);
    /// let mut d = stream.clone_htod(&vec![bf16::NAN; 4096 * 2112])?;
    /// let inputs = Inputs {
    ///     a: Strided::new(&a, 7168),
    ///     scale_a: Strided::new(&sa, 4096),
    ///     b: Strided::new(&b, 7168),
    ///     scale_b: Strided::new(&sb, 2112),
    /// };
    /// plan.with_workspace(&mut workspace).gemm(&stream, &inputs, StridedMut::new(&mut d, 2112))?;
    /// assert_eq!(stream.clone_dtoh(&d)?[0], bf16::from_f32(3584.0)); // 7168 products of 1 * 0.5
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_workspace<'a, W: DevicePtrMut<u8>>(&'a self, workspace: &'a mut W) -> WithWorkspace<'a> {
        WithWorkspace { plan: self, workspace }
    }
}

impl WithWorkspace<'_> {
    /// `D = alpha A B^T`, as [`Plan::gemm`].
    ///
    /// # Errors
    /// As [`Plan::gemm`]; [`HopperError::Length`] for a workspace shorter than
    /// [`Plan::workspace_bytes`], [`HopperError::Pointer`] for one at no multiple of 128 bytes.
    pub fn gemm<A: Fp8, B: Fp8, D: OutputElement>(
        &mut self,
        stream: &CudaStream,
        inputs: &Inputs<'_, A, B>,
        d: StridedMut<'_, D>,
    ) -> Result<(), HopperError> {
        self.plan.run_slices::<A, B, D, D>(stream, inputs, &Addend::None, d, Some(&mut *self.workspace))
    }

    /// `D = alpha A B^T + beta C`, as [`Plan::gemm_add`].
    ///
    /// # Errors
    /// As [`Plan::gemm_add`], and those of the workspace at [`gemm`](Self::gemm).
    pub fn gemm_add<A: Fp8, B: Fp8, C: OutputElement, D: OutputElement>(
        &mut self,
        stream: &CudaStream,
        inputs: &Inputs<'_, A, B>,
        c: &Strided<'_, C>,
        d: StridedMut<'_, D>,
    ) -> Result<(), HopperError> {
        self.plan.run_slices(stream, inputs, &Addend::Separate(c), d, Some(&mut *self.workspace))
    }

    /// `D = alpha A B^T + beta D`, as [`Plan::gemm_accumulate`].
    ///
    /// # Errors
    /// As [`Plan::gemm_accumulate`], and those of the workspace at [`gemm`](Self::gemm).
    pub fn gemm_accumulate<A: Fp8, B: Fp8, D: OutputElement>(
        &mut self,
        stream: &CudaStream,
        inputs: &Inputs<'_, A, B>,
        d: StridedMut<'_, D>,
    ) -> Result<(), HopperError> {
        self.plan.run_slices::<A, B, D, D>(stream, inputs, &Addend::InPlace, d, Some(&mut *self.workspace))
    }
}

impl fmt::Debug for WithWorkspace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithWorkspace").field("plan", self.plan).field("len", &self.workspace.len()).finish()
    }
}
