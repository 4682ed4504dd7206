//! Checks that hold for whatever the tensor-file readers are given.

use std::io::Write;

use fp8gemm_cli::files::{Contents, FileError, StoredType, TensorFile, parse};
use fp8gemm_problem::OperandType;

use crate::memory;

/// Parses `bytes` and checks what must hold of any answer:
///
/// - memory is bounded by a small multiple of the input, whatever sizes the header claims;
/// - an error has a message;
/// - each tensor lies inside the file and has the bytes that its type and shape need;
/// - the same file on disk opens, and every way to read each tensor gives an error or all of its
///   elements.
pub fn parse_checked(bytes: &[u8]) -> Result<Contents, FileError> {
    let (result, peak) = memory::peak(|| parse(bytes));
    // serde_json's and the reader's strings, names and shapes; a growing vector holds three times
    // its content for a moment.
    let allowed = 64 * bytes.len() + 4096;
    assert!(peak <= allowed, "{peak} bytes allocated for a file of {} bytes", bytes.len());
    match &result {
        Ok(contents) => check_contents(contents, bytes),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    result
}

fn check_contents(contents: &Contents, bytes: &[u8]) {
    for info in &contents.tensors {
        let data = &bytes[info.data.clone()];
        let elements: usize = info.shape.iter().product();
        if let Some(size) = info.ty.size() {
            assert_eq!(data.len(), elements * size, "{info:?}");
        }
    }
    let mut disk = tempfile::NamedTempFile::new().expect("a temporary file");
    disk.write_all(bytes).expect("a file of a few kilobytes");
    let file = TensorFile::open(disk.path()).expect("what parses as bytes parses as a file");
    assert_eq!(file.tensors().count(), contents.tensors.len());
    for (tensor, info) in file.tensors().zip(&contents.tensors) {
        assert_eq!((tensor.name(), tensor.shape()), (&*info.name, &*info.shape));
        assert_eq!(tensor.bytes(), &bytes[info.data.clone()]);
        assert!(!tensor.to_string().is_empty());
        let shape = tensor.dim().ok();
        for plain in [None, Some(OperandType::E4m3), Some(OperandType::E5m2)] {
            if let Ok((ty, codes)) = tensor.codes(plain) {
                assert_eq!(Some(codes.dim()), shape);
                assert!(*tensor.ty() == StoredType::Fp8(ty) || (*tensor.ty() == StoredType::U8 && plain == Some(ty)));
            }
        }
        if let Ok(matrix) = tensor.matrix() {
            assert_eq!(Some(matrix.dim()), shape);
        }
        if let Ok(values) = tensor.to_f32() {
            assert_eq!(values.len(), info.shape.iter().product::<usize>());
        }
        assert!(file.get(&info.name).is_some());
    }
}
