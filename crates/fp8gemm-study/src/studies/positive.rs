//! Zero-mean against positive data: when accumulation is visible beside quantisation.

use fp8gemm_problem::Policy;

use super::sweep::TENSOR;
use crate::sample::Distribution;
use crate::{Comparable, Figure, Grid, Outcome, Published, Scale, Settings, Shape, Study, StudyError};

pub(super) const STUDY: Study = Study {
    name: "positive-data",
    title: "Zero-mean against positive data",
    question: "On which data is the error of accumulation larger than that of quantisation?",
    takes: "one product of 128 x 128 x 4096 for each of six distributions; policies promote128 and chain",
    run: positive,
};

/// Runs the study: quantisation and accumulation, each as an SNR, for symmetric and positive data.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::positive(&Settings::quick())?;
/// let snr = |data, part| outcome.tables[0].figure(&[("distribution", data), ("policy", "chain")], part);
/// assert!(snr("normal(0, 1)", "quantisation SNR")? < snr("normal(0, 1)", "accumulation SNR")?);
/// assert!(snr("uniform(0, 1)", "quantisation SNR")? > snr("uniform(0, 1)", "accumulation SNR")?);
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn positive(settings: &Settings) -> Result<Outcome, StudyError> {
    let shape = Shape::square(settings.size(48, 128), 4096);
    let (normal, uniform) = (Distribution::NORMAL, Distribution::UNIFORM);
    let distributions = vec![
        normal,
        Distribution::Uniform { low: -1.0, high: 1.0 },
        Distribution::Laplace { scale: 1.0 },
        uniform,
        Distribution::Normal { mean: 1.0, std: 1.0 },
        Distribution::LogNormal { mu: 0.0, sigma: 1.0 },
    ];
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("sizes", shape);
    outcome.parameter("quantisation", TENSOR);

    let policies = vec![Policy::PROMOTE_128, Policy::Chain];
    let table = Grid { distributions, quantizers: vec![TENSOR], policies, shape, seed: settings.seed }.run()?;
    let figure = |distribution: Distribution, policy: &str, column: &str| {
        table.figure(&[("distribution", &distribution.to_string()), ("policy", policy)], column)
    };
    outcome.finding(format!(
        "On N(0,1) promotion is invisible: without it accumulation has {:.1} dB, far below the noise of quantisation \
         at {:.1} dB, and the whole error is the same with promotion ({:.2} dB) and without ({:.2} dB).",
        figure(normal, "chain", "accumulation SNR")?,
        figure(normal, "chain", "quantisation SNR")?,
        figure(normal, "promote128", "total SNR")?,
        figure(normal, "chain", "total SNR")?,
    ));
    outcome.finding(format!(
        "On U(0,1) it decides: quantisation errors average out ({:.1} dB), truncation does not. Without promotion the \
         result has {:.1} dB, with promotion every 128 {:.1} dB.",
        figure(uniform, "chain", "quantisation SNR")?,
        figure(uniform, "chain", "total SNR")?,
        figure(uniform, "promote128", "total SNR")?,
    ));
    outcome.published.push(Published {
        quantity: "Accumulation without promotion on N(0,1) and U(0,1), quantisation on N(0,1), K = 4096".to_owned(),
        published: "57.6 dB, 22.5 dB; 28.6 dB".to_owned(),
        source: "this project's reference notes, table of studies, 3: another program; nothing is published".to_owned(),
        ours: format!(
            "{:.1} dB, {:.1} dB; {:.1} dB",
            figure(normal, "chain", "accumulation SNR")?,
            figure(uniform, "chain", "accumulation SNR")?,
            figure(normal, "chain", "quantisation SNR")?,
        ),
        comparable: Comparable::Partly,
        note: "Other samples; neither M and N nor the scales are noted there.".to_owned(),
    });
    outcome.figures.push(
        Figure::bars("snr", "Accumulation without promotion beside quantisation, K = 4096", "grid")
            .x("distribution", Scale::Linear)
            .y(["quantisation SNR", "accumulation SNR", "total SNR"], Scale::Linear)
            .y_label("SNR [dB], higher is better")
            .only("policy", "chain"),
    );
    outcome.tables.push(table);
    Ok(outcome)
}
