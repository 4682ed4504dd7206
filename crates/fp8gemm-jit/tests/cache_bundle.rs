//! Hostile and damaged bundles: refused whole, with nothing written.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use fp8gemm_jit::sass::Interleave;
use fp8gemm_jit::tuning::{Device, Machine, Source, Timed, Tuned, Tuning, Untuned};
use fp8gemm_jit::{Cache, Compiler, JitError, Key, Metadata, Nvrtc, catalog::Entry, choose};
use support::{CUBIN, key, metadata};
use tar::{EntryType, Header};

/// A sound entry as the cache writes it.
fn entry(number: u32, cubin: &[u8], metadata: Metadata) -> (String, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let key = key(number);
    Cache::at(folder.path()).get_or_compile(&key, || Ok((cubin.to_vec(), metadata))).unwrap();
    let name = format!("{key}.cubin");
    let bytes = fs::read(folder.path().join(&name)).unwrap();
    (name, bytes)
}

/// Kind, name and content.
type Member<'a> = (EntryType, &'a str, &'a [u8]);

/// A tar whose names are written as they are, `..` and roots included.
fn tar(path: &Path, members: &[Member<'_>]) {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, bytes) in members {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        if *kind == EntryType::Symlink {
            header.set_link_name("target").unwrap();
        }
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    fs::write(path, builder.into_inner().unwrap()).unwrap();
}

