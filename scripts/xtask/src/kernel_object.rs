//! The module's Rust half: one object that serves every kernel.
//!
//! It is compiled as the kernel compiles its own Rust, libcore included, and then checked: what it
//! leaves to be linked is a short list, so no path in it can end in a panic.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::read::archive::ArchiveFile;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolIndex, SymbolKind};
use rustc_demangle::demangle;

use crate::progress::Step;
use crate::{command, paths};

const TARGET: &str = "x86_64-unknown-none";

/// What the kernel passes to rustc on x86, where any configuration needs it.
const FLAGS: &[&str] = &[
    "-Crelocation-model=static",
    "-Cpanic=abort",
    // Calls go straight to their target: a load from the GOT is an indirect branch, which kernels
    // with retpolines do not allow.
    "-Zplt=yes",
    "-Zfunction-sections=no",
    // CONFIG_RETHUNK, CONFIG_X86_KERNEL_IBT, CONFIG_CALL_PADDING.
    "-Zfunction-return=thunk-extern",
    "-Zcf-protection=branch",
    "-Zpatchable-function-entry=16,16",
];

/// The same for KASAN as the kernel passes to gcc (scripts/Makefile.kasan), for debug.config.
///
/// Not for globals: the object's are constants that only code with bounds checks reads, and those
/// of all of libcore would stay in the object.
const KASAN_FLAGS: &[&str] = &[
    "-Zsanitizer=kernel-address",
    "-Zsanitizer-recover=kernel-address",
    // CONFIG_KASAN_SHADOW_OFFSET.
    "-Cllvm-args=-asan-mapping-offset=0xdffffc0000000000",
    // CONFIG_KASAN_INLINE.
    "-Cllvm-args=-asan-instrumentation-with-call-threshold=10000",
    "-Cllvm-args=-asan-stack=1",
    "-Cllvm-args=-asan-instrument-dynamic-allocas=1",
    "-Cllvm-args=-asan-globals=0",
    "-Cllvm-args=-asan-kernel-mem-intrinsic-prefix=1",
    // CONFIG_UNWINDER_FRAME_POINTER.
    "-Cforce-frame-pointers=yes",
];

/// What the kernel has for such code.
const KASAN_SYMBOLS: &str = "__asan_";

/// Which kernels an object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Any kernel.
    Plain,
    /// One with KASAN, which checks each access to memory.
    Kasan,
}

impl Variant {
    fn target_dir(self) -> PathBuf {
        paths::target().join(match self {
            Self::Plain => "kernel",
            Self::Kasan => "kernel-kasan",
        })
    }

    fn may_leave(self, symbol: &str) -> bool {
        self == Self::Kasan && symbol.starts_with(KASAN_SYMBOLS)
    }
}

/// The symbols that the object may leave to be linked, beside the glue's functions.
const ALLOWED: &str = "module/ffi/symbols.allow";
const GLUE_HEADER: &str = "module/glue/ffi.h";

/// Compiles and checks the object; returns its bytes.
///
/// # Errors
///
/// The compiler fails or warns, or the object has a symbol that it must not have: then the error
/// names the symbol and the functions that use it.
pub fn build(variant: Variant) -> Result<Vec<u8>> {
    let step = Step::begin(match variant {
        Variant::Plain => "Compiling the module's Rust object",
        Variant::Kasan => "Compiling the module's Rust object for KASAN",
    });
    require_libcore_source(&step)?;
    let output = command::run(&mut cargo("build", variant)?, &step)?;
    ensure!(!output.contains("warning"), "the compiler warns:\n{output}");

    let library = variant
        .target_dir()
        .join(TARGET)
        .join("kernel/libtrafstat_ffi.a");
    let object =
        own_object(&fs::read(&library)?).with_context(|| format!("in {}", library.display()))?;
    check(&object, &allowed_symbols()?, variant)?;
    step.done();
    Ok(object)
}

/// Runs clippy over the crate that only the kernel has.
///
/// # Errors
///
/// Clippy fails or warns.
pub fn lint() -> Result<()> {
    let step = Step::begin("Linting the module's Rust object");
    require_libcore_source(&step)?;
    command::run(
        cargo("clippy", Variant::Plain)?.args(["--", "-D", "warnings"]),
        &step,
    )?;
    step.done();
    Ok(())
}

fn cargo(subcommand: &str, variant: Variant) -> Result<Command> {
    let mut cargo = Command::new(paths::cargo());
    cargo
        .current_dir(paths::repository())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", flags(variant)?.join(" "))
        .args([
            subcommand,
            "--package",
            "trafstat-ffi",
            "--profile",
            "kernel",
        ])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(variant.target_dir());
    Ok(cargo)
}

