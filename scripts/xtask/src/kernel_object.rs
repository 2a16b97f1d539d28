// SPDX-License-Identifier: GPL-2.0-or-later
//! The module's Rust half: one object that serves every kernel.
//!
//! It is compiled as the kernel compiles its own Rust, libcore included, from a source tree that
//! holds nothing else, and its paths are mapped to fixed ones: so anyone with the same compiler gets
//! the same bytes from the tree that the DKMS package carries. Then [`object_checks`] proves that no
//! path of it panics, that its stack frames are small and that no pointer leads to it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::read::archive::ArchiveFile;
use sha2::{Digest, Sha256};

use crate::kernel_source::{self, Files};
use crate::progress::Step;
use crate::{command, files, kbuild, object_checks, paths, rootfs};

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
    // For object_checks; module/Kbuild leaves it out of the module.
    "-Zemit-stack-sizes",
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

/// Where the libraries are that rustc finds without being told their paths.
const SYSROOT: &str = "target/sysroot";
/// The archive with the object, below the source tree.
const LIBRARY: &str = "target/x86_64-unknown-none/kernel/libtrafstat_ffi.a";
/// What the archive's members of trafstat-ffi begin with.
const MEMBER: &str = "trafstat_ffi-";
/// The paths that take the places of the source tree's and of libcore's.
const MAPPED_TREE: &str = "/trafstat";
const MAPPED_LIBCORE: &str = "/rust/library";

/// The symbols that the object may leave to be linked, beside the glue's functions.
const ALLOWED: &str = "module/ffi/symbols.allow";
const GLUE_HEADER: &str = "module/glue/ffi.h";

/// Which kernels an object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Any kernel.
    Plain,
    /// One with KASAN, which checks each access to memory.
    Kasan,
}

impl Variant {
    fn folder(self) -> PathBuf {
        paths::target().join(match self {
            Self::Plain => "kernel",
            Self::Kasan => "kernel-kasan",
        })
    }

    fn may_leave(self, symbol: &str) -> bool {
        self == Self::Kasan && symbol.starts_with(KASAN_SYMBOLS)
    }
}

/// Compiles and checks the object; returns its bytes.
///
/// # Errors
///
/// The compiler fails or warns, or a check fails: the object has a symbol that it must not have or,
/// without KASAN, a stack frame over 1 KiB or an exported function whose address is taken. The error
/// names what it is and where.
pub fn build(variant: Variant) -> Result<Vec<u8>> {
    let step = Step::begin(match variant {
        Variant::Plain => "Compiling the module's Rust object",
        Variant::Kasan => "Compiling the module's Rust object for KASAN",
    });
    let compiler = Compiler::find(&step)?;
    let tree = prepare(variant, &step)?;
    let recipe = compiler.recipe(variant, &tree)?;
    recipe.make_sysroot(&compiler, &tree, &step)?;
    let output = command::run(&mut recipe.command(&recipe.cargo("build"), &tree), &step)?;
    ensure!(!output.contains("warning"), "the compiler warns:\n{output}");

    let library = tree.join(LIBRARY);
    let object =
        own_object(&fs::read(&library)?).with_context(|| format!("in {}", library.display()))?;
    check(&object, variant)?;
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
    let compiler = Compiler::find(&step)?;
    let tree = prepare(Variant::Plain, &step)?;
    let recipe = compiler.recipe(Variant::Plain, &tree)?;
    recipe.make_sysroot(&compiler, &tree, &step)?;
    let mut clippy = recipe.command(&recipe.cargo("clippy"), &tree);
    command::run(clippy.args(["--", "-D", "warnings"]), &step)?;
    step.done();
    Ok(())
}

/// Builds and checks the object with the oldest compiler that its crates are for, Debian 13's, in a
/// folder of that release.
///
/// # Errors
///
/// As for [`build`], or the folder cannot be made.
pub fn build_with_oldest() -> Result<()> {
    let root = rootfs::ensure_rust()?;
    let step = Step::begin("Compiling the module's Rust object with Debian 13's compiler");
    let folder = paths::target().join("kernel-oldest");
    fs::create_dir_all(&folder)?;
    let run = |words: &[&str]| {
        let mut command = rootfs::command_in(&root, &folder, words[0]);
        command::read(command.args(&words[1..]))
    };
    let compiler = Compiler::of(library(run)?, run)?;
    let tree = fill(&folder, &step)?;
    let commands = compiler.commands()?;
    let made_by = format!(
        "{}\n{commands}{}",
        compiler.version,
        digest_below(&tree, &["Cargo.toml", "Cargo.lock", "module", "vendor"])?
    );
    let note = folder.join("made-by");
    if !fs::read_to_string(&note).is_ok_and(|before| before == made_by) {
        fs::write(tree.join(SCRIPT), &commands)?;
        // The folder of what cargo downloads is not this host's; all crates lie in the tree.
        let output = command::run(
            rootfs::command_in(&root, &folder, "sh")
                .env("CARGO_HOME", "/mnt/cargo-home")
                .arg(format!("/mnt/source/{SCRIPT}")),
            &step,
        )?;
        ensure!(!output.contains("warning"), "the compiler warns:\n{output}");
        fs::write(&note, made_by)?;
    }
    check(&fs::read(tree.join(kbuild::OBJECT))?, Variant::Plain)?;
    step.done();
    Ok(())
}

