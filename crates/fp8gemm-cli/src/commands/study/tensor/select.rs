//! Which tensors of which files are studied, and why others are not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use fp8gemm_study::tensor::Survey;
use glob::Pattern;
use serde::Deserialize;

use super::data::{Data, Numbers};
use crate::error::{CliError, InFile};
use crate::files::{FileError, StoredType, TensorFault, TensorFile, TensorView};
use crate::operands::{Files, scale_names, stored};
use crate::text::list;

/// The files, or the shards that an index names.
pub(super) fn open(paths: &[PathBuf]) -> Result<Files, CliError> {
    let mut all = Vec::new();
    let mut indices = Vec::new();
    for path in paths {
        if path.to_string_lossy().ends_with(".index.json") {
            let index = Index::read(path)?;
            let folder = path.parent().unwrap_or(Path::new(""));
            let shards: BTreeSet<&String> = index.weight_map.values().collect();
            all.extend(shards.into_iter().map(|shard| folder.join(shard)));
            indices.push((path, index));
        } else {
            all.push(path.clone());
        }
    }
    let files = Files::open(&all)?;
    for (path, index) in indices {
        for (name, shard) in &index.weight_map {
            let shard = path.parent().unwrap_or(Path::new("")).join(shard);
            if let Some(file) = files.get(&shard) {
                file.require(name).in_file(&shard)?;
            }
        }
    }
    Ok(files)
}

/// The index of a sharded checkpoint: which tensor is in which file.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn read(path: &Path) -> Result<Self, CliError> {
        let error = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => FileError::NotFound,
            _ => FileError::Io(error),
        };
        let text = fs::read(path).map_err(error).in_file(path)?;
        let malformed = |what: String| CliError::Usage(format!("{}: no index of a checkpoint: {what}", path.display()));
        let index: Self = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        if index.weight_map.is_empty() {
            return Err(malformed("it names no tensors".to_owned()));
        }
        Ok(index)
    }
}

/// A matrix to study.
pub(super) struct Selected<'f> {
    pub(super) file: &'f TensorFile,
    pub(super) tensor: TensorView<'f>,
    /// The file that holds its scales, where that is another one.
    scales: Option<&'f TensorFile>,
}

impl<'f> Selected<'f> {
    pub(super) fn name(&self) -> &'f str {
        self.tensor.name()
    }

    pub(super) fn elements(&self) -> u64 {
        self.tensor.shape().iter().map(|&size| size as u64).product()
    }

    /// Its elements. Nothing is read yet but scales.
    pub(super) fn data(&self) -> Result<Data<'f>, CliError> {
        if self.tensor.ty().is_float() {
            return Ok(Data::Numbers(Numbers(self.tensor)));
        }
        Ok(Data::Codes(Box::new(stored(self.file, self.name(), self.scales)?)))
    }
}

/// The matrices of the files that the patterns name, in the order of the files; what is left out goes
/// into the survey with its reason.
pub(super) fn select<'f>(
    files: &'f Files,
    names: &[String],
    survey: &mut Survey,
) -> Result<Vec<Selected<'f>>, CliError> {
    let patterns = names.iter().map(|name| Wanted::new(name)).collect::<Result<Vec<_>, _>>()?;
    let mut used = vec![false; patterns.len()];
    let mut selected = Vec::new();
    for file in files.iter() {
        for tensor in file.tensors() {
            let mut exact = false;
            let mut wanted = patterns.is_empty();
            for (pattern, used) in patterns.iter().zip(&mut used) {
                if pattern.matches(tensor.name()) {
                    (wanted, *used) = (true, true);
                    exact |= pattern.name == tensor.name();
                }
            }
            if !wanted {
                continue;
            }
            match refuse(files, file, &tensor) {
                Some((_, fault)) if exact => return Err(CliError::file(file.path(), fault)),
                Some((reason, _)) => {
                    survey.skip(tensor.name(), &tensor.ty().to_string(), tensor.shape(), &reason)?;
                }
                None => selected.push(Selected { file, tensor, scales: scales_elsewhere(files, file, &tensor) }),
            }
        }
    }
    if let Some(place) = used.iter().position(|&used| !used) {
        return Err(nothing(files, &names[place]));
    }
    if selected.is_empty()
        && let Some(file) = files.iter().next()
    {
        let what =
            format!("{}: no f32, f16, bf16 or FP8 matrix to study; it holds {}", file.path().display(), file.held());
        return Err(CliError::Usage(what));
    }
    Ok(selected)
}

