//! Which configuration for which problem: a pure function of the problem and the number of SMs.
//!
//! The estimate of a configuration, in cycles of one SM:
//!
//! ```text
//! block    = max( BM * BN / 32 / (e * f * g) ,  128 (BM/a + BN/b) / 60 )      tensor cores; L2
//!          = max( 4 max(BN/2, 16 + BN/4) + 200/i ,  the same )                up to 64 rows
//!          = max( 90 + 2 BM                      ,  the same )                swapped, 64 columns
//!          = max( (250 + 64 BM/BN) BN/64         ,  the same )                swapped, fewer
//! tile     = ceil(K / 128 / split) * block * p + start + BM * BN * size(D) * c / s   K loop; first load, store
//! waves    = halfway between tiles / SMs and its ceiling, but at least 1; stream-K: tiles / SMs + 0.06
//! compute  = waves * tile + handover + launch
//! memory   = (M K + r N K + (size(D) + size(C)) M N) / HBM                 swapped: at most 50 GB/s an SM
//! time     = max(compute / 1.55 GHz, memory)                                up to 128 rows: 1.85 GHz
//! ```
//!
//! | | value | where |
//! |---|---|---|
//! | `e` | 0.45 to 0.99 | a warpgroup's promotion hides behind the other's `wgmma` if that is long enough: grows with the tile |
//! | `f` | 0.62, else 1 | 1D1D: twice the arithmetic beside the tensor cores |
//! | `g` | 0.75, else 1 | two stages: loads cannot run ahead |
//! | `i` | 1 to 8 | blocks in flight, which share the wait for what is not `wgmma`; that reads 2048 + 32 BN bytes of shared memory, 128 a cycle |
//! | `a`, `b` | 2, else 1 | the two CTAs of a cluster share A (`a`) or B (`b`): each loads half of it |
//! | `p` | 1.005, else 1 | clusters: CTAs start and end together |
//! | `start` | 1700, 300, else 900 | 256 rows, swapped |
//! | `c` | 1.5, else 1 | C is read |
//! | `s` | 18, else 24 | bytes in a cycle: D stored directly, else by TMA |
//! | `r` | rows of tiles, else 1 | up to 128 rows: weights are on their way to one tile while another asks for them |
//! | `handover` | `2 * BM * BN * 4 / 40`, else 0 | stream-K: accumulators go out and in again |
//! | `launch` | 4500, else 3500 | clusters |
//!
//! SMs that are left over beside whole clusters do not count. CTAs drift apart, so a nearly empty last
//! wave costs less than a full one. All constants are fitted to the H200 measurements in
//! `docs/performance.md`; the clock is the one that the power limit leaves on large problems. The
//! model ranks configurations; it is not a prediction of time.

use core::fmt;

use fp8gemm_problem::{OutputType, Policy, Problem, ScaleLayout};

use crate::JitError;
use crate::config::{Accumulation, KernelConfig, KernelScales, SHARED_LIMIT, Schedule, Share, Store};

/// Bytes that L2 delivers to one SM in a cycle when all ask.
const L2_BYTES_PER_CYCLE: f64 = 60.0;
/// Cycles in a second under load.
const CLOCK: f64 = 1.55e9;
/// Rows up to which the tensor cores mostly wait for memory.
const MEMORY_ROWS: usize = 128;
/// Cycles in a second then.
const IDLE_CLOCK: f64 = 1.85e9;
/// Bytes that HBM delivers in a second.
const HBM: f64 = 4.25e12;

/// Of these, what one SM takes in a second: 36 CTAs read 1.8 TB/s, 64 of them 3.2.
const HBM_TO_SM: f64 = 50e9;

/// Shared memory of an SM, of which each CTA takes 1,024 bytes more than it asks for.
const SHARED_OF_SM: u32 = 233_472;

/// Registers of a math thread that accumulators, chain and column scales may take.
const MOST_REGISTERS: u32 = 201;

/// A shape of the work, before a problem fills it in.
#[derive(Clone, Copy, Debug)]
struct Shape {
    block_m: u32,
    block_n: u32,
    share: Share,
    schedule: Schedule,
    /// Whether D is stored directly although TMA could: that leaves room for a stage.
    direct: bool,
    /// K blocks in flight; K has at least so many.
    in_flight: u32,
}

