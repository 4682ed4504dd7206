//! The distribution of the largest magnitudes of blocks, by counting.

use core::sync::atomic::{AtomicU64, Ordering};

/// Bits of a magnitude that are not told apart: ten bits of fraction are kept, so that bf16 and f16
/// values are counted exactly.
const DROPPED: u32 = 13;

/// How often each magnitude occurs; counts from several threads add up to the same in any order.
pub(super) struct Counter(Box<[AtomicU64]>);

impl Counter {
    pub(super) fn new() -> Self {
        // Up to infinity, which is not counted.
        Self((0..0x7F80_0000u32 >> DROPPED).map(|_| AtomicU64::new(0)).collect())
    }

    /// Counts a finite magnitude, given as bits.
    pub(super) fn count(&self, bits: u32) {
        if let Some(count) = self.0.get((bits >> DROPPED) as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn distribution(&self) -> BlockAmax {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let blocks: u64 = counts.iter().sum();
        let quantile = |percent: u64| {
            // The nearest rank: the smallest value that so many per cent of the blocks do not exceed.
            let rank = (u128::from(blocks) * u128::from(percent)).div_ceil(100).max(1) as u64;
            let mut seen = 0;
            let place = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            value(place.unwrap_or(0))
        };
        let smallest = counts.iter().skip(1).position(|&count| count > 0).map_or(0.0, |place| value(place + 1));
        BlockAmax { blocks, zero: counts[0], smallest, quantiles: BlockAmax::PERCENT.map(quantile) }
    }
}

fn value(place: usize) -> f32 {
    f32::from_bits((place as u32) << DROPPED)
}

/// How the largest magnitudes of a matrix's blocks are distributed.
///
/// Magnitudes are cut to 11 significant bits, which leaves those of bf16 and f16 elements as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockAmax {
    /// Number of blocks.
    pub blocks: u64,
    /// Blocks of zeros alone (or of magnitudes below 2^-136).
    pub zero: u64,
    /// The smallest that is not zero; 0 where there is none.
    pub smallest: f32,
    /// Quantiles at [`PERCENT`](Self::PERCENT) by nearest rank, blocks of zeros included.
    pub quantiles: [f32; 5],
}

impl BlockAmax {
    /// Where the quantiles are.
    pub const PERCENT: [u64; 5] = [1, 25, 50, 75, 100];

    /// `log2` of the largest over the smallest that is not zero: the binades that one scale for the
    /// whole matrix must cover besides those within a block. 0 where all are zero.
    pub fn binades(&self) -> f64 {
        if self.smallest == 0.0 { 0.0 } else { libm::log2(f64::from(self.quantiles[4]) / f64::from(self.smallest)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if quantiles are not those of the sorted values, or zeros are lost.
    #[test]
    fn quantiles_are_of_the_sorted_values() {
        let counter = Counter::new();
        let mut values: Vec<f32> = (0..997u32).map(|i| (i * 613 % 997) as f32).collect();
        for value in &values {
            counter.count(value.to_bits());
        }
        values.sort_by(f32::total_cmp);
        let distribution = counter.distribution();
        assert_eq!((distribution.blocks, distribution.zero, distribution.smallest), (997, 1, 1.0));
        // ceil(997 p / 100) - 1, counted from 0.
        assert_eq!(distribution.quantiles, [9usize, 249, 498, 747, 996].map(|rank| values[rank]));
        assert_eq!(distribution.binades(), 996f64.log2());
        assert_eq!(Counter::new().distribution().quantiles, [0.0; 5]);
    }
}
