//! Nearest-even against stochastic rounding: of sums, of products, of many small updates.

use fp8gemm_formats::convert::{encode_f32, encode_f32_stochastic};
use fp8gemm_formats::quantize::{Applied, Quantizer, Recipe};
use fp8gemm_formats::{Fp8Format, Overflow, Rounding, ScaledMatrix};
use fp8gemm_problem::{OperandType, Policy, ScaleLayout};
use fp8gemm_sim::metrics::Metrics;
use fp8gemm_sim::reference;
use ndarray::{Array2, ArrayView2};

use crate::sample::{Distribution, random_words};
use crate::{Cell, Comparable, Figure, Outcome, Product, Published, Scale, Settings, Shape, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "stochastic-rounding",
    title: "Stochastic against nearest rounding",
    question: "When is rounding at random better than rounding to nearest: in sums, in products, in repeated updates?",
    takes: "256 sums of up to 16384 elements for three distributions; 64 roundings of one product of 48 x 48 x 2048 for \
            two; 1024 weights updated 1024 times",
    run: stochastic,
};

/// The last lies below the middle of two neighbours, 1 and 1.125: nearest rounds all of it down.
const DISTRIBUTIONS: [Distribution; 3] =
    [Distribution::NORMAL, Distribution::UNIFORM, Distribution::Uniform { low: 1.0, high: 1.05 }];

const ROUNDINGS: [&str; 2] = ["nearest", "stochastic"];

/// What is added to a weight at each step, far below half a unit in the last place of 1 (E4M3: 1/16).
const UPDATE: f32 = 0.01;

/// Codes of `x` by one of [`ROUNDINGS`]; `stream` tells random words of one seed apart.
fn encode(rounding: &str, format: Fp8Format, x: &[f32], seed: u64, stream: u64) -> Result<Vec<u8>, StudyError> {
    let mut codes = vec![0; x.len()];
    if rounding == "nearest" {
        encode_f32(format, Rounding::NearestEven, Overflow::Saturate, x, &mut codes)?;
    } else {
        let words = random_words(seed, "rounding", stream, x.len())?;
        encode_f32_stochastic(format, Overflow::Saturate, x, &words, &mut codes)?;
    }
    Ok(codes)
}