/// A digest of these files and folders of a tree.
fn digest_below(tree: &Path, parts: &[&str]) -> Result<String> {
    let mut sha256 = Sha256::new();
    for part in parts {
        let path = tree.join(part);
        let files = match path.is_dir() {
            true => files::below(&path)?,
            false => Files::from([(String::new(), fs::read(&path)?)]),
        };
        for (name, content) in files {
            sha256.update(format!("{part}/{name} {}\n", content.len()));
            sha256.update(content);
        }
    }
    Ok(hex(&sha256.finalize()))
}

/// The name of the script that builds the object, in its source tree.
const SCRIPT: &str = "rebuild.sh";

/// The tree that the object was built from, and the commands that build it again, for packages.
///
/// # Errors
///
/// A file cannot be read, or a crate cannot be downloaded.
pub fn source_package(object: &[u8]) -> Result<Files> {
    let step = Step::begin("Collecting the source of the module's Rust object");
    let compiler = Compiler::find(&step)?;
    let scratch = Variant::Plain.folder().join("collected");
    let mut source = kernel_source::collect(&paths::repository(), &scratch, &step)?;
    let script = compiler.script(object)?;
    source.insert(SCRIPT.to_owned(), script.into_bytes());
    step.done();
    Ok(source)
}

/// rustc, with the source of its libcore.
struct Compiler {
    /// What `rustc -vV` says.
    version: String,
    /// The folder of the standard library's source.
    library: PathBuf,
    /// libcore's edition.
    edition: String,
    /// What keeps jump tables out, which are indirect branches, too.
    no_jump_tables: &'static str,
}

impl Compiler {
    fn find(step: &Step) -> Result<Self> {
        let run = |words: &[&str]| command::read(Command::new(words[0]).args(&words[1..]));
        let library = library(run)?;
        if !library.join("core/src/lib.rs").exists() {
            command::run(
                Command::new("rustup").args(["component", "add", "rust-src"]),
                step,
            )
            .context(
                "the kernel object is built with a libcore of its own, whose source is not there; \
                 install `rust-src` in the version of `rustc --version`",
            )?;
        }
        Self::of(library, run)
    }

    /// The compiler that `run` runs; a folder of another release has one of its own.
    fn of(library: PathBuf, run: impl Fn(&[&str]) -> Result<String>) -> Result<Self> {
        let manifest = library.join("core/Cargo.toml").display().to_string();
        let edition = run(&["cat", &manifest])?
            .lines()
            .find_map(|line| line.strip_prefix("edition = \"")?.strip_suffix('"'))
            .context("libcore's manifest has no edition")?
            .to_owned();
        // Stable only in newer compilers.
        let no_jump_tables = match run(&["rustc", "-C", "help"])?.contains("jump-tables") {
            true => "-Cjump-tables=no",
            false => "-Zno-jump-tables",
        };
        Ok(Self {
            version: run(&["rustc", "-vV"])?,
            library,
            edition,
            no_jump_tables,
        })
    }

