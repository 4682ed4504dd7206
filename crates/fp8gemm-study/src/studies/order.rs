//! The order of accumulation: how many outputs have other bits when the same blocks are added otherwise.

use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_formats::{ScaledMatrix, ScaledView};
use fp8gemm_problem::{OutputType, Policy};
use fp8gemm_sim::metrics::{Metrics, Ulp};
use fp8gemm_sim::{Gemm, f32_to_bf16};
use ndarray::{Array2, Axis, Slice};

use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Product, Published, Scale, Settings, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "order",
    title: "The order of accumulation",
    question: "How many outputs have other bits when blocks of K are added in another order, or scaled with other \
               roundings?",
    takes: "products of 128 x 128 with K = 1024, 4096, 16384 of N(0,1) and U(0,1), 1x128 and 128x128 scales; eleven \
            orders against promote128",
    run: order,
};

const BLOCK: usize = 128;
const DISTRIBUTIONS: [Distribution; 2] = [Distribution::NORMAL, Distribution::UNIFORM];

/// A block of 128 elements of K: what the tensor core has for it, and its two scales.
#[derive(Clone, Copy)]
struct Term {
    x: f32,
    sa: f32,
    sb: f32,
}

/// From the terms of an output in the order of K to the output.
type Order = fn(&[Term]) -> f32;

/// Orders that kernels use or could use, besides the policies of the twin. The first is `promote128`
/// itself, which the test below holds against the twin.
const ORDERS: [(&str, &str, Order); 7] = [
    ("promote128", "acc = fma(fl(sa sb), x, acc)", promote),
    ("cutlass128", "acc = fma(fl(x sa), sb, acc)", |terms| {
        terms.iter().fold(0.0, |acc, term| (term.x * term.sa).mul_add(term.sb, acc))
    }),
    ("no FMA", "acc = fl(acc + fl(fl(sa sb) x))", |terms| {
        terms.iter().fold(0.0, |acc, term| acc + term.sa * term.sb * term.x)
    }),
    ("no FMA, x first", "acc = fl(acc + fl(fl(x sa) sb))", |terms| {
        terms.iter().fold(0.0, |acc, term| acc + term.x * term.sa * term.sb)
    }),
    ("reversed", "promote128 from the last block to the first", |terms| {
        terms.iter().rev().fold(0.0, |acc, term| (term.sa * term.sb).mul_add(term.x, acc))
    }),
    ("pairwise", "fl(fl(sa sb) x) of neighbours added, then of their sums", pairwise),
    ("stream-K 3/8", "promote128 on the first 3/8 of the blocks and on the rest, then one addition", |terms| {
        let (first, rest) = terms.split_at(terms.len() * 3 / 8);
        promote(first) + promote(rest)
    }),
];

/// Policies of the twin that are legal with these scales.
const POLICIES: [(Policy, &str); 5] = [
    (Policy::Split { parts: 2 }, "promote128 on halves of K, then one addition"),
    (Policy::Split { parts: 4 }, "on quarters"),
    (Policy::Split { parts: 8 }, "on eighths"),
    (Policy::Promote { every: 64 }, "acc = fma(fl(sa sb), x, acc) every 64: the tensor core sums less"),
    (Policy::Promote { every: 32 }, "every 32"),
];

fn promote(terms: &[Term]) -> f32 {
    terms.iter().fold(0.0, |acc, term| (term.sa * term.sb).mul_add(term.x, acc))
}

fn pairwise(terms: &[Term]) -> f32 {
    match terms {
        [] => 0.0,
        [term] => term.sa * term.sb * term.x,
        _ => {
            let (left, right) = terms.split_at(terms.len().div_ceil(2));
            pairwise(left) + pairwise(right)
        }
    }
}

