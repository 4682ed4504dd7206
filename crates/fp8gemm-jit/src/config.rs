//! One compiled kernel's configuration: what the constants at the top of its source say.

use core::fmt;

use fp8gemm_problem::{OperandType, OutputType};

use crate::JitError;

/// Shared memory that one CTA of a Hopper GPU can have, in bytes.
pub const SHARED_LIMIT: u32 = 232_448;

/// Elements of K in a block: 128 bytes of FP8, the width that TMA swizzles.
const BLOCK_K: u32 = 128;

/// Registers of a math thread and of a loading one where two math warpgroups take them from the one that loads
/// (`setmaxnreg`).
pub(crate) const REALLOCATED: (u32, u32) = (232, 40);

/// How scales reach the accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelScales {
    /// A 1x128, B 128x128: `acc = fma(fl(sa * sb), x, acc)` for each 128 of K.
    Block1d2d,
    /// 1x128 on both sides: the same with a scale for each column.
    Block1d1d,
    /// Row or tensor scales: `fl(fl(sa * sb) * acc)` after all of K.
    AtEnd,
}

/// How products are accumulated over K.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accumulation {
    /// A tensor-core chain for each 128 of K, promoted to f32.
    Promote128,
    /// One tensor-core chain over all of K; only with [`KernelScales::AtEnd`].
    Chain,
    /// Policy `split<p>`: [`Promote128`](Self::Promote128) on ranges of K, by the CTAs of a cluster, whose sums
    /// are added in order; only with [`Schedule::Swapped`].
    Split {
        /// Ranges: 2, 4 or 8.
        parts: u32,
    },
}

impl Accumulation {
    /// Ranges of K that are summed on their own.
    pub const fn parts(self) -> u32 {
        match self {
            Self::Split { parts } => parts,
            Self::Promote128 | Self::Chain => 1,
        }
    }
}

/// Which operand the two CTAs of a cluster share by TMA multicast: each loads one half of it for
/// both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Share {
    /// Nothing is shared.
    #[default]
    Nothing,
    /// Neighbours along N share their rows of A.
    A,
    /// Neighbours along M share their rows of B.
    B,
}

impl Share {
    /// CTAs of a cluster.
    pub const fn cluster(self) -> u32 {
        self.along_m() * self.along_n()
    }

    /// Tiles of a cluster along M.
    pub const fn along_m(self) -> u32 {
        if matches!(self, Self::B) { 2 } else { 1 }
    }

    /// Tiles of a cluster along N.
    pub const fn along_n(self) -> u32 {
        if matches!(self, Self::A) { 2 } else { 1 }
    }
}

/// Who computes which part of D when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Both math warpgroups on each tile, whole tiles.
    #[default]
    Cooperative,
    /// Math warpgroups take turns, each with tiles of its own.
    PingPong,
    /// Cooperative; the last tiles are cut along K into equal runs, of which each continues the
    /// accumulators of the one before. Needs a [workspace](KernelConfig::workspace_bytes).
    StreamK,
    /// For few rows of A. The operands change sides: B has the 64 rows of `wgmma`, A its columns. Tiles
    /// of fewer than 64 columns of D take several blocks of K at once to fill them. One tile for each
    /// CTA, several CTAs on an SM.
    Swapped,
}

/// How D gets to memory, and C from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Store {
    /// By TMA: rows of D (and C, of D's type) start at, and end at, multiples of 16 bytes.
    #[default]
    Tma,
    /// By ordinary stores, for any alignment of D and any type of C.
    Direct,
}

