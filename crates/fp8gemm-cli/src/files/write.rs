//! Writing tensor files: all of it or nothing.
//!
//! A file is written under a temporary name in the folder of its [`Destination`], flushed to the disk
//! and renamed, so that a destination that exists is replaced on success only. The same tensors
//! and metadata give the same bytes: tensors are ordered by alignment, then by name, metadata by
//! key.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use fp8gemm::jit::{Destination, JitError};
use serde_json::{Map, Value, json};

use super::{Container, FileError, StoredType, TensorFault, npy};

/// A tensor to write: row-major, little-endian.
#[derive(Clone, Debug)]
pub struct OutputTensor<'a> {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: StoredType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: Cow<'a, [u8]>,
}

/// A place to write to, checked before any work is done for it.
#[derive(Clone, Debug)]
pub struct Output {
    destination: Destination,
    container: Container,
}

impl Output {
    /// Takes the format from the name (`.safetensors` or `.npy`) and checks that a file can be
    /// created there.
    ///
    /// # Errors
    /// [`FileError::Extension`], [`FileError::Unreplaceable`] and [`FileError::Write`].
    pub fn new(path: &Path) -> Result<Self, FileError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        let container = match extension.as_deref() {
            Some("safetensors") => Container::Safetensors,
            Some("npy") => Container::Npy,
            _ => return Err(FileError::Extension),
        };
        let destination = Destination::new(path).map_err(unwritable)?;
        destination.probe().map_err(unwritable)?;
        Ok(Self { destination, container })
    }

    /// The format of the file.
    pub fn container(&self) -> Container {
        self.container
    }
}

/// Without the path: whoever prints it names the one that was given, not what is behind a link.
fn unwritable(error: JitError) -> FileError {
    match error {
        JitError::NotRegular { found, rule, .. } => FileError::Unreplaceable { found, rule },
        JitError::File { source, .. } => FileError::Write(source),
        error => FileError::Write(io::Error::other(error)),
    }
}

/// Checks names of tensors for a safetensors file: each once, none reserved.
///
/// # Errors
/// [`FileError::NameTwice`] and [`FileError::ReservedName`].
pub fn check_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), FileError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name == "__metadata__" {
            return Err(FileError::ReservedName);
        }
        if !seen.insert(name) {
            return Err(FileError::NameTwice { name: name.to_owned() });
        }
    }
    Ok(())
}

/// Writes the tensors: any number with metadata into a safetensors file, exactly one into an
/// `.npy` file (which has no place for the name and the metadata).
///
/// # Errors
/// [`FileError::Write`], [`FileError::NameTwice`] and [`FileError::ReservedName`]; for `.npy` also [`FileError::OneArray`] and [`TensorFault::Type`].
pub fn write(
    output: &Output,
    metadata: &BTreeMap<String, String>,
    mut tensors: Vec<OutputTensor<'_>>,
) -> Result<(), FileError> {
    let header = match output.container {
        Container::Safetensors => {
            check_names(tensors.iter().map(|tensor| tensor.name.as_str()))?;
            tensors.sort_by(|x, y| y.ty.size().cmp(&x.ty.size()).then_with(|| x.name.cmp(&y.name)));
            safetensors_header(metadata, &tensors)
        }
        Container::Npy => match &tensors[..] {
            [tensor] => npy::header(&tensor.ty, &tensor.shape).ok_or_else(|| {
                let expected = "F32, F16 or U8 (.npy has no other: name the output .safetensors)";
                TensorFault::Type { got: tensor.ty.to_string(), expected }.of(&tensor.name)
            })?,
            _ => return Err(FileError::OneArray { tensors: tensors.len() }),
        },
    };
    let fill = output.destination.replace(|file| {
        file.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| file.write_all(&tensor.bytes))
    });
    fill.map_err(unwritable)
}

fn safetensors_header(metadata: &BTreeMap<String, String>, tensors: &[OutputTensor<'_>]) -> Vec<u8> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.bytes.len();
        let entry = json!({ "dtype": tensor.ty.to_string(), "shape": tensor.shape, "data_offsets": [begin, end] });
        entries.insert(tensor.name.clone(), entry);
        begin = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    // The data then begins at a multiple of 8.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    header
}
