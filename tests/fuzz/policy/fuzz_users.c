/*
 * fuzz_users - any octets as a users file. What is taken must be what the file says: each name
 * found, no name twice, and the same text taken again without its comments.
 */
#include "policy/base/mem.h"
#include "policy/users.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

/* Append the lines that hold a user to `ret`; returns how many. */
static size_t
lines_of_users(const struct users *users, struct span text, struct strbuf *ret)
{
    size_t n = 0;

    while (text.n > 0) {
        struct span line = span_cut(&text, '\n'), name = line;
        if (line.n == 0 || line.p[0] == '#' || span_eq(line, SPAN("\r")))
            continue;
        name = span_cut(&line, ':');
        CHECK(users_name_valid(name) && users_has(users, name));
        strbuf_add_span(ret, name);
        strbuf_add_byte(ret, ':');
        strbuf_add_span(ret, line);
        strbuf_add_byte(ret, '\n');
        n++;
    }
    return n;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    CLEANUP(strbuf_release) struct strbuf plain = STRBUF_INIT;
    CLEANUP(freep) char *copy = xmalloc(n + 1); /* a block of its own: reads beyond are seen */
    struct users *users = NULL, *again = NULL;
    struct err err;

    if (n > 0)
        memcpy(copy, data, n);
    struct span text = span_of(copy, n);
    enum err_code code = users_parse(text, "users", &users, &err);
    if (code != ERR_OK) {
        CHECK(users == NULL && err.text[0] != '\0');
        return 0;
    }
    CHECK(lines_of_users(users, text, &plain) == users_count(users));
    CHECK(users_parse(strbuf_span(&plain), "users", &again, &err) == ERR_OK);
    CHECK(users_count(again) == users_count(users));
    users_free(again);
    users_free(users);
    return 0;
}
