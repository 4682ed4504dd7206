//! Compiled kernels, kept in memory and on disk.
//!
//! | situation | what happens |
//! |---|---|
//! | several threads want one kernel | one compiles, the others wait for it |
//! | several processes want one kernel | the same, by a file lock; after a minute of waiting a process compiles itself |
//! | an entry is damaged | a warning, and it is compiled and replaced |
//! | the folder cannot be written, the disk is full | one warning, and kernels are kept in memory only |
//! | a process is killed while it writes | its temporary file stays for an hour; no entry is ever half-written |

mod bundle;
mod entry;
mod folder;
mod imported;
mod key;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use crate::tuning::{self, Loaded, Named, Tuning};
use crate::{Destination, JitError};
use folder::Folder;
pub(crate) use folder::lock_file;

pub use entry::Metadata;
pub use key::Key;

/// The environment variable that names the folder for everything this project caches.
pub const CACHE_VARIABLE: &str = "FP8GEMM_CACHE_DIR";

/// The folder for everything this project caches: `FP8GEMM_CACHE_DIR`, or the platform's cache
/// folder for fp8gemm (`~/.cache/fp8gemm` on Linux); `None` if the user has no home.
pub fn cache_root() -> Option<PathBuf> {
    std::env::var_os(CACHE_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(directories::ProjectDirs::from("", "", "fp8gemm")?.cache_dir().to_owned()))
}

/// Compiled kernels by [`Key`]. `Send` and `Sync`; share one among threads.
///
/// # Examples
///
/// ```
/// use fp8gemm_jit::{Cache, JitError, Key, Metadata};
///
/// let folder = tempfile::tempdir().unwrap();
/// let cache = Cache::at(folder.path());
/// let key = Key::new("source", &["--option"], (13, 0));
/// let compile = || {
///     let metadata = Metadata {
///         kernel: "fp8gemm".into(),
///         configuration: "256x128".into(),
///         nvrtc: (13, 0),
///         compile_milliseconds: 180.0,
///     };
///     Ok((b"machine code".to_vec(), metadata))
/// };
/// let first = cache.get_or_compile(&key, compile)?;
/// let again = cache.get_or_compile(&key, || unreachable!("it is there"))?;
/// assert_eq!(first, again);
/// # Ok::<(), JitError>(())
/// ```
#[derive(Debug)]
pub struct Cache {
    folder: Option<Folder>,
    /// What the environment says of the tuning table, where that was asked.
    table: Named,
    memory: Mutex<HashMap<Key, Arc<Slot>>>,
    swept: Once,
    warned: AtomicBool,
}

/// One kernel; locked while somebody loads or compiles it.
type Slot = Mutex<Option<Arc<[u8]>>>;

/// An entry on disk, as [`Cache::list`] finds it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its file.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// What it is, or what is wrong with it.
    pub metadata: Result<Metadata, String>,
}

/// What [`Cache::clear`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleared {
    /// Number of entries.
    pub entries: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What [`Cache::export`] wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// Entries.
    pub entries: usize,
    /// Problems in the tuning table; 0 where there is none in the bundle.
    pub tuned: usize,
}

/// What [`Cache::import`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Entries that were not there.
    pub added: usize,
    /// Entries that were there already, and were left alone.
    pub present: usize,
    /// Problems in the bundle's tuning table; what was known of them already was left alone.
    pub tuned: usize,
}

impl Cache {
    /// The cache in the folder `cubin` of [`cache_root`]; in memory only if there is no such folder. Its tuning table is
    /// what [`FP8GEMM_TUNING`](tuning::TUNING_VARIABLE) says.
    pub fn from_environment() -> Self {
        let cache = cache_root().map_or_else(Self::in_memory, |root| Self::at(root.join("cubin")));
        Self { table: tuning::named(), ..cache }
    }