/// Runs the study: every order on the same chains of 128.
///
/// The tensor core's sums of 128 products are computed once; each order combines them in f32 with the
/// scales. Only `promote64` and `promote32` change what the tensor core itself adds. Outputs are
/// compared with those of `promote128` (DeepGEMM's arithmetic) as bits, in f32 and rounded to bf16.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::order(&Settings::quick())?;
/// let share = |output| outcome.tables[0].figure(&[("distribution", "normal(0, 1)"), ("order", "cutlass128")], output);
/// assert!(share("f32 share")? > 40.0 && share("bf16 share")? < 1.0); // %
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn order(settings: &Settings) -> Result<Outcome, StudyError> {
    let mn = settings.size(32, 128);
    let lengths: &[usize] = settings.size(&[1024, 4096], &[1024, 4096, 16384]);
    let quantizers: [Quantizer; 2] = ["deepgemm:1x128".parse()?, "deepgemm:128x128".parse()?];
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("M and N", mn);
    outcome.parameter("quantisation", format!("A {}, B {}", quantizers[0], quantizers[1]));

    let mut table = Table::new("orders", "Outputs whose bits are not those of promote128")
        .text("distribution", "of the elements of A and B")
        .text("order", "of accumulation")
        .text("formula", "fl: one f32 rounding; x: sum of a block; sa, sb: its scales")
        .count("K", "elements of each sum")
        .count("outputs", "how many")
        .count("other f32", "outputs with other f32 bits")
        .count("other bf16", "outputs with other bits after rounding to bf16")
        .count("f32 ULP", "largest distance in f32")
        .count("bf16 ULP", "largest distance in bf16")
        .bits("fingerprint", "of all f32 outputs: sum (i + 1) bits(d_i) mod 2^64")
        .float("f32 share", "%", "other f32 over outputs")
        .float("bf16 share", "%", "other bf16 over outputs")
        .float("difference", "%", "norm of the difference over norm of the exact product")
        .float("error", "%", "norm of this order's error over norm of the exact product");
    let total = DISTRIBUTIONS.len() * lengths.len();
    for (step, distribution) in DISTRIBUTIONS.into_iter().enumerate() {
        for (substep, &k) in lengths.iter().enumerate() {
            settings.progress(step * lengths.len() + substep, total);
            let sample = |role: &str, quantizer: Quantizer| {
                Ok::<_, StudyError>(quantizer.quantize(distribution.sample(settings.seed, role, (mn, k))?.view())?)
            };
            let product = Product::new(sample("a", quantizers[0])?, sample("b", quantizers[1])?)?;
            let chains = chains(&product)?;
            let base = combine(&product, &chains, promote);
            let mut push = |name: &str, formula: &str, output: &Array2<f32>| {
                let row = compare(&product, &base, output)?;
                let text = [distribution.to_string(), name.to_owned(), formula.to_owned()].map(Cell::from);
                table.push(text.into_iter().chain([Cell::from(k)]).chain(row))
            };
            for (name, formula, order) in ORDERS {
                push(name, formula, &combine(&product, &chains, order))?;
            }
            for (policy, formula) in POLICIES {
                push(&policy.to_string(), formula, &product.output(policy)?)?;
            }
        }
    }
    findings(&mut outcome, &table)?;
    for (name, title, column, scale) in [
        ("f32", "f32 outputs with other bits than promote128, K = 4096", "f32 share", Scale::Linear),
        ("bf16", "bf16 outputs with other bits than promote128, K = 4096", "bf16 share", Scale::Log10),
    ] {
        let figure = Figure::bars(name, title, "orders").x("order", Scale::Linear).y([column], scale);
        outcome.figures.push(figure.y_label("outputs [%]").by("distribution").only("K", "4096"));
    }
    outcome.tables.push(table);
    Ok(outcome)
}

