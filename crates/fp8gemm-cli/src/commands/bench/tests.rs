//! `bench`'s loop over shapes with rows that are made up.

use std::collections::BTreeMap;
use std::fs;

use super::*;

fn row(shape: &Shape) -> Row {
    let (entries, refused, recorded) = (Vec::new(), BTreeMap::new(), shape.recorded.clone());
    Row { problem: shape.problem, checked_rows: None, entries, refused, recorded, gpu: None }
}

fn shapes() -> Vec<Shape> {
    [1, 2, 3].map(|m| Shape::dense(m, 576, 7168)).to_vec()
}

/// Breaks if Ctrl-C in a long list, or a failing standard output, loses rows that were measured, or earlier results are gone before there are new ones.
#[test]
fn rows_are_written_as_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    fs::write(&path, "old").unwrap();
    let csv = destination(&path).unwrap();
    let (mut lines, mut measured) = (Vec::new(), Measured::default());
    let run = |shape: &Shape| {
        lines.push(fs::read_to_string(&path).unwrap().lines().count());
        Ok(row(shape))
    };
    measured.all(&shapes(), run, |_| Ok(()), Some(&csv)).unwrap();
    // Before the first: what was there, without a header.
    assert_eq!((lines, measured.rows.len()), (vec![1, 2, 3], 3));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("problem,m,n,k") && text.lines().count() == 4, "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");

    // Standard output that takes nothing ends the list, but what was measured is kept and written.
    let (mut measured, full) = (Measured::default(), || CliError::Stdout(std::io::Error::other("full")));
    let error = measured.all(&shapes(), |shape| Ok(row(shape)), |_| Err(full()), Some(&csv)).unwrap_err();
    assert!(matches!(error, CliError::Stdout(_)), "{error}");
    assert_eq!((measured.rows.len(), fs::read_to_string(&path).unwrap().lines().count()), (1, 2));

    fs::write(&path, "old").unwrap();
    let lost = |_: &Shape| Err(cuda(700, "CUDA_ERROR_ILLEGAL_ADDRESS"));
    assert!(Measured::default().all(&shapes(), lost, |_| Ok(()), Some(&csv)).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
}

fn cuda(code: u32, name: &str) -> BenchError {
    BenchError::Cuda { call: "cuMemAlloc", code, name: name.to_owned() }
}

/// Breaks if a shape that does not fit the GPU ends the list, is not reported with its sizes, or a GPU that has failed is
/// used further.
#[test]
fn a_shape_that_is_too_large_does_not_end_the_list() {
    let too_large = || HopperError::TooLarge { what: "number of output tiles", value: 1 << 40, rule: "a rule" };
    let errors: [&dyn Fn() -> BenchError; 2] = [&|| cuda(2, "CUDA_ERROR_OUT_OF_MEMORY"), &|| too_large().into()];
    for error in errors {
        let mut measured = Measured::default();
        let run = |shape: &Shape| if shape.problem.m == 2 { Err(error()) } else { Ok(row(shape)) };
        measured.all(&shapes(), run, |_| Ok(()), None).unwrap();
        assert_eq!((measured.rows.len(), measured.failures.len(), measured.wrong), (2, 1, false));
        assert!(measured.failures[0].contains("2x576x7168"), "{:?}", measured.failures);
    }
    let mut measured = Measured::default();
    let run = |shape: &Shape| {
        if shape.problem.m == 2 { Err(cuda(700, "CUDA_ERROR_ILLEGAL_ADDRESS")) } else { Ok(row(shape)) }
    };
    let error = measured.all(&shapes(), run, |_| Ok(()), None).unwrap_err();
    assert!(error.to_string().contains("ILLEGAL_ADDRESS") && measured.rows.len() == 1);
}