/// Runs the study: three experiments, E4M3 unless a table says otherwise.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::stochastic(&Settings::quick())?;
/// let last = [("format", "e4m3"), ("step", "1024")];
/// let mean = |rounding| outcome.tables[2].figure(&[&[("rounding", rounding)], &last[..]].concat(), "mean");
/// // 1024 updates of 0.01 to weights of 1.
/// assert!(mean("nearest")? == 1.0 && (mean("stochastic")? - mean("f32")?).abs() < 1.0);
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn stochastic(settings: &Settings) -> Result<Outcome, StudyError> {
    let (trials, roundings) = settings.size((32, 8), (256, 64));
    let shape = settings.size(Shape::square(16, 512), Shape::square(48, 2048));
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("sums", format!("{trials} for each length, other elements and random words in each, no scale"));
    outcome.parameter("products", format!("{shape}, one scale (torchao-float8), rounded {roundings} times"));
    outcome.parameter("updates", format!("weights start at 1, + {UPDATE} in each step, stored in FP8 after each"));
    settings.progress(0, 3);
    let sums = sums(settings, trials)?;
    settings.progress(1, 3);
    let products = products(settings, shape, roundings)?;
    settings.progress(2, 3);
    let updates = updates(settings)?;

    let below = DISTRIBUTIONS[2].to_string();
    let sum = |rounding: &str, n: usize, column: &str| {
        sums.figure(&[("distribution", &below), ("rounding", rounding), ("n", &n.to_string())], column)
    };
    let exponent = |rounding: &str| {
        let (short, long) = (sum(rounding, 16, "RMS error")?, sum(rounding, LENGTHS[LENGTHS.len() - 1], "RMS error")?);
        let ratio = LENGTHS[LENGTHS.len() - 1] as f64 / 16.0;
        // To two places; + 0.0 makes 0 of -0.
        Ok::<_, StudyError>(((long / short).ln() / ratio.ln() * 100.0).round() / 100.0 + 0.0)
    };
    outcome.finding(format!(
        "Where elements lie on one side between two codes ({below}), nearest rounding errs the same way each time: the \
         relative error of a sum stays at {:.2} % whatever its length. Stochastic rounding has {:.2} % for 16 elements and \
         {:.3} % for 16384: its error relative to the sum goes as n^{:.2}, that of nearest as n^{:.2}.",
        sum("nearest", 16384, "RMS error")?,
        sum("stochastic", 16, "RMS error")?,
        sum("stochastic", 16384, "RMS error")?,
        exponent("stochastic")?,
        exponent("nearest")?,
    ));
    let product = |distribution: Distribution, rounding: &str, column: &str| {
        products.figure(&[("distribution", &distribution.to_string()), ("rounding", rounding)], column)
    };
    let normal = |rounding: &str, column: &str| product(Distribution::NORMAL, rounding, column);
    outcome.finding(format!(
        "On ordinary data it loses. A product of N(0,1) operands has {:.1} dB rounded to nearest and {:.1} dB rounded \
         stochastically once: the variance of an element is twice as large on average. Only the mean over {roundings} \
         roundings gains, {:.1} dB; nearest gives the same product each time. Rounded to nearest, an output is off by \
         {:.2} % of the mean magnitude (RMS), always the same; stochastically, by {:.2} % that change and a mean over the \
         roundings of {:.2} %, where chance alone leaves {:.2} %: no bias is seen.",
        normal("nearest", "SNR")?,
        normal("stochastic", "SNR")?,
        normal("stochastic", "SNR of the mean")?,
        normal("nearest", "output bias")?,
        normal("stochastic", "output deviation")?,
        normal("stochastic", "output bias")?,
        // The variance over n roundings is (n - 1) / n of that of a rounding, on average.
        normal("stochastic", "output deviation")? / (roundings as f64 - 1.0).sqrt(),
    ));
    let at = |format: &str, rounding: &str, step: usize, column: &str| {
        updates.figure(&[("format", format), ("rounding", rounding), ("step", &step.to_string())], column)
    };
    outcome.finding(format!(
        "It is needed where small updates are accumulated in FP8 itself: after 1024 updates of {UPDATE}, weights that \
         started at 1 should be {:.2}. Rounded to nearest, {} of {} never moved; rounded stochastically they are {:.2} \
         on average, with a standard deviation of {:.2} (E5M2: {:.2} and {:.2}).",
        at("e4m3", "f32", 1024, "mean")?,
        at("e4m3", "nearest", 1024, "unmoved")?,
        at("e4m3", "nearest", 1024, "weights")?,
        at("e4m3", "stochastic", 1024, "mean")?,
        at("e4m3", "stochastic", 1024, "deviation")?,
        at("e5m2", "stochastic", 1024, "mean")?,
        at("e5m2", "stochastic", 1024, "deviation")?,
    ));
    outcome.published.push(Published {
        quantity: "Growth of the error of a sum with n, relative to n".to_owned(),
        published: "bounds: n u for nearest, sqrt(n) u with high probability for stochastic rounding".to_owned(),
        source:
            "Connolly, Higham and Mary, Stochastic rounding and its probabilistic backward error analysis, SIAM J. \
                 Sci. Comput. 43 (2021)"
                .to_owned(),
        ours: format!(
            "error over the sum as n^{:.2} (nearest), n^{:.2} (stochastic): times n, n^{:.2} and n^{:.2}",
            exponent("nearest")?,
            exponent("stochastic")?,
            exponent("nearest")? + 1.0,
            exponent("stochastic")? + 1.0
        ),
        comparable: Comparable::Partly,
        note: "The bounds are of sums rounded at each addition; here the elements are rounded and the sum is exact."
            .to_owned(),
    });
    outcome.published.push(Published {
        quantity: "Where stochastic rounding is used".to_owned(),
        published: "in the backward pass alone, in NVFP4 training".to_owned(),
        source: "TransformerEngine, recipe NVFP4BlockScaling (second hand: this project's notes and documentation of its users)".to_owned(),
        ours: format!("forward products lose {:.1} dB by it", normal("nearest", "SNR")? - normal("stochastic", "SNR")?),
        comparable: Comparable::No,
        note: "A choice without a published error; FP8 recipes there round to nearest.".to_owned(),
    });
    outcome.figures.push(
        Figure::lines("sums", &format!("Error of a sum of n elements, {below}"), "sums")
            .x("n", Scale::Log2)
            .y(["RMS error"], Scale::Log10)
            .by("rounding")
            .only("distribution", &below),
    );
    outcome.figures.push(
        Figure::lines("updates", "Weights in E4M3 under updates of 0.01", "updates")
            .x("step", Scale::Linear)
            .y(["mean"], Scale::Linear)
            .y_label("mean weight")
            .by("rounding")
            .only("format", "e4m3"),
    );
    outcome.figures.push(
        Figure::bars("products", "Products: rounded once, and the mean of many roundings", "products")
            .x("distribution", Scale::Linear)
            .y(["SNR", "SNR of the mean"], Scale::Linear)
            .y_label("SNR [dB]")
            .by("rounding"),
    );
    outcome.tables.extend([sums, products, updates]);
    Ok(outcome)
}

