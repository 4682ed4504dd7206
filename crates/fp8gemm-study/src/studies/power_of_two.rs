//! Power-of-two (UE8M0) against f32 scales: what they cost, and where nothing.

use fp8gemm_formats::quantize::{Quantizer, Recipe};
use fp8gemm_problem::ScaleLayout;
use fp8gemm_sim::metrics::Metrics;
use fp8gemm_sim::reference;

use super::elements::{Elements, block_maxima, partial_snr};
use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Product, Published, Scale, Settings, Shape, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "power-of-two",
    title: "Power-of-two against f32 scales",
    question: "What does rounding a scale up to a power of two cost, at each granularity?",
    takes: "a matrix of 512 x 2048 and a product of 64 x 128 x 2048 for four distributions and five layouts; one matrix \
            with its largest element moved through a binade",
    run: power_of_two,
};

const DISTRIBUTIONS: [Distribution; 4] = [
    Distribution::NORMAL,
    Distribution::Laplace { scale: 1.0 },
    Distribution::OutlierElements { share: 0.001, factor: 100.0 },
    Distribution::LogNormal { mu: 0.0, sigma: 2.0 },
];

/// A's layout and B's beside it.
const LAYOUTS: [(ScaleLayout, ScaleLayout); 5] = [
    (ScaleLayout::Tensor, ScaleLayout::Tensor),
    (ScaleLayout::Row, ScaleLayout::Row),
    (ScaleLayout::Block128x128, ScaleLayout::Block128x128),
    (ScaleLayout::Block1x128, ScaleLayout::Block128x128),
    (ScaleLayout::Block1x32, ScaleLayout::Block1x32),
];

/// The two recipes differ in nothing but the rounding of the scale.
const SCALES: [(&str, Recipe); 2] = [("f32", Recipe::DeepGemm), ("power of two", Recipe::DeepGemmUe8m0)];

