/*
 * srs - see srs.h. Called by relayd/delivery.c (forward) and relayd/verdict_srs.c (reverse).
 *
 * Local parts are taken apart and put together as they are meant, without quotes; the quotes come
 * back where the result needs them.
 */
#include "policy/srs.h"

#include <assert.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"
#include "policy/config.h"

#define STAMP_DAYS 1024 /* two characters of base32 */
#define PARTS_MAX 3     /* of what a hash covers */

static const char base32[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

struct srs
srs_of(const struct config *config)
{
    return (struct srs){.domain = span_str(config->srs.domain),
                        .secrets = config->srs.secrets,
                        .n_secrets = config->srs.n_secrets};
}

bool
srs_applies(const struct srs *srs, struct span sender, struct span sender_domain,
            const struct config *config)
{
    return srs->domain.n > 0 && sender.n > 0 && sender_domain.n > 0 &&
           !span_eq(sender_domain, srs->domain) && !config_is_local(config, sender_domain);
}

/* ---- the stamp ---- */

static unsigned
day_of(msec_t at)
{
    return (unsigned)(at / DAY) % STAMP_DAYS;
}

/* One character is what some forwarders write below 32. */
static bool
stamp_parse(struct span stamp, unsigned *ret)
{
    unsigned day = 0;

    if (stamp.n == 0 || stamp.n > 2)
        return false;
    for (size_t i = 0; i < stamp.n; i++) {
        char c = stamp.p[i], upper = ascii_alpha(c) ? (char)(c & ~32) : c;
        const char *at = memchr(base32, upper, sizeof(base32) - 1);
        if (at == NULL)
            return false;
        day = day * 32 + (unsigned)(at - base32);
    }
    *ret = day;
    return true;
}

static bool
stamp_is_fresh(struct span stamp, msec_t now)
{
    unsigned day;

    if (!stamp_parse(stamp, &day))
        return false;
    unsigned age = (day_of(now) + STAMP_DAYS - day) % STAMP_DAYS;
    return age <= SRS_DAYS_VALID || age >= STAMP_DAYS - SRS_DAYS_SKEW;
}

/* ---- the hash ---- */

static void
hash_of(struct span secret, const struct span *parts, size_t n, char ret[static SRS_HASH_CHARS])
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    unsigned char digest[EVP_MAX_MD_SIZE], base64[EVP_MAX_MD_SIZE * 4 / 3 + 4];
    unsigned n_digest = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < parts[i].n; k++)
            strbuf_add_byte(&text, ascii_lower(parts[i].p[k]));
    const unsigned char *done = HMAC(EVP_sha1(), secret.p, (int)secret.n,
                                     (const unsigned char *)text.p, text.n, digest, &n_digest);
    if (done == NULL)
        out_of_memory();
    assert(n_digest == 20);
    EVP_EncodeBlock(base64, digest, (int)n_digest);
    memcpy(ret, base64, SRS_HASH_CHARS);
}

/* All secrets are tried, and each is compared as a whole: the time tells nothing. */
static bool
is_signed(const struct srs *srs, struct span hash, const struct span *parts, size_t n)
{
    char given[SRS_HASH_CHARS], ours[SRS_HASH_CHARS];
    bool found = false;

    if (hash.n != SRS_HASH_CHARS)
        return false;
    for (size_t i = 0; i < SRS_HASH_CHARS; i++)
        given[i] = ascii_lower(hash.p[i]);
    for (size_t i = 0; i < srs->n_secrets; i++) {
        hash_of(srs->secrets[i], parts, n, ours);
        for (size_t k = 0; k < SRS_HASH_CHARS; k++)
            ours[k] = ascii_lower(ours[k]);
        found |= CRYPTO_memcmp(given, ours, SRS_HASH_CHARS) == 0;
    }
    return found;
}

/* ---- the form ---- */

struct srs0 {
    struct span hash, stamp, host, local;
};
struct srs1 {
    struct span hash, host;
    struct span tail; /* what followed SRS0 at the first hop, with its separator */
    struct srs0 inner;
};

