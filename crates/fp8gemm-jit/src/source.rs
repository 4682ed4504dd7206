//! A configuration's source: its constants, its `wgmma`, then the kernel's text.

use core::fmt::Write;

use fp8gemm_problem::OutputType;

use crate::config::{Accumulation, KernelConfig, KernelScales, REALLOCATED, Schedule, Store};
use crate::wgmma::Wgmma;

/// The kernel's symbol, the same in every configuration.
pub const KERNEL: &str = "fp8gemm";

impl KernelConfig {
    /// The whole translation unit. Configurations that agree in [`compiled`](Self::compiled), and only
    /// those, have the same bytes, so that they can be a cache key.
    pub fn source(&self) -> String {
        let mut text = format!("// fp8gemm {}\n", self.kernel_name());
        text.push_str(fp8gemm_kernels::PTX);
        text.push_str(&self.constants());
        text.push_str(&self.wgmma().text());
        text.push_str(fp8gemm_kernels::ARGUMENTS);
        if self.schedule == Schedule::Swapped {
            text.push_str(fp8gemm_kernels::DECODE);
            return text;
        }
        text.push_str(fp8gemm_kernels::SCHEDULE);
        text.push_str(fp8gemm_kernels::EPILOGUE);
        text.push_str(fp8gemm_kernels::MAIN_LOOP);
        text.push_str(fp8gemm_kernels::GEMM);
        text
    }

    /// The one shape of this kernel.
    fn wgmma(&self) -> Wgmma {
        let n = self.wgmma_columns();
        let (a, b) = if self.schedule == Schedule::Swapped { (self.b, self.a) } else { (self.a, self.b) };
        Wgmma { n, a, b, f16: false, a_in_registers: false, negate: [false, false] }
    }

    fn constants(&self) -> String {
        // Also in the text of kernels that keep their registers: the text is the key of caches and tables.
        let (math, producer) = REALLOCATED;
        let scales = match self.scales {
            KernelScales::Block1d2d => "SCALES_1D2D",
            KernelScales::Block1d1d => "SCALES_1D1D",
            KernelScales::AtEnd => "SCALES_AT_END",
        };
        let output = |ty| match ty {
            Some(OutputType::Bf16) => "OUTPUT_BF16",
            Some(OutputType::F16) => "OUTPUT_F16",
            Some(OutputType::F32) => "OUTPUT_F32",
            None => "OUTPUT_NONE",
        };
        let swapped: [(&str, &dyn core::fmt::Display); 8] = [
            ("OUTPUT", &output(Some(self.output))),
            ("TOKENS", &self.block_m),
            ("ROWS", &self.block_n),
            ("STAGES", &self.stages),
            ("IN_FLIGHT", &self.in_flight),
            ("MAX_K_BLOCKS", &self.max_k_blocks),
            ("SPLIT", &self.accumulation.parts()),
            ("SHARED_BYTES_EXPECTED", &self.shared_bytes()),
        ];
        let all: [(&str, &dyn core::fmt::Display); 22] = [
            ("SCALES", &scales),
            ("CHAIN", &(self.accumulation == Accumulation::Chain)),
            ("OUTPUT", &output(Some(self.output))),
            ("C", &output(self.c)),
            ("BLOCK_M", &self.block_m),
            ("BLOCK_N", &self.block_n),
            ("STAGES", &self.stages),
            ("IN_FLIGHT", &self.in_flight),
            ("AHEAD", &self.ahead()),
            ("IN_TURNS", &self.in_turns()),
            ("CLUSTER", &self.share.cluster()),
            ("CLUSTER_M", &self.share.along_m()),
            ("CLUSTER_N", &self.share.along_n()),
            ("PING_PONG", &(self.schedule == Schedule::PingPong)),
            ("STREAM_K", &(self.schedule == Schedule::StreamK)),
            ("STORE_TMA", &(self.store == Store::Tma)),
            ("MAX_K_BLOCKS", &self.max_k_blocks),
            ("MATH_GROUPS", &self.math_groups()),
            ("MATH_REGISTERS", &math),
            ("PRODUCER_REGISTERS", &producer),
            ("SCALES_B", &self.scales_b()),
            ("SHARED_BYTES_EXPECTED", &self.shared_bytes()),
        ];
        let mut text = String::from("\n// ---- this configuration ----\n\n");
        let values = if self.schedule == Schedule::Swapped { &swapped[..] } else { &all[..] };
        for (name, value) in values {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "constexpr u32 {name} = {value};");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::LARGE;

    /// Breaks if a constant that the kernel needs is not written, or is written twice.
    #[test]
    fn constants_stand_once() {
        let source = LARGE.source();
        for name in ["SCALES", "BLOCK_M", "BLOCK_N", "STAGES", "CLUSTER", "SHARED_BYTES_EXPECTED"] {
            assert_eq!(source.matches(&format!("constexpr u32 {name} = ")).count(), 1, "{name}");
        }
        assert!(source.contains("m64n128k32.f32.e4m3.e4m3"));
        assert!(!source.contains("#include"), "the kernels are header-free");
    }

    /// Breaks if equal kernels have different texts: every start would compile anew. Breaks if different
    /// ones have the same.
    #[test]
    fn the_text_is_deterministic() {
        assert_eq!(LARGE.source(), LARGE.source());
        assert_eq!(LARGE.source(), KernelConfig { group: 8, ..LARGE }.source());
        assert_ne!(LARGE.source(), KernelConfig { stages: 2, ..LARGE }.source());
    }
}
