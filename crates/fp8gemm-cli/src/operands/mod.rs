//! From tensors in files to the operands of a GEMM: names, scale layouts, checks.

mod layouts;
mod operand;
mod stored;

use std::path::{Path, PathBuf};

use fp8gemm::formats::quantize::Recipe;
use fp8gemm::problem::{Epilogue, OutputType, Policy, Problem, ScaleLayout, Side};
use fp8gemm::sim::Matrix;

use crate::args::OperandArgs;
use crate::engine::Task;
use crate::error::{CliError, InFile};
use crate::files::{TensorFault, TensorFile, TensorView};
use layouts::{choose, distinct};
use stored::Stored;

pub(crate) use layouts::usual_layout;
pub(crate) use operand::{Operand, Place};
pub(crate) use stored::quantize;

/// The files of a command, each opened once.
pub(crate) struct Files(Vec<TensorFile>);

impl Files {
    pub(crate) fn open<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Self, CliError> {
        let mut files: Vec<TensorFile> = Vec::new();
        for path in paths {
            if !files.iter().any(|file| file.path() == path) {
                files.push(TensorFile::open(path).in_file(path)?);
            }
        }
        Ok(Self(files))
    }

    /// The files, in the order in which they were named.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &TensorFile> {
        self.0.iter()
    }

    /// The file of that path, which was opened.
    pub(crate) fn get(&self, path: &Path) -> Option<&TensorFile> {
        self.0.iter().find(|file| file.path() == path)
    }
}

/// Where operands and C are taken from.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'f> {
    pub(crate) a: &'f TensorFile,
    pub(crate) b: &'f TensorFile,
    pub(crate) scale_a: Option<&'f TensorFile>,
    pub(crate) scale_b: Option<&'f TensorFile>,
    /// The file whose `c` must exist.
    pub(crate) c: Option<&'f TensorFile>,
    /// The files whose `c` counts if there is exactly one.
    pub(crate) beside: [&'f TensorFile; 2],
    /// Whether M, N or K may be 0.
    pub(crate) may_be_empty: bool,
}

/// Operands, C and epilogue of one GEMM.
pub(crate) struct Inputs<'f> {
    pub(crate) a: Operand<'f>,
    pub(crate) b: Operand<'f>,
    pub(crate) c: Option<Matrix>,
    pub(crate) epilogue: Epilogue,
    /// The scale layouts that the shapes can mean and that differ in what is computed, the
    /// preferred first.
    pub(crate) readings: Vec<Layouts>,
}

impl Inputs<'_> {
    /// The problem of these operands with their scales read as these layouts; quantises nothing.
    pub(crate) fn problem(&self, (a, b): Layouts, output: OutputType, policy: Policy) -> Problem {
        let ((m, k), (n, _)) = (self.a.dim(), self.b.dim());
        let (a, b, c) = (self.a.spec_as(a), self.b.spec_as(b), self.c.as_ref().map(Matrix::ty));
        Problem { m, n, k, a, b, c, d: output, policy, epilogue: self.epilogue }
    }

    /// The product of these operands with their scales read as these layouts. What was not quantised
    /// yet is quantised now, on the CPU.
    ///
    /// # Errors
    /// As [`Operand::view_as`].
    pub(crate) fn task(&self, (a, b): Layouts, output: OutputType, policy: Policy) -> Result<Task<'_>, CliError> {
        let (a, b) = (self.a.view_as(a)?, self.b.view_as(b)?);
        Ok(Task { a, b, c: self.c.as_ref().map(Matrix::view), output, policy, epilogue: self.epilogue })
    }
}

/// Scale layouts of A and B.
pub(crate) type Layouts = (ScaleLayout, ScaleLayout);

