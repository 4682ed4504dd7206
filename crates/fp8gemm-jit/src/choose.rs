//! Which configuration for which problem: a pure function of the problem and the number of SMs.
//!
//! The estimate of a tile shape, in cycles of one SM:
//!
//! ```text
//! block    = max( BM * BN / 32 / e ,  128 (BM/c + BN) / 60 )       tensor cores; L2
//! tile     = ceil(K / 128) * block + start + BM * BN * size(D) / 24   K loop; first load and store
//! waves    = halfway between tiles / SMs and its ceiling, but at least 1
//! compute  = waves * tile + 3500                                   and the launch
//! memory   = (M K + N K + size(D) M N) / HBM
//! time     = max(compute / 1.55 GHz, memory)
//! ```
//!
//! `e` is the share of the tensor cores' time that the serial loop reaches: a warpgroup's promotion
//! hides behind the other's `wgmma` if that is long enough, so it grows with the tile. `start` is
//! 900 cycles, 1350 for 256 rows. CTAs drift apart, so a nearly empty last wave costs less than a
//! full one. All constants are fitted to the H200 measurements in `docs/performance.md`; the clock is
//! the one that the power limit leaves on large problems. The model ranks tiles; it is not a
//! prediction of time.

use core::fmt;

use fp8gemm_problem::{OutputType, Policy, Problem, ScaleLayout};

use crate::JitError;
use crate::config::{Accumulation, KernelConfig, KernelScales, SHARED_LIMIT};

/// Bytes that L2 delivers to one SM in a cycle when all ask.
const L2_BYTES_PER_CYCLE: f64 = 60.0;
/// Cycles in a second under load.
const CLOCK: f64 = 1.55e9;
/// Bytes that HBM delivers in a second.
const HBM: f64 = 4.25e12;

/// Tile shapes (rows, columns, CTAs that share A) worth considering, best first for equal estimates.
const TILES: [(u32, u32, u32); 9] = [
    (256, 128, 1),
    (128, 192, 1),
    (256, 112, 1),
    (128, 160, 1),
    (256, 128, 2),
    (128, 128, 1),
    (128, 64, 1),
    (128, 32, 1),
    (128, 16, 1),
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
}

