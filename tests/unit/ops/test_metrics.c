#include "relayd/ops/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "policy/base/mem.h"

static char *
written(struct metrics *metrics)
{
    struct strbuf out = STRBUF_INIT;
    metrics_write(metrics, &out);
    return strbuf_take(&out);
}

static void
counters_and_gauges_are_written_with_help_and_type(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct metric_family *delivered =
        metrics_family(metrics, METRIC_COUNTER, "relayd_recipients_delivered_total",
                       "Recipients delivered.", "route", "class", NULL);
    struct metric_family *queued = metrics_family(metrics, METRIC_GAUGE, "relayd_queue_recipients",
                                                  "Recipients waiting.", NULL);
    struct metric *direct = metric_with(delivered, "direct", "none");
    metric_inc(direct);
    metric_add(direct, 41);
    metric_inc(metric_with(delivered, "us", "none"));
    metric_set(metric_only(queued), 1.5);
    CLEANUP(freep) char *text = written(metrics);
    assert_string_equal(text,
                        "# HELP relayd_recipients_delivered_total Recipients delivered.\n"
                        "# TYPE relayd_recipients_delivered_total counter\n"
                        "relayd_recipients_delivered_total{route=\"direct\",class=\"none\"} 42\n"
                        "relayd_recipients_delivered_total{route=\"us\",class=\"none\"} 1\n"
                        "# HELP relayd_queue_recipients Recipients waiting.\n"
                        "# TYPE relayd_queue_recipients gauge\n"
                        "relayd_queue_recipients 1.5\n");
    metrics_free(metrics);
}

static void
a_series_is_made_once(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct metric_family *family =
        metrics_family(metrics, METRIC_COUNTER, "relayd_x_total", "X.", "a", NULL);
    struct metric *first = metric_with(family, "1");
    assert_ptr_equal(metric_with(family, "1"), first);
    assert_ptr_not_equal(metric_with(family, "2"), first);
    metric_inc(first);
    assert_true(metric_value(first) == 1);
    metrics_free(metrics);
}

static void
label_values_from_outside_are_escaped(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct metric_family *family =
        metrics_family(metrics, METRIC_COUNTER, "relayd_x_total", "X.", "site", NULL);
    struct span evil = SPAN("a\"} 1\nrelayd_y 2\\\x1b\xff\xe4\xb8\xad");
    metric_inc(metric_with_spans(family, &evil, 1));
    CLEANUP(freep) char *text = written(metrics);
    assert_non_null(strstr(text, "relayd_x_total{site=\"a\\\"} 1\\nrelayd_y 2\\\\\xef\xbf\xbd"
                                 "\xef\xbf\xbd\xe4\xb8\xad\"} 1\n"));
    metrics_free(metrics);
}

static void
a_histogram_is_cumulative_with_sum_and_count(void **state)
{
    (void)state;
    static const double bounds[] = {0.5, 1, 10};
    struct metrics *metrics = metrics_new();
    struct metric *m = metric_only(metrics_histogram(metrics, "relayd_commit_seconds", "Commits.",
                                                     bounds, N_ELEMENTS(bounds), NULL));
    metric_observe_ms(m, 250);
    metric_observe_ms(m, 1000); /* on a bound: inside it */
    metric_observe_ms(m, 20000);
    CLEANUP(freep) char *text = written(metrics);
    assert_string_equal(text, "# HELP relayd_commit_seconds Commits.\n"
                              "# TYPE relayd_commit_seconds histogram\n"
                              "relayd_commit_seconds_bucket{le=\"0.5\"} 1\n"
                              "relayd_commit_seconds_bucket{le=\"1\"} 2\n"
                              "relayd_commit_seconds_bucket{le=\"10\"} 2\n"
                              "relayd_commit_seconds_bucket{le=\"+Inf\"} 3\n"
                              "relayd_commit_seconds_sum 21.25\n"
                              "relayd_commit_seconds_count 3\n");
    metrics_free(metrics);
}

static void
a_labelled_histogram_keeps_its_labels_before_le(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct metric_family *family =
        metrics_family(metrics, METRIC_HISTOGRAM, "relayd_delay_seconds", "D.", "route", NULL);
    metric_observe(metric_with(family, "us"), 0.02);
    CLEANUP(freep) char *text = written(metrics);
    assert_non_null(strstr(text, "relayd_delay_seconds_bucket{route=\"us\",le=\"0.05\"} 1\n"));
    assert_non_null(strstr(text, "relayd_delay_seconds_bucket{route=\"us\",le=\"0.01\"} 0\n"));
    assert_non_null(strstr(text, "relayd_delay_seconds_count{route=\"us\"} 1\n"));
    metrics_free(metrics);
}

static void
a_family_cannot_grow_without_bound(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct metric_family *family =
        metrics_family(metrics, METRIC_COUNTER, "relayd_x_total", "X.", "site", NULL);
    for (int i = 0; i < METRIC_SERIES_MAX + 500; i++) {
        char site[32];
        snprintf(site, sizeof(site), "site%d", i);
        metric_inc(metric_with(family, site));
    }
    assert_true(metric_value(metric_with(family, "site7")) == 1);
    assert_true(metric_value(metric_with(family, "other")) == 500);
    metrics_free(metrics);
}

static void
a_mirrored_counter_never_goes_down(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct metric *m = metric_only(
        metrics_family(metrics, METRIC_COUNTER, "relayd_log_dropped_total", "Lines.", NULL));
    metric_set(m, 7);
    metric_set(m, 5);
    assert_true(metric_value(m) == 7);
    metrics_free(metrics);
}

struct sites {
    struct metric_family *family;
    const char *name;
};

static void
collect_sites(void *arg)
{
    struct sites *sites = arg;
    metric_family_clear(sites->family);
    metric_set(metric_with(sites->family, sites->name), 1);
}

static void
a_collector_fills_a_family_anew_at_each_exposition(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_new();
    struct sites sites = {
        metrics_family(metrics, METRIC_GAUGE, "relayd_site_down", "Down.", "site", NULL), "a"};
    metrics_on_collect(metrics, collect_sites, &sites);
    CLEANUP(freep) char *first = written(metrics);
    sites.name = "b";
    CLEANUP(freep) char *second = written(metrics);
    assert_non_null(strstr(first, "{site=\"a\"} 1"));
    assert_null(strstr(second, "{site=\"a\"}"));
    assert_non_null(strstr(second, "{site=\"b\"} 1"));
    metrics_free(metrics);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counters_and_gauges_are_written_with_help_and_type),
        cmocka_unit_test(a_series_is_made_once),
        cmocka_unit_test(label_values_from_outside_are_escaped),
        cmocka_unit_test(a_histogram_is_cumulative_with_sum_and_count),
        cmocka_unit_test(a_labelled_histogram_keeps_its_labels_before_le),
        cmocka_unit_test(a_family_cannot_grow_without_bound),
        cmocka_unit_test(a_mirrored_counter_never_goes_down),
        cmocka_unit_test(a_collector_fills_a_family_anew_at_each_exposition),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
