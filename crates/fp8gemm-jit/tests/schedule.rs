//! The order in which CTAs compute tiles under stream-K, without a GPU.
//!
//! [`Schedule`] repeats `Schedule` of `kernels/src/schedule.cuh` line by line, by hand: it shows that
//! the idea is right, and the tests on a GPU that the kernel follows it. Whoever changes one changes
//! the other.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

use std::ops::Range;

use proptest::prelude::*;

/// Some blocks of K of one tile.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    tile: u32,
    blocks: Range<u32>,
}

/// The kernel's struct with `STREAM_K`; all counts in its 32 bits, where overflow is an error here.
struct Schedule {
    cluster: u32,
    step: u32,
    clusters: u32,
    k_blocks: u32,
    whole: u32,
    run_first: u32,
    run_last: u32,
    run_begin: u32,
    run_end: u32,
}

impl Schedule {
    fn new(cluster: u32, clusters: u32, tiles: u32, k_blocks: u32) -> Self {
        let whole = tiles / clusters - 1;
        let blocks = (tiles - whole * clusters).checked_mul(k_blocks).unwrap();
        let cut = |cluster: u32| (u64::from(blocks) * u64::from(cluster) / u64::from(clusters)) as u32;
        let (begin, end) = (cut(cluster), cut(cluster + 1));
        Self {
            cluster,
            step: 0,
            clusters,
            k_blocks,
            whole,
            run_first: whole * clusters + begin / k_blocks,
            run_begin: begin % k_blocks,
            run_last: whole * clusters + end / k_blocks,
            run_end: end % k_blocks,
        }
    }
}

impl Iterator for Schedule {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let mut at = self.step;
        self.step += 1;
        if at < self.whole {
            return Some(Item { tile: at * self.clusters + self.cluster, blocks: 0..self.k_blocks });
        }
        at -= self.whole;
        let has_head = self.run_end > 0;
        if has_head && at == 0 {
            return Some(Item { tile: self.run_last, blocks: 0..self.run_end });
        }
        let has_rest = self.run_begin > 0;
        let tile = self.run_first + u32::from(has_rest) + at - u32::from(has_head);
        if tile < self.run_last {
            return Some(Item { tile, blocks: 0..self.k_blocks });
        }
        if tile > self.run_last || !has_rest {
            return None;
        }
        Some(Item { tile: self.run_first, blocks: self.run_begin..self.k_blocks })
    }
}

/// What the kernel relies on, of all clusters together.
fn check(tiles: u32, clusters: u32, k_blocks: u32) -> Result<(), TestCaseError> {
    // Each item beside its cluster and its place there, by tile.
    let mut holders: Vec<Vec<(u32, usize, Item)>> = vec![Vec::new(); tiles as usize];
    let whole = (tiles / clusters - 1) as usize;
    for cluster in 0..clusters {
        let items: Vec<Item> = Schedule::new(cluster, clusters, tiles, k_blocks).collect();
        let run: u32 = items[whole..].iter().map(|item| item.blocks.end - item.blocks.start).sum();
        prop_assert!((k_blocks..=2 * k_blocks).contains(&run), "cluster {}: run of {} blocks", cluster, run);
        for (place, item) in items.into_iter().enumerate() {
            prop_assert!(item.tile < tiles && item.blocks.start < item.blocks.end, "cluster {}: {:?}", cluster, item);
            holders[item.tile as usize].push((cluster, place, item));
        }
    }
    for (tile, holders) in holders.iter().enumerate() {
        match holders.as_slice() {
            [(_, _, only)] => prop_assert_eq!(&only.blocks, &(0..k_blocks), "tile {}", tile),
            [(giver, place, head), (taker, last, rest)] => {
                // In the order of K without gap or overlap, from one cluster to the one after it.
                prop_assert_eq!((head.blocks.start, rest.blocks.end), (0, k_blocks), "tile {}", tile);
                prop_assert_eq!(head.blocks.end, rest.blocks.start, "tile {}", tile);
                prop_assert_eq!(giver + 1, *taker, "tile {}", tile);
                // A head waits for nobody and comes before what its cluster itself may wait for.
                prop_assert_eq!(*place, whole, "tile {}", tile);
                prop_assert!(*last > whole, "tile {}: the taker's own head comes after it waits", tile);
                let after = Schedule::new(*taker, clusters, tiles, k_blocks).nth(last + 1);
                prop_assert_eq!(after, None, "tile {}: not the taker's last item", tile);
            }
            others => prop_assert!(false, "tile {}: {:?}", tile, others),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Breaks if, as `schedule.cuh` cuts the last tiles, a block of K is computed twice, not at all,
    /// or out of order; if accumulators go elsewhere than from a cluster to the next; if a run is
    /// shorter than a tile; or if clusters could wait for each other in a circle.
    #[test]
    fn every_block_is_computed_once_and_in_order(
        clusters in 1_u32..=160,
        rounds in 1_u32..=6,
        rest in 0.0..1.0_f64,
        k_blocks in prop_oneof![1_u32..=40, 1_u32..=1024],
    ) {
        // Not a multiple of the clusters, as `choose::streams` asks: of one cluster everything is.
        let clusters = clusters.max(2);
        let tiles = rounds * clusters + 1 + (rest * f64::from(clusters - 1)) as u32;
        prop_assert!(tiles > clusters && !tiles.is_multiple_of(clusters));
        check(tiles, clusters, k_blocks)?;
    }
}

/// Breaks if a cut at the edge is wrong: one tile more than clusters or one fewer than twice as many,
/// a single block, cuts that meet the ends of tiles; or if counts overflow 32 bits where
/// `fp8gemm_jit::streams` still allows them.
#[test]
fn edges() {
    for clusters in 2..=20 {
        for tiles in (clusters + 1)..(3 * clusters) {
            if tiles % clusters != 0 {
                for k_blocks in 1..=9 {
                    check(tiles, clusters, k_blocks).unwrap();
                }
            }
        }
    }
    // The most that two waves may have.
    check(263, 132, ((1_u32 << 31) - 1) / 264).unwrap();
    check(3, 2, ((1_u32 << 31) - 1) / 4).unwrap();
}
