//! What a tensor core shows of itself: rows that tell cores apart, and the tree of its sums.

use fp8gemm_sim::tensor_core::TensorCore;

use super::cores;
use super::probe::{self, Probe};
use crate::{Cell, Comparable, Figure, Outcome, Published, Scale, Settings, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "fttn",
    title: "One row, many answers; and the tree of a sum",
    question: "Which answers do tensor cores give to the same row of numbers, and what do their outputs alone say about \
               terms summed at once, fraction bits and order?",
    takes: "one row of 16 products, and feature tests of FTTN, on seven tensor cores; probes of fraction bits; the summation tree of 64 products on \
            each core, and of K = 512 under six policies",
    run: fttn,
};

/// Cores with an f32 accumulator, oldest first.
const CORES: [(&str, TensorCore); 7] = [
    ("Volta f16", cores::VOLTA_F16),
    ("Turing, Ampere, Ada f16", cores::AMPERE_F16),
    ("Hopper f16", TensorCore::HOPPER_F16_F32),
    ("Hopper tf32", TensorCore::HOPPER_TF32_F32),
    ("Ada FP8", TensorCore::ADA_FP8_F32),
    ("Hopper FP8", TensorCore::HOPPER_FP8_F32),
    ("Blackwell FP8", TensorCore::BLACKWELL_FP8_F32),
];
/// Small terms of the row are 1.5 * 2^-n of the large one.
const DEPTHS: core::ops::RangeInclusive<i32> = 10..=28;
/// The depth of the row that findings quote: between Ampere's and Hopper's last bit.
const QUOTED: &str = "25";
/// Feature tests of FTTN for f16 inputs and f32 results (`fp16in.cpp` of its repository): name,
/// products, c.
const FEATURES: [(&str, &[f64], f32); 4] = [
    // 1 - (1 - 2^-24): 2^-24 with an extra bit, 2^-23 without.
    ("one extra bit", &[1.0], f32::from_bits(0xBF7F_FFFF)),
    // 1.25 - (2^-3 + 2^-25): just below 1.125 with two extra bits, 1.125 with one.
    ("two extra bits", &[1.25], f32::from_bits(0xBE00_0002)),
    ("monotonicity, c = 2^25 - 2", &[1.0; 8], 33_554_430.0),
    ("monotonicity, c = 2^25", &[1.0; 8], 33_554_432.0),
];
/// Products whose tree is revealed: two instructions of the widest core.
const LEAVES: usize = 64;