/// Every file below a folder.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Breaks if a name that leaves the folder, a name that is no key, a link, a damaged, renamed or
/// doubled entry, code for another GPU or no code at all gets in; or if the sound entry before it does.
#[test]
fn hostile_members_are_refused() {
    let (good, bytes) = entry(0, CUBIN, metadata());
    let (second, second_bytes) = entry(1, CUBIN, metadata());
    let mut flipped = second_bytes.clone();
    flipped[77] ^= 1;
    let (hopper_less, sm_90) = entry(1, include_bytes!("data/scale.sm_90.13.0.88.cubin"), metadata());
    let (_, text) = entry(1, b"#!/bin/sh", metadata());
    let (_, escape) = entry(1, CUBIN, Metadata { configuration: "\x1b[2J".into(), ..metadata() });
    let regular = EntryType::Regular;
    let cases: [(&str, Member<'_>); 14] = [
        ("name", (regular, &format!("../{second}"), &second_bytes)),
        ("name", (regular, &format!("/{second}"), &second_bytes)),
        ("name", (regular, &format!("./{second}"), &second_bytes)),
        ("name", (regular, &second.to_uppercase(), &second_bytes)),
        ("name", (regular, "locks/00", &second_bytes)),
        ("name", (regular, ".tmp-x", &second_bytes)),
        ("regular", (EntryType::Symlink, &second, b"")),
        ("regular", (EntryType::Directory, &second, b"")),
        ("checksum", (regular, &second, &flipped)),
        ("checksum", (regular, &second, &bytes)),
        ("there twice", (regular, &good, &bytes)),
        ("sm_90,", (regular, &hopper_less, &sm_90)),
        ("not a CUBIN", (regular, &second, &text)),
        ("control characters", (regular, &second, &escape)),
    ];
    for (word, member) in cases {
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join("bundle.tar");
        tar(&bundle, &[(regular, &good, &bytes), member]);
        let cache = Cache::at(root.path().join("a/b/cubin"));
        match cache.import(&bundle) {
            Err(JitError::Bundle { entry, reason }) => {
                assert_eq!(entry, member.1);
                assert!(reason.contains(word), "{word}: {reason}");
            }
            other => panic!("{word}: {other:?}"),
        }
        assert_eq!(files(root.path()), [bundle], "{word}");
    }
    let root = tempfile::tempdir().unwrap();
    let bundle = root.path().join("bundle.tar");
    tar(&bundle, &[(regular, &good, &bytes), (regular, &second, &second_bytes)]);
    assert_eq!(Cache::at(root.path().join("cubin")).import(&bundle).unwrap().added, 2);
}

/// Breaks if an entry that claims an absurd size is allocated or read.
#[test]
fn huge_members_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let bundle = root.path().join("bundle.tar");
    let mut header = Header::new_gnu();
    header.set_path(format!("{}.cubin", key(0))).unwrap();
    header.set_size(1 << 40);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(4096, 0);
    fs::write(&bundle, bytes).unwrap();
    match Cache::at(root.path().join("cubin")).import(&bundle) {
        Err(JitError::Bundle { reason, .. }) => assert!(reason.contains("larger"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Breaks if a bundle that was cut anywhere, between two entries too, imports as a smaller one, or
/// if a file that is no bundle panics.
#[test]
fn cut_and_foreign_files_are_errors() {
    let root = tempfile::tempdir().unwrap();
    let one = Cache::at(root.path().join("one"));
    for number in 0..2 {
        one.get_or_compile(&key(number), || Ok((CUBIN.to_vec(), metadata()))).unwrap();
    }
    let bundle = root.path().join("bundle.tar");
    one.export(&bundle).unwrap();
    let whole = fs::read(&bundle).unwrap();
    let two = Cache::at(root.path().join("two"));
    let lengths = (0..whole.len()).step_by(256);
    for length in lengths {
        fs::write(&bundle, &whole[..length]).unwrap();
        assert!(two.import(&bundle).is_err(), "cut to {length}");
    }
    for foreign in [CUBIN, &[0xff; 5000], &[&[0xff; 5000][..], &[0; 1024]].concat()] {
        fs::write(&bundle, foreign).unwrap();
        assert!(two.import(&bundle).is_err());
    }
    assert!(matches!(two.import(&root.path().join("absent")), Err(JitError::File { action: "read", .. })));
    assert_eq!(two.list().unwrap(), []);
}

/// A table with one problem.
fn tables(tried: usize) -> Tuning {
    let device = Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version: None };
    let timed = Timed { configuration: "any".into(), interleave: None, cold_us: 5.0, warm_us: 3.0 };
    let problem = "1x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
    let date = "2026-11-29T13:00:00Z".into();
    let tuned = Tuned { problem, date, tried, model: timed.clone(), ranking: vec![timed] };
    Tuning::of(Machine::new(&device, Some((13, 0))), vec![tuned])
}

/// Breaks if the tuning table does not travel with the kernels, replaces what the other machine knows, or
/// a selection of kernels takes others along.
#[test]
fn tables_travel_with_kernels() {
    let root = tempfile::tempdir().unwrap();
    let one = Cache::at(root.path().join("one"));
    for number in 0..2 {
        one.get_or_compile(&key(number), || Ok((CUBIN.to_vec(), metadata()))).unwrap();
    }
    tables(1).store(&one.tuning_path().unwrap(), true).unwrap();
    let bundle = root.path().join("bundle.tar");
    let exported = one.export(&bundle).unwrap();
    assert_eq!((exported.entries, exported.tuned), (2, 1));
    let two = Cache::at(root.path().join("two"));
    let imported = two.import(&bundle).unwrap();
    assert_eq!((imported.added, imported.tuned), (2, 1));
    assert_eq!(Tuning::read(&two.tuning_path().unwrap()).unwrap(), Some(tables(1)));

    one.export_only(&bundle, &[key(1)].into(), &tables(2)).unwrap();
    let three = Cache::at(root.path().join("three"));
    tables(3).store(&three.tuning_path().unwrap(), true).unwrap();
    assert_eq!(three.import(&bundle).unwrap().added, 1);
    assert_eq!(three.list().unwrap()[0].key, key(1));
    assert_eq!(Tuning::read(&three.tuning_path().unwrap()).unwrap(), Some(tables(3)));
    // Without a table there is none in the bundle.
    one.export_only(&bundle, &[key(1)].into(), &Tuning::default()).unwrap();
    assert_eq!(Cache::at(root.path().join("four")).import(&bundle).unwrap().tuned, 0);
    assert!(!root.path().join("four/tuning.json").exists());
}

/// Breaks if a damaged table gets in, or the kernels before it do.
#[test]
fn damaged_tables_are_refused_with_all_kernels() {
    let (good, bytes) = entry(0, CUBIN, metadata());
    let json = tables(1).to_json();
    let mut flipped = json.clone();
    flipped[json.len() / 2] ^= 4;
    for table in [&flipped[..], &json[..json.len() / 2], b"", b"{}"] {
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join("bundle.tar");
        tar(&bundle, &[(EntryType::Regular, &good, &bytes), (EntryType::Regular, "tuning.json", table)]);
        match Cache::at(root.path().join("cubin")).import(&bundle) {
            Err(JitError::Bundle { entry, reason }) => {
                assert_eq!(entry, "tuning.json");
                assert!(reason.contains("not a tuning table"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(files(root.path()), [bundle]);
    }
}

/// Breaks if an import that fails half-way (a full disk; here a folder has the name of a file that is to be written)
/// leaves kernels, notes of an import or a table behind, or takes away what was there.
#[test]
fn a_failed_import_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let one = Cache::at(root.path().join("one"));
    let mut keys = [key(0), key(1), key(2), key(3)];
    keys.sort();
    for key in &keys {
        one.get_or_compile(key, || Ok((CUBIN.to_vec(), metadata()))).unwrap();
    }
    let [bundle, first] = ["bundle.tar", "first.tar"].map(|name| root.path().join(name));
    one.export_only(&bundle, &keys.into(), &tables(1)).unwrap();
    one.export_only(&first, &[keys[1]].into(), &Tuning::default()).unwrap();
    let last = format!("{}.cubin", keys[3]);
    for in_the_way in [&last, "tuning.json", "imported", "locks/imported", "locks/tuning"] {
        let two = Cache::at(root.path().join("two"));
        two.get_or_compile(&keys[0], || Ok((CUBIN.to_vec(), metadata()))).unwrap();
        two.import(&first).unwrap();
        let place = two.folder().unwrap().join(in_the_way);
        if place.is_file() {
            fs::remove_file(&place).unwrap();
        }
        fs::create_dir_all(place.join("below")).unwrap();
        let noted = two.imported();
        let error = two.import(&bundle).unwrap_err();
        assert!(matches!(error, JitError::File { .. } | JitError::NotRegular { .. }), "{in_the_way}: {error}");
        let sound = two.list().unwrap().into_iter().filter(|listed| listed.metadata.is_ok());
        assert_eq!(sound.map(|listed| listed.key).collect::<Vec<_>>(), keys[..2], "{in_the_way}");
        assert_eq!(two.imported(), noted, "{in_the_way}");
        assert!(!two.tuning_path().unwrap().is_file(), "{in_the_way}: the table is there");
        fs::remove_dir_all(two.folder().unwrap()).unwrap();
    }
    assert_eq!(Cache::at(root.path().join("two")).import(&bundle).unwrap().added, 4);
}

/// Breaks if a bundle or a table replaces a link, or what is no file (a socket here), or is written before that is seen;
/// or if a sound bundle that comes through a pipe is called damaged.
#[cfg(unix)]
#[test]
fn links_stay_and_what_is_no_file_is_refused() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let one = Cache::at(path("one"));
    one.get_or_compile(&key(0), || Ok((CUBIN.to_vec(), metadata()))).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let refused = |result: Result<(), JitError>, action: &str, rule: &str| match result {
        Err(JitError::NotRegular { action: tried, path: named, rule: broken, .. }) => {
            assert_eq!((tried, named), (action, path("socket")));
            assert!(broken.contains(rule), "{broken}");
        }
        other => panic!("{other:?}"),
    };
    refused(one.export(&path("socket")).map(drop), "write", "only a regular file is replaced");
    refused(tables(1).store(&path("socket"), true), "write", "only a regular file is replaced");
    refused(Tuning::read(&path("socket")).map(drop), "read", "a tuning table is a regular file");
    refused(one.import(&path("socket")).map(drop), "read", "a bundle must be a regular file");

    fs::create_dir(path("elsewhere")).unwrap();
    for (link, target) in [("bundle.tar", "elsewhere/bundle.tar"), ("one/tuning.json", "../elsewhere/tuning.json")] {
        symlink(target, path(link)).unwrap();
    }
    for tried in [1, 2] {
        tables(tried).store(&one.tuning_path().unwrap(), true).unwrap();
        one.export(&path("bundle.tar")).unwrap();
        assert_eq!(Tuning::read(&path("elsewhere/tuning.json")).unwrap(), Some(tables(tried)));
    }
    assert!(path("bundle.tar").is_symlink() && one.tuning_path().unwrap().is_symlink());
    let two = Cache::at(path("two"));
    fs::create_dir(path("two")).unwrap();
    symlink("../socket", path("two/tuning.json")).unwrap();
    assert!(matches!(two.import(&path("bundle.tar")), Err(JitError::NotRegular { .. })));
    assert_eq!(files(&path("two")), [path("two/tuning.json")]);
    fs::remove_file(path("two/tuning.json")).unwrap();
    assert_eq!(two.import(&path("elsewhere/bundle.tar")).unwrap().tuned, 1);
    assert_eq!(Tuning::read(&two.tuning_path().unwrap()).unwrap(), Some(tables(2)));
}

/// Breaks if it is forgotten which entries came by an import, others count as such, or clearing leaves the list.
#[test]
fn imports_are_known_as_such() {
    let root = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| Cache::at(root.path().join(name)));
    for (cache, number) in [(&one, 0), (&one, 1), (&two, 1), (&two, 2)] {
        cache.get_or_compile(&key(number), || Ok((CUBIN.to_vec(), metadata()))).unwrap();
    }
    let bundle = root.path().join("bundle.tar");
    one.export(&bundle).unwrap();
    assert!(one.imported().is_empty() && two.imported().is_empty());
    assert_eq!(two.import(&bundle).unwrap().present, 1);
    assert_eq!(two.imported(), [(key(0), (13, 0)), (key(1), (13, 0))].into());
    two.clear().unwrap();
    assert!(two.imported().is_empty());
}

/// Breaks if a server whose NVRTC is another one than the bundle was made by compiles what is in the bundle, passes
/// over the bundle's tuning table, or puts a pattern's kernel under another key; or if kernels that another version
/// has left in a cache without an import are taken, so that a new NVRTC would never be used.
#[test]
#[ignore = "needs NVRTC"]
fn imported_kernels_are_taken_whatever_nvrtc_is_here() {
    let root = tempfile::tempdir().unwrap();
    let problem = "4096x7168x2048 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
    let config = choose(&problem, 132).unwrap().config();
    let entry = Entry::Gemm(config);
    let (source, name) = (entry.source(), entry.to_string());
    let unit = entry.unit(&source, &name);
    // A version that nobody has here, and the code of the one that is here.
    let (here, there) = (Nvrtc::find(None).unwrap().version(), (12, 99));
    let cubin = Compiler::new(Cache::in_memory(), None).cubin(&unit).unwrap();
    let old = Cache::at(root.path().join("old"));
    let old_key = Key::new(&source, unit.options, there);
    let metadata = Metadata { nvrtc: there, kernel: unit.kernel.into(), ..metadata() };
    old.get_or_compile(&old_key, || Ok((cubin.to_vec(), metadata))).unwrap();
    let device = Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version: None };
    let timed = Timed { configuration: config.to_string(), interleave: None, cold_us: 5.0, warm_us: 3.0 };
    let tuned = Tuned { problem, date: "today".into(), tried: 1, model: timed.clone(), ranking: vec![timed] };
    let table = Tuning::of(Machine::new(&device, Some(there)), vec![tuned]);
    table.store(&old.tuning_path().unwrap(), true).unwrap();
    let bundle = root.path().join("bundle.tar");
    old.export(&bundle).unwrap();

    let server = Cache::at(root.path().join("server"));
    server.import(&bundle).unwrap();
    let server = Compiler::new(server, None);
    assert_eq!(server.cached(&unit), Some(old_key));
    assert!(server.make(&unit).unwrap().compiled.is_none());
    assert!(matches!(server.choose(&problem, &device).unwrap().source, Source::Tuned(_)));
    let changed = server.make_interleaved(&unit, Interleave::OneInFour).unwrap().cubin;
    assert_eq!(server.cache().get(&old_key.interleaved(Interleave::OneInFour)), Some(changed));
    assert_eq!((server.statistics().compiled, server.statistics().cached), (0, 2));

    // Without an import it is another version's: compiled anew, and the table is stale.
    let updated = Compiler::new(old, None);
    assert_eq!(updated.cached(&unit), None);
    let source = updated.choose(&problem, &device).unwrap().source;
    assert!(matches!(source, Source::Model(Untuned::OtherMachine(_))), "{source:?}");
    assert!(updated.make(&unit).unwrap().compiled.is_some());
    assert_eq!(updated.cached(&unit), Some(Key::new(unit.source, unit.options, here)));
    // From then on its own is taken, though the other is imported.
    updated.cache().import(&bundle).unwrap();
    assert_eq!(updated.cached(&unit), Some(Key::new(unit.source, unit.options, here)));
}