const fn shape(block_m: u32, block_n: u32) -> Shape {
    Shape { block_m, block_n, share: Share::Nothing, schedule: Schedule::Cooperative, direct: false, in_flight: 1 }
}

/// For few tiles or rows: one math warpgroup, of up to 64 rows.
const fn narrow(block_m: u32, block_n: u32, in_flight: u32) -> Shape {
    Shape { in_flight, ..shape(block_m, block_n) }
}

/// For few rows: the operands on each other's side. `in_flight` counts 64-row tiles of B.
const fn swapped(block_m: u32, block_n: u32, in_flight: u32) -> Shape {
    Shape { in_flight, schedule: Schedule::Swapped, direct: true, ..shape(block_m, block_n) }
}

/// Shapes worth considering, best first for equal estimates.
const SHAPES: [Shape; 43] = [
    Shape { share: Share::A, direct: true, ..shape(256, 128) },
    shape(256, 128),
    Shape { direct: true, ..shape(256, 128) },
    shape(128, 192),
    Shape { share: Share::B, ..shape(128, 192) },
    Shape { direct: true, ..shape(256, 112) },
    shape(128, 160),
    shape(128, 144),
    shape(128, 128),
    Shape { share: Share::A, ..shape(128, 128) },
    Shape { direct: true, ..shape(128, 64) },
    shape(128, 64),
    Shape { direct: true, ..shape(128, 32) },
    shape(128, 32),
    shape(128, 16),
    Shape { schedule: Schedule::StreamK, ..shape(128, 192) },
    Shape { schedule: Schedule::StreamK, share: Share::A, direct: true, ..shape(256, 128) },
    Shape { schedule: Schedule::StreamK, ..shape(128, 128) },
    Shape { schedule: Schedule::StreamK, ..shape(128, 144) },
    swapped(8, 64, 4),
    swapped(8, 32, 2),
    swapped(8, 16, 1),
    swapped(8, 8, 2),
    swapped(16, 64, 4),
    swapped(16, 32, 2),
    swapped(16, 16, 1),
    swapped(16, 8, 1),
    swapped(32, 64, 4),
    narrow(16, 8, 8),
    narrow(16, 16, 8),
    narrow(16, 32, 8),
    narrow(16, 56, 4),
    narrow(16, 128, 2),
    narrow(16, 192, 1),
    narrow(64, 8, 4),
    narrow(64, 16, 4),
    narrow(64, 32, 4),
    narrow(64, 40, 4),
    narrow(64, 56, 4),
    narrow(64, 64, 4),
    narrow(64, 96, 1),
    narrow(64, 128, 2),
    narrow(64, 192, 1),
];

/// One candidate and what the model says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The configuration.
    pub config: KernelConfig,
    /// Output tiles.
    pub tiles: u64,
    /// Rounds of tiles over the SMs.
    pub waves: u64,
    /// Microseconds of the tensor cores and their surroundings.
    pub compute_us: f64,
    /// Microseconds that memory needs at least.
    pub memory_us: f64,
    /// What `compute_us` is made of.
    pub terms: Terms,
}

impl Estimate {
    /// The larger of the two.
    pub fn us(&self) -> f64 {
        self.compute_us.max(self.memory_us)
    }
}

/// The terms of an estimate's compute time, in cycles of one SM unless said:
///
/// ```text
/// compute = (rounds * (k_blocks * max(tensor, l2) * pairing + ends) + handover + launch) / clock
/// ```
///
/// How each follows from problem and configuration is at the head of `choose.rs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// A block of K on the tensor cores, with as much of its promotion as does not hide behind them.
    pub tensor: f64,
    /// Its operands' way from L2, which takes place meanwhile.
    pub l2: f64,
    /// Blocks of K of a tile.
    pub k_blocks: f64,
    /// Factor of the K loop for CTAs of a cluster, which start and end together.
    pub pairing: f64,
    /// The latency of a tile's first load, and the way of D (and C).
    pub ends: f64,
    /// Tiles of an SM.
    pub rounds: f64,
    /// Accumulators that go out and in again with stream-K.
    pub handover: f64,
    /// The launch.
    pub launch: f64,
    /// Cycles in a second.
    pub clock: f64,
}

