//! From tensors in files to the operands of a GEMM: names, scale layouts, checks.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fp8gemm::formats::quantize::{Quantizer, Recipe};
use fp8gemm::formats::{ScaledMatrix, ScaledView};
use fp8gemm::problem::{Epilogue, OperandType, ScaleLayout, Side};
use fp8gemm::sim::Matrix;
use ndarray::{Array2, ArrayView2};

use crate::args::OperandArgs;
use crate::error::{CliError, InFile};
use crate::files::{TensorFault, TensorFile, TensorView};
use crate::text::list;

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
}

/// An operand, ready to be multiplied.
pub(crate) struct Operand<'f> {
    /// Name of its tensor.
    pub(crate) tensor: String,
    /// Name of the tensor of its scales, where there is one.
    pub(crate) scale_tensor: Option<String>,
    data: Data<'f>,
}

enum Data<'f> {
    Stored { ty: OperandType, layout: ScaleLayout, codes: ArrayView2<'f, u8>, scales: Array2<f32> },
    Quantized { matrix: ScaledMatrix, original: Matrix, quantizer: Quantizer },
}

impl Operand<'_> {
    pub(crate) fn view(&self) -> Result<ScaledView<'_>, CliError> {
        match &self.data {
            Data::Stored { layout, .. } => self.view_as(*layout),
            Data::Quantized { matrix, .. } => Ok(matrix.view()),
        }
    }

    /// The operand with its scales read as another layout that their shape can mean. What was
    /// quantised in this run has one layout only.
    pub(crate) fn view_as(&self, layout: ScaleLayout) -> Result<ScaledView<'_>, CliError> {
        match &self.data {
            // The shapes were checked when this was made.
            Data::Stored { ty, codes, scales, .. } => ScaledView::new(*ty, layout, *codes, scales.view())
                .map_err(|source| CliError::Quantize { tensor: self.tensor.clone(), source }),
            Data::Quantized { matrix, .. } => Ok(matrix.view()),
        }
    }

    /// The numbers before quantisation, and how they were quantised, where this run did it.
    pub(crate) fn original(&self) -> Option<(&Matrix, Quantizer)> {
        match &self.data {
            Data::Stored { .. } => None,
            Data::Quantized { original, quantizer, .. } => Some((original, *quantizer)),
        }
    }
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
    let readings_a = a.readings(args.scale_layout_a)?;
    let readings_b = b.readings(args.scale_layout_b)?;
    let layout_a = choose(&readings_a, &readings_b);
    let layout_b = choose(&readings_b, &readings_a);
    let allow = args.allow_nonfinite_scales;
    expect_same_k(&a, &b)?;
    let a = a.into_operand(layout_a, args.dtype_a.or(args.dtype), recipe, allow)?;
    let b = b.into_operand(layout_b, args.dtype_b.or(args.dtype), recipe, allow)?;

    let readings = distinct((a.view()?.layout(), b.view()?.layout()), &readings_a, &readings_b);
    let (m, n) = (a.view()?.rows(), b.view()?.rows());
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

/// An operand as it is in its file.
struct Stored<'f> {
    side: Side,
    file: &'f TensorFile,
    tensor: TensorView<'f>,
    name: String,
    scales: Option<(&'f TensorFile, TensorView<'f>, String)>,
    /// Scales that are there and do not count.
    ignored: Option<String>,
}

impl<'f> Stored<'f> {
    fn find(
        side: Side,
        file: &'f TensorFile,
        name: &str,
        scale_file: Option<&'f TensorFile>,
    ) -> Result<Self, CliError> {
        let tensor = file.require(name).in_file(file.path())?;
        let names = [format!("scale_{name}"), format!("{name}_scale_inv"), format!("{name}_scale")];
        let beside = scale_file.unwrap_or(file);
        let mut scales = names.iter().filter(|_| scale_file.is_some() || named(beside)).find_map(|name| {
            let view = beside.get(name)?;
            Some((beside, view, name.clone()))
        });
        if scale_file.is_some() && tensor.ty().is_float() {
            let letter = side.to_string().to_lowercase();
            let (name, ty) = (name.escape_debug(), tensor.ty());
            let what = format!("--scale-{letter}: tensor `{name}` is {ty} and is quantised with scales of its own");
            return Err(CliError::Usage(what));
        }
        if let (Some(scale_file), None) = (scale_file, &scales) {
            // Says which names there are.
            scale_file.require(&scale_name(name)).in_file(scale_file.path())?;
        }
        // A float operand is quantised with scales of its own.
        let mut ignored = None;
        if tensor.ty().is_float() {
            ignored = scales.take().map(|(_, _, name)| name);
        }
        Ok(Self { side, file, tensor, name: name.to_owned(), scales, ignored })
    }

