/* Addresses and xtext under arbitrary bytes. First octet: what is admitted. */
#include "policy/base/mailbox.h"
#include "policy/base/mem.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

static void
check_parts(const struct mailbox *m, struct span text, unsigned admit)
{
    struct strbuf plain = STRBUF_INIT;

    CHECK(m->local.n <= MAILBOX_LOCAL_MAX && m->domain.n <= MAILBOX_DOMAIN_MAX);
    CHECK(m->local.n > 0 || (admit & MAILBOX_NULL) != 0);
    CHECK(m->domain.n > 0 || (admit & (MAILBOX_NULL | MAILBOX_POSTMASTER)) != 0);
    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        CHECK(c >= 32 && c != 127 && (c < 128 || m->utf8));
    }
    CHECK(!m->utf8 || (admit & MAILBOX_UTF8) != 0);
    CHECK(mailbox_utf8_valid(text));
    if (m->literal)
        CHECK(mailbox_literal(m).n > 0);
    mailbox_local_plain(m, &plain);
    CHECK(plain.n <= m->local.n);
    strbuf_release(&plain);
}

/* What was taken is taken again, alone and in brackets, and means the same. */
static void
check_again(const struct mailbox *m, struct span text, unsigned admit)
{
    struct strbuf path = STRBUF_INIT;
    struct mailbox again;
    size_t length;

    strbuf_add_byte(&path, '<');
    strbuf_add_span(&path, text);
    strbuf_add_str(&path, "> X=y");
    CHECK(mailbox_path_parse(strbuf_span(&path), admit, &again, &length) == MAILBOX_OK);
    CHECK(length == text.n + 2);
    CHECK(span_eq(again.local, m->local) && span_eq(again.domain, m->domain));
    strbuf_release(&path);
}

static void
check_xtext(struct span text)
{
    struct strbuf plain = STRBUF_INIT, coded = STRBUF_INIT, again = STRBUF_INIT;

    if (xtext_decode(text, &plain)) {
        for (size_t i = 0; i < plain.n; i++)
            CHECK((unsigned char)plain.p[i] >= 32 && plain.p[i] != 127);
        xtext_encode(strbuf_span(&plain), &coded);
        CHECK(xtext_decode(strbuf_span(&coded), &again));
        CHECK(span_eq(strbuf_span(&plain), strbuf_span(&again)));
    } else {
        CHECK(plain.n == 0);
    }
    strbuf_release(&plain);
    strbuf_release(&coded);
    strbuf_release(&again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct mailbox m;
    size_t length;

    if (n == 0)
        return 0;
    unsigned admit = bytes[0] & 7;
    CLEANUP(freep) char *copy = xmalloc(n); /* its own block: reads beyond are seen */
    memcpy(copy, bytes + 1, n - 1);
    struct span text = span_of(copy, n - 1);
    if (mailbox_parse(text, admit, &m) == MAILBOX_OK) {
        check_parts(&m, text, admit);
        check_again(&m, text, admit);
    }
    if (mailbox_path_parse(text, admit, &m, &length) == MAILBOX_OK) {
        CHECK(length >= 2 && length <= text.n && text.p[length - 1] == '>');
        check_parts(&m, span_of(text.p + 1, length - 2), admit);
    }
    check_xtext(text);
    return 0;
}