/// Everything that is a constant in one compiled kernel, and the raster it is launched with. No field
/// changes a bit of the result beyond what [`KernelScales`], [`Accumulation`] and the types say: tiles,
/// stages, clusters and raster are free choices.
///
/// Prints as one word for logs, e.g. `e4m3_e4m3_1d2d_bf16_256x128_s3_k128_g16`; after the stages `f4` says that four blocks are in
/// flight, `xa`
/// or `xb` say what clusters share, `pp` ping-pong, `sk` stream-K, `sw` swapped operands, `d` direct stores. The last part,
/// the raster, is not in a kernel's own [name](Self::kernel_name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelConfig {
    /// Element type of A.
    pub a: OperandType,
    /// Element type of B.
    pub b: OperandType,
    /// How scales are applied.
    pub scales: KernelScales,
    /// How products are accumulated.
    pub accumulation: Accumulation,
    /// Element type of D.
    pub output: OutputType,
    /// Element type of C, where the epilogue reads one.
    pub c: Option<OutputType>,
    /// Rows of an output tile: one or two 64-row waves for each of the two warpgroups that work on it, so
    /// 128 or 256, in ping-pong 64 or 128; 64 or, for few rows, 8, 16 or 32 for a single one. Swapped: 8, 16
    /// or 32.
    pub block_m: u32,
    /// Columns of an output tile: a multiple of 8 (of 16 where clusters share B), at most 256. Swapped: 8, 16,
    /// 32 or 64. What a thread holds of a wide tile may not fit its registers; then compiling it is an error. With 1D2D
    /// scales all fit up to 224 columns with 64 rows, 192 with 128, 136 with 256 (`catalog::widths`).
    pub block_n: u32,
    /// Depth of the ring in shared memory, in stages of [`in_flight`](Self::in_flight) operand blocks. Tiles start at its first stage, so a
    /// divisor of the number of K blocks lets loads run ahead from tile to tile.
    pub stages: u32,
    /// K blocks of a stage, which a math warpgroup has under way together: 1, or more on tiles of one
    /// 64-row wave for each warpgroup. Swapped: 64-row tiles of B, each of `64 / block_n` blocks.
    pub in_flight: u32,
    /// What clusters share.
    pub share: Share,
    /// Who computes what when.
    pub schedule: Schedule,
    /// How D is stored.
    pub store: Store,
    /// Rows of tiles that are walked together for the sake of the L2 cache. Given at launch, not
    /// compiled in.
    pub group: u32,
    /// Blocks of K for which 128x128 scales of B fit into shared memory (only
    /// [`KernelScales::Block1d2d`]).
    pub max_k_blocks: u32,
}

impl KernelConfig {
    /// Math warpgroups: one where a tile has only one wave.
    pub const fn math_groups(&self) -> u32 {
        if self.block_m <= 64 && !matches!(self.schedule, Schedule::PingPong) { 1 } else { 2 }
    }

    /// CTAs of a cluster: those that share an operand, or K.
    pub const fn cluster(&self) -> u32 {
        self.share.cluster() * self.accumulation.parts()
    }

    /// This configuration with the least of what is only given at launch: two that agree in it run the
    /// same compiled kernel.
    pub const fn compiled(&self) -> Self {
        Self { group: 1, ..*self }
    }

    /// The name of the compiled kernel: the configuration's, without what is only given at launch.
    pub fn kernel_name(&self) -> String {
        KernelName(self).to_string()
    }

    /// 64-row waves of a tile that one warpgroup has.
    pub const fn waves(&self) -> u32 {
        let groups = if matches!(self.schedule, Schedule::PingPong) { 1 } else { self.math_groups() };
        self.block_m.div_ceil(64 * groups)
    }

    /// Threads of a CTA: the math warpgroups and one that loads. Swapped: a math warpgroup, one that promotes
    /// what it does not, and a warp that loads.
    pub const fn threads(&self) -> u32 {
        match self.schedule {
            Schedule::Swapped => 128 + if self.block_n < 64 { 128 } else { 0 } + 32,
            _ => 128 * (self.math_groups() + 1),
        }
    }

    /// Columns of the kernel's `wgmma`.
    pub const fn wgmma_columns(&self) -> u32 {
        match self.schedule {
            Schedule::Swapped if self.block_n > 0 => (64 / self.block_n).saturating_mul(self.block_m),
            _ => self.block_n,
        }
    }

