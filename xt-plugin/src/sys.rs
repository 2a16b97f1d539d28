// SPDX-License-Identifier: GPL-2.0-or-later
//! The boundary to libxtables: registration, callbacks and all unsafe code of the plugin.
//!
//! The contracts that the proofs below rest on are those of `xtables.h` and of the
//! extensions that come with iptables: libxtables is single-threaded, allocates a rule's
//! target with `size` bytes of data, zeroed, and calls back only between registration
//! and the program's exit.
#![allow(unsafe_code)]

use std::{
    env,
    ffi::{CStr, CString, c_char, c_uint, c_void},
    io::{self, Write},
    mem::offset_of,
    process, ptr,
};

use trafstat_abi::{OLDEST_REVISION, REVISION, RuleInfo};

use bindings::{
    NFPROTO_IPV4, NFPROTO_IPV6, OTHER_PROBLEM, PARAMETER_PROBLEM, XTABLES_VERSION, XTF_DONT_LOAD,
    XTOPT_MAND, XTOPT_MULTI, XTTYPE_NONE, XTTYPE_STRING, xt_entry_target, xt_fcheck_call,
    xt_option_call, xt_option_entry, xt_option_type, xtables_afinfo, xtables_target,
};
use trafstat_rule::{
    command_line::{NAT_WARNING, adds_to_nat},
    local_net::{Family, Ipv4, Ipv6},
    options::{self, OPTIONS},
    ports::Transport,
    render,
};

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/xtables.rs"));
}

// SAFETY: .init_array is an array of pointers to functions that the loader calls with
// the C convention, and `register` is one that takes nothing of what it is passed.
#[unsafe(link_section = ".init_array")]
#[used]
static REGISTER: extern "C" fn() = register;

const NAME: &CStr = c"TRAFSTAT";

/// Registers the target in every revision that the kernel has.
///
/// libxtables makes usable only the highest one of those that are registered together.
/// iptables-legacy then prints a rule of a lower revision as `[unsupported revision]`, which does
/// not restore. So each is made usable before the next one is registered. Of one that the kernel
/// lacks, libxtables would warn at every lookup but the first.
extern "C" fn register() {
    let highest = if acts_as("older") {
        OLDEST_REVISION
    } else {
        REVISION
    };
    let known = OLDEST_REVISION..=highest;
    let usable: Vec<_> = known
        .clone()
        .filter(|&revision| kernel_has(revision))
        .collect();
    let Some((highest, lower)) = usable.split_last() else {
        // libxtables tells what is missing.
        return known.for_each(register_revision);
    };
    for &revision in lower {
        register_revision(revision);
        make_usable();
    }
    register_revision(*highest);
}

fn register_revision(revision: u32) {
    register_target(target::<Ipv4>(NFPROTO_IPV4 as u16, revision));
    register_target(target::<Ipv6>(NFPROTO_IPV6 as u16, revision));
}

/// Whether a test has the plugin act as one of this version; never without feature
/// `other-versions`.
fn acts_as(version: &str) -> bool {
    cfg!(feature = "other-versions")
        && env::var_os("TRAFSTAT_TEST_PLUGIN").is_some_and(|acts_as| acts_as == version)
}

/// Whether the kernel has the target in this revision, as far as the program can tell.
fn kernel_has(revision: u32) -> bool {
    // The symbol is not of the library's documented ones, so it is looked up. Without it, only
    // the highest revision is usable.
    // SAFETY: the name is a string; null looks in all libraries that are loaded.
    let afinfo = unsafe { bindings::dlsym(ptr::null_mut(), c"afinfo".as_ptr()) };
    // SAFETY: the symbol is a variable of this type, which nobody writes meanwhile.
    let afinfo = unsafe { afinfo.cast::<*const xtables_afinfo>().as_ref() };
    // SAFETY: the variable is null or points to a static of the library.
    let afinfo = afinfo.and_then(|afinfo| unsafe { afinfo.as_ref() });
    // SAFETY: the program sets this before it loads an extension and never changes it.
    let params = unsafe { bindings::xt_params };
    // SAFETY: it points to a static of the program.
    let params = unsafe { params.as_ref() };
    let (Some(afinfo), Some(params)) = (afinfo, params) else {
        return false;
    };
    params.compat_rev.is_some_and(|compat_rev| {
        // SAFETY: the name is a string, and the option is the one of the program's family.
        unsafe { compat_rev(NAME.as_ptr(), revision as u8, afinfo.so_rev_target) != 0 }
    })
}

/// Has libxtables ask the kernel for the revision that was registered last, and list it.
fn make_usable() {
    // SAFETY: the name is a string. libxtables loads this library in a lookup of its own, when
    // it is done with its lists.
    let target = unsafe { bindings::xtables_find_target(NAME.as_ptr(), XTF_DONT_LOAD) };
    // SAFETY: it is null or the target of this library, which libxtables does not use meanwhile.
    if let Some(target) = unsafe { target.as_mut() } {
        // Not used by a rule yet: iptables prints the help of every target that is.
        target.used = 0;
    }
}

