//! One kernel in a file: the CUBIN, what it is, and a checksum.
//!
//! ```text
//! CUBIN                   so that nvdisasm reads the file as it is
//! metadata                JSON
//! length of the CUBIN     u64, little-endian
//! length of the metadata  u64
//! SHA-256                 of key, both lengths, CUBIN, metadata
//! "FP8GCUB1"
//! ```
//!
//! The key is hashed but not stored: it is the file's name, and a renamed file does not decode.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Key;

const MAGIC: &[u8; 8] = b"FP8GCUB1";
const TRAILER: usize = 8 + 8 + 32 + 8;

/// What a cached kernel is, for people: none of it is needed to use the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Symbol of the kernel.
    pub kernel: String,
    /// The configuration that it was specialised for, in one line.
    pub configuration: String,
    /// `(major, minor)` of the NVRTC that compiled it.
    pub nvrtc: (u32, u32),
    /// Milliseconds that the compilation took.
    pub compile_milliseconds: f64,
}

/// The bytes of an entry's file.
pub(super) fn encode(key: &Key, cubin: &[u8], metadata: &Metadata) -> Result<Vec<u8>, serde_json::Error> {
    let metadata = serde_json::to_vec(metadata)?;
    let mut file = Vec::with_capacity(cubin.len() + metadata.len() + TRAILER);
    file.extend_from_slice(cubin);
    file.extend_from_slice(&metadata);
    file.extend_from_slice(&(cubin.len() as u64).to_le_bytes());
    file.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    file.extend_from_slice(&checksum(key, cubin, &metadata));
    file.extend_from_slice(MAGIC);
    Ok(file)
}

/// The CUBIN and metadata of an entry's file.
///
/// # Errors
///
/// What is wrong with the bytes, if a single bit is not as [`encode`] wrote it for this key.
pub(super) fn decode<'a>(key: &Key, file: &'a [u8]) -> Result<(&'a [u8], Metadata), String> {
    let (content, trailer) = file
        .len()
        .checked_sub(TRAILER)
        .and_then(|at| file.split_at_checked(at))
        .ok_or_else(|| format!("{} bytes are less than a trailer", file.len()))?;
    let (lengths, rest) = trailer.split_at(16);
    let (sum, magic) = rest.split_at(32);
    if magic != MAGIC {
        return Err("it does not end as an entry does".to_owned());
    }
    let length = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&lengths[at..at + 8]);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let (Some(cubin), Some(metadata)) = (length(0), length(8)) else {
        return Err("its lengths do not fit memory".to_owned());
    };
    if cubin.checked_add(metadata) != Some(content.len()) {
        return Err(format!("it holds {} bytes but names {cubin} and {metadata}", content.len()));
    }
    let (cubin, metadata) = content.split_at(cubin);
    if sum != checksum(key, cubin, metadata) {
        return Err("its checksum does not match".to_owned());
    }
    let metadata = serde_json::from_slice(metadata).map_err(|error| format!("its metadata: {error}"))?;
    Ok((cubin, metadata))
}

fn checksum(key: &Key, cubin: &[u8], metadata: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(key.as_bytes());
    hash.update((cubin.len() as u64).to_le_bytes());
    hash.update((metadata.len() as u64).to_le_bytes());
    hash.update(cubin);
    hash.update(metadata);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::{Key, Metadata, decode, encode};

    fn sample() -> (Key, Vec<u8>, Metadata) {
        let metadata = Metadata {
            kernel: "k".into(),
            configuration: "256x128, \"quoted\"\n".into(),
            nvrtc: (13, 0),
            compile_milliseconds: 181.25,
        };
        (Key::new("source", &["-o"], (13, 0)), b"some machine code".to_vec(), metadata)
    }

    /// Breaks if an entry does not come back as it was stored, an empty CUBIN included.
    #[test]
    fn round_trip() {
        let (key, cubin, metadata) = sample();
        for cubin in [&cubin[..], &[]] {
            let file = encode(&key, cubin, &metadata).unwrap();
            assert!(file.starts_with(cubin));
            assert_eq!(decode(&key, &file), Ok((cubin, metadata.clone())));
        }
    }

    /// Breaks if any single flipped bit, any cut or any added byte passes.
    #[test]
    fn every_damage_is_seen() {
        let (key, cubin, metadata) = sample();
        let file = encode(&key, &cubin, &metadata).unwrap();
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&key, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(decode(&key, &file[..length]).is_err(), "cut to {length}");
            assert!(decode(&key, &file[length + 1..]).is_err(), "cut from {length}");
        }
        assert!(decode(&key, &[&file[..], &[0]].concat()).is_err());
        assert!(decode(&key, &[&[0], &file[..]].concat()).is_err());
    }

    /// Breaks if a file that was renamed to another kernel's key is taken for that kernel.
    #[test]
    fn entries_belong_to_their_key() {
        let (key, cubin, metadata) = sample();
        let file = encode(&key, &cubin, &metadata).unwrap();
        assert!(decode(&Key::new("other", &["-o"], (13, 0)), &file).is_err());
    }
}