    /// Blocks of K in a stage.
    pub const fn stage_blocks(&self) -> u32 {
        match self.schedule {
            Schedule::Swapped => self.in_flight.saturating_mul(64 / if self.block_n == 0 { 64 } else { self.block_n }),
            _ => self.in_flight,
        }
    }

    /// Whether blocks in flight are those of two stages, the next being multiplied while one is promoted: with products of
    /// one stage in at most 32 registers of a thread. 64x32 with four blocks, in 64, was not faster so, and tiles of 16 rows
    /// wait for memory.
    pub const fn ahead(&self) -> bool {
        let narrow = self.block_m == 64 && self.in_flight > 1 && !matches!(self.schedule, Schedule::Swapped);
        narrow && self.in_flight.saturating_mul(self.block_n) <= 64
    }

    /// Whether the two math warpgroups of a tile take turns in issuing their `wgmma`, so that one promotes while the tensor
    /// cores work for the other: 2 to 4 % faster with tiles of 128x192, on most others slower (docs/performance.md).
    pub const fn in_turns(&self) -> bool {
        let together = matches!(self.schedule, Schedule::Cooperative | Schedule::StreamK);
        together && matches!(self.scales, KernelScales::Block1d2d) && self.block_m == 128 && self.block_n >= 192
    }

    /// Registers of a math thread and of a loading one (`setmaxnreg`): those of a CTA together at most 65,536. `None`
    /// for kernels with one math warpgroup, whose threads keep what the compiler gives all of them.
    pub const fn registers(&self) -> Option<(u32, u32)> {
        if self.math_groups() > 1 { Some(REALLOCATED) } else { None }
    }

    /// Columns of D in one 128-byte line of its staging buffer.
    pub(crate) const fn store_columns(&self) -> u32 {
        128 / self.output.size() as u32
    }

    /// Dynamic shared memory, in bytes: the same sum that the kernel makes (it asserts that).
    pub fn shared_bytes(&self) -> u32 {
        if self.schedule == Schedule::Swapped {
            return self.swapped_shared_bytes();
        }
        // In 64 bits, since `max_k_blocks` can be anything before `check`.
        let [block_m, block_n, stages] = [self.block_m, self.block_n, self.stages].map(u64::from);
        let blocks = u64::from(self.in_flight);
        let scales = |rows: u64| (4 * blocks * rows).next_multiple_of(128);
        let stage = blocks * u64::from(BLOCK_K) * (block_m + block_n)
            + if self.scales == KernelScales::AtEnd { 0 } else { scales(block_m) }
            + if self.scales == KernelScales::Block1d1d { scales(block_n) } else { 0 };
        let warpgroup = match self.store {
            Store::Tma => u64::from(self.waves()) * block_n.div_ceil(u64::from(self.store_columns())) * 64 * 128,
            Store::Direct => 4 * 16 * 128,
        };
        let scales = if self.scales == KernelScales::Block1d2d {
            (4 * u64::from(self.scales_b()) * u64::from(self.max_k_blocks)).next_multiple_of(16)
        } else {
            0
        };
        let groups = u64::from(self.math_groups());
        let barriers = 8 * (2 * stages + 4 + 2 * groups);
        // The kernel aligns its start to 1,024 bytes itself.
        let sum = stages * stage + groups * warpgroup + 2 * (16 + scales) + barriers + 1024;
        u32::try_from(sum).unwrap_or(u32::MAX)
    }

    fn swapped_shared_bytes(&self) -> u32 {
        let [tokens, rows, stages] = [self.block_m, self.block_n, self.stages].map(u64::from);
        let blocks = u64::from(self.in_flight) * (64 / rows.max(1));
        let stages = stages * (blocks * (rows + tokens) * u64::from(BLOCK_K) + 2 * 8);
        let results = if rows < 64 { 2 * blocks * rows * tokens * 4 } else { 0 };
        let scales = (tokens + 1) * u64::from(self.max_k_blocks).div_ceil(4) * 16;
        let sums = u64::from(self.accumulation.parts().saturating_sub(1)) * (rows * tokens).div_ceil(128) * 512;
        u32::try_from(stages + results + scales + sums + 1024).unwrap_or(u32::MAX)
    }

