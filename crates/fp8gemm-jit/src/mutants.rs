//! Wrong kernels, made on purpose: a test suite that is worth its name finds each of them on a GPU.
//!
//! Each is the kernel's text with one decision changed: `mutants/gemm.rs` and `mutants/decode.rs` have what is
//! changed in which text. Feature `mutants`; nothing else in these crates makes one.

mod decode;
mod gemm;

use core::fmt;

use crate::config::{KernelConfig, KernelScales, Schedule, Share, Store};

/// What stands in a kernel's text, all places of it, and what stands there instead.
type Edits = &'static [(&'static str, &'static str)];

/// Which main loop a kernel has. A mistake is made in one of them: where it is possible in several, it is
/// several wrong kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KernelForm {
    /// `gemm.cu`, one block of K after the other.
    Blockwise,
    /// `gemm.cu`, the blocks of a stage at once.
    InFlight,
    /// `decode.cu`: swapped operands.
    Swapped,
}

impl KernelForm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Blockwise, Self::InFlight, Self::Swapped];

    /// That of this configuration.
    pub fn of(config: &KernelConfig) -> Self {
        match config.schedule {
            Schedule::Swapped => Self::Swapped,
            _ if config.in_flight > 1 => Self::InFlight,
            _ => Self::Blockwise,
        }
    }

    /// Its name: lower case and hyphens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blockwise => "blockwise",
            Self::InFlight => "in-flight",
            Self::Swapped => "swapped",
        }
    }
}