impl Terms {
    fn us(&self) -> f64 {
        let tile = self.k_blocks * self.tensor.max(self.l2) * self.pairing + self.ends;
        (self.rounds * tile + self.handover + self.launch) / self.clock * 1e6
    }
}

/// A choice with its reasons: all candidates, the chosen one first.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Every candidate, fastest first.
    pub candidates: Vec<Estimate>,
}

impl Choice {
    /// The chosen configuration.
    pub fn config(&self) -> KernelConfig {
        // `choose` never makes an empty list.
        self.candidates[0].config
    }
}

impl fmt::Display for Choice {
    /// A table, the chosen configuration first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>10} {:>10} {:>7} {:>6}  configuration", "compute us", "memory us", "tiles", "waves")?;
        for e in &self.candidates {
            let (compute, memory) = (e.compute_us, e.memory_us);
            writeln!(f, "{compute:>10.1} {memory:>10.1} {:>7} {:>6}  {}", e.tiles, e.waves, e.config)?;
        }
        Ok(())
    }
}

/// Picks the configuration for `problem` on a GPU with `sms` SMs.
///
/// # Errors
/// [`JitError::Problem`] where the problem itself is not legal; [`JitError::Unsupported`] where no
/// kernel computes it: policies other than `promote128`, `chain` and, for few rows, `split2`,
/// `split4` and `split8`; 1x32 scales; M, N or K of 0.
///
/// ```
/// let problem = "4096x7168x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse()?;
/// let choice = fp8gemm_jit::choose(&problem, 132)?;
/// assert_eq!((choice.config().block_m, choice.config().block_n), (256, 128));
/// # Ok::<(), fp8gemm_jit::JitError>(())
/// ```
pub fn choose(problem: &Problem, sms: u32) -> Result<Choice, JitError> {
    problem.check()?;
    let unsupported = |rule: &str| JitError::Unsupported { problem: problem.to_string(), rule: rule.to_owned() };
    if problem.m == 0 || problem.n == 0 || problem.k == 0 {
        return Err(unsupported("M, N and K must be at least 1; an empty product needs no kernel"));
    }
    let scales = kernel_scales(problem.a.scales, problem.b.scales)
        .ok_or_else(|| unsupported("scales must be row, tensor, 1x128 or 128x128"))?;
    let accumulation = match problem.policy {
        Policy::PROMOTE_128 => Accumulation::Promote128,
        Policy::Chain => Accumulation::Chain,
        Policy::Split { parts: 1 } => Accumulation::Promote128,
        Policy::Split { parts: parts @ (2 | 4 | 8) } => Accumulation::Split { parts },
        _ => return Err(unsupported("the kernels know the policies promote128, chain, split2, split4 and split8")),
    };
    let filled = |scales| {
        let configs =
            SHAPES.into_iter().filter_map(move |shape| config(problem, scales, accumulation, shape, sms.max(1)));
        configs.map(|config| estimate(problem, config, sms.max(1))).collect::<Vec<_>>()
    };
    let mut candidates = filled(scales);
    // 128x128 scales of a tile wait in shared memory for all of K; repeated for each row they come
    // with their block, with the same bits.
    if candidates.is_empty() && scales == KernelScales::Block1d2d {
        candidates = filled(KernelScales::Block1d1d);
    }
    if candidates.is_empty() && accumulation.parts() > 1 {
        return Err(unsupported(
            "kernels with K split are for block scales (of B 128x128 or tensor), up to 32 rows, no C, and K that is not \
             too large",
        ));
    }
    if candidates.is_empty() {
        return Err(unsupported("K is too large"));
    }
    // Where memory decides, what leaves the most room beside it. With up to 64 rows and several tiles for an SM that
    // is one tile of up to three, since the ends of the others are behind the next one's loads; with swapped operands,
    // whose CTAs share an SM, always. Equal estimates keep the order of SHAPES.
    let room = |x: &Estimate| match x.config.schedule {
        Schedule::Swapped => x.compute_us / 3.0,
        _ if few_rows(problem, &x.config) => x.compute_us / x.waves.min(3) as f64,
        _ => x.compute_us,
    };
    let order = |x: &Estimate, y: &Estimate| x.us().total_cmp(&y.us()).then(room(x).total_cmp(&room(y)));
    candidates.sort_by(order);
    Ok(Choice { candidates })
}

