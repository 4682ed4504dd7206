//! Tensor files: safetensors and `.npy`, memory-mapped, never trusted.
//!
//! [`parse`] looks at bytes alone, so that it can be fuzzed; [`TensorFile`] is a file on disk.
//! What a file holds decides how it is read, not its name. Headers are read here and not by the
//! `safetensors` and `npyz` crates (which the tests hold these readers against), because an error
//! has to name the tensor and its value, and because both crates multiply numbers of the header
//! unchecked, which is a panic in a debug build.
//!
//! Every size is checked against the length of the file before it is used, so memory is bounded by
//! a small multiple of the header, and tensors are borrowed from the map.

mod error;
mod map;
mod npy;
mod safetensors;
mod tensor;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use error::{FileError, TensorFault};
pub use tensor::{StoredType, TensorInfo, TensorView};
pub use write::{Output, OutputTensor, check_names, write};

use self::map::Map;

/// How tensors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Named tensors and text metadata.
    Safetensors,
    /// One array without a name.
    Npy,
}

/// What [`parse`] finds in a file: everything but the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// How the tensors are stored.
    pub container: Container,
    /// The text metadata of a safetensors file.
    pub metadata: BTreeMap<String, String>,
    /// The tensors, in the order of their data; in an `.npy` file one, named `array`.
    pub tensors: Vec<TensorInfo>,
}

impl Contents {
    /// The tensors with their bytes. `bytes` are those that [`parse`] has seen; a tensor that lies
    /// outside of them is left out.
    pub fn views<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = TensorView<'a>> {
        self.tensors.iter().filter_map(|info| Some(TensorView::new(info, bytes.get(info.data.clone())?)))
    }

    /// Names, types and shapes of a few tensors, for messages.
    fn held(&self) -> String {
        const SHOWN: usize = 6;
        let shown = |info: &TensorInfo| format!("`{}` {} {:?}", info.name.escape_debug(), info.ty, info.shape);
        let mut held: Vec<String> = self.tensors.iter().take(SHOWN).map(shown).collect();
        match self.tensors.len() {
            0 => held.push("no tensors".to_owned()),
            n if n > SHOWN => held.push(format!("{} more", n - SHOWN)),
            _ => {}
        }
        held.join(", ")
    }

    /// The tensor of that name; in an `.npy` file its one array, whatever the name.
    fn find(&self, name: &str) -> Option<usize> {
        match self.container {
            Container::Npy => Some(0),
            Container::Safetensors => self.tensors.iter().position(|info| info.name == name),
        }
    }
}

/// Reads the header of a safetensors or `.npy` file and checks it against the file's length: each
/// tensor's bytes lie in the file and are as many as its shape and type need.
///
/// # Errors
/// [`FileError`], for anything else.
///
/// ```
/// use fp8gemm_cli::files::parse;
///
/// let header = br#"{"d":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
/// let mut file = (header.len() as u64).to_le_bytes().to_vec();
/// file.extend(header);
/// file.extend([0; 8]);
/// assert_eq!(parse(&file)?.tensors[0].shape, [1, 2]);
/// assert!(parse(&file[..file.len() - 1]).is_err());
/// # Ok::<(), fp8gemm_cli::files::FileError>(())
/// ```
pub fn parse(bytes: &[u8]) -> Result<Contents, FileError> {
    if bytes.is_empty() {
        return Err(FileError::Empty);
    }
    if bytes.starts_with(npy::MAGIC) { npy::parse(bytes) } else { safetensors::parse(bytes) }
}

/// An open tensor file: the map and what its header says.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Map,
    contents: Contents,
}

impl TensorFile {
    /// Opens, maps and parses a file.
    ///
    /// # Errors
    /// [`FileError`]: what the file system says, or what [`parse`] says.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let map = Map::open(path)?;
        let contents = parse(map.bytes())?;
        tracing::debug!(
            path = %path.display(),
            bytes = map.bytes().len(),
            tensors = contents.tensors.len(),
            "opened"
        );
        Ok(Self { path: path.to_owned(), map, contents })
    }

    /// Where the file is, as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How its tensors are stored.
    pub fn container(&self) -> Container {
        self.contents.container
    }

    /// The text metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// The tensors, in the order of their data.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.contents.views(self.map.bytes())
    }

    /// Names, types and shapes of a few tensors, for messages.
    pub fn held(&self) -> String {
        self.contents.held()
    }

    /// The tensor of that name; in an `.npy` file its one array, whatever the name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let info = self.contents.tensors.get(self.contents.find(name)?)?;
        Some(TensorView::new(info, self.map.bytes().get(info.data.clone())?))
    }

    /// Like [`get`](Self::get).
    ///
    /// # Errors
    /// [`FileError::NoTensor`], which lists what there is.
    pub fn require(&self, name: &str) -> Result<TensorView<'_>, FileError> {
        self.get(name).ok_or_else(|| FileError::no_tensor(name, &self.contents))
    }
}