fn flags(variant: Variant) -> Result<Vec<&'static str>> {
    let known = command::read(Command::new("rustc").args(["-C", "help"]))?;
    // Stable only in newer compilers. A jump table is an indirect branch, too.
    let jump_tables = if known.contains("jump-tables") {
        "-Cjump-tables=no"
    } else {
        "-Zno-jump-tables"
    };
    let kasan = match variant {
        Variant::Plain => &[],
        Variant::Kasan => KASAN_FLAGS,
    };
    Ok([FLAGS, &[jump_tables], kasan].concat())
}

fn require_libcore_source(step: &Step) -> Result<()> {
    let sysroot = command::read(Command::new("rustc").args(["--print", "sysroot"]))?;
    let source = PathBuf::from(sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if source.exists() {
        return Ok(());
    }
    command::run(
        Command::new("rustup").args(["component", "add", "rust-src"]),
        step,
    )
    .map(drop)
    .context(
        "the kernel object is built with a libcore of its own, whose source is not there; \
             install `rust-src` in the version of `rustc --version`",
    )
}

/// The object of trafstat-ffi, which link-time optimisation made of all the crates.
fn own_object(library: &[u8]) -> Result<Vec<u8>> {
    let archive = ArchiveFile::parse(library)?;
    let mut own = Vec::new();
    for member in archive.members() {
        let member = member?;
        if member.name().starts_with(b"trafstat_ffi-") {
            own.push(member.data(library)?);
        }
    }
    match own[..] {
        [object] => Ok(object.to_vec()),
        _ => bail!("{} objects of trafstat-ffi instead of one", own.len()),
    }
}

fn allowed_symbols() -> Result<BTreeSet<String>> {
    let read = |path: &str| {
        fs::read_to_string(paths::repository().join(path))
            .with_context(|| format!("cannot read {path}"))
    };
    let listed = read(ALLOWED)?;
    let listed = listed
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|symbol| !symbol.is_empty());
    let header = read(GLUE_HEADER)?;
    let declared = header
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("trafstat_"));
    Ok(listed.chain(declared).map(str::to_owned).collect())
}

fn check(bytes: &[u8], allowed: &BTreeSet<String>, variant: Variant) -> Result<()> {
    let object = object::File::parse(bytes)?;
    let mut faults = Vec::new();
    for symbol in object.symbols().skip_while(|symbol| symbol.index().0 == 0) {
        let name = symbol.name()?;
        let plain = format!("{:#}", demangle(name));
        let wrong = if symbol.is_undefined() {
            !name.is_empty() && !allowed.contains(name) && !variant.may_leave(name)
        } else {
            plain.contains("core::panicking::") || plain.contains("rust_begin_unwind")
        };
        if wrong {
            let users = users(&object, symbol.index())?;
            faults.push(format!("    {plain}, used by {}", users.join(", ")));
        }
    }
    ensure!(
        faults.is_empty(),
        "the kernel object has symbols that it must not have, most likely a path that can panic:\n{}\n\
         What it may leave to be linked is in {ALLOWED} and {GLUE_HEADER}.",
        faults.join("\n")
    );
    Ok(())
}

/// The functions that refer to `symbol`: by a relocation, or within their section, where the
/// assembler has already put in the distance, by a call or jump.
fn users(object: &object::File<'_>, symbol: SymbolIndex) -> Result<Vec<String>> {
    let target = object.symbol_by_index(symbol)?;
    let mut users = BTreeSet::new();
    for section in object.sections() {
        let relocated = section
            .relocations()
            .filter(|(_, relocation)| match relocation.target() {
                RelocationTarget::Symbol(named) if named == symbol => true,
                // A local function may be named by its section and its place there, counted from
                // the end of the four bytes that are relocated.
                RelocationTarget::Symbol(other) => {
                    object.symbol_by_index(other).is_ok_and(|other| {
                        other.kind() == SymbolKind::Section
                            && other.section_index() == target.section_index()
                    }) && i128::from(relocation.addend()) + 4 == i128::from(target.address())
                }
                _ => false,
            })
            .map(|(offset, _)| offset);
        let code = match target.section_index() == Some(section.index()) {
            true => section.data()?,
            false => &[],
        };
        let branches = code
            .windows(5)
            .zip(0u64..)
            .filter(|(instruction, offset)| {
                // call rel32 and jmp rel32, counted from the instruction's end.
                let [0xe8 | 0xe9, distance @ ..] = instruction else {
                    return false;
                };
                let distance = distance.try_into().map_or(0, i32::from_le_bytes);
                offset.wrapping_add(5).wrapping_add_signed(distance.into()) == target.address()
            })
            .map(|(_, offset)| offset);
        for offset in relocated.chain(branches) {
            let function = object.symbols().find(|function| {
                function.section_index() == Some(section.index())
                    && (function.address()..function.address() + function.size()).contains(&offset)
            });
            if let Some(function) = function {
                users.insert(format!("{:#}", demangle(function.name()?)));
            }
        }
    }
    Ok(users.into_iter().collect())
}
