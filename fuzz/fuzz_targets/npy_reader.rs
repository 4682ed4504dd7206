//! The `.npy` reader, on raw bytes after the magic and on files built to be nearly right.
//!
//! Checks that
//! - nothing panics or allocates more than a small multiple of the input, and whatever parses can
//!   be opened and read (`fp8gemm_fuzz::files`);
//! - a file built by the rules of the format is accepted, with its shape, type and order; one with
//!   a wrong length is not.
#![no_main]

use arbitrary::{Result, Unstructured};
use fp8gemm_cli::files::StoredType;
use fp8gemm_fuzz::files::parse_checked;
use libfuzzer_sys::fuzz_target;

const MAGIC: &[u8] = b"\x93NUMPY";

/// A file, and what it says if it is right.
struct Built {
    bytes: Vec<u8>,
    ty: StoredType,
    shape: Vec<usize>,
    fortran: bool,
    right: bool,
}

fn nearly_right(u: &mut Unstructured<'_>) -> Result<Built> {
    const TYPES: [(&str, StoredType, usize); 4] = [
        ("<f4", StoredType::F32, 4),
        ("<f2", StoredType::F16, 2),
        ("|u1", StoredType::U8, 1),
        ("|V1", StoredType::U8, 1),
    ];
    let (descr, ty, size) = u.choose(&TYPES)?;
    let shape: Vec<usize> = (0..u.int_in_range(0..=3)?).map(|_| u.int_in_range(0..=9)).collect::<Result<_>>()?;
    let fortran = u.arbitrary()?;
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let comma = if sizes.len() == 1 || u.arbitrary()? && !sizes.is_empty() { "," } else { "" };
    let mut entries = [
        format!("'descr': '{descr}'"),
        format!("'fortran_order': {}", if fortran { "True" } else { "False" }),
        format!("'shape': ({}{comma})", sizes.join(", ")),
    ];
    // Python dictionaries had no order once.
    let turn = u.int_in_range(0..=2)?;
    entries.rotate_left(turn);
    let header = format!("{{{}, }}{}\n", entries.join(", "), " ".repeat(u.int_in_range(0..=64)?));
    let mut bytes = MAGIC.to_vec();
    if u.arbitrary()? {
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
    } else {
        bytes.extend([u.int_in_range(2..=3)?, 0]);
        bytes.extend((header.len() as u32).to_le_bytes());
    }
    bytes.extend(header.bytes());
    let data = size * shape.iter().product::<usize>();
    let have = if u.ratio(1, 8)? { u.int_in_range(0..=2 * data + 1)? } else { data };
    bytes.extend((0..have).map(|i| i as u8));
    Ok(Built { bytes, ty: ty.clone(), shape, fortran, right: have == data })
}

fuzz_target!(|bytes: &[u8]| {
    let raw = [MAGIC, bytes].concat();
    // An error is as good as a file here.
    let _ = parse_checked(&raw);
    if bytes.starts_with(MAGIC) {
        let _ = parse_checked(bytes);
    }
    if let Ok(built) = nearly_right(&mut Unstructured::new(bytes)) {
        let parsed = parse_checked(&built.bytes);
        assert_eq!(parsed.is_ok(), built.right, "{:?}: {parsed:?}", String::from_utf8_lossy(&built.bytes));
        if let Ok(contents) = parsed {
            let info = &contents.tensors[0];
            assert_eq!((&info.ty, &info.shape, info.fortran), (&built.ty, &built.shape, built.fortran));
        }
    }
});
