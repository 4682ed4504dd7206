//! Machine code as words of 16 bytes, and what nvdisasm makes of them.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::process::Command;

use fp8gemm_jit::KERNEL;
use fp8gemm_jit::sass::Disassembler;

/// What nvdisasm makes of instructions without a file around them; `None` if it refuses one.
pub(crate) fn disassembled(tool: &Disassembler, words: &[u128]) -> Option<Vec<String>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let output = Command::new(tool.path()).args(["-b", "SM90a"]).arg(file.path()).output().unwrap();
    if !output.status.success() {
        return None;
    }
    let lines: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| {
            Some(line.trim().strip_prefix("/*")?.split_once("*/")?.1.split_once(';')?.0.trim().to_owned())
        })
        .collect();
    assert_eq!(lines.len(), words.len(), "{lines:?}");
    Some(lines)
}

/// Where the code of the one kernel lies in the file.
pub(crate) fn code_range(cubin: &[u8]) -> std::ops::Range<usize> {
    let file = object::File::parse(cubin).unwrap();
    let section = object::Object::section_by_name(&file, &format!(".text.{KERNEL}")).unwrap();
    let (start, bytes) = object::ObjectSection::file_range(&section).unwrap();
    start as usize..(start + bytes) as usize
}

/// The instructions of the one kernel.
pub(crate) fn code(cubin: &[u8]) -> Vec<u128> {
    let words = cubin[code_range(cubin)].chunks_exact(16);
    words.map(|bytes| u128::from_le_bytes(bytes.try_into().unwrap())).collect()
}