fn register_target(target: xtables_target) {
    let target = Box::leak(Box::new(target));
    // SAFETY: the target and all that it points to are leaked or static, so they outlive
    // the program's use of the library, and nobody else refers to them.
    unsafe { bindings::xtables_register_target(target) };
}

fn target<F: Family>(family: u16, revision: u32) -> xtables_target {
    xtables_target {
        version: XTABLES_VERSION.as_ptr(),
        name: NAME.as_ptr(),
        revision: revision as u8,
        family,
        size: align(size_of::<RuleInfo>()),
        userspacesize: offset_of!(RuleInfo, rule),
        help: Some(help),
        x6_parse: Some(parse::<F>),
        x6_fcheck: Some(complete::<F>),
        x6_options: option_entries(revision),
        print: Some(list::<F>),
        save: Some(save::<F>),
        ..xtables_target::default()
    }
}

/// An entry of the option table. libxtables 1.8.11 gave it a last field, `base`, under the
/// soname that 1.8.9 has: `Growth` is what the library at hand adds.
#[repr(C)]
struct OptionEntry<Growth> {
    name: *const c_char,
    type_: xt_option_type,
    id: c_uint,
    excl: c_uint,
    also: c_uint,
    flags: c_uint,
    ptroff: c_uint,
    size: usize,
    min: c_uint,
    max: c_uint,
    growth: Growth,
}

const _: () = {
    let known = size_of::<xt_option_entry>();
    assert!(
        known == size_of::<OptionEntry<()>>() || known == size_of::<OptionEntry<c_uint>>(),
        "this xtables.h has another layout of struct xt_option_entry"
    );
    assert!(offset_of!(xt_option_entry, id) == offset_of!(OptionEntry<()>, id));
    assert!(offset_of!(xt_option_entry, max) == offset_of!(OptionEntry<()>, max));
};

/// The option table of a revision, as the libxtables that loaded this library reads it.
fn option_entries(revision: u32) -> *const xt_option_entry {
    // The function came with the field. A program's version would not do: nft loads
    // extensions, too, and says its own.
    // SAFETY: the name is a string; null looks in all libraries that are loaded.
    let symbol = unsafe { bindings::dlsym(ptr::null_mut(), c"xtables_strtoul_base".as_ptr()) };
    if symbol.is_null() {
        option_table::<()>(revision).cast()
    } else {
        option_table::<c_uint>(revision).cast()
    }
}

/// The option table, with the empty entry that ends it.
fn option_table<Growth: Default>(revision: u32) -> *const OptionEntry<Growth> {
    let options = (0..).zip(&OPTIONS);
    let options = options.filter(|(_, option)| option.revision <= revision);
    let entries = options.map(|(id, option)| {
        let mandatory = if option.mandatory { XTOPT_MAND } else { 0 };
        let repeatable = if option.is_repeatable() {
            XTOPT_MULTI
        } else {
            0
        };
        OptionEntry {
            name: option.name.as_ptr(),
            // Strings all, for libxtables' own types look names up in the DNS and
            // take octal and hexadecimal numbers.
            type_: if option.takes_value() {
                XTTYPE_STRING
            } else {
                XTTYPE_NONE
            },
            id,
            flags: mandatory | repeatable,
            ..OptionEntry::empty()
        }
    });
    Vec::leak(entries.chain([OptionEntry::empty()]).collect()).as_ptr()
}

impl<Growth: Default> OptionEntry<Growth> {
    fn empty() -> Self {
        Self {
            name: ptr::null(),
            type_: XTTYPE_NONE,
            id: 0,
            excl: 0,
            also: 0,
            flags: 0,
            ptroff: 0,
            size: 0,
            min: 0,
            max: 0,
            growth: Growth::default(),
        }
    }
}

/// `XT_ALIGN` of linux/netfilter/x_tables.h, a macro that bindgen cannot translate.
const fn align(size: usize) -> usize {
    size.next_multiple_of(align_of::<bindings::_xt_align>())
}

extern "C" fn help() {
    write(&render::help());
}

