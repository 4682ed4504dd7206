//! Single instructions on many tiles of host data: what the hardware does, for whoever wants to hold a
//! model against it.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, result};
use fp8gemm_jit::{Compiler, ProbeAccumulator, ProbeKernel, Unit};

use crate::kernel::{bind, load_function};
use crate::{Gpu, HopperError};

/// A loaded [`ProbeKernel`]. Allocates and copies in each run: a tool, not a way to compute.
#[derive(Clone, Debug)]
pub struct Probe {
    kernel: ProbeKernel,
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

/// `struct InstructionArguments` of `instruction.cuh`.
#[repr(C)]
struct Tiles {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    accumulate: u32,
}

/// `struct ScalarArguments` of `scalar.cu`.
#[repr(C)]
struct Elements {
    x: u64,
    y: u64,
    z: u64,
    words: u64,
    sums: u64,
    elements: u32,
}

impl Probe {
    /// Compiles (about 0.1 s, once for each cache) and loads.
    ///
    /// # Errors
    /// [`HopperError::Jit`] where the hardware has no such instruction or there is no compiler;
    /// [`HopperError::Cuda`].
    pub fn new(gpu: &Gpu, compiler: &Compiler, kernel: ProbeKernel) -> Result<Self, HopperError> {
        kernel.check()?;
        let (source, name) = (kernel.source(), kernel.to_string());
        let unit = Unit {
            source: &source,
            kernel: kernel.symbol(),
            configuration: &name,
            options: &fp8gemm_jit::BASE_OPTIONS,
        };
        let function = load_function(gpu, compiler, &unit)?;
        let stream = gpu.context().new_stream().map_err(HopperError::cuda("cuStreamCreate"))?;
        Ok(Self { kernel, function, stream })
    }

    /// The kernel.
    pub fn kernel(&self) -> ProbeKernel {
        self.kernel
    }

    /// Runs a tensor-core instruction, or its chain, on `tiles` tiles: `D = A B^T + C`, or without C if
    /// not `accumulate` (`wgmma`'s scale-d; `mma.sync` starts from zero).
    ///
    /// `a` is `[tiles, rows, K]` and `b` `[tiles, columns, K]`, bytes; `c` and the result are
    /// `[tiles, rows, columns]`, bits of f32, or of f16 in the low half. Shapes: [`ProbeKernel::tile`].
    ///
    /// # Errors
    /// [`HopperError::Length`] for an array of another length, or a kernel without tiles (it needs 0);
    /// [`HopperError::TooLarge`]; [`HopperError::Cuda`].
    pub fn tiles(
        &self,
        tiles: usize,
        a: &[u8],
        b: &[u8],
        c: &[u32],
        accumulate: bool,
    ) -> Result<Vec<u32>, HopperError> {
        let (rows, columns, k) = self.kernel.tile().unwrap_or_default();
        exactly("A", a.len(), tiles as u128 * (rows * k) as u128)?;
        exactly("B", b.len(), tiles as u128 * (columns * k) as u128)?;
        exactly("C", c.len(), tiles as u128 * (rows * columns) as u128)?;
        let grid = grid(tiles)?;
        if c.is_empty() {
            return Ok(Vec::new());
        }
        let f16 = match self.kernel {
            ProbeKernel::Wgmma { accumulator, .. } | ProbeKernel::Mma { accumulator, .. } => {
                accumulator == ProbeAccumulator::F16
            }
            ProbeKernel::Scalar => false,
        };
        // Two f16 in a word, the first in the low half, as the GPU has them.
        let pack = |c: &[u32]| -> Vec<u32> {
            if f16 { c.chunks(2).map(|pair| pair[0] & 0xFFFF | pair[1] << 16).collect() } else { c.to_vec() }
        };
        let c = pack(c);
        // What the kernel does not write stays recognisable.
        let poison = vec![0xDEAD_BEEF_u32; c.len()];
        let stream = &self.stream;
        let (a, b, c) = (self.upload(a)?, self.upload(b)?, self.upload(&c)?);
        let mut d = self.upload(&poison)?;
        {
            let ((a, _a), (b, _b), (c, _c)) = (a.device_ptr(stream), b.device_ptr(stream), c.device_ptr(stream));
            let (d, _d) = d.device_ptr_mut(stream);
            // SAFETY: the kernel takes this struct; the matrices lie in the slices, which are as long as
            // its shapes and `grid` say and outlive the download below on the same stream.
            unsafe { self.launch(grid, &Tiles { a, b, c, d, accumulate: u32::from(accumulate) })? };
        }
        let d = stream.clone_dtoh(&d).map_err(HopperError::cuda("cuMemcpyDtoH"))?;
        Ok(if f16 { d.iter().flat_map(|word| [word & 0xFFFF, word >> 16]).collect() } else { d })
    }

