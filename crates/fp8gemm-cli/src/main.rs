//! The binary `fp8gemm`; everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    fp8gemm_cli::main()
}
