// SPDX-License-Identifier: GPL-2.0-only
/*
 * The function that the Rust object returns through, for kernels without return thunks.
 *
 * The object is the same for every kernel: it jumps to __x86_return_thunk, which a kernel
 * with that mitigation has and patches. Other kernels have no such symbol.
 */
#if !defined(CONFIG_RETHUNK) && !defined(CONFIG_MITIGATION_RETHUNK)
asm(".pushsection .text, \"ax\"\n"
    ".balign 16\n"
    ".globl __x86_return_thunk\n"
    ".type __x86_return_thunk, @function\n"
    "__x86_return_thunk:\n"
    "	ret\n"
    "	int3\n"
    ".size __x86_return_thunk, . - __x86_return_thunk\n"
    ".popsection\n");
#endif
