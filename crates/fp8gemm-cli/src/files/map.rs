//! Memory-mapping of a regular file: the one place of this crate with unsafe code.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use memmap2::Mmap;

use super::FileError;

/// A whole file, mapped.
#[derive(Debug)]
pub(super) struct Map(Mmap);

impl Map {
    /// Maps a regular, non-empty file.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FileError::NotFound,
            _ => FileError::Io(error),
        })?;
        if metadata.is_dir() {
            return Err(FileError::Directory);
        }
        // A pipe or a device has no length to check sizes against.
        if !metadata.is_file() {
            return Err(FileError::NotRegular);
        }
        // Mapping nothing is an error on some systems.
        if metadata.len() == 0 {
            return Err(FileError::Empty);
        }
        let file = File::open(path).map_err(FileError::Io)?;
        #[expect(unsafe_code, reason = "a map is the way to read tens of gigabytes without copying them")]
        // SAFETY: the map is read-only and private to this process, and bytes of any value are
        // valid `u8`. What cannot be excluded is that another process truncates or changes the file
        // meanwhile: truncation ends this process with SIGBUS (as it would any program that maps
        // files), and a change can only make a result wrong, since every length that indexing
        // relies on was copied out of the map by `parse`, and every code and float is valid
        // whatever its bits.
        let map = unsafe { Mmap::map(&file) }.map_err(FileError::Io)?;
        Ok(Self(map))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