const LENGTHS: [usize; 6] = [16, 64, 256, 1024, 4096, 16384];

/// Sums of rounded elements against the sums of the elements, both exact.
fn sums(settings: &Settings, trials: usize) -> Result<Table, StudyError> {
    let mut table = Table::new("sums", "Errors of sums of n rounded elements")
        .text("distribution", "of the elements")
        .text("rounding", "of the elements to E4M3")
        .count("n", "elements of a sum")
        .count("sums", "how many")
        .bits("fingerprint", "of the sums, as f32")
        .float("bias", "%", "mean over the sums of the error over sum |x|")
        .float("deviation", "%", "standard deviation of the same")
        .float("RMS error", "%", "root of the mean square of the same");
    let format = Fp8Format::E4m3;
    for distribution in DISTRIBUTIONS {
        let x = distribution.sample(settings.seed, "sum", (trials, LENGTHS[LENGTHS.len() - 1]))?;
        for rounding in ROUNDINGS {
            for n in LENGTHS {
                let (mut found, mut errors) = (Vec::new(), Vec::new());
                for (trial, row) in x.rows().into_iter().enumerate() {
                    let row: Vec<f32> = row.iter().take(n).copied().collect();
                    let codes = encode(rounding, format, &row, settings.seed, trial as u64)?;
                    // At most 2^14 multiples of 2^-9 up to 448: exact in f64.
                    let sum: f64 = codes.iter().map(|&code| f64::from(format.decode(code))).sum();
                    let exact: f64 = row.iter().map(|&x| f64::from(x)).sum();
                    let magnitude: f64 = row.iter().map(|&x| f64::from(x.abs())).sum();
                    found.push(sum as f32);
                    errors.push((sum - exact) / magnitude * 100.0);
                }
                let (mean, deviation) = mean_and_deviation(&errors);
                let rms = (errors.iter().map(|x| x * x).sum::<f64>() / trials as f64).sqrt();
                let text = [distribution.to_string(), rounding.to_owned()].map(Cell::from);
                let counts = [n, trials].map(Cell::from);
                let figures = [mean, deviation, rms].map(Cell::from);
                table.push(text.into_iter().chain(counts).chain([Cell::fingerprint(&found)]).chain(figures))?;
            }
        }
    }
    Ok(table)
}

/// One product of the same operands, rounded several times.
fn products(settings: &Settings, shape: Shape, roundings: usize) -> Result<Table, StudyError> {
    let mut table = Table::new("products", "One product, its operands rounded again and again")
        .text("distribution", "of the elements of A and B")
        .text("rounding", "of the elements to E4M3")
        .count("roundings", "how many")
        .count("outputs", "how many")
        .bits("fingerprint", "of Hopper's output for the first rounding, promote128, f32")
        .float("SNR", "dB", "exact product of the first rounding against that of the originals")
        .float("SNR of the mean", "dB", "mean over the roundings of the exact products, against the same")
        .float("bias", "%", "of that mean: sum of errors over sum of magnitudes")
        .float("output bias", "%", "RMS over the outputs of an output's mean error, over mean magnitude")
        .float("output deviation", "%", "the same of an output's standard deviation over the roundings");
    for distribution in [Distribution::NORMAL, Distribution::UNIFORM] {
        let a = distribution.sample(settings.seed, "a", (shape.m, shape.k))?;
        let b = distribution.sample(settings.seed, "b", (shape.n, shape.k))?;
        let original = reference::exact_f32(a.view(), b.view())?;
        for rounding in ROUNDINGS {
            // Of the errors of each output over the roundings.
            let (mut sum, mut squares) = (Array2::<f64>::zeros(original.dim()), Array2::<f64>::zeros(original.dim()));
            let mut first = None;
            for trial in 0..roundings as u64 {
                // Nearest rounding is the same each time.
                if rounding == "nearest" && trial > 0 {
                    break;
                }
                let round = |x, stream| quantize(rounding, x, settings.seed, stream);
                let product = Product::new(round(a.view(), 2 * trial)?, round(b.view(), 2 * trial + 1)?)?;
                let errors = &product.exact - &original;
                squares += &errors.mapv(|e| e * e);
                sum += &errors;
                first.get_or_insert(product);
            }
            let Some(first) = first else { continue };
            let count = if rounding == "nearest" { 1 } else { roundings };
            let bias = sum / count as f64;
            let variance = squares / count as f64 - bias.mapv(|e| e * e);
            let magnitude = original.iter().map(|x| x.abs()).sum::<f64>() / original.len() as f64;
            let relative = |squares: f64| (squares / original.len() as f64).max(0.0).sqrt() / magnitude * 100.0;
            let systematic = relative(bias.iter().map(|e| e * e).sum());
            let deviation = relative(variance.iter().sum());
            let mean = &original + &bias;
            let (once, many) =
                (Metrics::new(original.view(), first.exact.view())?, Metrics::new(original.view(), mean.view())?);
            let text = [distribution.to_string(), rounding.to_owned()].map(Cell::from);
            let counts = [count, original.len()].map(Cell::from);
            let output = Cell::fingerprint(&first.output(Policy::PROMOTE_128)?);
            let figures = [once.snr_db, many.snr_db, many.bias * 100.0, systematic, deviation].map(Cell::from);
            table.push(text.into_iter().chain(counts).chain([output]).chain(figures))?;
        }
    }
    Ok(table)
}