    /// Whether a launch needs [a workspace](Self::workspace_bytes): stream-K does.
    pub const fn needs_workspace(&self) -> bool {
        matches!(self.schedule, Schedule::StreamK)
    }

    /// Bytes of device memory that a launch of `ctas` CTAs works with besides its operands: 0 but for
    /// [`Schedule::StreamK`]. Flags first, then a tile of accumulators for each CTA.
    pub fn workspace_bytes(&self, ctas: u32) -> usize {
        if self.schedule != Schedule::StreamK {
            return 0;
        }
        let ctas = ctas as usize;
        (4 * self.math_groups() as usize * ctas).next_multiple_of(128)
            + ctas * (4 * self.block_m * self.block_n) as usize
    }

    /// Groups of columns of a tile that share a 128x128 scale of B wherever the tile lies: tiles
    /// start, and scales end, at multiples of `gcd(BLOCK_N, 128)` columns.
    pub(crate) fn scales_b(&self) -> u32 {
        if self.scales != KernelScales::Block1d2d {
            return 1;
        }
        self.block_n >> self.block_n.trailing_zeros().min(7)
    }

    /// Checks the rules that the kernel's source asserts, with the numbers named.
    ///
    /// # Errors
    /// [`JitError::Config`].
    pub fn check(&self) -> Result<(), JitError> {
        let fail = |field, value, rule| Err(JitError::Config { config: *self, field, value, rule });
        let (legal_rows, rule) = match self.schedule {
            Schedule::PingPong => (&[64, 128][..], "in ping-pong it must be 64 or 128"),
            Schedule::StreamK => (&[128, 256][..], "with stream-K it must be 128 or 256"),
            Schedule::Cooperative => (&[8, 16, 32, 64, 128, 256][..], "it must be 8, 16, 32, 64, 128 or 256"),
            Schedule::Swapped => (&[8, 16, 32][..], "with swapped operands it must be 8, 16 or 32"),
        };
        if !legal_rows.contains(&self.block_m) {
            return fail("block_m", self.block_m, rule);
        }
        if self.schedule == Schedule::Swapped {
            self.check_swapped()?;
        } else if self.block_n == 0 || !self.block_n.is_multiple_of(8 * self.share.along_m()) || self.block_n > 256 {
            return fail("block_n", self.block_n, "it must be a multiple of 8 (16 where B is shared) up to 256");
        }
        let least = if self.schedule == Schedule::Swapped { 1 } else { 2 };
        if !(least..=32).contains(&self.stages) {
            return fail("stages", self.stages, "it must be 2 to 32, or 1 with swapped operands");
        }
        if !(1..=16).contains(&self.in_flight)
            || (self.in_flight > 1
                && self.schedule != Schedule::Swapped
                && (self.waves() > 1 || self.accumulation == Accumulation::Chain))
        {
            return fail("in_flight", self.in_flight, "it must be 1, or up to 16 on one wave of promoted blocks");
        }
        if self.in_flight > 1 && (self.share != Share::Nothing || self.schedule == Schedule::StreamK) {
            return fail("in_flight", self.in_flight, "it must be 1 where CTAs share operands or tiles");
        }
        if self.schedule != Schedule::Swapped
            && self.block_m < 64
            && self.block_n * self.in_flight * self.stages < 64 - self.block_m
        {
            return fail("stages", self.stages, "wgmma reads 64 rows from the last stage of A: B must lie behind it");
        }
        if self.store == Store::Tma && self.c.is_some_and(|c| c != self.output) {
            return fail("store", 0, "TMA brings C to D's place, so C has D's type");
        }
        if self.group == 0 {
            return fail("group", self.group, "it must be at least 1");
        }
        if self.scales == KernelScales::Block1d2d && !(1..=1 << 16).contains(&self.max_k_blocks) {
            return fail("max_k_blocks", self.max_k_blocks, "it must be 1 to 65536");
        }
        if self.accumulation.parts() != 1 && self.schedule != Schedule::Swapped {
            return fail("accumulation", self.accumulation.parts(), "K is split only with swapped operands");
        }
        if self.accumulation == Accumulation::Chain && self.scales != KernelScales::AtEnd {
            return fail("accumulation", 0, "block scales need promotion every 128 of K");
        }
        if self.shared_bytes() > SHARED_LIMIT {
            return fail("shared memory", self.shared_bytes(), "a CTA has at most 232448 bytes");
        }
        Ok(())
    }
}

