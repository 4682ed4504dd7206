//! Every configuration that can be chosen for `promote128` and `chain`, ping-pong beside them, a small set that covers
//! what matters, and tiles of widths that are never chosen.
//!
//! All are made by asking [`choose`] about a grid of problems, so no rule is repeated here: a tile
//! or an axis that is added there is in the catalogue from then on. [`choose`] takes no ping-pong,
//! but a caller can (`Plan::with_config`, `fp8gemm bench --config`): [`ping_pong`] derives it.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use fp8gemm_problem::{Epilogue, OperandSpec, OperandType, OutputType, Policy, Problem, ScaleLayout};

use crate::config::{Accumulation, KernelConfig, KernelScales, Schedule, Share, Store};
use crate::elementwise::ElementwiseKernel;
use crate::source::KERNEL;
use crate::{BASE_OPTIONS, Unit, choose};

/// Rows and columns of D: one tile or many (in every shape of tile no multiple of the SMs), with
/// rows that end at multiples of 16 bytes or not; few rows, with columns for one to four CTAs on an SM.
const SHAPES: [(usize, usize); 10] = [
    (1, 16),
    (1, 15),
    (5000, 5008),
    (5000, 5001),
    (1, 1 << 20),
    (1, 1600),
    (1, 2400),
    (1, 4800),
    (1, 9600),
    (1, 19_200),
];
/// Rows that are few in one kernel's sense and another's.
const FEW: [usize; 2] = [16, 32];
/// SMs of an H20, an H100 PCIe and the SXM cards.
const SMS: [u32; 3] = [78, 114, 132];
/// Scales of A and of B: one pair for each way in which kernels apply them.
const SCALES: [(ScaleLayout, ScaleLayout); 3] = [
    (ScaleLayout::Block1x128, ScaleLayout::Block128x128),
    (ScaleLayout::Block1x128, ScaleLayout::Block1x128),
    (ScaleLayout::Row, ScaleLayout::Row),
];
/// The longest K that is asked about, in blocks of 128: beyond it no matrix fits a GPU.
const MOST_K_BLOCKS: usize = 1 << 20;

/// A kernel of any kind. Prints as its name, which no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Entry {
    /// Multiplies.
    Gemm(KernelConfig),
    /// Quantises or transposes.
    Elementwise(ElementwiseKernel),
}

impl Entry {
    /// Its whole translation unit.
    pub fn source(&self) -> String {
        match self {
            Self::Gemm(config) => config.source(),
            Self::Elementwise(kernel) => kernel.source(),
        }
    }

    /// What the compiler is given, from [`source`](Self::source) and the name.
    pub fn unit<'a>(&self, source: &'a str, name: &'a str) -> Unit<'a> {
        let kernel = match self {
            Self::Gemm(_) => KERNEL,
            Self::Elementwise(kernel) => kernel.symbol(),
        };
        Unit { source, kernel, configuration: name, options: &BASE_OPTIONS }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gemm(config) => f.write_str(&config.kernel_name()),
            Self::Elementwise(kernel) => kernel.fmt(f),
        }
    }
}

/// Every kernel that these policies can need, and some that can be asked for: those of [`full`], of
/// [`ping_pong`], then those that quantise and transpose. The order is the same in every process of
/// one build.
pub fn entries() -> Vec<Entry> {
    let elementwise = ElementwiseKernel::all().into_iter().map(Entry::Elementwise);
    let full = full();
    let twins = twins(&full);
    full.into_iter().chain(twins).map(Entry::Gemm).chain(elementwise).collect()
}

