//! Ada's, Hopper's and Blackwell's FP8 accumulators side by side, and FP8 against f16 instructions.

use fp8gemm_formats::{Fp8Format, Overflow, Rounding, ScaledMatrix};
use fp8gemm_problem::{OperandType, OutputType, Policy};
use fp8gemm_sim::Gemm;
use fp8gemm_sim::metrics::Metrics;
use fp8gemm_sim::tensor_core::TensorCore;
use ndarray::Array2;

use super::cores;
use super::sweep::TENSOR;
use crate::sample::Distribution;
use crate::{Cell, Comparable, Figure, Outcome, Product, Published, Scale, Settings, Shape, Study, StudyError, Table};

pub(super) const STUDY: Study = Study {
    name: "accumulators",
    title: "Ada, Hopper and Blackwell accumulators",
    question: "How much do the FP8 accumulators of three generations lose, and an FP8 instruction against an f16 one?",
    takes: "products of 48 x 48 with K from 128 to 8192, for U(0,1) and N(0,1), E4M3 and E5M2, on three tensor cores; \
            8 products of 128 x 128 x 128 of E5M2 on an FP8 and an f16 tensor core",
    run: accumulators,
};

const LENGTHS: [usize; 4] = [128, 512, 2048, 8192];
const DISTRIBUTIONS: [Distribution; 2] = [Distribution::UNIFORM, Distribution::NORMAL];
/// The two instructions of the published comparison, both of Ada.
const INSTRUCTIONS: [(&str, TensorCore); 2] =
    [("QMMA (FP8, L16 F13)", TensorCore::ADA_FP8_F32), ("HMMA (f16, L8 F24)", cores::AMPERE_F16)];

/// Runs the study: the same codes on several tensor cores, against the exact product.
///
/// `sums` shows one chain over all of K and promotion every 128. `instructions` repeats the comparison
/// of MMA-Sim's notebook: N(0,1) cast to E5M2 as it is, one chain over K = 128. E5M2 has f16's
/// exponents and its first two fraction bits, subnormals included, so the f16 instruction on the same
/// numbers is the f16 core on the same codes.
///
/// ```
/// use fp8gemm_study::{Settings, studies};
///
/// let outcome = studies::accumulators(&Settings::quick())?;
/// let chain = [("format", "e4m3"), ("distribution", "uniform(0, 1)"), ("policy", "chain"), ("K", "8192")];
/// let bias = |core| outcome.tables[0].figure(&[&[("core", core)], &chain[..]].concat(), "bias");
/// assert!(bias("Hopper FP8")? < -10.0 && bias("Blackwell FP8")? > -0.001); // %
/// # Ok::<(), fp8gemm_study::StudyError>(())
/// ```
///
/// # Errors
/// None with ordinary settings.
pub fn accumulators(settings: &Settings) -> Result<Outcome, StudyError> {
    let mn = settings.size(16, 48);
    let mut outcome = Outcome::new(&STUDY, settings);
    outcome.parameter("M and N", mn);
    outcome.parameter("tensor cores", cores::describe(&cores::FP8));
    outcome.parameter("quantisation", format!("{TENSOR}, and the same to E5M2"));

    let mut sums = Table::new("sums", "Error of accumulation by tensor core")
        .text("core", "tensor core")
        .text("format", "of A and B")
        .text("distribution", "of the elements of A and B")
        .text("policy", "accumulation policy")
        .count("K", "elements of each sum")
        .bits("fingerprint", "of all outputs: sum (i + 1) bits(d_i) mod 2^64")
        .float("bias", "%", "sum of errors over sum of magnitudes")
        .float("relative Frobenius", "%", "norm of the error over norm of the exact product")
        .float("SNR", "dB", "10 log10(sum of squares over sum of squared errors)");
    let mut step = 0;
    for ty in OperandType::ALL {
        for distribution in DISTRIBUTIONS {
            for k in LENGTHS {
                settings.progress(step, 2 * DISTRIBUTIONS.len() * LENGTHS.len() + 1);
                step += 1;
                let product = Product::sample(distribution, TENSOR.with_ty(ty), Shape::square(mn, k), settings.seed)?;
                for (name, core) in cores::FP8 {
                    for policy in [Policy::Chain, Policy::PROMOTE_128] {
                        let output = run(&product, core, policy)?;
                        let metrics = Metrics::new(product.exact.view(), output.view())?;
                        sums.push([
                            Cell::from(name),
                            Cell::from(ty.to_string()),
                            Cell::from(distribution.to_string()),
                            Cell::from(policy.to_string()),
                            Cell::from(k),
                            Cell::fingerprint(&output),
                            Cell::from(metrics.bias * 100.0),
                            Cell::from(metrics.relative_frobenius * 100.0),
                            Cell::from(metrics.snr_db),
                        ])?;
                    }
                }
            }
        }
    }
    let instructions = instructions(settings)?;
    findings(&mut outcome, &sums, &instructions)?;
    for (name, title, distribution, column) in [
        ("bias", "Bias on U(0,1), E4M3, one chain", Distribution::UNIFORM, "bias"),
        (
            "frobenius",
            "Relative Frobenius error on N(0,1), E4M3, one chain",
            Distribution::NORMAL,
            "relative Frobenius",
        ),
    ] {
        let figure = Figure::lines(name, title, "sums").x("K", Scale::Log2).y([column], Scale::Log10).by("core");
        let only = figure.only("format", "e4m3").only("policy", "chain");
        outcome.figures.push(only.only("distribution", &distribution.to_string()));
    }
    outcome.tables.push(sums);
    outcome.tables.push(instructions);
    Ok(outcome)
}

