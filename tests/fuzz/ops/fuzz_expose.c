/*
 * What strangers' words become in the metrics' text and on the status page: a label value cannot
 * end its line or its quotes, a word on the page cannot open a tag or end an attribute.
 */
#include "relayd/ops/api.h"
#include "relayd/ops/metrics.h"
#include "relayd/ops/page.h"
#include "relayd/ops/utf8.h"
#include "tests/fuzz/check.h"

static void
check_metrics(struct span value)
{
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    struct metrics *metrics = metrics_new();
    struct metric_family *family =
        metrics_family(metrics, METRIC_COUNTER, "relayd_fuzz_total", "Fuzz.", "a", NULL);
    size_t n_lines = 0;

    metric_inc(metric_with_spans(family, &value, 1));
    metrics_write(metrics, &out);
    for (struct span rest = strbuf_span(&out); rest.n > 0; n_lines++) {
        struct span line = span_cut(&rest, '\n');
        if (line.n > 0 && line.p[0] == '#')
            continue;
        CHECK(span_starts(line, SPAN("relayd_fuzz_total{a=\"")) && span_ends(line, SPAN("\"} 1")));
        line = span_first(span_from(line, 21), line.n - 21 - 4);
        for (size_t i = 0; i < line.n; i++) {
            CHECK(line.p[i] != '"');
            if (line.p[i] == '\\') {
                CHECK(++i < line.n && strchr("\\\"n", line.p[i]) != NULL && line.p[i] != '\0');
            }
        }
    }
    CHECK(n_lines == 3 && utf8_valid(strbuf_span(&out)));
    metrics_free(metrics);
}

static size_t
count(struct span text, char c)
{
    size_t n = 0;

    for (size_t i = 0; i < text.n; i++)
        n += text.p[i] == c;
    return n;
}

/* The page with the word in every place has the tags and quotes of the page with "x" there. */
static void
page(const char *word, struct strbuf *out)
{
    cJSON *status = cJSON_CreateObject(), *sites, *site;

    cJSON_AddStringToObject(status, "node", word);
    cJSON_AddStringToObject(status, "state", word);
    cJSON_AddStringToObject(status, "version", word);
    sites = cJSON_AddArrayToObject(status, "sites");
    site = cJSON_CreateObject();
    cJSON_AddStringToObject(site, "site", word);
    cJSON_AddStringToObject(site, "route", word);
    cJSON_AddStringToObject(site, "state", word);
    cJSON_AddStringToObject(site, "reason", word);
    cJSON_AddItemToArray(sites, site);
    cJSON *alerts = cJSON_AddArrayToObject(status, "alerts"), *alert = cJSON_CreateObject();
    cJSON_AddStringToObject(alert, "event", word);
    cJSON_AddStringToObject(alert, "text", word);
    cJSON_AddItemToArray(alerts, alert);
    page_status(status, out);
    cJSON_Delete(status);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    CLEANUP(freep) char *word = xstrndup((const char *)bytes, n);
    CLEANUP(strbuf_release) struct strbuf odd = STRBUF_INIT;
    CLEANUP(strbuf_release) struct strbuf plain = STRBUF_INIT;

    api_json_setup();
    check_metrics(span_of(copy, n));
    page(word, &odd);
    page("x", &plain);
    for (const char *c = "<>\"'"; *c != '\0'; c++)
        CHECK(count(strbuf_span(&odd), *c) == count(strbuf_span(&plain), *c));
    return 0;
}