/// One scale by torchao's rule, codes by one of [`ROUNDINGS`].
fn quantize(rounding: &str, x: ArrayView2<'_, f32>, seed: u64, stream: u64) -> Result<ScaledMatrix, StudyError> {
    let (recipe, layout) = (Recipe::TorchaoFloat8, ScaleLayout::Tensor);
    if rounding == "nearest" {
        return Ok(Quantizer::new(recipe).with_layout(layout).quantize(x)?);
    }
    let amax = x.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
    let scale = recipe.block_scale::<f32>(OperandType::E4m3, amax);
    let scaled: Vec<f32> = match scale.applied {
        Applied::MultiplyBy(factor) => x.iter().map(|x| x * factor).collect(),
        Applied::DivideBy(divisor) => x.iter().map(|x| x / divisor).collect(),
    };
    let mut codes = encode(rounding, Fp8Format::E4m3, &scaled, seed, stream)?.into_iter();
    // As many codes as elements.
    let codes = Array2::from_shape_simple_fn(x.dim(), || codes.next().unwrap_or(0));
    Ok(ScaledMatrix::new(OperandType::E4m3, layout, codes, Array2::from_elem((1, 1), scale.stored))?)
}

/// Weights that are stored in FP8 after each of many equal updates.
fn updates(settings: &Settings) -> Result<Table, StudyError> {
    let weights = settings.size(128, 1024);
    let mut table = Table::new("updates", "Weights stored in FP8 after each update")
        .text("format", "in which weights are stored")
        .text("rounding", "after each update; f32: none")
        .count("step", "updates so far")
        .count("weights", "how many")
        .count("unmoved", "weights that are still 1")
        .bits("fingerprint", "of the weights")
        .float("mean", "", "of the weights")
        .float("deviation", "", "standard deviation of the weights");
    for format in [Fp8Format::E4m3, Fp8Format::E5m2] {
        for rounding in ["f32"].into_iter().chain(ROUNDINGS) {
            let mut stored = vec![1.0f32; weights];
            for step in 1..=1024u64 {
                stored.iter_mut().for_each(|weight| *weight += UPDATE);
                if rounding != "f32" {
                    let codes = encode(rounding, format, &stored, settings.seed, step)?;
                    stored.iter_mut().zip(codes).for_each(|(weight, code)| *weight = format.decode(code));
                }
                if step.is_power_of_two() {
                    let values: Vec<f64> = stored.iter().map(|&x| f64::from(x)).collect();
                    let (mean, deviation) = mean_and_deviation(&values);
                    let unmoved = stored.iter().filter(|&&x| x == 1.0).count();
                    let text = [format.to_string(), rounding.to_owned()].map(Cell::from);
                    let counts = [step as usize, weights, unmoved].map(Cell::from);
                    let figures = [mean, deviation].map(Cell::from);
                    table.push(text.into_iter().chain(counts).chain([Cell::fingerprint(&stored)]).chain(figures))?;
                }
            }
        }
    }
    Ok(table)
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (mean, (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt())
}
