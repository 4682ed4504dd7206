//! Compiled kernels in one file, to bring to machines that have no NVRTC.
//!
//! A bundle is a plain tar of the entries' files, in order of key and with no times or owners, so
//! that equal contents are equal bytes. Nothing is unpacked by name: an entry is read into memory,
//! must be a regular file called `<key>.cubin` whose checksum holds for that key and whose CUBIN is
//! for `sm_90a`, and is then published as if it had been compiled here, and noted as [imported]. The last may be
//! a tuning table, `tuning.json`, whose problems are added to those that are known.
//!
//! The checksum tells damage, not authorship: a key cannot show that the machine code belongs to
//! its source. Import bundles only from people whose binaries you would run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::entry::{self, Metadata};
use super::folder::{self, Folder};
use super::imported::{self, Imports};
use super::{Imported, Key};
use crate::destination::{Destination, check_regular};
use crate::tuning::{self, Tuning};
use crate::{Cubin, JitError};

/// A kernel has some 30 KB.
const LARGEST_ENTRY: u64 = 16 << 20;
/// A tar consists of blocks and ends with two empty ones.
const BLOCK: u64 = 512;
const END: usize = 1024;

/// Writes entries, given in order of key, into a bundle.
pub(super) fn write(to: &Destination, entries: &[(Key, Vec<u8>)], tuning: &Tuning) -> Result<(), JitError> {
    let failed = |source| JitError::File { action: "write", path: to.path().to_owned(), source };
    let mut bundle = tar::Builder::new(Vec::new());
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        bundle.append_data(&mut header, name, bytes)
    };
    for (key, bytes) in entries {
        append(&folder::file_name(key), bytes).map_err(failed)?;
    }
    if !tuning.is_empty() {
        append(tuning::FILE, &tuning.to_json()).map_err(failed)?;
    }
    let bytes = bundle.into_inner().map_err(failed)?;
    to.replace(|file| file.write_all(&bytes))
}

/// Adds the entries of a bundle to a folder, and its tuning table to that file: all of them, or none if one is
/// refused or cannot be written.
pub(super) fn read(from: &Path, folder: &Folder, table: &Path) -> Result<Imported, JitError> {
    let broken = |error| unreadable(from, error);
    // Before it is opened: that waits for the other end of a pipe.
    let rule = "a bundle must be a regular file, since all of it is checked before any of it is taken";
    check_regular("read", from, &fs::metadata(from).map_err(broken)?, rule)?;
    let mut file = File::open(from).map_err(broken)?;
    check_end(&mut file).map_err(broken)?;
    let (mut seen, mut tuned) = (BTreeSet::new(), false);
    visit(from, &mut file, |name, member| {
        tuned |= matches!(member, Member::Tuning(tables) if !tables.is_empty());
        if seen.insert(name.to_owned()) { Ok(()) } else { Err(refused(name, "it is there twice")) }
    })?;
    if tuned {
        // Better now than when there is much to take back.
        Destination::new(table)?;
    }
    let mut done = Done::default();
    add(from, &mut file, folder, table, &mut done).inspect_err(|_| {
        // A full disk, say. What cannot be removed is a sound kernel all the same.
        for key in &done.added {
            let _ = folder.remove(key);
        }
        if !done.noted.is_empty() {
            let _ = imported::forget(folder.path(), &done.noted);
        }
    })
}

/// What an import has done so far, to be taken back if it fails.
#[derive(Default)]
struct Done {
    /// Kernels that were not there.
    added: Vec<Key>,
    /// Those that were not noted as imported.
    noted: Imports,
}

