//! Single instructions: `fp8gemm difftest instructions` without a GPU, and `fp8gemm verify` on what it
//! records.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use common::{folder, fp8gemm, save, tensor, without_gpu};
use fp8gemm::problem::OperandType::E4m3;
use fp8gemm::sim::tensor_core::emulated::mma_sync_fp8_f32;
use safetensors::Dtype;

/// Breaks if the command does anything but say that there is no GPU, or writes a file first.
#[test]
fn no_gpu_is_a_missing_machine() {
    let folder = folder();
    without_gpu(folder.path(), &["difftest", "instructions", "--record", "records"]).refused(3, &["engine hopper"]);
    assert!(!folder.path().join("records").exists());
    without_gpu(folder.path(), &["difftest", "instructions", "--tiles", "no"]).refused(2, &["--tiles"]);
}

/// Breaks if a file of `mma.sync` is taken for one of `wgmma`, which has other bits, or the other way
/// round.
#[test]
fn the_metadata_names_the_instruction() {
    // 1 - 1 + 2^-14 in every output: `wgmma` cuts the small product off.
    let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
    (a[0], a[1], a[2]) = (0x38, 0xB8, 0x04);
    (b[0], b[1], b[2]) = (0x38, 0x38, 0x04);
    let d = mma_sync_fp8_f32((E4m3, &a), (E4m3, &b), 1.0);
    let (a, b) = (a.repeat(16), b.repeat(8));
    let words = |value: f32| value.to_le_bytes().repeat(16 * 8);
    let (c, d) = (words(1.0), words(d));
    let folder = folder();
    for (name, instruction, code) in
        [("mma", "one mma.sync.aligned.m16n8k32.row.col", 0), ("wgmma", "one wgmma.mma_async.sync.aligned.m64n8k32", 1)]
    {
        let part = |part: &str, ty, shape: [usize; 3], bytes: &[u8]| {
            tensor(&format!("e4m3_e4m3_f32.{part}"), ty, &shape, bytes.to_vec())
        };
        let tensors = [
            part("a", Dtype::F8_E4M3, [1, 16, 32], &a),
            part("b", Dtype::F8_E4M3, [1, 8, 32], &b),
            part("c", Dtype::F32, [1, 16, 8], &c),
            part("d", Dtype::F32, [1, 16, 8], &d),
        ];
        let file = format!("{name}.safetensors");
        save(&folder.path().join(&file), &tensors, &[("instruction", instruction)]);
        let json = fp8gemm(folder.path(), &["verify", &file, "--json"]).json(code);
        assert_eq!(json["differing"], if code == 0 { 0 } else { 128 }, "{name}");
    }
}
