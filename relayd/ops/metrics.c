/*
 * A family holds its series in the order they were made and finds them by their rendered labels,
 * {route="direct",class="none"}, which are also what the exposition prints.
 */
#include "relayd/ops/metrics.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "policy/base/map.h"
#include "policy/base/mem.h"
#include "relayd/ops/utf8.h"

#define FAMILIES_MAX 200
#define COLLECTORS_MAX 16

static const double default_bounds[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1,
                                        5,     10,    30,   60,   300, 600};

struct metric {
    struct metric_family *family;
    char *labels;                         /* rendered; "" without labels */
    uint64_t count;                       /* counters, and observations of a histogram */
    double value;                         /* gauges, and the sum of a histogram */
    uint64_t buckets[METRIC_BUCKETS_MAX]; /* of each bound alone, not cumulative */
};

struct metric_family {
    enum metric_kind kind;
    const char *name, *help;
    const char *labels[METRIC_LABELS_MAX];
    size_t n_labels;
    double bounds[METRIC_BUCKETS_MAX];
    size_t n_bounds;
    struct metric **series;
    size_t n_series, cap;
    struct map by_labels;
};

struct collector {
    void (*fn)(void *arg);
    void *arg;
};

struct metrics {
    struct metric_family *families[FAMILIES_MAX];
    size_t n_families;
    struct collector collectors[COLLECTORS_MAX];
    size_t n_collectors;
    struct map_seed seed;
};

struct metrics *
metrics_new(void)
{
    struct metrics *metrics = xcalloc(1, sizeof(*metrics));
    if (getrandom(&metrics->seed, sizeof(metrics->seed), 0) != sizeof(metrics->seed))
        abort(); /* 16 bytes never come short once the pool is ready */
    return metrics;
}

void
metrics_free(struct metrics *metrics)
{
    if (metrics == NULL)
        return;
    for (size_t i = 0; i < metrics->n_families; i++) {
        struct metric_family *family = metrics->families[i];
        metric_family_clear(family);
        map_release(&family->by_labels);
        free(family->series);
        free(family);
    }
    free(metrics);
}

static bool
is_name(const char *name)
{
    if (*name == '\0')
        return false;
    for (const char *p = name; *p != '\0'; p++)
        if (!(*p >= 'a' && *p <= 'z') && *p != '_' && (p == name || !ascii_digit(*p)))
            return false;
    return true;
}

static struct metric_family *
family_new(struct metrics *metrics, enum metric_kind kind, const char *name, const char *help,
           va_list labels)
{
    assert(metrics->n_families < FAMILIES_MAX);
    assert(is_name(name) && strncmp(name, "relayd_", 7) == 0);
    assert((kind == METRIC_COUNTER) == span_ends(span_str(name), SPAN("_total")));
    assert(strpbrk(help, "\n\\") == NULL);
    for (size_t i = 0; i < metrics->n_families; i++)
        assert(strcmp(metrics->families[i]->name, name) != 0);
    struct metric_family *family = xcalloc(1, sizeof(*family));
    family->kind = kind;
    family->name = name;
    family->help = help;
    for (const char *label; (label = va_arg(labels, const char *)) != NULL;) {
        assert(family->n_labels < METRIC_LABELS_MAX && is_name(label));
        family->labels[family->n_labels++] = label;
    }
    map_init(&family->by_labels, metrics->seed);
    metrics->families[metrics->n_families++] = family;
    return family;
}

static void
set_bounds(struct metric_family *family, const double *bounds, size_t n)
{
    assert(n > 0 && n <= METRIC_BUCKETS_MAX);
    for (size_t i = 1; i < n; i++)
        assert(bounds[i] > bounds[i - 1]);
    memcpy(family->bounds, bounds, n * sizeof(*bounds));
    family->n_bounds = n;
}

struct metric_family *
metrics_family(struct metrics *metrics, enum metric_kind kind, const char *name, const char *help,
               ...)
{
    va_list ap;
    va_start(ap, help);
    struct metric_family *family = family_new(metrics, kind, name, help, ap);
    va_end(ap);
    if (kind == METRIC_HISTOGRAM)
        set_bounds(family, default_bounds, N_ELEMENTS(default_bounds));
    return family;
}

