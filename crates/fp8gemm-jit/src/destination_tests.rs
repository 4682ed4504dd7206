//! Files that are replaced whole: what a failure leaves, links that stay, what is refused.

use super::*;

fn written(path: &Path, bytes: &[u8]) -> Result<(), JitError> {
    Destination::new(path)?.replace(|file| file.write_all(bytes))
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Breaks if a file is not replaced whole, a failed write changes it or leaves a temporary file, or a folder in the way
/// or one that is missing is no error.
#[test]
fn files_are_replaced_whole_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    written(&path, b"one").unwrap();
    written(&path, b"two").unwrap();
    let failed = Destination::new(&path).unwrap().replace(|file| {
        file.write_all(b"half")?;
        Err(io::Error::other("no more"))
    });
    assert!(matches!(failed, Err(JitError::File { action: "write", .. })), "{failed:?}");
    assert_eq!((fs::read(&path).unwrap().as_slice(), names(root.path())), (b"two".as_slice(), vec!["file".to_owned()]));

    let error = Destination::new(root.path()).unwrap_err().to_string();
    assert!(error.contains("a folder") && error.contains("only a regular file is replaced"), "{error}");
    assert!(matches!(Destination::new(&path.join("below")), Err(JitError::File { .. })));
    let missing = Destination::new(&root.path().join("no/such/file")).unwrap();
    assert!(matches!(missing.probe(), Err(JitError::File { .. })));
    Destination::new(&path).unwrap().probe().unwrap();
    assert_eq!(names(root.path()), ["file"]);
}

/// Breaks if a name that no file can have is found out only when the finished file is to get it.
#[test]
fn names_of_no_file_are_refused_first() {
    let root = tempfile::tempdir().unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("new/", root.path().join("link")).unwrap();
    let dangling = if cfg!(unix) { "link" } else { "new/" };
    for name in ["new/", "new//", "new/.", "new/..", "new/./", "no/such/", dangling] {
        let path = root.path().join(name);
        match Destination::new(&path) {
            Err(JitError::NotRegular { action: "write", path, found: "no name for a file", rule }) => {
                assert!(path.starts_with(root.path()) && rule.contains("separator"), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(matches!(Destination::new(Path::new("")), Err(JitError::NotRegular { .. })));
    for name in ["new", ".new", "new.", "..new", "..."] {
        written(&root.path().join(name), b"made").unwrap();
    }
}

/// Breaks if a link is replaced by a file, its target stays old, one to what is not there yet is refused or lost, or a
/// ring of links is followed for ever.
#[cfg(unix)]
#[test]
fn links_stay_links() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::create_dir(path("below")).unwrap();
    fs::write(path("below/target"), "old").unwrap();
    symlink("below/target", path("link")).unwrap();
    symlink("link", path("second")).unwrap();
    symlink("below/new", path("dangling")).unwrap();
    written(&path("second"), b"new").unwrap();
    written(&path("dangling"), b"made").unwrap();
    assert_eq!(fs::read(path("below/target")).unwrap(), b"new");
    assert_eq!(fs::read(path("below/new")).unwrap(), b"made");
    assert!(["link", "second", "dangling"].iter().all(|name| path(name).is_symlink()));
    assert_eq!(names(root.path()), ["below", "dangling", "link", "second"]);
    symlink("ring", path("ring")).unwrap();
    assert!(matches!(Destination::new(&path("ring")), Err(JitError::File { .. })));
}

/// Breaks if what is no regular file is replaced by one, by its name or through a link. (A socket stands for a device:
/// a test cannot make one, and would ruin one that is there.)
#[cfg(unix)]
#[test]
fn devices_are_never_replaced() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = root.path().join("link");
    symlink("socket", &link).unwrap();
    for path in [&socket, &link] {
        match written(path, b"bytes") {
            Err(JitError::NotRegular { action: "write", path: named, found, .. }) => {
                assert_eq!((&named, found), (path, "a pipe, socket or device"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket() && link.is_symlink());
    assert_eq!(names(root.path()), ["link", "socket"]);
}