/// Runs the study.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::power_of_two(&Settings::quick())?;
/// let rows = [("distribution", "normal(0, 1)"), ("layout", "1x128")];
/// let snr = |scales| outcome.tables[0].figure(&[&[("scales", scales)], &rows[..]].concat(), "SNR");
/// assert!((0.0..0.5).contains(&(snr("f32")? - snr("power of two")?))); // dB
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn power_of_two(settings: &Settings) -> Result<Outcome, StudyError> {
    let (rows, k) = settings.size((128, 1024), (512, 2048));
    let shape = settings.size(Shape { m: 16, n: 128, k }, Shape { m: 64, n: 128, k });
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("elements", format!("{rows} x {k}"));
    outcome.parameter("products", format!("{shape}, A and B from the same distribution, exact"));
    outcome.parameter("quantisation", format!("{} and {}, E4M3", Recipe::DeepGemm, Recipe::DeepGemmUe8m0));

    let elements = Table::new("elements", "Errors of elements and products by kind of scale")
        .text("distribution", "of the elements")
        .text("layout", "which elements share a scale; B has 128x128 where A has 1x128, else A's")
        .text("scales", "kind of scale")
        .count("maxima exact", "elements of the largest magnitude of their block whose relative error is below 2^-20")
        .bits("fingerprint", "of the elements as codes and scales give them");
    let mut elements = Elements::columns(elements)
        .float("SNR without maxima", "dB", "the SNR without the largest element of each block")
        .float("product SNR", "dB", "exact product of the quantised operands against that of the originals");
    for (step, distribution) in DISTRIBUTIONS.into_iter().enumerate() {
        let name = distribution.to_string();
        let x = distribution.sample(settings.seed, "a", (rows, k))?;
        let a = distribution.sample(settings.seed, "a", (shape.m, k))?;
        let b = distribution.sample(settings.seed, "b", (shape.n, k))?;
        let original = reference::exact_f32(a.view(), b.view())?;
        for (substep, (layout, layout_b)) in LAYOUTS.into_iter().enumerate() {
            settings.progress(step * LAYOUTS.len() + substep, DISTRIBUTIONS.len() * LAYOUTS.len());
            for (kind, recipe) in SCALES {
                let quantizer = |layout| Quantizer::new(recipe).with_layout(layout);
                let quantized = quantizer(layout).quantize(x.view())?;
                let values = quantized.dequantize();
                let maxima = block_maxima(x.view(), &quantized);
                let (block_rows, block_columns) = layout.block(rows, k);
                let is_largest =
                    |row: usize, column: usize, x: f32| x.abs() == maxima[(row / block_rows, column / block_columns)];
                let exact = x.indexed_iter().filter(|&((row, column), &x)| {
                    // Both sides exact in f64.
                    let error = (f64::from(values[(row, column)]) - f64::from(x)).abs();
                    is_largest(row, column, x) && error * f64::from(1 << 20) < f64::from(x.abs())
                });
                let exact = exact.count();
                let others = partial_snr(x.view(), &quantized, |row, column, x| !is_largest(row, column, x))?;
                let product =
                    Product::new(quantizer(layout).quantize(a.view())?, quantizer(layout_b).quantize(b.view())?)?;
                let snr = Metrics::new(original.view(), product.exact.view())?.snr_db;
                let text = [name.clone(), layout.to_string(), kind.to_owned()].map(Cell::from);
                elements.push(
                    text.into_iter()
                        .chain([Cell::from(exact), Cell::fingerprint(&values)])
                        .chain(Elements::new(x.view(), &quantized)?.cells())
                        .chain([others, snr].map(Cell::from)),
                )?;
            }
        }
    }
    let positions = positions(settings, (settings.size(64, 256), 1024))?;

    let figure = |distribution: Distribution, layout: ScaleLayout, kind: &str, column: &str| {
        let labels = [("distribution", &*distribution.to_string()), ("layout", &*layout.to_string()), ("scales", kind)];
        elements.figure(&labels, column)
    };
    let (mut least, mut most) = (f64::INFINITY, 0.0f64);
    let mut others = 0.0f64;
    let (mut cost, mut place) = (f64::NEG_INFINITY, String::new());
    for distribution in DISTRIBUTIONS {
        for (layout, _) in LAYOUTS {
            let of = |kind: &str, column: &str| figure(distribution, layout, kind, column);
            (least, most) = (least.min(of("power of two", "SNR")?), most.max(of("power of two", "SNR")?));
            let difference = of("f32", "product SNR")? - of("power of two", "product SNR")?;
            if difference > cost {
                (cost, place) = (difference, format!("{distribution}, {layout}"));
            }
            others = others.max((of("f32", "SNR without maxima")? - of("power of two", "SNR without maxima")?).abs());
        }
    }
    let normal = |layout, kind: &str, column: &str| figure(Distribution::NORMAL, layout, kind, column);
    let fine = ScaleLayout::Block1x32;
    outcome.finding(format!(
        "With power-of-two scales the SNR of elements is {least:.1} to {most:.1} dB, whatever the granularity and the \
         data: multiplying by a power of two changes no relative error, so only the format is left. With f32 scales it \
         rises with finer blocks, on N(0,1) from {:.1} dB (tensor) to {:.1} dB (1x32).",
        normal(ScaleLayout::Tensor, "f32", "SNR")?,
        normal(fine, "f32", "SNR")?,
    ));
    outcome.finding(format!(
        "That rise is the largest element of each block, which an f32 scale sends to the largest code: on N(0,1) in \
         1x32 blocks {} elements are their block's largest and all but exact (relative error below 2^-20) with f32 \
         scales, {} with powers of two. Without these elements the two kinds differ by at most {others:.1} dB in all \
         rows: {:.1} and {:.1} dB for N(0,1) in 1x32.",
        normal(fine, "f32", "maxima exact")?,
        normal(fine, "power of two", "maxima exact")?,
        normal(fine, "f32", "SNR without maxima")?,
        normal(fine, "power of two", "SNR without maxima")?,
    ));
    let near = positions.figure(&[("scales", "power of two"), ("step", "0")], "zero")?;
    let far = positions.figure(&[("scales", "power of two"), ("step", "1")], "zero")?;
    outcome.finding(format!(
        "The other cost is range: on average half a binade at the top is not used, up to one where the largest element \
         is just above 448 times a power of two. It shows at the bottom alone: with one scale for log-normal data {near} \
         elements become 0 where the f32 scale is a power of two already (there it costs nothing), {far} where the \
         largest element is a sixteenth more.",
    ));
    outcome.finding(format!(
        "In products of N(0,1) data with 1x128 x 128x128 scales the cost is {:.2} dB. It is large only where the largest \
         elements of blocks, which f32 scales make exact, are most of the signal: at most {cost:.1} dB ({place}).",
        normal(ScaleLayout::Block1x128, "f32", "product SNR")?
            - normal(ScaleLayout::Block1x128, "power of two", "product SNR")?,
    ));
    outcome.published.push(Published {
        quantity: "SNR of elements with power-of-two scales, at every granularity".to_owned(),
        published: "31.5 to 31.9 dB".to_owned(),
        source: "this project's reference notes, table of studies, 9: another program, K = 4096".to_owned(),
        ours: format!("{least:.1} to {most:.1} dB over {} distributions", DISTRIBUTIONS.len()),
        comparable: Comparable::Partly,
        note: "There N(0,1) and outlier elements; here also Laplace and log-normal.".to_owned(),
    });
    outcome.published.push(Published {
        quantity: "Power-of-two scales in use".to_owned(),
        published: "the default of TransformerEngine's block scaling; UE8M0 scales in DeepGEMM; MX formats; some activations of DeepSeek-V3".to_owned(),
        source: "TransformerEngine, recipe Float8BlockScaling; DeepGEMM, use_ue8m0; OCP MX 1.0; arXiv 2412.19437, section 3.3.3".to_owned(),
        ours: format!("cost in products at most {cost:.1} dB"),
        comparable: Comparable::No,
        note: "A choice, not a figure: none of them publishes an error.".to_owned(),
    });
    for (name, title, column) in [
        ("snr", "SNR of elements by kind of scale, outlier elements", "SNR"),
        ("others", "The same without the largest element of each block", "SNR without maxima"),
        ("products", "SNR of products by kind of scale, outlier elements", "product SNR"),
    ] {
        let figure = Figure::bars(name, title, "elements").x("layout", Scale::Linear).y([column], Scale::Linear);
        outcome.figures.push(figure.by("scales").only("distribution", &DISTRIBUTIONS[2].to_string()));
    }
    outcome.figures.push(
        Figure::lines("zero", "Elements that become 0, by where the largest element lies", "positions")
            .x("position", Scale::Linear)
            .y(["zero"], Scale::Linear)
            .by("scales"),
    );
    outcome.tables.push(elements);
    outcome.tables.push(positions);
    Ok(outcome)
}

