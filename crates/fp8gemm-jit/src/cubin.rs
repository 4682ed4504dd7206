//! Reading a CUBIN: which kernels it holds, for which architecture, with how many registers.
//!
//! A CUBIN is an ELF file of machine 190 (`EM_CUDA`). Each function has a section `.text.<name>`;
//! kernels are the function symbols whose `st_other` has bit 0x10. `.nv.info` is a list of
//! attributes that `nvdisasm` prints as `EIATTR_...`: format byte, attribute byte, then two bytes
//! that are the value, or the length of the value if the format is 4.
//!
//! The target is written in two ways (LLVM's `ELF.h`; the last two facts measured by compiling one
//! source for `sm_90` and `sm_90a` with NVRTC 12.9.86, 13.0.88 and 13.5.37):
//!
//! | ABI version | number | suffix `a` |
//! |---|---|---|
//! | 7 (CUDA 12) | `e_flags` bits 0..8 | `e_flags` bit 11 |
//! | 8 (CUDA 13) | `e_flags` bits 8..16 | `.nv.compat` attribute 9 is 1; 12.9 for Blackwell: `e_flags` bit 3 |
//!
//! With ABI 8 the flags of `sm_90` and `sm_90a` are equal.

use std::fmt;
use std::ops::Range;

use object::Endianness;
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};

use crate::JitError;

type Header = object::elf::FileHeader64<Endianness>;

const MACHINE_CUDA: u16 = 190;
const KERNEL_SYMBOL: u8 = 0x10;
const FORMAT_SIZED: u8 = 4;
/// `.nv.info`: symbol, registers.
const ATTRIBUTE_REGISTERS: u8 = 0x2f;
/// `.nv.info`: symbol, bytes of stack frame.
const ATTRIBUTE_FRAME: u8 = 0x11;
/// `.nv.info.<kernel>`: bytes of parameters.
const ATTRIBUTE_PARAMETERS: u8 = 0x19;
/// `.nv.compat`: 1 for architecture-specific code, such as `sm_90a`.
const COMPAT_SPECIFIC: u8 = 0x09;

/// A parsed CUBIN.
///
/// # Examples
///
/// ```
/// use fp8gemm_jit::Cubin;
///
/// assert!(Cubin::parse(b"\x7fELF, but no more").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cubin {
    /// What it runs on.
    pub architecture: Architecture,
    /// Its kernels, in order of name.
    pub kernels: Vec<CubinKernel>,
    /// Version of the ptxas that made it, e.g. `13.0.88`, where the CUBIN tells (CUDA 13).
    pub compiler: Option<String>,
}

/// A real architecture: `sm_90`, `sm_90a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// 10 * major + minor of the compute capability.
    pub number: u32,
    /// Suffix `a`: instructions of this architecture alone, such as `wgmma`.
    pub specific: bool,
}

impl Architecture {
    /// Hopper with `wgmma` and `setmaxnreg`.
    pub const SM_90A: Self = Self { number: 90, specific: true };
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.number, if self.specific { "a" } else { "" })
    }
}

/// One kernel of a CUBIN.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CubinKernel {
    /// Symbol, as passed to `cuModuleGetFunction`.
    pub name: String,
    /// Bytes of machine code.
    pub code_bytes: u64,
    /// Registers of a thread at launch.
    pub registers: Option<u32>,
    /// Stack frame of a thread in bytes.
    pub stack_bytes: Option<u32>,
    /// Bytes of the section of static shared memory: with 1024 that Hopper reserves, where there is any.
    pub shared_bytes: u64,
    /// Bytes of kernel parameters.
    pub parameter_bytes: Option<u32>,
}

impl Cubin {
    /// Reads a CUBIN. Never panics, whatever the bytes.
    ///
    /// # Errors
    ///
    /// [`JitError::NotACubin`] if the bytes are not an ELF file of a GPU, are cut short, or hold no kernel.
    pub fn parse(bytes: &[u8]) -> Result<Self, JitError> {
        Self::read(bytes).map_err(|reason| JitError::NotACubin { reason })
    }

    /// Whether every kernel may use `wgmma`.
    ///
    /// # Errors
    ///
    /// [`JitError::WrongArchitecture`] for anything but `sm_90a`.
    pub fn check_hopper(&self) -> Result<(), JitError> {
        if self.architecture == Architecture::SM_90A {
            return Ok(());
        }
        Err(JitError::WrongArchitecture { found: self.architecture })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let header = Header::parse(bytes).map_err(|_| "no ELF header".to_owned())?;
        let endian = header.endian().map_err(text)?;
        let machine = header.e_machine(endian).0;
        if machine != MACHINE_CUDA {
            return Err(format!("ELF machine is {machine}, a CUBIN has {MACHINE_CUDA}"));
        }
        let sections = header.sections(endian, bytes).map_err(text)?;
        let data = |name: &str| section(&sections, endian, bytes, name);
        let architecture = architecture(header, endian, data(".nv.compat")?.unwrap_or_default())?;
        let compiler = data(".note.nv.tkinfo")?.and_then(compiler_version);
        let info = data(".nv.info")?.unwrap_or_default();
        let symbols = sections.symbols(endian, bytes, object::elf::SHT_SYMTAB).map_err(text)?;

        let mut kernels = Vec::new();
        for (index, symbol) in symbols.enumerate() {
            if symbol.st_type() != object::elf::STT_FUNC || symbol.st_other().0 & KERNEL_SYMBOL == 0 {
                continue;
            }
            let name = symbols.symbol_name(endian, symbol).map_err(text)?;
            let name = String::from_utf8(name.to_vec()).map_err(text)?;
            let of_symbol = |attribute| of_symbol(info, attribute, index.0);
            let own = data(&format!(".nv.info.{name}"))?.unwrap_or_default();
            let code = data(&format!(".text.{name}"))?.ok_or_else(|| format!("kernel {name} has no code"))?;
            kernels.push(CubinKernel {
                code_bytes: code.len() as u64,
                registers: of_symbol(ATTRIBUTE_REGISTERS),
                stack_bytes: of_symbol(ATTRIBUTE_FRAME),
                shared_bytes: size_of(&sections, endian, &format!(".nv.shared.{name}")),
                parameter_bytes: parameter_bytes(own),
                name,
            });
        }
        if kernels.is_empty() {
            return Err("it holds no kernel".to_owned());
        }
        kernels.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { architecture, kernels, compiler })
    }
}