impl KernelConfig {
    /// What is special to [`Schedule::Swapped`].
    fn check_swapped(&self) -> Result<(), JitError> {
        let fail = |field, value, rule| Err(JitError::Config { config: *self, field, value, rule });
        if ![8, 16, 32, 64].contains(&self.block_n) {
            return fail("block_n", self.block_n, "with swapped operands it must be 8, 16, 32 or 64");
        }
        let columns = self.wgmma_columns();
        if columns > 256 {
            return fail("block_m", self.block_m, "64 / block_n times block_m are the columns of wgmma: at most 256");
        }
        // Scales and results are read by four; accumulators of all that is under way fit the registers.
        let fits = if self.block_n == 64 { self.in_flight == 4 } else { self.in_flight.saturating_mul(columns) <= 256 };
        if !(1..=16).contains(&self.in_flight) || !self.stage_blocks().is_multiple_of(4) || !fits {
            let rule =
                "with swapped operands a stage has a multiple of 4 blocks, at most 256 columns of wgmma in flight";
            return fail("in_flight", self.in_flight, rule);
        }
        let splits = matches!(self.accumulation, Accumulation::Promote128 | Accumulation::Split { parts: 2 | 4 | 8 });
        let only = [
            ("accumulation", splits, "with swapped operands it is promote128, or split in 2, 4 or 8"),
            ("scales", self.scales == KernelScales::Block1d2d, "with swapped operands they are 1x128 and 128x128"),
            ("c", self.c.is_none(), "with swapped operands there is no C"),
            ("share", self.share == Share::Nothing, "with swapped operands nothing is shared"),
            ("store", self.store == Store::Direct, "with swapped operands D is stored directly"),
        ];
        if self.max_k_blocks == 0 || !self.max_k_blocks.is_multiple_of(self.stage_blocks()) {
            let rule = "with swapped operands it is a multiple of a stage's blocks, whose scales are read together";
            return fail("max_k_blocks", self.max_k_blocks, rule);
        }
        for (field, holds, rule) in only {
            if !holds {
                return fail(field, 0, rule);
            }
        }
        Ok(())
    }
}

impl fmt::Display for KernelScales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Block1d2d => "1d2d",
            Self::Block1d1d => "1d1d",
            Self::AtEnd => "end",
        })
    }
}

/// What [`KernelConfig::kernel_name`] prints.
struct KernelName<'a>(&'a KernelConfig);

impl fmt::Display for KernelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_g{}", KernelName(self), self.group)
    }
}