/// The tensor of that name in the file of that path, which was opened.
pub(super) fn operand<'f>(files: &'f Files, path: &Path, name: &str) -> Result<Selected<'f>, CliError> {
    let file = files.get(path).ok_or_else(|| CliError::file(path, FileError::NotFound))?;
    let tensor = file.require(name).in_file(path)?;
    if let Some((_, fault)) = refuse(files, file, &tensor) {
        return Err(CliError::file(path, fault));
    }
    Ok(Selected { file, tensor, scales: scales_elsewhere(files, file, &tensor) })
}

/// A name, or a pattern of names.
struct Wanted {
    name: String,
    pattern: Option<Pattern>,
}

impl Wanted {
    fn new(name: &str) -> Result<Self, CliError> {
        let is_pattern = name.contains(['*', '?', '[']);
        let fault =
            |error: glob::PatternError| CliError::Usage(format!("--names {}: {}", name.escape_debug(), error.msg));
        let pattern = is_pattern.then(|| Pattern::new(name).map_err(fault)).transpose()?;
        Ok(Self { name: name.to_owned(), pattern })
    }

    fn matches(&self, name: &str) -> bool {
        self.name == name || self.pattern.as_ref().is_some_and(|pattern| pattern.matches(name))
    }
}

/// Why a tensor is left out: in short, and as an error for who asked for it by name.
fn refuse(files: &Files, file: &TensorFile, tensor: &TensorView<'_>) -> Option<(String, FileError)> {
    let ty = tensor.ty();
    if let Some(of) = scales_of(files, file, tensor) {
        let fault =
            TensorFault::Type { got: format!("{ty} and holds scales of `{of}`"), expected: "a matrix of numbers" };
        return Some((format!("scales of {of}"), fault.at(tensor)));
    }
    if !ty.is_float() && !matches!(ty, StoredType::Fp8(_)) {
        let fault = TensorFault::Type { got: ty.to_string(), expected: "F32, F16, BF16, F8_E4M3 or F8_E5M2" };
        return Some((format!("{ty} is not f32, f16, bf16 or FP8"), fault.at(tensor)));
    }
    let fault = tensor.matrix_shape().err()?;
    let reason = match tensor.shape().len() {
        2 => "empty".to_owned(),
        1 => "1 dimension: no matrix".to_owned(),
        many => format!("{many} dimensions: no matrix"),
    };
    Some((reason, fault))
}

/// The FP8 tensor whose scales these are.
fn scales_of<'f>(files: &'f Files, file: &'f TensorFile, tensor: &TensorView<'f>) -> Option<String> {
    let name = tensor.name();
    let base = [name.strip_prefix("scale_"), name.strip_suffix("_scale_inv"), name.strip_suffix("_scale")];
    let fp8 = |base: &&str| {
        let all = [file].into_iter().chain(files.iter());
        all.filter_map(|file| file.get(base).filter(|tensor| tensor.name() == *base))
            .any(|tensor| matches!(tensor.ty(), StoredType::Fp8(_)))
    };
    base.into_iter().flatten().find(fp8).map(str::to_owned)
}

/// Another file that holds the scales of an FP8 tensor, as shards may.
fn scales_elsewhere<'f>(files: &'f Files, file: &TensorFile, tensor: &TensorView<'_>) -> Option<&'f TensorFile> {
    let names = scale_names(tensor.name());
    let holds = |file: &TensorFile| file.tensors().any(|other| names.iter().any(|name| name == other.name()));
    if !matches!(tensor.ty(), StoredType::Fp8(_)) || holds(file) {
        return None;
    }
    files.iter().find(|other| holds(other))
}

/// No tensor has this name or matches this pattern.
fn nothing(files: &Files, name: &str) -> CliError {
    let held: Vec<_> =
        files.iter().take(2).map(|file| format!("{} holds {}", file.path().display(), file.held())).collect();
    CliError::Usage(format!("--names: no tensor is called or matches `{}`; {}", name.escape_debug(), list(&held)))
}
