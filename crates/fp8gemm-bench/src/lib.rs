//! Times fp8gemm's Hopper kernels beside cuBLASLt on one GPU.
//!
//! | regime | what happens | who measures |
//! |---|---|---|
//! | cold | a memset of 8 GB (or a read, [`Flush`]) before every run, rivals taking turns | CUPTI: the kernel's own time |
//! | warm | the same launch again and again: what fits the L2 cache is there | CUPTI |
//! | sustained | back to back for seconds, buffers taking turns | events around many launches |
//! | graph | a CUDA graph of 20 or more launches with different weights | events around the graph |
//!
//! The cold regime is that of the recorded times in [`List`], so that they can be compared; the
//! method is described in `docs/benchmarking.md`. Beside the rivals a kernel is timed that only moves
//! memory ([`Row::over_floor`]). Before anything is timed, rows of our D are compared
//! with the twin (`fp8gemm-sim`), every bit.
//!
//! ```no_run
//! use fp8gemm_bench::{Options, Session, Shape};
//! use fp8gemm_jit::{Cache, Compiler};
//!
//! let compiler = Compiler::new(Cache::from_environment(), None);
//! let session = Session::open(0, compiler, Options::default())?;
//! let row = session.run(&Shape::dense(4096, 7168, 2048))?;
//! for (rival, ratio) in row.ratios() {
//!     println!("{rival}: {ratio:.2} times our time");
//! }
//! # Ok::<(), fp8gemm_bench::BenchError>(())
//! ```
//!
//! [`tune()`] finds the fastest configuration of a problem with the same clocks.

#![deny(unsafe_op_in_unsafe_fn)]

mod check;
mod cold;
mod configuration;
mod cublaslt;
mod cupti;
mod error;
mod graph;
mod inputs;
mod library;
mod memory;
mod memory_kernels;
mod models;
mod nvml;
mod recorder;
mod report;
mod session;
mod shapes;
mod stats;
mod subject;
mod sustained;
mod tune;
mod tune_gpu;

pub use configuration::find as find_configuration;
pub use error::BenchError;
pub use memory_kernels::Flush;
pub use models::Model;
pub use nvml::GpuState;
pub use recorder::{CublasLtRecorder, LtInputs};
pub use report::{Entry, Machine, Row, Sustained, floor_mean, geometric_means, write_csv};
pub use session::{Options, Session};
pub use shapes::{
    DEEPGEMM, List, RULER, Shape, parse as parse_shapes, parse_numbered as parse_numbered_shapes, without_comments,
};
pub use stats::{Times, geometric_mean};
pub use tune::{Measure, Outcome, Variant, tune};
pub use tune_gpu::{Compile, GpuMeasure};
