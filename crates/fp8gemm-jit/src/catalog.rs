//! Every configuration that can ever be chosen, and a small set of them that covers what matters.
//!
//! Both are made by asking [`choose`] about a grid of problems, so no rule is repeated here: a tile
//! or an axis that is added there is in the catalogue from then on.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use fp8gemm_problem::{Epilogue, OperandSpec, OperandType, OutputType, Policy, Problem, ScaleLayout};

use crate::config::{Accumulation, KernelConfig, KernelScales};
use crate::elementwise::ElementwiseKernel;
use crate::source::KERNEL;
use crate::{BASE_OPTIONS, Unit, choose};

/// Rows and columns of D: one tile or many (in every shape of tile no multiple of the SMs), with
/// rows that end at multiples of 16 bytes or not.
const SHAPES: [(usize, usize); 4] = [(1, 16), (1, 15), (5000, 5008), (5000, 5001)];
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
            Self::Gemm(config) => config.fmt(f),
            Self::Elementwise(kernel) => kernel.fmt(f),
        }
    }
}

/// Every kernel that can ever be needed: those of [`full`], then those that quantise and transpose.
/// The order is the same in every process of one build.
pub fn entries() -> Vec<Entry> {
    let elementwise = ElementwiseKernel::all().into_iter().map(Entry::Elementwise);
    full().into_iter().map(Entry::Gemm).chain(elementwise).collect()
}

/// Every configuration that [`choose`] considers for some problem and some GPU, each once: all
/// types of A, B, C and D, scales, policies, tiles, and the classes into which K falls.
///
/// ```
/// use fp8gemm_jit::{catalog, choose};
///
/// let all = catalog::full();
/// let problem = "300x500x700 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse()?;
/// assert!(all.contains(&choose(&problem, 132)?.config()));
/// # Ok::<(), fp8gemm_jit::JitError>(())
/// ```
pub fn full() -> Vec<KernelConfig> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for problem in problems() {
        for sms in SMS {
            // What no kernel computes (K too long for the scales, chain with block scales) adds nothing.
            let Ok(choice) = choose(&problem, sms) else { continue };
            found
                .extend(choice.candidates.iter().map(|estimate| estimate.config).filter(|config| seen.insert(*config)));
        }
    }
    found
}

/// A part of [`full`] that compiles in a minute:
///
/// - every tile with every main loop (depth of the ring) for E4M3, bf16, 1D2D without C;
/// - of all other axes, every pair of values that occurs in [`full`] at all.
///
/// A defect that needs one particular value, or two together, shows in it; one that needs three
/// values together may not.
pub fn cover() -> Vec<KernelConfig> {
    let all = full();
    let usual = |config: &&KernelConfig| {
        (config.a, config.b) == (OperandType::E4m3, OperandType::E4m3)
            && (config.scales, config.output, config.c) == (KernelScales::Block1d2d, OutputType::Bf16, None)
    };
    // `group` and `max_k_blocks` are numbers in a loop that is otherwise the same.
    let main_loop = |config: &KernelConfig| KernelConfig { group: 1, max_k_blocks: 1, ..*config };
    let mut loops = HashSet::new();
    let mut chosen: Vec<_> =
        all.iter().filter(usual).filter(|config| loops.insert(main_loop(config))).copied().collect();
    let rows: Vec<_> = all.iter().map(axes).collect();
    let first: Vec<_> = chosen.iter().map(axes).collect();
    chosen.extend(pairwise(&rows, &first).into_iter().map(|index| all[index]));
    chosen
}

