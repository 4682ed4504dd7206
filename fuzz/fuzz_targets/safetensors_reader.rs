//! The safetensors reader, on raw bytes and on files built to be nearly right.
//!
//! Checks that
//! - nothing panics or allocates more than a small multiple of the input, and whatever parses can
//!   be opened and read (`fp8gemm_fuzz::files`);
//! - a file of known types is accepted exactly if the `safetensors` crate accepts it, with the same
//!   names, shapes and places; except that a name must occur only once (the crate keeps the last).
#![no_main]

use arbitrary::{Result, Unstructured};
use fp8gemm_cli::files::{Container, FileError, StoredType};
use fp8gemm_fuzz::files::parse_checked;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fn check(bytes: &[u8]) {
    let ours = parse_checked(bytes);
    let theirs = SafeTensors::deserialize(bytes);
    match (ours, theirs) {
        (Ok(ours), theirs) if ours.tensors.iter().any(|info| matches!(info.ty, StoredType::Other(_))) => {
            // Types that we name but do not read need not be known, or known as the same size.
            drop((ours, theirs));
        }
        (Ok(ours), _) if ours.container == Container::Npy => {}
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.tensors.len(), theirs.len());
            for info in &ours.tensors {
                let theirs = theirs.tensor(&info.name).expect("a tensor of that name");
                assert_eq!(theirs.shape(), info.shape);
                assert_eq!(theirs.data(), &bytes[info.data.clone()]);
            }
        }
        (Ok(ours), Err(error)) => panic!("accepted {ours:?}, but the safetensors crate says: {error}"),
        (Err(FileError::Header { reason }), Ok(_)) if reason.contains("occurs twice") => {}
        (Err(error), Ok(theirs)) => panic!("refused ({error}), but the safetensors crate reads {theirs:?}"),
        (Err(_), Err(_)) => {}
    }
}

/// A header of a few tensors in which each number may be wrong, and data that may not fit.
fn nearly_right(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const TYPES: [(&str, usize); 9] = [
        ("F8_E4M3", 1),
        ("F8_E5M2", 1),
        ("F8_E8M0", 1),
        ("U8", 1),
        ("BF16", 2),
        ("F16", 2),
        ("F32", 4),
        ("I64", 8),
        ("F33", 3),
    ];
    const NAMES: [&str; 6] = ["a", "b", "scale_a", "d", "__metadata__", "x.weight\\n"];
    let off = |u: &mut Unstructured<'_>, right: usize| -> Result<usize> {
        Ok(match u.int_in_range(0..=40)? {
            0 => right.wrapping_add(1),
            1 => right.wrapping_sub(1),
            2 => u.arbitrary()?,
            _ => right,
        })
    };
    let mut entries = Vec::new();
    let mut at = 0;
    if u.arbitrary()? {
        entries.push(r#""__metadata__":{"format":"pt"}"#.to_owned());
    }
    for _ in 0..u.int_in_range(0..=4)? {
        let name = if u.ratio(7, 8)? { format!("t{}", entries.len()) } else { (*u.choose(&NAMES)?).to_owned() };
        let (ty, size) = *u.choose(&TYPES)?;
        let shape: Vec<usize> = (0..u.int_in_range(0..=3)?).map(|_| u.int_in_range(0..=9)).collect::<Result<_>>()?;
        let end = at + size * shape.iter().product::<usize>();
        let shape = shape.into_iter().map(|size| off(u, size)).collect::<Result<Vec<_>>>()?;
        entries.push(format!(
            r#""{name}":{{"dtype":"{ty}","shape":{shape:?},"data_offsets":[{},{}]}}"#,
            off(u, at)?,
            off(u, end)?
        ));
        at = end;
    }
    // Order in the header says nothing about order in the data.
    if u.arbitrary()? {
        entries.reverse();
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (off(u, header.len())? as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    let data = off(u, at)?.min(1 << 14);
    file.extend((0..data).map(|i| i as u8));
    Ok(file)
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if let Ok(file) = nearly_right(&mut Unstructured::new(bytes)) {
        check(&file);
    }
});
