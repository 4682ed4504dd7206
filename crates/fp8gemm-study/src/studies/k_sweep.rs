//! The error of accumulation by the length of the sum.

use fp8gemm_problem::Policy;

use super::sweep::{self, TENSOR};
use crate::sample::Distribution;
use crate::{Comparable, Figure, Outcome, Product, Published, Scale, Settings, Shape, Study, StudyError};

pub(super) const STUDY: Study = Study {
    name: "k-sweep",
    title: "Error by the length of the sum",
    question: "How does the error grow with K, with promotion every 128 and without?",
    takes: "products of 128 x 128 with K from 128 to 16384, for U(0,1) and N(0,1); policies chain and promote128",
    run: k_sweep,
};

const DISTRIBUTIONS: [Distribution; 2] = [Distribution::UNIFORM, Distribution::NORMAL];

/// Runs the study: the error of accumulation alone for each K.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::k_sweep(&Settings::quick())?;
/// let rows = [("distribution", "uniform(0, 1)"), ("policy", "chain")];
/// let bias = |k| outcome.tables[0].figure(&[&[("K", k)], &rows[..]].concat(), "bias");
/// assert!(bias("8192")? < 1.5 * bias("4096")? && bias("4096")? < 1.5 * bias("2048")?); // all negative
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn k_sweep(settings: &Settings) -> Result<Outcome, StudyError> {
    let mn = settings.size(48, 128);
    let sizes: &[usize] = &[128, 256, 512, 1024, 2048, 4096, 8192, 16384];
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("M and N", mn);
    outcome.parameter("quantisation", TENSOR);

    let mut table = sweep::table("lengths", "Error of accumulation by K");
    for (step, distribution) in DISTRIBUTIONS.into_iter().enumerate() {
        for (substep, &k) in sizes.iter().enumerate() {
            settings.progress(step * sizes.len() + substep, DISTRIBUTIONS.len() * sizes.len());
            let product = Product::sample(distribution, TENSOR, Shape::square(mn, k), settings.seed)?;
            for policy in [Policy::PROMOTE_128, Policy::Chain] {
                sweep::push(&mut table, distribution, &product, policy)?;
            }
        }
    }

    let uniform = Distribution::UNIFORM.to_string();
    let bias =
        |policy: &str, k: &str| table.figure(&[("distribution", &uniform), ("policy", policy), ("K", k)], "bias");
    let none = [bias("chain", "1024")?, bias("chain", "4096")?, bias("chain", "16384")?];
    outcome.finding(format!(
        "Without promotion the bias on U(0,1) grows about as K: {:.2} % at 1024, {:.1} % at 4096, {:.0} % at 16384. \
         With promotion every 128 it is {:.3} % at any K: the f32 sum adds nothing that one would see.",
        none[0],
        none[1],
        none[2],
        bias("promote128", "16384")?,
    ));
    outcome.finding(
        "There is no K beyond which promotion begins to matter: the error is a smooth function of K, and what it \
         matters for is the data. See the studies of positive data and of the promotion interval.",
    );
    outcome.published.push(Published {
        quantity: "Growth with K".to_owned(),
        published: "the problem becomes more pronounced when the inner dimension K is large".to_owned(),
        source: "DeepSeek-V3 Technical Report, arXiv 2412.19437, section 3.3.2".to_owned(),
        ours: format!(
            "bias on U(0,1) without promotion: {:.2}, {:.1}, {:.0} % at K = 1024, 4096, 16384",
            none[0], none[1], none[2]
        ),
        comparable: Comparable::Partly,
        note: "The paper gives one figure, for K = 4096 (study `accumulation`).".to_owned(),
    });
    for (name, title, column) in
        [("bias", "Bias by K", "bias"), ("frobenius", "Relative Frobenius error by K", "relative Frobenius")]
    {
        let figure = Figure::lines(name, title, "lengths").x("K", Scale::Log2).y([column], Scale::Log10);
        outcome.figures.push(figure.by("distribution").by("policy"));
    }
    outcome.tables.push(table);
    Ok(outcome)
}
