//! Delayed against current scaling where the largest magnitude drifts, jumps or spikes.

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_formats::quantize::{AmaxAlgorithm, DelayedScaling, Quantizer, Recipe};
use fp8gemm_problem::OperandType;
use ndarray::{ArrayView2, Axis};

use super::elements::Elements;
use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Published, Scale, Settings, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "delayed-scaling",
    title: "Delayed against current scaling",
    question: "What does a scale from earlier steps cost where the largest magnitude drifts, jumps or spikes?",
    takes: "256 steps of 4096 elements for six courses of the magnitude; current scaling, and delayed scaling with five \
            histories",
    run: delayed,
};

/// A course of the magnitude: its name, what it is, and the factor at time 0 to 1.
type Course = (&'static str, fn(f64, usize) -> f64);

/// `2^4` over the run, or a factor of 16 at a time; spikes are every 64th step.
const COURSES: [Course; 6] = [
    ("steady", |_, _| 1.0),
    ("growth", |time, _| libm::exp2(4.0 * time)),
    ("decay", |time, _| libm::exp2(-4.0 * time)),
    ("pulse", |time, _| if (0.25..0.5).contains(&time) { 16.0 } else { 1.0 }),
    ("fast growth", |time, _| libm::exp2(32.0 * time)),
    ("spikes", |_, step| if step % 64 == 32 { 16.0 } else { 1.0 }),
];

/// How the scale is found.
#[derive(Clone, Copy)]
enum Scaling {
    /// From the tensor itself.
    Current,
    /// From the history: its length, margin and algorithm.
    Delayed(usize, i32, AmaxAlgorithm),
}

const SCALINGS: [Scaling; 6] = [
    Scaling::Current,
    Scaling::Delayed(1024, 0, AmaxAlgorithm::Max),
    Scaling::Delayed(16, 0, AmaxAlgorithm::Max),
    Scaling::Delayed(1024, 0, AmaxAlgorithm::MostRecent),
    Scaling::Delayed(16, 1, AmaxAlgorithm::Max),
    Scaling::Delayed(16, 4, AmaxAlgorithm::Max),
];

impl Scaling {
    fn name(self) -> String {
        match self {
            Self::Current => "current".to_owned(),
            Self::Delayed(_, 0, AmaxAlgorithm::MostRecent) => "most_recent".to_owned(),
            Self::Delayed(length, 0, algorithm) => format!("{algorithm} {length}"),
            Self::Delayed(length, margin, algorithm) => format!("{algorithm} {length}, margin {margin}"),
        }
    }

    /// Quantises all steps (rows) in order. Delayed scaling sees the first step once before, so that
    /// its first factor is not the 1 of an empty history.
    fn run(self, x: ArrayView2<'_, f32>) -> Result<Vec<ScaledMatrix>, StudyError> {
        let steps = x.axis_chunks_iter(Axis(0), 1);
        match self {
            Self::Current => steps.map(|step| Ok(Quantizer::new(Recipe::TeCurrent).quantize(step)?)).collect(),
            Self::Delayed(length, margin, algorithm) => {
                let mut scaling = DelayedScaling::new(OperandType::E4m3, length, margin, algorithm)?;
                for step in steps.clone().take(1) {
                    scaling.quantize(step)?;
                    scaling.update();
                }
                let quantize = |step| {
                    let quantized = scaling.quantize(step)?;
                    scaling.update();
                    Ok(quantized)
                };
                steps.map(quantize).collect()
            }
        }
    }
}

/// Runs the study: every course under every scaling, one update a step.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::delayed(&Settings::quick())?;
/// let saturated = |scaling| outcome.tables[0].figure(&[("course", "growth"), ("scaling", scaling)], "saturated");
/// assert!(saturated("current")? == 0.0 && saturated("max 1024")? > 0.0);
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn delayed(settings: &Settings) -> Result<Outcome, StudyError> {
    let (steps, width) = settings.size((128, 512), (256, 4096));
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("steps", format!("{steps}, N(0,1) times the course, {width} elements each"));
    outcome.parameter("quantisation", "E4M3, one scale a step: te-current, or TransformerEngine's delayed scaling");
    outcome.parameter(
        "courses",
        "growth and decay: 16 times over the run; fast growth: 2^32 times; pulse: 16 times larger in \
                                  the second quarter; spikes: 16 times larger in one step of 64",
    );

    let summary = Table::new("summary", "Errors over all steps")
        .text("course", "of the magnitude")
        .text("scaling", "current, or the algorithm and length of the history")
        .count("steps", "how many")
        .count("steps saturated", "with at least one element beyond the largest code")
        .bits("fingerprint", "of the scales of all steps");
    let mut summary = summary
        .count("elements", "how many")
        .count("saturated", "elements that would round to more than the largest code")
        .count("zero", "elements other than 0 whose code is 0")
        .count("subnormal", "elements whose code is subnormal")
        .float("unused", "binades", "mean over the steps of log2(448 scale / largest), negative where it saturates")
        .float("mean SNR", "dB", "mean over the steps")
        .float("worst SNR", "dB", "of a step");
    let mut series = Table::new("pulse", "The pulse, step by step")
        .text("scaling", "current, or the algorithm and length of the history")
        .count("step", "from 0")
        .bits("scale", "as f32")
        .count("saturated", "elements")
        .float("unused", "binades", "log2(448 scale / largest), negative where it saturates")
        .float("SNR", "dB", "of the step");
    let base = Distribution::NORMAL.sample(settings.seed, "a", (steps, width))?;
    for (index, (course, factor)) in COURSES.into_iter().enumerate() {
        settings.progress(index, COURSES.len());
        let mut x = base.clone();
        for (step, mut row) in x.rows_mut().into_iter().enumerate() {
            let factor = factor(step as f64 / steps as f64, step) as f32;
            row.iter_mut().for_each(|x| *x *= factor);
        }
        for scaling in SCALINGS {
            let name = scaling.name();
            let mut scales = Vec::new();
            let (mut steps_saturated, mut saturated, mut zero, mut subnormal) = (0usize, 0usize, 0usize, 0usize);
            let (mut unused, mut snr, mut worst) = (0.0, 0.0, f64::INFINITY);
            for (step, (x, quantized)) in x.axis_chunks_iter(Axis(0), 1).zip(scaling.run(x.view())?).enumerate() {
                let errors = Elements::new(x, &quantized)?;
                let scale = quantized.scales()[(0, 0)];
                let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let room = libm::log2(448.0 * f64::from(scale) / f64::from(largest));
                scales.push(scale);
                steps_saturated += usize::from(errors.saturated > 0);
                saturated += errors.saturated;
                zero += errors.zero;
                subnormal += errors.subnormal;
                unused += room;
                snr += errors.snr_db;
                worst = worst.min(errors.snr_db);
                if course == "pulse" && step % (steps / 64) == 0 {
                    let exact = [Cell::from(name.clone()), Cell::from(step), Cell::from(scale)];
                    let figures = [Cell::from(errors.saturated), Cell::from(room), Cell::from(errors.snr_db)];
                    series.push(exact.into_iter().chain(figures))?;
                }
            }
            let text = [course.to_owned(), name].map(Cell::from);
            let counts = [x.len(), saturated, zero, subnormal].map(Cell::from);
            let figures = [unused / steps as f64, snr / steps as f64, worst].map(Cell::from);
            let first = [Cell::from(steps), Cell::from(steps_saturated), Cell::fingerprint(&scales)];
            summary.push(text.into_iter().chain(first).chain(counts).chain(figures))?;
        }
    }

    let figure = |course: &str, scaling: Scaling, column: &str| {
        summary.figure(&[("course", course), ("scaling", &scaling.name())], column)
    };
    let [current, long, short, recent, margin, wide] = SCALINGS;
    outcome.finding(format!(
        "On steady data delayed scaling costs little: mean SNR {:.1} dB (current), {:.1} dB ({}), \
         {:.1} dB ({}). {} saturates in {} of {} steps, since every step has another largest element; the longest \
         history in {}.",
        figure("steady", current, "mean SNR")?,
        figure("steady", long, "mean SNR")?,
        long.name(),
        figure("steady", recent, "mean SNR")?,
        recent.name(),
        recent.name(),
        figure("steady", recent, "steps saturated")?,
        steps,
        figure("steady", long, "steps saturated")?,
    ));
    let jump = [long, short, recent].map(|scaling| figure("pulse", scaling, "worst SNR"));
    let jump = jump.into_iter().collect::<Result<Vec<f64>, StudyError>>()?;
    outcome.finding(format!(
        "A jump up is what hurts: in the first step of the pulse every delayed scale is 16 times too small. {} elements \
         saturate over the run with {}, and the worst step has {:.1} to {:.1} dB with the three histories that have no \
         margin. Only a margin prepares for it, at the cost of range: with margin 4 the worst step has {:.1} dB, and \
         {:.1} binades are unused on average.",
        figure("pulse", short, "saturated")?,
        short.name(),
        jump.iter().copied().fold(f64::INFINITY, f64::min),
        jump.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        figure("pulse", wide, "worst SNR")?,
        figure("pulse", wide, "unused")?,
    ));
    outcome.finding(format!(
        "A jump down, or a spike, is remembered as long as the history: with {} the run of spikes leaves {:.1} binades \
         unused on average and {} elements become 0; with {} {:.1} and {}; with current scaling none and {}. E4M3 \
         has 15 binades of normal numbers, so the mean SNR hardly falls ({:.1} against {:.1} dB).",
        long.name(),
        figure("spikes", long, "unused")?,
        figure("spikes", long, "zero")?,
        short.name(),
        figure("spikes", short, "unused")?,
        figure("spikes", short, "zero")?,
        figure("spikes", current, "zero")?,
        figure("spikes", long, "mean SNR")?,
        figure("spikes", current, "mean SNR")?,
    ));
    outcome.finding(format!(
        "Slow drift needs no short history: growth of 16 times over {steps} steps saturates {:.4} % of the elements with \
         {}, {:.4} % with margin 1. Fast growth (2^32 over the run) saturates {:.3} % without margin, {:.3} % \
         with margin 1.",
        share(figure("growth", short, "saturated")?, figure("growth", short, "elements")?),
        short.name(),
        share(figure("growth", margin, "saturated")?, figure("growth", margin, "elements")?),
        share(figure("fast growth", short, "saturated")?, figure("fast growth", short, "elements")?),
        share(figure("fast growth", margin, "saturated")?, figure("fast growth", margin, "elements")?),
    ));
    outcome.published.push(Published {
        quantity: "History of delayed scaling".to_owned(),
        published: "1024 steps, the maximum, margin 0".to_owned(),
        source: "TransformerEngine, defaults of the recipe DelayedScaling".to_owned(),
        ours: format!(
            "steps saturated of {steps}, steady data: {} ({}), {} ({})",
            figure("steady", long, "steps saturated")?,
            long.name(),
            figure("steady", recent, "steps saturated")?,
            recent.name()
        ),
        comparable: Comparable::No,
        note: "A default; no error is published with it. The run is shorter than the history.".to_owned(),
    });
    outcome.published.push(Published {
        quantity: "Delayed against online scales".to_owned(),
        published: "scales are computed online for each tile instead of from a history".to_owned(),
        source: "DeepSeek-V3 Technical Report, arXiv 2412.19437, section 3.3.2".to_owned(),
        ours: format!(
            "worst step of a pulse {:.1} dB delayed, {:.1} dB current",
            figure("pulse", short, "worst SNR")?,
            figure("pulse", current, "worst SNR")?
        ),
        comparable: Comparable::No,
        note: "The paper gives the choice and its reasons (exact scales, a simpler framework), no error.".to_owned(),
    });
    for (name, title, column) in [
        ("unused", "Binades above the largest element, in the pulse", "unused"),
        ("snr", "SNR of each step, in the pulse", "SNR"),
    ] {
        let figure = Figure::lines(name, title, "pulse").x("step", Scale::Linear).y([column], Scale::Linear);
        outcome.figures.push(figure.by("scaling"));
    }
    outcome.figures.push(
        Figure::bars("worst", "Worst step by course", "summary")
            .x("course", Scale::Linear)
            .y(["worst SNR"], Scale::Linear)
            .by("scaling"),
    );
    outcome.tables.extend([summary, series]);
    Ok(outcome)
}

fn share(count: f64, total: f64) -> f64 {
    count / total * 100.0
}
