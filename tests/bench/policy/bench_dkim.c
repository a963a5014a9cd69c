/*
 * bench_dkim - signatures a second on one core, and whether memory grows.
 *
 * usage: bench_dkim [COUNT [BODY_BYTES [rsa2048|ed25519|both]]]
 *
 * Signs a message of BODY_BYTES (10,240) COUNT times (20,000) with an RSA-2048 key, with an Ed25519
 * key, and with both. RssAnon is read after a tenth and at the end.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "policy/base/mem.h"
#include "policy/dkim.h"

#define HEAD                                                                                    \
    "Received: from client ([192.0.2.1])\r\n\tby relay.example.org (relayd cn) with ESMTPS\r\n" \
    "\tid cn.0000000000000;\r\n\tTue, 21 Nov 2023 18:25:00 +0000\r\n"                           \
    "From: Joe <joe@example.org>\r\nTo: Suzie <suzie@shopping.example>\r\n"                     \
    "Subject: Is dinner ready?\r\nDate: Tue, 21 Nov 2023 18:25:00 +0000\r\n"                    \
    "Message-ID: <20231121182500.1@example.org>\r\nMIME-Version: 1.0\r\n"                       \
    "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"

struct feed {
    struct span body;
    bool done;
};

static enum err_code
feed_next(void *arg, struct span *ret, struct err *err)
{
    struct feed *feed = arg;
    (void)err;
    *ret = feed->done ? SPAN_NONE : feed->body;
    feed->done = true;
    return ERR_OK;
}

static void
check(enum err_code code, const struct err *err)
{
    if (code == ERR_OK)
        return;
    fprintf(stderr, "bench_dkim: %s\n", err->text);
    exit(1);
}

static double
cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long
rss_anon_kib(void)
{
    char line[256];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "RssAnon: %ld", &kib) == 1)
            break;
    if (f != NULL)
        fclose(f);
    return kib;
}

static void
ring_add(struct dkim_keyring *ring, enum dkim_key_type type)
{
    struct strbuf pem = STRBUF_INIT;
    struct dkim_key *key;
    struct err err;
    struct domain_pattern pattern = {"example.org", false};
    struct dkim_entry entry = {&pattern, 1, SPAN_NONE, span_str(dkim_key_type_name(type))};

    check(dkim_keygen(type, 0, &pem, &err), &err);
    check(dkim_key_parse(strbuf_span(&pem), &key, &err), &err);
    check(dkim_keyring_add(ring, &entry, key, &err), &err);
    dkim_wipe(&pem);
}

static void
run(const char *name, const struct dkim_keyring *ring, struct span body, unsigned count)
{
    struct dkim_signer *signer;
    struct span head = SPAN(HEAD);
    struct err err;
    size_t signatures = 0;
    long before = 0;

    check(dkim_signer_new(&signer, &err), &err);
    double start = cpu_seconds();
    for (unsigned i = 0; i < count; i++) {
        struct feed feed = {body, false};
        struct dkim_message message = {SPAN("bench"), &head, 1, {feed_next, &feed}, 1700000000000};
        struct dkim_result result;
        if (i == count / 10)
            before = rss_anon_kib();
        check(dkim_signer_sign(signer, ring, &message, &result, &err), &err);
        signatures += result.n_signatures;
        dkim_result_release(&result);
    }
    double seconds = cpu_seconds() - start;
    printf(
        "dkim %-8s %8.0f messages/s %8.0f signatures/s %7.1f us/message  RSS growth %ld KiB over "
        "%u messages\n",
        name, count / seconds, (double)signatures / seconds, seconds * 1e6 / count,
        rss_anon_kib() - before, count - count / 10);
    dkim_signer_free(signer);
}

int
main(int argc, char **argv)
{
    unsigned count = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 20000;
    size_t bytes = argc > 2 ? strtoul(argv[2], NULL, 10) : 10240;
    struct strbuf body = STRBUF_INIT;
    while (body.n < bytes)
        strbuf_add_str(&body, "The quick brown fox jumps over the lazy dog, again and again.\r\n");

    static const char *const names[] = {"rsa2048", "ed25519", "both"};
    for (unsigned i = 0; i < N_ELEMENTS(names); i++) {
        if (argc > 3 && strcmp(argv[3], names[i]) != 0)
            continue;
        struct dkim_keyring *ring = dkim_keyring_new();
        if (i != 1)
            ring_add(ring, DKIM_KEY_RSA);
        if (i != 0)
            ring_add(ring, DKIM_KEY_ED25519);
        run(names[i], ring, strbuf_span(&body), count);
        dkim_keyring_free(ring);
    }
    strbuf_release(&body);
    return 0;
}