    fn shape(&self) -> Result<(usize, usize), CliError> {
        self.tensor.matrix_shape().in_file(self.file.path())
    }

    /// The layouts that the scales can have; none where they are still to be made.
    fn readings(&self, flag: Option<ScaleLayout>) -> Result<Vec<ScaleLayout>, CliError> {
        let (rows, k) = self.shape()?;
        let recorded = self.file.metadata().get(&format!("scale_layout.{}", self.name));
        if let Some(layout) = flag {
            return Ok(vec![layout]);
        }
        if self.tensor.ty().is_float() {
            return Ok(Vec::new());
        }
        let Some((file, scales, _)) = &self.scales else {
            return Ok(vec![ScaleLayout::Tensor]);
        };
        if let Some(layout) = recorded {
            let parsed = layout.parse::<ScaleLayout>().map_err(|error| {
                let key = format!("scale_layout.{}", self.name);
                CliError::Usage(format!("{}: metadata `{}`: {error}", self.file.path().display(), key.escape_debug()))
            })?;
            return Ok(vec![parsed]);
        }
        let readings = ScaleLayout::candidates(scales.shape(), rows, k);
        if readings.is_empty() {
            return Err(scale_fault(scales, rows, k)).in_file(file.path());
        }
        Ok(readings)
    }

    fn into_operand(
        self,
        layout: Option<ScaleLayout>,
        dtype: Option<OperandType>,
        recipe: Option<Recipe>,
        allow_nonfinite: bool,
    ) -> Result<Operand<'f>, CliError> {
        let scale_tensor = self.scales.as_ref().map(|(_, _, name)| name.clone());
        let data = if self.tensor.ty().is_float() {
            self.quantized(layout, dtype, recipe)?
        } else {
            self.stored(layout.unwrap_or(ScaleLayout::Tensor), dtype, allow_nonfinite)?
        };
        Ok(Operand { tensor: self.name, scale_tensor, data })
    }

    fn quantized(
        &self,
        layout: Option<ScaleLayout>,
        dtype: Option<OperandType>,
        recipe: Option<Recipe>,
    ) -> Result<Data<'f>, CliError> {
        let Some(recipe) = recipe else {
            let got = self.tensor.ty().to_string();
            let expected = "F8_E4M3 or F8_E5M2 (`gemm --recipe` and `quantize` make them)";
            return Err(TensorFault::Type { got, expected }.at(&self.tensor)).in_file(self.file.path());
        };
        if let Some(ignored) = &self.ignored {
            let (scales, name) = (ignored.escape_debug(), self.name.escape_debug());
            let what = format!("tensor `{scales}` is not used: `{name}` is {} and gets its own", self.tensor.ty());
            // A note, whatever the log level.
            let _ = writeln!(io::stderr(), "note: {}: {what}", self.file.path().display());
        }
        let ty = dtype.unwrap_or(OperandType::E4m3);
        let layout = layout.unwrap_or_else(|| usual_layout(recipe, self.side == Side::B));
        let quantizer = Quantizer { recipe, layout, ty };
        let original = self.tensor.matrix().in_file(self.file.path())?;
        let matrix = quantize(&original, quantizer)
            .map_err(|source| CliError::Quantize { tensor: self.name.clone(), source })?;
        Ok(Data::Quantized { matrix, original, quantizer })
    }

    fn stored(
        &self,
        layout: ScaleLayout,
        dtype: Option<OperandType>,
        allow_nonfinite: bool,
    ) -> Result<Data<'f>, CliError> {
        let (rows, k) = self.shape()?;
        let (ty, codes) = self.tensor.codes(dtype).in_file(self.file.path())?;
        let shape = layout.scale_shape(rows, k);
        let Some((file, tensor, _)) = &self.scales else {
            if layout == ScaleLayout::Tensor {
                return Ok(Data::Stored { ty, layout, codes, scales: Array2::from_elem(shape, 1.0) });
            }
            let side = self.side.to_string().to_lowercase();
            return Err(CliError::Usage(format!(
                "--scale-layout-{side} {layout}: tensor `{}` has no scales",
                self.name.escape_debug()
            )));
        };
        let stored = tensor.shape();
        let fits = match layout {
            ScaleLayout::Tensor => stored.iter().all(|&size| size == 1),
            ScaleLayout::Row => stored == [rows] || stored == [rows, 1],
            _ => stored == [shape.0, shape.1],
        };
        if !fits {
            let rule = format!("{layout} scales need [{}, {}]", shape.0, shape.1);
            return Err(TensorFault::ScaleShape { shape: stored.to_vec(), rows, k, rule }.at(tensor))
                .in_file(file.path());
        }
        let values = tensor.to_f32().in_file(file.path())?;
        let scales =
            Array2::from_shape_vec(shape, values).map_err(|_| scale_fault(tensor, rows, k)).in_file(file.path())?;
        let allowed = file.metadata().get("allow_nonfinite_scales").is_some_and(|value| value == "true");
        let nonfinite = scales.indexed_iter().find(|(_, scale)| !scale.is_finite());
        if let Some(((row, column), &value)) = nonfinite.filter(|_| !allow_nonfinite && !allowed) {
            return Err(TensorFault::NonFiniteScale { row, column, value }.at(tensor)).in_file(file.path());
        }
        Ok(Data::Stored { ty, layout, codes, scales })
    }
}

