//! Writing tensor files: all of it or nothing.
//!
//! A file is written under a temporary name in the folder of its destination, flushed to the disk
//! and renamed, so that a destination that exists is replaced on success only. The same tensors
//! and metadata give the same bytes: tensors are ordered by alignment, then by name, metadata by
//! key.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::{Container, FileError, StoredType, TensorFault, npy};
use crate::interrupt;

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
    path: PathBuf,
    container: Container,
}

impl Output {
    /// Takes the format from the name (`.safetensors` or `.npy`) and checks that a file can be
    /// created there.
    ///
    /// # Errors
    /// [`FileError::Extension`], [`FileError::NotRegular`], [`FileError::Directory`] and
    /// [`FileError::Write`].
    pub fn new(path: &Path) -> Result<Self, FileError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        let container = match extension.as_deref() {
            Some("safetensors") => Container::Safetensors,
            Some("npy") => Container::Npy,
            _ => return Err(FileError::Extension),
        };
        // A link stays a link: what it points to is replaced. A device never is.
        let path = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return Err(FileError::Directory),
            Ok(metadata) if !metadata.is_file() => return Err(FileError::NotRegular),
            Ok(_) => fs::canonicalize(path).map_err(FileError::Write)?,
            Err(_) => path.to_owned(),
        };
        let output = Self { path, container };
        // Gone again at once: better to learn now than after the work that the folder is missing
        // or read-only.
        output.temporary().map_err(FileError::Write)?;
        Ok(output)
    }

    /// The format of the file.
    pub fn container(&self) -> Container {
        self.container
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    fn temporary(&self) -> io::Result<NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".fp8gemm-");
        #[cfg(unix)]
        {
            // As any new file, less the umask; `tempfile` alone would keep it private.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        builder.tempfile_in(self.folder())
    }

    fn replace(&self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let temporary = self.temporary()?;
        interrupt::started(temporary.path());
        let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file());
        fill(&mut writer)?;
        writer.flush()?;
        drop(writer);
        temporary.as_file().sync_all()?;
        interrupt::finish(|| temporary.persist(&self.path)).map_err(|error| error.error)?;
        // The rename itself survives a power cut only once the folder is flushed. Where folders
        // cannot be opened (Windows), it is up to the system.
        if let Ok(folder) = File::open(self.folder()) {
            let _ = folder.sync_all();
        }
        Ok(())
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
    output
        .replace(|file| {
            file.write_all(&header)?;
            tensors.iter().try_for_each(|tensor| file.write_all(&tensor.bytes))
        })
        .map_err(FileError::Write)
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