/// Adds what was checked: kernels, then the note that they were imported. The table is the last, since what it replaces
/// cannot be brought back.
fn add(from: &Path, file: &mut File, folder: &Folder, table: &Path, done: &mut Done) -> Result<Imported, JitError> {
    let (mut imports, mut tuning) = (Imports::new(), Tuning::default());
    visit(from, file, |_, member| {
        let (key, version, bytes) = match member {
            Member::Kernel(key, version, bytes) => (key, version, bytes),
            Member::Tuning(tables) => {
                tuning = tables;
                return Ok(());
            }
        };
        imports.insert(key, version);
        let present = folder.read(&key).ok().flatten();
        if present.is_some_and(|present| entry::decode(&key, &present).is_ok()) {
            return Ok(());
        }
        let failed = |source| JitError::File { action: "write", path: folder.entry(&key), source };
        folder.publish(&key, bytes).map_err(failed)?;
        done.added.push(key);
        Ok(())
    })?;
    let (added, present) = (done.added.len(), imports.len() - done.added.len());
    if !imports.is_empty() {
        let path = folder.path().join(imported::FILE);
        let failed = |source| JitError::File { action: "write", path, source };
        done.noted = imported::add(folder.path(), imports).map_err(failed)?;
    }
    if !tuning.is_empty() {
        tuning.store(table, false)?;
    }
    Ok(Imported { added, present, tuned: tuning.len() })
}

/// What a bundle holds.
enum Member<'a> {
    /// Its key, the version of NVRTC that compiled it, and the bytes of its file.
    Kernel(Key, (u32, u32), &'a [u8]),
    Tuning(Tuning),
}

/// Calls `use_member` with the name and content of every member, each checked.
fn visit(
    from: &Path,
    file: &mut File,
    mut use_member: impl FnMut(&str, Member<'_>) -> Result<(), JitError>,
) -> Result<(), JitError> {
    let broken = |error| unreadable(from, error);
    file.seek(SeekFrom::Start(0)).map_err(broken)?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    for member in archive.entries().map_err(broken)? {
        let mut member = member.map_err(broken)?;
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        if member.header().entry_type() != tar::EntryType::Regular {
            return Err(refused(&name, "it is not a regular file"));
        }
        let key = folder::key_of(&name);
        if key.is_none() && name != tuning::FILE {
            return Err(refused(&name, "its name is not <key>.cubin"));
        }
        if member.size() > LARGEST_ENTRY {
            return Err(refused(&name, "it is larger than any kernel"));
        }
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(broken)?;
        let Some(key) = key else {
            let tables = Tuning::parse(&bytes).map_err(|error| refused(&name, &error.to_string()))?;
            use_member(&name, Member::Tuning(tables))?;
            continue;
        };
        let (cubin, metadata) = entry::decode(&key, &bytes).map_err(|reason| refused(&name, &reason))?;
        if !printable(&metadata) {
            return Err(refused(&name, "its metadata has control characters"));
        }
        Cubin::parse(cubin)
            .and_then(|cubin| cubin.check_hopper())
            .map_err(|error| refused(&name, &error.to_string()))?;
        use_member(&name, Member::Kernel(key, metadata.nvrtc, &bytes))?;
    }
    Ok(())
}

/// A bundle that was cut between two entries would read as a smaller one.
fn check_end(file: &mut File) -> io::Result<()> {
    let mut end = [1; END];
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short or not a bundle");
    let length = file.metadata()?.len();
    if length < END as u64 || length % BLOCK != 0 {
        return Err(cut());
    }
    file.seek(SeekFrom::End(-(END as i64)))?;
    file.read_exact(&mut end)?;
    if end == [0; END] { Ok(()) } else { Err(cut()) }
}

/// Metadata is printed on terminals.
fn printable(metadata: &Metadata) -> bool {
    !metadata.kernel.chars().chain(metadata.configuration.chars()).any(char::is_control)
}

fn unreadable(path: &Path, source: io::Error) -> JitError {
    JitError::File { action: "read", path: path.to_owned(), source }
}

fn refused(entry: &str, reason: &str) -> JitError {
    JitError::Bundle { entry: entry.to_owned(), reason: reason.to_owned() }
}
