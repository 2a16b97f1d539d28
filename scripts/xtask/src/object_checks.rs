// SPDX-License-Identifier: GPL-2.0-or-later
//! Proofs about the module's Rust object and the C objects that call it.
//!
//! They read what the compiler made: no path of the object ends in a panic, no function has a large
//! stack frame, and C and Rust call each other by name only.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use object::elf::{R_X86_64_PC32, R_X86_64_PLT32, SHF_ALLOC};
use object::{
    Object, ObjectSection, ObjectSymbol, Relocation, RelocationFlags, RelocationTarget,
    SectionFlags, SectionIndex, SectionKind, SymbolIndex, SymbolKind,
};
use rustc_demangle::demangle;

/// The largest stack frame of a function, in bytes.
///
/// Rules are checked and files are read deep in the kernel's 16 KiB stack, below nf_tables and above
/// an allocation that may reclaim memory. `module/Kbuild` has the same limit for C.
const MAX_FRAME: u64 = 1024;

/// The section that `-Zemit-stack-sizes` makes: of each function its address, eight bytes that a
/// relocation fills in, and the size of its frame as ULEB128.
const STACK_SIZES: &str = ".stack_sizes";
const ADDRESS_SIZE: usize = 8;

/// Checks that every symbol which the object leaves to be linked is allowed, and that it has no
/// panic handler.
///
/// # Errors
///
/// It has such a symbol; the error names the symbol and the functions that use it.
pub fn symbols(object: &[u8], is_allowed: impl Fn(&str) -> bool) -> Result<()> {
    let object = object::File::parse(object)?;
    let mut faults = Vec::new();
    for symbol in object.symbols().skip_while(|symbol| symbol.index().0 == 0) {
        let name = symbol.name()?;
        let plain = format!("{:#}", demangle(name));
        let wrong = if symbol.is_undefined() {
            !name.is_empty() && !is_allowed(name)
        } else {
            plain.contains("core::panicking::") || plain.contains("rust_begin_unwind")
        };
        if wrong {
            let users = places(&object, &references(&object, symbol.index())?)?;
            faults.push(format!("{plain}, used by {}", users.join(", ")));
        }
    }
    report(
        "the kernel object has symbols that it must not have, most likely a path that can panic",
        &faults,
    )
}

/// Checks the stack frame of every function of the object.
///
/// # Errors
///
/// A frame is larger than 1 KiB, or the compiler did not record it. The compiler records none for a
/// function whose frame grows while it runs and for one written in assembly; the object may have
/// neither.
pub fn frames(object: &[u8]) -> Result<()> {
    let object = object::File::parse(object)?;
    let frames = recorded_frames(&object)?;
    let mut faults = Vec::new();
    for function in functions(&object) {
        let name = format!("{:#}", demangle(function.name()?));
        let place = function
            .section_index()
            .map(|section| (section.0, function.address()));
        match place.and_then(|place| frames.get(&place)) {
            None => faults.push(format!("{name}: not in {STACK_SIZES}")),
            Some(&frame) if frame > MAX_FRAME => faults.push(format!("{name}: {frame} bytes")),
            Some(_) => {}
        }
    }
    report(
        &format!("the kernel object has stack frames over {MAX_FRAME} bytes"),
        &faults,
    )
}

/// Checks that the object itself refers to the functions it exports by calls and jumps only.
///
/// Kernels with kCFI check at each indirect call the type hash before the function, and functions of
/// the object have none.
///
/// # Errors
///
/// The address of such a function is taken; the error names it and the place.
pub fn addresses(object: &[u8]) -> Result<()> {
    let object = object::File::parse(object)?;
    let mut faults = Vec::new();
    for function in functions(&object).filter(ObjectSymbol::is_global) {
        faults.extend(address_takers(&object, &function)?);
    }
    report(
        "the kernel object takes addresses of functions that it exports",
        &faults,
    )
}

/// Checks that a C object refers to the functions of the Rust object by calls and jumps only, as
/// [`addresses`] does for the Rust object itself; `name` is the C object's.
///
/// # Errors
///
/// The address of such a function is taken; the error names it and the place.
pub fn calls(name: &str, c_object: &[u8], rust_object: &[u8]) -> Result<()> {
    let rust_object = object::File::parse(rust_object)?;
    let exported: BTreeSet<_> = functions(&rust_object)
        .filter(ObjectSymbol::is_global)
        .map(|function| function.name())
        .collect::<Result<_, _>>()?;
    let object = object::File::parse(c_object)?;
    let mut faults = Vec::new();
    for symbol in object.symbols().filter(ObjectSymbol::is_undefined) {
        if exported.contains(symbol.name()?) {
            faults.extend(address_takers(&object, &symbol)?);
        }
    }
    report(
        &format!("{name} takes addresses of functions of the Rust object"),
        &faults,
    )
}