/// Every kernel that [`choose`] considers for some problem and some GPU, each once: all types of A, B,
/// C and D, scales, tiles, the policies `promote128` and `chain`, and the classes into which K falls. (Kernels for
/// `split<p>` are compiled when they are asked for: they would be three times those with swapped operands.)
///
/// ```
/// use fp8gemm_jit::{catalog, choose};
///
/// let all = catalog::full();
/// let problem = "300x500x700 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse()?;
/// assert!(all.contains(&choose(&problem, 132)?.config().compiled()));
/// # Ok::<(), fp8gemm_jit::JitError>(())
/// ```
pub fn full() -> Vec<KernelConfig> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for problem in problems() {
        for sms in SMS {
            // What no kernel computes (K too long for the scales, chain with block scales) adds nothing.
            let Ok(choice) = choose(&problem, sms) else { continue };
            let kernels = choice.candidates.iter().map(|estimate| estimate.config.compiled());
            found.extend(kernels.filter(|config| seen.insert(*config)));
        }
    }
    found
}

/// Ping-pong variants, which [`choose`] never takes but a caller may ask for: of each cooperative
/// configuration in [`full`] for E4M3 that gives bf16, or f32 with C of f32, the one with half of its
/// rows, so that a warpgroup has the same number of 64-row waves. Everything else stays, the stages
/// too.
///
/// ```
/// use fp8gemm_jit::{KernelConfig, Schedule, catalog, choose};
///
/// let chosen = choose(&"4096x7168x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse()?, 132)?.config().compiled();
/// let twin = KernelConfig { schedule: Schedule::PingPong, block_m: chosen.block_m / 2, ..chosen };
/// assert!(catalog::ping_pong().contains(&twin) && !catalog::full().contains(&twin));
/// # Ok::<(), fp8gemm_jit::JitError>(())
/// ```
pub fn ping_pong() -> Vec<KernelConfig> {
    twins(&full())
}

/// [`ping_pong`] of these configurations.
fn twins(all: &[KernelConfig]) -> Vec<KernelConfig> {
    let usual = |config: &&KernelConfig| {
        (config.a, config.b, config.schedule) == (OperandType::E4m3, OperandType::E4m3, Schedule::Cooperative)
            && [(OutputType::Bf16, None), (OutputType::F32, Some(OutputType::F32))].contains(&(config.output, config.c))
    };
    let twin =
        |config: &KernelConfig| KernelConfig { schedule: Schedule::PingPong, block_m: config.block_m / 2, ..*config };
    all.iter().filter(usual).map(twin).filter(|config| config.check().is_ok()).collect()
}

/// A part of [`full`] and [`ping_pong`] that continuous integration compiles, about a minute on one
/// core:
///
/// - every tile with every main loop (depth of the ring) for E4M3, bf16, 1D2D without C;
/// - of all other axes, every pair of values that occurs in [`full`] at all;
/// - of kernels with K split every width and every output;
/// - of ping-pong every way of applying scales, output with its way of storing, sharing, and
///   number of waves.
///
/// A defect that needs one particular value, or two together, shows in it; one that needs three
/// values together may not, nor one that needs ping-pong and another value together.
pub fn cover() -> Vec<KernelConfig> {
    let all = full();
    let usual = |config: &&KernelConfig| {
        (config.a, config.b) == (OperandType::E4m3, OperandType::E4m3)
            && (config.scales, config.output, config.c) == (KernelScales::Block1d2d, OutputType::Bf16, None)
    };
    // `max_k_blocks` is a number in a loop that is otherwise the same.
    let main_loop = |config: &KernelConfig| KernelConfig { max_k_blocks: 1, ..*config };
    let mut loops = HashSet::new();
    let mut chosen: Vec<_> =
        all.iter().filter(usual).filter(|config| loops.insert(main_loop(config))).copied().collect();
    let rows: Vec<_> = all.iter().map(axes).collect();
    let first: Vec<_> = chosen.iter().map(axes).collect();
    chosen.extend(pairwise(&rows, &first).into_iter().map(|index| all[index]));
    let twins = twins(&all);
    let features: Vec<_> = twins.iter().map(ping_pong_features).collect();
    chosen.extend(covering(&features, &[]).into_iter().map(|index| twins[index]));
    chosen.extend(splits());
    chosen
}

