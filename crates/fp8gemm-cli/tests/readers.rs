//! The file readers against the reference implementations, and against bytes that nobody wrote.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;

use common::{codes, f32s, save, tensor};
use fp8gemm_cli::files::{Container, FileError, StoredType, parse};
use npyz::WriterBuilder;
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};

/// A safetensors file of this header.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + data, 0);
    file
}

/// An `.npy` file of this dictionary.
fn with_dictionary(dictionary: &str, data: usize) -> Vec<u8> {
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((dictionary.len() as u16).to_le_bytes());
    file.extend(dictionary.bytes());
    file.resize(file.len() + data, 0);
    file
}

/// Breaks if names, types, shapes, bytes or metadata are read otherwise than by the reference
/// implementation.
#[test]
fn safetensors_as_the_reference_reads_it() {
    let folder = common::folder();
    let path = folder.path().join("x.safetensors");
    let tensors = [
        codes("a", 3, 5, 1),
        f32s("scale_a", &[], &[2.5]),
        f32s("empty", &[0, 7], &[]),
        tensor("half", Dtype::F16, &[1, 2], vec![0, 0x3C, 1, 0]),
        tensor("brain", Dtype::BF16, &[2], vec![0x80, 0x3F, 0, 0]),
        tensor("index", Dtype::I64, &[1], vec![9; 8]),
        tensor("nibbles", Dtype::F4, &[4], vec![1, 2]),
    ];
    save(&path, &tensors, &[("kernel", "κ")]);
    let bytes = fs::read(&path).unwrap();
    let contents = parse(&bytes).unwrap();
    assert_eq!(contents.container, Container::Safetensors);
    assert_eq!(contents.metadata["kernel"], "κ");
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let views: Vec<_> = contents.views(&bytes).collect();
    assert_eq!(views.len(), tensors.len());
    for view in views {
        let expected = reference.tensor(view.name()).unwrap();
        assert_eq!(view.ty().to_string(), expected.dtype().to_string());
        assert_eq!(view.shape(), expected.shape());
        assert_eq!(view.bytes(), expected.data());
    }
}

/// Breaks if an array that NumPy's format holds is read as other numbers, in either order.
#[test]
fn npy_as_npyz_writes_it() {
    let values = [1.5f32, -2.0, 3.25, 4.0, 5.5, -6.0];
    for order in [npyz::Order::C, npyz::Order::Fortran] {
        let mut bytes = Vec::new();
        let options = npyz::WriteOptions::new().default_dtype().shape(&[2, 3]).order(order).writer(&mut bytes);
        let mut writer = options.begin_nd().unwrap();
        writer.extend(values).unwrap();
        writer.finish().unwrap();
        let contents = parse(&bytes).unwrap();
        let view = contents.views(&bytes).next().unwrap();
        assert_eq!((view.ty(), view.shape()), (&StoredType::F32, &[2, 3][..]));
        let fp8gemm::sim::Matrix::F32(matrix) = view.matrix().unwrap() else { panic!("not f32") };
        let row = match order {
            npyz::Order::C => [1.5, -2.0, 3.25],
            npyz::Order::Fortran => [1.5, 3.25, 5.5],
        };
        assert_eq!(matrix.row(0).to_vec(), row);
        // Scales are taken in row-major order.
        assert_eq!(view.to_f32().unwrap()[..3], row);
    }
}

