//! The `wgmma` instruction as a function of the kernels' language, generated for one shape: its
//! accumulators are named registers, since PTX has no arrays.

use fp8gemm_problem::OperandType;

/// One instruction `wgmma.mma_async.sync.aligned.m64nNk32`.
pub(crate) struct Wgmma {
    pub(crate) n: u32,
    pub(crate) a: OperandType,
    pub(crate) b: OperandType,
    /// Accumulators in f16, two in a register, instead of f32.
    pub(crate) f16: bool,
    /// A comes from registers, not from shared memory.
    pub(crate) a_in_registers: bool,
    /// Whether imm-scale-a and imm-scale-b are -1.
    pub(crate) negate: [bool; 2],
}

impl Wgmma {
    /// Registers that a thread's accumulators take.
    pub(crate) fn registers(&self) -> u32 {
        if self.f16 { self.n / 4 } else { self.n / 2 }
    }

    /// `descriptor(address)`, and `wgmma(d, a, b, accumulate)`. Descriptors are passed by their low
    /// words; the high word is the same for all (1,024 bytes between groups of 8 rows, 128-byte
    /// swizzle). A in registers is an array of four words.
    pub(crate) fn text(&self) -> String {
        let registers = self.registers();
        let list = |item: &dyn Fn(u32) -> String| (0..registers).map(item).collect::<Vec<_>>().join(", ");
        let outputs = list(&|i| format!("%{i}"));
        let (accumulator, c_type, constraint) = if self.f16 { ("f16", "u32", "+r") } else { ("f32", "float", "+f") };
        let operands = list(&|i| format!("\"{constraint}\"(d[{i}])"));
        let a = registers;
        let b = a + if self.a_in_registers { 4 } else { 1 };
        let accumulate = b + 1;
        let (parameter, words, make, source, of_a) = if self.a_in_registers {
            let words = (a..b).map(|i| format!("%{i}")).collect::<Vec<_>>().join(", ");
            let of_a = (0..4).map(|i| format!("\"r\"(a[{i}])")).collect::<Vec<_>>().join(", ");
            ("const u32 (&a)[4]", "db", String::new(), format!("{{{words}}}"), of_a)
        } else {
            ("u32 a", "da, db", format!(" mov.b64 da, {{%{a}, high}};"), "da".to_owned(), "\"r\"(a)".to_owned())
        };
        let [negate_a, negate_b] = self.negate.map(|negate| if negate { -1 } else { 1 });
        format!(
            r#"
// The low word of a shared-memory descriptor; addresses fit its 14 bits of 16-byte units.
DEVICE u32 descriptor(u32 address) {{ return (address & 0x3FFFF) >> 4 | 1 << 16; }}

// d = A B^T (+ d): 64 rows, {n} columns, 32 of K.
DEVICE void wgmma({c_type} (&d)[{registers}], {parameter}, u32 b, bool accumulate) {{
    asm volatile(
        "{{ .reg .pred p; .reg .b64 {words}; .reg .b32 high;"
        " setp.ne.b32 p, %{accumulate}, 0;"
        " mov.b32 high, 0x40000040;{make} mov.b64 db, {{%{b}, high}};"
        " wgmma.mma_async.sync.aligned.m64n{n}k32.{accumulator}.{ta}.{tb} {{{outputs}}}, {source}, db, p, {negate_a}, {negate_b}; }}"
        : {operands}
        : {of_a}, "r"(b), "r"(u32(accumulate)));
}}

// ---- the kernel ----

"#,
            n = self.n,
            ta = self.a,
            tb = self.b,
        )
    }
}
