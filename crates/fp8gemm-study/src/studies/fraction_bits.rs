//! How many fraction bits at alignment are enough, and for what.

use fp8gemm_formats::{Fp8Format, ScaledMatrix};
use fp8gemm_problem::{OperandType, OutputType, Policy};
use fp8gemm_sim::metrics::Metrics;

use fp8gemm_sim::tensor_core::{Accumulator, InputFormat, TensorCore};
use fp8gemm_sim::{Gemm, Rounding, f32_to_bf16, reference};

use super::cores::toward_zero;
use super::sweep::TENSOR;
use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Product, Published, Scale, Settings, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "fraction-bits",
    title: "How many fraction bits are enough",
    question: "How many fraction bits must a tensor core keep where it aligns products, for which result?",
    takes: "products of 64 x 64 x 32, 48 x 48 x 1024 and 4096 of N(0,1) and U(0,1) on a core of 32 terms with F from 10 \
            to 35; a cancelling sum with F to 48",
    run: fraction_bits,
};

const DISTRIBUTIONS: [Distribution; 2] = [Distribution::UNIFORM, Distribution::NORMAL];
const BITS: [u32; 18] = [10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 23, 24, 25, 26, 28, 30, 32, 35];

const CANCELLING_BITS: [u32; 11] = [13, 23, 25, 30, 31, 32, 33, 34, 35, 40, 48];

/// Hopper's step with other precision. The accumulator keeps as many bits as there are, 23 at most:
/// it is an f32 on every core.
fn core(fraction_bits: u32) -> TensorCore {
    let accumulator = Accumulator::F32 { fraction_bits: fraction_bits.min(23), rounding: Rounding::TowardZero };
    TensorCore { fraction_bits, accumulator, ..TensorCore::HOPPER_FP8_F32 }
}

/// Runs the study: what-if cores against exact sums.
///
/// Codes are those of the usual quantisation, multiplied without scales, so that no other rounding is
/// in the result. `other f32` counts outputs that are not the exact sum cut to f32 toward zero, which
/// is how tensor cores round; `other bf16` those that, rounded to bf16, are not the exact sum rounded
/// to f32 and then to bf16.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::fraction_bits(&Settings::quick())?;
/// let rows = [("distribution", "uniform(0, 1)"), ("K", "4096")];
/// let bias = |bits| outcome.tables[0].figure(&[&[("F", bits)], &rows[..]].concat(), "bias");
/// assert!(bias("13")? < -7.0 && bias("25")? > -0.001); // %
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn fraction_bits(settings: &Settings) -> Result<Outcome, StudyError> {
    let sizes = settings.size([(64, 32), (16, 1024), (16, 4096)], [(64, 32), (48, 1024), (48, 4096)]);
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("sizes", sizes.map(|(mn, k)| format!("{mn} x {mn} x {k}")).join(", "));
    outcome.parameter("quantisation", format!("{TENSOR}, scales left out of the product"));
    outcome.parameter("tensor core", "32 terms, F fraction bits at alignment, f32 cut to min(F, 23), toward zero");

    let mut table = Table::new("bits", "Error of one chain by the fraction bits kept at alignment")
        .text("distribution", "of the elements of A and B")
        .count("K", "elements of each sum")
        .count("F", "fraction bits kept at alignment")
        .count("outputs", "how many")
        .count("other f32", "outputs that are not the exact sum cut to f32")
        .count("other bf16", "outputs whose bf16 is not that of the f32 nearest to the exact sum")
        .bits("fingerprint", "of all outputs: sum (i + 1) bits(d_i) mod 2^64")
        .float("f32 share", "%", "other f32 over outputs")
        .float("bf16 share", "%", "other bf16 over outputs")
        .float("bias", "%", "sum of errors over sum of magnitudes")
        .float("relative Frobenius", "%", "norm of the error over norm of the exact product");
    for (step, distribution) in DISTRIBUTIONS.into_iter().enumerate() {
        for (substep, (mn, k)) in sizes.into_iter().enumerate() {
            settings.progress(step * sizes.len() + substep, DISTRIBUTIONS.len() * sizes.len());
            let codes = |role: &str| {
                let quantized = TENSOR.quantize(distribution.sample(settings.seed, role, (mn, k))?.view())?;
                Ok::<_, StudyError>(ScaledMatrix::unscaled(quantized.ty(), quantized.into_parts().0))
            };
            let product = Product::new(codes("a")?, codes("b")?)?;
            for bits in BITS {
                push(&mut table, distribution, &product, bits)?;
            }
        }
    }
    let cancelling = cancelling()?;
    findings(&mut outcome, &table, &cancelling)?;
    outcome.figures.push(
        Figure::lines("bias", "Bias on U(0,1) by fraction bits, for K = 32, 1024 and 4096", "bits")
            .x("F", Scale::Linear)
            .y(["bias"], Scale::Log10)
            .by("K")
            .only("distribution", &Distribution::UNIFORM.to_string()),
    );
    outcome.figures.push(
        Figure::lines("single", "One instruction (K = 32): outputs that differ from the exact sum", "bits")
            .x("F", Scale::Linear)
            .y(["f32 share", "bf16 share"], Scale::Linear)
            .y_label("outputs that differ [%]")
            .by("distribution")
            .only("K", "32"),
    );
    outcome.tables.push(table);
    outcome.tables.push(cancelling);
    Ok(outcome)
}

