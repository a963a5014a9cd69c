/*
 * A queue in a directory of its own, and short ways to fill it. Included by the tests of queue/
 * and relayd/store; everything aborts the test when it fails.
 */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <lmdb.h>

#include "policy/base/mem.h"
#include "queue/queue.h"

#define FIXTURE_UNUSED __attribute__((unused))
#define MIB (1024u * 1024u)
#define T0 ((msec_t)1700000000000) /* a moment in 2023 */

struct fixture {
    char dir[64];
    struct queue_options options;
    struct queue *queue;
    struct queue_reader *reader;
    struct queue_info info;
};

#define OK(call)                                                                \
    do {                                                                        \
        struct err ok_err = {.text = ""};                                       \
        struct err *err = &ok_err;                                              \
        enum err_code ok_code = (call);                                         \
        if (ok_code != ERR_OK)                                                  \
            fail_msg("%s: %s: %s", #call, err_code_name(ok_code), ok_err.text); \
    } while (0)

/* The call must answer `want`; `err` names the error inside the call. */
#define FAILS(want, call)                                                                     \
    do {                                                                                      \
        struct err fails_err = {.text = ""};                                                  \
        struct err *err = &fails_err;                                                         \
        enum err_code fails_code = (call);                                                    \
        if (fails_code != (want))                                                             \
            fail_msg("%s: %s (%s), not %s", #call, err_code_name(fails_code), fails_err.text, \
                     err_code_name(want));                                                    \
        if (fails_err.code != (want) || fails_err.text[0] == '\0')                            \
            fail_msg("%s: no text for %s", #call, err_code_name(want));                       \
    } while (0)

FIXTURE_UNUSED static void
fixture_make_dir(struct fixture *f)
{
    const char *base = getenv("TMPDIR");
    memset(f, 0, sizeof(*f));
    snprintf(f->dir, sizeof(f->dir), "%s/relayd-queue-XXXXXX", base == NULL ? "/tmp" : base);
    assert_non_null(mkdtemp(f->dir));
    f->options = (struct queue_options){.path = f->dir, .node = "cn", .max_bytes = 256 * MIB};
}

FIXTURE_UNUSED static void
fixture_open(struct fixture *f)
{
    OK(queue_open(&f->options, &f->queue, &f->info, err));
    OK(queue_reader_new(f->queue, &f->reader, err));
}

FIXTURE_UNUSED static void
fixture_close(struct fixture *f)
{
    queue_reader_free(f->reader);
    queue_close(f->queue);
    f->reader = NULL;
    f->queue = NULL;
}

FIXTURE_UNUSED static void
fixture_reopen(struct fixture *f)
{
    fixture_close(f);
    fixture_open(f);
}

FIXTURE_UNUSED static void
remove_dir(const char *path)
{
    char name[512];
    DIR *dir = opendir(path);
    struct dirent *e;
    while (dir != NULL && (e = readdir(dir)) != NULL) {
        snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlink(name);
    }
    if (dir != NULL)
        closedir(dir);
    rmdir(path);
}

FIXTURE_UNUSED static int
fixture_setup(void **state)
{
    static struct fixture f;
    fixture_make_dir(&f);
    fixture_open(&f);
    *state = &f;
    return 0;
}

FIXTURE_UNUSED static int
fixture_setup_closed(void **state)
{
    static struct fixture f;
    fixture_make_dir(&f);
    *state = &f;
    return 0;
}

FIXTURE_UNUSED static int
fixture_teardown(void **state)
{
    struct fixture *f = *state;
    fixture_close(f);
    remove_dir(f->dir);
    return 0;
}

/* ----------------------------------------------------------------------------------- filling */

FIXTURE_UNUSED static struct queue_batch *
begin(struct fixture *f)
{
    struct queue_batch *batch = NULL;
    OK(queue_begin(f->queue, &batch, err));
    return batch;
}

FIXTURE_UNUSED static uint64_t
commit(struct queue_batch *batch)
{
    uint64_t txn = 0;
    OK(queue_commit(batch, &txn, err));
    return txn;
}

FIXTURE_UNUSED static struct queue_msg
message(struct fixture *f, size_t body_bytes)
{
    return (struct queue_msg){.id = queue_id_new(f->queue, T0),
                              .arrived_at = T0,
                              .size_bytes = body_bytes + 300,
                              .body_bytes = body_bytes,
                              .sender = SPAN("alice@src.test"),
                              .client = SPAN("192.0.2.1 mail.src.test"),
                              .received = SPAN("Received: from x by y\r\n")};
}

FIXTURE_UNUSED static struct queue_rcpt
recipient(uint32_t no, const char *address)
{
    const char *at = strrchr(address, '@');
    return (struct queue_rcpt){.no = no,
                               .state = QUEUE_FRESH,
                               .address = span_str(address),
                               .domain = span_str(at == NULL ? "" : at + 1)};
}

/* Bytes that differ from place to place and from message to message. */
FIXTURE_UNUSED static char *
body_bytes(size_t n, unsigned seed)
{
    char *p = xmalloc(n + 1);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1103515245u + 12345u;
        p[i] = (char)(seed >> 16);
    }
    return p;
}

/* One message with a small body and these recipients; returns its id. */
FIXTURE_UNUSED static uint64_t
add_to(struct fixture *f, struct queue_batch *batch, const char *const *addresses)
{
    struct queue_rcpt rcpts[64];
    size_t n = 0;
    struct span body = SPAN("Subject: x\r\n\r\nhello\r\n");
    for (; addresses[n] != NULL; n++)
        rcpts[n] = recipient((uint32_t)n, addresses[n]);
    struct queue_msg msg = message(f, body.n);
    OK(queue_add(batch, &msg, rcpts, n, &body, 1, err));
    return msg.id;
}

FIXTURE_UNUSED static uint64_t
add_one(struct fixture *f, const char *address)
{
    struct queue_batch *batch = begin(f);
    uint64_t id = add_to(f, batch, (const char *const[]){address, NULL});
    commit(batch);
    return id;
}

FIXTURE_UNUSED static enum err_code
apply_one(struct fixture *f, struct queue_change *change)
{
    struct err err;
    struct queue_batch *batch = begin(f);
    enum err_code code = queue_apply(batch, change, &err);
    assert_false(queue_batch_dead(batch));
    commit(batch);
    return code;
}

FIXTURE_UNUSED static struct queue_stats
stats_of(struct fixture *f)
{
    struct queue_stats s;
    OK(queue_read_stats(f->reader, &s, err));
    return s;
}

FIXTURE_UNUSED static struct queue_mail
mail_of(struct fixture *f, uint64_t id)
{
    struct queue_mail mail = {.txn_id = 0};
    OK(queue_read_mail(f->reader, id, &mail, err));
    return mail;
}

/* Run verify to its end; the caller frees it. */
FIXTURE_UNUSED static struct queue_verify *
verify_all(struct fixture *f, struct queue_verify_result *ret)
{
    struct queue_verify *v = queue_verify_new();
    do {
        OK(queue_verify_step(v, f->reader, ret, err));
    } while (!ret->finished);
    return v;
}

FIXTURE_UNUSED static void
assert_sound(struct fixture *f)
{
    struct queue_verify_result r;
    struct queue_verify *v = verify_all(f, &r);
    if (r.n_findings != 0)
        fail_msg("verify: %s (of %llu)", r.texts[0], (unsigned long long)r.n_findings);
    queue_verify_free(v);
}

#define assert_span(s, text)                                  \
    do {                                                      \
        struct span want_span = span_str(text);               \
        assert_int_equal((s).n, want_span.n);                 \
        assert_memory_equal((s).p, want_span.p, want_span.n); \
    } while (0)

#define RUN_TESTS(tests)                                  \
    do {                                                  \
        if (argc > 1)                                     \
            cmocka_set_test_filter(argv[1]);              \
        return cmocka_run_group_tests(tests, NULL, NULL); \
    } while (0)
