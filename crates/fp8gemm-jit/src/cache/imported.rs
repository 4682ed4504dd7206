//! Which entries came by an import: the file `imported`, a line for each with the version of NVRTC and the key,
//! `13.0 <key>`.
//!
//! Another NVRTC makes other keys. Without this list a server with another one than the bundle was made by would
//! compile everything again, or all that any version has left in a cache would be taken for good.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::Key;
use super::folder::{lock_file, write_whole};

/// Its name, in the folder of the cache.
pub(super) const FILE: &str = "imported";

/// Imported entries and the versions that compiled them.
pub(super) type Imports = BTreeMap<Key, (u32, u32)>;

/// What was imported into a folder; nothing where that cannot be read. A line that is none is passed over: its kernel is
/// compiled here.
pub(super) fn read(folder: &Path) -> Imports {
    try_read(folder).unwrap_or_default()
}

fn try_read(folder: &Path) -> io::Result<Imports> {
    match std::fs::read(folder.join(FILE)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().filter_map(parse).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Imports::new()),
        Err(error) => Err(error),
    }
}

/// Adds to what was imported, which another process may be doing too; what of it is new. Writes nothing where nothing
/// is.
pub(super) fn add(folder: &Path, mut imports: Imports) -> io::Result<Imports> {
    let retain_new = |imports: &mut Imports, all: &Imports| {
        imports.retain(|key, version| all.get(key) != Some(version));
        imports.is_empty()
    };
    if retain_new(&mut imports, &try_read(folder)?) {
        return Ok(imports);
    }
    let _lock = lock_file(folder, FILE)?;
    let mut all = try_read(folder)?;
    if !retain_new(&mut imports, &all) {
        all.extend(imports.clone());
        write(folder, &all)?;
    }
    Ok(imports)
}

/// Takes back what [`add`] said to be new.
pub(super) fn forget(folder: &Path, imports: &Imports) -> io::Result<()> {
    let _lock = lock_file(folder, FILE)?;
    let mut all = try_read(folder)?;
    all.retain(|key, _| !imports.contains_key(key));
    if all.is_empty() { std::fs::remove_file(folder.join(FILE)) } else { write(folder, &all) }
}

fn write(folder: &Path, all: &Imports) -> io::Result<()> {
    let text: String = all.iter().map(|(key, (major, minor))| format!("{major}.{minor} {key}\n")).collect();
    write_whole(folder, &folder.join(FILE), text.as_bytes())
}

fn parse(line: &str) -> Option<(Key, (u32, u32))> {
    let (version, key) = line.split_once(' ')?;
    let (major, minor) = version.split_once('.')?;
    Some((key.parse().ok()?, (major.parse().ok()?, minor.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if an import is forgotten by the next one, one that is taken back stays or takes others along, or a line
    /// that somebody spoilt hides the others.
    #[test]
    fn imports_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let import = |number: u32, version| (Key::new(&number.to_string(), &["-o"], version), version);
        assert_eq!(read(folder.path()), Imports::new());
        add(folder.path(), [import(1, (13, 0)), import(2, (12, 8))].into()).unwrap();
        add(folder.path(), [import(2, (12, 8)), import(3, (13, 5))].into()).unwrap();
        let all = [import(1, (13, 0)), import(2, (12, 8)), import(3, (13, 5))].into();
        assert_eq!(read(folder.path()), all);
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        let spoilt = [b"\xff\xfe\n", format!("13.0\n13 x\n\n{text}13.0 ../../etc\n").as_bytes()].concat();
        std::fs::write(folder.path().join(FILE), spoilt).unwrap();
        assert_eq!(read(folder.path()), all);
        let new = add(folder.path(), [import(3, (13, 5)), import(4, (13, 0))].into()).unwrap();
        assert_eq!((read(folder.path()).len(), &new), (4, &[import(4, (13, 0))].into()));
        forget(folder.path(), &new).unwrap();
        assert_eq!(read(folder.path()), all);
        forget(folder.path(), &all).unwrap();
        assert!(!folder.path().join(FILE).exists());
    }
}
