//! Compiles fp8gemm's Hopper kernels at run time. Needs no driver and no GPU.
//!
//! | item | what it does |
//! |---|---|
//! | [`KernelConfig`] | the constants of one kernel, and its source |
//! | [`ElementwiseKernel`] | the constants of a kernel that quantises or transposes, and its source |
//! | [`ProbeKernel`] | kernels that run single instructions, to find out what the hardware does |
//! | [`MemoryKernel`] | kernels that only move memory: a floor to measure against |
//! | [`choose`] | picks a configuration for a problem and a GPU, and says why |
//! | [`Nvrtc`] | finds and loads NVIDIA's run-time compiler, and compiles a source for `sm_90a` |
//! | [`Report`] | reads what ptxas says: registers, stack, spills, serialised `wgmma`; rejects bad kernels |
//! | [`Cubin`] | reads machine code: architecture, kernels, sizes |
//! | [`Cache`] | keeps machine code in memory and on disk; lists, clears, exports, imports |
//! | [`Destination`] | a file that is replaced whole: links stay links, devices are refused |
//! | [`Compiler`] | all of them: source in, checked machine code out |
//! | [`tuning`] | tables of measured configurations, and what is chosen with them |
//! | [`catalog`] | every configuration that can be chosen, and a small set that covers them |
//! | [`sass`] | disassembly: counts instructions and holds them against the configuration; yield and reuse flags of the promotion by pattern |
//!
//! ```
//! use fp8gemm_jit::{BASE_OPTIONS, JitError, Nvrtc, Report};
//!
//! match Nvrtc::find(None) {
//!     Ok(nvrtc) => {
//!         let source = "extern \"C\" __global__ void one(float* p) { *p = 1.0f; }";
//!         let compiled = nvrtc.compile(source, "one", &BASE_OPTIONS)?;
//!         Report::parse(&compiled.log)?.check()?;
//!     }
//!     Err(error) => println!("{error}"),
//! }
//! # Ok::<(), JitError>(())
//! ```
//!
//! Environment: [`FP8GEMM_NVRTC`](NVRTC_VARIABLE) names NVRTC or its folder,
//! [`FP8GEMM_CACHE_DIR`](CACHE_VARIABLE) the folder of the cache,
//! [`FP8GEMM_TUNING`](tuning::TUNING_VARIABLE) another tuning table than the one there, or `off`.

#![deny(unsafe_code)]

mod cache;
pub mod catalog;
mod choose;
mod compiler;
mod config;
mod cubin;
mod destination;
mod elementwise;
mod error;
mod memory_kernel;
#[cfg(feature = "mutants")]
pub mod mutants;
mod nvrtc;
mod probe;
mod report;
pub mod sass;
mod source;
pub mod tuning;
mod wgmma;

pub use cache::{CACHE_VARIABLE, Cache, Cleared, Exported, Imported, Key, Listed, Metadata, cache_root};
pub use choose::{Choice, Estimate, Terms, choose, streams, tiles, tma_can_store};
pub use compiler::{Checked, Compiler, Made, Statistics, Unit, compile_checked};
pub use config::{Accumulation, KernelConfig, KernelScales, SHARED_LIMIT, Schedule, Share, Store};
pub use cubin::{Architecture, Cubin, CubinKernel};
pub use destination::{Abandoned, Destination, abandon_writes};
pub use elementwise::{BlockScales, ElementwiseKernel, QuantizeKernel};
pub use error::JitError;
pub use memory_kernel::MemoryKernel;
pub use nvrtc::{Attempt, Attempts, BASE_OPTIONS, Compiled, NVRTC_VARIABLE, Nvrtc, Place};
pub use probe::{ProbeAccumulator, ProbeKernel};
pub use report::{Defect, FunctionReport, KernelReport, LocalMemory, Remark, Report};
pub use source::KERNEL;