fn push(table: &mut Table, distribution: Distribution, product: &Product, bits: u32) -> Result<(), StudyError> {
    let gemm = Gemm::new(product.a.view(), product.b.view()).core(core(bits)).policy(Policy::Chain);
    let output = gemm.output(OutputType::F32).run()?.to_f32();
    let metrics = Metrics::new(product.exact.view(), output.view())?;
    let pairs = || product.exact.iter().zip(&output);
    let other_f32 = pairs().filter(|&(x, y)| toward_zero(*x) != *y).count();
    let other_bf16 = pairs().filter(|&(x, y)| f32_to_bf16(*x as f32) != f32_to_bf16(*y)).count();
    let share = |count: usize| Cell::from(100.0 * count as f64 / metrics.elements as f64);
    table.push([
        Cell::from(distribution.to_string()),
        Cell::from(product.a.columns()),
        Cell::from(u64::from(bits)),
        Cell::from(metrics.elements),
        Cell::from(other_f32),
        Cell::from(other_bf16),
        Cell::fingerprint(&output),
        share(other_f32),
        share(other_bf16),
        Cell::from(metrics.bias * 100.0),
        Cell::from(metrics.relative_frobenius * 100.0),
    ])
}

/// The worst case: the largest product, its negative, and the smallest product. Exact where F reaches
/// from the exponent of the largest product down to the last bit of the smallest.
fn cancelling() -> Result<Table, StudyError> {
    let mut table = Table::new(
        "cancelling",
        "max^2 - max^2 + min^2 in one instruction, max and min the largest and smallest of the format",
    )
    .text("format", "of A and B")
    .count("F", "fraction bits kept at alignment")
    .bits("result", "of one instruction, f32")
    .bits("exact", "min^2, f32")
    .count("right", "1 where they are equal");
    for (ty, format) in [(OperandType::E4m3, Fp8Format::E4m3), (OperandType::E5m2, Fp8Format::E5m2)] {
        let largest = format.max_code();
        // The smallest subnormal is code 1; the sign is the top bit.
        let (a, b) = ([largest, largest | 0x80, 1], [largest, largest, 1]);
        let row = |codes: [u8; 3]| codes.map(|code| InputFormat::from(ty).operand(code.into()));
        let matrix = |codes: [u8; 3]| ScaledMatrix::unscaled(ty, ndarray::arr2(&[codes]));
        let exact = reference::exact(&matrix(a).view(), &matrix(b).view())?[(0, 0)] as f32;
        for bits in CANCELLING_BITS {
            let result = f32::from_bits(core(bits).dot(&row(a), &row(b), 0)?);
            table.push([
                Cell::from(ty.to_string()),
                Cell::from(u64::from(bits)),
                Cell::from(result),
                Cell::from(exact),
                Cell::from(u64::from(result == exact)),
            ])?;
        }
    }
    Ok(table)
}

