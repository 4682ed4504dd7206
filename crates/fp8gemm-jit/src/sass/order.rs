//! Instructions that order memory accesses and kernels.
//!
//! A kernel without one of them can give the right bits for a long time: what it orders is mostly in
//! order anyway. So they are counted in the machine code, where a missing one always shows.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Instruction, loops};
use crate::config::{KernelConfig, Schedule, Store};

/// Counts of instructions that order something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Order {
    /// `FENCE.VIEW.ASYNC`: ordinary accesses to shared memory before those of TMA. One that ptxas puts
    /// before the first barrier (`fence.mbarrier_init` itself becomes a `NOP`), and one between the
    /// stores into a staging tile and its way out (`fence.proxy.async`).
    pub async_fences: u32,
    /// `ACQBULK` (`griddepcontrol.wait`): a dependent launch waits for the kernel before it.
    pub grid_waits: u32,
    /// `PREEXIT` (`griddepcontrol.launch_dependents`): the next kernel may start.
    pub grid_releases: u32,
    /// `UTMACMDFLUSH` (`cp.async.bulk.commit_group`): TMA stores become a group that can be waited for.
    pub store_groups: u32,
    /// `DEPBAR` (`cp.async.bulk.wait_group`): staging tiles are not written before TMA has read them; or
    /// (`cp.async.wait_all`) scales are not read before they are there.
    pub store_waits: u32,
    /// `UCGABAR_WAIT` (`barrier.cluster.wait`): CTAs of a cluster meet.
    pub cluster_waits: u32,
    /// `WARPGROUP.DEPBAR` (`wgmma.wait_group`): the tensor cores have ended.
    pub tensor_waits: u32,
    /// `MEMBAR.ALL.GPU`: accesses to global memory in order for other SMs.
    pub gpu_fences: u32,
    /// `LDG.STRONG.GPU`: a flag that another SM raises is looked at.
    pub flag_loads: u32,
    /// `BAR.SYNC` on a barrier other than 0: half of a CTA or more meets (`bar.sync`). Barrier 0 is in
    /// `barrier.cluster` too, for CTAs without a cluster.
    pub meetings: u32,
    /// `SYNCS.ARRIVE` (`mbarrier.arrive`) that can come after a `QGMMA` with no wait for tensor-core work between that
    /// leaves at most so many groups under way: a stage is given back while it is read. By the numbers that waits leave.
    pub early_releases: BTreeMap<u32, u32>,
}

/// How many groups of `wgmma` a wait leaves under way; nothing for other instructions.
fn left_under_way(one: &Instruction) -> Option<u32> {
    let left = one.operands.last().filter(|_| one.opcode.starts_with("WARPGROUP.DEPBAR"))?;
    u32::from_str_radix(left.strip_prefix("0x")?, 16).ok()
}

/// Any number from this on: the compiler may write a place out several times.
const fn from(least: u32) -> (u32, u32) {
    (least, u32::MAX)
}

impl Order {
    pub(super) fn count(code: &[Instruction]) -> Self {
        let count = |test: &dyn Fn(&Instruction) -> bool| code.iter().filter(|one| test(one)).count() as u32;
        let named = |name: &str| count(&|one| one.is(name));
        let begins = |begin: &str| count(&|one| one.opcode.starts_with(begin));
        Self {
            async_fences: begins("FENCE.VIEW.ASYNC"),
            grid_waits: named("ACQBULK"),
            grid_releases: named("PREEXIT"),
            store_groups: named("UTMACMDFLUSH"),
            store_waits: named("DEPBAR"),
            cluster_waits: named("UCGABAR_WAIT"),
            tensor_waits: begins("WARPGROUP.DEPBAR"),
            gpu_fences: begins("MEMBAR.ALL.GPU"),
            flag_loads: count(&|one| one.is("LDG") && one.opcode.contains(".STRONG.GPU")),
            meetings: count(&|one| {
                one.opcode.starts_with("BAR.SYNC") && one.operands.first().is_none_or(|id| id != "0x0")
            }),
            early_releases: code
                .iter()
                .filter_map(left_under_way)
                .chain([0])
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|most| {
                    let waited = |one: &Instruction| left_under_way(one).is_some_and(|left| left <= most);
                    let released = |one: &Instruction| one.opcode.starts_with("SYNCS.ARRIVE");
                    (most, loops::follow(code, |one| one.is("QGMMA"), released, waited))
                })
                .collect(),
        }
    }

    /// Each count by name with what it should be, at least and at most.
    pub(super) fn held_against(&self, config: &KernelConfig) -> [(&'static str, u32, (u32, u32)); 11] {
        let tma = u32::from(config.store == Store::Tma);
        let swapped = u32::from(config.schedule == Schedule::Swapped);
        let diagonal = u32::from(swapped == 1 && config.block_n < 64);
        let lines = u32::from(swapped == 1 && config.block_n == 64 && config.output.size() == 2);
        let stream = u32::from(config.schedule == Schedule::StreamK);
        let cluster = u32::from(config.cluster() > 1);
        // Of several blocks those that are left over are promoted one by one. Where two stages are under way each is
        // promoted in two places: before the next ends, and as the last.
        let tensor = match config.schedule {
            Schedule::Swapped => config.in_flight,
            _ if config.ahead() => 4 * config.in_flight,
            _ if config.in_flight > 1 => config.in_flight + 1,
            _ => config.stages * config.waves(),
        };
        // A stage is given back while the next one's groups are.
        let later = if config.ahead() { config.in_flight } else { 0 };
        let early = self.early_releases.range(..=later).next_back().map_or(0, |(_, releases)| *releases);
        [
            ("FENCE.VIEW.ASYNC", self.async_fences, (1 + tma, 1 + tma)),
            // With swapped operands one for scales, and one for either order of weights and tokens.
            ("ACQBULK", self.grid_waits, from(1 + 2 * swapped)),
            ("PREEXIT", self.grid_releases, from(1)),
            ("UTMACMDFLUSH", self.store_groups, from(tma)),
            // With swapped operands the copies of scales are waited for.
            ("DEPBAR", self.store_waits, from(tma + swapped)),
            // At the begin, before the other CTA's barriers are used, and at the end; with swapped operands the end is
            // another one for each kind of warp.
            ("UCGABAR_WAIT", self.cluster_waits, from((2 + swapped + diagonal) * cluster)),
            ("WARPGROUP.DEPBAR", self.tensor_waits, (tensor, tensor)),
            // A handover has a fence and a releasing store, each meeting of a cluster releases too.
            ("MEMBAR.ALL.GPU", self.gpu_fences, from(2 * stream + 2 * cluster)),
            ("LDG.STRONG.GPU", self.flag_loads, from(stream)),
            // All for the first barriers, but for clusters of gemm.cu, which meet. Swapped: scales before and after they are
            // multiplied; results that are there and that have been taken; the ring before it takes lines of D.
            ("BAR.SYNC", self.meetings, from(1.max(3 * swapped) - cluster * (1 - swapped) + 2 * diagonal + lines)),
            ("SYNCS.ARRIVE before WARPGROUP.DEPBAR", early, (0, 0)),
        ]
    }
}
