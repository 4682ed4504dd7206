//! The cache inside one process: single flight, damage, folders that cannot be written, bundles.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

mod support;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use fp8gemm_jit::{Cache, Imported, JitError, Key};
use support::{CUBIN, Events, key, metadata};

fn compiled(cubin: &[u8]) -> Result<(Vec<u8>, fp8gemm_jit::Metadata), JitError> {
    Ok((cubin.to_vec(), metadata()))
}

fn never() -> Result<(Vec<u8>, fp8gemm_jit::Metadata), JitError> {
    panic!("compiled although it is there")
}

/// Breaks if a second caller, cache or `get` compiles again, or bytes change on the way.
#[test]
fn memory_then_disk() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    assert_eq!(cache.get(&key(0)), None);
    let first = cache.get_or_compile(&key(0), || compiled(CUBIN)).unwrap();
    assert_eq!(&first[..], CUBIN);
    assert!(Arc::ptr_eq(&first, &cache.get_or_compile(&key(0), never).unwrap()));
    let other = Cache::at(folder.path());
    assert_eq!(other.get_or_compile(&key(0), never).unwrap(), first);
    assert_eq!(Cache::at(folder.path()).get(&key(0)), Some(first));
    assert_eq!(Cache::at(folder.path()).get(&key(1)), None);
}

/// Breaks if threads that want one kernel compile it more than once, or if a kernel waits for
/// another one.
#[test]
fn threads_compile_once() {
    let folder = tempfile::tempdir().unwrap();
    for cache in [Cache::at(folder.path()), Cache::in_memory()] {
        let count = AtomicUsize::new(0);
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let cubin = cache.get_or_compile(&key(0), || {
                        count.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(50));
                        compiled(CUBIN)
                    });
                    assert_eq!(&cubin.unwrap()[..], CUBIN);
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }
    // Two compilations that can only end together, of keys that share no lock.
    assert_ne!(key(1).as_bytes()[0], key(2).as_bytes()[0]);
    let cache = Cache::at(folder.path());
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        for number in [1, 2] {
            let (cache, together) = (&cache, &together);
            scope.spawn(move || {
                let compile = || {
                    together.wait();
                    compiled(CUBIN)
                };
                cache.get_or_compile(&key(number), compile).unwrap();
            });
        }
    });
}

/// Breaks if a failure is remembered, or a panic in the compiler locks a kernel for ever.
#[test]
fn failures_are_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let fails = || Err(JitError::NotACubin { reason: "made up".into() });
    assert!(matches!(cache.get_or_compile(&key(0), fails), Err(JitError::NotACubin { .. })));
    let panics = || cache.get_or_compile(&key(0), || panic!("made up"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    assert_eq!(&cache.get_or_compile(&key(0), || compiled(CUBIN)).unwrap()[..], CUBIN);
}

/// Breaks if a truncated or bit-flipped entry is used, is not replaced, or is replaced silently.
#[test]
fn damaged_entries_are_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{}.cubin", key(0)));
    Cache::at(folder.path()).get_or_compile(&key(0), || compiled(CUBIN)).unwrap();
    let sound = fs::read(&path).unwrap();
    let mut flipped = sound.clone();
    flipped[CUBIN.len() / 2] ^= 4;
    for damaged in [&flipped[..], &sound[..sound.len() - 1], &sound[..100], b""] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(Cache::at(folder.path()).get(&key(0)), None);
        let (events, replaced) = Events::during(|| {
            let cache = Cache::at(folder.path());
            cache.get_or_compile(&key(0), || compiled(CUBIN)).unwrap()
        });
        assert_eq!(&replaced[..], CUBIN);
        assert_eq!(events.warnings(), 1);
        assert_eq!(fs::read(&path).unwrap(), sound);
    }
}

/// Breaks if a cache that cannot be written fails, compiles twice, or warns more than once. Below
/// a regular file nobody can make a folder, root included.
#[test]
fn unwritable_folder_falls_back_to_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let cache = Cache::at(file.join("cubin"));
    let (events, ()) = Events::during(|| {
        for number in 0..3 {
            let cubin = cache.get_or_compile(&key(number), || compiled(CUBIN)).unwrap();
            assert_eq!(&cubin[..], CUBIN);
            assert!(Arc::ptr_eq(&cubin, &cache.get_or_compile(&key(number), never).unwrap()));
        }
    });
    assert_eq!(events.warnings(), 1);
    assert_eq!(fs::read(&file).unwrap(), b"");
}