/// Runs the study: a cancelling row, and the tree, from outputs alone.
///
/// `row`: 16 products, c = 0: `+2^16` first, `-2^16` last, 14 of `1.5 * 2^(16 - n)` between. Exact is
/// `21 * 2^(16 - n)`. `features`: tests of FTTN whose inputs are public. `cores`: what probes find,
/// beside what the model was given. `sizes` there and in `policies` are the tree: the numbers of leaves
/// below the nodes at which leaf 0 and another leaf j meet, as FPRev finds them: with `+M` at 0, `-M` at
/// j and small equal terms elsewhere, exactly the small terms that are added after the two have met are
/// still in the sum.
///
/// All numbers are E5M2 and so also f16 and tf32 numbers, with the same exponents: every core gets the
/// same row.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::fttn(&Settings::quick())?;
/// let value = |core| outcome.tables[0].figure(&[("core", core), ("n", "25")], "value");
/// // One row of numbers, whose sum is 21.
/// assert_eq!([value("Volta f16")?, value("Hopper f16")?, value("Hopper tf32")?], [0.0, 14.0, 11.0]);
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None.
pub fn fttn(settings: &Settings) -> Result<Outcome, StudyError> {
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("tensor cores", cores::describe(&CORES));
    outcome.parameter("numbers", "E5M2, which are f16 and tf32 numbers too; nothing is random, and quick is full");

    let mut rows = Table::new("row", "2^16 + 14 * 1.5 * 2^(16-n) - 2^16, products in this order, c = 0")
        .text("core", "tensor core")
        .text("inputs", "what it multiplies")
        .count("n", "binary places of the small terms below the large one")
        .bits("result", "f32")
        .float("value", "", "the result, times 2^(n-16): in units of the small terms' leading bit; exact is 21")
        .float("kept", "%", "of the exact sum");
    for (name, core) in CORES {
        let inputs = name.rsplit(' ').next().unwrap_or_default();
        for depth in DEPTHS {
            let result = probe::row(&core, depth)?;
            let value = f64::from(result) * f64::powi(2.0, depth - 16);
            rows.push([
                Cell::from(name),
                Cell::from(inputs),
                Cell::from(u64::from(depth.unsigned_abs())),
                Cell::from(result),
                Cell::from(value),
                Cell::from(value / 21.0 * 100.0),
            ])?;
        }
    }
    let mut found = Table::new("cores", "What outputs alone say of each core")
        .text("core", "tensor core")
        .text("sizes", "leaves below each node on the way from leaf 0 to the root, of 64")
        .count(
            "terms at once",
            "leaves that no pair separates from the last node: products summed with the running sum",
        )
        .count("fraction bits", "the deepest term that survives beside a large one of the same step")
        .count("result bits", "the deepest bit beside 1 that a result keeps")
        .count("toward zero", "1 where a term cut off at alignment leaves no trace, of either sign")
        .count("model L", "terms of the model")
        .count("model F", "fraction bits of the model");
    for (step, (name, core)) in CORES.into_iter().enumerate() {
        settings.progress(step, CORES.len() + 1);
        let Probe { sizes, terms, fraction_bits, result_bits, toward_zero } = probe::core(&core, LEAVES)?;
        found.push([
            Cell::from(name),
            Cell::from(probe::text(&sizes)),
            Cell::from(terms),
            Cell::from(fraction_bits),
            Cell::from(result_bits),
            Cell::from(usize::from(toward_zero)),
            Cell::from(core.terms),
            Cell::from(u64::from(core.fraction_bits)),
        ])?;
    }
    let mut features = Table::new("features", "Feature tests of FTTN, products and c as in its source")
        .text("test", "what it is for; eight products of 1 in the last two")
        .text("core", "tensor core")
        .bits("c", "f32")
        .bits("result", "f32")
        .float("above", "", "result minus the exact sum")
        .float("value", "", "the result");
    for (test, products, c) in FEATURES {
        for (name, core) in CORES {
            let result = probe::sum_from(&core, products, c)?;
            // A few numbers of at most 26 bits: exact in f64.
            let exact = products.iter().sum::<f64>() + f64::from(c);
            let figures = [f64::from(result) - exact, f64::from(result)].map(Cell::from);
            let texts = [Cell::from(test), Cell::from(name), Cell::from(c), Cell::from(result)];
            features.push(texts.into_iter().chain(figures))?;
        }
    }
    let mut policies = Table::new("policies", "The tree of a whole sum on Hopper FP8, K = 512, without scales")
        .text("policy", "accumulation policy")
        .text("sizes of leaf 0", "leaves below each node on the way from the first leaf to the root")
        .text("sizes of leaf 511", "the same from the last leaf")
        .count("nodes", "on the way of the first");
    for policy in ["chain", "promote128", "promote64", "promote256", "split2", "split4"] {
        let sizes = |leaf: usize| probe::policy(policy.parse()?, leaf, 512);
        let (first, last) = (sizes(0)?, sizes(511)?);
        let texts = [policy.to_owned(), probe::text(&first), probe::text(&last)].map(Cell::from);
        policies.push(texts.into_iter().chain([Cell::from(first.len())]))?;
    }
    findings(&mut outcome, &rows, &features, &found)?;
    for (name, title, inputs) in [
        ("f16", "Share of small terms that survives the cancelling of large ones: f16", "f16"),
        ("fp8", "Share of small terms that survives the cancelling of large ones: FP8", "FP8"),
    ] {
        let figure = Figure::lines(name, title, "row").x("n", Scale::Linear).y(["kept"], Scale::Linear);
        outcome.figures.push(figure.by("core").only("inputs", inputs));
    }
    outcome.figures.push(
        Figure::bars("cores", "What the outputs say of each core", "cores")
            .x("core", Scale::Linear)
            .y(["terms at once", "fraction bits", "result bits"], Scale::Linear)
            .y_label("terms, bits"),
    );
    outcome.tables.extend([rows, features, found, policies]);
    Ok(outcome)
}