fn report(what: &str, faults: &[String]) -> Result<()> {
    ensure!(faults.is_empty(), "{what}:\n    {}", faults.join("\n    "));
    Ok(())
}

fn functions<'data, 'file>(
    object: &'file object::File<'data>,
) -> impl Iterator<Item = object::Symbol<'data, 'file>> {
    object
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
}

/// The frames' sizes in bytes, by each function's section and address.
fn recorded_frames(object: &object::File<'_>) -> Result<BTreeMap<(usize, u64), u64>> {
    let mut frames = BTreeMap::new();
    for section in object.sections() {
        if section.name()? != STACK_SIZES {
            continue;
        }
        let relocations: BTreeMap<_, _> = section.relocations().collect();
        let data = section.data()?;
        let mut at = 0;
        while at < data.len() {
            let function = relocations
                .get(&(at as u64))
                .and_then(|relocation| destination(object, relocation))
                .with_context(|| format!("{STACK_SIZES} has an entry of no function"))?;
            at += ADDRESS_SIZE;
            let (frame, length) = data
                .get(at..)
                .and_then(uleb128)
                .with_context(|| format!("{STACK_SIZES} is cut off"))?;
            at += length;
            frames.insert(function, frame);
        }
    }
    Ok(frames)
}

/// A number of seven bits a byte, lowest first, and how many bytes it takes.
fn uleb128(bytes: &[u8]) -> Option<(u64, usize)> {
    let last = bytes.iter().position(|byte| byte & 0x80 == 0)?;
    let number = bytes[..=last].iter().rev().try_fold(0u64, |number, byte| {
        number.checked_mul(0x80)?.checked_add((byte & 0x7f).into())
    })?;
    Some((number, last + 1))
}

/// The section and the address in it that a relocation refers to.
fn destination(object: &object::File<'_>, relocation: &Relocation) -> Option<(usize, u64)> {
    let RelocationTarget::Symbol(symbol) = relocation.target() else {
        return None;
    };
    let symbol = object.symbol_by_index(symbol).ok()?;
    // A distance counts from the end of the four bytes that are relocated.
    let counted_from = if is_distance(relocation) { 4 } else { 0 };
    let address = symbol
        .address()
        .checked_add_signed(relocation.addend() + counted_from)?;
    Some((symbol.section_index()?.0, address))
}

fn is_distance(relocation: &Relocation) -> bool {
    matches!(
        relocation.flags(),
        RelocationFlags::Elf {
            r_type: R_X86_64_PC32 | R_X86_64_PLT32
        }
    )
}

/// A place in what is loaded that refers to a symbol.
struct Reference {
    section: SectionIndex,
    offset: u64,
    /// A call or jump, which leaves no address anywhere.
    is_branch: bool,
}

/// The places that refer to `symbol`: by a relocation or, within its section, where the assembler
/// has already put in the distance, by a branch or `lea`.
fn references(object: &object::File<'_>, symbol: SymbolIndex) -> Result<Vec<Reference>> {
    let target = object.symbol_by_index(symbol)?;
    let place = target
        .section_index()
        .map(|section| (section.0, target.address()));
    let mut references = Vec::new();
    for section in object.sections().filter(is_loaded) {
        let bytes = section.data()?;
        for (offset, relocation) in section.relocations() {
            // A local function may be named by its section and its address there.
            let is_meant = relocation.target() == RelocationTarget::Symbol(symbol)
                || place.is_some() && destination(object, &relocation) == place;
            if is_meant {
                references.push(Reference {
                    section: section.index(),
                    offset,
                    is_branch: section.kind() == SectionKind::Text
                        && is_distance(&relocation)
                        && is_branch(bytes, offset),
                });
            }
        }
        if section.kind() == SectionKind::Text && target.section_index() == Some(section.index()) {
            references.extend(distances(bytes).filter_map(|(offset, to, is_branch)| {
                (to == target.address()).then_some(Reference {
                    section: section.index(),
                    offset,
                    is_branch,
                })
            }));
        }
    }
    Ok(references)
}

