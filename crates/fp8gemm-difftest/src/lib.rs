//! Differential testing of FP8 GEMM kernels: generated cases, every output bit against the CPU twin.
//!
//! ```text
//! D[m, n] = cast(alpha * sum_k (A[m, k] * scale_a) * (B[n, k] * scale_b) + beta * C[m, n])
//! ```
//!
//! A tolerance finds a kernel that is very wrong. This crate finds one that is wrong in one bit of one
//! element, on data that was made to expose it, and makes the case small.
//!
//! | item | what it does |
//! |---|---|
//! | [`Generator`], [`Menu`], [`Only`] | cases from a seed: shapes at edges, all types, scales and policies, data and scales by regime |
//! | [`Subject`] | what is under test: a path of the twin, a kernel on a GPU, somebody's library |
//! | [`check()`] | one case: every bit of D, guard bands, inputs unchanged, twice |
//! | [`Property`] | what must hold between results: row order, batch size, K cut in two, signs, powers of two |
//! | [`run()`] | many cases, with coverage and findings |
//! | [`Prepare`] | what a subject can have done for a case before its turn, on other threads |
//! | [`replay()`] | a kept case on every configuration of a subject |
//! | [`shrink()`] | from a failing case to a small one |
//! | [`mutants`] | wrong kernels by which all of this is scored |
//! | `instruction` (feature `hopper`) | single instructions on a GPU against the model |
//! | [`fit`] | a tensor core's parameters from recorded instructions alone |
//!
//! The twin's own SIMD paths against its specification, which needs no GPU:
//!
//! ```
//! use fp8gemm_difftest::{Generator, Menu, Only, Options, Subject, TwinPath, run};
//!
//! let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
//! subjects.extend(TwinPath::all().into_iter().map(|path| Box::new(path) as Box<dyn Subject>));
//! let generator = Generator::new(0, Menu::twin(), Only::default());
//! let summary = run(&generator, &mut subjects, &Options::cases(5), &mut |_| {})?;
//! assert!(summary.findings.is_empty());
//! # Ok::<(), fp8gemm_difftest::DifftestError>(())
//! ```

#![deny(unsafe_code)]

mod ahead;
mod case;
mod check;
mod coverage;
mod cublaslt;
mod data;
mod error;
mod finding;
pub mod fit;
mod generate;
#[cfg(feature = "hopper")]
pub mod instruction;
mod maker;
mod memory;
pub mod mutants;
mod property;
mod regime;
mod replay;
mod run;
mod shrink;
mod subject;

pub use case::{Case, Origin};
pub use check::{Fault, Specials, check, compute};
pub use coverage::Coverage;
pub use cublaslt::cublaslt_tensor;
pub use error::DifftestError;
pub use finding::Finding;
pub use generate::{Generator, Menu};
pub use maker::{Prepare, Times};
pub use memory::{Alignment, Buffer, Buffers};
pub use property::Property;
pub use regime::{DataRegime, Only, ScaleRegime, ShapeRegime};
pub use replay::{Replayed, replay};
pub use run::{Event, Options, Summary, run};
pub use shrink::{Effort, shrink};
#[cfg(feature = "hopper")]
pub use subject::HopperSubject;
pub use subject::{External, Subject, TwinPath};
