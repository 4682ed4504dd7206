//! Loads and launches the kernels that quantise and transpose. The only place that knows the layout
//! of their parameter.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, result};
use fp8gemm_jit::{BASE_OPTIONS, Compiler, ElementwiseKernel, Unit};

use crate::context::same_context;
use crate::kernel::{bind, load_function};
use crate::{Gpu, HopperError};

/// The kernels' one parameter; `struct Arguments` of `elementwise.cuh`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Arguments {
    pub(crate) input: u64,
    pub(crate) codes: u64,
    pub(crate) scales: u64,
    pub(crate) input_stride: u64,
    pub(crate) codes_stride: u64,
    pub(crate) scales_stride: u64,
    pub(crate) rows: u32,
    pub(crate) k: u32,
    pub(crate) aligned: u32,
}

// What the kernel reads lies where the compiler of the kernel puts it.
const _: () = assert!(size_of::<Arguments>() == 64 && std::mem::offset_of!(Arguments, aligned) == 56);

/// A loaded kernel.
#[derive(Clone, Debug)]
pub(crate) struct Elementwise {
    kernel: ElementwiseKernel,
    function: CudaFunction,
    context: Arc<CudaContext>,
}

impl Elementwise {
    /// Compiles, or takes from the cache, and loads.
    pub(crate) fn load(gpu: &Gpu, compiler: &Compiler, kernel: ElementwiseKernel) -> Result<Self, HopperError> {
        let (source, configuration) = (kernel.source(), kernel.to_string());
        let symbol = kernel.symbol();
        let unit = Unit { source: &source, kernel: symbol, configuration: &configuration, options: &BASE_OPTIONS };
        let function = load_function(gpu, compiler, &unit)?;
        Ok(Self { kernel, function, context: Arc::clone(gpu.context()) })
    }

    pub(crate) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Launches for codes of this shape, which [`check_sizes`] has seen; nothing if there are none.
    ///
    /// # Safety
    /// The kernel reads and writes what the arguments say, until the launch is done on the stream.
    pub(crate) unsafe fn launch(&self, stream: &CudaStream, arguments: &Arguments) -> Result<(), HopperError> {
        same_context("the stream", stream.context(), &self.context)?;
        // Below 2^31, as `check_sizes` has seen.
        let grid = self.kernel.grid(arguments.rows as usize, arguments.k as usize) as u32;
        if grid == 0 {
            return Ok(());
        }
        bind(&self.context)?;
        let mut parameters = [(&raw const *arguments).cast_mut().cast::<c_void>()];
        let block = (self.kernel.threads(), 1, 1);
        // SAFETY: the kernel takes one parameter of this layout, which the driver copies before it
        // returns; the function is kept loaded by `self`. Memory is the caller's promise.
        unsafe {
            let (function, stream) = (self.function.cu_function(), stream.cu_stream());
            result::launch_kernel(function, (grid, 1, 1), block, 0, stream, &mut parameters)
        }
        .map_err(HopperError::cuda("cuLaunchKernel"))
    }
}

/// The kernels count elements of a row, and CTAs, in 31 bits.
pub(crate) fn check_sizes(kernel: ElementwiseKernel, rows: usize, k: usize) -> Result<(), HopperError> {
    for (what, value) in [("number of rows", rows), ("K", k)] {
        if value >= (1 << 31) - 256 {
            let rule = "the kernels count rows and elements of a row in 31 bits";
            return Err(HopperError::TooLarge { what, value: value as u128, rule });
        }
    }
    let value = kernel.grid(rows, k);
    if value >= 1 << 28 {
        let rule = "the kernels count warps in 31 bits, 8 to a CTA";
        return Err(HopperError::TooLarge { what: "number of CTAs", value, rule });
    }
    Ok(())
}
