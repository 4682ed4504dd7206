//! The cache between processes. A test starts its own binary again, with only itself selected and
//! a variable that says which part to play.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fp8gemm_jit::{Cache, JitError, Metadata};
use support::{CUBIN, Events, key, metadata};

const FOLDER: &str = "FP8GEMM_TEST_FOLDER";
const NUMBER: &str = "FP8GEMM_TEST_NUMBER";

/// In a process that a test started: its folder and number.
fn role() -> Option<(PathBuf, u32)> {
    let folder = std::env::var_os(FOLDER)?;
    Some((folder.into(), std::env::var(NUMBER).unwrap().parse().unwrap()))
}

fn start(test: &str, folder: &Path, number: u32) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(FOLDER, folder).env(NUMBER, number.to_string());
    command.stdout(Stdio::null()).spawn().unwrap()
}

/// A compiler that takes its time and leaves a line for each call.
fn slow_compiler(folder: &Path, who: u32) -> Result<(Vec<u8>, Metadata), JitError> {
    let mut log = fs::OpenOptions::new().create(true).append(true).open(folder.join("compilations")).unwrap();
    writeln!(log, "process {who}").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    Ok((CUBIN.to_vec(), metadata()))
}

/// Breaks if two processes that want one kernel at once both compile it.
#[test]
fn two_processes_compile_once() {
    if let Some((folder, who)) = role() {
        fs::write(folder.join(format!("ready-{who}")), "").unwrap();
        wait_for(|| folder.join("go").exists());
        let cache = Cache::at(folder.join("cubin"));
        let cubin = cache.get_or_compile(&key(0), || slow_compiler(&folder, who)).unwrap();
        assert_eq!(&cubin[..], CUBIN);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let children = [1, 2].map(|who| start("two_processes_compile_once", folder.path(), who));
    wait_for(|| [1, 2].iter().all(|who| folder.path().join(format!("ready-{who}")).exists()));
    fs::write(folder.path().join("go"), "").unwrap();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let compilations = fs::read_to_string(folder.path().join("compilations")).unwrap();
    assert_eq!(compilations.lines().count(), 1, "{compilations}");
}

/// Breaks if a process that dies while it compiles leaves a lock behind.
#[test]
fn a_killed_compiler_frees_its_lock() {
    if let Some((folder, _)) = role() {
        let cache = Cache::at(folder.join("cubin"));
        let _ = cache.get_or_compile(&key(0), || {
            fs::write(folder.join("compiling"), "").unwrap();
            std::thread::sleep(Duration::from_secs(600));
            Ok((CUBIN.to_vec(), metadata()))
        });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = start("a_killed_compiler_frees_its_lock", folder.path(), 0);
    wait_for(|| folder.path().join("compiling").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = Instant::now();
    let cache = Cache::at(folder.path().join("cubin"));
    assert_eq!(&cache.get_or_compile(&key(0), || Ok((CUBIN.to_vec(), metadata()))).unwrap()[..], CUBIN);
    assert!(begin.elapsed() < Duration::from_secs(20), "waited for a dead process");
}

/// Breaks if a process that is killed while it writes leaves an entry that is not whole. The entry
/// is large, so that the kill hits the writing; a round in which it came too late does not count.
#[test]
#[cfg(unix)]
fn a_kill_while_writing_leaves_nothing_half_written() {
    const LARGE: usize = 96 << 20;
    let large = || vec![0x5a_u8; LARGE];
    if let Some((folder, _)) = role() {
        let cache = Cache::at(folder.join("cubin"));
        cache.get_or_compile(&key(0), || Ok((large(), metadata()))).unwrap();
        return;
    }
    let temporary = |entries: &Path| -> Option<(PathBuf, u64)> {
        let mut files = fs::read_dir(entries).ok()?.flatten().filter_map(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with(".tmp-").then(|| (entry.path(), entry.metadata().map_or(0, |m| m.len())))
        });
        files.next()
    };
    for round in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        let entries = folder.path().join("cubin");
        let entry = entries.join(format!("{}.cubin", key(0)));
        let mut child = start("a_kill_while_writing_leaves_nothing_half_written", folder.path(), 0);
        wait_for(|| temporary(&entries).is_some_and(|(_, bytes)| bytes > 0) || entry.exists());
        child.kill().unwrap();
        child.wait().unwrap();
        if entry.exists() {
            println!("round {round}: the kill came after the rename");
            let whole = Cache::at(&entries).get(&key(0)).expect("an entry that can be seen is whole");
            assert!(*whole == *large());
            continue;
        }
        let (left, bytes) = temporary(&entries).expect("the file that was being written");
        println!("round {round}: killed after {bytes} bytes");
        // Nobody sees it, and the next one who wants the kernel gets it.
        let cache = Cache::at(&entries);
        assert_eq!(cache.list().unwrap(), []);
        assert_eq!(cache.get(&key(0)), None);
        assert_eq!(&cache.get_or_compile(&key(0), || Ok((CUBIN.to_vec(), metadata()))).unwrap()[..], CUBIN);
        assert!(entry.exists());
        // It stays while its writer could be alive, and goes when that cannot be.
        assert!(left.exists());
        let hours = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
        fs::File::options().write(true).open(&left).unwrap().set_modified(hours).unwrap();
        Cache::at(&entries).get_or_compile(&key(1), || Ok((CUBIN.to_vec(), metadata()))).unwrap();
        assert!(!left.exists());
        return;
    }
    panic!("no kill hit the writing in 50 rounds");
}

/// Breaks if a disk that takes no more bytes loses a kernel, warns for each one, or leaves a file
/// that was begun. The process may write no byte to any file (`ulimit -f 0`), which is the same to it.
#[test]
#[cfg(unix)]
fn a_full_disk_keeps_kernels_in_memory() {
    if let Some((folder, _)) = role() {
        assert!(fs::write(folder.join("probe"), "x").is_err(), "the limit does not hold");
        let cache = Cache::at(folder.join("cubin"));
        let (events, ()) = Events::during(|| {
            for number in 0..2 {
                cache.get_or_compile(&key(number), || Ok((CUBIN.to_vec(), metadata()))).unwrap();
                let again = cache.get_or_compile(&key(number), || panic!("compiled although it is in memory"));
                assert_eq!(&again.unwrap()[..], CUBIN);
            }
        });
        assert_eq!(events.warnings(), 1);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let limited = "trap '' XFSZ; ulimit -f 0; exec \"$0\" --exact a_full_disk_keeps_kernels_in_memory";
    let mut command = Command::new("sh");
    command.args(["-c", limited]).arg(std::env::current_exe().unwrap());
    let output = command.env(FOLDER, folder.path()).env(NUMBER, "0").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    let names =
        |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(&folder.path().join("cubin")), ["locks"]);
}

fn wait_for(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(120), "waited too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}
