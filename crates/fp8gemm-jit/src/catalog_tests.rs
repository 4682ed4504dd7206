//! Tests of the catalogue: that it is complete, and that its cover covers it.

use super::*;
use proptest::prelude::*;

/// Breaks if a pair is missing from the cover, or rows are taken that add nothing.
#[test]
fn every_pair_occurs() {
    // Three axes of 5, 4 and 3 values with a rule between two of them.
    let rows: Vec<Vec<u32>> = (0..60).map(|i| vec![i % 5, i / 5 % 4, i / 20]).filter(|row| row[0] != row[1]).collect();
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
    assert!(cover.len() <= 360, "{}", cover.len());
    for k in [128, 4096, 131_072] {
        let problem = format!("4096x4096x{k} a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap();
        for estimate in choose(&problem, 132).unwrap().candidates {
            let same = |config: &KernelConfig| {
                KernelConfig { max_k_blocks: 1, ..*config }
                    == KernelConfig { max_k_blocks: 1, ..estimate.config.compiled() }
            };
            assert!(cover.iter().any(same), "{}", estimate.config);
        }
    }
}

/// Breaks if no ping-pong is ever compiled, a feature of it is in no kernel that CI compiles, or
/// the list has what the kernel cannot be.
#[test]
fn ping_pong_is_covered() {
    let (all, cover) = (ping_pong(), cover());
    let (entries, full) = (entries().into_iter().collect::<HashSet<_>>(), full().into_iter().collect::<HashSet<_>>());
    assert!(all.iter().all(|config| config.check().is_ok() && entries.contains(&Entry::Gemm(*config))));
    assert!(!full.iter().any(|config| config.schedule == Schedule::PingPong));
    let covered: Vec<_> = cover.iter().filter(|config| config.schedule == Schedule::PingPong).collect();
    println!("{} in ping-pong, {} cover them", all.len(), covered.len());
    assert!(covered.len() <= 6 && covered.iter().all(|config| all.contains(config)));
    let features =
        |configs: Vec<&KernelConfig>| -> BTreeSet<_> { configs.into_iter().flat_map(ping_pong_features).collect() };
    assert_eq!(features(covered), features(all.iter().collect()));
    for rows in [64, 128] {
        for scales in [KernelScales::Block1d2d, KernelScales::AtEnd] {
            assert!(all.iter().any(|config| (config.block_m, config.scales) == (rows, scales)), "{rows} {scales}");
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
                prop_assert!(ALL.with(|all| all.contains(&estimate.config.compiled())), "{text}: {}", estimate.config);
            }
        }
    }
}
