//! What `gemm` writes beside D, and how operands become tensors.

use std::borrow::Cow;
use std::collections::BTreeMap;

use fp8gemm::formats::ScaledView;
use fp8gemm::problem::{Problem, ScaleLayout, Side};
use fp8gemm::sim::Matrix;
use ndarray::Array2;

use crate::engine::{Chosen, Computed};
use crate::error::CliError;
use crate::files::{OutputTensor, StoredType};
use crate::operands::{Inputs, scale_name};

/// What a reader of the output needs to reproduce it.
pub(super) fn metadata(
    inputs: &Inputs<'_>,
    problem: &Problem,
    computed: &Computed,
) -> Result<BTreeMap<String, String>, CliError> {
    let mut metadata = BTreeMap::new();
    let mut insert = |key: &str, value: String| metadata.insert(key.to_owned(), value);
    let gpu = computed.gpu.as_ref();
    let engine = match gpu {
        Some(gpu) => format!("Hopper kernel {}", gpu.configuration),
        None if computed.engine() == Some(Chosen::Twin) => "CPU twin".to_owned(),
        None => "without an engine".to_owned(),
    };
    insert("kernel", format!("fp8gemm {} {engine}, {}", env!("CARGO_PKG_VERSION"), problem.policy));
    if let Some(gpu) = gpu {
        insert("device", gpu.name.clone());
    }
    insert("problem", problem.to_string());
    insert("policy", problem.policy.to_string());
    insert("alpha", problem.epilogue.alpha.to_string());
    insert("beta", problem.epilogue.beta.to_string());
    for (side, operand) in [(Side::A, &inputs.a), (Side::B, &inputs.b)] {
        let side = side.to_string().to_lowercase();
        let view = operand.view()?;
        insert(&format!("scale_layout.{side}"), view.layout().to_string());
        if let Some((_, quantizer)) = operand.original() {
            insert(&format!("recipe.{side}"), quantizer.recipe.to_string());
        }
        if view.first_nonfinite_scale().is_some() {
            insert("allow_nonfinite_scales", "true".to_owned());
        }
    }
    Ok(metadata)
}

/// D, and the operands where they are asked for.
pub(super) fn tensors<'a>(
    inputs: &'a Inputs<'_>,
    d: &'a Matrix,
    with_inputs: bool,
) -> Result<Vec<OutputTensor<'a>>, CliError> {
    let mut tensors = vec![matrix_tensor("d", d)];
    if with_inputs {
        for (name, operand) in [("a", &inputs.a), ("b", &inputs.b)] {
            tensors.extend(operand_tensors(name, operand.view()?));
        }
        tensors.extend(inputs.c.as_ref().map(|c| matrix_tensor("c", c)));
    }
    Ok(tensors)
}

/// Codes and scales as tensors.
pub(in crate::commands) fn operand_tensors<'a>(name: &str, view: ScaledView<'a>) -> [OutputTensor<'a>; 2] {
    let codes = match view.codes().to_slice() {
        Some(codes) => Cow::Borrowed(codes),
        None => Cow::Owned(view.codes().iter().copied().collect()),
    };
    let scales = view.scales();
    let shape = match view.layout() {
        ScaleLayout::Tensor => vec![1],
        _ => vec![scales.nrows(), scales.ncols()],
    };
    [
        OutputTensor {
            name: name.to_owned(),
            ty: StoredType::Fp8(view.ty()),
            shape: vec![view.rows(), view.columns()],
            bytes: codes,
        },
        OutputTensor {
            name: scale_name(name),
            ty: StoredType::F32,
            shape,
            bytes: scales.iter().flat_map(|scale| scale.to_le_bytes()).collect(),
        },
    ]
}

/// A matrix of an output type as a tensor.
pub(in crate::commands) fn matrix_tensor(name: &str, matrix: &Matrix) -> OutputTensor<'static> {
    fn bytes<const N: usize, T: Copy>(matrix: &Array2<T>, word: fn(T) -> [u8; N]) -> Cow<'static, [u8]> {
        matrix.iter().flat_map(|element| word(*element)).collect()
    }
    let (ty, bytes) = match matrix {
        Matrix::Bf16(x) => (StoredType::Bf16, bytes(x, half::bf16::to_le_bytes)),
        Matrix::F16(x) => (StoredType::F16, bytes(x, half::f16::to_le_bytes)),
        Matrix::F32(x) => (StoredType::F32, bytes(x, f32::to_le_bytes)),
    };
    let (rows, columns) = matrix.dim();
    OutputTensor { name: name.to_owned(), ty, shape: vec![rows, columns], bytes }
}
