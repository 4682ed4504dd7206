//! Which policies are tried, and which of them are one and the same arithmetic for a problem.

use fp8gemm::problem::{Policy, ScaleLayout};

/// Tried after [`Policy::COMMON`], where legal: other promotion intervals and other splits that
/// kernels are known to use.
const FURTHER: [Policy; 7] = [
    Policy::Promote { every: 256 },
    Policy::Promote { every: 512 },
    Policy::Promote { every: 1024 },
    Policy::Promote { every: 96 },
    Policy::Promote { every: 2048 },
    Policy::Split { parts: 3 },
    Policy::Split { parts: 8 },
];

/// Policies that compute the same thing for a problem; the first stands for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) policy: Policy,
    pub(super) same: Vec<Policy>,
}

/// The policies to try: legal for the scales, grouped by what they compute, likeliest first.
pub(super) fn candidates(a: ScaleLayout, b: ScaleLayout, k: usize) -> Vec<Group> {
    let block_scaled = a.k_block().is_some() || b.k_block().is_some();
    let mut groups: Vec<(Policy, Group)> = Vec::new();
    for policy in Policy::COMMON.into_iter().chain(FURTHER).filter(|policy| policy.check(a, b).is_ok()) {
        let canonical = canonical(policy, k, block_scaled);
        match groups.iter_mut().find(|(known, _)| *known == canonical) {
            Some((_, group)) => group.same.push(policy),
            None => groups.push((canonical, Group { policy, same: Vec::new() })),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The one policy that stands for all that compute the same bits at this K.
///
/// Without block scales a promotion is `acc = fl(acc + x)`, and the first one, to +0, changes
/// nothing: a single promotion is a chain, as many parts as blocks are `promote128`, and
/// `cutlass128` is `promote128` by definition. With block scales a promotion rounds a product, so
/// only promotions that come equally often are the same.
fn canonical(policy: Policy, k: usize, block_scaled: bool) -> Policy {
    let blocks = k.div_ceil(128);
    match policy {
        Policy::Promote { every } if every as usize >= k => {
            // Up to the step of the tensor core; fits, as it is at most `every`.
            let every = (k.next_multiple_of(32) as u32).min(every);
            if block_scaled { Policy::Promote { every } } else { Policy::Chain }
        }
        Policy::Cutlass128 if !block_scaled => canonical(Policy::PROMOTE_128, k, block_scaled),
        Policy::Split { parts } => {
            let parts = (parts as usize).min(blocks) as u32;
            if parts <= 1 || (!block_scaled && parts as usize == blocks) {
                canonical(Policy::PROMOTE_128, k, block_scaled)
            } else {
                Policy::Split { parts }
            }
        }
        _ => policy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScaleLayout::{Block1x32, Block1x128, Block128x128, Row, Tensor};
    use fp8gemm::formats::ScaledMatrix;
    use fp8gemm::problem::{OperandType, OutputType};
    use fp8gemm::sim::Gemm;
    use ndarray::Array2;

    /// Breaks if a policy that is called the same as another one gives other bits, or if the
    /// groups keep policies apart that cannot be told apart at K = 100.
    #[test]
    fn groups_compute_the_same_bits() {
        let codes = |rows: usize, k: usize, seed: u32| {
            let mut state = seed;
            Array2::from_shape_simple_fn((rows, k), || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 24) as u8).min(0xFE) & 0xFB
            })
        };
        let operand = |layout: ScaleLayout, k, seed| {
            let shape = layout.scale_shape(40, k);
            let scales = Array2::from_shape_fn(shape, |(r, c)| 0.3 + ((r * 7 + c * 3) % 11) as f32 * 0.17);
            ScaledMatrix::new(OperandType::E4m3, layout, codes(40, k, seed), scales).unwrap()
        };
        for k in [20, 100, 128, 200, 256, 300, 512, 640] {
            for (a, b) in [(Tensor, Row), (Block1x128, Block128x128), (Block1x32, Tensor)] {
                let (x, y) = (operand(a, k, 1), operand(b, k, 2));
                let run = |policy| Gemm::new(x.view(), y.view()).output(OutputType::F32).policy(policy).run().unwrap();
                for group in candidates(a, b, k) {
                    let d = run(group.policy);
                    for same in group.same {
                        assert!(d.view().bits_equal(&run(same).view()), "{} {same} K={k} {a} {b}", group.policy);
                    }
                }
            }
        }
        assert_eq!(candidates(Tensor, Tensor, 100).len(), 4, "{:?}", candidates(Tensor, Tensor, 100));
    }

    /// Breaks if a policy is offered that has no meaning with the scales, or a common one is not.
    #[test]
    fn candidates_are_legal() {
        let names = |a, b, k| -> Vec<String> {
            let groups = candidates(a, b, k).into_iter();
            groups.flat_map(|group| [vec![group.policy], group.same].concat()).map(|p| p.to_string()).collect()
        };
        let blocks = names(Block1x128, Block128x128, 4096);
        assert_eq!(
            blocks,
            ["promote128", "cutlass128", "promote64", "promote32", "split2", "split4", "split3", "split8"]
        );
        assert_eq!(names(Block1x32, Tensor, 4096), ["promote32"]);
        let plain = names(Tensor, Row, 4096);
        assert!(plain.contains(&"chain".to_owned()) && plain.contains(&"promote2048".to_owned()), "{plain:?}");
    }
}
