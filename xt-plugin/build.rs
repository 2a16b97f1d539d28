// SPDX-License-Identifier: GPL-2.0-or-later
//! Generates the binding to libxtables from the installed `xtables.h`.
//!
//! The header is found through pkg-config.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

// Without XTABLES_INTERNAL, xtables.h leaves out `struct xtables_afinfo`.
const INCLUDES: &str = "#include <dlfcn.h>\n#include <stdio.h>\n\
                        #define XTABLES_INTERNAL\n#include <xtables.h>\n";

fn main() -> Result<()> {
    let include_flags = include_dirs()?
        .into_iter()
        .map(|dir| format!("-I{}", dir.display()));

    let bindings = bindgen::Builder::default()
        .header_contents("xtables-plugin.h", INCLUDES)
        .clang_args(include_flags)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .allowlist_function("dlsym")
        .allowlist_function("printf")
        .allowlist_function("xtables_find_target")
        .allowlist_function("xtables_option_parse")
        .allowlist_function("xtables_register_target")
        .allowlist_function("xtables_service_to_port")
        .allowlist_var("xt_params")
        .allowlist_var("NFPROTO_IPV[46]")
        .allowlist_var("XTABLES_VERSION")
        .allowlist_type("_xt_align")
        .allowlist_type("xt_option_flags")
        .allowlist_type("xtables_exittype")
        .allowlist_type("xtables_afinfo")
        .allowlist_type("xtables_target")
        .allowlist_type("xtables_tryload")
        .allowlist_type("xt_option_type")
        .prepend_enum_name(false)
        .generate_cstr(true)
        .derive_default(true)
        .layout_tests(false)
        .generate()
        .context("bindgen could not read xtables.h; is libxtables-dev installed?")?;

    let out = PathBuf::from(env::var("OUT_DIR")?).join("xtables.rs");
    bindings
        .write_to_file(&out)
        .with_context(|| format!("cannot write {}", out.display()))
}

fn include_dirs() -> Result<Vec<PathBuf>> {
    let library = pkg_config::Config::new()
        .atleast_version("1.8")
        .probe("xtables")
        .context("libxtables is not installed; install libxtables-dev")?;
    Ok(library.include_paths)
}