    /// Runs the f32 instructions of [`ProbeKernel::Scalar`] on each element.
    ///
    /// # Errors
    /// [`HopperError::Length`] for arrays that are not equally long, or a kernel for tiles (it needs
    /// 0); [`HopperError::TooLarge`]; [`HopperError::Cuda`].
    pub fn scalars(
        &self,
        x: &[f32],
        y: &[f32],
        z: &[f32],
    ) -> Result<Vec<[u32; ProbeKernel::SCALAR_WORDS]>, HopperError> {
        let elements = if self.kernel == ProbeKernel::Scalar { x.len() } else { 0 };
        for (what, found) in [("x", x.len()), ("y", y.len()), ("z", z.len())] {
            exactly(what, found, elements as u128)?;
        }
        let grid = grid(elements.div_ceil(128))?;
        if elements == 0 {
            return Ok(Vec::new());
        }
        let stream = &self.stream;
        let (x, y, z) = (self.upload(x)?, self.upload(y)?, self.upload(z)?);
        let zeros = |words| stream.alloc_zeros::<u32>(words).map_err(HopperError::cuda("cuMemAlloc"));
        let (mut words, mut sums) = (zeros(elements * ProbeKernel::SCALAR_WORDS)?, zeros(elements * 4)?);
        {
            let ((x, _x), (y, _y), (z, _z)) = (x.device_ptr(stream), y.device_ptr(stream), z.device_ptr(stream));
            let ((words, _words), (sums, _sums)) = (words.device_ptr_mut(stream), sums.device_ptr_mut(stream));
            // `grid` has seen that the number fits.
            let arguments = Elements { x, y, z, words, sums, elements: elements as u32 };
            // SAFETY: the kernel takes this struct; all slices have its elements, and outlive the
            // download below on the same stream.
            unsafe { self.launch(grid, &arguments)? };
        }
        let words = stream.clone_dtoh(&words).map_err(HopperError::cuda("cuMemcpyDtoH"))?;
        let (words, _) = words.as_chunks();
        Ok(words.to_vec())
    }

    fn upload<T: DeviceRepr>(&self, data: &[T]) -> Result<CudaSlice<T>, HopperError> {
        self.stream.clone_htod(data).map_err(HopperError::cuda("cuMemcpyHtoD"))
    }

    /// # Safety
    /// `arguments` is the kernel's parameter; what it points at is there until the launch is done.
    unsafe fn launch<T>(&self, grid: u32, arguments: &T) -> Result<(), HopperError> {
        bind(self.stream.context())?;
        let mut parameters = [(&raw const *arguments).cast_mut().cast::<c_void>()];
        let block = (self.kernel.threads(), 1, 1);
        // SAFETY: the driver copies the parameter before it returns; the function is kept loaded by
        // `self`; the rest is the caller's promise.
        unsafe {
            let (function, stream) = (self.function.cu_function(), self.stream.cu_stream());
            result::launch_kernel(function, (grid, 1, 1), block, 0, stream, &mut parameters)
        }
        .map_err(HopperError::cuda("cuLaunchKernel"))
    }
}

fn exactly(argument: &'static str, found: usize, needed: u128) -> Result<(), HopperError> {
    if found as u128 == needed { Ok(()) } else { Err(HopperError::Length { argument, found, needed }) }
}

/// CTAs, each with at most 128 elements, counted in 31 bits.
fn grid(ctas: usize) -> Result<u32, HopperError> {
    match u32::try_from(ctas) {
        Ok(grid) if grid < 1 << 24 => Ok(grid),
        _ => Err(HopperError::TooLarge {
            what: "number of CTAs",
            value: ctas as u128,
            rule: "a probe has fewer than 2^24 of them",
        }),
    }
}