static bool
is_separator(struct span s)
{
    return s.n > 0 && (*s.p == '=' || *s.p == '+' || *s.p == '-');
}

/* Cut a part that ends with "=" off *rest. */
static bool
part_take(struct span *rest, struct span *ret)
{
    size_t n = span_find_byte(*rest, '=');

    if (n == SIZE_MAX || n == 0)
        return false;
    *ret = span_first(*rest, n);
    *rest = span_from(*rest, n + 1);
    return true;
}

/* `tail` is what follows the tag, its separator first. */
static bool
srs0_split(struct span tail, struct srs0 *ret)
{
    if (!is_separator(tail))
        return false;
    ret->local = span_from(tail, 1);
    return part_take(&ret->local, &ret->hash) && part_take(&ret->local, &ret->stamp) &&
           part_take(&ret->local, &ret->host);
}

static bool
srs1_split(struct span tail, struct srs1 *ret)
{
    if (!is_separator(tail))
        return false;
    ret->tail = span_from(tail, 1);
    return part_take(&ret->tail, &ret->hash) && part_take(&ret->tail, &ret->host) &&
           srs0_split(ret->tail, &ret->inner);
}

/* Is it that tag? If so *ret_tail is what follows it. */
static bool
tag_take(struct span plain, const char *tag, struct span *ret_tail)
{
    if (!span_istarts(plain, span_str(tag)))
        return false;
    *ret_tail = span_from(plain, strlen(tag));
    return true;
}

static bool
srs0_is_signed(const struct srs *srs, const struct srs0 *s)
{
    const struct span parts[PARTS_MAX] = {s->stamp, s->host, s->local};
    return is_signed(srs, s->hash, parts, 3);
}

static bool
srs1_is_signed(const struct srs *srs, const struct srs1 *s)
{
    const struct span parts[PARTS_MAX] = {s->host, s->tail};
    return is_signed(srs, s->hash, parts, 2);
}

/* Append plain@domain, with quotes if it takes them. False: it is no address within the limits. */
static bool
add_mailbox(struct span plain, struct span domain, struct strbuf *out)
{
    size_t start = out->n;

    for (int quoted = 0; quoted <= 1; quoted++) {
        struct mailbox m;
        if (quoted)
            strbuf_add_byte(out, '"');
        for (size_t i = 0; i < plain.n; i++) {
            if (quoted && (plain.p[i] == '"' || plain.p[i] == '\\'))
                strbuf_add_byte(out, '\\');
            strbuf_add_byte(out, plain.p[i]);
        }
        strbuf_add_str(out, quoted ? "\"@" : "@");
        strbuf_add_span(out, domain);
        struct span address = span_from(strbuf_span(out), start);
        if (address.n <= SRS_ADDRESS_MAX &&
            mailbox_parse(address, MAILBOX_UTF8, &m) == MAILBOX_OK && m.quoted == (quoted == 1) &&
            span_eq(m.domain, domain))
            return true;
        strbuf_truncate(out, start);
    }
    return false;
}

/* ---- forward ---- */

static bool
add_srs0(const struct srs *srs, msec_t at, struct span host, struct span local, struct strbuf *out)
{
    CLEANUP(strbuf_release) struct strbuf plain = STRBUF_INIT;
    unsigned day = day_of(at);
    const char stamp[2] = {base32[day / 32], base32[day % 32]};
    const struct span parts[PARTS_MAX] = {span_of(stamp, 2), host, local};
    char hash[SRS_HASH_CHARS];

    hash_of(srs->secrets[0], parts, 3, hash);
    strbuf_printf(&plain, "SRS0=%.*s=%.2s=%.*s=", SRS_HASH_CHARS, hash, stamp, SPAN_ARG(host));
    strbuf_add_span(&plain, local);
    return add_mailbox(strbuf_span(&plain), srs->domain, out);
}