/// What the tensor core has for each block of 128: one chain, no scales.
fn chains(product: &Product) -> Result<Vec<Array2<f32>>, StudyError> {
    let block = |view: ScaledView<'_>, start: usize| {
        let end = view.columns().min(start + BLOCK);
        ScaledMatrix::unscaled(view.ty(), view.codes().slice_axis(Axis(1), Slice::from(start..end)).to_owned())
    };
    let starts = (0..product.a.columns()).step_by(BLOCK);
    let run = |start: usize| {
        let (a, b) = (block(product.a.view(), start), block(product.b.view(), start));
        let gemm = Gemm::new(a.view(), b.view()).policy(Policy::Chain).output(OutputType::F32);
        Ok(gemm.run()?.to_f32())
    };
    starts.map(run).collect()
}

fn combine(product: &Product, chains: &[Array2<f32>], order: Order) -> Array2<f32> {
    let (a, b) = (product.a.view(), product.b.view());
    Array2::from_shape_fn((a.rows(), b.rows()), |(row, column)| {
        let scale = |block: usize| (a.scale_at(row, block * BLOCK), b.scale_at(column, block * BLOCK));
        let term = |(block, chain): (usize, &Array2<f32>)| {
            let (sa, sb) = scale(block);
            Term { x: chain[(row, column)], sa, sb }
        };
        order(&chains.iter().enumerate().map(term).collect::<Vec<_>>())
    })
}

/// The cells of a row after its labels.
fn compare(product: &Product, base: &Array2<f32>, output: &Array2<f32>) -> Result<[Cell; 10], StudyError> {
    let pairs = || base.iter().zip(output).map(|(x, y)| (*x, *y));
    let count = output.len();
    let other_f32 = pairs().filter(|(x, y)| x.to_bits() != y.to_bits()).count();
    let other_bf16 = pairs().filter(|&(x, y)| f32_to_bf16(x).to_bits() != f32_to_bf16(y).to_bits()).count();
    let ulp = pairs().filter_map(|(x, y)| x.ulp_distance(y)).max().unwrap_or(0);
    let ulp_bf16 = pairs().filter_map(|(x, y)| f32_to_bf16(x).ulp_distance(f32_to_bf16(y))).max().unwrap_or(0);
    let share = |other: usize| Cell::from(100.0 * other as f64 / count as f64);
    let difference = pairs().map(|(x, y)| (f64::from(x) - f64::from(y)) * (f64::from(x) - f64::from(y))).sum::<f64>();
    let norm = product.exact.iter().map(|x| x * x).sum::<f64>();
    Ok([
        Cell::from(count),
        Cell::from(other_f32),
        Cell::from(other_bf16),
        Cell::from(ulp),
        Cell::from(ulp_bf16),
        Cell::fingerprint(output),
        share(other_f32),
        share(other_bf16),
        Cell::from(100.0 * (difference / norm).sqrt()),
        Cell::from(100.0 * Metrics::new(product.exact.view(), output.view())?.relative_frobenius),
    ])
}

