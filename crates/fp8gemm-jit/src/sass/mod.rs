//! Machine code as the disassembler prints it: read, counted, and held against what a
//! configuration's kernel should be.
//!
//! ptxas decides what a kernel really does. Some of its decisions cost a tenth of the speed and
//! none of them shows in its log, so they are looked for here:
//!
//! | looked for | why |
//! |---|---|
//! | `QGMMA` (FP8 `wgmma`), in all and in each main loop | unrolled as meant, no copy of the loop |
//! | `UTMALDG`, `UTMASTG` (TMA loads and stores) | one instruction for each operand and stage |
//! | `FFMA` whose three sources lie in one register bank | issues over two cycles instead of one |
//! | `MEMBAR.ALL` in a main loop | a wrongly scoped `mbarrier.arrive` flushes memory for each block of K |
//! | `LDL`, `STL` | local memory: an array that is not in registers |
//! | fences and waits ([`Order`]), and what must come after them | a missing one may not show in the bits for a long time |
//!
//! A main loop is an innermost natural loop with a `QGMMA` (`loops.rs`). Registers of even and of odd
//! number are two banks (Hopper); an operand that the instruction before left in the collector
//! (`.reuse`, in the same place) is not read again.
//!
//! [`Interleave`] changes machine code, in two flags of the promotion's `FFMA`; for that the bits are read,
//! not the text.

mod gate;
mod interleave;
mod listing;
mod loops;
mod order;
mod tool;
mod word;

pub use gate::{Expected, Fault, expected};
pub use interleave::{FfmaRuns, Interleave};
pub use listing::{Instruction, Listing};
pub use order::Order;
pub use tool::Disassembler;

use serde::Serialize;

/// What was counted in one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Instructions.
    pub instructions: u32,
    /// FP8 tensor-core instructions, in all.
    pub qgmma: u32,
    /// TMA loads.
    pub utmaldg: u32,
    /// TMA stores.
    pub utmastg: u32,
    /// Loads from and stores to local memory.
    pub local: u32,
    /// Fused multiply-adds: those of the promotion, wherever the compiler has put it, and of the epilogue.
    pub ffma: u32,
    /// Of those, how many read three registers of one bank.
    pub ffma_conflicts: u32,
    /// Instructions that order memory accesses and kernels.
    pub order: Order,
    /// Innermost loops with tensor-core instructions.
    pub main_loops: Vec<MainLoop>,
}

/// What was counted in one main loop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MainLoop {
    /// Instructions.
    pub instructions: u32,
    /// FP8 tensor-core instructions.
    pub qgmma: u32,
    /// Fused multiply-adds: those of the promotion, if the compiler has put it here.
    pub ffma: u32,
    /// Of those, how many read three registers of one bank.
    pub ffma_conflicts: u32,
    /// Memory barriers of any scope.
    pub membar_all: u32,
    /// Stores to shared memory with no `BAR.SYNC` between them and the `QGMMA` before: where they go, something may
    /// still be read.
    pub early_stores: u32,
}

impl Listing {
    /// Counts.
    ///
    /// ```
    /// use fp8gemm_jit::sass::Listing;
    ///
    /// let listing = Listing::parse("        /*0000*/   FFMA R1, R3, R5, R7 ;\n        /*0010*/   EXIT ;\n")?;
    /// assert_eq!(listing.summary().instructions, 2);
    /// # Ok::<(), fp8gemm_jit::JitError>(())
    /// ```
    pub fn summary(&self) -> Summary {
        let code = self.instructions();
        let count = |opcode: &str| code.iter().filter(|one| one.is(opcode)).count() as u32;
        let main_loops = loops::innermost(code, |one| one.is("QGMMA"));
        let all: Vec<_> = (0..code.len()).collect();
        Summary {
            instructions: code.len() as u32,
            qgmma: count("QGMMA"),
            utmaldg: count("UTMALDG"),
            utmastg: count("UTMASTG"),
            local: count("LDL") + count("STL"),
            ffma: count("FFMA"),
            ffma_conflicts: ffma_conflicts(code, &all),
            order: Order::count(code),
            main_loops: main_loops.iter().map(|body| main_loop(code, body)).collect(),
        }
    }
}

fn main_loop(code: &[Instruction], body: &[usize]) -> MainLoop {
    let count = |test: &dyn Fn(usize) -> bool| body.iter().filter(|index| test(**index)).count() as u32;
    MainLoop {
        instructions: body.len() as u32,
        qgmma: count(&|index| code[index].is("QGMMA")),
        ffma: count(&|index| code[index].is("FFMA")),
        ffma_conflicts: ffma_conflicts(code, body),
        membar_all: count(&|index| code[index].opcode.starts_with("MEMBAR.ALL")),
        early_stores: early_stores(body.iter().map(|index| &code[*index])),
    }
}

fn ffma_conflicts(code: &[Instruction], which: &[usize]) -> u32 {
    let previous = |index: usize| index.checked_sub(1).map(|before| &code[before]);
    which.iter().filter(|index| code[**index].is("FFMA") && code[**index].conflicts(previous(**index))).count() as u32
}

/// By address: whether a wait is passed over in the first rounds does not matter.
fn early_stores<'a>(body: impl Iterator<Item = &'a Instruction>) -> u32 {
    let (mut waited, mut early) = (false, 0);
    for one in body {
        if one.is("QGMMA") {
            waited = false;
        } else if one.opcode.starts_with("BAR.SYNC") {
            waited = true;
        } else if one.is("STS") && !waited {
            early += 1;
        }
    }
    early
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
