//! Wrong `gemm.cu`.

use super::{Edits, KernelMutant};

/// In kernels that take one block of K after the other.
pub(super) const fn blockwise(mutant: KernelMutant) -> Edits {
    match mutant {
        KernelMutant::ScaleOfTileEdge => {
            &[(">= row * 128) scale = scales[b][row];", ">= row * 128) scale = scales[b][0];")]
        }
        KernelMutant::ScaleOfLowerRows => &[("sa[1] = shared_load(rows + 8 * 4);", "sa[1] = sa[0];")],
        // By whom operands and scales are brought: the math warps do not know.
        KernelMutant::PromotionOutOfOrder => &[
            ("k = (block + i) * BLOCK_K;", "k = ((block ^ 1) + i) * BLOCK_K;"),
            ("tile.row, block, full", "tile.row, block ^ 1, full"),
            ("tile.column, block, full", "tile.column, block ^ 1, full"),
            (
                "(i * MAX_K_BLOCKS + first + b * 32) * 4, scale",
                "(i * MAX_K_BLOCKS + ((first + b * 32) ^ 1)) * 4, scale",
            ),
        ],
        KernelMutant::PromotionTwice => &[
            (
                "__fmaf_rn(i % 4 < 2 ? low[group] : high[group], chain[i], acc[i])",
                "__fadd_rn(__fmul_rn(i % 4 < 2 ? low[group] : high[group], chain[i]), acc[i])",
            ),
            ("__fmaf_rn(scales[i], chain[i], acc[i])", "__fadd_rn(__fmul_rn(scales[i], chain[i]), acc[i])"),
        ],
        KernelMutant::ChainNotCleared => &[("step > 0 || (CHAIN && block > 0)", "step > 0 || block > 0")],
        KernelMutant::SumNotCleared => &[("acc[wave][i] = 0.0f;", "acc[wave][i] = turn > 0 ? acc[wave][i] : 0.0f;")],
        KernelMutant::StepTwice => &[("+ step * 32) / 16", "+ (step == 1 ? 0 : step) * 32) / 16")],
        KernelMutant::SwappedStage => &[("(stage * BYTES_B + ", "((stage + 1) % STAGES * BYTES_B + ")],
        KernelMutant::ReleasedEarly => &[
            ("                    math.release(stage);\n", ""),
            (
                "                wgmma_commit();\n",
                "                if (wave + 1 == WAVES) math.release(stage);\n                wgmma_commit();\n",
            ),
        ],
        KernelMutant::MissingFence => &[("                fence_async_proxy();\n", "")],
        KernelMutant::TailOfK => {
            &[("(arguments.k + BLOCK_K - 1) / BLOCK_K", "(arguments.k < BLOCK_K ? 1 : arguments.k / BLOCK_K)")]
        }
        KernelMutant::TailOfM => &[("row + line < end", "row + line <= end")],
        KernelMutant::TailOfN => &[("if (at + i >= arguments.n) break;", "if (at + i > arguments.n) break;")],
        KernelMutant::MulticastHalf => &[(
            "u32 row = tile.row + rank % CLUSTER_N * PART_A, column = tile.column + rank % CLUSTER_M * PART_B;",
            "u32 row = tile.row, column = tile.column;",
        )],
        KernelMutant::BetaIgnored => &[("__fmaf_rn(arguments.beta, c", "__fmaf_rn(1.0f, c")],
        KernelMutant::HandoverUnawaited => &[("while (!flag_is_up(flag)) {", "while (false) {")],
        KernelMutant::PredecessorUnawaited => &[("    grid_wait();\n", "")],
        KernelMutant::StagingUnawaited => &[("        tma_store_wait_read();\n", "")],
        KernelMutant::HandoverUnfenced => &[("        fence_gpu();\n", "")],
        _ => &[],
    }
}

/// In kernels that take the blocks of a stage at once: what their own main loop has, the rest as above.
pub(super) const fn in_flight(mutant: KernelMutant) -> Edits {
    match mutant {
        // As if all that is done could be taken in any order.
        KernelMutant::PromotionOutOfOrder => &[
            (
                "LATER>([&](u32 i) {\n",
                "LATER>([&](u32 turn) {\n        wgmma_wait<LATER>();\n        u32 i = BLOCKS - 1 - turn;\n",
            ),
            ("if (i + 1 == BLOCKS) done();", "if (turn + 1 == BLOCKS) done();"),
        ],
        KernelMutant::SwappedStage => {
            &[("descriptor(math.shared.b(stage) + first", "descriptor(math.shared.b((stage + 1) % STAGES) + first")]
        }
        KernelMutant::ReleasedEarly => &[
            ("        if (i + 1 == BLOCKS) done();\n", ""),
            ("    in_order<BLOCKS, LATER", "    done();\n    in_order<BLOCKS, LATER"),
        ],
        KernelMutant::ScaleOfFirstBlock => &[
            ("math.read_rows(sa, stage, 0, first + i);", "math.read_rows(sa, stage, 0, first);"),
            ("MAX_K_BLOCKS + block + i) * 4", "MAX_K_BLOCKS + block) * 4"),
            ("math.read_elements(scales, stage, 0, first + i);", "math.read_elements(scales, stage, 0, first);"),
        ],
        KernelMutant::LeftoversOfFirst => &[
            ("math.shared.a(stage) + first * BYTES_A", "math.shared.a(stage)"),
            ("math.shared.b(stage) + first * BYTES_B", "math.shared.b(stage)"),
        ],
        other => blockwise(other),
    }
}
