//! MX scales: rounding the shared exponent down (OCP floor), up (RCEIL), or otherwise.

use fp8gemm_formats::quantize::{Applied, Quantizer, Recipe};
use fp8gemm_formats::{Fp8Format, Overflow, Rounding};
use fp8gemm_problem::OperandType;
use fp8gemm_sim::metrics::Metrics;
use fp8gemm_sim::reference;

use super::elements::{Elements, block_maxima};
use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Product, Published, Scale, Settings, Shape, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "mx-rounding",
    title: "Rounding of MX scales: floor against ceil",
    question: "Which MX scale rule clips, how much, and what does it do to elements and products?",
    takes: "512 x 2048 elements in 1x32 blocks and products of 64 x 64 x 2048 for five distributions; every largest \
            element of a binade in 64 steps; four rules, E4M3 (elements also E5M2)",
    run: mx_rounding,
};

const DISTRIBUTIONS: [Distribution; 5] = [
    Distribution::NORMAL,
    Distribution::Laplace { scale: 1.0 },
    Distribution::StudentT { degrees: 3 },
    Distribution::UNIFORM,
    Distribution::LogNormal { mu: 0.0, sigma: 1.0 },
];

const RULES: [(&str, Recipe); 4] = [
    ("floor", Recipe::TorchaoMxFloor),
    ("even", Recipe::TorchaoMxEven),
    ("rceil", Recipe::TorchaoMxRceil),
    ("ceil", Recipe::TorchaoMxCeil),
];

