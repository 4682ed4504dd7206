//! Error attribution over the layer shapes of real models.

use fp8gemm_formats::quantize::{Quantizer, Recipe};
use fp8gemm_problem::{Policy, ScaleLayout};
use fp8gemm_sim::attribution::Attribution;
use ndarray::{Array2, Zip};

use super::budget;
use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Published, Scale, Settings, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "layers",
    title: "Layer shapes of real models",
    question: "Where does the error come from in the projections of DeepSeek-V3, Llama-3-70B and Qwen3-32B?",
    takes: "18 projections with their real K, 8 rows of activations and 128 of weights; 1x128 x 128x128 scales, tensor \
            scales with and without promotion, bf16 out",
    run: layers,
};

/// What a projection reads.
#[derive(Clone, Copy, PartialEq)]
enum Input {
    /// A normalised hidden state (or latent): channels of unequal size.
    Normalised,
    /// Averages of values by attention: the same, milder.
    Attention,
    /// `silu(gate) * up`: heavy tails.
    Gated,
}

/// A projection: model, name, N and K of the weight `[N, K]`, and its input.
type Layer = (&'static str, &'static str, usize, usize, Input);

const DEEPSEEK: &str = "DeepSeek-V3";
const LLAMA: &str = "Llama-3-70B";
const QWEN: &str = "Qwen3-32B";

/// From the models' public `config.json`:
/// DeepSeek-V3: hidden 7168, 128 heads of 128 + 64 (nope, rope) and 128 (value), q rank 1536, kv rank
/// 512, intermediate 18432, of an expert 2048. Llama-3-70B: hidden 8192, 64 heads of 128, 8 of keys and
/// values, intermediate 28672. Qwen3-32B: hidden 5120, 64 heads of 128, 8 of keys and values,
/// intermediate 25600.
const LAYERS: [Layer; 18] = [
    (DEEPSEEK, "q_a_proj", 1536, 7168, Input::Normalised),
    (DEEPSEEK, "q_b_proj", 24576, 1536, Input::Normalised),
    (DEEPSEEK, "kv_a_proj_with_mqa", 576, 7168, Input::Normalised),
    (DEEPSEEK, "kv_b_proj", 32768, 512, Input::Normalised),
    (DEEPSEEK, "o_proj", 7168, 16384, Input::Attention),
    (DEEPSEEK, "dense gate/up", 18432, 7168, Input::Normalised),
    (DEEPSEEK, "dense down", 7168, 18432, Input::Gated),
    (DEEPSEEK, "expert gate/up", 2048, 7168, Input::Normalised),
    (DEEPSEEK, "expert down", 7168, 2048, Input::Gated),
    (LLAMA, "q_proj", 8192, 8192, Input::Normalised),
    (LLAMA, "k/v_proj", 1024, 8192, Input::Normalised),
    (LLAMA, "o_proj", 8192, 8192, Input::Attention),
    (LLAMA, "gate/up", 28672, 8192, Input::Normalised),
    (LLAMA, "down", 8192, 28672, Input::Gated),
    (QWEN, "q_proj", 8192, 5120, Input::Normalised),
    (QWEN, "o_proj", 5120, 8192, Input::Attention),
    (QWEN, "gate/up", 25600, 5120, Input::Normalised),
    (QWEN, "down", 5120, 25600, Input::Gated),
];

const BLOCK: Quantizer = Quantizer::new(Recipe::DeepGemm);
const TENSOR: Quantizer = Quantizer::new(Recipe::TeCurrent);

/// Name, quantisers of A and B, policy.
const CASES: [(&str, Quantizer, Quantizer, Policy); 3] = [
    (
        "block promote128",
        BLOCK.with_layout(ScaleLayout::Block1x128),
        BLOCK.with_layout(ScaleLayout::Block128x128),
        Policy::PROMOTE_128,
    ),
    ("tensor promote128", TENSOR, TENSOR, Policy::PROMOTE_128),
    ("tensor chain", TENSOR, TENSOR, Policy::Chain),
];

