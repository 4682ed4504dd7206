//! Kernels that run single instructions on many tiles, to find out what the hardware does: their
//! constants and their sources.

use core::fmt::{self, Write};

use fp8gemm_problem::OperandType;

use crate::JitError;
use crate::wgmma::Wgmma;

/// Type of C and D of a tensor-core instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeAccumulator {
    /// f32.
    F32,
    /// f16.
    F16,
}

/// A kernel that runs one instruction, or a chain of the same, on tiles that do not depend on each
/// other. Prints as one word, e.g. `wgmma_m64n8k32_f32_e4m3_e4m3_x1`.
///
/// For the tensor-core instructions operands are FP8 bytes, `A [tiles, rows, K]` and
/// `B [tiles, columns, K]` with `K = 32 * steps`, and `D = A B^T + C`, `[tiles, rows, columns]`, with
/// one instruction for each 32 of K, in order; the first takes C or, as launched, zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKernel {
    /// `wgmma.mma_async.m64nNk32`: Hopper's FP8 instruction.
    Wgmma {
        /// Columns: a multiple of 8 from 8 to 256.
        n: u32,
        /// Element type of A.
        a: OperandType,
        /// Element type of B.
        b: OperandType,
        /// Type of C and D.
        accumulator: ProbeAccumulator,
        /// Instructions in a chain, 1 to 4.
        steps: u32,
        /// A comes from registers, not from shared memory.
        a_in_registers: bool,
        /// Whether imm-scale-a and imm-scale-b are -1 instead of 1.
        negate: [bool; 2],
    },
    /// `mma.sync.m16n8k32`, which Hopper has for FP8 in name only.
    Mma {
        /// Element type of A.
        a: OperandType,
        /// Element type of B.
        b: OperandType,
        /// Type of C and D.
        accumulator: ProbeAccumulator,
        /// Instructions in a chain, 1 to 4.
        steps: u32,
    },
    /// f32 instructions on `x, y, z [elements]`, [`SCALAR_WORDS`](Self::SCALAR_WORDS) words for each:
    /// `fma(x, y, z)`, `x * y`, `x + z`, x added to z in memory by `red`, by `cp.reduce.async.bulk`,
    /// (x, y) cast to bf16, to f16, to E4M3 in the low and E5M2 in the high half.
    Scalar,
}

impl ProbeKernel {
    /// Words of output for each element of [`Scalar`](Self::Scalar).
    pub const SCALAR_WORDS: usize = 8;

    /// Checks what the instruction set allows.
    ///
    /// # Errors
    /// [`JitError::Probe`] names the field, its value and the rule.
    pub fn check(&self) -> Result<(), JitError> {
        let fail = |field, value, rule| Err(JitError::Probe { kernel: *self, field, value, rule });
        if let Self::Wgmma { n, .. } = *self
            && (n == 0 || n > 256 || !n.is_multiple_of(8))
        {
            return fail("n", n, "it must be a multiple of 8 from 8 to 256");
        }
        match *self {
            Self::Wgmma { steps, .. } | Self::Mma { steps, .. } if !(1..=4).contains(&steps) => {
                fail("steps", steps, "a chain has 1 to 4 instructions")
            }
            _ => Ok(()),
        }
    }

    /// Rows and columns of a tile of D, and its K; nothing where there are no tiles.
    pub const fn tile(&self) -> Option<(usize, usize, usize)> {
        match *self {
            Self::Wgmma { n, steps, .. } => Some((64, n as usize, 32 * steps as usize)),
            Self::Mma { steps, .. } => Some((16, 8, 32 * steps as usize)),
            Self::Scalar => None,
        }
    }

    /// The kernel's symbol.
    pub const fn symbol(&self) -> &'static str {
        match self {
            Self::Wgmma { .. } => "fp8gemm_wgmma",
            Self::Mma { .. } => "fp8gemm_mma",
            Self::Scalar => "fp8gemm_scalar",
        }
    }

    /// Threads of a CTA.
    pub const fn threads(&self) -> u32 {
        match self {
            Self::Wgmma { .. } | Self::Scalar => 128,
            Self::Mma { .. } => 32,
        }
    }

    /// The whole translation unit. The same kernel always gives the same bytes, so that they can be
    /// a cache key.
    pub fn source(&self) -> String {
        let mut text = format!("// fp8gemm {self}\n");
        text.push_str(fp8gemm_kernels::PTX);
        match *self {
            Self::Wgmma { n, a, b, accumulator, steps, a_in_registers, negate } => {
                let wgmma = Wgmma { n, a, b, f16: accumulator == ProbeAccumulator::F16, a_in_registers, negate };
                constants(&mut text, &[("BLOCK_N", n), ("STEPS", steps)]);
                text.push_str(&accumulators(accumulator, wgmma.registers()));
                text.push_str(&wgmma.text());
                let from = if a_in_registers { "fragment" } else { "a" };
                text.push_str(&format!(
                    "DEVICE void multiply(Accumulator& d, const u32 (&fragment)[4], u32 a, u32 b, bool accumulate) {{\n    \
                         wgmma(d, {from}, b, accumulate);\n}}\n\n"
                ));
                text.push_str(fp8gemm_kernels::INSTRUCTION);
                text.push_str(fp8gemm_kernels::WGMMA);
            }
            Self::Mma { a, b, accumulator, steps } => {
                constants(&mut text, &[("STEPS", steps)]);
                let registers = if accumulator == ProbeAccumulator::F16 { 2 } else { 4 };
                text.push_str(&accumulators(accumulator, registers));
                text.push_str(&mma(a, b, accumulator));
                text.push_str(fp8gemm_kernels::INSTRUCTION);
                text.push_str(fp8gemm_kernels::MMA);
            }
            Self::Scalar => text.push_str(fp8gemm_kernels::SCALAR),
        }
        text
    }
}

