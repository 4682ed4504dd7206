//! The error budget of a GEMM: quantisation, alignment, accumulator, promotion and cast.

use fp8gemm_formats::quantize::{Quantizer, Recipe};
use fp8gemm_problem::{Policy, ScaleLayout};
use fp8gemm_sim::attribution::{Attribution, Stage, Summary};
use fp8gemm_sim::metrics::Metrics;

use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Published, Scale, Settings, Shape, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "budget",
    title: "Error budget: quantisation against accumulation",
    question: "Which part of a GEMM's error is quantisation, which accumulation, and which the cast of the output?",
    takes: "one product of 64 x 128 x 4096 for each of five distributions, bf16 out; 1x128 x 128x128 and tensor scales, \
            four policies",
    run: budget,
};

const DISTRIBUTIONS: [Distribution; 5] = [
    Distribution::NORMAL,
    Distribution::Laplace { scale: 1.0 },
    Distribution::OutlierChannels { share: 0.01, factor: 50.0 },
    Distribution::Normal { mean: 0.5, std: 1.0 },
    Distribution::UNIFORM,
];

const TENSOR: Quantizer = Quantizer::new(Recipe::TorchaoFloat8).with_layout(ScaleLayout::Tensor);
const BLOCK: Quantizer = Quantizer::new(Recipe::DeepGemm);

/// How it is scaled, quantisers of A and B, policies.
const CASES: [(&str, Quantizer, Quantizer, &[Policy]); 2] = [
    (
        "block",
        BLOCK.with_layout(ScaleLayout::Block1x128),
        BLOCK.with_layout(ScaleLayout::Block128x128),
        &[Policy::PROMOTE_128, Policy::Cutlass128, Policy::Promote { every: 32 }],
    ),
    ("tensor", TENSOR, TENSOR, &[Policy::PROMOTE_128, Policy::Chain]),
];

/// Columns of errors that are the same for all attribution tables, in the order of [`cells`].
pub(super) fn columns(table: Table) -> Table {
    table
        .bits("fingerprint", "of all outputs, as f32")
        .float("quantisation SNR", "dB", "10 log10(sum v0^2 / sum (v1 - v0)^2)")
        .float("alignment SNR", "dB", "the same of the truncation at alignment, v2 - v1")
        .float("accumulator SNR", "dB", "of the accumulator's own rounding, v3 - v2")
        .float("promotion SNR", "dB", "of the f32 arithmetic, v4 - v3")
        .float("cast SNR", "dB", "of the cast to bf16, v5 - v4")
        .float("accumulation SNR", "dB", "of v4 against v1: all that the tensor core and promotion do")
        .float("total SNR", "dB", "of v5 against v0")
        .float("quantisation bias", "%", "mean of v1 - v0 over mean |v0|")
        .float("accumulation bias", "%", "mean of v4 - v1 over mean |v0|")
}

/// Attributes the error of one product and gives its cells in the order of [`columns`].
pub(super) fn cells(attribution: &Attribution<'_>) -> Result<Vec<Cell>, StudyError> {
    let attributed = attribution.run()?;
    let summary: Summary = attributed.summary();
    let values = attributed.values();
    let accumulation = Metrics::new(values[1].view(), values[4].view())?;
    let stages = Stage::ALL.map(|stage| Cell::from(summary.stage(stage).snr_db));
    let bias = |stage| summary.stage(stage).relative_bias * 100.0;
    let accumulation_bias = bias(Stage::Alignment) + bias(Stage::Accumulator) + bias(Stage::Promotion);
    let figures = [accumulation.snr_db, summary.total.snr_db, bias(Stage::Quantization), accumulation_bias];
    let fingerprint = Cell::fingerprint(&attributed.d().to_f32());
    Ok([fingerprint].into_iter().chain(stages).chain(figures.map(Cell::from)).collect())
}