/// The kernel's way of applying these scales. Where the pair is not literally one of the kernel's,
/// the smaller scale matrix is spread out before the launch: a 128x128 A becomes 1x128, a row scale
/// beside a block scale is repeated along K.
fn kernel_scales(a: ScaleLayout, b: ScaleLayout) -> Option<KernelScales> {
    use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
    match (a, b) {
        (Row | Tensor, Row | Tensor) => Some(KernelScales::AtEnd),
        (Row | Tensor | Block1x128 | Block128x128, Block128x128 | Tensor) => Some(KernelScales::Block1d2d),
        (Row | Tensor | Block1x128 | Block128x128, Row | Block1x128) => Some(KernelScales::Block1d1d),
        _ => None,
    }
}

/// Whether rows of D end at multiples of 16 bytes. TMA clips what it stores there, so that it would
/// write beyond rows that end elsewhere: those need [`Store::Direct`].
pub fn tma_can_store(problem: &Problem) -> bool {
    (problem.n as u128 * problem.d.size() as u128).is_multiple_of(16)
}

/// The shape filled in; nothing where it cannot be.
fn config(
    problem: &Problem,
    scales: KernelScales,
    accumulation: Accumulation,
    shape: Shape,
    sms: u32,
) -> Option<KernelConfig> {
    let Shape { block_m, block_n, share, schedule, direct, in_flight } = shape;
    let k_blocks = u32::try_from(problem.k.div_ceil(128)).ok()?;
    if schedule == Schedule::Swapped {
        return swapped_config(problem, scales, accumulation, shape, sms);
    }
    if accumulation.parts() > 1 {
        return None;
    }
    let narrow = block_m <= 64;
    let promotes = accumulation == Accumulation::Promote128;
    let in_flight = if promotes { in_flight } else { 1 };
    if k_blocks < in_flight {
        return None;
    }
    // Accumulators, chains and column scales must fit 232 registers with room for addresses; and so
    // must the scales of what is in flight.
    let waves = block_m.div_ceil(128);
    let chains = if promotes { in_flight } else { 0 };
    let columns = u32::from(scales == KernelScales::Block1d1d);
    if block_n / 2 * (waves + chains) + block_n / 4 * columns >= MOST_REGISTERS {
        return None;
    }
    let c = problem.c.filter(|_| problem.epilogue.reads_c());
    let store =
        if direct || !tma_can_store(problem) || c.is_some_and(|c| c != problem.d) { Store::Direct } else { Store::Tma };
    // What is direct anyway is not a choice of its own; C comes by TMA or not at all fast.
    if direct && (c.is_some() || (!tma_can_store(problem) && share == Share::Nothing)) {
        return None;
    }
    // A second row of tiles would bring the weights once more.
    if block_m < 64 && problem.m > block_m as usize {
        return None;
    }
    // What is accumulated into C is hardly ever narrow, and each tile is a kernel for every type of C.
    if narrow && c.is_some() {
        return None;
    }
    let most = KernelConfig {
        c,
        stages: 8,
        in_flight,
        store,
        // All rows of tiles at once where K is short: B is then read once. Clusters take two
        // neighbours, so that half of the usual 16 rows are as wide.
        group: match share {
            _ if k_blocks <= 12 => 64,
            Share::Nothing => 16,
            Share::A | Share::B => 8,
        },
        max_k_blocks: match scales {
            KernelScales::Block1d2d => scale_blocks(k_blocks)?,
            KernelScales::Block1d1d | KernelScales::AtEnd => 0,
        },
        ..least_of(problem, scales, accumulation, shape)
    };
    // With less than two rounds, runs of about a tile lose more L2 hits than the last round costs:
    // 25 % of a tile's time at 512x7168x16384.
    let rounds = tiles(problem, &most) / u64::from(sms);
    if schedule == Schedule::StreamK && (rounds < 2 || !streams(problem, &most, sms)) {
        return None;
    }
    let fits = |stages: &u32| KernelConfig { stages: *stages, ..most }.shared_bytes() <= SHARED_LIMIT;
    // More than 8 gained only where stages are small and memory decides (docs/performance.md: 128x4096x7168).
    let most_stages = if (block_m, block_n) == (128, 32) { 10 } else { 8 };
    let deepest = (2..=most_stages).rev().find(fits)?;
    // Tiles start at the first stage, so loads run ahead into the next tile by all stages only if
    // their number divides that of the blocks: 4 and 8 mostly do. A single tile takes what there is.
    // Narrow tiles are for single rounds.
    let several = !narrow && tiles(problem, &most) > u64::from(sms);
    let stages =
        if several { [8, 4].into_iter().find(|stages| *stages <= deepest).unwrap_or(deepest) } else { deepest };
    Some(KernelConfig { stages, ..most }).filter(|config| config.check().is_ok())
}

