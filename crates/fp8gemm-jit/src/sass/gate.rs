//! What the machine code of a configuration must be.

use core::fmt;

use super::Summary;
use crate::config::{KernelConfig, KernelScales, Schedule, Store};

/// Counts that follow from a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expected {
    /// Main loops.
    pub main_loops: u32,
    /// `QGMMA` in each main loop.
    pub loop_qgmma: u32,
    /// `QGMMA` in the whole kernel.
    pub qgmma: u32,
    /// `UTMALDG`, at least and at most.
    pub utmaldg: (u32, u32),
    /// `UTMASTG`, at least and at most.
    pub utmastg: (u32, u32),
    /// `FFMA` whose three sources lie in one register bank, at most.
    pub ffma_conflicts: u32,
}

/// What the kernel's source (`gemm.cu`) should have become. This is the one place to adapt when the
/// kernel changes.
///
/// - Main loop: unrolled by the stages; in each, for each 64-row wave of a warpgroup, four `wgmma` of
///   32 along K. Both math warpgroups run the same code, and there is one copy of the loop: nothing
///   outside. With several blocks in flight: four for each of them, and a loop of its own, inside the
///   other, for blocks that are left over; where those of two stages are, for both in one loop, and for the first before it.
/// - Loads: A, B; scales of A unless they are applied at the end; scales of B if they are 1x128
///   (128x128 ones are not loaded by TMA). With several blocks in flight A and B once more, block by
///   block in a loop, which the compiler may turn by one. And C, where the moving warp brings it: one
///   instruction in a loop.
/// - Stores by TMA: the same loop, hence one; a second version where the last atom is a partial one.
///   The compiler may write that loop out for each wave.
/// - Swapped operands (`decode.cu`): four `wgmma` for each 64-row tile of a stage. Weights and tokens are
///   loaded by stages, or block by block in a loop, each in the first round and later: two calls of one
///   function that the compiler may write out twice, and turn the loops by one.
/// - Promotion: no register-bank conflict. With swapped operands and fewer than 64 columns one in every second `FFMA`:
///   results and scales of four blocks come in four registers each, so that each pair is of one bank, and the
///   accumulator stays where it is, since blocks beyond the end of K leave it alone. Each `FFMA` waits for the one
///   before it there, longer than a conflict takes.
pub fn expected(config: &KernelConfig) -> Expected {
    if config.schedule == Schedule::Swapped {
        let qgmma = 4 * config.in_flight;
        let promoted = config.stage_blocks() * (config.block_m * config.block_n).div_ceil(128);
        let ffma_conflicts = if config.block_n < 64 { promoted / 2 } else { 0 };
        return Expected { main_loops: 1, loop_qgmma: qgmma, qgmma, utmaldg: (4, 16), utmastg: (0, 0), ffma_conflicts };
    }
    let several = config.in_flight > 1;
    let loop_qgmma = if config.ahead() {
        8 * config.in_flight
    } else if several {
        4
    } else {
        config.stages * config.waves() * 4
    };
    let scales_a = u32::from(config.scales != KernelScales::AtEnd);
    let scales_b = u32::from(config.scales == KernelScales::Block1d1d);
    let tma = u32::from(config.store == Store::Tma);
    let versions = if config.block_n.is_multiple_of(config.store_columns()) { 1 } else { 2 };
    let loads = (if several { 4 } else { 2 }) + scales_a + scales_b;
    let turned = if several { 2 } else { 0 };
    let brings_c = tma * u32::from(config.c.is_some());
    Expected {
        main_loops: 1,
        loop_qgmma,
        qgmma: loop_qgmma + if several { 4 * config.in_flight } else { 0 },
        utmaldg: (loads + brings_c, loads + turned + brings_c * config.waves()),
        utmastg: (tma * versions, tma * versions * config.waves()),
        ffma_conflicts: 0,
    }
}

/// A count that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// What was counted.
    pub what: &'static str,
    /// The count.
    pub found: u32,
    /// What it should be, at least and at most.
    pub expected: (u32, u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.expected;
        write!(f, "{} {}, expected {least}", self.found, self.what)?;
        match most {
            most if least == most => Ok(()),
            u32::MAX => f.write_str(" or more"),
            most => write!(f, " to {most}"),
        }
    }
}

impl Summary {
    /// Compares with what the configuration asks for; nothing where all is well.
    pub fn faults(&self, config: &KernelConfig) -> Vec<Fault> {
        let expected = expected(config);
        let mut faults = Vec::new();
        let mut between = |what, found, expected: (u32, u32)| {
            if found < expected.0 || found > expected.1 {
                faults.push(Fault { what, found, expected });
            }
        };
        between("UTMALDG", self.utmaldg, expected.utmaldg);
        between("UTMASTG", self.utmastg, expected.utmastg);
        between("FFMA with three sources in one register bank", self.ffma_conflicts, (0, expected.ffma_conflicts));
        for (what, found, expected) in self.order.held_against(config) {
            between(what, found, expected);
        }
        let mut check = |what, found, expected| between(what, found, (expected, expected));
        check("main loops", self.main_loops.len() as u32, expected.main_loops);
        check("QGMMA", self.qgmma, expected.qgmma);
        check("LDL or STL", self.local, 0);
        for one in &self.main_loops {
            check("QGMMA in a main loop", one.qgmma, expected.loop_qgmma);
            check("FFMA in a main loop with three sources in one register bank", one.ffma_conflicts, 0);
            check("MEMBAR.ALL in a main loop", one.membar_all, 0);
            check("STS before BAR.SYNC in a main loop", one.early_stores, 0);
        }
        faults
    }
}