/// Runs the study: `fp8gemm_sim::attribution` for each projection.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::layers(&Settings::quick())?;
/// let row = [("model", "Qwen3-32B"), ("projection", "down"), ("case", "tensor chain")];
/// let snr = |part| outcome.tables[0].figure(&row, part);
/// assert!(snr("quantisation SNR")? < snr("accumulation SNR")?);
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn layers(settings: &Settings) -> Result<Outcome, StudyError> {
    let (m, n) = settings.size((2, 16), (8, 128));
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("sample", format!("{m} rows of activations and {n} of weights of each projection, K whole"));
    outcome.parameter("hidden states", "N(0,1) with each channel times exp(N(0,1))");
    outcome.parameter("attention outputs", "N(0,1) with each channel times exp(N(0,0.5))");
    outcome.parameter("inputs of down", "silu(g) u with hidden states g and u of channels exp(N(0,0.5))");
    outcome.parameter("weights", "N(0,0.02) with each row times exp(N(0,0.3)) and each column times exp(N(0,0.2))");
    for (name, a, b, policy) in CASES {
        outcome.parameter(name, format!("A {a}, B {b}, {policy}"));
    }
    outcome.parameter("shapes", "from the models' public config.json");

    let table = Table::new("layers", "Error of each stage by projection")
        .text("model", "whose shapes they are")
        .text("projection", "name of the weight")
        .text("case", "scales and accumulation policy")
        .count("N", "rows of the weight")
        .count("K", "columns of the weight: elements of each sum")
        .count("outputs", "how many were computed");
    let mut table = budget::columns(table);
    for (step, (model, projection, full_n, k, input)) in LAYERS.into_iter().enumerate() {
        settings.progress(step, LAYERS.len());
        let seed = settings.seed.wrapping_add(step as u64);
        let (a, b) = (activations(input, seed, (m, k))?, weights(seed, (n, k))?);
        for (case, quantizer_a, quantizer_b, policy) in CASES {
            let (quantized_a, quantized_b) = (quantizer_a.quantize(a.view())?, quantizer_b.quantize(b.view())?);
            let attribution =
                Attribution::new(a.view(), b.view(), quantized_a.view(), quantized_b.view()).policy(policy);
            let text = [model, projection, case].map(Cell::from);
            let counts = [full_n, k, m * n].map(Cell::from);
            table.push(text.into_iter().chain(counts).chain(budget::cells(&attribution)?))?;
        }
    }

    let column = |case: &str, column: &str| {
        let figure = |&(model, projection, ..): &Layer| {
            table.figure(&[("model", model), ("projection", projection), ("case", case)], column)
        };
        LAYERS.iter().map(figure).collect::<Result<Vec<f64>, StudyError>>()
    };
    let range = |values: &[f64]| {
        let (low, high) = (
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        );
        format!("{low:.1} to {high:.1} dB")
    };
    let [block, tensor, chain] = CASES.map(|(name, ..)| name);
    outcome.finding(format!(
        "In every projection quantisation is nearly the whole error: with 1x128 x 128x128 scales it has {}, accumulation \
         with promotion {}, the cast to bf16 {}, over all K from 512 to 28672.",
        range(&column(block, "quantisation SNR")?),
        range(&column(block, "accumulation SNR")?),
        range(&column(block, "cast SNR")?),
    ));
    let without = column(chain, "accumulation SNR")?;
    let (worst, layer) = without
        .iter()
        .zip(&LAYERS)
        .fold((f64::INFINITY, &LAYERS[0]), |worst, (&snr, layer)| if snr < worst.0 { (snr, layer) } else { worst });
    outcome.finding(format!(
        "Without promotion accumulation has {}, falling with K: the least in {} {} (K = {}): {worst:.1} dB, beside quantisation that has \
         {}. Data of both signs, as all of these are, do not need promotion; see the study of positive data for those \
         that do.",
        range(&without),
        layer.0,
        layer.1,
        layer.3,
        range(&column(chain, "quantisation SNR")?),
    ));
    let (fine, one) = (column(block, "quantisation SNR")?, column(tensor, "quantisation SNR")?);
    let gains: Vec<f64> = fine.iter().zip(&one).map(|(fine, one)| fine - one).collect();
    outcome.finding(format!(
        "The gain of block scales over one scale a tensor is {} in quantisation. Channels here differ by exp(N(0,1)), \
         which E4M3's range bears; SmoothQuant (arXiv 2211.10438) reports outliers in \
         activations, in fixed channels, about 100 times larger than most values (second hand; study of granularity).",
        range(&gains),
    ));
    outcome.published.push(Published {
        quantity: "What promotion is needed for".to_owned(),
        published: "maximum relative error of nearly 2 % at K = 4096 without promotion".to_owned(),
        source: "DeepSeek-V3 Technical Report, arXiv 2412.19437, section 3.3.2".to_owned(),
        ours: format!("SNR of accumulation without promotion {}, K = 512 to 28672", range(&without)),
        comparable: Comparable::No,
        note:
            "Another metric and other data; the study `accumulation` takes the figure up. Activations and weights here \
               are synthetic, only the shapes are real."
                .to_owned(),
    });
    for (name, title, case) in [
        ("block", "DeepSeek-V3, 1x128 x 128x128 scales with promotion", block),
        ("chain", "DeepSeek-V3, tensor scales without promotion", chain),
    ] {
        outcome.figures.push(
            Figure::bars(name, title, "layers")
                .x("projection", Scale::Linear)
                .y(["quantisation SNR", "accumulation SNR", "cast SNR", "total SNR"], Scale::Linear)
                .y_label("SNR [dB], higher is better")
                .only("model", DEEPSEEK)
                .only("case", case),
        );
    }
    for (name, model) in [("llama", LLAMA), ("qwen", QWEN)] {
        outcome.figures.push(
            Figure::bars(name, &format!("{model}, error of accumulation"), "layers")
                .x("projection", Scale::Linear)
                .y(["accumulation SNR"], Scale::Linear)
                .by("case")
                .only("model", model),
        );
    }
    outcome.tables.push(table);
    Ok(outcome)
}