fn run(product: &Product, core: TensorCore, policy: Policy) -> Result<Array2<f32>, StudyError> {
    let gemm = Gemm::new(product.a.view(), product.b.view()).core(core).policy(policy).output(OutputType::F32);
    Ok(gemm.run()?.to_f32())
}

/// MSE of the two instructions on the same E5M2 numbers.
fn instructions(settings: &Settings) -> Result<Table, StudyError> {
    let products = settings.size(2u64, 8);
    let mut table =
        Table::new("instructions", "FP8 against f16 instruction: E5M2 cast of N(0,1), 128 x 128 x 128, one chain")
            .text("instruction", "of Ada")
            .count("seed", "of the sample")
            .count("inexact", "outputs that are not the exact sum, rounded toward zero to f32")
            .bits("fingerprint", "of all outputs")
            .float("MSE", "", "mean e^2, e against the exact sum of the products of codes")
            .float("relative MSE", "", "mean e^2 over mean x^2");
    for trial in 0..products {
        let seed = settings.seed.wrapping_add(trial);
        let cast = |role: &str| {
            let x = Distribution::NORMAL.sample(seed, role, (128, 128))?;
            let codes = x.mapv(|x| Fp8Format::E5m2.encode(x, Rounding::NearestEven, Overflow::Saturate));
            Ok::<_, StudyError>(ScaledMatrix::unscaled(OperandType::E5m2, codes))
        };
        let product = Product::new(cast("a")?, cast("b")?)?;
        for (name, core) in INSTRUCTIONS {
            let output = run(&product, core, Policy::Chain)?;
            let pairs = || product.exact.iter().zip(&output);
            let squares = pairs().map(|(x, y)| (f64::from(*y) - x) * (f64::from(*y) - x)).sum::<f64>();
            let inexact = pairs().filter(|&(x, y)| cores::toward_zero(*x) != *y).count();
            table.push([
                Cell::from(name),
                Cell::from(seed),
                Cell::from(inexact),
                Cell::fingerprint(&output),
                Cell::from(squares / output.len() as f64),
                Cell::from(squares / product.exact.iter().map(|x| x * x).sum::<f64>()),
            ])?;
        }
    }
    Ok(table)
}

