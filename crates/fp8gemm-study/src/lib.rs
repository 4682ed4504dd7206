//! Studies of FP8 numerics on the CPU: what a format, a scaling and an accumulator do to a product.
//!
//! The arithmetic is that of `fp8gemm-sim`, which has the bits of an H200; what is here are samples,
//! questions, tables and plots. A study is an ordinary function from [`Settings`] to an [`Outcome`]:
//!
//! ```
//! use fp8gemm_study::{Settings, studies};
//!
//! let outcome = studies::formats(&Settings::quick())?;
//! println!("{}", outcome.findings[0]);
//! println!("{}", outcome.tables[0].csv());
//! # Ok::<(), fp8gemm_study::StudyError>(())
//! ```
//!
//! | module or item | what it is |
//! |---|---|
//! | [`studies`] | the studies and their registry |
//! | [`sample`] | matrices from distributions, the same bits on every platform |
//! | [`Product`] | quantised samples and their exact product, the common ground of studies |
//! | [`Table`], [`Figure`] | typed columns as CSV and JSON; lines and bars as SVG |
//! | [`Grid`] | policy x recipe x distribution: an experiment of one's own |
//! | [`tensor`] | what quantisation does to tensors of one's own, larger than memory if need be |
//! | [`results`], [`report`] | outcomes on disk; one page (HTML or Markdown) of all of them |
//!
//! Results depend on the settings alone: not on threads or the number of cores. Counts and bit
//! patterns are exact; derived figures may differ between platforms in their last digits, where a
//! logarithm of the platform's library is in them.

#![forbid(unsafe_code)]

mod error;
mod figure;
mod grid;
mod outcome;
mod product;
pub mod report;
pub mod results;
pub mod sample;
pub mod studies;
mod study;
mod table;
pub mod tensor;

pub use error::StudyError;
pub use figure::{Figure, FigureKind, Scale};
pub use grid::Grid;
pub use outcome::{Comparable, Outcome, Published};
pub use product::{Product, Shape};
pub use study::{Settings, Study};
pub use table::{Cell, Column, ColumnKind, Table};

/// Runs the README's example with the other documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