static bool
add_srs1(const struct srs *srs, struct span first, struct span tail, struct strbuf *out)
{
    CLEANUP(strbuf_release) struct strbuf plain = STRBUF_INIT;
    const struct span parts[PARTS_MAX] = {first, tail};
    char hash[SRS_HASH_CHARS];

    hash_of(srs->secrets[0], parts, 2, hash);
    strbuf_printf(&plain, "SRS1=%.*s=%.*s=", SRS_HASH_CHARS, hash, SPAN_ARG(first));
    strbuf_add_span(&plain, tail);
    return add_mailbox(strbuf_span(&plain), srs->domain, out);
}

static bool
add_our_srs0(const struct srs *srs, struct span tail, struct strbuf *out)
{
    CLEANUP(strbuf_release) struct strbuf plain = STRBUF_INIT;

    strbuf_add_str(&plain, "SRS0");
    strbuf_add_span(&plain, tail);
    return add_mailbox(strbuf_span(&plain), srs->domain, out);
}

bool
srs_forward(const struct srs *srs, struct span sender, struct span sender_domain, msec_t arrived_at,
            struct strbuf *out)
{
    CLEANUP(strbuf_release) struct strbuf local = STRBUF_INIT;
    struct mailbox m;
    struct span tail;
    struct srs0 zero;
    struct srs1 one;

    assert(srs->n_secrets > 0);
    if (mailbox_parse(sender, MAILBOX_UTF8, &m) != MAILBOX_OK)
        return false;
    mailbox_local_plain(&m, &local);
    struct span plain = strbuf_span(&local);
    if (tag_take(plain, "SRS0", &tail) && srs0_split(tail, &zero) &&
        stamp_is_fresh(zero.stamp, arrived_at))
        return add_srs1(srs, sender_domain, tail, out);
    if (tag_take(plain, "SRS1", &tail) && srs1_split(tail, &one) &&
        stamp_is_fresh(one.inner.stamp, arrived_at) && domain_valid_host(one.host)) {
        /* We were the first hop: the mail has come round, and our own address is good. */
        if (!span_ieq(one.host, srs->domain))
            return add_srs1(srs, one.host, one.tail, out);
        if (srs0_is_signed(srs, &one.inner))
            return add_our_srs0(srs, one.tail, out);
    }
    return add_srs0(srs, arrived_at, sender_domain, plain, out);
}

/* ---- reverse ---- */

static enum srs_fault
reverse_srs0(const struct srs *srs, struct span tail, msec_t now, struct strbuf *out)
{
    struct srs0 s;

    if (!srs0_split(tail, &s) || s.stamp.n != 2 || !srs0_is_signed(srs, &s) ||
        span_ieq(s.host, srs->domain))
        return SRS_FORGED;
    if (!stamp_is_fresh(s.stamp, now))
        return SRS_EXPIRED;
    return add_mailbox(s.local, s.host, out) ? SRS_OK : SRS_FORGED;
}

static enum srs_fault
reverse_srs1(const struct srs *srs, struct span tail, msec_t now, struct strbuf *out)
{
    CLEANUP(strbuf_release) struct strbuf local = STRBUF_INIT;
    struct srs1 s;

    if (!srs1_split(tail, &s) || !srs1_is_signed(srs, &s) || span_ieq(s.host, srs->domain))
        return SRS_FORGED;
    if (!stamp_is_fresh(s.inner.stamp, now))
        return SRS_EXPIRED;
    strbuf_add_str(&local, "SRS0");
    strbuf_add_span(&local, s.tail);
    return add_mailbox(strbuf_span(&local), s.host, out) ? SRS_OK : SRS_FORGED;
}

enum srs_fault
srs_reverse(const struct srs *srs, const struct mailbox *rcpt, msec_t now, struct strbuf *out)
{
    CLEANUP(strbuf_release) struct strbuf local = STRBUF_INIT;
    struct span tail;

    assert(srs->n_secrets > 0);
    mailbox_local_plain(rcpt, &local);
    if (tag_take(strbuf_span(&local), "SRS0", &tail) && is_separator(tail))
        return reverse_srs0(srs, tail, now, out);
    if (tag_take(strbuf_span(&local), "SRS1", &tail) && is_separator(tail))
        return reverse_srs1(srs, tail, now, out);
    return SRS_NONE;
}