    /// A cache in this folder, which is made when the first kernel is stored; its tuning table is there too, whatever
    /// the environment says.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(Folder::new(folder.into())), ..Self::in_memory() }
    }

    /// A cache that ends with the process.
    pub fn in_memory() -> Self {
        Self {
            folder: None,
            table: Named::Nothing,
            memory: Mutex::default(),
            swept: Once::new(),
            warned: AtomicBool::new(false),
        }
    }

    /// The folder of the entries.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(Folder::path)
    }

    /// The file of the tuning table: the one that [`FP8GEMM_TUNING`](tuning::TUNING_VARIABLE) names for a cache
    /// [from the environment](Self::from_environment), else `tuning.json` in the folder; `None` if there is neither.
    pub fn tuning_path(&self) -> Option<PathBuf> {
        match &self.table {
            Named::File(path) => Some(path.clone()),
            Named::Off | Named::Nothing => Some(self.folder()?.join(tuning::FILE)),
        }
    }

    /// The tuning tables of its [file](Self::tuning_path), for plans as for bundles, as far as the environment has not
    /// switched them off. A file that is named must be there. What is ignored is a warning.
    pub(crate) fn tables(&self) -> Loaded {
        match (&self.table, self.tuning_path()) {
            (Named::Off, _) => Loaded::Off,
            (Named::File(path), _) if !path.exists() => {
                let (path, variable) = (path.display(), tuning::TUNING_VARIABLE);
                tracing::warn!(%path, "the tuning table that {variable} names is not there");
                Loaded::Ignored(format!("{path}, which {variable} names, is not there"), Tuning::default())
            }
            (_, None) => Loaded::Tables(Tuning::default()),
            (_, Some(path)) => match Tuning::load_or_why(&path) {
                Ok(tables) => Loaded::Tables(tables),
                Err(why) => Loaded::Ignored(why, Tuning::default()),
            },
        }
    }

    /// The kernel, if it is in memory or on disk. Waits if a thread is compiling it.
    pub fn get(&self, key: &Key) -> Option<Arc<[u8]>> {
        let slot = self.slot(key);
        let mut held = lock(&slot);
        if held.is_none() {
            *held = self.folder.as_ref().and_then(|folder| load(folder, key).ok().flatten());
        }
        held.clone()
    }

    /// The kernel, from memory, disk, or `compile`, which gives the CUBIN and what to note about it.
    ///
    /// `compile` must not ask the same cache: keys share locks, so it could wait for itself.
    ///
    /// # Errors
    ///
    /// Only those of `compile`, which are not remembered: the next caller tries again. A cache that
    /// cannot be read or written is a warning.
    pub fn get_or_compile(
        &self,
        key: &Key,
        compile: impl FnOnce() -> Result<(Vec<u8>, Metadata), JitError>,
    ) -> Result<Arc<[u8]>, JitError> {
        let slot = self.slot(key);
        let mut held = lock(&slot);
        if let Some(cubin) = &*held {
            return Ok(cubin.clone());
        }
        let cubin = match &self.folder {
            None => compile()?.0.into(),
            Some(folder) => self.load_or_compile(folder, key, compile)?,
        };
        *held = Some(Arc::clone(&cubin));
        Ok(cubin)
    }

    fn load_or_compile(
        &self,
        folder: &Folder,
        key: &Key,
        compile: impl FnOnce() -> Result<(Vec<u8>, Metadata), JitError>,
    ) -> Result<Arc<[u8]>, JitError> {
        if let Ok(Some(cubin)) = load(folder, key) {
            return Ok(cubin);
        }
        let lock = folder.lock(key);
        if let Err(error) = &lock {
            self.warn_once(folder, error);
        }
        self.swept.call_once(|| folder.sweep());
        // Another process may have compiled it while this one waited.
        match load(folder, key) {
            Ok(Some(cubin)) => return Ok(cubin),
            Ok(None) => {}
            Err(reason) => {
                tracing::warn!(path = %folder.entry(key).display(), reason, "a cached kernel is damaged: compiling it again");
            }
        }
        let (cubin, metadata) = compile()?;
        let published = entry::encode(key, &cubin, &metadata)
            .map_err(io::Error::from)
            .and_then(|bytes| folder.publish(key, &bytes));
        if let Err(error) = published {
            self.warn_once(folder, &error);
        }
        Ok(cubin.into())
    }

    /// All entries on disk, in order of key, each read and verified.
    ///
    /// # Errors
    ///
    /// [`JitError::File`] if the folder exists but cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, JitError> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let keys = folder.keys().map_err(|source| failed("read", folder.path(), source))?;
        // An entry that another process removes meanwhile is no entry.
        let listed = keys.into_iter().filter_map(|key| {
            let path = folder.entry(&key);
            match folder.read(&key) {
                Ok(None) => None,
                Ok(Some(file)) => {
                    let metadata = entry::decode(&key, &file).map(|(_, metadata)| metadata);
                    Some(Listed { key, path, bytes: file.len() as u64, metadata })
                }
                Err(error) => Some(Listed { key, path, bytes: 0, metadata: Err(error.to_string()) }),
            }
        });
        Ok(listed.collect())
    }

    /// Removes all entries, from disk and from memory. Other files in the folder stay.
    ///
    /// # Errors
    ///
    /// [`JitError::File`] at the first entry that cannot be removed.
    pub fn clear(&self) -> Result<Cleared, JitError> {
        lock(&self.memory).clear();
        let mut cleared = Cleared::default();
        let Some(folder) = &self.folder else { return Ok(cleared) };
        folder.sweep();
        for key in folder.keys().map_err(|source| failed("read", folder.path(), source))? {
            let path = folder.entry(&key);
            let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if folder.remove(&key).map_err(|source| failed("remove", &path, source))? {
                cleared.entries += 1;
                cleared.bytes += bytes;
            }
        }
        // It speaks of entries that are gone.
        let _ = std::fs::remove_file(folder.path().join(imported::FILE));
        Ok(cleared)
    }

    /// Writes all sound entries on disk into a bundle, and the [tuning table](Self::tuning_path) if there is one
    /// and tables are not switched off; what is damaged is left out with a warning, and so is a table that the
    /// environment names and that is not there. Equal entries give equal bytes.
    ///
    /// # Errors
    ///
    /// [`JitError::File`] if the folder cannot be read or the bundle not be written, and those of
    /// [`Destination::new`]; then an existing file of that name is as it was.
    pub fn export(&self, to: &Path) -> Result<Exported, JitError> {
        let tuning = match self.tables() {
            Loaded::Off => Tuning::default(),
            Loaded::Tables(tuning) | Loaded::Ignored(_, tuning) => tuning,
        };
        let entries = self.export_where(to, &|_| true, &tuning)?;
        Ok(Exported { entries, tuned: tuning.len() })
    }

    /// As [`export`](Self::export), but only the entries of these keys, and this tuning table. Returns how
    /// many entries were written.
    ///
    /// # Errors
    ///
    /// As [`export`](Self::export).
    pub fn export_only(&self, to: &Path, keys: &BTreeSet<Key>, tuning: &Tuning) -> Result<usize, JitError> {
        self.export_where(to, &|key| keys.contains(key), tuning)
    }

    fn export_where(&self, to: &Path, wanted: &dyn Fn(&Key) -> bool, tuning: &Tuning) -> Result<usize, JitError> {
        let to = Destination::new(to)?;
        let mut entries = Vec::new();
        if let Some(folder) = &self.folder {
            let keys = folder.keys().map_err(|source| failed("read", folder.path(), source))?;
            for key in keys.into_iter().filter(wanted) {
                let path = folder.entry(&key);
                let Some(bytes) = folder.read(&key).map_err(|source| failed("read", &path, source))? else { continue };
                match entry::decode(&key, &bytes) {
                    Ok(_) => entries.push((key, bytes)),
                    Err(reason) => {
                        tracing::warn!(path = %path.display(), reason, "a cached kernel is damaged: not exported");
                    }
                }
            }
        }
        bundle::write(&to, &entries, tuning)?;
        Ok(entries.len())
    }

    /// Adds the entries of a bundle, and its tuning table to [the one here](Self::tuning_path): all, or none if one
    /// is refused or cannot be written. What is there stays; a table here that is damaged is set aside.
    ///
    /// A [`Compiler`](crate::Compiler) takes these kernels whatever version of NVRTC is there, unless that version
    /// has left one of its own for the same text.
    ///
    /// Each must be a regular file named by its key, with a checksum that holds and a CUBIN for
    /// `sm_90a`. That shows that nothing is damaged, not who made it: machine code from a bundle is
    /// run as it is, so take bundles from people whose binaries you would run.
    ///
    /// # Errors
    ///
    /// [`JitError::Bundle`] naming the entry and the rule; [`JitError::File`] if the bundle cannot
    /// be read or the folder not be written, or if there is no folder; [`JitError::NotRegular`] if the bundle or the
    /// file of the table is a pipe, say.
    pub fn import(&self, from: &Path) -> Result<Imported, JitError> {
        let Some(folder) = &self.folder else {
            let source = io::Error::new(io::ErrorKind::NotFound, "this cache has no folder");
            return Err(failed("import", from, source));
        };
        let table = self.tuning_path().unwrap_or_else(|| folder.path().join(tuning::FILE));
        bundle::read(from, folder, &table)
    }

    /// The entries that came by an [import](Self::import), with the versions of NVRTC that compiled them. Some may
    /// have gone since.
    pub fn imported(&self) -> BTreeMap<Key, (u32, u32)> {
        self.folder().map(imported::read).unwrap_or_default()
    }

    /// The versions of NVRTC that the entries on disk were compiled by, newest first. A machine
    /// without NVRTC looks for keys of these.
    ///
    /// # Errors
    ///
    /// [`JitError::File`] as [`list`](Self::list).
    pub fn nvrtc_versions(&self) -> Result<Vec<(u32, u32)>, JitError> {
        let mut versions: Vec<_> =
            self.list()?.into_iter().filter_map(|listed| Some(listed.metadata.ok()?.nvrtc)).collect();
        versions.sort_by(|one, other| other.cmp(one));
        versions.dedup();
        Ok(versions)
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        Arc::clone(lock(&self.memory).entry(*key).or_default())
    }

    fn warn_once(&self, folder: &Folder, error: &io::Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let path = folder.path().display();
            tracing::warn!(%path, %error, "the kernel cache cannot be used fully: kernels may be kept in memory only");
        }
    }
}

/// A sound entry of a folder, none, or what is wrong with it.
fn load(folder: &Folder, key: &Key) -> Result<Option<Arc<[u8]>>, String> {
    let file = match folder.read(key) {
        Ok(Some(file)) => file,
        // A folder that cannot be read is reported when it cannot be written either.
        Ok(None) | Err(_) => return Ok(None),
    };
    entry::decode(key, &file).map(|(cubin, _)| Some(cubin.into()))
}

/// Locks what no panic can leave half-changed: a slot or a map is assigned in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> JitError {
    JitError::File { action, path: path.to_owned(), source }
}
