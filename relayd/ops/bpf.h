/*
 * bpf - what a system-call filter answers: a program of classic BPF, run here instead of in the
 * kernel. Knows the instructions that libseccomp makes of lists of calls, not all that seccomp(2)
 * takes.
 */
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The SECCOMP_RET_* that the program ends with for `call`. False: it has an instruction that is not
 * known here, reads past `call`, or runs out of the program. Always ends: jumps go ahead only. */
bool bpf_answer(const struct sock_filter *program, size_t n, const struct seccomp_data *call,
                uint32_t *ret);
