//! The quantisation recipes of the libraries, compared bit by bit on the same tensors.

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_formats::quantize::{Quantizer, Recipe};
use fp8gemm_problem::{OperandType, OutputType, ScaleLayout};
use fp8gemm_sim::metrics::Metrics;
use fp8gemm_sim::{Gemm, reference};
use half::bf16;
use ndarray::Array2;

use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Published, Scale, Settings, Shape, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "recipes",
    title: "Quantisation recipes, bit by bit",
    question: "In how many scales and codes do the libraries differ on the same tensor, and in how many outputs?",
    takes: "512 x 2048 bf16 elements from N(0,1) and from N(0, 1e-5), every recipe in every layout that it has; a product \
            of 128 x 128 x 2048",
    run: recipes,
};

/// Ordinary data, and data so small that the floors under the largest magnitude count.
const DISTRIBUTIONS: [Distribution; 2] = [Distribution::NORMAL, Distribution::Normal { mean: 0.0, std: 1e-5 }];

const LAYOUTS: [ScaleLayout; 5] =
    [ScaleLayout::Tensor, ScaleLayout::Row, ScaleLayout::Block128x128, ScaleLayout::Block1x128, ScaleLayout::Block1x32];

/// What the others are held against.
const REFERENCE: Recipe = Recipe::DeepGemmCpu;

/// Recipes of the reference notes that are held against it, and the share of codes that differ there.
const NOTES: [(Recipe, &str); 3] =
    [(Recipe::TeBlockF32, "2.1e-4"), (Recipe::VllmGroup, "5.2e-4"), (Recipe::DeepGemm, "1.8e-3")];

/// Whether all scales of a recipe are powers of two: 3/448 is none.
fn kind(recipe: Recipe) -> &'static str {
    let scale = recipe.block_scale::<bf16>(OperandType::E4m3, 3.0).stored;
    if scale.to_bits().trailing_zeros() >= 23 { "power of two" } else { "f32" }
}

/// How two quantised matrices of one layout differ.
struct Difference {
    scales: usize,
    codes: usize,
    /// Codes between the two at most; signs are the same.
    steps: usize,
}

fn difference(x: &ScaledMatrix, y: &ScaledMatrix) -> Difference {
    let scales = x.scales().iter().zip(&y.scales()).filter(|(x, y)| x.to_bits() != y.to_bits()).count();
    let distances = x.codes().iter().zip(&y.codes()).map(|(x, y)| usize::from(x.abs_diff(*y))).collect::<Vec<_>>();
    Difference {
        scales,
        codes: distances.iter().filter(|&&distance| distance != 0).count(),
        steps: distances.into_iter().max().unwrap_or(0),
    }
}

