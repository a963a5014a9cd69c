/*
 * metrics - counters, gauges and histograms in the Prometheus text format.
 *
 * Single-threaded: the loop owns the registry. A series (one set of label values) is looked up
 * once and kept as a `struct metric *`; after that an event costs one increment.
 *
 *     struct metric_family *family = metrics_family(metrics, METRIC_COUNTER,
 *         "relayd_recipients_delivered_total", "Recipients delivered.", "route", "class", NULL);
 *     struct metric *direct = metric_with(family, "direct", "none");
 *     metric_inc(direct);
 *
 * Names follow the conventions of Prometheus: relayd_ first, base units (seconds, bytes), _total
 * for counters. This is asserted.
 */
#pragma once

#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <stddef.h>
#include <stdint.h>

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

#define METRIC_LABELS_MAX 4
#define METRIC_BUCKETS_MAX 20
#define METRIC_SERIES_MAX                                                     \
    2000 /* of a family: label values that come from outside (sites, classes) \
            cannot grow memory; further sets share one series whose values    \
            are all "other" */
#define METRIC_LABEL_VALUE_MAX 128 /* bytes; longer values are cut */

struct metrics;
struct metric_family;
struct metric;

struct metrics *metrics_new(void);
void metrics_free(struct metrics *metrics); /* frees families and series */

/*
 * Register a family. The label names follow `help`, ended by NULL; all are literals that outlive
 * the registry. Registering a name twice is asserted against. A histogram gets the default bucket
 * bounds, 1 ms to 10 m in seconds.
 */
struct metric_family *
metrics_family(struct metrics *metrics, enum metric_kind kind, const char *name, const char *help,
               ...) __attribute__((sentinel));
/* The same for a histogram with its own upper bounds (ascending; +Inf is added). Copied. */
struct metric_family *
metrics_histogram(struct metrics *metrics, const char *name, const char *help, const double *bounds,
                  size_t n_bounds, ...) __attribute__((sentinel));

/*
 * The series of `family` with these label values, made at the first call. The number of values is
 * the family's number of labels; each is copied. The handle lives until metric_family_clear() or
 * metrics_free(). metric_with() takes NUL-terminated strings, metric_with_spans() an array.
 */
struct metric *
metric_with_spans(struct metric_family *family, const struct span *values, size_t n_values);
#define metric_with(family, ...)                                      \
    metric_with_strings((family), (const char *const[]){__VA_ARGS__}, \
                        sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))
struct metric *
metric_with_strings(struct metric_family *family, const char *const *values, size_t n_values);
/* The only series of a family without labels. */
struct metric *metric_only(struct metric_family *family);

/* Drop every series of a family: for gauges that a collector fills anew (site states). */
void metric_family_clear(struct metric_family *family);

void metric_inc(struct metric *m);
void metric_add(struct metric *m, uint64_t n);
/* Gauges; and counters that are kept elsewhere and are copied here (they never go down there). */
void metric_set(struct metric *m, double value);
void metric_observe(struct metric *m, double value); /* histograms */
void metric_observe_ms(struct metric *m, msec_t ms); /* histograms in seconds */
/* The value of a counter or gauge, the count of a histogram. */
double metric_value(const struct metric *m);

/* Call fn(arg) before each exposition: it sets what is cheaper to read than to keep. */
void metrics_on_collect(struct metrics *metrics, void (*fn)(void *arg), void *arg);

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Append the whole exposition, families in order of registration. */
void metrics_write(struct metrics *metrics, struct strbuf *out);
