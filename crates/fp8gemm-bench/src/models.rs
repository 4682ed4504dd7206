//! The projections of public models: N and K of each weight `[N, K]`, as one GPU has it.

use core::fmt;
use core::str::FromStr;

use crate::{BenchError, Shape};

/// A model whose projections are known. From its public `config.json`:
///
/// | model | hidden | heads | other |
/// |---|---|---|---|
/// | DeepSeek-V3 (`deepseek-ai/DeepSeek-V3`) | 7168 | 128 of 128 + 64 (nope, rope), values of 128 | q rank 1536, kv rank 512, intermediate 18432, of an expert 2048 |
/// | Llama-3-70B (`meta-llama/Meta-Llama-3-70B`) | 8192 | 64 of 128, 8 of keys and values | intermediate 28672 |
/// | Qwen3-235B-A22B (`Qwen/Qwen3-235B-A22B`) | 4096 | 64 of 128, 4 of keys and values | intermediate of an expert 1536 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    /// DeepSeek-V3 and R1.
    DeepSeekV3,
    /// Llama-3-70B, its later versions too.
    Llama3With70B,
    /// Qwen3-235B-A22B.
    Qwen3With235B,
}

/// Name, N and K.
type Projection = (&'static str, usize, usize);

const DEEPSEEK_V3: [Projection; 10] = [
    ("q_a and kv_a fused", 1536 + 512 + 64, 7168),
    ("q_a", 1536, 7168),
    ("kv_a", 512 + 64, 7168),
    ("q_b", 128 * (128 + 64), 1536),
    ("kv_b", 128 * (128 + 128), 512),
    ("o", 7168, 128 * 128),
    ("gate and up of a dense layer", 2 * 18432, 7168),
    ("down of a dense layer", 7168, 18432),
    ("gate and up of the shared expert", 2 * 2048, 7168),
    ("down of the shared expert", 7168, 2048),
];

const LLAMA_3_70B: [Projection; 4] = [
    ("q, k and v fused", (64 + 2 * 8) * 128, 8192),
    ("o", 8192, 64 * 128),
    ("gate and up", 2 * 28672, 8192),
    ("down", 8192, 28672),
];

const QWEN3_235B: [Projection; 4] = [
    ("q, k and v fused", (64 + 2 * 4) * 128, 4096),
    ("o", 4096, 64 * 128),
    ("gate and up of an expert", 2 * 1536, 4096),
    ("down of an expert", 4096, 1536),
];

impl Model {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::DeepSeekV3, Self::Llama3With70B, Self::Qwen3With235B];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeepSeekV3 => "deepseek-v3",
            Self::Llama3With70B => "llama-3-70b",
            Self::Qwen3With235B => "qwen3-235b",
        }
    }

    /// Its projections: name, N and K, not split over GPUs. Those that serving programs fuse are fused.
    pub const fn projections(self) -> &'static [Projection] {
        match self {
            Self::DeepSeekV3 => &DEEPSEEK_V3,
            Self::Llama3With70B => &LLAMA_3_70B,
            Self::Qwen3With235B => &QWEN3_235B,
        }
    }

    /// Each projection with each number of tokens: 1x128 by 128x128 scales, bf16 out.
    ///
    /// ```
    /// use fp8gemm_bench::Model;
    ///
    /// let shapes = Model::Llama3With70B.shapes(&[1, 64]);
    /// assert_eq!(shapes.len(), 8);
    /// assert!(shapes[1].problem.to_string().starts_with("64x10240x8192 "));
    /// ```
    pub fn shapes(self, tokens: &[usize]) -> Vec<Shape> {
        let of = |(_, n, k): &Projection| tokens.iter().map(|m| Shape::dense(*m, *n, *k)).collect::<Vec<_>>();
        self.projections().iter().flat_map(of).collect()
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Model {
    type Err = BenchError;

    fn from_str(text: &str) -> Result<Self, BenchError> {
        Self::ALL.into_iter().find(|model| model.name() == text).ok_or_else(|| BenchError::Option {
            option: "model",
            value: text.to_owned(),
            rule: "known are deepseek-v3, llama-3-70b and qwen3-235b; other shapes can be given as a file",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a name does not lead back to its model, a projection is there twice, or the shapes of
    /// DeepSeek-V3 are not those of the recorded list.
    #[test]
    fn projections_are_those_of_the_models() {
        for model in Model::ALL {
            assert_eq!(model.name().parse::<Model>().unwrap(), model);
            let mut shapes: Vec<_> = model.projections().iter().map(|(_, n, k)| (*n, *k)).collect();
            assert!(shapes.iter().all(|(n, k)| n % 64 == 0 && k % 128 == 0));
            shapes.sort_unstable();
            shapes.dedup();
            assert_eq!(shapes.len(), model.projections().len());
        }
        let deepseek: Vec<_> = DEEPSEEK_V3.iter().map(|(_, n, k)| (*n, *k)).collect();
        for shape in crate::List::Decode.shapes().unwrap() {
            assert!(deepseek.contains(&(shape.problem.n, shape.problem.k)), "{}", shape.problem);
        }
        assert!("gpt-2".parse::<Model>().unwrap_err().to_string().contains("gpt-2"));
    }
}