/// What the problem and the shape say, and the least of everything else.
fn least_of(problem: &Problem, scales: KernelScales, accumulation: Accumulation, shape: Shape) -> KernelConfig {
    let Shape { block_m, block_n, share, schedule, in_flight, .. } = shape;
    KernelConfig {
        a: problem.a.ty,
        b: problem.b.ty,
        scales,
        accumulation,
        output: problem.d,
        c: None,
        block_m,
        block_n,
        stages: 1,
        in_flight,
        share,
        schedule,
        store: Store::Direct,
        group: 1,
        max_k_blocks: 0,
    }
}

/// Blocks of K that a kernel for so many has room for: classes, so that there are few kernels.
fn scale_blocks(k_blocks: u32) -> Option<u32> {
    k_blocks.max(16).checked_next_power_of_two()
}

/// Blocks of K that one CTA has, at most.
fn blocks_of_cta(problem: &Problem, accumulation: Accumulation) -> Option<u32> {
    u32::try_from(problem.k.div_ceil(128).div_ceil(accumulation.parts() as usize)).ok()
}

/// The shape with swapped operands filled in: for no more rows than a tile has, else weights would be brought
/// once more.
fn swapped_config(
    problem: &Problem,
    scales: KernelScales,
    accumulation: Accumulation,
    shape: Shape,
    sms: u32,
) -> Option<KernelConfig> {
    let Shape { block_m, block_n, in_flight, .. } = shape;
    // Of one CTA.
    let k_blocks = blocks_of_cta(problem, accumulation)?;
    let least = if block_m > 8 { block_m / 2 } else { 0 };
    let rows = problem.m > least as usize && problem.m <= block_m as usize;
    let reads_c = problem.c.is_some() && problem.epilogue.reads_c();
    if !rows || reads_c || scales != KernelScales::Block1d2d || accumulation == Accumulation::Chain {
        return None;
    }
    // A stage is loaded whole, where the range of the next CTA begins inside it too.
    let stage = in_flight * (64 / block_n);
    if accumulation.parts() > 1 && block_n < 64 && stage > k_blocks {
        return None;
    }
    let most = KernelConfig { max_k_blocks: scale_blocks(k_blocks)?, ..least_of(problem, scales, accumulation, shape) };
    // As many CTAs on an SM as there are tiles for it, up to four. Where that is one, half of an SM's shared memory
    // all the same, if it holds three stages: with all of K under way at once its beginning comes late.
    let needed = most.max_k_blocks.div_ceil(most.stage_blocks());
    let deepest = |together: u32| {
        let fits =
            |stages: &u32| KernelConfig { stages: *stages, ..most }.shared_bytes() <= SHARED_OF_SM / together - 1024;
        // A few depths, so that there are few kernels.
        [8, 6, 4, 3, 2, 1].into_iter().filter(|stages| *stages <= needed).find(fits)
    };
    let ctas = tiles(problem, &most).saturating_mul(u64::from(most.cluster()));
    let together = ctas.div_ceil(u64::from(sms)).clamp(1, 4) as u32;
    let half = deepest(2).filter(|stages| together == 1 && *stages >= needed.min(3));
    // Three leave a gap that a fourth fills; with more than 8 tokens and much of K a single stage is too little.
    let together = if together == 3 { 4 } else { together };
    let least = if block_m > 8 && needed > 4 { 2 } else { 1 };
    let stages = half.or_else(|| (1..=together).rev().filter_map(deepest).find(|stages| *stages >= least))?;
    Some(KernelConfig { stages, ..most }).filter(|config| config.check().is_ok())
}