/// Some kernels with K split, which [`full`] leaves out.
fn splits() -> Vec<KernelConfig> {
    ["8x5000x7168 d=bf16 policy=split4", "16x5000x7168 d=f32 policy=split2", "32x5000x7168 d=f16 policy=split8"]
        .iter()
        .filter_map(|text| text.replace(" d=", " a=e4m3:1x128 b=e4m3:128x128 d=").parse().ok())
        .filter_map(|problem| choose(&problem, 132).ok())
        .flat_map(|choice| choice.candidates.into_iter().map(|estimate| estimate.config.compiled()))
        .collect()
}

/// 1D2D tiles, E4M3 and bf16, of every width as far as all fit the registers of a math thread: of 64 rows up to 224
/// columns, of 128 up to 192, of 256 up to 136. Most of them [`choose`] never takes, but a caller may ask for them; so
/// they are in no other set here.
///
/// ```
/// use fp8gemm_jit::catalog;
///
/// let widths = catalog::widths();
/// assert!(widths.iter().any(|config| (config.block_m, config.block_n) == (128, 152)));
/// assert!(widths.iter().all(|config| config.check().is_ok()));
/// ```
pub fn widths() -> Vec<KernelConfig> {
    let tile = |block_m, block_n, stages| KernelConfig {
        a: OperandType::E4m3,
        b: OperandType::E4m3,
        scales: KernelScales::Block1d2d,
        accumulation: Accumulation::Promote128,
        output: OutputType::Bf16,
        c: None,
        block_m,
        block_n,
        stages,
        in_flight: 1,
        share: Share::Nothing,
        schedule: Schedule::Cooperative,
        store: Store::Tma,
        group: 8,
        max_k_blocks: 16,
    };
    [(64, 224), (128, 192), (256, 136)]
        .into_iter()
        .flat_map(|(rows, most)| (8..=most).step_by(8).map(move |columns| (rows, columns)))
        .filter_map(|(rows, columns)| {
            let mut deepest = (2..=4).rev().map(|stages| tile(rows, columns, stages));
            deepest.find(|config| config.check().is_ok())
        })
        .collect()
}

/// What of a ping-pong configuration the cover has at least once.
fn ping_pong_features(config: &KernelConfig) -> Vec<(usize, String)> {
    let KernelConfig { scales, accumulation, output, c, share, store, block_m, .. } = *config;
    let features = [
        format!("{scales} {accumulation:?}"),
        format!("{output} {c:?} {store:?}"),
        format!("{share:?}"),
        block_m.to_string(),
    ];
    features.into_iter().enumerate().collect()
}

/// The values of a configuration on the axes whose pairs are covered. Every field is named, so
/// that a new one does not compile before it has a place here. `group` is not compiled in;
/// `max_k_blocks` shows in the stages for which it leaves room, and beyond that is an offset.
fn axes(config: &KernelConfig) -> Vec<String> {
    let KernelConfig {
        a,
        b,
        scales,
        accumulation,
        output,
        c,
        block_m,
        block_n,
        stages,
        in_flight,
        share,
        schedule,
        store,
        group: _,
        max_k_blocks: _,
    } = *config;
    vec![
        a.to_string(),
        b.to_string(),
        format!("{scales} {accumulation:?}"),
        output.to_string(),
        format!("{c:?}"),
        format!("{block_m}x{block_n}"),
        format!("{share:?}"),
        format!("{schedule:?}"),
        format!("{store:?}"),
        format!("{stages} {in_flight}"),
    ]
}

