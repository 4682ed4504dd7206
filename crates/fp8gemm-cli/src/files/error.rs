//! Why a file, or a tensor in it, cannot be used.

use std::io;

use super::{Contents, TensorView};

/// What is wrong with a file. The path is named by whoever prints this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is nothing under that name.
    #[error("no such file")]
    NotFound,
    /// A directory.
    #[error("is a directory, not a file")]
    Directory,
    /// A pipe, socket or device.
    #[error("is not a regular file: it has to be mapped into memory")]
    NotRegular,
    /// An output name that stands for something else than a regular file.
    #[error("cannot be written: it is {found}, but {rule}")]
    Unreplaceable {
        /// What it is.
        found: &'static str,
        /// Why it must be a regular file.
        rule: &'static str,
    },
    /// Whatever else the system says.
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
    /// An output name that names no format.
    #[error("cannot be written: the name must end in .safetensors or .npy")]
    Extension,
    /// An `.npy` file asked to hold something other than one array.
    #[error("cannot be written: .npy holds one array, and there are {tensors} (name it .safetensors)")]
    OneArray {
        /// How many there are.
        tensors: usize,
    },
    /// Two tensors to write under one name.
    #[error("cannot be written: there would be two tensors named `{}`", name.escape_debug())]
    NameTwice {
        /// The name.
        name: String,
    },
    /// A tensor to write under the name that safetensors keeps for its metadata.
    #[error("cannot be written: no tensor can be named `__metadata__`, which safetensors keeps for itself")]
    ReservedName,
    /// What the system says when writing.
    #[error("cannot be written: {0}")]
    Write(#[source] io::Error),
    /// No bytes at all.
    #[error("is empty (0 bytes)")]
    Empty,
    /// Some other format.
    #[error("is neither safetensors nor .npy: {hint}")]
    UnknownFormat {
        /// What it looks like.
        hint: &'static str,
    },
    /// The file ends inside its header.
    #[error("truncated header: it needs {needed} bytes, the file has {have}")]
    HeaderTruncated {
        /// Bytes up to the end of the header.
        needed: u64,
        /// Bytes of the file.
        have: u64,
    },
    /// A header that is too long to be one.
    #[error("header of {length} bytes: at most {limit} are accepted")]
    HeaderTooLong {
        /// Its length.
        length: u64,
        /// The largest length accepted.
        limit: u64,
    },
    /// A header that does not follow its format's grammar.
    #[error("malformed header: {reason}")]
    Header {
        /// What is wrong with it.
        reason: String,
    },
    /// Fewer or more bytes of data than the header describes.
    #[error("{}: the header describes {described} bytes of data, the file has {have}", if have < described { "truncated" } else { "trailing bytes" })]
    DataLength {
        /// Bytes that the tensors need.
        described: u64,
        /// Bytes after the header.
        have: u64,
    },
    /// A tensor that is not there.
    #[error("no tensor `{}`; it holds {held}", name.escape_debug())]
    NoTensor {
        /// The name looked for.
        name: String,
        /// Names and shapes of what is there, shortened.
        held: String,
    },
    /// A tensor that is there but cannot be used.
    #[error("tensor `{}`: {fault}", name.escape_debug())]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        fault: TensorFault,
    },
}

impl FileError {
    pub(super) fn header(reason: impl Into<String>) -> Self {
        Self::Header { reason: reason.into() }
    }

    pub(super) fn no_tensor(name: &str, contents: &Contents) -> Self {
        Self::NoTensor { name: name.to_owned(), held: contents.held() }
    }
}

/// What is wrong with one tensor.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorFault {
    /// Offsets that go backwards, overlap or leave a gap.
    #[error("data offsets [{begin}, {end}] are wrong: tensors follow each other, this one should begin at {expected}")]
    Offsets {
        /// First offset.
        begin: u64,
        /// Second offset.
        end: u64,
        /// Where the tensor before it ends.
        expected: u64,
    },
    /// Shape and type do not give the number of bytes.
    #[error("{ty} {shape:?} does not take the {bytes} bytes that its data offsets give it")]
    Size {
        /// Its type, as named in the file.
        ty: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes between its offsets.
        bytes: u64,
    },
    /// A shape whose product no computer can address.
    #[error("shape {shape:?} is too large to be addressed")]
    TooLarge {
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A type that the use does not allow.
    #[error("has type {got}, expected {expected}")]
    Type {
        /// Its type.
        got: String,
        /// What was needed.
        expected: &'static str,
    },
    /// Bytes without a meaning.
    #[error("has type {got}, which does not say what FP8 format the bytes are: give --dtype e4m3 or --dtype e5m2")]
    NeedsDtype {
        /// Its type.
        got: String,
    },
    /// Not two-dimensional.
    #[error("has shape {shape:?}, expected a matrix of 2 dimensions")]
    NotMatrix {
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Nothing in it.
    #[error("is empty: shape {shape:?}")]
    Empty {
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Another shape than the problem gives it.
    #[error("has shape {shape:?}, expected {expected:?}: {rule}")]
    Shape {
        /// Its shape.
        shape: Vec<usize>,
        /// The shape it must have.
        expected: Vec<usize>,
        /// Why.
        rule: String,
    },
    /// Scales that do not cover their operand.
    #[error("has shape {shape:?}, which is no scale shape of a [{rows}, {k}] operand: {rule}")]
    ScaleShape {
        /// Shape of the scales.
        shape: Vec<usize>,
        /// Rows of the operand.
        rows: usize,
        /// K.
        k: usize,
        /// The shapes that would do, and what went wrong if that can be told.
        rule: String,
    },
    /// A NaN or infinite element.
    #[error("holds {value} at row {row} column {column}: only finite numbers can be studied")]
    NonFinite {
        /// Row of the first one.
        row: usize,
        /// Its column.
        column: usize,
        /// What it is.
        value: f32,
    },
    /// A NaN or infinite scale.
    #[error(
        "holds {value} at row {row} column {column}: scales must be finite (--allow-nonfinite-scales computes with it)"
    )]
    NonFiniteScale {
        /// Row in the scale matrix.
        row: usize,
        /// Column in the scale matrix.
        column: usize,
        /// The scale.
        value: f32,
    },
}

impl TensorFault {
    /// The error of a tensor of that name.
    pub fn of(self, name: &str) -> FileError {
        FileError::Tensor { name: name.to_owned(), fault: self }
    }

    /// The error of that tensor.
    pub fn at(self, tensor: &TensorView<'_>) -> FileError {
        self.of(tensor.name())
    }
}