/// Whether stream-K has tiles to cut on a GPU with `sms` SMs: more than clusters, and not a multiple
/// of them; the kernel counts blocks of the last two waves in 32 bits. A kernel with
/// [`Schedule::StreamK`] must not be launched otherwise.
pub fn streams(problem: &Problem, config: &KernelConfig, sms: u32) -> bool {
    let clusters = u64::from(sms / config.share.cluster());
    let tiles = tiles(problem, config) / u64::from(config.share.cluster());
    let blocks = problem.k.div_ceil(128) as u64;
    clusters > 0
        && tiles > clusters
        && !tiles.is_multiple_of(clusters)
        && blocks.checked_mul(2 * clusters).is_some_and(|blocks| blocks < 1 << 31)
}

/// Output tiles, whole clusters of them.
pub fn tiles(problem: &Problem, config: &KernelConfig) -> u64 {
    let along = |size: usize, block: u32, share: u32| size.div_ceil((block * share) as usize) as u64 * u64::from(share);
    let rows = along(problem.m, config.block_m, config.share.along_m());
    rows.saturating_mul(along(problem.n, config.block_n, config.share.along_n()))
}

/// Whether this is a kernel for few rows, and they are few: one row of tiles, which waits for memory.
fn few_rows(problem: &Problem, config: &KernelConfig) -> bool {
    config.schedule == Schedule::Swapped || (problem.m <= 64 && config.block_m == 64 && config.math_groups() == 1)
}

