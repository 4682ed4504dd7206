//! E4M3 against E5M2: errors of elements and of products.

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::OperandType;
use fp8gemm_sim::metrics::Metrics;
use fp8gemm_sim::reference;
use ndarray::ArrayView2;

use super::elements::Elements;
use super::sweep::TENSOR;
use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Product, Published, Scale, Settings, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "formats",
    title: "E4M3 against E5M2",
    question: "What does one bit more of fraction, or of exponent, do to elements and to products?",
    takes: "1024 x 1024 elements, and products of 128 x 128 x 2048, for five distributions; one scale for each operand",
    run: formats,
};

const DISTRIBUTIONS: [Distribution; 5] = [
    Distribution::NORMAL,
    Distribution::Laplace { scale: 1.0 },
    Distribution::StudentT { degrees: 3 },
    Distribution::LogNormal { mu: 0.0, sigma: 2.0 },
    Distribution::OutlierElements { share: 0.001, factor: 1000.0 },
];

/// Runs the study: quantisation alone, element by element and in exact products.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::formats(&Settings::quick())?;
/// let snr = |format| outcome.tables[0].figure(&[("distribution", "normal(0, 1)"), ("format", format)], "SNR");
/// assert!((snr("e4m3")? - snr("e5m2")? - 6.0).abs() < 0.1); // dB, for one bit of fraction
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn formats(settings: &Settings) -> Result<Outcome, StudyError> {
    let side = settings.size(256, 1024);
    let (mn, k) = settings.size((32, 1024), (128, 2048));
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("elements", format!("{side} x {side}"));
    outcome.parameter("products", format!("{mn} x {mn} x {k}, exact, so that quantisation is the only error"));
    outcome.parameter("quantisation", "torchao-float8:tensor, the largest element at the largest code");

    let mut elements = Table::new("elements", "Errors of quantised elements, one scale")
        .text("distribution", "of the elements")
        .text("format", "of the codes")
        .count("elements", "how many")
        .count("zero", "elements other than 0 whose code is 0")
        .count("subnormal", "elements whose code is subnormal")
        .bits("scale", "the scale, as f32")
        .float("SNR", "dB", "10 log10(sum x^2 / sum e^2)")
        .float("RMS relative", "%", "sqrt(mean (e/x)^2) over elements with a normal code")
        .float(
            "max relative",
            "%",
            "max |e/x| over elements with a normal code, also those rounded up to the smallest",
        );
    let mut products = Table::new("products", "Errors of products from quantisation")
        .text("distribution", "of the elements of A and B")
        .text("A", "format of A")
        .text("B", "format of B")
        .float("SNR", "dB", "10 log10(sum x^2 / sum e^2)")
        .float("relative Frobenius", "%", "norm of the error over norm of the product");
    for (step, distribution) in DISTRIBUTIONS.into_iter().enumerate() {
        settings.progress(step, DISTRIBUTIONS.len());
        let x = distribution.sample(settings.seed, "a", (side, side))?;
        for ty in OperandType::ALL {
            elements.push(element_row(distribution, x.view(), &TENSOR.with_ty(ty).quantize(x.view())?)?)?;
        }
        let a = distribution.sample(settings.seed, "a", (mn, k))?;
        let b = distribution.sample(settings.seed, "b", (mn, k))?;
        let original = reference::exact_f32(a.view(), b.view())?;
        for (ty_a, ty_b) in [
            (OperandType::E4m3, OperandType::E4m3),
            (OperandType::E5m2, OperandType::E4m3),
            (OperandType::E5m2, OperandType::E5m2),
        ] {
            let (quantized_a, quantized_b) = (TENSOR.with_ty(ty_a), TENSOR.with_ty(ty_b));
            let product = Product::new(quantized_a.quantize(a.view())?, quantized_b.quantize(b.view())?)?;
            let metrics = Metrics::new(original.view(), product.exact.view())?;
            let text = [distribution.to_string(), ty_a.to_string(), ty_b.to_string()].map(Cell::from);
            let figures = [metrics.snr_db, metrics.relative_frobenius * 100.0].map(Cell::from);
            products.push(text.into_iter().chain(figures))?;
        }
    }

    let figure = |distribution: Distribution, format: &str, column: &str| {
        elements.figure(&[("distribution", &distribution.to_string()), ("format", format)], column)
    };
    let normal = |format: &str, column: &str| figure(Distribution::NORMAL, format, column);
    let (e4m3, e5m2) = (normal("e4m3", "SNR")?, normal("e5m2", "SNR")?);
    outcome.finding(format!(
        "On N(0,1) with one scale, E4M3 has {e4m3:.1} dB and E5M2 {e5m2:.1} dB: the bit of fraction is worth \
         {:.1} dB. Relative errors of elements: {:.2} against {:.2} % RMS, {:.1} against {:.1} % at most (1/17 and 1/9; \
         1/15 and 1/7 just below the smallest normal number).",
        e4m3 - e5m2,
        normal("e4m3", "RMS relative")?,
        normal("e5m2", "RMS relative")?,
        normal("e4m3", "max relative")?,
        normal("e5m2", "max relative")?,
    ));
    let outliers = DISTRIBUTIONS[4];
    let zeros = |format: &str| figure(outliers, format, "zero");
    outcome.finding(format!(
        "E5M2 gains where one scale must cover a wide range: with 0.1 % of the elements 1000 times larger, E4M3 turns \
         {} of {} elements into 0, E5M2 {}. The SNR of all elements does not show it, because the outliers are its \
         signal; finer scales cure it without giving up a bit.",
        zeros("e4m3")?,
        figure(outliers, "e4m3", "elements")?,
        zeros("e5m2")?,
    ));
    outcome.published.push(Published {
        quantity: "SNR by a bit of fraction".to_owned(),
        published: "about 6 dB a bit".to_owned(),
        source: "rule of thumb of uniform quantisation: 20 log10(2) = 6.02 dB".to_owned(),
        ours: format!("{:.2} dB on N(0,1)", e4m3 - e5m2),
        comparable: Comparable::Partly,
        note: "The rule is for steps of equal size; in floating point it holds per binade.".to_owned(),
    });
    outcome.figures.push(
        Figure::bars("products", "Quantisation error of products by format", "products")
            .x("distribution", Scale::Linear)
            .y(["SNR"], Scale::Linear)
            .by("A")
            .by("B"),
    );
    outcome.tables.push(elements);
    outcome.tables.push(products);
    Ok(outcome)
}

fn element_row(
    distribution: Distribution,
    x: ArrayView2<'_, f32>,
    quantized: &ScaledMatrix,
) -> Result<[Cell; 9], StudyError> {
    let errors = Elements::new(x, quantized)?;
    Ok([
        Cell::from(distribution.to_string()),
        Cell::from(quantized.ty().to_string()),
        Cell::from(errors.elements),
        Cell::from(errors.zero),
        Cell::from(errors.subnormal),
        Cell::from(quantized.scales()[(0, 0)]),
        Cell::from(errors.snr_db),
        Cell::from(errors.rms_relative * 100.0),
        Cell::from(errors.max_relative * 100.0),
    ])
}
