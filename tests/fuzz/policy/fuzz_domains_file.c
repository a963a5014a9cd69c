/*
 * Any bytes as a domains_file: what is not a name is told with its line, what is one matches, and
 * the same file in other letters or order gives the same answers.
 */
#include "policy/base/domain.h"
#include "policy/config_load.h"
#include "policy/route.h"
#include "tests/fuzz/check.h"

static const char config_text[] = "node: {name: n, hostname: n.example, postmaster: p@n.example}\n"
                                  "hops:\n  us: {address: us.example, tls: off}\n"
                                  "transport_map:\n"
                                  "  - {domains_file: list.txt, route: us}\n"
                                  "  - {default: true, route: direct}\n";

static enum err_code
input_read(void *ctx, const char *path, size_t max, struct config_blob *ret, struct err *err)
{
    const struct span *list = ctx;
    struct span text = strcmp(path, "list.txt") == 0 ? *list : span_str(config_text);

    if (text.n > max)
        return err_set(err, ERR_LIMIT, "too long");
    *ret = (struct config_blob){xstrndup(text.p == NULL ? "" : text.p, text.n), text.n, 0600};
    return ERR_OK;
}

static bool
goes_to_us(const struct config *config, const char *name)
{
    CLEANUP(freep) char *address = xasprintf("x@%s", name);
    char sender[DOMAIN_BUF], rcpt[DOMAIN_BUF];
    struct route_query query;
    struct route_decision decided;

    CHECK(route_query_set(&query, SPAN("s@s.example"), span_str(address), sender, rcpt, NULL) ==
          ERR_OK);
    route_decide(config, &query, &decided);
    CHECK(decided.action == ROUTE_DELIVER);
    return decided.rule->no == 0;
}

/* Every line that holds a pattern is found again. */
static void
check_lines(const struct config *config, struct span text)
{
    if (span_starts(text, SPAN("\xef\xbb\xbf")))
        text = span_from(text, 3);
    while (text.n > 0) {
        struct span line = span_cut(&text, '\n');
        char name[DOMAIN_BUF];
        struct domain_pattern pattern;
        line = span_trim(span_cut(&line, '#'));
        if (line.n == 0)
            continue;
        CHECK(domain_pattern_parse(line, name, &pattern, NULL) == ERR_OK);
        if (!pattern.subdomains)
            CHECK(goes_to_us(config, pattern.name));
        if (strlen(pattern.name) + 2 <= DOMAIN_MAX && pattern.subdomains) {
            CLEANUP(freep) char *below = xasprintf("a.%s", pattern.name);
            CHECK(goes_to_us(config, below));
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    struct span list = span_of(copy, n);
    struct config_source source = {.ctx = &list, .read = input_read};
    struct config_problems problems = {.n = 0};
    struct config *config = NULL;

    enum err_code code = config_load("a.yaml", &source, 0, &config, &problems);
    CHECK((code == ERR_OK) == (problems.n_errors == 0));
    if (code == ERR_OK)
        check_lines(config, list);
    config_problems_release(&problems);
    config_free(config);
    return 0;
}
