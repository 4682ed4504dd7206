//! Wrong kernels, made on purpose: a test suite that is worth its name finds each of them on a GPU.
//!
//! Each is the kernel's text with one decision changed. Feature `mutants`; nothing else in these crates
//! makes one.

use core::fmt;

use crate::config::{KernelConfig, KernelScales, Schedule, Share, Store};

/// A wrong decision. Prints as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelMutant {
    /// A tile takes one 128x128 scale of B for all of its columns.
    ScaleOfTileEdge,
    /// Rows 8 apart in a fragment take the same scale of A.
    ScaleOfLowerRows,
    /// Blocks of K are computed in pairs, the second first.
    PromotionOutOfOrder,
    /// The scaled block is rounded before it is added: multiplication and addition instead of fma.
    PromotionTwice,
    /// The tensor cores go on from the block before instead of from zero.
    ChainNotCleared,
    /// Sums go on from the tile before.
    SumNotCleared,
    /// The second k32 step of a block takes the operands of the first.
    StepTwice,
    /// The blocks of B are taken from the next stage of the ring.
    SwappedStage,
    /// A stage goes back to the producer before the tensor cores have read it.
    ReleasedEarly,
    /// D leaves shared memory without the fence between ordinary and asynchronous accesses.
    MissingFence,
    /// The last, incomplete block of K is left out.
    TailOfK,
    /// One row of D too many is stored.
    TailOfM,
    /// One column of D too many is stored.
    TailOfN,
    /// Both CTAs of a cluster load the same half of the operand they share.
    MulticastHalf,
    /// Beta is taken for 1.
    BetaIgnored,
    /// A CTA of stream-K takes its neighbour's sums without waiting for them.
    HandoverUnawaited,
    /// A dependent launch reads before the kernel before it has ended.
    PredecessorUnawaited,
    /// A staging tile is written again without waiting until TMA has read it.
    StagingUnawaited,
    /// Sums are handed to another CTA without the fence before the flag.
    HandoverUnfenced,
}

