/*
 * What labelled replies are classified as, class by class, and what one costs.
 * bench_classify [--wrong] FILE...: JSON lines with response, stage, class and reroute (yes, no,
 * maybe). --wrong also prints each reply that was classed or decided wrongly. Fails when a reply
 * that must not be rerouted was, or when a reply takes 20 us or more on average.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "policy/config_load.h"
#include "tests/unit/policy/replies.h"

#define REPLY_MAX_US 20

struct row {
    unsigned n, class_right, decision_right, wrongly_rerouted, missed;
};

static double
now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static struct classify_verdict
classify(struct classify_rules *rules, const struct labelled_reply *reply)
{
    return classify_text(rules, reply->response, reply->stage, SPAN_NONE);
}

static void
row_add(struct row *row, bool class_right, enum decision decision)
{
    row->n++;
    row->class_right += class_right;
    row->decision_right += decision == DECISION_RIGHT;
    row->wrongly_rerouted += decision == DECISION_WRONGLY_REROUTED;
    row->missed += decision == DECISION_MISSED;
}

static void
row_print(const char *name, const struct row *row)
{
    if (row->n > 0)
        printf("%-18s %7u  %5u %5.1f %%  %6u %5.1f %%  %16u  %15u\n", name, row->n,
               row->class_right, row->class_right * 100.0 / row->n, row->decision_right,
               row->decision_right * 100.0 / row->n, row->wrongly_rerouted, row->missed);
}

/* Print the table; returns how many were wrongly rerouted. */
static unsigned
judge(struct classify_rules *rules, const struct labelled_replies *replies, bool wrong)
{
    struct row rows[REPLY_CLASS__COUNT] = {0}, all = {0};
    for (size_t i = 0; i < replies->n; i++) {
        const struct labelled_reply *reply = &replies->items[i];
        struct classify_verdict verdict = classify(rules, reply);
        enum decision decision = decision_of(reply, &verdict);
        bool class_right = verdict.klass == reply->klass;
        row_add(&rows[reply->klass], class_right, decision);
        row_add(&all, class_right, decision);
        if (wrong && (!class_right || decision != DECISION_RIGHT))
            printf("%s%s by %s is %s %s: %.*s\n",
                   decision == DECISION_MISSED             ? "MISSED "
                   : decision == DECISION_WRONGLY_REROUTED ? "REROUTED "
                                                           : "",
                   reply_class_name(reply->klass), verdict.rule, reply_class_name(verdict.klass),
                   reply_action_name(verdict.action), SPAN_ARG(span_first(reply->response, 200)));
    }
    printf("%-18s %7s  %13s  %14s  %16s  %15s\n", "class", "replies", "class right",
           "decision right", "wrongly rerouted", "missed reroutes");
    for (int i = 0; i < REPLY_CLASS__COUNT; i++)
        row_print(reply_class_name((enum reply_class)i), &rows[i]);
    row_print("all", &all);
    return all.wrongly_rerouted;
}

static int
compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Seconds a reply: the best of some rounds over all replies, and the slowest reply's best. */
static double
measure(struct classify_rules *rules, const struct labelled_replies *replies)
{
    enum { ROUNDS = 40 };
    double best = 1e9, *each = xcalloc(replies->n, sizeof(*each));
    for (size_t i = 0; i < replies->n; i++)
        each[i] = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now();
        for (size_t i = 0; i < replies->n; i++)
            classify(rules, &replies->items[i]);
        double took = (now() - start) / (double)replies->n;
        best = took < best ? took : best;
        for (size_t i = 0; i < replies->n; i++) {
            start = now();
            classify(rules, &replies->items[i]);
            took = now() - start;
            each[i] = took < each[i] ? took : each[i];
        }
    }
    qsort(each, replies->n, sizeof(*each), compare);
    printf("reply_us %.2f\nreply_median_us %.2f\nreply_p99_us %.2f\nreply_max_us %.2f\n",
           best * 1e6, each[replies->n / 2] * 1e6, each[replies->n * 99 / 100] * 1e6,
           each[replies->n - 1] * 1e6);
    free(each);
    return best;
}

static struct classify_rules *
builtin_rules(void)
{
    struct classify_rules *rules = classify_rules_new();
    struct config_problems problems = {0};
    double start = now();
    if (!classify_rules_parse(rules, classify_builtin_text(), "replies.yaml", &problems))
        exit(1);
    printf("rules %zu\nload_ms %.1f\n", classify_rules_count(rules), (now() - start) * 1e3);
    config_problems_release(&problems);
    return rules;
}

int
main(int argc, char **argv)
{
    bool wrong = argc > 1 && strcmp(argv[1], "--wrong") == 0, slow = false;
    unsigned rerouted = 0;
    if (argc < 2 + wrong) {
        fprintf(stderr, "usage: bench_classify [--wrong] FILE...\n");
        return 2;
    }
    struct classify_rules *rules = builtin_rules();
    for (int i = 1 + wrong; i < argc; i++) {
        struct labelled_replies replies = labelled_replies_read(argv[i]);
        printf("%s:\n", strrchr(argv[i], '/') == NULL ? argv[i] : strrchr(argv[i], '/') + 1);
        if (replies.n > 0) {
            rerouted += judge(rules, &replies, wrong);
            slow |= measure(rules, &replies) * 1e6 >= REPLY_MAX_US;
        }
        labelled_replies_release(&replies);
    }
    classify_rules_free(rules);
#ifdef __OPTIMIZE__
    return rerouted > 0 || slow;
#else
    (void)slow;
    return rerouted > 0; /* the promise of time is about an optimised build */
#endif
}
