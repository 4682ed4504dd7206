//! An operand as it lies in its file, and the way from there to one that can be multiplied.

use fp8gemm::formats::ScaledMatrix;
use fp8gemm::formats::quantize::{Quantizer, Recipe};
use fp8gemm::problem::{OperandType, ScaleLayout, Side};
use fp8gemm::sim::Matrix;
use ndarray::Array2;

use super::layouts::usual_layout;
use super::operand::{Data, Numbers, Operand};
use super::{named, scale_name, scale_names};
use crate::error::{CliError, InFile, note};
use crate::files::{TensorFault, TensorFile, TensorView};
use crate::text::list;

/// An operand as it is in its file.
pub(super) struct Stored<'f> {
    side: Side,
    pub(super) file: &'f TensorFile,
    pub(super) tensor: TensorView<'f>,
    name: String,
    pub(super) scales: Option<(&'f TensorFile, TensorView<'f>, String)>,
    /// Scales that are there and do not count.
    ignored: Option<String>,
}

impl<'f> Stored<'f> {
    pub(super) fn find(
        side: Side,
        file: &'f TensorFile,
        name: &str,
        scale_file: Option<&'f TensorFile>,
    ) -> Result<Self, CliError> {
        let tensor = file.require(name).in_file(file.path())?;
        let names = scale_names(name);
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

    /// Refuses an operand without elements.
    pub(super) fn expect_elements(&self) -> Result<(), CliError> {
        self.tensor.matrix_shape().map(drop).in_file(self.file.path())
    }

    pub(super) fn shape(&self) -> Result<(usize, usize), CliError> {
        self.tensor.dim().in_file(self.file.path())
    }

    /// The layouts that the scales can have; none where they are still to be made.
    pub(super) fn readings(&self, flag: Option<ScaleLayout>) -> Result<Vec<ScaleLayout>, CliError> {
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

    pub(super) fn into_operand(
        self,
        layout: Option<ScaleLayout>,
        dtype: Option<OperandType>,
        recipe: Option<Recipe>,
        allow_nonfinite: bool,
    ) -> Result<Operand<'f>, CliError> {
        let scale_tensor = self.scales.as_ref().map(|(_, _, name)| name.clone());
        let data = if self.tensor.ty().is_float() {
            self.numbers(layout, dtype, recipe)?
        } else {
            self.stored(layout.unwrap_or(ScaleLayout::Tensor), dtype, allow_nonfinite)?
        };
        Ok(Operand::new(self.name, scale_tensor, data))
    }

    fn numbers(
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
            note(format!("{}: {what}", self.file.path().display()));
        }
        let ty = dtype.unwrap_or(OperandType::E4m3);
        let layout = layout.unwrap_or_else(|| usual_layout(recipe, self.side == Side::B));
        let quantizer = Quantizer { recipe, layout, ty };
        let original = self.tensor.matrix().in_file(self.file.path())?;
        Ok(Data::Numbers(Numbers::new(&self.name, original, quantizer)?))
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

/// Quantises a matrix of any of the three types.
pub(crate) fn quantize(matrix: &Matrix, quantizer: Quantizer) -> Result<ScaledMatrix, fp8gemm::formats::FormatError> {
    match matrix {
        Matrix::Bf16(x) => quantizer.quantize(x.view()),
        Matrix::F16(x) => quantizer.quantize(x.view()),
        Matrix::F32(x) => quantizer.quantize(x.view()),
    }
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
