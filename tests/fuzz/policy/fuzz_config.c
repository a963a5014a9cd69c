/*
 * Any bytes as a configuration: it loads or is refused with at least one error, never anything
 * else. The input is the main file; a line "%%%" begins a second one (b.yaml, for includes),
 * another such line a list of domains (list.txt). What loads is asked for a route, and freed.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policy/config_load.h"
#include "policy/route.h"
#include "policy/trust.h"
#include "policy/base/mem.h"

struct input {
    struct span main, second, list;
};

static enum err_code
input_read(void *ctx, const char *path, size_t max, struct config_blob *ret, struct err *err)
{
    const struct input *in = ctx;
    struct span text;
    if (strcmp(path, "a.yaml") == 0)
        text = in->main;
    else if (strcmp(path, "b.yaml") == 0)
        text = in->second;
    else if (strcmp(path, "list.txt") == 0)
        text = in->list;
    else if (strncmp(path, "key", 3) == 0)
        text = SPAN("secret\n");
    else
        return err_set(err, ERR_NOT_FOUND, "No such file or directory");
    if (text.n > max)
        return err_set(err, ERR_LIMIT, "too long");
    *ret = (struct config_blob){xstrndup(text.p == NULL ? "" : text.p, text.n), text.n, 0600};
    return ERR_OK;
}

static enum err_code
input_glob(void *ctx, const char *pattern, void (*found)(void *arg, const char *path), void *arg,
           struct err *err)
{
    (void)ctx;
    (void)pattern;
    (void)err;
    found(arg, "b.yaml");
    return ERR_OK;
}

static void
no_step(void *arg, const struct route_step *step)
{
    size_t *n = arg;
    *n += strlen(step->why) > 0;
}

/* A decision that asks for facts is made once they are known; one that asks for none stays. */
static void
use_facts(const struct config *config, struct route_query query, const struct route_decision *bare)
{
    const char *const hosts[] = {"mx.b.example", "other.example"};
    const struct route_facts all[] = {
        {.mx = ROUTE_FACT_NONE, .country = ROUTE_FACT_NONE},
        {.mx = ROUTE_FACT_KNOWN,
         .hosts = hosts,
         .n_hosts = N_ELEMENTS(hosts),
         .country = ROUTE_FACT_KNOWN,
         .country_code = "US"},
    };
    if ((bare->action == ROUTE_FACTS) != (bare->needs != 0))
        abort();
    for (size_t i = 0; i < N_ELEMENTS(all); i++) {
        struct route_decision decided;
        query.facts = &all[i];
        route_decide(config, &query, &decided);
        if (decided.action == ROUTE_FACTS ||
            (bare->action != ROUTE_FACTS && decided.rule != bare->rule))
            abort();
    }
}

static void
use(const struct config *config)
{
    static const char *const rcpts[] = {"a@b.example", "\"x y\"@sub.b.example", "x@[192.0.2.1]"};
    for (size_t i = 0; i < N_ELEMENTS(rcpts); i++) {
        struct route_query query;
        struct route_decision decided, explained;
        char sender[DOMAIN_BUF], rcpt[DOMAIN_BUF];
        size_t n_steps = 0;
        if (route_query_set(&query, SPAN("s@s.example"), span_str(rcpts[i]), sender, rcpt, NULL) !=
            ERR_OK)
            abort();
        route_decide(config, &query, &decided);
        route_explain(config, &query, &explained, no_step, &n_steps);
        if (decided.rule != explained.rule || n_steps != config->n_rules)
            abort();
        if (decided.action == ROUTE_DELIVER && decided.n_routes == 0)
            abort();
        use_facts(config, query, &decided);
        for (size_t k = 0; k < decided.n_routes; k++)
            if (decided.routes[k] >= config->n_routes ||
                (decided.never_via >> decided.routes[k] & 1) != 0)
                abort();
    }
    struct trust_query peer = {.peer = {.family = 4, .bytes = {127, 0, 0, 1}}};
    struct trust_decision trust;
    if (trust_check(config, &peer, &trust) != (trust.entry != NULL))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct span mark = {"\n%%%\n", 5};
    struct input in = {.main = span_of(data, size)};
    size_t at = span_find(in.main, mark);
    if (at != SIZE_MAX) {
        in.second = span_from(in.main, at + mark.n);
        in.main = span_first(in.main, at + 1);
        at = span_find(in.second, mark);
        if (at != SIZE_MAX) {
            in.list = span_from(in.second, at + mark.n);
            in.second = span_first(in.second, at + 1);
        }
    }
    struct config_source source = {.ctx = &in, .read = input_read, .glob = input_glob};
    struct config_problems problems = {0};
    struct config *config = NULL;
    struct strbuf text = STRBUF_INIT;
    enum err_code code = config_load("a.yaml", &source, 0, &config, &problems);
    if ((code == ERR_OK) != (problems.n_errors == 0) || (code == ERR_OK) != (config != NULL))
        abort();
    for (size_t i = 0; i < problems.n; i++) {
        config_problem_format(&problems.items[i], &text);
        if (memchr(text.p, '\n', text.n) != NULL)
            abort(); /* a problem is one line */
        strbuf_reset(&text);
    }
    if (config != NULL)
        use(config);
    strbuf_release(&text);
    config_problems_release(&problems);
    config_free(config);
    return 0;
}