/// Runs the study: four rules on the same elements.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::mx_rounding(&Settings::quick())?;
/// let bias = |rule| outcome.tables[1].figure(&[("distribution", "uniform(0, 1)"), ("rule", rule)], "bias");
/// assert!(bias("floor")? < -3.0 && bias("rceil")?.abs() < 0.05); // %
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn mx_rounding(settings: &Settings) -> Result<Outcome, StudyError> {
    let (rows, k) = settings.size((128, 1024), (512, 2048));
    let shape = Shape::square(settings.size(32, 64), k);
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("elements", format!("{rows} x {k}, in blocks of 1x32"));
    outcome.parameter("products", format!("{shape}, A and B alike, exact, so that quantisation is the only error"));
    outcome.parameter("rules", RULES.map(|(rule, recipe)| format!("{rule}: {recipe}")).join(", "));

    let elements = Table::new("elements", "Errors of elements by scale rule")
        .text("distribution", "of the elements")
        .text("format", "of the codes")
        .text("rule", "how the shared exponent is rounded")
        .count("blocks", "how many")
        .count("clipped blocks", "whose largest element exceeds the largest code times the scale")
        .count("above", "elements larger than the largest code times the scale");
    let mut elements = Elements::columns(elements)
        .float("clipped", "%", "share of the blocks that are clipped")
        .float("worst", "", "largest magnitude over the scale: what is cast to at most 448 (57344)")
        .float("max relative", "%", "max |e/x| over elements with a normal code")
        .float("shrinkage", "%", "sum (|y| - |x|) / sum |x|: how far magnitudes are off on the whole");
    let mut products = Table::new("products", "Errors of products by scale rule, E4M3")
        .text("distribution", "of the elements of A and B")
        .text("rule", "how the shared exponent is rounded")
        .float("SNR", "dB", "exact product of the quantised operands against that of the originals")
        .float("bias", "%", "sum of errors over sum of magnitudes");
    for (step, distribution) in DISTRIBUTIONS.into_iter().enumerate() {
        settings.progress(step, DISTRIBUTIONS.len());
        let x = distribution.sample(settings.seed, "a", (rows, k))?;
        for ty in OperandType::ALL {
            for (rule, recipe) in RULES {
                let quantized = Quantizer::new(recipe).with_ty(ty).quantize(x.view())?;
                let errors = Elements::new(x.view(), &quantized)?;
                let largest = f64::from(Fp8Format::from(ty).max_finite());
                // Exact: scales are powers of two.
                let maxima = block_maxima(x.view(), &quantized);
                let scales = quantized.scales();
                let scaled = maxima.iter().zip(&scales).map(|(&x, &scale)| f64::from(x) / f64::from(scale));
                let scaled: Vec<f64> = scaled.collect();
                let clipped = scaled.iter().filter(|&&x| x > largest).count();
                let text = [distribution.to_string(), ty.to_string(), rule.to_owned()].map(Cell::from);
                let counts = [scaled.len(), clipped, errors.above].map(Cell::from);
                let figures = [
                    clipped as f64 / scaled.len() as f64 * 100.0,
                    scaled.iter().copied().fold(0.0, f64::max),
                    errors.max_relative * 100.0,
                    errors.shrinkage * 100.0,
                ];
                let figures = figures.map(Cell::from);
                elements.push(text.into_iter().chain(counts).chain(errors.cells()).chain(figures))?;
            }
        }
        let a = distribution.sample(settings.seed, "a", (shape.m, k))?;
        let b = distribution.sample(settings.seed, "b", (shape.n, k))?;
        let original = reference::exact_f32(a.view(), b.view())?;
        for (rule, recipe) in RULES {
            let quantizer = Quantizer::new(recipe);
            let product = Product::new(quantizer.quantize(a.view())?, quantizer.quantize(b.view())?)?;
            let metrics = Metrics::new(original.view(), product.exact.view())?;
            let text = [distribution.to_string(), rule.to_owned()].map(Cell::from);
            products.push(text.into_iter().chain([metrics.snr_db, metrics.bias * 100.0].map(Cell::from)))?;
        }
    }
    let binade = binade()?;

    let normal = |rule: &str, column: &str| {
        let name = Distribution::NORMAL.to_string();
        elements.figure(&[("distribution", &name), ("format", "e4m3"), ("rule", rule)], column)
    };
    let product = |distribution: Distribution, rule: &str, column: &str| {
        products.figure(&[("distribution", &distribution.to_string()), ("rule", rule)], column)
    };
    let (uniform, most) = (Distribution::UNIFORM, binade.figure(&[("rule", "floor"), ("step", "63")], "error")?);
    let cast = binade.figure(&[("rule", "floor"), ("step", "63")], "scaled")?;
    outcome.finding(format!(
        "The OCP floor rule clips every block whose largest element lies in the upper quarter of a binade (above 1.75 times \
         a power of two): {:.1} % of the blocks on N(0,1). What is cast goes up to 512 (in 64 steps of the binade: \
         {cast:.0}), the largest code is 448: an error of {most:.1} % for the largest element, up to 12.5 %, where rounding \
         makes 5.9 % at most. Rceil and ceil never clip.",
        normal("floor", "clipped")?,
    ));
    outcome.finding(format!(
        "Clipping always makes smaller. On N(0,1) magnitudes shrink by {:.3} % on the whole under floor, by {:.4} % under \
         rceil. In products of U(0,1) data, where the largest of 32 elements is nearly always close to 1, it is a bias \
         of {:.2} % under floor, {:.4} % under rceil; on zero-mean data no bias is left, and the SNR is {:.2} against {:.2} dB.",
        -normal("floor", "shrinkage")?,
        -normal("rceil", "shrinkage")?,
        product(uniform, "floor", "bias")?,
        product(uniform, "rceil", "bias")?,
        product(Distribution::NORMAL, "floor", "SNR")?,
        product(Distribution::NORMAL, "rceil", "SNR")?,
    ));
    outcome.finding(format!(
        "Even goes up where half a unit of the fraction would carry (from 1.9375 on), so it clips less ({:.1} % of the \
         blocks) but not never. Ceil goes up from any largest element that is no power of two, also where 448 was \
         enough: it leaves up to a binade unused more often than rceil, and gains nothing for it.",
        normal("even", "clipped")?,
    ));
    outcome.published.push(Published {
        quantity: "Floor against round-up of MX scales".to_owned(),
        published: "the rounding of OCP MX can lead to divergence in pre-training; rounded up, an 8B model on 15T tokens matches BF16".to_owned(),
        source: "Recipes for Pre-training LLMs with MXFP8, arXiv 2506.08027, abstracts of versions 1 and 2".to_owned(),
        ours: format!(
            "blocks clipped on N(0,1): {:.1} % under floor, {:.1} % under rceil",
            normal("floor", "clipped")?,
            normal("rceil", "clipped")?
        ),
        comparable: Comparable::No,
        note: "The paper shows losses; the errors of elements behind them are what is computed here.".to_owned(),
    });
    outcome.published.push(Published {
        quantity: "The code of a block's largest element 1.76 under floor".to_owned(),
        published: "clips: 1.76 / 2^-8 = 450.6 is beyond 448".to_owned(),
        source: "OCP Microscaling Formats 1.0, section 6.3 (the rule; the example is arithmetic)".to_owned(),
        ours: format!("1.76 is cast from {:.1}", cast_value(Recipe::TorchaoMxFloor, 1.76)),
        comparable: Comparable::Yes,
        note: String::new(),
    });
    outcome.figures.push(
        Figure::lines("binade", "Error of a block's largest element, by its place in the binade", "binade")
            .x("largest", Scale::Linear)
            .y(["error"], Scale::Linear)
            .by("rule"),
    );
    for (name, title, column) in
        [("clipped", "Blocks clipped, E4M3", "clipped"), ("shrinkage", "How far magnitudes are off, E4M3", "shrinkage")]
    {
        let figure = Figure::bars(name, title, "elements").x("distribution", Scale::Linear).y([column], Scale::Linear);
        outcome.figures.push(figure.by("rule").only("format", "e4m3"));
    }
    outcome.figures.push(
        Figure::bars("products", "Bias of products, E4M3", "products")
            .x("distribution", Scale::Linear)
            .y(["bias"], Scale::Linear)
            .by("rule"),
    );
    outcome.tables.extend([elements, products, binade]);
    Ok(outcome)
}

