//! What is worth timing for a problem.

use std::collections::HashSet;

use fp8gemm_problem::Problem;

use crate::{JitError, KernelConfig, choose};

/// The cost model's candidates, its own choice first.
///
/// # Errors
/// Those of [`choose`].
pub fn first_candidates(problem: &Problem, sms: u32) -> Result<Vec<KernelConfig>, JitError> {
    Ok(choose(problem, sms)?.candidates.iter().map(|estimate| estimate.config).collect())
}

/// Configurations that differ from this one by a stage, or in the raster by a factor of two where that
/// changes the order of tiles at all.
///
/// ```
/// use fp8gemm_jit::{choose, tuning::neighbours};
///
/// let problem = "4096x7168x2048 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse()?;
/// let config = choose(&problem, 132)?.config();
/// let others = neighbours(&problem, &config);
/// assert!(others.iter().any(|other| other.stages + 1 == config.stages));
/// assert!(others.iter().all(|other| *other != config && other.check().is_ok()));
/// # Ok::<(), fp8gemm_jit::JitError>(())
/// ```
pub fn neighbours(problem: &Problem, config: &KernelConfig) -> Vec<KernelConfig> {
    let stages = [config.stages.saturating_sub(1), config.stages.saturating_add(1)];
    let by_stages = stages.into_iter().map(|stages| KernelConfig { stages, ..*config });
    // With all rows of tiles in one group, a larger one is the same walk.
    let rows = problem.m.div_ceil(config.block_m.max(1) as usize);
    let walked = |group: u32| rows.min(group as usize);
    let groups = [config.group / 2, config.group.saturating_mul(2)];
    let by_group = groups.into_iter().filter(|group| walked(*group) != walked(config.group));
    let by_group = by_group.map(|group| KernelConfig { group, ..*config });
    by_stages.chain(by_group).filter(|other| other.check().is_ok()).collect()
}

/// [`first_candidates`] and the [`neighbours`] of each, each once: all that a table can name.
///
/// # Errors
/// Those of [`choose`].
pub fn all_candidates(problem: &Problem, sms: u32) -> Result<Vec<KernelConfig>, JitError> {
    let first = first_candidates(problem, sms)?;
    let around: Vec<_> = first.iter().flat_map(|config| neighbours(problem, config)).collect();
    let mut seen = HashSet::new();
    Ok(first.into_iter().chain(around).filter(|config| seen.insert(*config)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a candidate is timed twice, the model's choice is not the first (ties go to it), or a
    /// neighbour is illegal or changes more than one thing.
    #[test]
    fn candidates_are_distinct_and_legal() {
        for text in [
            "1x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
            "4096x7168x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
            "4096x4096x7168 a=e4m3:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1",
            "300x500x700 a=e5m2:row b=e4m3:row d=f16 policy=chain",
        ] {
            let problem = text.parse().unwrap();
            let first = first_candidates(&problem, 132).unwrap();
            let all = all_candidates(&problem, 132).unwrap();
            assert_eq!(all[0], choose(&problem, 132).unwrap().config(), "{text}");
            assert_eq!(all[..first.len()], first, "{text}");
            assert!(all.len() > first.len(), "{text}");
            let names: HashSet<String> = all.iter().map(ToString::to_string).collect();
            assert_eq!(names.len(), all.len(), "{text}: a name stands for two");
            for config in &first {
                for other in neighbours(&problem, config) {
                    other.check().unwrap();
                    let restored = KernelConfig { stages: config.stages, group: config.group, ..other };
                    assert_eq!(restored, *config);
                    assert!((other.stages == config.stages) != (other.group == config.group), "{other}");
                }
            }
        }
    }

    /// Breaks if rasters are timed that walk the tiles in the same order.
    #[test]
    fn rasters_that_change_nothing_are_left_out() {
        let config = |m: usize| {
            let problem = format!("{m}x7168x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap();
            let config = KernelConfig { group: 16, ..choose(&problem, 132).unwrap().config() };
            let mut groups: Vec<u32> = neighbours(&problem, &config).iter().map(|other| other.group).collect();
            groups.retain(|group| *group != 16);
            groups
        };
        assert_eq!(config(64), [] as [u32; 0]);
        assert_eq!(config(16 * 256), [8]);
        assert_eq!(config(64 * 256), [8, 32]);
    }
}