impl fmt::Display for KernelForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The enum, [`KernelMutant::ALL`] and the names from one list.
macro_rules! mutants {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A wrong decision. Prints as its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum KernelMutant {
            $($(#[$doc])* $variant,)*
        }

        impl KernelMutant {
            const COUNT: usize = [$($name),*].len();

            /// All of them.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant),*];

            /// Its name: lower case and hyphens.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

mutants! {
    /// A tile takes one 128x128 scale of B for all of its columns.
    ScaleOfTileEdge => "scale-of-tile-edge",
    /// Rows 8 apart in a fragment take the same scale of A.
    ScaleOfLowerRows => "scale-of-lower-rows",
    /// Blocks of K are computed in pairs, the second first.
    PromotionOutOfOrder => "promotion-out-of-order",
    /// The scaled block is rounded before it is added: multiplication and addition instead of fma.
    PromotionTwice => "promotion-twice",
    /// The tensor cores go on from the block before instead of from zero.
    ChainNotCleared => "chain-not-cleared",
    /// Sums go on from the tile before.
    SumNotCleared => "sum-not-cleared",
    /// The second k32 step of a block takes the operands of the first.
    StepTwice => "step-twice",
    /// The blocks of B are taken from the next stage of the ring.
    SwappedStage => "swapped-stage",
    /// A stage goes back to the producer before the tensor cores have read it.
    ReleasedEarly => "released-early",
    /// D leaves shared memory without the fence between ordinary and asynchronous accesses.
    MissingFence => "missing-fence",
    /// The last, incomplete block of K is left out.
    TailOfK => "tail-of-k",
    /// One row of D too many is stored.
    TailOfM => "tail-of-m",
    /// One column of D too many is stored.
    TailOfN => "tail-of-n",
    /// Both CTAs of a cluster load the same half of the operand they share.
    MulticastHalf => "multicast-half",
    /// Beta is taken for 1.
    BetaIgnored => "beta-ignored",
    /// A CTA of stream-K takes its neighbour's sums without waiting for them.
    HandoverUnawaited => "handover-unawaited",
    /// A dependent launch reads before the kernel before it has ended.
    PredecessorUnawaited => "predecessor-unawaited",
    /// A staging tile is written again without waiting until TMA has read it.
    StagingUnawaited => "staging-unawaited",
    /// Sums are handed to another CTA without the fence before the flag.
    HandoverUnfenced => "handover-unfenced",
    /// Of each pair of tokens, the second takes the scale of the first.
    ScaleOfNeighbour => "scale-of-neighbour",
    /// All blocks of a stage take the scales of its first.
    ScaleOfFirstBlock => "scale-of-first-block",
    /// Blocks left over behind whole stages take the operands of the first of them.
    LeftoversOfFirst => "leftovers-of-first",
    /// The product with the neighbouring block of tokens is taken, beside the diagonal.
    DiagonalOfNeighbour => "diagonal-of-neighbour",
    /// What a stage holds beyond the end of K is promoted too.
    TailPromoted => "tail-promoted",
    /// Blocks of K that a split cannot share out evenly are left out.
    RestOfSplit => "rest-of-split",
    /// The sums of a split are added with the last one first.
    SumsOutOfOrder => "sums-out-of-order",
    /// The sums of a split are added before all CTAs have written theirs.
    SumsUnawaited => "sums-unawaited",
    /// Results are promoted before the math warpgroup has written them.
    ResultsUnawaited => "results-unawaited",
    /// Results are written where the promoting warps still read those before.
    ResultsOverwritten => "results-overwritten",
    /// Scales are multiplied before they have arrived.
    ScalesUnawaited => "scales-unawaited",
    /// Promotion begins before all threads have multiplied their scales.
    ScalesUnsynced => "scales-unsynced",
    /// A dependent launch reads tokens before the kernel before it has ended, as it may read constant weights.
    EarlyTokens => "early-tokens",
    /// A dependent launch reads scales before the kernel before it has ended.
    EarlyScales => "early-scales",
    /// Lines of D are put into the first stage while other warps may still need it.
    StageOverwritten => "stage-overwritten",
}

impl KernelMutant {
    /// What the machine code lacks, or has too early, by the name of [`sass`](crate::sass)'s count. Given where what it
    /// orders is mostly in order anyway, so that no bit need show it.
    pub const fn missing_instruction(self) -> Option<&'static str> {
        match self {
            Self::MissingFence => Some("FENCE.VIEW.ASYNC"),
            Self::StagingUnawaited | Self::ScalesUnawaited => Some("DEPBAR"),
            Self::HandoverUnawaited => Some("LDG.STRONG.GPU"),
            Self::HandoverUnfenced => Some("MEMBAR.ALL.GPU"),
            Self::PredecessorUnawaited | Self::EarlyTokens | Self::EarlyScales => Some("ACQBULK"),
            Self::ReleasedEarly => Some("SYNCS.ARRIVE before WARPGROUP.DEPBAR"),
            Self::ResultsOverwritten => Some("STS before BAR.SYNC in a main loop"),
            Self::ScalesUnsynced | Self::StageOverwritten => Some("BAR.SYNC"),
            _ => None,
        }
    }

    /// Whether the kernel of this configuration has the part that is wrong here.
    pub fn applies(self, config: &KernelConfig) -> bool {
        match KernelForm::of(config) {
            KernelForm::Swapped => self.applies_swapped(config),
            form => self.applies_gemm(config, form == KernelForm::InFlight),
        }
    }

    /// To `gemm.cu`.
    fn applies_gemm(self, config: &KernelConfig, in_flight: bool) -> bool {
        let promotes = config.scales != KernelScales::AtEnd;
        match self {
            Self::ScaleOfTileEdge => config.scales == KernelScales::Block1d2d && config.scales_b() > 1,
            Self::ScaleOfLowerRows | Self::PromotionTwice => promotes,
            Self::MissingFence | Self::StagingUnawaited => config.store == Store::Tma,
            Self::TailOfM | Self::TailOfN => config.store == Store::Direct,
            Self::MulticastHalf => config.share != Share::Nothing,
            Self::BetaIgnored => config.c.is_some(),
            Self::HandoverUnawaited | Self::HandoverUnfenced => config.schedule == Schedule::StreamK,
            Self::ChainNotCleared => config.accumulation != crate::Accumulation::Chain && !in_flight,
            Self::ScaleOfFirstBlock => promotes && in_flight,
            // With two in flight one is left over, which is the first; with two stages in flight they stay where they are.
            Self::LeftoversOfFirst => config.in_flight > 2 && !config.ahead(),
            Self::PromotionOutOfOrder
            | Self::SumNotCleared
            | Self::StepTwice
            | Self::SwappedStage
            | Self::ReleasedEarly
            | Self::TailOfK
            | Self::PredecessorUnawaited => true,
            _ => false,
        }
    }

    /// To `decode.cu`.
    fn applies_swapped(self, config: &KernelConfig) -> bool {
        let diagonal = config.block_n < 64;
        let parts = config.accumulation.parts();
        match self {
            Self::DiagonalOfNeighbour | Self::ResultsUnawaited | Self::ResultsOverwritten => diagonal,
            // Results leave by whole lines if they are small.
            Self::StageOverwritten => !diagonal && config.output.size() == 2,
            Self::SwappedStage => config.stages > 1,
            Self::RestOfSplit | Self::SumsUnawaited => parts > 1,
            Self::SumsOutOfOrder => parts > 2,
            Self::PromotionOutOfOrder
            | Self::PromotionTwice
            | Self::ChainNotCleared
            | Self::StepTwice
            | Self::ReleasedEarly
            | Self::TailOfK
            | Self::TailOfM
            | Self::TailOfN
            | Self::PredecessorUnawaited
            | Self::ScaleOfNeighbour
            | Self::ScaleOfFirstBlock
            | Self::TailPromoted
            | Self::ScalesUnawaited
            | Self::ScalesUnsynced
            | Self::EarlyTokens
            | Self::EarlyScales => true,
            _ => false,
        }
    }

    /// The translation unit of the wrong kernel; nothing where the kernel's text no longer has what
    /// is changed here.
    pub fn source(self, config: &KernelConfig) -> Option<String> {
        let edits = match KernelForm::of(config) {
            KernelForm::Blockwise => gemm::blockwise(self),
            KernelForm::InFlight => gemm::in_flight(self),
            KernelForm::Swapped => decode::edits(self, config.block_n < 64),
        };
        if edits.is_empty() {
            return None;
        }
        let mut text = config.source().replacen("// fp8gemm ", &format!("// {self} "), 1);
        for (right, wrong) in edits {
            if !text.contains(right) {
                return None;
            }
            text = text.replace(right, wrong);
        }
        Some(text)
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
