#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "hopper")]
pub mod convert;

pub use fp8gemm_formats as formats;
#[cfg(feature = "hopper")]
pub use fp8gemm_hopper as hopper;
#[cfg(feature = "hopper")]
pub use fp8gemm_jit as jit;
pub use fp8gemm_problem as problem;
pub use fp8gemm_sim as sim;