/// Breaks if a kernel is lost when locks work but the entry cannot be put in place, as on a full
/// disk; here a folder has its name.
#[test]
fn entries_that_cannot_be_stored_stay_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join(format!("{}.cubin", key(0)));
    fs::create_dir(&in_the_way).unwrap();
    fs::write(in_the_way.join("file"), "").unwrap();
    let cache = Cache::at(folder.path());
    let (events, ()) = Events::during(|| {
        let cubin = cache.get_or_compile(&key(0), || compiled(CUBIN)).unwrap();
        assert_eq!(&cubin[..], CUBIN);
        assert!(Arc::ptr_eq(&cubin, &cache.get_or_compile(&key(0), never).unwrap()));
    });
    assert_eq!(events.warnings(), 1);
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [in_the_way.file_name().unwrap(), "locks".as_ref()], "nothing temporary is left");
}

/// Breaks if an entry cannot be used where only reading is possible, e.g. in a container image:
/// `locks` is a file here, so that no lock can be taken.
#[test]
fn entries_are_read_without_locks() {
    let folder = tempfile::tempdir().unwrap();
    Cache::at(folder.path()).get_or_compile(&key(0), || compiled(CUBIN)).unwrap();
    fs::remove_dir_all(folder.path().join("locks")).unwrap();
    fs::write(folder.path().join("locks"), "").unwrap();
    let (events, ()) = Events::during(|| {
        Cache::at(folder.path()).get_or_compile(&key(0), never).unwrap();
    });
    assert_eq!(events.warnings(), 0);
}

/// Breaks if a listing misses an entry, lists another file, or calls a damaged entry sound; if
/// clearing leaves an entry or takes a file that is not one.
#[test]
fn list_and_clear() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("cubin");
    let cache = Cache::at(&folder);
    assert_eq!(cache.list().unwrap(), []);
    assert_eq!(cache.nvrtc_versions().unwrap(), []);
    let mut keys = [key(0), key(1), key(2)];
    keys.sort();
    for key in &keys {
        cache.get_or_compile(key, || compiled(CUBIN)).unwrap();
    }
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    fs::write(folder.join("short.cubin"), "not a key").unwrap();
    let damaged = folder.join(format!("{}.cubin", keys[1]));
    fs::write(&damaged, "damaged").unwrap();
    let listed = cache.list().unwrap();
    assert_eq!(listed.iter().map(|entry| entry.key).collect::<Vec<_>>(), keys);
    assert_eq!(listed[0].metadata, Ok(metadata()));
    assert!(listed[1].metadata.is_err());
    assert_eq!(cache.nvrtc_versions().unwrap(), [(13, 0)]);

    let bytes: u64 = listed.iter().map(|entry| entry.bytes).sum();
    let cleared = cache.clear().unwrap();
    assert_eq!((cleared.entries, cleared.bytes), (3, bytes));
    assert_eq!(cache.list().unwrap(), []);
    assert_eq!(cache.get(&keys[0]), None);
    assert!(folder.join("notes.txt").exists() && folder.join("short.cubin").exists());
}

fn keys_of(cache: &Cache) -> Vec<Key> {
    cache.list().unwrap().iter().map(|entry| entry.key).collect()
}

/// Breaks if a bundle loses, changes or duplicates an entry, takes a damaged one, or depends on
/// more than the entries.
#[test]
fn bundles_round_trip() {
    let root = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| Cache::at(root.path().join(name)));
    for number in [2, 0, 1] {
        one.get_or_compile(&key(number), || compiled(CUBIN)).unwrap();
    }
    two.get_or_compile(&key(1), || compiled(CUBIN)).unwrap();
    let bundle = root.path().join("bundle.tar");
    assert_eq!(one.export(&bundle).unwrap().entries, 3);
    let imported = two.import(&bundle).unwrap();
    assert_eq!((imported.added, imported.present), (2, 1));
    assert_eq!(keys_of(&two), keys_of(&one));
    assert_eq!(two.list().unwrap()[0].metadata, Ok(metadata()));
    assert_eq!(&two.get_or_compile(&key(2), never).unwrap()[..], CUBIN);

    let again = root.path().join("again.tar");
    two.export(&again).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&bundle).unwrap(), "equal entries, different bundles");

    fs::write(one.folder().unwrap().join(format!("{}.cubin", key(0))), "damaged").unwrap();
    let (events, count) = Events::during(|| one.export(&bundle).unwrap().entries);
    assert_eq!((events.warnings(), count), (1, 2));
    assert_eq!(one.import(&again).unwrap().added, 1, "a damaged entry is replaced");

    let empty = Cache::at(root.path().join("empty"));
    assert_eq!(empty.export(&bundle).unwrap().entries, 0);
    assert_eq!(two.import(&bundle).unwrap(), Imported::default());
    assert!(matches!(Cache::in_memory().import(&bundle), Err(JitError::File { .. })));
}
