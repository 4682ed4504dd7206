//! Rows that stand for all of them.

/// Up to `count` of `m` rows, evenly spaced from the first to the last; the same at every run.
/// `count` is at least 2 unless all rows fit into it.
pub(crate) fn rows(m: usize, count: usize) -> Vec<usize> {
    if m <= count {
        return (0..m).collect();
    }
    let last = count.max(2) - 1;
    // In 128 bits: M may be anything.
    (0..=last).map(|i| (i as u128 * (m - 1) as u128 / last as u128) as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if the sample leaves out the first or the last row, repeats one, or overflows.
    #[test]
    fn samples_reach_from_first_to_last() {
        for m in [1, 2, 15, 16, 17, 31, 100, 4096, usize::MAX] {
            let sample = rows(m, 16);
            assert_eq!(sample.len(), m.min(16));
            assert_eq!((sample[0], sample[sample.len() - 1]), (0, m - 1));
            assert!(sample.windows(2).all(|pair| pair[0] < pair[1]), "{m}: {sample:?}");
        }
        assert_eq!(rows(10, 1), [0, 9]);
        assert!(rows(0, 4).is_empty());
    }
}