/// The problems that [`full`] asks about.
fn problems() -> impl Iterator<Item = Problem> {
    let types = || OperandType::ALL.into_iter().flat_map(|a| OperandType::ALL.map(|b| (a, b)));
    let outputs = || OutputType::ALL.into_iter().flat_map(|d| optional(OutputType::ALL).map(move |c| (c, d)));
    let policies = [Policy::PROMOTE_128, Policy::Chain];
    let kinds = SCALES.into_iter().flat_map(move |scales| policies.map(|policy| (scales, policy)));
    let specs = kinds.flat_map(move |kind| types().flat_map(move |ty| outputs().map(move |output| (kind, ty, output))));
    specs.flat_map(|(((scales_a, scales_b), policy), (type_a, type_b), (c, d))| {
        let few =
            FEW.into_iter().flat_map(|m| SHAPES.into_iter().filter(|(rows, _)| *rows == 1).map(move |(_, n)| (m, n)));
        SHAPES.into_iter().chain(few).flat_map(move |(m, n)| {
            k_blocks().map(move |blocks| Problem {
                m,
                n,
                k: blocks * 128,
                a: OperandSpec { ty: type_a, scales: scales_a },
                b: OperandSpec { ty: type_b, scales: scales_b },
                c,
                d,
                policy,
                epilogue: if c.is_some() { Epilogue::ACCUMULATE } else { Epilogue::IDENTITY },
            })
        })
    })
}

/// Lengths of K in blocks: short ones, and around every power of two, where classes of K begin.
fn k_blocks() -> impl Iterator<Item = usize> {
    let powers = std::iter::successors(Some(1), |power| Some(power * 2)).take_while(|power| *power <= MOST_K_BLOCKS);
    let around = powers.flat_map(|power| [power, power + 1]);
    (1..=32).chain(around).collect::<BTreeSet<usize>>().into_iter()
}

fn optional<T: Copy, const N: usize>(values: [T; N]) -> impl Iterator<Item = Option<T>> {
    std::iter::once(None).chain(values.into_iter().map(Some))
}

/// Rows, by index, that hold every pair of values of two columns that occurs in `rows`, beside
/// those that `first` holds already.
fn pairwise<T: Ord>(rows: &[Vec<T>], first: &[Vec<T>]) -> Vec<usize> {
    let paired = |rows| <[Vec<T>]>::iter(rows).map(|row| pairs(row).collect()).collect::<Vec<_>>();
    covering(&paired(rows), &paired(first))
}

/// Sets, by index, that hold everything that occurs in `sets`, beside what `first` holds already.
/// Greedy: always the set with most that is still missing, the earliest of equals. Not the fewest,
/// but near it, and always the same.
fn covering<T: Ord>(sets: &[Vec<T>], first: &[Vec<T>]) -> Vec<usize> {
    let mut numbers = BTreeMap::new();
    for value in sets.iter().flatten() {
        let next = numbers.len();
        numbers.entry(value).or_insert(next);
    }
    let numbered = |set: &Vec<T>| set.iter().filter_map(|value| numbers.get(value).copied()).collect::<Vec<usize>>();
    let sets: Vec<_> = sets.iter().map(numbered).collect();
    let mut missing = vec![true; numbers.len()];
    for number in first.iter().flat_map(numbered) {
        missing[number] = false;
    }
    let mut chosen = Vec::new();
    loop {
        let gain = |set: &Vec<usize>| set.iter().filter(|number| missing[**number]).count();
        // `max_by_key` takes the last of equals, so the sets are walked backwards.
        let best = sets.iter().enumerate().rev().max_by_key(|(_, set)| gain(set));
        let Some((index, set)) = best.filter(|(_, set)| gain(set) > 0) else { return chosen };
        for number in set {
            missing[*number] = false;
        }
        chosen.push(index);
    }
}

/// Two columns with their values.
type Pair<'a, T> = ((usize, &'a T), (usize, &'a T));

fn pairs<T>(row: &[T]) -> impl Iterator<Item = Pair<'_, T>> {
    let cells = || row.iter().enumerate();
    cells().flat_map(move |one| cells().skip(one.0 + 1).map(move |other| (one, other)))
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
