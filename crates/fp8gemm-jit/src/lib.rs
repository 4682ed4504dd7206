//! Compiles fp8gemm's Hopper kernels at run time. Needs no driver and no GPU.

#![deny(unsafe_code)]
