/*
 * inhand - which message each thread has in hand, kept where a crash cannot lose it: evidence
 * against messages that make this program crash.
 *
 * A file is mapped with one slot a thread. A slot names the message that its thread works on at the
 * moment; the handler of a synchronous SIGSEGV, SIGBUS, SIGFPE, SIGABRT or SIGSYS
 * (relayd/ops/privs.h) of our own marks it, and the process dies as it would have. The next start
 * reads the marks. kill -9, the OOM killer, power loss and signals from outside mark nothing, so
 * they never blame a message.
 *
 * Slots belong to threads and are taken at the first inhand_enter(). There is one such file a
 * process (a signal handler has no argument); without inhand_open() all calls are cheap no-ops.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/mem.h"

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#define INHAND_SLOTS 128 /* threads; a thread beyond them leaves no evidence */

/* What a crash left behind. */
struct inhand_mark {
    uint64_t id;    /* of the message; 0: none was in hand */
    uint64_t print; /* of its header (intake): it may come again under another id; 0: none */
    int signal;
};

/*
 * Install the handlers: from now on a crash is said in one line on stderr, as there is no core
 * file, and marks what is in hand. Call it once, before the threads start.
 */
void inhand_watch(void);

/*
 * Map `path` (made 0600 when missing), give what the last run's crash marked in `ret` (room for
 * INHAND_SLOTS), and clear all slots. ERR_PERM, ERR_IO; ERR_FULL: the disk has no room for it,
 * *ret_n holds all the same and the caller may go on without evidence. Call it once, before the
 * threads start.
 */
MUST_CHECK enum err_code
inhand_open(const char *path, struct inhand_mark *ret, size_t *ret_n, struct err *err);

/* This thread works on message `id` from now on; returns what it had in hand before. */
uint64_t inhand_enter(uint64_t id);
/* It goes back to that. */
void inhand_leave(uint64_t before);
/* Also note the fingerprint; it holds until the outermost inhand_leave(). */
void inhand_print(uint64_t print);
/* For CLEANUP(inhand_leavep). */
void inhand_leavep(const uint64_t *before);

/* Take the crash signals out of a set that a thread is going to block: a fault that is blocked
 * kills the process without asking any handler. */
void inhand_unblock(sigset_t *blocked);

/* IN_HAND(id); : until the end of the block. */
#define IN_HAND(id) \
    CLEANUP(inhand_leavep) __attribute__((unused)) const uint64_t in_hand_before = inhand_enter(id)

/* A fingerprint of bytes that is the same in every run; never 0. */
uint64_t inhand_hash(const char *bytes, size_t n);
