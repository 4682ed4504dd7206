//! The kernels that run single instructions compile, and those that only move memory. Needs NVRTC and no GPU:
//!
//! `cargo test --release -p fp8gemm-jit --test probe_kernels -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use fp8gemm_jit::sass::{Disassembler, Listing};
use fp8gemm_jit::{BASE_OPTIONS, MemoryKernel, Nvrtc, ProbeAccumulator, ProbeKernel, Unit, compile_checked};
use fp8gemm_problem::OperandType;

/// Every n with one combination of the rest, in turn, and every combination of the rest with one n.
fn kernels() -> Vec<ProbeKernel> {
    let mut rest = Vec::new();
    for a in OperandType::ALL {
        for b in OperandType::ALL {
            for accumulator in [ProbeAccumulator::F32, ProbeAccumulator::F16] {
                for (a_in_registers, negate) in
                    [(false, [false, false]), (true, [false, false]), (false, [true, false]), (true, [true, true])]
                {
                    rest.push((a, b, accumulator, a_in_registers, negate));
                }
            }
        }
    }
    let wgmma = |n: u32, index: usize| {
        let (a, b, accumulator, a_in_registers, negate) = rest[index % rest.len()];
        ProbeKernel::Wgmma { n, a, b, accumulator, steps: 1 + n / 8 % 4, a_in_registers, negate }
    };
    let mut all: Vec<_> = (1..=32).map(|i| wgmma(i * 8, i as usize * 5)).collect();
    all.extend((0..rest.len()).map(|index| wgmma(24, index)));
    for a in OperandType::ALL {
        for b in OperandType::ALL {
            for (accumulator, steps) in [(ProbeAccumulator::F32, 1), (ProbeAccumulator::F16, 2)] {
                all.push(ProbeKernel::Mma { a, b, accumulator, steps });
            }
        }
    }
    all.push(ProbeKernel::Scalar);
    all
}

/// Breaks if one of them does not compile, spills, or has its `wgmma` taken apart by the compiler (the
/// checks of `compile_checked`): what a probe says of the hardware would then be of something else.
#[test]
#[ignore = "needs NVRTC"]
fn every_probe_compiles_cleanly() {
    let nvrtc = Nvrtc::find(None).unwrap();
    println!("NVRTC {:?} at {}", nvrtc.version(), nvrtc.path().display());
    let mut names = BTreeSet::new();
    for kernel in kernels() {
        kernel.check().unwrap();
        let (source, name) = (kernel.source(), kernel.to_string());
        let unit = Unit { source: &source, kernel: kernel.symbol(), configuration: &name, options: &BASE_OPTIONS };
        let checked = compile_checked(&nvrtc, &unit).unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{:6.0} ms  {name}", checked.compiled.elapsed.as_secs_f64() * 1e3);
        names.insert(name);
    }
    println!("{} kernels", names.len());
}

/// Breaks if a kernel that only moves memory does not compile cleanly, or the compiler has taken out
/// what nobody looks at: the bulk copies, the loads of a flush, the stores in D's place.
#[test]
#[ignore = "needs NVRTC and a disassembler"]
fn memory_kernels_move_memory() {
    let nvrtc = Nvrtc::find(None).unwrap();
    let tool = Disassembler::find(Some(nvrtc.path())).unwrap();
    for (kernel, opcodes) in [(MemoryKernel::Stream, &["UBLKCP", "STG"][..]), (MemoryKernel::Read, &["LDG"])] {
        let (source, name) = (kernel.source(), kernel.to_string());
        let unit = Unit { source: &source, kernel: kernel.symbol(), configuration: &name, options: &BASE_OPTIONS };
        let checked = compile_checked(&nvrtc, &unit).unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{:6.0} ms  {name}", checked.compiled.elapsed.as_secs_f64() * 1e3);
        let listing = Listing::parse(&tool.disassemble(&checked.compiled.cubin).unwrap()).unwrap();
        for opcode in opcodes {
            assert!(listing.instructions().iter().any(|one| one.opcode.starts_with(opcode)), "{name} has no {opcode}");
        }
    }
}
