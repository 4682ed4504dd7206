//! Wrong `decode.cu`. None changes how often a barrier is reached: a kernel that never ends cannot be scored.

use super::{Edits, KernelMutant};

/// In kernels with results on a diagonal or without.
pub(super) const fn edits(mutant: KernelMutant, diagonal: bool) -> Edits {
    match mutant {
        KernelMutant::PromotionOutOfOrder if diagonal => &[(
            "if (block + j < place.end) acc[i] = __fmaf_rn(scales[j / 4][j % 4], results[j / 4][j % 4], acc[i]);",
            "u32 k = STAGE_BLOCKS - 1 - j;\n                if (block + k < place.end) acc[i] = __fmaf_rn(scales[k / 4][k % 4], results[k / 4][k % 4], acc[i]);",
        )],
        KernelMutant::PromotionOutOfOrder => {
            &[("            done(i);\n", "            wgmma_wait();\n            done(IN_FLIGHT - 1 - i);\n")]
        }
        KernelMutant::PromotionTwice => &[
            (
                "__fmaf_rn(scales[j / 4][j % 4], results[j / 4][j % 4], acc[i])",
                "__fadd_rn(__fmul_rn(scales[j / 4][j % 4], results[j / 4][j % 4]), acc[i])",
            ),
            (
                "__fmaf_rn(scales[j / 4 * 2 + j % 2][i], chain[i][j], acc[j])",
                "__fadd_rn(__fmul_rn(scales[j / 4 * 2 + j % 2][i], chain[i][j]), acc[j])",
            ),
        ],
        KernelMutant::ChainNotCleared => &[
            (
                "        #pragma unroll 1\n        for (u32 block = place.begin, stage = 0, phase = 0",
                "        Chain chain[IN_FLIGHT] = {};\n        #pragma unroll 1\n        for (u32 block = place.begin, stage = 0, phase = 0",
            ),
            ("            Chain chain[IN_FLIGHT];\n", ""),
            ("* 32) / 16, step > 0);", "* 32) / 16, true);"),
        ],
        KernelMutant::StepTwice | KernelMutant::TailOfK => super::gemm::blockwise(mutant),
        KernelMutant::SwappedStage => &[(
            "weights = descriptor(shared.weights(stage))",
            "weights = descriptor(shared.weights((stage + 1) % STAGES))",
        )],
        KernelMutant::ReleasedEarly => &[(
            "        in_order<IN_FLIGHT>([&](u32 i) {\n            if (i + 1 == IN_FLIGHT && lane == 0) barrier_arrive(shared.empty(stage));\n",
            "        if (lane == 0) barrier_arrive(shared.empty(stage));\n        in_order<IN_FLIGHT>([&](u32 i) {\n",
        )],
        KernelMutant::TailOfM => {
            &[("row >= arguments.m ||", "row > arguments.m ||"), ("token < arguments.m)", "token <= arguments.m)")]
        }
        KernelMutant::TailOfN => &[("column >= arguments.n) return", "column > arguments.n) return")],
        KernelMutant::PredecessorUnawaited => &[("        if (!arguments.weights_constant) grid_wait();\n", "")],
        KernelMutant::EarlyTokens => &[("        if (arguments.weights_constant) grid_wait();\n", "")],
        KernelMutant::EarlyScales => &[("        grid_wait();\n        scales.fetch();", "        scales.fetch();")],
        KernelMutant::ScaleOfNeighbour => &[
            ("j * 4, output / ROWS), scales", "j * 4, output / ROWS / 2 * 2), scales"),
            ("i / 2 * 8 + column() + i % 2), scales", "i / 2 * 8 + column()), scales"),
        ],
        KernelMutant::ScaleOfFirstBlock => &[
            ("__fmaf_rn(scales[j / 4][j % 4], results", "__fmaf_rn(scales[0][0], results"),
            ("scales[j / 4 * 2 + j % 2][i], chain", "scales[j / 4 * 2 + j % 2][0], chain"),
        ],
        KernelMutant::DiagonalOfNeighbour => {
            &[("value = chain[(block * TOKENS", "value = chain[((block ^ 1) * TOKENS")]
        }
        KernelMutant::TailPromoted => {
            &[("if (block + j < place.end) acc", "acc"), ("if (block + i < place.end) {", "{")]
        }
        KernelMutant::RestOfSplit => &[(" + min(of_rank, k_blocks % SPLIT)", "")],
        KernelMutant::SumsOutOfOrder => &[(
            "for (u32 rank = 1; rank < SPLIT && !place.empty(rank); rank++) {\n",
            "for (u32 rank = SPLIT - 1; rank > 0; rank--) {\n            if (place.empty(rank)) continue;\n",
        )],
        // All meet later: a CTA must not end while another one writes into it.
        KernelMutant::SumsUnawaited => &[
            (
                "        cluster_sync();\n        if (place.rank > 0) return false;\n",
                "        if (place.rank > 0) {\n            cluster_sync();\n            return false;\n        }\n",
            ),
            (
                "shared_load(shared.sum(rank, i, thread)));\n        }\n",
                "shared_load(shared.sum(rank, i, thread)));\n        }\n        cluster_sync();\n",
            ),
        ],
        // Without a wait at all, one side would arrive twice where the other has not come once, and wait for
        // ever later.
        KernelMutant::ResultsUnawaited => &[
            ("        results_await(READY + buffer);\n", ""),
            (
                "        if (block + BUFFERS * STAGE_BLOCKS < place.end) results_pass(TAKEN",
                "        results_await(READY + buffer);\n        if (block + BUFFERS * STAGE_BLOCKS < place.end) results_pass(TAKEN",
            ),
        ],
        KernelMutant::ResultsOverwritten => &[
            (
                "                if (i == 0 && block >= place.begin + BUFFERS * STAGE_BLOCKS) results_await(TAKEN + buffer);\n",
                "",
            ),
            (
                "            results_pass(READY + buffer);\n",
                "            if (block >= place.begin + BUFFERS * STAGE_BLOCKS) results_await(TAKEN + buffer);\n            results_pass(READY + buffer);\n",
            ),
        ],
        KernelMutant::ScalesUnawaited => &[("        copy_wait();\n", "")],
        KernelMutant::ScalesUnsynced => &[(
            "shared_load(shared.scale_b(block))));\n        }\n        warpgroup_sync(0);\n",
            "shared_load(shared.scale_b(block))));\n        }\n",
        )],
        KernelMutant::StageOverwritten => &[("        warpgroup_sync(0);\n        u32 lines", "        u32 lines")],
        _ => &[],
    }
}