fn findings(outcome: &mut Outcome, table: &Table) -> Result<(), StudyError> {
    let figure = |distribution: Distribution, order: &str, column: &str| {
        let labels =
            [("distribution", distribution.to_string()), ("order", order.to_owned()), ("K", "4096".to_owned())];
        table.figure(&labels.each_ref().map(|(name, text)| (*name, text.as_str())), column)
    };
    let (normal, uniform) = (Distribution::NORMAL, Distribution::UNIFORM);
    let names = ["cutlass128", "no FMA", "reversed", "pairwise", "split2", "split8", "stream-K 3/8"];
    let range = |distribution: Distribution, column: &str| {
        let values = names.iter().map(|name| figure(distribution, name, column)).collect::<Result<Vec<_>, _>>()?;
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        Ok::<_, StudyError>((low, values.iter().copied().fold(0.0, f64::max)))
    };
    let (f32_normal, bf16_normal) = (range(normal, "f32 share")?, range(normal, "bf16 share")?);
    let (f32_uniform, bf16_uniform) = (range(uniform, "f32 share")?, range(uniform, "bf16 share")?);
    outcome.finding(format!(
        "At K = 4096 of N(0,1), {:.0} to {:.0} % of the f32 outputs have other bits when the same 32 blocks are added \
         otherwise (cutlass128 {:.0} %, without FMA {:.0} %, split in two {:.0} %), but after rounding to bf16 {:.2} to \
         {:.2} %. On U(0,1): {:.0} to {:.0} % and {:.2} to {:.2} %.",
        f32_normal.0,
        f32_normal.1,
        figure(normal, "cutlass128", "f32 share")?,
        figure(normal, "no FMA", "f32 share")?,
        figure(normal, "split2", "f32 share")?,
        bf16_normal.0,
        bf16_normal.1,
        f32_uniform.0,
        f32_uniform.1,
        bf16_uniform.0,
        bf16_uniform.1,
    ));
    let largest = range(normal, "difference")?.1;
    outcome.finding(format!(
        "The differences are of no consequence to accuracy: at most {largest:.1e} % of the norm, where the error of \
         accumulation is {:.1e} %, and no order is better. They matter to whoever compares bits, or wants the same bits \
         from every run: a model of a kernel must name its order, and a cut that depends on the number of \
         multiprocessors, as stream-K's, gives other bits on another GPU.",
        figure(normal, "promote128", "error")?,
    ));
    outcome.finding(format!(
        "Promotion at another interval is no reordering: promote64 changes what the tensor core cuts off. {:.0} % of the \
         f32 outputs on N(0,1) differ and {:.1} % of the bf16 ones, and the error goes from {:.4} to {:.4} %.",
        figure(normal, "promote64", "f32 share")?,
        figure(normal, "promote64", "bf16 share")?,
        figure(normal, "promote128", "error")?,
        figure(normal, "promote64", "error")?,
    ));
    outcome.published.push(Published {
        quantity: "Outputs with other bits, K = 4096: promote128 against cutlass128, against no FMA".to_owned(),
        published: "64 % of f32 outputs, 68 to 72 %; 0.02 to 0.03 % after bf16".to_owned(),
        source:
            "this project's own numerical reference (section 4), computed with another program; nothing is published \
                 for FP8"
                .to_owned(),
        ours: format!(
            "N(0,1): {:.1} %, {:.1} and {:.1} %; after bf16 {:.2}, {:.2} and {:.2} %",
            figure(normal, "cutlass128", "f32 share")?,
            figure(normal, "no FMA", "f32 share")?,
            figure(normal, "no FMA, x first", "f32 share")?,
            figure(normal, "cutlass128", "bf16 share")?,
            figure(normal, "no FMA", "bf16 share")?,
            figure(normal, "no FMA, x first", "bf16 share")?,
        ),
        comparable: Comparable::Partly,
        note: "The reference gives neither its data nor its number of outputs.".to_owned(),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test may
    use super::*;

    /// Breaks if the orders written here are not those of the twin's policies, so that the study
    /// compares something else with them.
    #[test]
    fn orders_that_are_policies_have_the_twins_bits() {
        let sample = |role: &str, quantizer: &str| {
            let x = Distribution::NORMAL.sample(1, role, (24, 1024)).unwrap();
            quantizer.parse::<Quantizer>().unwrap().quantize(x.view()).unwrap()
        };
        let product = Product::new(sample("a", "deepgemm:1x128"), sample("b", "deepgemm:128x128")).unwrap();
        let chains = chains(&product).unwrap();
        for (name, _, order) in &ORDERS[..2] {
            let twin = product.output(name.parse().unwrap()).unwrap();
            assert_eq!(combine(&product, &chains, *order), twin, "{name}");
        }
        let halves: Order = |terms| promote(&terms[..4]) + promote(&terms[4..]);
        assert_eq!(combine(&product, &chains, halves), product.output(Policy::Split { parts: 2 }).unwrap());
        assert_ne!(combine(&product, &chains, promote), combine(&product, &chains, pairwise));
    }
}
