//! The CUDA sources of the Hopper kernels, as text.
//!
//! | source | content |
//! |---|---|
//! | [`PTX`] | the PTX instructions in use, one function each |
//! | [`GEMM`] | the dense GEMM, read from top to bottom |
//!
//! They include no header and name no path: a translation unit is the constants of one
//! configuration, then these texts in this order. `fp8gemm-jit` assembles and compiles it.

#![forbid(unsafe_code)]

/// Wrappers of mbarrier, TMA, `wgmma` control, `setmaxnreg` and `stmatrix` instructions.
pub const PTX: &str = include_str!("ptx.cuh");

/// The persistent, warp-specialised dense GEMM kernel `fp8gemm`.
pub const GEMM: &str = include_str!("gemm.cu");