fn is_loaded<'data>(section: &impl ObjectSection<'data>) -> bool {
    matches!(section.flags(), SectionFlags::Elf { sh_flags } if sh_flags & u64::from(SHF_ALLOC) != 0)
}

/// Whether the four bytes at `offset` belong to `call`, `jmp` or a conditional jump.
fn is_branch(code: &[u8], offset: u64) -> bool {
    let before = usize::try_from(offset)
        .ok()
        .and_then(|offset| code.get(..offset));
    matches!(before, Some([.., 0xe8 | 0xe9] | [.., 0x0f, 0x80..=0x8f]))
}

/// The places in `code` that may be a distance, with the address it leads to and whether it is a
/// branch's rather than that of `lea`. Some are parts of other instructions, and lead nowhere.
fn distances(code: &[u8]) -> impl Iterator<Item = (u64, u64, bool)> {
    code.windows(4)
        .zip(0u64..)
        .filter_map(|(distance, offset)| {
            let before = &code[..usize::try_from(offset).ok()?];
            // The operand of `lea` is relative to the next instruction, its register any.
            let is_lea = matches!(before, [.., 0x8d, operand] if operand & 0xc7 == 0x05);
            let is_branch = is_branch(code, offset);
            let distance = i32::from_le_bytes(distance.try_into().ok()?);
            let to = (offset + 4).checked_add_signed(distance.into())?;
            (is_lea || is_branch).then_some((offset, to, is_branch))
        })
}

fn address_takers<'data>(
    object: &object::File<'data>,
    function: &object::Symbol<'data, '_>,
) -> Result<Vec<String>> {
    let mut references = references(object, function.index())?;
    references.retain(|reference| !reference.is_branch);
    let name = function.name()?;
    Ok(places(object, &references)?
        .into_iter()
        .map(|place| format!("{name}, in {place}"))
        .collect())
}

