//! Criterion benches of fp8gemm's formats, quantisation, references and CPU twin.
//!
//! The benches are in `benches/benches/`, one file a topic; this library is empty. Figures and
//! the machines they were taken on are in `docs/performance.md`.
