//! From zero-mean to positive data by shifting the mean: accumulation without promotion and with it.

use fp8gemm_problem::Policy;
use fp8gemm_sim::metrics::Metrics;

use super::sweep::TENSOR;
use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Product, Published, Scale, Settings, Shape, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "mean-shift",
    title: "Shifting the mean of the data",
    question: "How far from zero must the mean of the data be for Hopper's accumulation to be a bias, and what does \
               the largest relative error say about it?",
    takes: "one product of 192 x 192 x 4096 of N(mu,1), mu from 0 to 8; policies chain and promote128",
    run: mean_shift,
};

const MEANS: [f64; 11] = [0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0];
/// For these means the reference of the project gives a figure, in per cent.
const REFERENCE: [(&str, f64); 4] = [("0.3", 0.75), ("0.5", 1.3), ("1", 3.9), ("2", 6.9)];

/// Runs the study: products of N(mu, 1) with itself, against their exact values.
///
/// Both operands are quantised to E4M3 with one scale; errors are those of accumulation alone. The
/// column `distance` says how many standard deviations the outputs' mean lies from zero: below about
/// 5 some outputs nearly cancel, and the largest `|e/x|` is theirs.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::mean_shift(&Settings::quick())?;
/// let bias = |mu| outcome.tables[0].figure(&[("policy", "chain"), ("mu", mu)], "bias");
/// assert!(bias("0")?.abs() < 0.01 && bias("1")? < -3.0); // %
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn mean_shift(settings: &Settings) -> Result<Outcome, StudyError> {
    let shape = Shape::square(settings.size(96, 192), 4096);
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("sizes", shape);
    outcome.parameter("quantisation", TENSOR);

    let mut table = Table::new("means", "Error of accumulation by the mean of A and B, N(mu,1)")
        .text("policy", "accumulation policy")
        .float("mu", "", "mean of the elements of A and B")
        .count("outputs", "how many")
        .bits("fingerprint", "of all outputs: sum (i + 1) bits(d_i) mod 2^64")
        .float("distance", "", "|mean x| over the standard deviation of x, over the outputs")
        .float("max relative", "%", "max |e/x|")
        .float("max over mean", "%", "max |e| over mean |x|")
        .float("bias", "%", "sum e over sum |x|")
        .float("SNR", "dB", "10 log10(sum x^2 over sum e^2)");
    for (step, mean) in MEANS.into_iter().enumerate() {
        settings.progress(step, MEANS.len());
        let product = Product::sample(Distribution::Normal { mean, std: 1.0 }, TENSOR, shape, settings.seed)?;
        let count = product.exact.len() as f64;
        let average = product.exact.iter().sum::<f64>() / count;
        let variance = product.exact.iter().map(|x| (x - average) * (x - average)).sum::<f64>() / count;
        for policy in [Policy::PROMOTE_128, Policy::Chain] {
            let output = product.output(policy)?;
            let metrics = Metrics::new(product.exact.view(), output.view())?;
            table.push([
                Cell::from(policy.to_string()),
                Cell::from(mean),
                Cell::from(metrics.elements),
                Cell::fingerprint(&output),
                Cell::from(average.abs() / variance.sqrt()),
                Cell::from(metrics.max_relative * 100.0),
                Cell::from(metrics.max_over_mean * 100.0),
                Cell::from(metrics.bias * 100.0),
                Cell::from(metrics.snr_db),
            ])?;
        }
    }

    let figure = |policy: &str, mu: &str, column: &str| table.figure(&[("policy", policy), ("mu", mu)], column);
    outcome.finding(format!(
        "Without promotion the bias is {:.3} % at mu = 0, {:.2} % at 0.3, {:.1} % at 1 and {:.1} % at 8: a mean of one \
         standard deviation has {:.0} % of the bias of data that hardly vary. With promotion every 128 it is {:.3} % at \
         1 and {:.3} % at 8.",
        figure("chain", "0", "bias")?,
        figure("chain", "0.3", "bias")?,
        figure("chain", "1", "bias")?,
        figure("chain", "8", "bias")?,
        100.0 * figure("chain", "1", "bias")? / figure("chain", "8", "bias")?,
        figure("promote128", "1", "bias")?,
        figure("promote128", "8", "bias")?,
    ));
    outcome.finding(format!(
        "The largest |e/x| falls and then rises with mu: {:.0} % at mu = 0, {:.1} % at 0.2, {:.2} % at 0.3, {:.1} % at 1. \
         The fall is no gain in accuracy. It is the outputs that nearly cancel, whose mean lies {:.1} standard deviations \
         from zero at mu = 0.2 and {:.1} at 0.3; once none is near zero, the figure follows the bias ({:.1} against {:.1} % \
         at mu = 2). Below that, and over more outputs, it is as large as the smallest |x| makes it.",
        figure("chain", "0", "max relative")?,
        figure("chain", "0.2", "max relative")?,
        figure("chain", "0.3", "max relative")?,
        figure("chain", "1", "max relative")?,
        figure("chain", "0.2", "distance")?,
        figure("chain", "0.3", "distance")?,
        figure("chain", "2", "max relative")?,
        -figure("chain", "2", "bias")?,
    ));
    let ours = |policy: &str| {
        let texts = REFERENCE.iter().map(|(mu, _)| {
            let places = if policy == "chain" { 2 } else { 3 };
            Ok::<_, StudyError>(format!("{:.places$} %", figure(policy, mu, "max relative")?))
        });
        Ok::<_, StudyError>(texts.collect::<Result<Vec<_>, _>>()?.join(", "))
    };
    outcome.published.push(Published {
        quantity: "max |e/x| at mu = 0.3, 0.5, 1, 2, K = 4096".to_owned(),
        published: format!(
            "without promotion {}; with promotion every 128 0.02 to 0.03 %",
            REFERENCE.map(|(_, percent)| format!("{percent} %")).join(", ")
        ),
        source: "this project's own numerical reference (study 5), computed with another program; nothing is published"
            .to_owned(),
        ours: format!("without {}; with {}", ours("chain")?, ours("promote128")?),
        comparable: Comparable::Partly,
        note:
            "The reference does not say how many outputs it took, nor how the samples were scaled to E4M3; a maximum \
               depends on both."
                .to_owned(),
    });
    for (name, title, column) in [
        ("relative", "Largest relative error by the mean of the data, K = 4096", "max relative"),
        ("bias", "Bias by the mean of the data, K = 4096", "bias"),
    ] {
        let figure = Figure::lines(name, title, "means").x("mu", Scale::Linear).y([column], Scale::Log10);
        outcome.figures.push(figure.by("policy"));
    }
    outcome.tables.push(table);
    Ok(outcome)
}