fn architecture(header: &Header, endian: Endianness, compat: &[u8]) -> Result<Architecture, String> {
    let flags = header.e_flags(endian).0;
    let (number, specific) = match header.e_ident().abi_version {
        version if version < 8 => (flags & 0xff, flags & 0x800 != 0),
        _ => {
            let marked = attributes(compat)
                .any(|attribute| attribute.kind == COMPAT_SPECIFIC && attribute.value.first() == Some(&1));
            (flags >> 8 & 0xff, flags & 0x8 != 0 || marked)
        }
    };
    if number == 0 { Err("it names no architecture".to_owned()) } else { Ok(Architecture { number, specific }) }
}

fn section<'a>(
    sections: &SectionTable<'a, Header>,
    endian: Endianness,
    bytes: &'a [u8],
    name: &str,
) -> Result<Option<&'a [u8]>, String> {
    match sections.section_by_name(endian, name.as_bytes()) {
        Some((_, section)) => section.data(endian, bytes).map(Some).map_err(text),
        None => Ok(None),
    }
}

/// Where the machine code of a kernel lies in the file.
///
/// # Errors
/// [`JitError::NotACubin`], also where the kernel is not in it.
pub(crate) fn code_range(bytes: &[u8], kernel: &str) -> Result<Range<usize>, JitError> {
    let find = || {
        let header = Header::parse(bytes).map_err(|_| "no ELF header".to_owned())?;
        let endian = header.endian().map_err(text)?;
        let sections = header.sections(endian, bytes).map_err(text)?;
        let (_, section) = sections
            .section_by_name(endian, format!(".text.{kernel}").as_bytes())
            .ok_or_else(|| format!("it does not hold kernel {kernel}"))?;
        let (from, length) = section.file_range(endian).ok_or_else(|| format!("kernel {kernel} has no code"))?;
        let range = usize::try_from(from).ok().zip(from.checked_add(length).and_then(|to| to.try_into().ok()));
        range
            .map(|(from, to)| from..to)
            .filter(|range| bytes.get(range.clone()).is_some())
            .ok_or_else(|| format!("the code of kernel {kernel} lies outside the file"))
    };
    find().map_err(|reason| JitError::NotACubin { reason })
}

fn size_of(sections: &SectionTable<'_, Header>, endian: Endianness, name: &str) -> u64 {
    sections.section_by_name(endian, name.as_bytes()).map_or(0, |(_, section)| section.sh_size(endian))
}

struct Attribute<'a> {
    kind: u8,
    /// Two bytes, or as many as format 4 says.
    value: &'a [u8],
}

/// The attributes of a list; ends where the list ends or does not fit.
fn attributes(mut list: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = list.split_first_chunk::<4>()?;
        let [format, kind, low, high] = *head;
        if format != FORMAT_SIZED {
            let (_, value) = list.split_at_checked(2)?;
            list = rest;
            return Some(Attribute { kind, value: value.get(..2)? });
        }
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
        list = rest;
        Some(Attribute { kind, value })
    })
}

/// The value of an attribute that is a pair of symbol and value.
fn of_symbol(list: &[u8], kind: u8, symbol: usize) -> Option<u32> {
    attributes(list).filter(|attribute| attribute.kind == kind).find_map(|attribute| {
        let (index, value) = attribute.value.split_first_chunk::<4>()?;
        let value = value.first_chunk::<4>()?;
        (u32::from_le_bytes(*index) as usize == symbol).then(|| u32::from_le_bytes(*value))
    })
}

fn parameter_bytes(list: &[u8]) -> Option<u32> {
    let attribute = attributes(list).find(|attribute| attribute.kind == ATTRIBUTE_PARAMETERS)?;
    attribute.value.first_chunk::<2>().map(|bytes| u32::from(u16::from_le_bytes(*bytes)))
}

/// `13.0.88` out of "Cuda compilation tools, release 13.0, V13.0.88".
fn compiler_version(note: &[u8]) -> Option<String> {
    let mut strings = note.split(|&byte| byte == 0).filter_map(|part| std::str::from_utf8(part).ok());
    let version = strings.find_map(|text| text.strip_prefix("Cuda compilation tools, release ")?.split_once(", V"))?.1;
    Some(version.to_owned())
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
#[path = "cubin_tests.rs"]
mod tests;