/// Runs the study: all pairs of recipes that have the same layout and kind of scale.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::recipes(&Settings::quick())?;
/// let share = |recipe| outcome.tables[0].figure(&[("recipe", recipe)], "codes share");
/// // Two kinds of scale; two orders of one division and one multiplication.
/// assert!(share("deepgemm-ue8m0")? > 90.0 && share("deepgemm")? < 1.0); // %
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn recipes(settings: &Settings) -> Result<Outcome, StudyError> {
    let (rows, k) = settings.size((128, 1024), (512, 2048));
    let shape = Shape::square(settings.size(64, 128), k);
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("elements", format!("{rows} x {k}, rounded to bf16, to E4M3"));
    outcome.parameter("product", format!("{shape}: A by each recipe in 1x128, B by {REFERENCE}:128x128, promote128"));
    outcome.parameter(
        "pairs",
        "of recipes whose scales are of one kind; f32 and power-of-two scales differ nearly everywhere",
    );

    let mut pairs = Table::new("pairs", "Recipes against each other on the same tensor")
        .text("distribution", "of the elements")
        .text("layout", "which elements share a scale")
        .text("scales", "kind of scale")
        .text("recipe", "one")
        .text("other", "the other")
        .count("scales in all", "how many")
        .count("scales differ", "of those")
        .count("elements", "how many")
        .count("codes differ", "of those")
        .count("steps", "codes between the two at most")
        .float("share", "%", "codes that differ");
    let mut same = Vec::new();
    for (step, distribution) in DISTRIBUTIONS.into_iter().enumerate() {
        let x = distribution.sample(settings.seed, "a", (rows, k))?.mapv(bf16::from_f32);
        for (substep, layout) in LAYOUTS.into_iter().enumerate() {
            settings.progress(step * LAYOUTS.len() + substep, DISTRIBUTIONS.len() * LAYOUTS.len());
            let able = Recipe::ALL.into_iter().filter(|recipe| recipe.layouts().contains(&layout));
            let quantized =
                able.map(|recipe| Ok((recipe, Quantizer::new(recipe).with_layout(layout).quantize(x.view())?)));
            let quantized = quantized.collect::<Result<Vec<_>, StudyError>>()?;
            for (index, (recipe, first)) in quantized.iter().enumerate() {
                for (other, second) in &quantized[index + 1..] {
                    if kind(*recipe) != kind(*other) {
                        continue;
                    }
                    let found = difference(first, second);
                    if step == 0 && found.scales + found.codes == 0 {
                        same.push((layout, *recipe, *other));
                    } else if found.scales + found.codes > 0 {
                        same.retain(|pair| *pair != (layout, *recipe, *other));
                    }
                    let text =
                        [&distribution.to_string(), &layout.to_string(), kind(*recipe), recipe.name(), other.name()];
                    let counts = [first.scales().len(), found.scales, x.len(), found.codes, found.steps];
                    let share = found.codes as f64 / x.len() as f64 * 100.0;
                    pairs.push(text.map(Cell::from).into_iter().chain(counts.map(Cell::from)).chain([share.into()]))?;
                }
            }
        }
    }
    let outputs = outputs(settings, shape)?;

    let pair = |layout: ScaleLayout, recipe: Recipe, other: Recipe, distribution: Distribution, column: &str| {
        let labels = |recipe: Recipe, other: Recipe| {
            [
                ("distribution", distribution.to_string()),
                ("layout", layout.to_string()),
                ("recipe", recipe.to_string()),
                ("other", other.to_string()),
            ]
        };
        let figure = |labels: [(&str, String); 4]| {
            let labels: Vec<(&str, &str)> = labels.iter().map(|(name, text)| (*name, &**text)).collect();
            pairs.figure(&labels, column)
        };
        figure(labels(recipe, other)).or_else(|_| figure(labels(other, recipe)))
    };
    let block = ScaleLayout::Block1x128;
    let mut shares = Vec::new();
    for (recipe, _) in NOTES {
        shares.push(pair(block, REFERENCE, recipe, Distribution::NORMAL, "share")? / 100.0);
    }
    let output = |recipe: Recipe, column: &str| outputs.figure(&[("recipe", recipe.name())], column);
    outcome.finding(format!(
        "With 1x128 f32 scales, {:.1e} to {:.1e} of the codes on N(0,1) differ from {REFERENCE}'s where only the order \
         of one division and one multiplication is another ({}). They are {:.0} step apart: elements next to a tie. It is \
         nothing to accuracy and everything to a test for equal bits.",
        shares.iter().copied().fold(f64::INFINITY, f64::min),
        shares.iter().copied().fold(0.0, f64::max),
        NOTES.map(|(recipe, _)| recipe.name()).join(", "),
        pair(block, REFERENCE, Recipe::DeepGemm, Distribution::NORMAL, "steps")?,
    ));
    outcome.finding(format!(
        "In a product such differences reach more outputs than codes, since each output sums {k} of them: of {} outputs in \
         bf16 {} differ from {REFERENCE}'s with {}, {} with {}. In f32 {} and {} do, since the scales differ too in their \
         last bit. The SNR is {:.2} dB with {REFERENCE}, {:.2} and {:.2} dB with the two.",
        output(REFERENCE, "outputs")?,
        output(Recipe::TeBlockF32, "bf16 differ")?,
        Recipe::TeBlockF32,
        output(Recipe::DeepGemm, "bf16 differ")?,
        Recipe::DeepGemm,
        output(Recipe::TeBlockF32, "f32 differ")?,
        output(Recipe::DeepGemm, "f32 differ")?,
        output(REFERENCE, "SNR")?,
        output(Recipe::TeBlockF32, "SNR")?,
        output(Recipe::DeepGemm, "SNR")?,
    ));
    let small = DISTRIBUTIONS[1];
    outcome.finding(format!(
        "On small data the floors decide: DeepGEMM takes a largest magnitude below 1e-4 for 1e-4, so on {small} {:.0} % \
         of its codes differ from TransformerEngine's ({}, 1x128, up to {:.0} steps), and vLLM's floor of 1e-10 does \
         nothing: {} differs from TransformerEngine's in {:.2} %.",
        pair(block, REFERENCE, Recipe::TeBlockF32, small, "share")?,
        Recipe::TeBlockF32,
        pair(block, REFERENCE, Recipe::TeBlockF32, small, "steps")?,
        Recipe::VllmGroup,
        pair(block, Recipe::VllmGroup, Recipe::TeBlockF32, small, "share")?,
    ));
    outcome.finding(format!(
        "Equal in every scale and code on both tensors: {}. With one scale for a tensor this may be chance.",
        classes(&same)
    ));
    for ((recipe, published), share) in NOTES.into_iter().zip(&shares) {
        outcome.published.push(Published {
            quantity: format!("Codes of {recipe} that are not those of {REFERENCE}, bf16 N(0,1), 1x128"),
            published: published.to_owned(),
            source: "this project's reference notes, section on scale rules: another program".to_owned(),
            ours: format!("{share:.1e}"),
            comparable: Comparable::Yes,
            note: "Other samples; the number of elements is not noted.".to_owned(),
        });
    }
    outcome.figures.push(
        Figure::bars("differ", &format!("Differences from {REFERENCE}, 1x128 f32 scales, N(0,1)"), "outputs")
            .x("recipe", Scale::Linear)
            .y(["codes share", "bf16 share", "f32 share"], Scale::Log10)
            .y_label("share that differs [%]")
            .only("scales", "f32"),
    );
    outcome.tables.extend([outputs, pairs]);
    Ok(outcome)
}