/// The layout that is quantised to where none is named: 128x128 for weights.
pub(crate) fn usual_layout(recipe: Recipe, weight: bool) -> ScaleLayout {
    let layouts = recipe.layouts();
    let square = ScaleLayout::Block128x128;
    // Every recipe has at least one.
    if weight && layouts.contains(&square) { square } else { layouts[0] }
}

/// Quantises a matrix of any of the three types.
pub(crate) fn quantize(matrix: &Matrix, quantizer: Quantizer) -> Result<ScaledMatrix, fp8gemm::formats::FormatError> {
    match matrix {
        Matrix::Bf16(x) => quantizer.quantize(x.view()),
        Matrix::F16(x) => quantizer.quantize(x.view()),
        Matrix::F32(x) => quantizer.quantize(x.view()),
    }
}

/// Where a shape can mean several layouts, the one that goes with the other operand's: block
/// scales with block scales. A preference, not a fact: at K <= 128, policies that promote within
/// the block or scale inside the accumulation give other bits for block scales than for scales of
/// whole rows; see [`distinct`].
fn choose(readings: &[ScaleLayout], other: &[ScaleLayout]) -> Option<ScaleLayout> {
    let blocks = |layout: &&ScaleLayout| layout.k_block().is_some();
    let other_has_blocks = !other.is_empty() && other.iter().all(|layout| blocks(&layout));
    readings.iter().find(|layout| other_has_blocks && blocks(layout)).or(readings.first()).copied()
}

/// The readings of two ambiguous shapes that compute different things, the preferred first.
///
/// Layouts of one shape assign the same scale to every element (K has one block then, or the
/// operand one row); what is left of them is whether any operand has block scales, because the
/// scales are then applied at each promotion and not once at the end. So there are two at most.
fn distinct(preferred: Layouts, a: &[ScaleLayout], b: &[ScaleLayout]) -> Vec<Layouts> {
    let blocks = |layout: &ScaleLayout| layout.k_block().is_some();
    let find = |readings: &[ScaleLayout], chosen: ScaleLayout, wanted: bool| {
        // What is quantised in this run has no readings, and the layout that was chosen.
        let readings = if readings.is_empty() { &[chosen][..] } else { readings };
        readings.iter().copied().find(|layout| blocks(layout) == wanted)
    };
    let (chosen_a, chosen_b) = preferred;
    let other = if blocks(&chosen_a) || blocks(&chosen_b) {
        find(a, chosen_a, false).zip(find(b, chosen_b, false))
    } else {
        let (block_a, block_b) = (find(a, chosen_a, true), find(b, chosen_b, true));
        let any = block_a.or(block_b).is_some();
        any.then(|| (block_a.unwrap_or(chosen_a), block_b.unwrap_or(chosen_b)))
    };
    [Some(preferred), other].into_iter().flatten().collect()
}

/// Scales whose shape fits no layout: what would, and what may have gone wrong.
fn scale_fault(scales: &TensorView<'_>, rows: usize, k: usize) -> crate::files::FileError {
    let shape = scales.shape().to_vec();
    let mut expected = vec!["[] or [1] (tensor)".to_owned(), format!("[{rows}] or [{rows}, 1] (row)")];
    for layout in [ScaleLayout::Block1x128, ScaleLayout::Block128x128] {
        let (r, c) = layout.scale_shape(rows, k);
        expected.push(format!("[{r}, {c}] ({layout})"));
    }
    let mut rule = format!("expected {}", list(&expected).replace(" and [", " or ["));
    if let [r, c] = shape[..] {
        let blocks = k.div_ceil(128);
        if !ScaleLayout::candidates(&[c, r], rows, k).is_empty() {
            rule += "; it looks transposed";
        } else if (r == rows || r == rows.div_ceil(128)) && c != blocks {
            rule += &format!("; K = {k} has {blocks} blocks of 128, the scales cover {c}");
        }
    }
    if shape == [rows, k.div_ceil(32)] {
        rule += "; for MX scales say --scale-layout-a 1x32 or --scale-layout-b 1x32";
    }
    TensorFault::ScaleShape { shape, rows, k, rule }.at(scales)
}
