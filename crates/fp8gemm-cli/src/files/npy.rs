//! The `.npy` header: magic, version, length, and a Python dictionary of three entries.
//!
//! Format: NumPy, `numpy/lib/format.py`, versions 1.0, 2.0 and 3.0. Only what an array of plain
//! numbers can have is read: f32, f16 and bytes, little-endian, in C or Fortran order. NumPy has
//! no bfloat16 and no FP8 of its own; arrays of one-byte types of other packages (ml_dtypes stores
//! `|V1` or `<f1`) are taken for bytes.

use super::{Container, Contents, FileError, StoredType, TensorFault, TensorInfo};

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy itself refuses longer headers unless told to trust the file.
const MAX_HEADER: u64 = 10_000;

/// The name that messages give the one array of a file.
const NAME: &str = "array";

pub(super) fn parse(bytes: &[u8]) -> Result<Contents, FileError> {
    let have = bytes.len() as u64;
    let truncated = |needed: u64| FileError::HeaderTruncated { needed, have };
    let rest = &bytes[MAGIC.len()..];
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(|| truncated(10))?;
    let (length, rest) = match version {
        [1, 0] => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(|| truncated(10))?;
            (u64::from(u16::from_le_bytes(*length)), rest)
        }
        [2 | 3, 0] => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(|| truncated(12))?;
            (u64::from(u32::from_le_bytes(*length)), rest)
        }
        [major, minor] => {
            return Err(FileError::header(format!(".npy version {major}.{minor} is not known (1.0, 2.0 and 3.0 are)")));
        }
    };
    if length > MAX_HEADER {
        return Err(FileError::HeaderTooLong { length, limit: MAX_HEADER });
    }
    let start = (bytes.len() - rest.len()) as u64 + length;
    let (header, data) = rest.split_at_checked(length as usize).ok_or_else(|| truncated(start))?;
    let Header { descr, fortran, shape } = Scanner { text: header, at: 0 }.header()?;

    let ty = stored_type(&descr)?;
    let size = ty.size().unwrap_or(1);
    let described = shape.iter().try_fold(size, |product, &dimension| product.checked_mul(dimension));
    let Some(described) = described.filter(|&described| described <= isize::MAX as usize) else {
        return Err(TensorFault::TooLarge { shape }.of(NAME));
    };
    if described != data.len() {
        return Err(FileError::DataLength { described: described as u64, have: data.len() as u64 });
    }
    let data = bytes.len() - data.len()..bytes.len();
    let info = TensorInfo { name: NAME.to_owned(), ty, shape, fortran, data };
    Ok(Contents { container: Container::Npy, metadata: Default::default(), tensors: vec![info] })
}

/// The header of a row-major array; nothing where the format has no such type.
pub(super) fn header(ty: &StoredType, shape: &[usize]) -> Option<Vec<u8>> {
    let descr = match ty {
        StoredType::F32 => "<f4",
        StoredType::F16 => "<f2",
        StoredType::U8 => "|u1",
        _ => return None,
    };
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    // Magic, version and length take 10 bytes, the line feed one; the data begins at a multiple of 64.
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let mut header = [MAGIC, &[1, 0], &u16::try_from(length).ok()?.to_le_bytes()].concat();
    header.extend(text.bytes());
    header.resize(10 + length - 1, b' ');
    header.push(b'\n');
    Some(header)
}

fn stored_type(descr: &str) -> Result<StoredType, FileError> {
    Ok(match descr {
        "<f4" => StoredType::F32,
        "<f2" => StoredType::F16,
        "|u1" | "<u1" | "u1" | "|V1" | "<V1" | "<f1" | "|f1" => StoredType::U8,
        _ => {
            let expected = if descr.starts_with('>') {
                "little-endian '<f4', '<f2' or '|u1' (big-endian data: x.astype(x.dtype.newbyteorder('<')))"
            } else {
                "'<f4', '<f2' or '|u1' (bfloat16 has no .npy type: use safetensors)"
            };
            return Err(TensorFault::Type { got: format!("'{}'", descr.escape_debug()), expected }.of(NAME));
        }
    })
}

struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

/// Reads the one form of dictionary that an array of plain numbers has.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn header(mut self) -> Result<Header, FileError> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.take(b'}') {
            let key = self.string()?;
            self.expect(b':')?;
            let repeated = match key.as_str() {
                "descr" => descr.replace(self.string()?).is_some(),
                "fortran_order" => fortran.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.tuple()?).is_some(),
                _ => return Err(FileError::header(format!("unknown key '{}'", key.escape_debug()))),
            };
            if repeated {
                return Err(FileError::header(format!("key '{key}' occurs twice")));
            }
            if !self.take(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        if self.peek().is_some() {
            return Err(self.unexpected("the end of the header"));
        }
        let missing = |key: &str| FileError::header(format!("key '{key}' is missing"));
        Ok(Header {
            descr: descr.ok_or_else(|| missing("descr"))?,
            fortran: fortran.ok_or_else(|| missing("fortran_order"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
        })
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: u8) -> Result<(), FileError> {
        if self.take(wanted) { Ok(()) } else { Err(self.unexpected(&format!("'{}'", char::from(wanted)))) }
    }

    fn unexpected(&mut self, wanted: &str) -> FileError {
        let found = match self.peek() {
            // The first thing in a structured type is a list.
            Some(b'[') => "'[' (arrays of structures are not supported)".to_owned(),
            Some(byte) => format!("'{}'", byte.escape_ascii()),
            None => "the end".to_owned(),
        };
        FileError::header(format!("expected {wanted} at byte {} of the dictionary, found {found}", self.at))
    }

    /// A string without escapes, in either quote.
    fn string(&mut self) -> Result<String, FileError> {
        let quote = self.peek();
        if !matches!(quote, Some(b'\'' | b'"')) {
            return Err(self.unexpected("a string"));
        }
        let rest = &self.text[self.at + 1..];
        let length = rest.iter().position(|byte| Some(*byte) == quote || *byte == b'\\');
        let Some(text) = length.map(|length| &rest[..length]).filter(|text| rest.get(text.len()) != Some(&b'\\'))
        else {
            return Err(FileError::header("a string that does not end"));
        };
        self.at += text.len() + 2;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn boolean(&mut self) -> Result<bool, FileError> {
        self.peek();
        for (word, value) in [("True", true), ("False", false)] {
            if self.text[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.unexpected("True or False"))
    }

    /// `()`, `(3,)`, `(3, 4)` or `(3, 4,)`.
    fn tuple(&mut self) -> Result<Vec<usize>, FileError> {
        let mut shape = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            shape.push(self.integer()?);
            if !self.take(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(shape)
    }

    fn integer(&mut self) -> Result<usize, FileError> {
        self.peek();
        let rest = &self.text[self.at..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Err(self.unexpected("a size"));
        }
        let text = String::from_utf8_lossy(&rest[..digits]);
        let value = text.parse().map_err(|_| FileError::header(format!("size {text} is too large")))?;
        self.at += digits;
        // Python 2 marked long integers.
        self.at += usize::from(self.text.get(self.at) == Some(&b'L'));
        Ok(value)
    }
}