/// One tensor multiplied so that its largest element goes through a binade from 448 on.
fn positions(settings: &Settings, shape: (usize, usize)) -> Result<Table, StudyError> {
    let distribution = DISTRIBUTIONS[3];
    let x = distribution.sample(settings.seed, "position", shape)?;
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let table = Table::new("positions", "One scale: the largest element moved through a binade")
        .text("distribution", "of the elements")
        .text("scales", "kind of scale")
        .count("step", "n: the largest element is 448 (1 + n / 16)")
        .float("position", "", "n / 16")
        .bits("scale", "the scale, as f32");
    let mut table = Elements::columns(table);
    for step in 0..16u8 {
        let target = 448.0 * (1.0 + f32::from(step) / 16.0);
        // The largest element itself is set, so that no rounding moves it past a power of two.
        let moved = x.mapv(|x| if x.abs() == largest { target.copysign(x) } else { x * (target / largest) });
        for (kind, recipe) in SCALES {
            let quantized = Quantizer::new(recipe).with_layout(ScaleLayout::Tensor).quantize(moved.view())?;
            let errors = Elements::new(moved.view(), &quantized)?;
            let text = [distribution.to_string(), kind.to_owned()].map(Cell::from);
            let place = [Cell::from(usize::from(step)), Cell::from(f64::from(step) / 16.0)];
            let scale = Cell::from(quantized.scales()[(0, 0)]);
            table.push(text.into_iter().chain(place).chain([scale]).chain(errors.cells()))?;
        }
    }
    Ok(table)
}
