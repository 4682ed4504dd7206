//! A kernel configuration by (part of) its name, for experiments.

use fp8gemm_hopper::HopperError;
use fp8gemm_jit::{KernelConfig, Schedule, Share, Store, choose};
use fp8gemm_problem::Problem;

use crate::BenchError;

/// The configuration that `text` means: words joined by `_`, as in a configuration's name. The
/// candidate of that name; else the best candidate that has all of the words; where none has, the
/// chosen one with the words for tile (`256x112`), stages (`s4`), blocks in flight (`f4`, 1 without), sharing in clusters (`x`: none, `xa`,
/// `xb`), schedule (`co`, `pp`, `sk`, `sw`), direct stores (`d`) and group (`g8`) changed. Without a word for
/// stages, a changed tile gets as many as fit. Before the tile, `f16` and `f32` are the output's where D has that type.
///
/// # Errors
/// [`BenchError::Configuration`] for a word that is none of those and in no candidate;
/// [`BenchError::Hopper`] where the problem has no kernel or the configuration breaks a rule.
pub fn find(text: &str, problem: &Problem, sms: u32) -> Result<KernelConfig, BenchError> {
    let candidates = choose(problem, sms).map_err(HopperError::Jit)?.candidates;
    let names: Vec<String> = candidates.iter().map(|candidate| candidate.config.to_string()).collect();
    if let Some(index) = names.iter().position(|name| name == text) {
        return Ok(candidates[index].config);
    }
    let has_all = |name: &String| text.split('_').all(|word| name.split('_').any(|own| own == word));
    if let Some(index) = names.iter().position(has_all) {
        return Ok(candidates[index].config);
    }
    let fail = |reason: String| BenchError::Configuration { text: text.to_owned(), reason };
    let Some((best, name)) = candidates.first().zip(names.first()) else {
        return Err(fail("there are no candidates".to_owned()));
    };
    let mut config = best.config;
    let (mut tile, mut stages) = (None, None);
    config.in_flight = 1;
    let of_problem: Vec<_> = name.split('_').take_while(|word| sizes(word).is_none()).collect();
    for word in text.split('_') {
        let number = |prefix: char| word.strip_prefix(prefix).and_then(|digits| digits.parse::<u32>().ok());
        // Words of the problem come first; `f32` would be blocks in flight else.
        if tile.is_none() && of_problem.contains(&word) {
            continue;
        }
        if let Some(size) = sizes(word) {
            tile = Some(size);
        } else if let Some(count) = number('s') {
            stages = Some(count);
        } else if let Some(count) = number('f') {
            config.in_flight = count;
        } else if let Some(share) =
            [("x", Share::Nothing), ("xa", Share::A), ("xb", Share::B)].iter().find(|(own, _)| *own == word)
        {
            config.share = share.1;
        } else if let Some(schedule) = [
            ("co", Schedule::Cooperative),
            ("pp", Schedule::PingPong),
            ("sk", Schedule::StreamK),
            ("sw", Schedule::Swapped),
        ]
        .iter()
        .find(|(own, _)| *own == word)
        {
            config.schedule = schedule.1;
        } else if word == "d" {
            config.store = Store::Direct;
        } else if let Some(count) = number('g') {
            config.group = count;
        } else if !name.split('_').any(|own| own == word) {
            let what = "a tile (256x112), stages (s4), blocks in flight (f4), sharing in clusters (x, xa, xb), a schedule (co, pp, sk, sw), d, a group (g8) or a word of";
            return Err(fail(format!("`{word}` is not {what} {}", names.join(", "))));
        }
    }
    if let Some((m, n)) = tile {
        (config.block_m, config.block_n) = (m, n);
    }
    let fits = |stages: &u32| KernelConfig { stages: *stages, ..config }.check().is_ok();
    match (stages, tile) {
        (Some(stages), _) => config.stages = stages,
        (None, Some(_)) => config.stages = (2..=32).rev().find(fits).unwrap_or(2),
        (None, None) => {}
    }
    config.check().map_err(HopperError::Jit)?;
    Ok(config)
}

/// Rows and columns that a word means as a tile.
fn sizes(word: &str) -> Option<(u32, u32)> {
    let (m, n) = word.split_once('x')?;
    Some((m.parse().ok()?, n.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    /// Breaks if a name means another kernel than the one that has it.
    #[test]
    fn candidates_are_found_by_name() {
        let problem = Shape::dense(4096, 7168, 2048).problem;
        for candidate in choose(&problem, 132).unwrap().candidates {
            let config = find(&candidate.config.to_string(), &problem, 132).unwrap();
            assert_eq!(config, candidate.config);
        }
    }

    /// Breaks if the name of a kernel that is no candidate, as logs have it, is not understood: the output's type
    /// looks like blocks in flight.
    #[test]
    fn names_of_other_kernels_are_understood() {
        for output in ["f16", "f32"] {
            let problem = format!("70x132x260 a=e5m2:1x128 b=e4m3:1x128 d={output}").parse().unwrap();
            let chosen = choose(&problem, 132).unwrap().config();
            let config = KernelConfig { schedule: Schedule::PingPong, block_m: 64, block_n: 16, stages: 8, ..chosen };
            assert!(config.check().is_ok());
            assert_eq!(find(&config.to_string(), &problem, 132).unwrap(), config, "{config}");
        }
    }

    /// Breaks if a word is ignored, or changes something else.
    #[test]
    fn words_change_the_chosen_one() {
        let problem = Shape::dense(4096, 7168, 2048).problem;
        let chosen = choose(&problem, 132).unwrap().config();
        assert_eq!(find("g7", &problem, 132).unwrap(), KernelConfig { group: 7, ..chosen });
        let other = find("e4m3_128x48_s5_xb_d_g3", &problem, 132).unwrap();
        let expected = KernelConfig {
            block_m: 128,
            block_n: 48,
            stages: 5,
            share: Share::B,
            store: Store::Direct,
            group: 3,
            ..chosen
        };
        assert_eq!(other, expected);
        let most = find("128x48", &problem, 132).unwrap();
        assert!(KernelConfig { stages: most.stages + 1, ..most }.check().is_err());
    }

    /// Breaks if nonsense, or what the kernel cannot be, is timed as something else.
    #[test]
    fn wrong_names_are_refused() {
        let problem = Shape::dense(4096, 7168, 2048).problem;
        let text = find("128x48_q3", &problem, 132).unwrap_err().to_string();
        assert!(text.contains("`q3` is not"), "{text}");
        let text = find("96x128", &problem, 132).unwrap_err().to_string();
        assert!(text.contains("96"), "{text}");
    }
}
