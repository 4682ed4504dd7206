//! The text of `nvdisasm -c` or `cuobjdump -sass`, read into instructions.

use std::collections::HashMap;

use crate::JitError;

/// One kernel's machine code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    code: Vec<Instruction>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instruction {
    /// Byte offset in the kernel.
    pub address: u32,
    /// The predicate that guards it, as written: `@!P0`.
    pub guard: Option<String>,
    /// Name and modifiers: `QGMMA.64x128x32.F32.E4M3.E4M3`.
    pub opcode: String,
    /// Operands as written, the destination first.
    pub operands: Vec<String>,
    /// Index of the instruction that a branch goes to.
    pub target: Option<usize>,
    /// Whether a branch comes here.
    pub labelled: bool,
}

impl Listing {
    /// Reads a listing of one kernel. Lines that are no instruction (directives, encodings) are
    /// passed over.
    ///
    /// # Errors
    /// [`JitError::Sass`] where there is no instruction, two lie at one address (two kernels), or a
    /// branch goes to a place that is not in the listing.
    pub fn parse(text: &str) -> Result<Self, JitError> {
        let fail = |reason: String| JitError::Sass { reason };
        let mut code: Vec<Instruction> = Vec::new();
        let mut labels = HashMap::new();
        for line in text.lines() {
            let line = line.trim();
            if let Some(label) = line.strip_suffix(':') {
                labels.insert(label, code.len());
            } else if let Some(instruction) = instruction(line) {
                if code.last().is_some_and(|last| last.address >= instruction.address) {
                    return Err(fail(format!("address {:#x} comes twice: two kernels?", instruction.address)));
                }
                code.push(instruction);
            }
        }
        if code.is_empty() {
            return Err(fail("the listing has no instruction".to_owned()));
        }
        let addresses: HashMap<_, _> = code.iter().enumerate().map(|(index, one)| (one.address, index)).collect();
        for index in 0..code.len() {
            let Some(place) = code[index].branches().map(str::to_owned) else { continue };
            let label = place.strip_prefix("`(").and_then(|rest| rest.strip_suffix(')'));
            let target = match label {
                Some(label) => labels.get(label).copied(),
                None => place
                    .strip_prefix("0x")
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                    .and_then(|address| addresses.get(&address).copied()),
            };
            let target = target.filter(|target| *target < code.len()).ok_or_else(|| {
                fail(format!("the branch at {:#x} goes to {place}, which is not there", code[index].address))
            })?;
            code[index].target = Some(target);
            code[target].labelled = true;
        }
        Ok(Self { code })
    }

    /// The instructions in order of address.
    pub fn instructions(&self) -> &[Instruction] {
        &self.code
    }
}

/// `/*0ac0*/  @!P0 FFMA R1, R2.reuse, R3, R4 ;` with an encoding after it, or not.
fn instruction(line: &str) -> Option<Instruction> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u32::from_str_radix(address, 16).ok()?;
    let (text, _) = rest.split_once(';')?;
    let mut text = text.trim();
    let mut guard = None;
    if text.starts_with('@') {
        let (before, after) = text.split_once(' ')?;
        guard = Some(before.to_owned());
        text = after.trim_start();
    }
    let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
    let operands = operands.split(',').map(|operand| operand.trim().to_owned()).filter(|operand| !operand.is_empty());
    let operands = operands.collect();
    Some(Instruction { address, guard, opcode: opcode.to_owned(), operands, target: None, labelled: false })
}

impl Instruction {
    /// Whether its name, without modifiers, is this.
    pub fn is(&self, name: &str) -> bool {
        self.opcode.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Where it branches to, as written. (`BSSY` only notes a place; `BSYNC` goes to what follows.)
    fn branches(&self) -> Option<&str> {
        if !self.is("BRA") && !self.is("JMP") {
            return None;
        }
        self.operands.last().map(String::as_str)
    }

    /// Whether the instruction after it can be next.
    pub(super) fn falls_through(&self) -> bool {
        let leaves = self.is("EXIT") || self.is("RET") || matches!(self.opcode.as_str(), "BRA" | "JMP");
        // `BRA P1, place` and `BRA.DIV UR4, place` are taken or not.
        let conditional = self.guard.as_deref().is_some_and(|guard| guard != "@PT") || self.operands.len() > 1;
        !leaves || (conditional && !self.is("RET"))
    }

    /// Whether its sources are three registers of one bank: all of even or all of odd number.
    /// Those that `previous` left in the collector (the same register, marked `.reuse`, in the same
    /// place of the same instruction) are not read; after a jump nothing is sure to be there.
    pub(super) fn conflicts(&self, previous: Option<&Self>) -> bool {
        let mut read = Vec::new();
        for (place, operand) in self.operands.iter().enumerate().skip(1) {
            let Some(register) = register(operand) else { continue };
            let kept = |before: &&Self| {
                before.opcode == self.opcode
                    && before
                        .operands
                        .get(place)
                        .is_some_and(|operand| operand.ends_with(".reuse") && self::register(operand) == Some(register))
            };
            if !read.contains(&register) && (self.labelled || previous.filter(kept).is_none()) {
                read.push(register);
            }
        }
        read.len() == 3 && read.iter().all(|register| register % 2 == read[0] % 2)
    }
}

/// The number of a general register: of `R12`, `-R12`, `|R12|`, `R12.reuse`.
fn register(operand: &str) -> Option<u32> {
    let name = operand.trim_start_matches(['-', '|', '~']);
    let name = name.strip_suffix(".reuse").unwrap_or(name).trim_end_matches('|');
    name.strip_prefix('R')?.parse().ok()
}
