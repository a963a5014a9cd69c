/* Domain names and patterns: the canonical form of a canonical name is itself. */
#include "policy/base/domain.h"
#include "tests/fuzz/check.h"

static void
check_canonical(const char *name)
{
    struct span s = span_str(name);
    char again[DOMAIN_BUF];

    CHECK(s.n > 0 && s.n <= DOMAIN_MAX && s.p[s.n - 1] != '.');
    for (size_t label = 0, i = 0; i <= s.n; i++) {
        if (i == s.n || s.p[i] == '.') {
            CHECK(i - label >= 1 && i - label <= 63);
            CHECK(s.p[label] != '-' && s.p[i - 1] != '-');
            label = i + 1;
        } else {
            CHECK((s.p[i] >= 'a' && s.p[i] <= 'z') || ascii_digit(s.p[i]) || s.p[i] == '-' ||
                  s.p[i] == '_');
        }
    }
    CHECK(domain_normalise(s, again, NULL) == ERR_OK && strcmp(again, name) == 0);
    CHECK(domain_valid_host(s));
    struct span parent = domain_parent(s);
    CHECK(parent.n == 0 || domain_is_under(s, parent));
    CHECK(!domain_is_under(s, s));
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    struct span text = span_of(copy, n);
    char name[DOMAIN_BUF];
    struct domain_pattern pattern;
    struct err err = {.text = ""};

    if (domain_normalise(text, name, &err) == ERR_OK)
        check_canonical(name);
    else
        CHECK(err.text[0] != '\0' && fuzz_is_printable(span_str(err.text)));
    if (domain_pattern_parse(text, name, &pattern, NULL) == ERR_OK) {
        CHECK(pattern.name >= name && pattern.name < name + DOMAIN_BUF);
        check_canonical(pattern.name);
        CHECK(domain_pattern_matches(&pattern, span_str(pattern.name)) != pattern.subdomains);
    }
    if (domain_valid_host(text) && memchr(text.p, '_', text.n) == NULL)
        CHECK(domain_normalise(text, name, NULL) == ERR_OK && span_ieq(text, span_str(name)));
    return 0;
}