fn constants(text: &mut String, values: &[(&str, u32)]) {
    text.push_str("\n// ---- this configuration ----\n\n");
    for (name, value) in values {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "constexpr u32 {name} = {value};");
    }
}

/// A thread's accumulators, and how a pair of neighbours in a row goes in and out.
fn accumulators(accumulator: ProbeAccumulator, registers: u32) -> String {
    let (element, pair, set, get, clear) = match accumulator {
        ProbeAccumulator::F32 => (
            "float",
            "float2",
            "acc[pair * 2] = value.x, acc[pair * 2 + 1] = value.y;",
            "make_float2(acc[pair * 2], acc[pair * 2 + 1])",
            "0.0f",
        ),
        ProbeAccumulator::F16 => ("u32", "u32", "acc[pair] = value;", "acc[pair]", "0"),
    };
    format!(
        "using Accumulator = {element}[{registers}];\nusing Pair = {pair};\n\
         DEVICE void set(Accumulator& acc, u32 pair, Pair value) {{ {set} }}\n\
         DEVICE Pair get(const Accumulator& acc, u32 pair) {{ return {get}; }}\n\
         DEVICE void clear(Accumulator& acc) {{\n    for (u32 i = 0; i < {registers}; i++) acc[i] = {clear};\n}}\n"
    )
}

fn mma(a: OperandType, b: OperandType, accumulator: ProbeAccumulator) -> String {
    let (ty, constraint, registers) = match accumulator {
        ProbeAccumulator::F32 => ("f32", "+f", 4),
        ProbeAccumulator::F16 => ("f16", "+r", 2),
    };
    let join = |items: Vec<String>| items.join(", ");
    let d = join((0..registers).map(|i| format!("%{i}")).collect());
    let from_a = join((registers..registers + 4).map(|i| format!("%{i}")).collect());
    let from_b = join((registers + 4..registers + 6).map(|i| format!("%{i}")).collect());
    let outputs = join((0..registers).map(|i| format!("\"{constraint}\"(d[{i}])")).collect());
    format!(
        "DEVICE void multiply(Accumulator& d, const u32 (&a)[4], const u32 (&b)[2]) {{\n    \
             asm volatile(\"mma.sync.aligned.m16n8k32.row.col.{ty}.{a}.{b}.{ty} {{{d}}}, {{{from_a}}}, {{{from_b}}}, {{{d}}};\"\n        \
             : {outputs}\n        : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"r\"(b[0]), \"r\"(b[1]));\n}}\n\n"
    )
}

impl fmt::Display for ProbeAccumulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl fmt::Display for ProbeKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Wgmma { n, a, b, accumulator, steps, a_in_registers, negate } => {
                write!(f, "wgmma_m64n{n}k32_{accumulator}_{a}_{b}_x{steps}")?;
                f.write_str(if a_in_registers { "_ra" } else { "" })?;
                f.write_str(if negate[0] { "_na" } else { "" })?;
                f.write_str(if negate[1] { "_nb" } else { "" })
            }
            Self::Mma { a, b, accumulator, steps } => write!(f, "mma_m16n8k32_{accumulator}_{a}_{b}_x{steps}"),
            Self::Scalar => f.write_str("scalar"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WGMMA: ProbeKernel = ProbeKernel::Wgmma {
        n: 8,
        a: OperandType::E4m3,
        b: OperandType::E5m2,
        accumulator: ProbeAccumulator::F16,
        steps: 2,
        a_in_registers: true,
        negate: [false, true],
    };

    /// Breaks if a field of the kernel does not reach its text, or its name.
    #[test]
    fn texts_say_what_is_asked_for() {
        let source = WGMMA.source();
        assert!(source.contains("m64n8k32.f16.e4m3.e5m2 {%0, %1}, {%2, %3, %4, %5}, db, p, 1, -1;"), "{source}");
        assert_eq!(WGMMA.to_string(), "wgmma_m64n8k32_f16_e4m3_e5m2_x2_ra_nb");
        assert_eq!(WGMMA.tile(), Some((64, 8, 64)));
        let mma = ProbeKernel::Mma {
            a: OperandType::E5m2,
            b: OperandType::E4m3,
            accumulator: ProbeAccumulator::F32,
            steps: 1,
        };
        assert!(
            mma.source().contains("m16n8k32.row.col.f32.e5m2.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, ")
        );
        assert_eq!(mma.to_string(), "mma_m16n8k32_f32_e5m2_e4m3_x1");
        for kernel in [WGMMA, mma, ProbeKernel::Scalar] {
            assert!(kernel.check().is_ok() && !kernel.source().contains("#include"));
        }
    }

    /// Breaks if what the instruction set does not have gets as far as the compiler.
    #[test]
    fn illegal_kernels_are_errors() {
        let n = |n| ProbeKernel::Wgmma {
            n,
            a: OperandType::E4m3,
            b: OperandType::E4m3,
            accumulator: ProbeAccumulator::F32,
            steps: 1,
            a_in_registers: false,
            negate: [false, false],
        };
        for bad in [0, 4, 12, 264] {
            assert!(matches!(n(bad).check(), Err(JitError::Probe { field: "n", .. })), "{bad}");
        }
        let steps = |steps| ProbeKernel::Mma {
            a: OperandType::E4m3,
            b: OperandType::E4m3,
            accumulator: ProbeAccumulator::F32,
            steps,
        };
        for bad in [0, 5] {
            assert!(matches!(steps(bad).check(), Err(JitError::Probe { field: "steps", .. })), "{bad}");
        }
    }
}