/// Pairs of equals as classes: `layout: recipe = recipe = recipe`.
fn classes(same: &[(ScaleLayout, Recipe, Recipe)]) -> String {
    let mut classes: Vec<(ScaleLayout, Vec<Recipe>)> = Vec::new();
    for &(layout, recipe, other) in same {
        // A class is found with its first recipe's pairs, so later pairs within it add nothing.
        match classes.iter_mut().find(|(of, class)| *of == layout && class.contains(&recipe)) {
            Some((_, class)) if class.contains(&other) => {}
            Some((_, class)) => class.push(other),
            None => classes.push((layout, vec![recipe, other])),
        }
    }
    let text = classes.iter().map(|(layout, class)| {
        let names: Vec<&str> = class.iter().map(|recipe| recipe.name()).collect();
        format!("{layout}: {}", names.join(" = "))
    });
    if classes.is_empty() { "none".to_owned() } else { text.collect::<Vec<_>>().join("; ") }
}

/// One product, A by each recipe with 1x128 scales: what differs from the reference's.
fn outputs(settings: &Settings, shape: Shape) -> Result<Table, StudyError> {
    let layout = ScaleLayout::Block1x128;
    let sample = |role, rows| {
        Ok::<_, StudyError>(Distribution::NORMAL.sample(settings.seed, role, (rows, shape.k))?.mapv(bf16::from_f32))
    };
    let (a, b) = (sample("a", shape.m)?, sample("b", shape.n)?);
    let original = reference::exact_f32(a.mapv(bf16::to_f32).view(), b.mapv(bf16::to_f32).view())?;
    let b = Quantizer::new(REFERENCE).with_layout(ScaleLayout::Block128x128).quantize(b.view())?;
    let run = |a: &ScaledMatrix, output| {
        Ok::<Array2<f32>, StudyError>(Gemm::new(a.view(), b.view()).output(output).run()?.to_f32())
    };
    let reference_a = Quantizer::new(REFERENCE).with_layout(layout).quantize(a.view())?;
    let (expected_bf16, expected_f32) = (run(&reference_a, OutputType::Bf16)?, run(&reference_a, OutputType::F32)?);
    let differ = |x: &Array2<f32>, y: &Array2<f32>| x.iter().zip(y).filter(|(x, y)| x.to_bits() != y.to_bits()).count();

    let mut table =
        Table::new("outputs", format!("One product, A by each recipe with 1x128 scales, against {REFERENCE}"))
            .text("recipe", "of A")
            .text("scales", "kind of scale")
            .count("codes differ", "of A")
            .count("outputs", "how many")
            .count("bf16 differ", "outputs whose bf16 bits differ")
            .count("f32 differ", "outputs whose f32 bits differ")
            .bits("fingerprint", "of the f32 outputs")
            .float("codes share", "%", "codes of A that differ")
            .float("bf16 share", "%", "outputs whose bf16 bits differ")
            .float("f32 share", "%", "outputs whose f32 bits differ")
            .float("SNR", "dB", "f32 outputs against the exact product of the originals");
    for recipe in Recipe::ALL.into_iter().filter(|recipe| recipe.layouts().contains(&layout)) {
        let quantized = Quantizer::new(recipe).with_layout(layout).quantize(a.view())?;
        let codes = difference(&quantized, &reference_a).codes;
        let found = run(&quantized, OutputType::F32)?;
        let (in_bf16, in_f32) =
            (differ(&run(&quantized, OutputType::Bf16)?, &expected_bf16), differ(&found, &expected_f32));
        let share = |count: usize, total: usize| count as f64 / total as f64 * 100.0;
        let text = [recipe.name(), kind(recipe)].map(Cell::from);
        let counts = [codes, found.len(), in_bf16, in_f32].map(Cell::from);
        let shares = [share(codes, a.len()), share(in_bf16, found.len()), share(in_f32, found.len())].map(Cell::from);
        let snr = Metrics::new(original.view(), found.view())?.snr_db;
        table.push(
            text.into_iter().chain(counts).chain([Cell::fingerprint(&found)]).chain(shares).chain([snr.into()]),
        )?;
    }
    Ok(table)
}
