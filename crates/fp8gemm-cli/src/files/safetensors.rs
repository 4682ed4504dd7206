//! The safetensors header: 8 bytes of length (little-endian), that many bytes of JSON, then the
//! data of the tensors, one after the other without gaps.
//!
//! Format: huggingface/safetensors `README.md` ("Format"). The limit of 100 MB on the header is
//! that of its reference implementation.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use fp8gemm::problem::OperandType;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

use super::{Container, Contents, FileError, StoredType, TensorFault, TensorInfo};

const LENGTH: usize = 8;
const MAX_HEADER: u64 = 100_000_000;

pub(super) fn parse(bytes: &[u8]) -> Result<Contents, FileError> {
    let have = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return Err(FileError::HeaderTruncated { needed: LENGTH as u64, have });
    };
    // JSON objects begin with a brace, and the format allows nothing before it.
    if rest.first().is_some_and(|&byte| byte != b'{') {
        return Err(FileError::UnknownFormat { hint: hint(bytes) });
    }
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(FileError::HeaderTooLong { length, limit: MAX_HEADER });
    }
    // At most MAX_HEADER, so neither conversion nor sum can overflow.
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        return Err(FileError::HeaderTruncated { needed: LENGTH as u64 + length, have });
    };
    let header: Header = serde_json::from_slice(header).map_err(|error| FileError::header(error.to_string()))?;
    let tensors = place(header.tensors, LENGTH + length as usize, data.len())?;
    Ok(Contents { container: Container::Safetensors, metadata: header.metadata, tensors })
}

/// What a file that is no safetensors file may be.
fn hint(bytes: &[u8]) -> &'static str {
    match bytes {
        [b'P', b'K', 3 | 5, ..] => "it is a zip archive, as PyTorch .pt and NumPy .npz files are",
        [0x80, 2..=5, ..] => "it looks like a Python pickle",
        [b'G', b'G', b'U', b'F', ..] => "it is a GGUF file",
        [0x89, b'H', b'D', b'F', ..] => "it is an HDF5 file",
        _ => "its first bytes fit neither",
    }
}

struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, Entry)>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            // By hand, because a map would keep the last of two tensors of one name, and because
            // an error has to say which tensor it is about.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { metadata: BTreeMap::new(), tensors: Vec::new() };
                let mut seen = BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("`{}` occurs twice", name.escape_debug())));
                    }
                    let about = |error: A::Error| A::Error::custom(format_args!("`{}`: {error}", name.escape_debug()));
                    if name == "__metadata__" {
                        header.metadata = map.next_value::<Option<_>>().map_err(about)?.unwrap_or_default();
                    } else {
                        let entry = map.next_value().map_err(about)?;
                        header.tensors.push((name, entry));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Checks that the tensors tile the data, and gives them their place in the file.
fn place(mut entries: Vec<(String, Entry)>, start: usize, have: usize) -> Result<Vec<TensorInfo>, FileError> {
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let described = entries.last().map_or(0, |(_, entry)| entry.data_offsets.1);
    let mut expected = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, Entry { dtype, shape, data_offsets: (begin, end) }) in entries {
        let (ty, bits) = stored_type(&dtype);
        let fault = |fault: TensorFault| fault.of(&name);
        if begin != expected || end < begin {
            return Err(fault(TensorFault::Offsets { begin, end, expected }));
        }
        expected = end;
        let elements = shape.iter().try_fold(1usize, |product, &dimension| product.checked_mul(dimension));
        let Some(elements) = elements.filter(|&elements| elements <= isize::MAX as usize) else {
            return Err(fault(TensorFault::TooLarge { shape }));
        };
        // In 128 bits: a type has at most 64 bits.
        if bits.is_some_and(|bits| elements as u128 * bits != u128::from(end - begin) * 8) {
            return Err(fault(TensorFault::Size { ty: dtype, shape, bytes: end - begin }));
        }
        // Ends beyond the file are found below; until then the place only has to be computed
        // without overflow.
        let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(start);
        tensors.push(TensorInfo { name, ty, shape, fortran: false, data: place(begin)..place(end) });
    }
    if described != have as u64 {
        return Err(FileError::DataLength { described, have: have as u64 });
    }
    Ok(tensors)
}

/// The type of that name and the bits of an element. A type that is not known is no error: the
/// tensor may be one that nobody asks for.
fn stored_type(name: &str) -> (StoredType, Option<u128>) {
    let other = || StoredType::Other(name.escape_debug().to_string());
    match name {
        "F8_E4M3" => (StoredType::Fp8(OperandType::E4m3), Some(8)),
        "F8_E5M2" => (StoredType::Fp8(OperandType::E5m2), Some(8)),
        "F8_E8M0" => (StoredType::E8m0, Some(8)),
        "U8" => (StoredType::U8, Some(8)),
        "BF16" => (StoredType::Bf16, Some(16)),
        "F16" => (StoredType::F16, Some(16)),
        "F32" => (StoredType::F32, Some(32)),
        "F4" => (other(), Some(4)),
        "F6_E2M3" | "F6_E3M2" => (other(), Some(6)),
        "BOOL" | "I8" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => (other(), Some(8)),
        "I16" | "U16" => (other(), Some(16)),
        "I32" | "U32" => (other(), Some(32)),
        "I64" | "U64" | "F64" | "C64" => (other(), Some(64)),
        _ => (other(), None),
    }
}
