//! Kernels that only move memory: the floor that decode kernels are held against, and the flush that
//! leaves clean lines in the L2 cache.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, result, sys};
use cudarc::nvrtc::Ptx;
use fp8gemm_hopper::HopperError;
use fp8gemm_jit::{BASE_OPTIONS, Compiler, MemoryKernel, Unit};

use crate::BenchError;
use crate::memory::Buffer;
use crate::subject::Buffers;

/// A loaded [`MemoryKernel`].
pub(crate) struct Loaded {
    kernel: MemoryKernel,
    function: CudaFunction,
    ctas: u32,
}

/// `struct StreamArguments` of `stream.cu`.
#[repr(C)]
pub(crate) struct StreamArguments {
    weights: u64,
    weights_bytes: u64,
    a: u64,
    a_bytes: u64,
    d: u64,
    d_bytes: u64,
    policy: u64,
}

/// `struct ReadArguments` of `read.cu`; all zeros are read.
#[repr(C)]
struct ReadArguments {
    from: u64,
    bytes: u64,
}

impl StreamArguments {
    /// All of A, the weights and D; their scales are left out. Loads have this L2 policy.
    pub(crate) fn of(buffers: &Buffers, policy: u64) -> Self {
        // Rows are multiples of 16 bytes; rounded down in case that a buffer is not of rows.
        let bytes = |buffer: &Buffer| buffer.len() as u64 / 16 * 16;
        Self {
            weights: buffers.b.pointer(),
            weights_bytes: bytes(&buffers.b),
            a: buffers.a.pointer(),
            a_bytes: bytes(&buffers.a),
            d: buffers.d.pointer(),
            d_bytes: bytes(&buffers.d),
            policy,
        }
    }
}

impl Loaded {
    /// Compiles, or takes from the cache, and loads; launches will have `ctas` CTAs.
    pub(crate) fn new(
        context: &Arc<CudaContext>,
        compiler: &Compiler,
        kernel: MemoryKernel,
        ctas: u32,
    ) -> Result<Self, BenchError> {
        let (source, name) = (kernel.source(), kernel.to_string());
        let unit = Unit { source: &source, kernel: kernel.symbol(), configuration: &name, options: &BASE_OPTIONS };
        let cubin = compiler.cubin(&unit).map_err(HopperError::Jit)?;
        let module = context.load_module(Ptx::from_binary(cubin.to_vec()));
        let module = module.map_err(BenchError::cuda("cuModuleLoadData"))?;
        let function = module.load_function(kernel.symbol()).map_err(BenchError::cuda("cuModuleGetFunction"))?;
        let dynamic = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function
            .set_attribute(dynamic, kernel.shared_bytes() as i32)
            .map_err(BenchError::cuda("cuFuncSetAttribute"))?;
        Ok(Self { kernel, function, ctas })
    }

    /// In one line.
    pub(crate) fn describe(&self) -> String {
        let (slots, piece) = (MemoryKernel::SLOTS, MemoryKernel::PIECE >> 10);
        match self.kernel {
            MemoryKernel::Stream => {
                format!("{} CTAs, each with {slots} bulk copies of {piece} KB on their way", self.ctas)
            }
            MemoryKernel::Read => format!("{} CTAs", self.ctas),
        }
    }

    /// # Safety
    /// The kernel is `Stream`; until the launch is done on the stream, the buffers that the arguments were
    /// made of live and nothing else writes them.
    pub(crate) unsafe fn stream(&self, stream: &CudaStream, arguments: &StreamArguments) -> Result<(), BenchError> {
        // SAFETY: the kernel takes this struct; memory is the caller's promise.
        unsafe { self.launch(stream, arguments) }
    }

    /// # Safety
    /// The kernel is `Read`; the buffer lives until the launch is done on the stream.
    unsafe fn read(&self, stream: &CudaStream, buffer: &Buffer) -> Result<(), BenchError> {
        let arguments = ReadArguments { from: buffer.pointer(), bytes: buffer.len() as u64 / 16 * 16 };
        // SAFETY: the kernel takes this struct; memory is the caller's promise.
        unsafe { self.launch(stream, &arguments) }
    }

    /// # Safety
    /// `arguments` is the kernel's parameter; what it points at is there until the launch is done.
    unsafe fn launch<T>(&self, stream: &CudaStream, arguments: &T) -> Result<(), BenchError> {
        stream.context().bind_to_thread().map_err(BenchError::cuda("cuCtxSetCurrent"))?;
        let mut parameters = [(&raw const *arguments).cast_mut().cast::<c_void>()];
        let (grid, block) = ((self.ctas, 1, 1), (self.kernel.threads(), 1, 1));
        let shared = self.kernel.shared_bytes();
        // SAFETY: the driver copies the parameter before it returns; the function is kept loaded by
        // `self`; the rest is the caller's promise.
        unsafe {
            let (function, stream) = (self.function.cu_function(), stream.cu_stream());
            result::launch_kernel(function, grid, block, shared, stream, &mut parameters)
        }
        .map_err(BenchError::cuda("cuLaunchKernel"))
    }
}

/// What empties the L2 cache of operands before a cold run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flush {
    /// A memset: leaves dirty lines, whose write-back the first reads of the next kernel pay for. The
    /// method of the recorded times.
    #[default]
    Memset,
    /// A kernel that reads: leaves clean lines, as a serving process does whose kernels before this one
    /// read weights.
    Read,
}

impl Flush {
    /// The least that a [`Read`](Self::Read) must read: four times a Hopper's L2 cache.
    pub const LEAST_READ: usize = 256 << 20;

    /// Bytes, if nothing else is asked for: 8 GB are set, or 512 MiB read.
    pub const fn default_bytes(self) -> usize {
        match self {
            Self::Memset => 8_000_000_000,
            Self::Read => 512 << 20,
        }
    }
}

/// A buffer and a way to flush with it.
pub(crate) enum Flusher {
    Memset(Buffer),
    Read { buffer: Buffer, kernel: Loaded },
}

impl Flusher {
    /// Allocates, and compiles if there is a kernel.
    pub(crate) fn new(
        stream: &Arc<CudaStream>,
        compiler: &Compiler,
        flush: Flush,
        bytes: usize,
        sms: u32,
    ) -> Result<Self, BenchError> {
        let buffer = Buffer::filled(stream, bytes, 0)?;
        Ok(match flush {
            Flush::Memset => Self::Memset(buffer),
            Flush::Read => {
                // Two CTAs of 1024 threads fill an SM.
                let kernel = Loaded::new(stream.context(), compiler, MemoryKernel::Read, 2 * sms)?;
                Self::Read { buffer, kernel }
            }
        })
    }

    /// Puts one flush on the stream.
    pub(crate) fn flush(&self, stream: &CudaStream) -> Result<(), BenchError> {
        match self {
            Self::Memset(buffer) => buffer.fill(stream, 0),
            // SAFETY: this is the reading kernel, as `new` has made it; the buffer belongs to the session,
            // which waits for its stream before it ends.
            Self::Read { buffer, kernel } => unsafe { kernel.read(stream, buffer) },
        }
    }

    /// The kernel that records of a flush name; a memset is none.
    pub(crate) fn kernel(&self) -> Option<&'static str> {
        match self {
            Self::Memset(_) => None,
            Self::Read { kernel, .. } => Some(kernel.kernel.symbol()),
        }
    }
}