/// The smallest F from which on all rows with these labels satisfy `enough`, as text.
fn smallest(
    table: &Table,
    labels: &[(&str, &str)],
    column: &str,
    enough: impl Fn(f64) -> bool,
) -> Result<String, StudyError> {
    let (bits, wanted) = (table.index("F")?, table.index(column)?);
    let labels =
        labels.iter().map(|&(name, text)| Ok((table.index(name)?, text))).collect::<Result<Vec<_>, StudyError>>()?;
    let rows = table.rows().iter().filter(|row| labels.iter().all(|&(index, text)| row[index].to_string() == text));
    let mut found = None;
    let mut last = 0.0;
    for (f, x) in rows.filter_map(|row| Some((row[bits].number()?, row[wanted].number()?))) {
        last = f;
        found = if enough(x) { found.or(Some(f)) } else { None };
    }
    Ok(found.map_or_else(|| format!("more than {last}"), |f| f.to_string()))
}

fn findings(outcome: &mut Outcome, table: &Table, cancelling: &Table) -> Result<(), StudyError> {
    let figure = |distribution: Distribution, k: &str, bits: &str, column: &str| {
        table.figure(&[("distribution", &distribution.to_string()), ("K", k), ("F", bits)], column)
    };
    let first = |distribution: Distribution, k: &str, column: &str, limit: f64| {
        let distribution = distribution.to_string();
        smallest(table, &[("distribution", &distribution), ("K", k)], column, |x| x.abs() <= limit)
    };
    let right = |format: &str| smallest(cancelling, &[("format", format)], "right", |x| x == 1.0);
    let (uniform, normal) = (Distribution::UNIFORM, Distribution::NORMAL);
    outcome.finding(format!(
        "For one instruction whose result is the exact sum cut to f32, 34 bits are what E4M3 can need: the largest product \
         has the exponent 16, the last bit of the smallest is 2^-18, and the cancelling sum of 448^2, -448^2 and 2^-18 is \
         right from F = {} on; for E5M2 F would have to be 62 (here: {}). Random data need fewer: all outputs of K = 32 are \
         right from F = {} on U(0,1), {} on N(0,1).",
        right("e4m3")?,
        right("e5m2")?,
        first(uniform, "32", "other f32", 0.0)?,
        first(normal, "32", "other f32", 0.0)?,
    ));
    outcome.finding(format!(
        "In a chain over K = 4096 of U(0,1) the bias goes from {:.1} % at F = 13 to {:.3} % at 20, {:.1} times less for each \
         bit; {:.1e} % at 25 and {:.1e} % at 35 are the same in all that matters, because the running sum is an f32 on every core and is \
         cut to 24 bits after each step. Beyond about 25 the accumulator is the limit, not the alignment.",
        figure(uniform, "4096", "13", "bias")?,
        figure(uniform, "4096", "20", "bias")?,
        (figure(uniform, "4096", "13", "bias")? / figure(uniform, "4096", "20", "bias")?).powf(1.0 / 7.0),
        figure(uniform, "4096", "25", "bias")?,
        figure(uniform, "4096", "35", "bias")?,
    ));
    outcome.finding(format!(
        "What is enough for a bf16 result, at K = 4096: with F = 13, {:.0} % of the outputs on U(0,1) are another bf16 \
         than the exact sum's, on N(0,1) {:.1} %. Under 1 % differ from F = {} on U(0,1), from {} on N(0,1).",
        figure(uniform, "4096", "13", "bf16 share")?,
        figure(normal, "4096", "13", "bf16 share")?,
        first(uniform, "4096", "bf16 share", 1.0)?,
        first(normal, "4096", "bf16 share", 1.0)?,
    ));
    outcome.published.push(Published {
        quantity: "Precision needed for the sum of 32 FP8 products to be a precise f32".to_owned(),
        published: "at least 34 bits".to_owned(),
        source: "DeepSeek-V3 Technical Report, arXiv 2412.19437v1, section 3.5.2, as quoted in DeepGEMM issue 43".to_owned(),
        ours: format!(
            "F = {} for any E4M3 operands; K = 32 of N(0,1): F = {}",
            right("e4m3")?,
            first(normal, "32", "other f32", 0.0)?
        ),
        comparable: Comparable::Partly,
        note: "Version 2 of the paper no longer has the sentence. It does not derive the number, nor say whether it counts the bits before the point: F = 34 are \
               fraction bits below the exponent of the largest product, which with the products' two integer bits make \
               36, and sign and carries come on top."
            .to_owned(),
    });
    Ok(())
}