/// The functions, or else the sections, that references stand in.
fn places(object: &object::File<'_>, references: &[Reference]) -> Result<Vec<String>> {
    let mut places = BTreeSet::new();
    for reference in references {
        let function = functions(object).find(|function| {
            function.section_index() == Some(reference.section)
                && (function.address()..function.address() + function.size())
                    .contains(&reference.offset)
        });
        places.insert(match function {
            Some(function) => format!("{:#}", demangle(function.name()?)),
            None => object
                .section_by_index(reference.section)?
                .name()?
                .to_owned(),
        });
    }
    Ok(places.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    const CLEAN: &str = r#"
        #![no_std]
        #[unsafe(no_mangle)] #[inline(never)]
        pub extern "C" fn trafstat_leaf(n: u64) -> u64 { n.wrapping_mul(3) }
        #[unsafe(no_mangle)]
        pub extern "C" fn trafstat_caller(n: u64) -> u64 { trafstat_leaf(n).wrapping_add(1) }
        #[unsafe(no_mangle)]
        pub extern "C" fn trafstat_jumper(n: u64) -> u64 { trafstat_leaf(n ^ 1) }
    "#;

    const FRAME_OF_2_KIB: &str = r#"
        #[unsafe(no_mangle)]
        pub extern "C" fn trafstat_large() {
            core::hint::black_box(&mut [core::hint::black_box(0u8); 2048]);
        }
    "#;

    /// One constant and one instruction.
    const ADDRESSES: [(&str, &str); 2] = [
        (
            r#"#[unsafe(no_mangle)] pub static TABLE: extern "C" fn(u64) -> u64 = trafstat_leaf;"#,
            ".rodata",
        ),
        (
            r#"#[unsafe(no_mangle)] pub fn taker() -> extern "C" fn(u64) -> u64 { trafstat_leaf }"#,
            "taker",
        ),
    ];

    const DECLARED: &str = "unsigned long trafstat_leaf(unsigned long);";

    fn rust_object(source: &str, flags: &[&str]) -> Vec<u8> {
        compile(
            "object.rs",
            source,
            Command::new("rustc")
                .env("RUSTC_BOOTSTRAP", "1")
                .args(["--crate-type=lib", "--emit=obj", "--edition=2024"])
                .args(["-Copt-level=3", "-Ccodegen-units=1", "-Cpanic=abort"])
                .args(["-Crelocation-model=static", "-Zplt=yes"])
                .args(flags),
        )
    }

    fn with_stack_sizes(source: &str) -> Vec<u8> {
        rust_object(source, &["-Zemit-stack-sizes", "-Zfunction-sections=no"])
    }

    fn c_object(source: &str) -> Vec<u8> {
        let source = format!("{DECLARED}\n{source}");
        compile(
            "object.c",
            &source,
            Command::new("cc").args(["-c", "-O2", "-fno-pie", "-mcmodel=kernel"]),
        )
    }

    fn compile(name: &str, source: &str, compiler: &mut Command) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), source).unwrap();
        let status = compiler
            .current_dir(folder.path())
            .args([name, "-o", "object.o"])
            .status()
            .unwrap();
        assert!(status.success(), "{source}");
        fs::read(folder.path().join("object.o")).unwrap()
    }

    fn error(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn clean_object_passes() {
        let object = with_stack_sizes(CLEAN);
        symbols(&object, |_| false).unwrap();
        frames(&object).unwrap();
        addresses(&object).unwrap();
    }

    #[test]
    fn undefined_symbol_is_named_with_its_user() {
        let source = r#"
            unsafe extern "C" { safe fn elsewhere(); }
            #[unsafe(no_mangle)] pub extern "C" fn trafstat_user() { elsewhere() }
        "#;
        let object = with_stack_sizes(&format!("{CLEAN}{source}"));
        symbols(&object, |name| name == "elsewhere").unwrap();
        let error = error(symbols(&object, |_| false));
        assert!(
            error.ends_with("elsewhere, used by trafstat_user"),
            "{error}"
        );
    }

    #[test]
    fn frame_over_the_limit_is_named_with_its_size() {
        let object = with_stack_sizes(&format!("{CLEAN}{FRAME_OF_2_KIB}"));
        let error = error(frames(&object));
        let (_, size) = error.split_once("trafstat_large: ").expect(&error);
        let size: u64 = size.strip_suffix(" bytes").unwrap().parse().unwrap();
        assert!((2048..2200).contains(&size), "{error}");
        assert!(!error.contains("trafstat_leaf"), "{error}");
    }

    #[test]
    fn function_without_a_recorded_frame_is_an_error() {
        let error = error(frames(&rust_object(CLEAN, &[])));
        assert!(
            error.contains("trafstat_leaf: not in .stack_sizes"),
            "{error}"
        );
    }

    #[test]
    fn exported_function_whose_address_is_taken_is_named_with_the_place() {
        for (source, place) in ADDRESSES {
            let error = error(addresses(&with_stack_sizes(&format!("{CLEAN}{source}"))));
            let named = error.contains(&format!("trafstat_leaf, in {place}"));
            assert!(named, "{source} makes: {error}");
        }
    }

    #[test]
    fn address_taken_without_a_relocation_is_seen() {
        // lea rax, [rip - 7]; call rel32 to itself; a `lea` of the next instruction.
        let code = [
            0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff, 0xe8, 0xfb, 0xff, 0xff, 0xff,
        ];
        let found: Vec<_> = distances(&code).collect();
        assert_eq!(found, [(3, 0, false), (8, 7, true)]);
    }

    #[test]
    fn direct_calls_from_c_pass() {
        let source = "
            unsigned long twice(unsigned long n) { return trafstat_leaf(trafstat_leaf(n)) + 1; }
            unsigned long jump(unsigned long n) { return trafstat_leaf(n + 1); }
            unsigned long maybe(unsigned long n) { return n ? trafstat_leaf(n) : n; }
        ";
        calls("direct.o", &c_object(source), &with_stack_sizes(CLEAN)).unwrap();
    }

    #[test]
    fn address_taken_in_c_is_named_with_file_and_place() {
        let exported = with_stack_sizes(CLEAN);
        for (source, place) in [
            ("void *taker(void) { return trafstat_leaf; }", "taker"),
            ("void *const table[] = { trafstat_leaf };", ".rodata"),
            (
                "int taker(void *p) { return p == (void *)trafstat_leaf; }",
                "taker",
            ),
        ] {
            let error = error(calls("taking.o", &c_object(source), &exported));
            assert!(error.starts_with("taking.o takes addresses"), "{error}");
            let named = error.contains(&format!("trafstat_leaf, in {place}"));
            assert!(named, "{source} makes: {error}");
        }
    }

    #[test]
    fn numbers_of_several_bytes_are_read() {
        assert_eq!(uleb128(&[0xe5, 0x8e, 0x26, 0xff]), Some((624_485, 3)));
        assert_eq!(uleb128(&[0x80]), None);
    }
}