    fn recipe(&self, variant: Variant, tree: &Path) -> Result<Recipe> {
        let path = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .with_context(|| format!("{} is no UTF-8", path.display()))
        };
        Ok(self.recipe_in(variant, &path(tree)?, &path(&self.library)?))
    }

    fn recipe_in(&self, variant: Variant, tree: &str, library: &str) -> Recipe {
        let kasan = match variant {
            Variant::Plain => &[],
            Variant::Kasan => KASAN_FLAGS,
        };
        let mut flags: Vec<_> = [FLAGS, &[self.no_jump_tables], kasan]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect();
        flags.extend([
            format!("--remap-path-prefix={tree}={MAPPED_TREE}"),
            format!("--remap-path-prefix={library}={MAPPED_LIBCORE}"),
            format!("--sysroot={tree}/{SYSROOT}"),
        ]);
        Recipe {
            edition: self.edition.clone(),
            library: library.to_owned(),
            flags,
        }
    }

    /// A shell script that builds the object beside itself and compares it with `object`.
    fn script(&self, object: &[u8]) -> Result<String> {
        let mut script = String::from(
            "#!/bin/sh\n\
             # SPDX-License-Identifier: GPL-2.0-only\n\
             #\n\
             # Builds trafstat_core.prebuilt, the Rust half of xt_TRAFSTAT, from the source in this\n\
             # folder, and compares its SHA-256 with that of the packaged object. Run it in a copy of\n\
             # the folder whose path has no spaces. It needs no network, but binutils and this\n\
             # compiler with its rust-src:\n\
             #\n",
        );
        for line in self.version.lines() {
            writeln!(script, "#     {line}")?;
        }
        script += &self.commands()?;
        writeln!(
            script,
            "echo '{}  trafstat_core.prebuilt' | sha256sum --check",
            hex(&Sha256::digest(object))
        )?;
        Ok(script)
    }

    /// The shell commands that build the object in the folder of their script.
    fn commands(&self) -> Result<String> {
        let recipe = self.recipe_in(Variant::Plain, "$tree", "$library");
        let mut script = String::new();
        write!(
            script,
            "set -eu\n\
             cd \"$(dirname \"$0\")\"\n\
             tree=$(pwd -P)\n\
             library=$(rustc --print sysroot)/lib/rustlib/src/rust/library\n\
             export RUSTC_BOOTSTRAP=1\n\
             export RUSTFLAGS=\"{}\"\n",
            recipe.flags.join(" ")
        )?;
        for command in recipe.sysroot() {
            writeln!(script, "{} $RUSTFLAGS", command.join(" "))?;
        }
        writeln!(script, "{}", recipe.cargo("build").join(" "))?;
        writeln!(
            script,
            "ar p {LIBRARY} \"$(ar t {LIBRARY} | grep '^{MEMBER}')\" > {}",
            kbuild::OBJECT
        )?;
        Ok(script)
    }
}

/// The folder of the standard library's source for the compiler that `run` runs.
fn library(run: impl Fn(&[&str]) -> Result<String>) -> Result<PathBuf> {
    let sysroot = run(&["rustc", "--print", "sysroot"])?;
    Ok(Path::new(&sysroot).join("lib/rustlib/src/rust/library"))
}

/// How the object is built in a source tree: the one place that its commands come from.
struct Recipe {
    edition: String,
    library: String,
    /// The flags of all that is linked.
    flags: Vec<String>,
}

impl Recipe {
    /// The commands that compile libcore and an empty compiler_builtins, but for the flags.
    fn sysroot(&self) -> [Vec<String>; 2] {
        let crates = [
            ("core", format!("{}/core/src/lib.rs", self.library)),
            ("compiler_builtins", kernel_source::BUILTINS.to_owned()),
        ];
        crates.map(|(name, source)| {
            let mut command = words(&format!(
                "rustc --crate-name {name} --edition {} --crate-type rlib --target {TARGET} \
                 -Copt-level=3 -Ccodegen-units=1 -Clinker-plugin-lto -Cmetadata=trafstat \
                 -Zforce-unstable-if-unmarked --cap-lints allow \
                 --out-dir {SYSROOT}/lib/rustlib/{TARGET}/lib",
                self.edition
            ));
            // The folder of libcore may have any name.
            command.push(source);
            command
        })
    }

    /// The command that compiles the crates and links all of them into one object.
    fn cargo(&self, subcommand: &str) -> Vec<String> {
        words(&format!(
            "cargo {subcommand} --offline --locked --package trafstat-ffi --profile kernel \
             --target {TARGET} --target-dir target"
        ))
    }