pub(crate) fn estimate(problem: &Problem, config: KernelConfig, sms: u32) -> Estimate {
    let (m, n, k) = (problem.m as f64, problem.n as f64, problem.k as f64);
    let (block_m, block_n) = (f64::from(config.block_m), f64::from(config.block_n));
    let tiles = tiles(problem, &config);
    let ctas = tiles.saturating_mul(u64::from(config.accumulation.parts()));
    let cluster = config.cluster();
    let sms = u64::from(sms / cluster * cluster).max(1);
    let waves = ctas.div_ceil(sms);
    let full = ctas as f64 / sms as f64;
    let column_scales = config.scales == KernelScales::Block1d1d;
    let size = problem.d.size() as f64;
    let exposed = match (config.block_m, config.block_n) {
        (256, 128) if config.stages >= 4 && config.share == Share::A => 0.99,
        (256, 128) if config.stages >= 4 => 0.95,
        (_, 192..) => 0.955,
        (256, 128..) => 0.94,
        (256, _) => 0.90,
        (_, 160..) if column_scales => 0.84,
        (_, 144..) => 0.91,
        (_, 128..) if column_scales && config.share == Share::A => 0.89,
        (_, 128..) => 0.87,
        (_, 64..) => 0.70,
        _ => 0.45,
    };
    // 1D1D has twice the arithmetic beside the tensor cores; two stages cannot run ahead.
    let scales = if column_scales { 0.62 } else { 1.0 };
    let depth = if config.stages == 2 { 0.75 } else { 1.0 };
    let tensor = if config.schedule == Schedule::Swapped {
        let columns = f64::from(config.wgmma_columns());
        if config.block_n == 64 { 90.0 + 2.0 * columns } else { (250.0 + columns) * block_n / 64.0 }
    } else if config.math_groups() == 1 {
        4.0 * (block_n / 2.0).max(16.0 + block_n / 4.0) + 200.0 / f64::from(config.in_flight)
    } else {
        block_m * block_n / 32.0 / (exposed * scales * depth)
    };
    let shared = |along: u32| f64::from(along);
    let l2 = 128.0 * (block_m / shared(config.share.along_n()) + block_n / shared(config.share.along_m()))
        / L2_BYTES_PER_CYCLE;
    let c = if config.c.is_some() { 1.5 } else { 1.0 };
    // A small charge for pairing CTAs, which start and end together.
    let pairing = if cluster > 1 { 1.005 } else { 1.0 };
    let store_rate = if config.store == Store::Direct { 18.0 } else { 24.0 };
    let start = match (config.schedule, config.block_m) {
        (Schedule::Swapped, _) => 300.0,
        (_, 256) => 1700.0,
        // In one round no other tile is behind the way of D from warp to warp and through a tensor map.
        (_, 128) if config.store == Store::Direct && waves == 1 => 500.0,
        _ => 900.0,
    };
    let ends = start + block_m * block_n * size * c / store_rate;
    let k_blocks = blocks_of_cta(problem, config.accumulation).map_or(f64::INFINITY, f64::from);
    let (rounds, handover) = match config.schedule {
        // Accumulators go out and in again.
        Schedule::StreamK => (full + 0.06, 2.0 * block_m * block_n * 4.0 / 40.0),
        _ => ((0.5 * (waves as f64 + full)).max(1.0), 0.0),
    };
    let launch = if cluster > 1 { 4500.0 } else { 3500.0 };
    let read_c = if config.c.is_some() { problem.c.map_or(0, OutputType::size) as f64 } else { 0.0 };
    // With up to 128 rows CTAs of a second row of tiles read the weights while they are still on their way to the
    // first, and it costs about as much (docs/performance.md: 128x4096x7168).
    // Tiles of 8 to 32 rows of which `wgmma` multiplies 64 are slower than `block` says; the lower clock stands for that.
    let narrow = config.block_m < 64 && config.schedule != Schedule::Swapped;
    let (few, rows) = (problem.m <= MEMORY_ROWS && !narrow, problem.m.div_ceil(config.block_m as usize) as f64);
    let bytes = m * k + n * k * if few { rows } else { 1.0 } + (size + read_c) * m * n;
    let clock = if few { IDLE_CLOCK } else { CLOCK };
    let memory = if config.schedule == Schedule::Swapped {
        HBM.min((full * sms as f64).min(sms as f64) * HBM_TO_SM)
    } else {
        HBM
    };
    let terms = Terms { tensor, l2, k_blocks, pairing, ends, rounds, handover, launch, clock };
    Estimate { config, tiles, waves, compute_us: terms.us(), memory_us: bytes / memory * 1e6, terms }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(problem: &str, sms: u32) -> (u32, u32) {
        let config = choose(&problem.parse().unwrap(), sms).unwrap().config();
        (config.block_m, config.block_n)
    }

    fn dense(m: usize, n: usize, k: usize) -> String {
        format!("{m}x{n}x{k} a=e4m3:1x128 b=e4m3:128x128 d=bf16")
    }

    /// Breaks if the model stops picking the tile that was fastest on an H200 (kernel times of
    /// 2026-11-23, `docs/performance.md`).
    #[test]
    fn picks_what_was_fastest() {
        assert_eq!(tile(&dense(4096, 7168, 16384), 132), (256, 128));
        assert_eq!(tile(&dense(4096, 4096, 7168), 132), (256, 128));
        assert_eq!(tile(&dense(4096, 24576, 1536), 132), (128, 192));
        assert_eq!(tile(&dense(4096, 32768, 512), 132), (128, 192));
        assert_eq!(tile(&dense(4096, 7168, 2048), 132), (256, 128));
        assert_eq!(tile(&dense(4096, 2112, 7168), 132), (128, 192));
        assert_eq!(tile(&dense(4096, 576, 7168), 132), (128, 144));
        assert_eq!(tile(&dense(512, 7168, 16384), 132), (256, 112));
        assert_eq!(tile(&dense(512, 7168, 2048), 132), (256, 112));
        // 2026-11-29.
        assert_eq!(tile(&dense(512, 576, 7168), 132), (64, 40));
        assert_eq!(tile(&dense(128, 576, 7168), 132), (64, 16));
        assert_eq!(tile(&dense(128, 2112, 7168), 132), (64, 32));
        assert_eq!(tile(&dense(128, 4096, 7168), 132), (128, 32));
        assert_eq!(tile(&dense(128, 5120, 5120), 132), (128, 64));
        assert_eq!(tile(&dense(64, 576, 7168), 132), (64, 8));
        assert_eq!(tile(&dense(1, 576, 7168), 132), (8, 8));
        assert_eq!(tile(&dense(1, 2112, 7168), 132), (8, 16));
        assert_eq!(tile(&dense(1, 4096, 7168), 132), (8, 32));
        assert_eq!(tile(&dense(1, 24576, 1536), 132), (8, 64));
        assert_eq!(tile(&dense(16, 576, 7168), 132), (16, 8));
        assert_eq!(tile(&dense(16, 2112, 7168), 132), (16, 16));
        assert_eq!(tile(&dense(16, 7168, 16384), 132), (16, 64));
    }

    /// Breaks if 128x64 stores D through a tensor map where nothing is behind that way, or directly where the next tile
    /// is (2026-11-30: -3 % at 512x2112x7168, and +11 % in six rounds of another tile).
    #[test]
    fn one_round_stores_directly() {
        let stores = |n: usize| {
            let candidates = choose(&dense(512, n, 7168).parse().unwrap(), 132).unwrap().candidates;
            let of =
                candidates.iter().map(|one| one.config).filter(|config| (config.block_m, config.block_n) == (128, 64));
            of.map(|config| config.store).collect::<Vec<_>>()
        };
        assert_eq!(stores(2112), [Store::Direct, Store::Tma]);
        assert_eq!(stores(8192), [Store::Tma, Store::Direct]);
    }

    /// Breaks if a smaller Hopper (H20: 78 SMs, H100 PCIe: 114) or an odd shape has no choice.
    #[test]
    fn every_problem_has_a_legal_choice() {
        for sms in [78, 114, 132] {
            for (m, n, k) in [(1, 1, 1), (1, 2112, 7168), (129, 576, 130), (8192, 8192, 131_072), (70_000, 16, 64)] {
                for scales in ["a=e4m3:1x128 b=e5m2:128x128", "a=e5m2:1x128 b=e4m3:1x128", "a=e4m3:row b=e4m3:tensor"] {
                    for rest in ["d=bf16", "d=f32 c=f32 beta=1"] {
                        let problem: Problem = format!("{m}x{n}x{k} {scales} {rest}").parse().unwrap();
                        let choice = choose(&problem, sms).unwrap();
                        for estimate in &choice.candidates {
                            assert!(estimate.config.check().is_ok(), "{problem}: {}", estimate.config);
                        }
                    }
                }
            }
        }
    }

    /// Breaks if a K whose scales do not fit shared memory has no kernel, or one that takes them for
    /// fewer: the largest numbers of blocks once wrapped around.
    #[test]
    fn very_long_k_takes_scales_by_rows() {
        for k in [1_usize << 22, 1 << 31, 1 << 37] {
            let problem: Problem = dense(128, 128, k).parse().unwrap();
            let choice = choose(&problem, 132).unwrap();
            assert!(choice.candidates.iter().all(|one| one.config.scales == KernelScales::Block1d1d), "{k}");
        }
    }

    /// Breaks if what cannot be computed is computed as something else.
    #[test]
    fn unsupported_problems_are_errors() {
        for text in [
            "1x1x1 a=e4m3:row b=e4m3:row d=f32 policy=promote64",
            "1x1x1 a=e4m3:1x128 b=e4m3:1x128 d=f32 policy=cutlass128",
            "1x1x1 a=e4m3:1x128 b=e4m3:128x128 d=f32 policy=split3",
            "33x1x1 a=e4m3:1x128 b=e4m3:128x128 d=f32 policy=split2",
            "1x1x64 a=e4m3:1x32 b=e4m3:1x32 d=f32 policy=promote32",
            "0x1x1 a=e4m3:row b=e4m3:row d=f32",
        ] {
            let problem: Problem = text.parse().unwrap();
            assert!(matches!(choose(&problem, 132), Err(JitError::Unsupported { .. })), "{text}");
        }
    }
}