impl Estimate {
    /// The larger of the two.
    pub fn us(&self) -> f64 {
        self.compute_us.max(self.memory_us)
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
/// kernel computes it: policies other than `promote128` and `chain`, 1x32 scales, M, N or K of 0.
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
        _ => return Err(unsupported("the kernels know the policies promote128 and chain")),
    };
    let mut candidates: Vec<Estimate> = TILES
        .into_iter()
        .filter_map(|tile| config(problem, scales, accumulation, tile))
        .map(|config| estimate(problem, config, sms.max(1)))
        .collect();
    if candidates.is_empty() {
        return Err(unsupported("the scales of one tile do not fit shared memory: K is too large"));
    }
    // Stable: equal estimates keep the order of TILES.
    candidates.sort_by(|x, y| x.us().total_cmp(&y.us()));
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

/// The tile shape filled in, with as many stages as fit; nothing where it cannot be.
fn config(
    problem: &Problem,
    scales: KernelScales,
    accumulation: Accumulation,
    (block_m, block_n, cluster): (u32, u32, u32),
) -> Option<KernelConfig> {
    // Accumulators, chain and column scales must fit 232 registers with room for addresses: 200
    // spilled a few bytes (1D1D, 128x160, no C).
    let waves = block_m / 128;
    let chain = u32::from(accumulation == Accumulation::Promote128);
    let columns = u32::from(scales == KernelScales::Block1d1d);
    if block_n / 2 * (waves + chain) + block_n / 4 * columns >= 200 {
        return None;
    }
    let k_blocks = u32::try_from(problem.k.div_ceil(128)).ok()?;
    let most = KernelConfig {
        a: problem.a.ty,
        b: problem.b.ty,
        scales,
        accumulation,
        output: problem.d,
        c: problem.c.filter(|_| problem.epilogue.reads_c()),
        block_m,
        block_n,
        stages: 8,
        cluster,
        // All rows of tiles at once where K is short: B is then read once.
        group: if k_blocks <= 12 { 64 } else { 16 },
        max_k_blocks: match scales {
            KernelScales::Block1d2d => k_blocks.max(16).checked_next_power_of_two()?,
            // Unused: one kernel for every K.
            _ => 1,
        },
    };
    let stages =
        (2..=8).rev().find(|stages| KernelConfig { stages: *stages, ..most }.shared_bytes() <= SHARED_LIMIT)?;
    Some(KernelConfig { stages, ..most }).filter(|config| config.check().is_ok())
}

fn estimate(problem: &Problem, config: KernelConfig, sms: u32) -> Estimate {
    let (m, n, k) = (problem.m as f64, problem.n as f64, problem.k as f64);
    let (block_m, block_n) = (f64::from(config.block_m), f64::from(config.block_n));
    let columns = problem.n.div_ceil(config.block_n as usize).next_multiple_of(config.cluster as usize);
    let tiles = (problem.m.div_ceil(config.block_m as usize) * columns) as u64;
    let sms = u64::from(sms / config.cluster * config.cluster).max(1);
    let waves = tiles.div_ceil(sms);
    let effective_waves = (0.5 * (waves as f64 + tiles as f64 / sms as f64)).max(1.0);
    let exposed = match (config.block_m, config.block_n) {
        (_, 192..) => 0.97,
        (256, 128..) => 0.94,
        (256, _) | (_, 160..) => 0.91,
        (_, 128..) => 0.88,
        (_, 64..) => 0.70,
        _ => 0.45,
    };
    let tensor = block_m * block_n / 32.0 / exposed;
    let l2 = 128.0 * (block_m / f64::from(config.cluster) + block_n) / L2_BYTES_PER_CYCLE;
    let size = problem.d.size() as f64;
    let c = if config.c.is_some() { 1.5 } else { 1.0 };
    // A small charge for pairing CTAs, which pays only where L2 is the limit.
    let pairing = if config.cluster > 1 { 1.01 } else { 1.0 };
    let start = if config.block_m == 256 { 1350.0 } else { 900.0 };
    let store = start + block_m * block_n * size * c / 24.0;
    let tile = (problem.k.div_ceil(128) as f64) * tensor.max(l2) * pairing + store;
    let cycles = effective_waves * tile + 3500.0;
    let read_c = if config.c.is_some() { problem.c.map_or(0, OutputType::size) as f64 } else { 0.0 };
    let bytes = m * k + n * k + (size + read_c) * m * n;
    Estimate { config, tiles, waves, compute_us: cycles / CLOCK * 1e6, memory_us: bytes / HBM * 1e6 }
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
        assert_eq!(tile(&dense(4096, 576, 7168), 132), (128, 160));
        assert_eq!(tile(&dense(512, 7168, 16384), 132), (256, 112));
        assert_eq!(tile(&dense(512, 7168, 2048), 132), (256, 112));
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

    /// Breaks if what cannot be computed is computed as something else.
    #[test]
    fn unsupported_problems_are_errors() {
        for text in [
            "1x1x1 a=e4m3:row b=e4m3:row d=f32 policy=promote64",
            "1x1x1 a=e4m3:1x128 b=e4m3:1x128 d=f32 policy=cutlass128",
            "1x1x64 a=e4m3:1x32 b=e4m3:1x32 d=f32 policy=promote32",
            "0x1x1 a=e4m3:row b=e4m3:row d=f32",
        ] {
            let problem: Problem = text.parse().unwrap();
            assert!(matches!(choose(&problem, 132), Err(JitError::Unsupported { .. })), "{text}");
        }
    }
}
