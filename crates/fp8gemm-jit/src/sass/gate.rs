//! What the machine code of a configuration must be.

use core::fmt;

use super::Summary;
use crate::config::{KernelConfig, KernelScales};

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
    /// `UTMALDG`.
    pub utmaldg: u32,
    /// `UTMASTG`.
    pub utmastg: u32,
}

/// What the kernel's source (`gemm.cu`) should have become. This is the one place to adapt when the
/// kernel changes.
///
/// - Main loop: unrolled by the stages; in each, for each 64-row wave of a warpgroup
///   (`block_m / 128`), four `wgmma` of 32 along K. Both math warpgroups run the same code, and
///   there is one copy of the loop: nothing outside.
/// - Loads: the producer's loop, unrolled by the stages: A, B; scales of A unless they are applied
///   at the end; scales of B if they are 1x128 (128x128 ones are not loaded by TMA).
/// - Stores: for each wave, one for each atom of 128 bytes of a row of the tile; a second version
///   where the last atom is a partial one.
pub fn expected(config: &KernelConfig) -> Expected {
    let waves = config.block_m / (64 * KernelConfig::MATH_GROUPS);
    let loop_qgmma = config.stages * waves * 4;
    let scales_a = u32::from(config.scales != KernelScales::AtEnd);
    let scales_b = u32::from(config.scales == KernelScales::Block1d1d);
    let atom = config.store_columns();
    let versions = if config.block_n.is_multiple_of(atom) { 1 } else { 2 };
    Expected {
        main_loops: 1,
        loop_qgmma,
        qgmma: loop_qgmma,
        utmaldg: config.stages * (2 + scales_a + scales_b),
        utmastg: waves * config.block_n.div_ceil(atom) * versions,
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
    /// What it should be.
    pub expected: u32,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, expected {}", self.found, self.what, self.expected)
    }
}

impl Summary {
    /// Compares with what the configuration asks for; nothing where all is well.
    pub fn faults(&self, config: &KernelConfig) -> Vec<Fault> {
        let expected = expected(config);
        let mut faults = Vec::new();
        let mut check = |what, found, expected| {
            if found != expected {
                faults.push(Fault { what, found, expected });
            }
        };
        check("main loops", self.main_loops.len() as u32, expected.main_loops);
        check("QGMMA", self.qgmma, expected.qgmma);
        check("UTMALDG", self.utmaldg, expected.utmaldg);
        check("UTMASTG", self.utmastg, expected.utmastg);
        check("LDL or STL", self.local, 0);
        for one in &self.main_loops {
            check("QGMMA in a main loop", one.qgmma, expected.loop_qgmma);
            check("FFMA with three sources in one register bank", one.ffma_conflicts, 0);
            check("MEMBAR.ALL in a main loop", one.membar_all, 0);
        }
        faults
    }
}
