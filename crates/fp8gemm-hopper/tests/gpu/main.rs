//! The GPU against the twin, bit for bit. Needs a Hopper GPU, its driver and NVRTC:
//! `cargo test --release -p fp8gemm-hopper --test gpu -- --ignored --nocapture`.
//!
//! | module | what is tried |
//! |---|---|
//! | `random` | every configuration on random problems with adversarial data, between guard bands |
//! | `decode` | few rows of A: swapped operands, K split over a cluster, weights loaded early |
//! | `edges` | shapes at the edges of the rules, batch invariance, recordings of other libraries |
//! | `launches` | slices, graphs, dependent launch, threads, several GPUs, shared kernels |
//! | `ordering` | slices used after a launch: streams and plans dropped, a GPU opened twice, foreign contexts |
//! | `stream_k` | workspaces: in replayed graphs, in chains of dependent launches, on slices |
//! | `tuning` | plans that a tuning table chooses for |
//! | `l2` | the words of L2 policies |
//! | `large` | matrices of more than 2^31 elements or bytes |
//! | `errors` | a lost context |
//! | `host_time` | what a launch costs the CPU |
//! | `sanitizer` | a few tiny problems for compute-sanitizer |
//!
//! `problems` and `data` make problems and operands from seeds, `guarded` runs one with every byte
//! around it watched, `device` holds one in plain memory. With one GPU, `--skip two_gpus`.

#![allow(clippy::unwrap_used)]

mod data;
mod decode;
mod device;
mod edges;
mod errors;
mod guarded;
mod host_time;
mod l2;
mod large;
mod launches;
mod ordering;
mod problems;
mod random;
mod recorded;
mod sanitizer;
mod stream_k;
mod tuning;

use fp8gemm_hopper::Gpu;
use fp8gemm_jit::{Cache, Compiler};

/// The first GPU and a compiler; fails where there is none.
fn setup() -> (Gpu, Compiler) {
    (Gpu::open(0).unwrap_or_else(|error| panic!("{error}")), Compiler::new(Cache::from_environment(), None))
}