/// The values of a configuration on the axes whose pairs are covered. Every field is named, so
/// that a new one does not compile before it has a place here. `max_k_blocks` shows in the stages
/// for which it leaves room; beyond that it is an offset.
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
        share,
        schedule,
        store,
        group,
        max_k_blocks: _,
    } = *config;
    let chain = accumulation == Accumulation::Chain;
    vec![
        a.to_string(),
        b.to_string(),
        format!("{scales} {chain}"),
        output.to_string(),
        format!("{c:?}"),
        format!("{block_m}x{block_n}"),
        format!("{share:?}"),
        format!("{schedule:?}"),
        format!("{store:?}"),
        stages.to_string(),
        group.to_string(),
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
        SHAPES.into_iter().flat_map(move |(m, n)| {
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
/// those that `first` holds already. Greedy: always the row with most pairs that are still missing,
/// the earliest of equals. Not the smallest set, but near it, and always the same.
fn pairwise<T: Ord>(rows: &[Vec<T>], first: &[Vec<T>]) -> Vec<usize> {
    let mut numbers = BTreeMap::new();
    for pair in rows.iter().flat_map(|row| pairs(row)) {
        let next = numbers.len();
        numbers.entry(pair).or_insert(next);
    }
    let numbered = |row: &Vec<T>| pairs(row).filter_map(|pair| numbers.get(&pair).copied()).collect::<Vec<usize>>();
    let rows: Vec<_> = rows.iter().map(numbered).collect();
    let mut missing = vec![true; numbers.len()];
    for number in first.iter().flat_map(numbered) {
        missing[number] = false;
    }
    let mut chosen = Vec::new();
    loop {
        let gain = |row: &Vec<usize>| row.iter().filter(|number| missing[**number]).count();
        // `max_by_key` takes the last of equals, so the rows are walked backwards.
        let best = rows.iter().enumerate().rev().max_by_key(|(_, row)| gain(row));
        let Some((index, row)) = best.filter(|(_, row)| gain(row) > 0) else { return chosen };
        for number in row {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Breaks if a pair is missing from the cover, or rows are taken that add nothing.
    #[test]
    fn every_pair_occurs() {
        // Three axes of 5, 4 and 3 values with a rule between two of them.
        let rows: Vec<Vec<u32>> =
            (0..60).map(|i| vec![i % 5, i / 5 % 4, i / 20]).filter(|row| row[0] != row[1]).collect();
        let first = vec![rows[7].clone()];
        let chosen = pairwise(&rows, &first);
        let held: BTreeSet<_> = chosen.iter().map(|i| &rows[*i]).chain(&first).flat_map(|row| pairs(row)).collect();
        assert_eq!(held, rows.iter().flat_map(|row| pairs(row)).collect::<BTreeSet<_>>());
        // 16 pairs of the two large axes, one in a row.
        assert!((15..=20).contains(&chosen.len()), "{}", chosen.len());
        assert_eq!(pairwise(&rows, &rows), Vec::<usize>::new());
    }

    /// Breaks if the cover leaves out a pair of values, a tile, or a main loop of the usual problem;
    /// or grows beyond what a CI lane can compile.
    #[test]
    fn the_cover_covers() {
        let (all, cover) = (full(), cover());
        let rows = |configs: &[KernelConfig]| configs.iter().map(axes).collect::<Vec<_>>();
        let (all_rows, cover_rows) = (rows(&all), rows(&cover));
        let held: BTreeSet<_> = cover_rows.iter().flat_map(|row| pairs(row)).collect();
        let missing: Vec<_> = all_rows.iter().flat_map(|row| pairs(row)).filter(|pair| !held.contains(pair)).collect();
        assert_eq!(missing, []);
        println!("{} configurations in all, {} cover them", all.len(), cover.len());
        assert!(cover.len() < 300, "{}", cover.len());
        for k in [128, 4096, 131_072] {
            let problem = format!("4096x4096x{k} a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap();
            for estimate in choose(&problem, 132).unwrap().candidates {
                let same = |config: &KernelConfig| {
                    KernelConfig { group: 1, max_k_blocks: 1, ..*config }
                        == KernelConfig { group: 1, max_k_blocks: 1, ..estimate.config }
                };
                assert!(cover.iter().any(same), "{}", estimate.config);
            }
        }
    }

    /// Breaks if two configurations of the catalogue have one name: lists and logs name them.
    #[test]
    fn names_are_unique() {
        let all = entries();
        let names: BTreeSet<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), all.len());
    }

    /// A length, small ones as likely as large ones.
    fn length(bits: u32) -> impl Strategy<Value = usize> {
        (0..bits).prop_flat_map(|bits| (1_usize << bits)..=(2_usize << bits))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Breaks if some problem's candidates are not in the catalogue: `choose` then depends on
        /// something that the grid of problems does not vary.
        #[test]
        fn the_catalogue_is_complete(
            (m, n, k) in (length(17), length(17), length(23)),
            scales in proptest::sample::select(vec![
                ("1x128", "128x128"), ("128x128", "128x128"), ("1x128", "1x128"), ("row", "1x128"), ("128x128", "tensor"),
                ("row", "tensor"), ("tensor", "tensor"), ("row", "row"),
            ]),
            types in proptest::sample::select(vec![("e4m3", "e4m3"), ("e5m2", "e4m3"), ("e4m3", "e5m2"), ("e5m2", "e5m2")]),
            rest in proptest::sample::select(vec![
                "d=bf16", "d=f16 c=bf16 beta=1", "d=f32 c=f32 beta=0.5 alpha=2", "d=f32 c=f32", "d=bf16 policy=chain",
            ]),
            sms in 1_u32..=160,
        ) {
            thread_local!(static ALL: HashSet<KernelConfig> = full().into_iter().collect());
            let text = format!("{m}x{n}x{k} a={}:{} b={}:{} {rest}", types.0, scales.0, types.1, scales.1);
            // Illegal pairs of policy and scales have no configuration.
            if let Ok(choice) = choose(&text.parse().unwrap(), sms) {
                for estimate in choice.candidates {
                    prop_assert!(ALL.with(|all| all.contains(&estimate.config)), "{text}: {}", estimate.config);
                }
            }
        }
    }
}