struct metric_family *
metrics_histogram(struct metrics *metrics, const char *name, const char *help, const double *bounds,
                  size_t n_bounds, ...)
{
    va_list ap;
    va_start(ap, n_bounds);
    struct metric_family *family = family_new(metrics, METRIC_HISTOGRAM, name, help, ap);
    va_end(ap);
    set_bounds(family, bounds, n_bounds);
    return family;
}

/* The format knows \\, \" and \n; other characters that could trouble a terminal become U+FFFD. */
static void
add_label_value(struct strbuf *out, struct span value)
{
    size_t start = out->n;
    while (value.n > 0 && out->n - start < METRIC_LABEL_VALUE_MAX) {
        uint32_t cp;
        size_t n = utf8_next(value, &cp);
        if (n == 0 || (utf8_unsafe(cp) && cp != '\n'))
            strbuf_add(out, "\xef\xbf\xbd", 3);
        else if (cp == '\n')
            strbuf_add(out, "\\n", 2);
        else if (cp == '"' || cp == '\\')
            strbuf_printf(out, "\\%c", (int)cp);
        else
            strbuf_add(out, value.p, n);
        value = span_from(value, n == 0 ? 1 : n);
    }
}

static void
render_labels(const struct metric_family *family, const struct span *values, struct strbuf *out)
{
    for (size_t i = 0; i < family->n_labels; i++) {
        strbuf_add_byte(out, i == 0 ? '{' : ',');
        strbuf_add_str(out, family->labels[i]);
        strbuf_add_str(out, "=\"");
        add_label_value(out, values[i]);
        strbuf_add_byte(out, '"');
    }
    if (family->n_labels > 0)
        strbuf_add_byte(out, '}');
    strbuf_reserve(out, 0);
}

static struct metric *
series_add(struct metric_family *family, struct strbuf *labels)
{
    struct metric *m = xcalloc(1, sizeof(*m));
    if (family->n_series == family->cap) {
        family->cap = family->cap == 0 ? 4 : family->cap * 2;
        family->series = xrealloc(family->series, family->cap * sizeof(struct metric *));
    }
    m->family = family;
    size_t n = labels->n;
    m->labels = strbuf_take(labels);
    family->series[family->n_series++] = m;
    map_put(&family->by_labels, span_of(m->labels, n), m);
    return m;
}

struct metric *
metric_with_spans(struct metric_family *family, const struct span *values, size_t n_values)
{
    CLEANUP(strbuf_release) struct strbuf labels = STRBUF_INIT;
    assert(n_values == family->n_labels);
    render_labels(family, values, &labels);
    struct metric *m = map_get(&family->by_labels, strbuf_span(&labels));
    if (m != NULL)
        return m;
    if (family->n_series >= METRIC_SERIES_MAX) {
        struct span other[METRIC_LABELS_MAX];
        for (size_t i = 0; i < family->n_labels; i++)
            other[i] = SPAN("other");
        strbuf_reset(&labels);
        render_labels(family, other, &labels);
        m = map_get(&family->by_labels, strbuf_span(&labels));
        if (m != NULL)
            return m;
    }
    return series_add(family, &labels);
}

struct metric *
metric_with_strings(struct metric_family *family, const char *const *values, size_t n_values)
{
    struct span spans[METRIC_LABELS_MAX];
    assert(n_values <= METRIC_LABELS_MAX);
    for (size_t i = 0; i < n_values; i++)
        spans[i] = span_str(values[i]);
    return metric_with_spans(family, spans, n_values);
}

struct metric *
metric_only(struct metric_family *family)
{
    return metric_with_spans(family, NULL, 0);
}

void
metric_family_clear(struct metric_family *family)
{
    map_release(&family->by_labels);
    for (size_t i = 0; i < family->n_series; i++) {
        free(family->series[i]->labels);
        free(family->series[i]);
    }
    family->n_series = 0;
}

