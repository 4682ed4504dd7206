//! The search on made-up folders: which files are tried, and in which order.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Attempt, Attempts, Place, Step, Surroundings, builtins_name, library_version};

fn touch(root: &Path, file: &str) -> PathBuf {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "not a library").unwrap();
    path
}

fn tried(surroundings: &Surroundings) -> Vec<(Place, PathBuf)> {
    let steps = surroundings.steps().into_iter();
    steps.filter_map(|step| if let Step::Try(place, path) = step { Some((place, path)) } else { None }).collect()
}

fn absent(surroundings: &Surroundings) -> Vec<Attempt> {
    let steps = surroundings.steps().into_iter();
    steps.filter_map(|step| if let Step::Absent(attempt) = step { Some(attempt) } else { None }).collect()
}

/// Breaks if the builtins, the `alt` build or a foreign file is opened as NVRTC.
#[test]
#[cfg(target_os = "linux")]
fn names_of_libraries() {
    assert_eq!(library_version("libnvrtc.so"), Some(vec![]));
    assert_eq!(library_version("libnvrtc.so.13"), Some(vec![13]));
    assert_eq!(library_version("libnvrtc.so.12.9.86"), Some(vec![12, 9, 86]));
    for other in ["libnvrtc-builtins.so.13.0", "libnvrtc.alt.so.13", "libnvrtc.so.bak", "libcudart.so.13", "nvrtc.so"] {
        assert_eq!(library_version(other), None, "{other}");
    }
    assert_eq!(builtins_name((12, 9)), "libnvrtc-builtins.so.12.9");
}

/// Breaks if the order is not loader, CUDA, Python, or if a folder's newest library is not first.
#[test]
#[cfg(target_os = "linux")]
fn order_of_places() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let old = touch(root, "cuda/lib64/libnvrtc.so.12");
    let new = touch(root, "cuda/lib64/libnvrtc.so.13");
    touch(root, "cuda/lib64/libnvrtc-builtins.so.13.0");
    let wheel = touch(root, "venv/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13");
    touch(root, "venv/lib/python3.9/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
    let surroundings = Surroundings {
        wish: None,
        loader_names: vec!["libnvrtc.so"],
        cuda_roots: vec![root.join("none"), root.join("cuda")],
        python_roots: vec![root.join("venv")],
    };
    let expected =
        [(Place::Loader, PathBuf::from("libnvrtc.so")), (Place::Cuda, new), (Place::Cuda, old), (Place::Python, wheel)];
    assert_eq!(tried(&surroundings), expected);
    let missing = Attempt { place: Place::Cuda, tried: root.join("none"), reason: "does not exist".into() };
    assert_eq!(absent(&surroundings), [missing]);
}

/// Breaks if a wheel of CUDA 12, a `cu12` beside a `cu13`, a toolkit's `targets` or a conda prefix
/// is not looked into.
#[test]
#[cfg(target_os = "linux")]
fn folders_of_wheels_and_toolkits() {
    for (file, place) in [
        ("p/lib/python3.10/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12", Place::Python),
        ("p/lib/python3/dist-packages/nvidia/cu14/lib/libnvrtc.so.14", Place::Python),
        ("p/lib64/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13", Place::Python),
        ("p/lib/libnvrtc.so.12", Place::Python),
        ("p/targets/sbsa-linux/lib/libnvrtc.so.13", Place::Cuda),
        ("p/lib64/libnvrtc.so", Place::Cuda),
    ] {
        let root = tempfile::tempdir().unwrap();
        let path = touch(root.path(), file);
        let mut surroundings = Surroundings::default();
        let roots = if place == Place::Cuda { &mut surroundings.cuda_roots } else { &mut surroundings.python_roots };
        roots.push(root.path().join("p"));
        assert_eq!(tried(&surroundings), [(place, path)]);
    }
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), "lib/python3.9/site-packages/nvidia/cu12/lib/libnvrtc.so.12");
    touch(root.path(), "lib/python3.9/site-packages/nvidia/cublas/lib/libcublas.so.12");
    let newer = touch(root.path(), "lib/python3.9/site-packages/nvidia/cu13/lib/libnvrtc.so.13");
    let surroundings = Surroundings { python_roots: vec![root.path().to_owned()], ..Surroundings::default() };
    assert_eq!(tried(&surroundings), [(Place::Python, newer)]);
}

/// Breaks if a link and its target are tried twice.
#[test]
#[cfg(target_os = "linux")]
fn links_are_one_library() {
    let root = tempfile::tempdir().unwrap();
    let real = touch(root.path(), "lib64/libnvrtc.so.13.0.88");
    std::os::unix::fs::symlink(&real, root.path().join("lib64/libnvrtc.so.13")).unwrap();
    std::os::unix::fs::symlink("libnvrtc.so.13", root.path().join("lib64/libnvrtc.so")).unwrap();
    let surroundings = Surroundings { cuda_roots: vec![root.path().to_owned()], ..Surroundings::default() };
    assert_eq!(tried(&surroundings), [(Place::Cuda, real)]);
}

/// Breaks if a wish (file, folder, toolkit, `site-packages`) is not followed, or if something else
/// is tried when it fails.
#[test]
#[cfg(target_os = "linux")]
fn a_wish_is_the_only_thing_tried() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let odd = touch(root, "my-nvrtc");
    let toolkit = touch(root, "cuda/lib64/libnvrtc.so.13");
    let wheel = touch(root, "site-packages/nvidia/cu13/lib/libnvrtc.so.13");
    let follow = |path: PathBuf| {
        let wish = Some((Place::Argument, path));
        let cuda_roots = vec![root.join("cuda")];
        let loader_names = vec!["libnvrtc.so"];
        let surroundings = Surroundings { wish, cuda_roots, loader_names, ..Surroundings::default() };
        (tried(&surroundings), absent(&surroundings))
    };
    assert_eq!(follow(odd.clone()).0, [(Place::Argument, odd)]);
    assert_eq!(follow(root.join("cuda/lib64")).0, [(Place::Argument, toolkit.clone())]);
    assert_eq!(follow(root.join("cuda")).0, [(Place::Argument, toolkit)]);
    assert_eq!(follow(root.join("site-packages")).0, [(Place::Argument, wheel)]);
    let (tried, absent) = follow(root.join("typo"));
    assert_eq!(tried, []);
    assert_eq!(absent.len(), 1);
    assert_eq!(absent[0].reason, "does not exist");
}

/// Breaks if the list that `doctor` prints loses the place, the path or the reason.
#[test]
fn attempts_print_one_line_each() {
    let attempt = |place, tried: &str, reason: &str| Attempt { place, tried: tried.into(), reason: reason.into() };
    let attempts = Attempts(vec![
        attempt(Place::Loader, "libnvrtc.so", "cannot open"),
        attempt(Place::Cuda, "/opt/cuda", "does not exist"),
    ]);
    let text = "  loader's search path: libnvrtc.so: cannot open\n  CUDA folder: /opt/cuda: does not exist";
    assert_eq!(attempts.to_string(), text);
}