    fn command(&self, words: &[String], tree: &Path) -> Command {
        let mut command = match words[0].as_str() {
            "cargo" => Command::new(paths::cargo()),
            program => Command::new(program),
        };
        command
            .current_dir(tree)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags.join("\x1f"))
            .args(&words[1..]);
        command
    }

    /// Compiles libcore, unless it was by the same compiler and with the same flags.
    fn make_sysroot(&self, compiler: &Compiler, tree: &Path, step: &Step) -> Result<()> {
        let commands = self.sysroot();
        let made_by = format!("{}\n{commands:#?}\n{:#?}\n", compiler.version, self.flags);
        let target = tree.join("target");
        let note = tree.join(SYSROOT).join("made-by");
        if fs::read_to_string(&note).is_ok_and(|before| before == made_by) {
            return Ok(());
        }
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        for words in commands {
            let mut rustc = self.command(&words, tree);
            command::run(rustc.args(&self.flags), step)?;
        }
        fs::write(&note, made_by).map_err(Into::into)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Brings the source tree of a variant up to date; returns its path.
fn prepare(variant: Variant, step: &Step) -> Result<PathBuf> {
    fill(&variant.folder(), step)
}

/// Brings the source tree in a folder up to date; returns its path.
fn fill(folder: &Path, step: &Step) -> Result<PathBuf> {
    let source = kernel_source::collect(&paths::repository(), &folder.join("collected"), step)?;
    let tree = folder.join("source");
    for part in ["module", "vendor"] {
        let part = tree.join(part);
        if part.exists() {
            remove_others(&part, &tree, &source)?;
        }
    }
    files::write_changed(&source, &tree)?;
    // rustc sees the path without symbolic links.
    tree.canonicalize().map_err(Into::into)
}

/// Removes the files in `folder` of a tree that its source no longer has.
fn remove_others(folder: &Path, tree: &Path, source: &Files) -> Result<()> {
    for path in files::below(folder)?.into_keys() {
        let path = folder.join(path);
        let in_tree = path.strip_prefix(tree)?.to_string_lossy();
        if !source.contains_key(&*in_tree) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The object of trafstat-ffi, which link-time optimisation made of all the crates.
fn own_object(library: &[u8]) -> Result<Vec<u8>> {
    let archive = ArchiveFile::parse(library)?;
    let mut own = Vec::new();
    for member in archive.members() {
        let member = member?;
        if member.name().starts_with(MEMBER.as_bytes()) {
            own.push(member.data(library)?);
        }
    }
    match own[..] {
        [object] => Ok(object.to_vec()),
        _ => bail!("{} objects of trafstat-ffi instead of one", own.len()),
    }
}

fn check(object: &[u8], variant: Variant) -> Result<()> {
    let allowed = allowed_symbols()?;
    object_checks::symbols(object, |symbol| {
        allowed.contains(symbol) || variant.may_leave(symbol)
    })
    .with_context(|| format!("what it may leave to be linked is in {ALLOWED} and {GLUE_HEADER}"))?;
    match variant {
        Variant::Plain => {
            object_checks::frames(object)?;
            object_checks::addresses(object)
        }
        // Its checks of the stack make frames larger, and keep each function's address in its frame.
        Variant::Kasan => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    const BIG_ENDIAN: &str = "s390x-unknown-linux-gnu";
    const REFUSAL: &str = "on little-endian machines only";

    /// Compiles a crate for `target` up to what other crates need of it; returns what rustc says.
    fn compile(target: &str, edition: &str, source: &Path, sysroot: &Path, to: &Path) -> String {
        let output = Command::new("rustc")
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["--crate-type=rlib", "--emit=metadata", "--cap-lints=allow"])
            .args(["--target", target, "--edition", edition])
            .arg("-Zforce-unstable-if-unmarked")
            .arg("--sysroot")
            .arg(sysroot)
            .arg("--out-dir")
            .arg(to)
            .args(["--crate-name", "core"])
            .arg(source)
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    }

    #[test]
    fn core_does_not_compile_for_a_big_endian_machine() {
        let step = Step::begin("Compiling libcore for a big-endian machine");
        let compiler = Compiler::find(&step).unwrap();
        // It takes seconds, so it is kept.
        let compiled_by = hex(&Sha256::digest(&compiler.version)[..8]);
        let sysroot = paths::target().join("big-endian").join(compiled_by);
        let libraries = sysroot.join("lib/rustlib").join(BIG_ENDIAN).join("lib");
        if !libraries.join("libcore.rmeta").exists() {
            fs::create_dir_all(&libraries).unwrap();
            let libcore = compiler.library.join("core/src/lib.rs");
            let said = compile(
                BIG_ENDIAN,
                &compiler.edition,
                &libcore,
                &sysroot,
                &libraries,
            );
            assert!(libraries.join("libcore.rmeta").exists(), "{said}");
        }
        let core = paths::repository().join("module/core/src/lib.rs");
        let scratch = tempfile::tempdir().unwrap();
        let said = compile(BIG_ENDIAN, "2024", &core, &sysroot, scratch.path());
        assert!(said.contains(REFUSAL), "{said}");

        let host = command::read(Command::new("rustc").args(["--print", "sysroot"])).unwrap();
        let little_endian = "x86_64-unknown-linux-gnu";
        let said = compile(
            little_endian,
            "2024",
            &core,
            Path::new(&host),
            scratch.path(),
        );
        assert!(!said.contains(REFUSAL), "{said}");
    }

    #[test]
    fn recorded_commands_are_those_that_build_the_object() {
        let step = Step::begin("Looking for the compiler");
        let compiler = Compiler::find(&step).unwrap();
        let script = compiler.script(b"object").unwrap();
        let recipe = compiler.recipe_in(Variant::Plain, "$tree", "$library");
        for command in recipe.sysroot() {
            assert!(script.contains(&command.join(" ")), "{script}");
        }
        assert!(script.contains(&recipe.flags.join(" ")), "{script}");
        for line in compiler.version.lines() {
            assert!(script.contains(&format!("#     {line}\n")), "{script}");
        }
        // The SHA-256 of "object".
        let sum = "2958d416d08aa5a472d7b509036cb7eafd542add84527";
        assert!(script.contains(sum), "{script}");
    }
}