/// Reads operands and C. Operands that are not FP8 are quantised if there is a recipe.
pub(crate) fn load<'f>(
    sources: &Sources<'f>,
    args: &OperandArgs,
    epilogue: (Option<f32>, Option<f32>),
    recipe: Option<Recipe>,
) -> Result<Inputs<'f>, CliError> {
    let b_name = args.weight.as_deref().map_or_else(|| args.b_tensor.clone(), weight_name);
    let a = Stored::find(Side::A, sources.a, &args.a_tensor, sources.scale_a)?;
    let b = Stored::find(Side::B, sources.b, &b_name, sources.scale_b)?;
    if args.weight.is_some() && b.scales.is_none() && !b.tensor.ty().is_float() {
        // A checkpoint is a pair: what is quantised has scales, here or in the shard of --scale-b.
        b.file.require(&scale_name(&b_name)).in_file(b.file.path())?;
    }
    if recipe.is_some() && !a.tensor.ty().is_float() && !b.tensor.ty().is_float() {
        return Err(CliError::Usage("--recipe has nothing to quantise: both operands are FP8 already".to_owned()));
    }
    if !sources.may_be_empty {
        a.expect_elements()?;
        b.expect_elements()?;
    }
    let readings_a = a.readings(args.scale_layout_a)?;
    let readings_b = b.readings(args.scale_layout_b)?;
    let layout_a = choose(&readings_a, &readings_b);
    let layout_b = choose(&readings_b, &readings_a);
    let allow = args.allow_nonfinite_scales;
    expect_same_k(&a, &b)?;
    let a = a.into_operand(layout_a, args.dtype_a.or(args.dtype), recipe, allow)?;
    let b = b.into_operand(layout_b, args.dtype_b.or(args.dtype), recipe, allow)?;

    let readings = distinct((a.spec().scales, b.spec().scales), &readings_a, &readings_b);
    let (m, n) = (a.dim().0, b.dim().0);
    let (alpha, beta) = epilogue;
    let c = match sources.c {
        Some(file) => Some((file, file.require("c").in_file(file.path())?)),
        None => c_beside(sources.beside)?,
    };
    let beta = beta.unwrap_or(if c.is_some() { 1.0 } else { 0.0 });
    let epilogue = Epilogue { alpha: alpha.unwrap_or(1.0), beta };
    let c = match c {
        Some((file, c)) if epilogue.reads_c() => {
            let matrix = c.matrix().in_file(file.path())?;
            expect_shape(&c, (m, n), "C is [M, N]").in_file(file.path())?;
            Some(matrix)
        }
        _ => None,
    };
    Ok(Inputs { a, b, c, epilogue, readings })
}

/// An FP8 tensor of a checkpoint with its scales, from another file where one is given. Where their
/// shape can mean several layouts, all of them give each element the same scale.
pub(crate) fn stored<'f>(
    file: &'f TensorFile,
    name: &str,
    scales: Option<&'f TensorFile>,
) -> Result<Operand<'f>, CliError> {
    let stored = Stored::find(Side::B, file, name, scales)?;
    stored.expect_elements()?;
    let layout = stored.readings(None)?.first().copied();
    stored.into_operand(layout, None, None, false)
}

/// The names that the scales of a tensor may have.
pub(crate) fn scale_names(name: &str) -> [String; 3] {
    [format!("scale_{name}"), format!("{name}_scale_inv"), format!("{name}_scale")]
}

/// The `c` of either file.
fn c_beside<'f>([x, y]: [&'f TensorFile; 2]) -> Result<Option<(&'f TensorFile, TensorView<'f>)>, CliError> {
    let find = |file: &'f TensorFile| file.get("c").filter(|_| named(file)).map(|c| (file, c));
    match (find(x), find(y)) {
        (Some(_), Some(_)) if x.path() != y.path() => {
            let what = format!("{} and {} both hold a tensor `c`", x.path().display(), y.path().display());
            Err(CliError::Usage(format!("{what}: name the one to use with --c")))
        }
        (c, other) => Ok(c.or(other)),
    }
}

/// Whether the tensors of a file have names; the array of an `.npy` file could be anything.
pub(crate) fn named(file: &TensorFile) -> bool {
    file.container() == crate::files::Container::Safetensors
}

/// Checks the shape of C or D.
pub(crate) fn expect_shape(
    tensor: &TensorView<'_>,
    (m, n): (usize, usize),
    rule: &str,
) -> Result<(), crate::files::FileError> {
    if tensor.shape() == [m, n] {
        return Ok(());
    }
    let transposed = if tensor.shape() == [n, m] { "; it looks transposed" } else { "" };
    let rule = format!("{rule}, with M = {m} rows of A and N = {n} rows of B{transposed}");
    Err(TensorFault::Shape { shape: tensor.shape().to_vec(), expected: vec![m, n], rule }.at(tensor))
}

/// Checks that both operands have the same K.
fn expect_same_k(a: &Stored<'_>, b: &Stored<'_>) -> Result<(), CliError> {
    let ((m, k), (n, k_b)) = (a.shape()?, b.shape()?);
    if k == k_b {
        return Ok(());
    }
    let transposed = if k == n { "; it looks transposed, B is [N, K]" } else { "" };
    let rule = format!("A is [{m}, {k}], and both operands are K-major with the same K{transposed}");
    Err(TensorFault::Shape { shape: vec![n, k_b], expected: vec![n, k], rule }.at(&b.tensor)).in_file(b.file.path())
}

/// `X` or `X.weight` as the name of a checkpoint's tensor.
pub(crate) fn weight_name(x: &str) -> String {
    if x.ends_with(".weight") { x.to_owned() } else { format!("{x}.weight") }
}

/// The name that the scales of a tensor are written under.
pub(crate) fn scale_name(tensor: &str) -> String {
    if tensor.ends_with(".weight") { format!("{tensor}_scale_inv") } else { format!("scale_{tensor}") }
}
