//! The name of a compiled kernel: a hash of everything that decides its bytes.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::JitError;
use crate::sass::Interleave;

/// Hashed first, so that a change of what is hashed changes every key.
const FORMAT: &[u8] = b"fp8gemm kernel key 1\n";

/// The same for kernels whose machine code is changed after compilation; a change of a pattern is one too.
const INTERLEAVED: &[u8] = b"fp8gemm interleaved kernel key 1\n";

/// SHA-256 of a kernel's specialised source, compiler options and compiler version.
///
/// Content only: no path, no time, no machine. Two machines with the same NVRTC agree, so entries
/// can be shipped. Prints and parses as 64 hexadecimal digits.
///
/// # Examples
///
/// ```
/// use fp8gemm_jit::{BASE_OPTIONS, Key};
///
/// let source = "extern \"C\" __global__ void k() {}";
/// let key = Key::new(source, &BASE_OPTIONS, (13, 0));
/// assert_ne!(key, Key::new(source, &BASE_OPTIONS, (13, 1)));
/// assert_eq!(key.to_string().parse::<Key>()?, key);
/// # Ok::<(), fp8gemm_jit::JitError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of a source compiled with these options by this version of NVRTC.
    ///
    /// SHA-256 over the format line, major and minor version (u32), the number of options and each
    /// option, the source; texts are preceded by their length in bytes; counts and lengths are u64;
    /// integers are little-endian.
    pub fn new<O: AsRef<str>>(source: &str, options: &[O], nvrtc: (u32, u32)) -> Self {
        let mut hash = Sha256::new();
        hash.update(FORMAT);
        hash.update(nvrtc.0.to_le_bytes());
        hash.update(nvrtc.1.to_le_bytes());
        hash.update((options.len() as u64).to_le_bytes());
        for text in options.iter().map(AsRef::as_ref).chain([source]) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        Self(hash.finalize().into())
    }

    /// The key of the kernel that this pattern makes of the kernel of this key:
    /// [`AsCompiled`](Interleave::AsCompiled) leaves it, for another one SHA-256 over a format line, this
    /// key's bytes and the pattern's name.
    ///
    /// ```
    /// use fp8gemm_jit::sass::Interleave;
    /// use fp8gemm_jit::{BASE_OPTIONS, Key};
    ///
    /// let key = Key::new("extern \"C\" __global__ void k() {}", &BASE_OPTIONS, (13, 0));
    /// assert_eq!(key.interleaved(Interleave::AsCompiled), key);
    /// assert_ne!(key.interleaved(Interleave::None), key);
    /// ```
    #[must_use]
    pub fn interleaved(&self, pattern: Interleave) -> Self {
        if pattern == Interleave::AsCompiled {
            return *self;
        }
        let hash = Sha256::new().chain_update(INTERLEAVED).chain_update(self.0).chain_update(pattern.name());
        Self(hash.finalize().into())
    }

    /// The bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl FromStr for Key {
    type Err = JitError;

    fn from_str(text: &str) -> Result<Self, JitError> {
        let wrong = || JitError::Key { text: text.to_owned() };
        let digit = |byte: &u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(wrong()),
        };
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(&pair[0])? << 4 | digit(&pair[1])?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::Key;
    use crate::sass::Interleave;

    /// Breaks if what is hashed changes without a new format line: shipped entries would be orphaned.
    /// The value is from a plain reading of the formula with Python's hashlib.
    #[test]
    fn known_answer() {
        let key = Key::new("source\n", &["-a", "--long=1"], (13, 0));
        assert_eq!(key.to_string(), "8056e85f4443f24f1a600c1696dbb0a3d2e20f660fe879109cb7b3fde2681df5");
    }

    /// Breaks if two different compilations share a key, e.g. by joining texts without lengths.
    #[test]
    fn every_part_counts() {
        let keys = [
            Key::new("ab", &["c"], (13, 0)),
            Key::new("abc", &["c"], (13, 0)),
            Key::new("a", &["bc"], (13, 0)),
            Key::new("ab", &["c", ""], (13, 0)),
            Key::new("ab", &["", "c"], (13, 0)),
            Key::new("c", &["ab"], (13, 0)),
            Key::new("ab", &[] as &[&str], (13, 0)),
            Key::new("ab", &["c"], (0, 13)),
            Key::new("ab", &["c"], (13, 1)),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
    }

    /// Breaks if a changed kernel could be taken for the compiled one, or for one changed otherwise, or if
    /// what is hashed changes silently. The value is from Python's hashlib.
    #[test]
    fn patterns_have_keys_of_their_own() {
        let key = Key::new("source\n", &["-a", "--long=1"], (13, 0));
        let keys = Interleave::ALL.map(|pattern| key.interleaved(pattern));
        assert_eq!(keys[0], key);
        assert!((1..4).all(|index| !keys[..index].contains(&keys[index])), "{keys:?}");
        assert_eq!(keys[1].to_string(), "07e64d543a6e8a15e9de545753a5a7ff928b17888458e14032ec29676cfa0bd2");
    }

    /// Breaks if a text that is not exactly a key parses: keys become file names.
    #[test]
    fn parses_only_keys() {
        let key = Key::new("ab", &["c"], (13, 0)).to_string();
        assert_eq!(key.parse::<Key>().unwrap().to_string(), key);
        for wrong in ["", &key[1..], &format!("{key}0"), &key.to_uppercase(), &format!("../{}", &key[3..])] {
            assert!(wrong.parse::<Key>().is_err(), "{wrong}");
        }
    }
}