impl fmt::Display for KernelName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        write!(f, "{}_{}_{}", config.a, config.b, config.scales)?;
        match config.accumulation {
            Accumulation::Promote128 => {}
            Accumulation::Chain => write!(f, "_chain")?,
            Accumulation::Split { parts } => write!(f, "_split{parts}")?,
        }
        write!(f, "_{}", config.output)?;
        if let Some(c) = config.c {
            write!(f, "_c{c}")?;
        }
        write!(f, "_{}x{}_s{}", config.block_m, config.block_n, config.stages)?;
        if config.in_flight > 1 {
            write!(f, "_f{}", config.in_flight)?;
        }
        f.write_str(match config.share {
            Share::Nothing => "",
            Share::A => "_xa",
            Share::B => "_xb",
        })?;
        f.write_str(match config.schedule {
            Schedule::Cooperative => "",
            Schedule::PingPong => "_pp",
            Schedule::StreamK => "_sk",
            Schedule::Swapped => "_sw",
        })?;
        f.write_str(if config.store == Store::Direct { "_d" } else { "" })?;
        if config.scales == KernelScales::Block1d2d {
            write!(f, "_k{}", config.max_k_blocks)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const LARGE: KernelConfig = KernelConfig {
        a: OperandType::E4m3,
        b: OperandType::E4m3,
        scales: KernelScales::Block1d2d,
        accumulation: Accumulation::Promote128,
        output: OutputType::Bf16,
        c: None,
        block_m: 256,
        block_n: 128,
        stages: 3,
        in_flight: 1,
        share: Share::Nothing,
        schedule: Schedule::Cooperative,
        store: Store::Tma,
        group: 16,
        max_k_blocks: 128,
    };

    /// Breaks if two configurations share a name (the cache lists them by it) or a name changes
    /// silently.
    #[test]
    fn names_tell_configurations_apart() {
        assert_eq!(LARGE.to_string(), "e4m3_e4m3_1d2d_bf16_256x128_s3_k128_g16");
        assert_eq!(LARGE.kernel_name(), "e4m3_e4m3_1d2d_bf16_256x128_s3_k128");
        let end = KernelConfig {
            scales: KernelScales::AtEnd,
            accumulation: Accumulation::Chain,
            c: Some(OutputType::F32),
            share: Share::A,
            store: Store::Direct,
            ..LARGE
        };
        assert_eq!(end.to_string(), "e4m3_e4m3_end_chain_bf16_cf32_256x128_s3_xa_d_g16");
    }

    /// Breaks if the host asks for another amount of shared memory than the kernel lays out; the
    /// numbers are those of kernels that ran on an H200.
    #[test]
    fn shared_memory_is_the_kernels() {
        assert_eq!(LARGE.shared_bytes(), 218_256);
        assert_eq!(KernelConfig { block_m: 128, stages: 5, ..LARGE }.shared_bytes(), 201_392);
        assert_eq!(KernelConfig { block_m: 128, block_n: 192, stages: 4, ..LARGE }.shared_bytes(), 219_296);
        assert_eq!(KernelConfig { block_n: 112, ..LARGE }.shared_bytes(), 218_256);
        assert_eq!(KernelConfig { stages: 4, store: Store::Direct, ..LARGE }.shared_bytes(), 219_296);
    }

    /// Breaks if more registers are said than an SM has, of kernels whose threads keep theirs, or not of those that
    /// move them.
    #[test]
    fn registers_are_said_where_they_move() {
        let mut told = std::collections::BTreeSet::new();
        for text in ["1x576x7168", "64x576x7168", "4096x7168x16384"] {
            let problem = format!("{text} a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap();
            for config in crate::choose(&problem, 132).unwrap().candidates.iter().map(|one| one.config) {
                let source = config.source();
                let moves = source.contains("registers_grow<MATH_REGISTERS>") && source.contains("MATH_GROUPS = 2;");
                assert_eq!(config.registers().is_some(), moves, "{config}");
                if let Some((math, load)) = config.registers() {
                    let loading = config.threads() - 128 * config.math_groups();
                    assert!(128 * config.math_groups() * math + loading * load <= 65_536, "{config}");
                }
                told.insert((config.schedule == Schedule::Swapped, moves));
            }
        }
        assert_eq!(told.into_iter().collect::<Vec<_>>(), [(false, false), (false, true), (true, false)]);
    }

    /// Breaks if an impossible configuration reaches the compiler, whose messages help nobody.
    #[test]
    fn impossible_configurations_are_named() {
        assert!(LARGE.check().is_ok());
        for bad in [
            KernelConfig { block_m: 96, ..LARGE },
            KernelConfig { block_m: 64, schedule: Schedule::StreamK, ..LARGE },
            KernelConfig { in_flight: 3, ..LARGE },
            KernelConfig { block_m: 64, in_flight: 17, ..LARGE },
            KernelConfig { block_m: 128, in_flight: 2, share: Share::A, ..LARGE },
            KernelConfig { block_n: 100, ..LARGE },
            KernelConfig { block_n: 120, share: Share::B, ..LARGE },
            KernelConfig { c: Some(OutputType::F32), ..LARGE },
            KernelConfig { max_k_blocks: 1 << 30, ..LARGE },
            KernelConfig { block_n: 272, ..LARGE },
            KernelConfig { stages: 4, ..LARGE },
            KernelConfig { schedule: Schedule::PingPong, ..LARGE },
            KernelConfig { accumulation: Accumulation::Chain, ..LARGE },
        ] {
            assert!(matches!(bad.check(), Err(JitError::Config { .. })), "{bad}");
        }
    }

    /// Breaks if a kernel with swapped operands is one that cannot be, has another amount of shared memory than the
    /// kernel that ran on an H200, or numbers beyond all sense are no errors.
    #[test]
    fn swapped_operands_have_rules_of_their_own() {
        let swapped = KernelConfig {
            block_m: 8,
            block_n: 8,
            stages: 3,
            in_flight: 2,
            schedule: Schedule::Swapped,
            store: Store::Direct,
            max_k_blocks: 64,
            group: 1,
            ..LARGE
        };
        swapped.check().unwrap();
        assert_eq!(swapped.kernel_name(), "e4m3_e4m3_1d2d_bf16_8x8_s3_f2_sw_d_k64");
        assert_eq!((swapped.threads(), swapped.stage_blocks(), swapped.wgmma_columns()), (288, 16, 64));
        // Operands, barriers, results, scales of 8 rows and B's, alignment.
        assert_eq!(swapped.shared_bytes(), 3 * (16 * 16 * 128 + 16) + 2 * 16 * 64 * 4 + 9 * 16 * 16 + 1024);
        let split = KernelConfig { accumulation: Accumulation::Split { parts: 4 }, ..swapped };
        split.check().unwrap();
        assert_eq!((split.cluster(), split.shared_bytes() - swapped.shared_bytes()), (4, 3 * 512));
        let wide = KernelConfig { block_m: 32, block_n: 64, in_flight: 4, stages: 1, ..swapped };
        wide.check().unwrap();
        assert_eq!((wide.threads(), wide.stage_blocks(), wide.wgmma_columns()), (160, 4, 32));
        for bad in [
            KernelConfig { block_m: 64, ..wide },
            KernelConfig { block_n: 128, ..wide },
            KernelConfig { block_n: 0, ..wide },
            KernelConfig { in_flight: 2, ..wide },
            KernelConfig { block_m: 32, ..swapped },
            KernelConfig { in_flight: 0, ..swapped },
            KernelConfig { in_flight: 5, ..swapped },
            KernelConfig { in_flight: u32::MAX, ..swapped },
            KernelConfig { stages: 0, ..swapped },
            KernelConfig { stages: 16, ..swapped },
            KernelConfig { max_k_blocks: 8, ..swapped },
            KernelConfig { max_k_blocks: 24, ..swapped },
            KernelConfig { c: Some(OutputType::Bf16), ..swapped },
            KernelConfig { store: Store::Tma, ..swapped },
            KernelConfig { share: Share::B, ..swapped },
            KernelConfig { scales: KernelScales::Block1d1d, ..swapped },
            KernelConfig { accumulation: Accumulation::Split { parts: 3 }, ..swapped },
            KernelConfig { accumulation: Accumulation::Split { parts: 2 }, ..LARGE },
        ] {
            assert!(matches!(bad.check(), Err(JitError::Config { .. })), "{bad}");
        }
    }
}
