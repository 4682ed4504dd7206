#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub use fp8gemm_formats as formats;
pub use fp8gemm_problem as problem;
pub use fp8gemm_sim as sim;