fn findings(outcome: &mut Outcome, sums: &Table, instructions: &Table) -> Result<(), StudyError> {
    let figure = |core: &str, format: &str, distribution: Distribution, policy: &str, k: &str, column: &str| {
        let distribution = distribution.to_string();
        let labels =
            [("core", core), ("format", format), ("distribution", &distribution), ("policy", policy), ("K", k)];
        sums.figure(&labels, column)
    };
    let bias = |core: &str, format: &str, policy: &str, k: &str| {
        figure(core, format, Distribution::UNIFORM, policy, k, "bias")
    };
    let ratio =
        |k: &str| Ok::<_, StudyError>(bias("Ada FP8", "e4m3", "chain", k)? / bias("Hopper FP8", "e4m3", "chain", k)?);
    outcome.finding(format!(
        "In one chain over K = 8192 of U(0,1), E4M3, the bias is {:.1} % on Ada, {:.1} % on Hopper and {:.4} % on \
         Blackwell. That Ada sums 16 products at once and Hopper 32 matters while sums are short ({:.2} times the bias at \
         K = 128) and not when they are long ({:.2} times): then nearly all is lost where each product is aligned to the \
         large running sum and cut to 13 fraction bits, and there are as many products on either.",
        bias("Ada FP8", "e4m3", "chain", "8192")?,
        bias("Hopper FP8", "e4m3", "chain", "8192")?,
        bias("Blackwell FP8", "e4m3", "chain", "8192")?,
        ratio("128")?,
        ratio("8192")?,
    ));
    outcome.finding(format!(
        "Promotion every 128 brings Ada to {:.3} % and Hopper to {:.3} %. Blackwell, with 25 fraction bits and a whole f32 \
         as accumulator, has {:.1e} % without promotion, {:.0} times less than Hopper with it: it needs none. The format \
         of the operands matters little: E5M2 in one chain has {:.1} % on Hopper.",
        bias("Ada FP8", "e4m3", "promote128", "8192")?,
        bias("Hopper FP8", "e4m3", "promote128", "8192")?,
        bias("Blackwell FP8", "e4m3", "chain", "8192")?,
        bias("Hopper FP8", "e4m3", "promote128", "8192")? / bias("Blackwell FP8", "e4m3", "chain", "8192")?,
        bias("Hopper FP8", "e5m2", "chain", "8192")?,
    ));
    let mse = |instruction: usize| {
        let index = instructions.index("MSE")?;
        let rows = instructions.rows().iter().filter(|row| row[0].to_string() == INSTRUCTIONS[instruction].0);
        Ok::<Vec<f64>, StudyError>(rows.filter_map(|row| row[index].number()).collect())
    };
    let range = |values: &[f64]| {
        let (low, high) =
            (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(0.0, f64::max));
        format!("{low:.2e} to {high:.2e}")
    };
    let (qmma, hmma) = (mse(0)?, mse(1)?);
    outcome.finding(format!(
        "On the same E5M2 numbers, K = 128, the FP8 instruction has a mean squared error of {}, the f16 instruction {}. \
         The f16 error is small because sums of products of 3-bit significands nearly fit in an f32; where nothing is \
         cut it is 0.",
        range(&qmma),
        range(&hmma),
    ));
    outcome.published.push(Published {
        quantity: "MSE of FP8 (QMMA) and f16 (HMMA) instructions, E5M2 of N(0,1), 128 x 128 x 128".to_owned(),
        published: "QMMA 1.03e-6, HMMA 4.2e-15".to_owned(),
        source: "MMA-Sim (arXiv 2511.10909), its repository's notebook tests/accuracy/compare_qmma_vs_hmma.ipynb".to_owned(),
        ours: format!("QMMA {}, HMMA {} ({} products)", range(&qmma), range(&hmma), qmma.len()),
        comparable: Comparable::Yes,
        note: "The notebook: 100 products, N(0,1) in f16 cast to E5M2, no scale, chained instructions of K = 16, mean squared \
               error against f64. Ours: the same without the step through f16, against exact sums, a figure for each \
               product; other samples, so equal digits cannot be expected. Both are models' figures, no GPU's."
            .to_owned(),
    });
    Ok(())
}