/// What the rule casts for the largest element of a block.
fn cast_value(recipe: Recipe, largest: f32) -> f32 {
    match recipe.block_scale::<f32>(OperandType::E4m3, largest).applied {
        Applied::MultiplyBy(factor) => largest * factor,
        Applied::DivideBy(divisor) => largest / divisor,
    }
}

/// A block's largest element, in 64 steps from 1 to 2.
fn binade() -> Result<Table, StudyError> {
    let format = Fp8Format::E4m3;
    let mut table = Table::new("binade", "The largest element of a block in E4M3, by scale rule")
        .text("rule", "how the shared exponent is rounded")
        .count("step", "n: the element is 1 + n / 64")
        .float("largest", "", "1 + n / 64")
        .bits("scale", "the scale, as f32")
        .bits("code", "of the element")
        .float("scaled", "", "the element over the scale")
        .float("error", "%", "of code times scale against the element");
    for (rule, recipe) in RULES {
        for step in 0..64u8 {
            let largest = 1.0 + f32::from(step) / 64.0;
            let stored = recipe.block_scale::<f32>(OperandType::E4m3, largest).stored;
            let scaled = cast_value(recipe, largest);
            let code = format.encode(scaled, Rounding::NearestEven, Overflow::Saturate);
            let error = f64::from(format.decode(code) * stored) / f64::from(largest) - 1.0;
            table.push([
                Cell::from(rule),
                Cell::from(usize::from(step)),
                Cell::from(f64::from(largest)),
                Cell::from(stored),
                Cell::bits(u64::from(code), 2),
                Cell::from(f64::from(scaled)),
                Cell::from(error * 100.0),
            ])?;
        }
    }
    Ok(table)
}
