//! The promotion interval at K = 4096, for positive and for zero-mean data.

use fp8gemm_problem::Policy;

use super::sweep::{self, TENSOR};
use crate::sample::Distribution;
use crate::{Comparable, Figure, Outcome, Product, Published, Scale, Settings, Shape, Study, StudyError};

pub(super) const STUDY: Study = Study {
    name: "promotion-interval",
    title: "The promotion interval",
    question: "How does the error of accumulation depend on how often the tensor core's accumulator is moved to f32?",
    takes: "one product of 192 x 192 x 4096 for each of U(0,1) and N(0,1); intervals 32 to 2048, and none",
    run: promotion,
};

const INTERVALS: [u32; 7] = [32, 64, 128, 256, 512, 1024, 2048];
const DISTRIBUTIONS: [Distribution; 2] = [Distribution::UNIFORM, Distribution::NORMAL];

/// Runs the study: the error of accumulation alone for each interval.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::promotion(&Settings::quick())?;
/// let bias = |policy| {
///     outcome.tables[0].figure(&[("distribution", "uniform(0, 1)"), ("policy", policy)], "bias")
/// };
/// assert!(bias("chain")? < 100.0 * bias("promote128")?); // both negative
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn promotion(settings: &Settings) -> Result<Outcome, StudyError> {
    let shape = Shape::square(settings.size(96, 192), 4096);
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("sizes", shape);
    outcome.parameter("quantisation", TENSOR);

    let mut table = sweep::table("intervals", "Error of accumulation by promotion interval");
    for (step, distribution) in DISTRIBUTIONS.into_iter().enumerate() {
        settings.progress(step, DISTRIBUTIONS.len());
        let product = Product::sample(distribution, TENSOR, shape, settings.seed)?;
        for policy in INTERVALS.map(|every| Policy::Promote { every }).into_iter().chain([Policy::Chain]) {
            sweep::push(&mut table, distribution, &product, policy)?;
        }
    }

    let figure = |distribution: Distribution, policy: &str, column: &str| {
        table.figure(&[("distribution", &distribution.to_string()), ("policy", policy)], column)
    };
    let bias = |policy: &str| figure(Distribution::UNIFORM, policy, "bias");
    let frobenius = |policy: &str| figure(Distribution::NORMAL, policy, "relative Frobenius");
    let doublings = INTERVALS.windows(2).map(|pair| {
        let [short, long] = [pair[0], pair[1]].map(|every| bias(&Policy::Promote { every }.to_string()));
        Ok(long? / short?)
    });
    let doublings = doublings.collect::<Result<Vec<f64>, StudyError>>()?;
    let least = doublings.iter().copied().fold(f64::INFINITY, f64::min);
    let most = doublings.iter().copied().fold(0.0, f64::max);
    let (at_32, at_128, none) = (bias("promote32")?, bias("promote128")?, bias("chain")?);
    outcome.finding(format!(
        "On positive data, U(0,1), the result is too small by {:.3} % with promotion every 128, by {:.1} % without; \
         each doubling of the interval multiplies the bias by {least:.1} to {most:.1}. On zero-mean data, N(0,1), there \
         is no bias to speak of, and the error grows more slowly: relative Frobenius {:.4} % at 128, {:.3} % without \
         promotion.",
        -at_128,
        -none,
        frobenius("promote128")?,
        frobenius("chain")?,
    ));
    outcome.finding(format!(
        "128 is not a threshold of the arithmetic: an interval of 32, one instruction, has a bias of {at_32:.4} %, \
         {:.0} times less. It is a compromise with the cost of promotion, and the size of a scale block.",
        at_128 / at_32
    ));
    outcome.published.push(Published {
        quantity: "Promotion interval that a GEMM should have".to_owned(),
        published: "N_C = 128 (four WGMMAs): the smallest that much improves precision without substantial overhead"
            .to_owned(),
        source: "DeepSeek-V3 Technical Report, arXiv 2412.19437, section 3.3.2".to_owned(),
        ours: format!("bias on U(0,1): {at_128:.3} % at 128, {:.2} % at 256, {none:.2} % without", bias("promote256")?),
        comparable: Comparable::No,
        note: "The paper gives no error for any interval; the time that promotion takes is not seen on a CPU."
            .to_owned(),
    });
    for (name, title, column) in [
        ("bias", "Bias by promotion interval, K = 4096", "bias"),
        ("frobenius", "Relative Frobenius error by promotion interval, K = 4096", "relative Frobenius"),
    ] {
        let figure = Figure::lines(name, title, "intervals").x("interval", Scale::Log2).y([column], Scale::Log10);
        outcome.figures.push(figure.by("distribution"));
    }
    outcome.tables.push(table);
    Ok(outcome)
}