void
metric_inc(struct metric *m)
{
    metric_add(m, 1);
}

void
metric_add(struct metric *m, uint64_t n)
{
    if (m->family->kind == METRIC_GAUGE)
        m->value += (double)n;
    else
        m->count += n;
}

void
metric_set(struct metric *m, double value)
{
    assert(m->family->kind != METRIC_HISTOGRAM);
    if (m->family->kind == METRIC_GAUGE)
        m->value = value;
    else if (value > (double)m->count)
        m->count = (uint64_t)value;
}

void
metric_observe(struct metric *m, double value)
{
    const struct metric_family *family = m->family;
    assert(family->kind == METRIC_HISTOGRAM);
    m->count++;
    m->value += value;
    for (size_t i = 0; i < family->n_bounds; i++) {
        if (value <= family->bounds[i]) {
            m->buckets[i]++;
            return;
        }
    }
}

void
metric_observe_ms(struct metric *m, msec_t ms)
{
    metric_observe(m, (double)ms / 1000);
}

double
metric_value(const struct metric *m)
{
    return m->family->kind == METRIC_GAUGE ? m->value : (double)m->count;
}

void
metrics_on_collect(struct metrics *metrics, void (*fn)(void *arg), void *arg)
{
    assert(metrics->n_collectors < COLLECTORS_MAX);
    metrics->collectors[metrics->n_collectors++] = (struct collector){fn, arg};
}

static void
add_number(struct strbuf *out, double value)
{
    if (isnan(value))
        strbuf_add_str(out, "NaN");
    else if (isinf(value))
        strbuf_add_str(out, value > 0 ? "+Inf" : "-Inf");
    else if (value == floor(value) && fabs(value) < 1e15)
        strbuf_printf(out, "%.0f", value);
    else
        strbuf_printf(out, "%.12g", value);
}

static void
add_bucket(struct strbuf *out, const struct metric *m, const char *bound, uint64_t count)
{
    size_t n = strlen(m->labels);
    strbuf_printf(out, "%s_bucket", m->family->name);
    if (n == 0)
        strbuf_add_byte(out, '{');
    else
        strbuf_printf(out, "%.*s,", (int)n - 1, m->labels);
    strbuf_printf(out, "le=\"%s\"} %llu\n", bound, (unsigned long long)count);
}

static void
write_histogram(struct strbuf *out, const struct metric *m)
{
    const struct metric_family *family = m->family;
    uint64_t below = 0;
    for (size_t i = 0; i < family->n_bounds; i++) {
        char bound[32];
        below += m->buckets[i];
        snprintf(bound, sizeof(bound), "%.12g", family->bounds[i]);
        add_bucket(out, m, bound, below);
    }
    add_bucket(out, m, "+Inf", m->count);
    strbuf_printf(out, "%s_sum%s ", family->name, m->labels);
    add_number(out, m->value);
    strbuf_printf(out, "\n%s_count%s %llu\n", family->name, m->labels,
                  (unsigned long long)m->count);
}

static void
write_family(struct strbuf *out, const struct metric_family *family)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", family->name, family->help, family->name,
                  kinds[family->kind]);
    for (size_t i = 0; i < family->n_series; i++) {
        const struct metric *m = family->series[i];
        if (family->kind == METRIC_HISTOGRAM) {
            write_histogram(out, m);
        } else {
            strbuf_printf(out, "%s%s ", family->name, m->labels);
            if (family->kind == METRIC_COUNTER)
                strbuf_printf(out, "%llu", (unsigned long long)m->count);
            else
                add_number(out, m->value);
            strbuf_add_byte(out, '\n');
        }
    }
}

void
metrics_write(struct metrics *metrics, struct strbuf *out)
{
    for (size_t i = 0; i < metrics->n_collectors; i++)
        metrics->collectors[i].fn(metrics->collectors[i].arg);
    for (size_t i = 0; i < metrics->n_families; i++)
        write_family(out, metrics->families[i]);
}