/// Runs the study: `fp8gemm_sim::attribution` of each product.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::budget(&Settings::quick())?;
/// let row = [("distribution", "normal(0, 1)"), ("scales", "block"), ("policy", "promote128")];
/// let snr = |part| outcome.tables[0].figure(&row, part);
/// assert!(snr("quantisation SNR")? < snr("cast SNR")? && snr("cast SNR")? < snr("accumulation SNR")?);
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn budget(settings: &Settings) -> Result<Outcome, StudyError> {
    let shape = settings.size(Shape { m: 8, n: 128, k: 2048 }, Shape { m: 64, n: 128, k: 4096 });
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("sizes", shape);
    for (name, a, b, _) in CASES {
        outcome.parameter(&format!("{name} scales"), format!("A {a}, B {b}"));
    }
    outcome.parameter("output", "bf16");

    let table = Table::new("budget", "Error of each stage")
        .text("distribution", "of the elements of A and B")
        .text("scales", "block: 1x128 of A, 128x128 of B; tensor: one each")
        .text("policy", "accumulation policy")
        .count("outputs", "how many");
    let mut table = columns(table);
    for (step, distribution) in DISTRIBUTIONS.into_iter().enumerate() {
        settings.progress(step, DISTRIBUTIONS.len());
        let a = distribution.sample(settings.seed, "a", (shape.m, shape.k))?;
        let b = distribution.sample(settings.seed, "b", (shape.n, shape.k))?;
        for (name, quantizer_a, quantizer_b, policies) in CASES {
            let (quantized_a, quantized_b) = (quantizer_a.quantize(a.view())?, quantizer_b.quantize(b.view())?);
            let attribution = Attribution::new(a.view(), b.view(), quantized_a.view(), quantized_b.view());
            for &policy in policies {
                let text = [distribution.to_string(), name.to_owned(), policy.to_string()].map(Cell::from);
                let cells = cells(&attribution.clone().policy(policy))?;
                table.push(text.into_iter().chain([Cell::from(shape.m * shape.n)]).chain(cells))?;
            }
        }
    }

    let figure = |distribution: Distribution, scales: &str, policy: Policy, column: &str| {
        let labels =
            [("distribution", &*distribution.to_string()), ("scales", scales), ("policy", &*policy.to_string())];
        table.figure(&labels, column)
    };
    let normal = |column: &str| figure(Distribution::NORMAL, "block", Policy::PROMOTE_128, column);
    let (quantisation, accumulation) = (normal("quantisation SNR")?, normal("accumulation SNR")?);
    outcome.finding(format!(
        "With 1x128 x 128x128 scales on N(0,1), quantisation is {quantisation:.1} dB and accumulation with promotion \
         {accumulation:.1} dB: {:.0} times less in amplitude. The cast to bf16, {:.1} dB, is the second largest part; the \
         whole is {:.1} dB.",
        libm::pow(10.0, (accumulation - quantisation) / 20.0),
        normal("cast SNR")?,
        normal("total SNR")?,
    ));
    let chain = |column: &str| figure(Distribution::UNIFORM, "tensor", Policy::Chain, column);
    outcome.finding(format!(
        "The order turns round where data are positive and nothing is promoted: on U(0,1) with one scale, quantisation \
         is {:.1} dB and accumulation {:.1} dB, nearly all of it the truncation at alignment ({:.1} dB), with a bias of \
         {:.2} %. With promotion it is {:.1} dB.",
        chain("quantisation SNR")?,
        chain("accumulation SNR")?,
        chain("alignment SNR")?,
        chain("accumulation bias")?,
        figure(Distribution::UNIFORM, "tensor", Policy::PROMOTE_128, "accumulation SNR")?,
    ));
    let cutlass = figure(Distribution::NORMAL, "block", Policy::Cutlass128, "promotion SNR")?;
    outcome.finding(format!(
        "How scales are multiplied in promotion (promote128 against cutlass128) changes bits but no budget: {:.1} and \
         {cutlass:.1} dB for the f32 arithmetic.",
        normal("promotion SNR")?,
    ));
    for (quantity, published, ours) in
        [("quantisation", "28.6 dB", quantisation), ("accumulation with promotion", "78.0 dB", accumulation)]
    {
        outcome.published.push(Published {
            quantity: format!("Error of {quantity}, N(0,1), 1x128 x 128x128"),
            published: published.to_owned(),
            source: "this project's reference notes, table of studies, 11: another program, K = 4096".to_owned(),
            ours: format!("{ours:.1} dB (K = {})", shape.k),
            comparable: if settings.quick { Comparable::Partly } else { Comparable::Yes },
            note: "Other samples; M and N are not noted there.".to_owned(),
        });
    }
    outcome.published.push(Published {
        quantity: "Effect of FP8 on training".to_owned(),
        published: "relative error of the loss below 0.25 % against BF16".to_owned(),
        source: "DeepSeek-V3 Technical Report, arXiv 2412.19437, section 3.3".to_owned(),
        ours: format!("error of one product {:.1} dB", normal("total SNR")?),
        comparable: Comparable::No,
        note: "Of two models, about 16B and 230B parameters, the loss in training; it is no error of a product."
            .to_owned(),
    });
    let bars = |name: &str, title: &str| {
        Figure::bars(name, title, "budget")
            .x("distribution", Scale::Linear)
            .y(["quantisation SNR", "accumulation SNR", "cast SNR", "total SNR"], Scale::Linear)
            .y_label("SNR [dB], higher is better")
    };
    outcome.figures.push(
        bars("block", "Budget with 1x128 x 128x128 scales, promote128")
            .only("scales", "block")
            .only("policy", "promote128"),
    );
    outcome.figures.push(
        bars("chain", "Budget with tensor scales, no promotion").only("scales", "tensor").only("policy", "chain"),
    );
    outcome.tables.push(table);
    Ok(outcome)
}