fn findings(outcome: &mut Outcome, rows: &Table, features: &Table, found: &Table) -> Result<(), StudyError> {
    let value = |core: &str, depth: &str| rows.figure(&[("core", core), ("n", depth)], "value");
    let answers = |depth: &str| {
        let texts = CORES.iter().map(|(name, _)| Ok::<_, StudyError>(format!("{name} {}", value(name, depth)?)));
        Ok::<_, StudyError>(texts.collect::<Result<Vec<_>, _>>()?.join(", "))
    };
    outcome.finding(format!(
        "One row, different answers. Small terms {QUOTED} binary places below a large one that cancels, in units of their \
         leading bit (exact: 21): {}. A core keeps each term down to its last bit at alignment and cuts the \
         rest: a term is whole, loses its lower bit, or is gone. Where the row takes two steps of 8 the running sum is \
         rounded to f32 between them, and a little more is lost.",
        answers(QUOTED)?
    ));
    let feature = |test: usize, core: &str| features.figure(&[("test", FEATURES[test].0), ("core", core)], "value");
    let mut not_monotonic = Vec::new();
    for (name, _) in CORES {
        if feature(2, name)? > feature(3, name)? {
            not_monotonic.push(name);
        }
    }
    outcome.finding(format!(
        "FTTN's own test of monotonicity, eight products of 1 and c = 2^25 - 2 against 2^25: the smaller c gives the larger \
         sum on {} (there {} against {}). A larger c moves the last bit that is kept above the products.",
        not_monotonic.join(" and "),
        feature(2, not_monotonic.first().copied().unwrap_or_default())?,
        feature(3, not_monotonic.first().copied().unwrap_or_default())?,
    ));
    let text = |core: &str, column: &str| found.figure(&[("core", core)], column);
    let agree = CORES.iter().map(|(name, _)| {
        Ok(text(name, "terms at once")? == text(name, "model L")?
            && text(name, "fraction bits")? == text(name, "model F")?)
    });
    let agree = agree.collect::<Result<Vec<bool>, StudyError>>()?.into_iter().filter(|agree| *agree).count();
    outcome.finding(format!(
        "Outputs alone give a core away: for {agree} of {} the probes find the number of terms summed at once and the \
         fraction bits that the model was given. Hopper FP8: {} products with the running sum in one node, {} fraction \
         bits, {} in the result. On a GPU the same probes are one or two instructions each.",
        CORES.len(),
        text("Hopper FP8", "terms at once")?,
        text("Hopper FP8", "fraction bits")?,
        text("Hopper FP8", "result bits")?,
    ));
    outcome.published.push(Published {
        quantity: "Answers of GPUs to one matrix product".to_owned(),
        published: "0 on V100, A100 and MI250X; 255.875 on MI100; 191.875 on H100 (f16)".to_owned(),
        source: "FTTN, arXiv 2403.00232, abstract".to_owned(),
        ours: format!("for a row of our own (exact 21): {}", answers(QUOTED)?),
        comparable: Comparable::No,
        note: "The matrix is neither in the abstract nor in the public repository (its f16 tests and its README), and the full \
               text was not at hand, so 191.875 is not reproduced. Our row is of the same kind: large terms cancel, and what is left \
               says how many bits below them the core keeps. As published, Volta and Ampere lose what Hopper keeps in \
               part. The tests in `features` are the paper's; its results for them we have not seen."
            .to_owned(),
    });
    outcome.published.push(Published {
        quantity: "Summation tree of H100's f16 tensor cores".to_owned(),
        published: "a 17-way tree: 16 products and the running sum in one node".to_owned(),
        source: "FPRev, arXiv 2411.00442 v3, on matrix multiplication on Tensor Cores".to_owned(),
        ours: format!("{} products and the running sum", text("Hopper f16", "terms at once")?),
        comparable: Comparable::Partly,
        note: "Ours is the tree of the model, which was built from such findings: it agrees with itself and with them, and \
               proves nothing about a GPU. The FP8 cores' trees are not published."
            .to_owned(),
    });
    Ok(())
}