unsafe extern "C" fn parse<F: Family>(call: *mut xt_option_call) {
    // SAFETY: libxtables passes a call on its own stack and looks at it again only when
    // this function has returned.
    let call = unsafe { &mut *call };
    let given_before = call.xflags;
    // SAFETY: `call` is what libxtables made for this option; the function checks it
    // against the option table and notes in it that the option was given.
    unsafe { bindings::xtables_option_parse(call) };

    // SAFETY: the entry is one of those that `option_table` leaked, whose beginning is the same
    // for every growth.
    let id = unsafe { &*call.entry.cast::<OptionEntry<()>>() }.id;
    let Some(option) = OPTIONS.get(id as usize) else {
        exit_error(OTHER_PROBLEM, &format!("no option has the number {id}"));
    };
    let value = if option.takes_value() && !call.arg.is_null() {
        // SAFETY: the argument of an option that takes one is a string of the command
        // line, which lives as long as the program.
        unsafe { CStr::from_ptr(call.arg) }
    } else {
        c""
    };
    let Ok(value) = value.to_str() else {
        let reason = format!("--{}: the value is not UTF-8 text", option.name());
        exit_error(PARAMETER_PROBLEM, &reason);
    };
    // SAFETY: the data are the rule's own `size` bytes, aligned as malloc aligns and zeroed
    // at first, RuleInfo is valid for any bytes, and nobody else looks at them meanwhile.
    let info = unsafe { &mut *call.data.cast::<RuleInfo>() };
    let repeated = given_before & (1 << id) != 0;
    if let Err(reason) = options::parse::<F>(info, option, value, repeated, service_port) {
        exit_error(PARAMETER_PROBLEM, &reason);
    }
}

unsafe extern "C" fn complete<F: Family>(call: *mut xt_fcheck_call) {
    // SAFETY: libxtables passes a call on its own stack that lives until this function
    // has returned.
    let call = unsafe { &*call };
    // SAFETY: as in `parse`.
    let info = unsafe { &mut *call.data.cast::<RuleInfo>() };
    if let Err(reason) = options::complete::<F>(info) {
        exit_error(PARAMETER_PROBLEM, &reason);
    }
    if acts_as("newer") {
        // An option that is not known here would stand there.
        info.lists[0].reserved = 1;
    }
    // libxtables comes here for rules to be deleted or looked for, too.
    if adds_to_nat(env::args_os().skip(1)) {
        // A warning that cannot be written is no reason to refuse the rule.
        let _ = writeln!(io::stderr(), "TRAFSTAT: {NAT_WARNING}");
    }
}

unsafe extern "C" fn list<F: Family>(
    _ip: *const c_void,
    target: *const xt_entry_target,
    _numeric: i32,
) {
    // SAFETY: the target is the one that libxtables passed.
    let info = unsafe { rule_info(target) };
    write(&render::list::<F>(&info));
}

unsafe extern "C" fn save<F: Family>(_ip: *const c_void, target: *const xt_entry_target) {
    // SAFETY: the target is the one that libxtables passed.
    let info = unsafe { rule_info(target) };
    write(&render::save::<F>(&info));
}

/// Copies the rule out of a target as the kernel or the command line made it.
///
/// # Safety
///
/// `target` points to a target's header, followed by as many bytes as the header says.
unsafe fn rule_info(target: *const xt_entry_target) -> RuleInfo {
    // SAFETY: the caller vouches for the header; targets are aligned to 8 in the kernel's
    // rule blob as in memory from malloc.
    let header = unsafe { &*target };
    // SAFETY: every member of the union begins with size, name and revision.
    let user = unsafe { header.u.user };
    let (size, revision) = (user.target_size, user.revision);
    if usize::from(size) < size_of::<xt_entry_target>() + size_of::<RuleInfo>() {
        let reason =
            format!("the kernel's rule has {size} bytes, fewer than revision {revision} has");
        exit_error(OTHER_PROBLEM, &reason);
    }
    // SAFETY: the header's size says that the data follow within the same allocation.
    let info = unsafe { target.add(1) }.cast::<RuleInfo>();
    // SAFETY: that many bytes were just seen to be there, and RuleInfo is valid for any.
    let mut info = unsafe { info.read_unaligned() };
    if u32::from(revision) == OLDEST_REVISION {
        info.clear_room();
    }
    info
}

fn service_port(name: &str, transport: Transport) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let protocol = match transport {
        Transport::Tcp => c"tcp",
        Transport::Udp => c"udp",
    };
    // SAFETY: both are strings that live across the call, which only reads them.
    let port = unsafe { bindings::xtables_service_to_port(name.as_ptr(), protocol.as_ptr()) };
    u16::try_from(port).ok()
}

/// Writes through C's stdout, whose buffer holds the rest of the line.
fn write(text: &str) {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: the format takes one string, and it is given one.
    unsafe { bindings::printf(c"%s".as_ptr(), text.as_ptr()) };
}

/// Says what is wrong, as iptables says it, and ends the program: `xtables_error`.
fn exit_error(status: bindings::xtables_exittype, message: &str) -> ! {
    let message = CString::new(message).unwrap_or_default();
    // SAFETY: the program sets this before it loads an extension and never changes it.
    let params = unsafe { bindings::xt_params };
    // SAFETY: it points to a static of the program.
    let params = unsafe { params.as_ref() };
    if let Some(exit) = params.and_then(|params| params.exit_err) {
        // SAFETY: the format takes one string, and it is given one. The function exits
        // without unwinding through this frame.
        unsafe { exit(status, c"TRAFSTAT: %s".as_ptr(), message.as_ptr()) };
    }
    process::exit(status as i32)
}
