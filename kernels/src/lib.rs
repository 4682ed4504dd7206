//! The CUDA sources of the Hopper kernels, as text.
//!
//! | source | content |
//! |---|---|
//! | [`PTX`] | the PTX instructions in use, one function each |
//! | [`ARGUMENTS`] | what a launch is told |
//! | [`SCHEDULE`] | which part of D a CTA computes when |
//! | [`EPILOGUE`] | from accumulators to D |
//! | [`MAIN_LOOP`] | shared memory, and the K loop of a math warpgroup |
//! | [`GEMM`] | the dense GEMM: what each warp does, read from top to bottom |
//! | [`DECODE`] | the GEMM of few rows of A, with the operands on each other's side; needs only [`PTX`] and [`ARGUMENTS`] |
//! | [`ELEMENTWISE`] | what the next three share: 16 bytes of input, the scale of a block, the cast |
//! | [`QUANTIZE`] | `[rows, K]` numbers to FP8 codes and block scales |
//! | [`TRANSPOSE`] | the same from `[K, rows]`, and the transposition of FP8 codes |
//! | [`REPACK`] | FP8 codes to rows of multiples of 16 bytes |
//! | [`INSTRUCTION`] | what the next two share, which probe the hardware: fragments and where they lie |
//! | [`WGMMA`] | one `wgmma`, or a chain of them, on many tiles |
//! | [`MMA`] | the same of `mma.sync` |
//! | [`SCALAR`] | f32 instructions, additions in memory and casts on given bits |
//! | [`STREAM`] | weights and A read once, D written: the floor of a GEMM with few rows |
//! | [`READ`] | memory read once: an L2 cache full of clean lines |
//!
//! They include no header and name no path: a translation unit is the constants of one
//! configuration, then these texts in this order. `fp8gemm-jit` assembles and compiles it.

#![forbid(unsafe_code)]

/// Wrappers of mbarrier, TMA, `wgmma` control, `setmaxnreg` and `stmatrix` instructions.
pub const PTX: &str = include_str!("ptx.cuh");

/// `struct Arguments`: tensor maps, pointers, sizes.
pub const ARGUMENTS: &str = include_str!("arguments.cuh");

/// The raster of tiles and the items of a CTA, stream-K among them.
pub const SCHEDULE: &str = include_str!("schedule.cuh");

/// Scales at the end, alpha, beta and C, the cast, and the way to memory.
pub const EPILOGUE: &str = include_str!("epilogue.cuh");

/// `struct Shared`, the ring of stages, promotion, and the K loops.
pub const MAIN_LOOP: &str = include_str!("main_loop.cuh");

/// The persistent, warp-specialised dense GEMM kernel `fp8gemm`.
pub const GEMM: &str = include_str!("gemm.cu");

/// The kernel `fp8gemm` for few rows of A.
pub const DECODE: &str = include_str!("decode.cu");

/// Loads, magnitudes, DeepGEMM's scale rule and the cast to FP8.
pub const ELEMENTWISE: &str = include_str!("elementwise.cuh");

/// The kernel `fp8gemm_quantize`.
pub const QUANTIZE: &str = include_str!("quantize.cu");

/// The kernel `fp8gemm_transpose`.
pub const TRANSPOSE: &str = include_str!("transpose.cu");

/// The kernel `fp8gemm_repack`.
pub const REPACK: &str = include_str!("repack.cu");

/// Arguments and fragments of the kernels that run single instructions.
pub const INSTRUCTION: &str = include_str!("instruction.cuh");

/// The kernel `fp8gemm_wgmma`.
pub const WGMMA: &str = include_str!("wgmma.cu");

/// The kernel `fp8gemm_mma`.
pub const MMA: &str = include_str!("mma.cu");

/// The kernel `fp8gemm_scalar`.
pub const SCALAR: &str = include_str!("scalar.cu");

/// The kernel `fp8gemm_stream`.
pub const STREAM: &str = include_str!("stream.cu");

/// The kernel `fp8gemm_read`.
pub const READ: &str = include_str!("read.cu");