/// N(0,1) with each column multiplied by `exp(sigma z)`.
fn channels(seed: u64, role: &str, sigma: f64, shape: (usize, usize)) -> Result<Array2<f32>, StudyError> {
    let x = Distribution::NORMAL.sample(seed, role, shape)?;
    let factors = Distribution::LogNormal { mu: 0.0, sigma }.sample(seed, &format!("{role}-channels"), (1, shape.1))?;
    Ok(x * &factors)
}

fn activations(input: Input, seed: u64, shape: (usize, usize)) -> Result<Array2<f32>, StudyError> {
    match input {
        Input::Normalised => channels(seed, "a", 1.0, shape),
        Input::Attention => channels(seed, "a", 0.5, shape),
        Input::Gated => {
            let (gate, up) = (channels(seed, "gate", 0.5, shape)?, channels(seed, "up", 0.5, shape)?);
            let silu = |gate: f32| f64::from(gate) / (1.0 + libm::exp(-f64::from(gate)));
            Ok(Zip::from(&gate).and(&up).map_collect(|&gate, &up| (silu(gate) * f64::from(up)) as f32))
        }
    }
}

fn weights(seed: u64, shape: (usize, usize)) -> Result<Array2<f32>, StudyError> {
    let rows = Distribution::LogNormal { mu: 0.0, sigma: 0.3 }.sample(seed, "b-rows", (shape.0, 1))?;
    Ok(channels(seed, "b", 0.2, shape)? * &rows * 0.02)
}