/// Breaks if one of these is accepted, or refused without naming what is wrong.
#[test]
fn malformed_files_are_refused() {
    let tensor = |text: &str| format!("{{\"t\":{text}}}");
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", vec![], &["empty"]),
        ("short", vec![1, 2, 3], &["truncated header", "3"]),
        ("text", b"hello, this is no tensor file".to_vec(), &["neither"]),
        ("zip", b"PK\x03\x04aaaaaaaaaaaa".to_vec(), &["zip", ".npz"]),
        ("pickle", b"\x80\x02}q\x00(X\x05\x00\x00\x00".to_vec(), &["pickle"]),
        ("header bomb", [&u64::MAX.to_le_bytes()[..], b"{"].concat(), &["header of 18446744073709551615 bytes"]),
        ("header beyond the file", [&1000u64.to_le_bytes()[..], b"{}"].concat(), &["truncated header", "1008", "10"]),
        ("no JSON", with_header("{\"a\": nothing}", 0), &["malformed header"]),
        ("list", with_header("{}[]", 0), &["malformed header"]),
        (
            "twice",
            with_header(
                "{\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                0,
            ),
            &["`t` occurs twice"],
        ),
        (
            "negative",
            with_header(&tensor("{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}"), 1),
            &["`t`", "-1"],
        ),
        ("no shape", with_header(&tensor("{\"dtype\":\"U8\",\"data_offsets\":[0,1]}"), 1), &["`t`", "shape"]),
        (
            "gap",
            with_header(&tensor("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}"), 2),
            &["`t`", "[1, 2]", "begin at 0"],
        ),
        ("backwards", with_header(&tensor("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,-1]}"), 1), &["`t`"]),
        (
            "size",
            with_header(&tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}"), 4),
            &["`t`", "F32 [2]", "4 bytes"],
        ),
        (
            "overflow",
            with_header(&tensor("{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}"), 4),
            &["`t`", "too large"],
        ),
        (
            "data truncated",
            with_header(&tensor("{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}"), 8),
            &["truncated", "9", "8"],
        ),
        (
            "data trailing",
            with_header(&tensor("{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}"), 10),
            &["trailing", "9", "10"],
        ),
        ("metadata", with_header("{\"__metadata__\":{\"a\":1}}", 0), &["__metadata__"]),
        ("npy magic only", b"\x93NUMPY".to_vec(), &["truncated header"]),
        ("npy version", b"\x93NUMPY\x09\x00\x00\x00".to_vec(), &["version 9.0"]),
        ("npy bomb", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(), &["header of 4294967295 bytes"]),
        ("npy truncated", with_dictionary("{'descr': '<f4', ", 0), &["malformed header"]),
        (
            "npy data",
            with_dictionary("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", 8),
            &["truncated", "12", "8"],
        ),
        (
            "npy big-endian",
            with_dictionary("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", 4),
            &["'>f4'", "byteorder"],
        ),
        (
            "npy double",
            with_dictionary("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", 8),
            &["'<f8'", "'<f4'"],
        ),
        (
            "npy structure",
            with_dictionary("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4),
            &["structures"],
        ),
        (
            "npy overflow",
            with_dictionary("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 4),
            &["too large"],
        ),
        (
            "npy huge size",
            with_dictionary("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 4),
            &["too large"],
        ),
        ("npy twice", with_dictionary("{'shape': (), 'shape': (), }", 4), &["'shape' occurs twice"]),
        ("npy key", with_dictionary("{'descr': '<f4', 'fortran_order': False}", 4), &["'shape' is missing"]),
        ("npy nested", with_dictionary(&"(".repeat(9000), 0), &["malformed header"]),
        (
            "npy rest",
            with_dictionary("{'descr': '<f4', 'fortran_order': False, 'shape': ()} 1", 4),
            &["end of the header"],
        ),
    ];
    for (name, bytes, words) in cases {
        let error = parse(&bytes).expect_err(name).to_string();
        for word in words {
            assert!(error.contains(word), "{name}: {word:?} is not in: {error}");
        }
        assert!(!error.contains('\n'), "{name}: {error}");
    }
}

/// Breaks if a legal file is refused: metadata that is null, types nobody knows, scalars, white
/// space, Python 2's long integers.
#[test]
fn unusual_files_are_accepted() {
    for bytes in [
        with_header("{}", 0),
        with_header("{\"__metadata__\":null}   ", 0),
        with_header("{\"t\":{\"dtype\":\"Q3_K\",\"shape\":[3],\"data_offsets\":[0,5],\"extra\":[{}]}}", 5),
        with_header("{\"t\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4),
        with_dictionary("{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", 4),
        with_dictionary("{\"shape\":(2L,1), \"fortran_order\":True, \"descr\":\"<f2\"}", 4),
        with_dictionary("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 4), }   \n", 0),
    ] {
        parse(&bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)));
    }
}

/// Asserts what holds of any bytes: no panic, and what is accepted lies in the file.
fn check(bytes: &[u8]) -> Result<(), FileError> {
    let contents = parse(bytes)?;
    assert_eq!(contents.views(bytes).count(), contents.tensors.len());
    for view in contents.views(bytes) {
        if let Some(size) = view.ty().size() {
            assert_eq!(view.bytes().len(), view.shape().iter().product::<usize>() * size);
        }
        let _ = (view.matrix(), view.to_f32(), view.codes(Some(fp8gemm::problem::OperandType::E5m2)));
    }
    Ok(())
}

fn valid(index: usize) -> Vec<u8> {
    match index {
        0 => with_header(
            "{\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,3],\"data_offsets\":[0,6]},\
             \"d\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[6,14]}}",
            14,
        ),
        _ => with_dictionary("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 24),
    }
}

proptest! {
    /// Breaks if damage to a valid file makes a reader panic or hand out bytes beyond the file.
    #[test]
    fn damaged_files_do_no_harm(
        index in 0usize..2,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cut_it in any::<bool>(),
    ) {
        let mut bytes = valid(index);
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if cut_it {
            bytes.truncate(cut.index(bytes.len()));
        }
        let accepted = check(&bytes).is_ok();
        // What this reader accepts, the reference does, unless it knows fewer types.
        if accepted && index == 0 && !bytes.starts_with(b"\x93NUMPY") {
            let unknown = parse(&bytes).unwrap().tensors.iter().any(|t| matches!(t.ty, StoredType::Other(_)));
            prop_assert!(unknown || SafeTensors::deserialize(&bytes).is_ok());
        }
    }

    /// Breaks if digits of a header, which say sizes and places, overflow or are believed.
    #[test]
    fn any_sizes_do_no_harm(shape in prop::collection::vec(any::<u64>(), 0..4), begin: u64, end: u64, few in 0u64..20) {
        for (begin, end) in [(begin, end), (0, few), (0, u64::MAX)] {
            let header = format!("{{\"t\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}}}");
            let _ = check(&with_header(&header, 16));
        }
        let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
        let _ = check(&with_dictionary(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}"), 16));
    }
}