impl KernelMutant {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::ScaleOfTileEdge,
        Self::ScaleOfLowerRows,
        Self::PromotionOutOfOrder,
        Self::PromotionTwice,
        Self::ChainNotCleared,
        Self::SumNotCleared,
        Self::StepTwice,
        Self::SwappedStage,
        Self::ReleasedEarly,
        Self::MissingFence,
        Self::TailOfK,
        Self::TailOfM,
        Self::TailOfN,
        Self::MulticastHalf,
        Self::BetaIgnored,
        Self::HandoverUnawaited,
        Self::PredecessorUnawaited,
        Self::StagingUnawaited,
        Self::HandoverUnfenced,
    ];

    /// Its name: lower case and hyphens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ScaleOfTileEdge => "scale-of-tile-edge",
            Self::ScaleOfLowerRows => "scale-of-lower-rows",
            Self::PromotionOutOfOrder => "promotion-out-of-order",
            Self::PromotionTwice => "promotion-twice",
            Self::ChainNotCleared => "chain-not-cleared",
            Self::SumNotCleared => "sum-not-cleared",
            Self::StepTwice => "step-twice",
            Self::SwappedStage => "swapped-stage",
            Self::ReleasedEarly => "released-early",
            Self::MissingFence => "missing-fence",
            Self::TailOfK => "tail-of-k",
            Self::TailOfM => "tail-of-m",
            Self::TailOfN => "tail-of-n",
            Self::MulticastHalf => "multicast-half",
            Self::BetaIgnored => "beta-ignored",
            Self::HandoverUnawaited => "handover-unawaited",
            Self::PredecessorUnawaited => "predecessor-unawaited",
            Self::StagingUnawaited => "staging-unawaited",
            Self::HandoverUnfenced => "handover-unfenced",
        }
    }

    /// The instruction of the machine code that is missing, where what it orders is mostly in order
    /// anyway, so that no bit need show it: [`sass`](crate::sass) finds these.
    pub const fn missing_instruction(self) -> Option<&'static str> {
        match self {
            Self::MissingFence => Some("FENCE.VIEW.ASYNC"),
            Self::StagingUnawaited => Some("DEPBAR"),
            Self::HandoverUnawaited => Some("LDG.STRONG.GPU"),
            Self::HandoverUnfenced => Some("MEMBAR.ALL.GPU"),
            Self::PredecessorUnawaited => Some("ACQBULK"),
            _ => None,
        }
    }

    /// Whether the kernel of this configuration has the part that is wrong here.
    pub fn applies(self, config: &KernelConfig) -> bool {
        // They are changes to the text of `gemm.cu`.
        if config.schedule == Schedule::Swapped {
            return false;
        }
        let promotes = config.scales != KernelScales::AtEnd;
        match self {
            Self::ScaleOfTileEdge => config.scales == KernelScales::Block1d2d && config.scales_b() > 1,
            Self::ScaleOfLowerRows | Self::PromotionTwice => promotes,
            Self::MissingFence | Self::StagingUnawaited => config.store == Store::Tma,
            Self::TailOfM | Self::TailOfN => config.store == Store::Direct,
            Self::MulticastHalf => config.share != Share::Nothing,
            Self::BetaIgnored => config.c.is_some(),
            Self::HandoverUnawaited | Self::HandoverUnfenced => config.schedule == Schedule::StreamK,
            Self::ChainNotCleared => config.accumulation != crate::Accumulation::Chain && config.in_flight == 1,
            Self::PromotionOutOfOrder | Self::SwappedStage | Self::ReleasedEarly => config.in_flight == 1,
            _ => true,
        }
    }

    /// The translation unit of the wrong kernel; nothing where the kernel's text no longer has what
    /// is changed here.
    pub fn source(self, config: &KernelConfig) -> Option<String> {
        let mut text = config.source().replacen("// fp8gemm ", &format!("// {self} "), 1);
        for (right, wrong) in self.edits() {
            if !text.contains(right) {
                return None;
            }
            text = text.replace(right, wrong);
        }
        Some(text)
    }

    /// What stands in the kernel's text, all places of it, and what stands there instead.
    const fn edits(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::ScaleOfTileEdge => {
                &[(">= row * 128) scale = scales[b][row];", ">= row * 128) scale = scales[b][0];")]
            }
            Self::ScaleOfLowerRows => &[("sa[1] = shared_load(rows + 8 * 4);", "sa[1] = sa[0];")],
            // By whom operands and scales are brought: the math warps do not know.
            Self::PromotionOutOfOrder => &[
                ("k = (block + i) * BLOCK_K;", "k = ((block ^ 1) + i) * BLOCK_K;"),
                ("tile.row, block, full", "tile.row, block ^ 1, full"),
                ("tile.column, block, full", "tile.column, block ^ 1, full"),
                (
                    "(i * MAX_K_BLOCKS + first + b * 32) * 4, scale",
                    "(i * MAX_K_BLOCKS + ((first + b * 32) ^ 1)) * 4, scale",
                ),
            ],
            Self::PromotionTwice => &[
                (
                    "__fmaf_rn(i % 4 < 2 ? low[group] : high[group], chain[i], acc[i])",
                    "__fadd_rn(__fmul_rn(i % 4 < 2 ? low[group] : high[group], chain[i]), acc[i])",
                ),
                ("__fmaf_rn(scales[i], chain[i], acc[i])", "__fadd_rn(__fmul_rn(scales[i], chain[i]), acc[i])"),
            ],
            Self::ChainNotCleared => &[("step > 0 || (CHAIN && block > 0)", "step > 0 || block > 0")],
            Self::SumNotCleared => &[("acc[wave][i] = 0.0f;", "acc[wave][i] = turn > 0 ? acc[wave][i] : 0.0f;")],
            Self::StepTwice => &[("+ step * 32) / 16", "+ (step == 1 ? 0 : step) * 32) / 16")],
            Self::SwappedStage => &[("(stage * BYTES_B + ", "((stage + 1) % STAGES * BYTES_B + ")],
            Self::ReleasedEarly => &[
                ("                    math.release(stage);\n", ""),
                (
                    "                wgmma_commit();\n",
                    "                if (wave + 1 == WAVES) math.release(stage);\n                wgmma_commit();\n",
                ),
            ],
            Self::MissingFence => &[("                fence_async_proxy();\n", "")],
            Self::TailOfK => {
                &[("(arguments.k + BLOCK_K - 1) / BLOCK_K", "(arguments.k < BLOCK_K ? 1 : arguments.k / BLOCK_K)")]
            }
            Self::TailOfM => &[("row + line < end", "row + line <= end")],
            Self::TailOfN => &[("if (at + i >= arguments.n) break;", "if (at + i > arguments.n) break;")],
            Self::MulticastHalf => &[(
                "u32 row = tile.row + rank % CLUSTER_N * PART_A, column = tile.column + rank % CLUSTER_M * PART_B;",
                "u32 row = tile.row, column = tile.column;",
            )],
            Self::BetaIgnored => &[("__fmaf_rn(arguments.beta, c", "__fmaf_rn(1.0f, c")],
            Self::HandoverUnawaited => &[("while (!flag_is_up(flag)) {", "while (false) {")],
            Self::PredecessorUnawaited => &[("    grid_wait();\n", "")],
            Self::StagingUnawaited => &[("        tma_store_wait_read();\n", "")],
            Self::HandoverUnfenced => &[("        fence_gpu();\n", "")],
        }
    }
}

impl fmt::Display for KernelMutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    /// Breaks if the kernel's text has changed under a mutant, so that there is nothing wrong in it any
    /// more, or if a mutant has no kernel that it applies to. (Two are none of them: a missing wait for the
    /// tensor cores, since the compiler sees it and puts one in, and a missing fence behind the
    /// initialisation of the barriers, which is no instruction on Hopper: ptxas leaves a `NOP` there.)
    #[test]
    fn every_mutant_is_another_kernel() {
        let mut configs = catalog::cover();
        configs.sort_by_key(ToString::to_string);
        for mutant in KernelMutant::ALL {
            let mut applies = 0;
            for config in configs.iter().filter(|config| mutant.applies(config)) {
                let wrong = mutant.source(config).unwrap_or_else(|| panic!("{mutant}: not in the text of {config}"));
                let body = |text: &str| text.split_once('\n').map(|(_, rest)| rest.to_owned());
                assert_ne!(body(&wrong), body(&config.source()), "{mutant}: {config}");
                applies += 1;
            }
            assert!(applies > 0, "{mutant} applies to no kernel");
        }
    }
}
