/*
 * replies - labelled SMTP replies out of a file of JSON lines, for the test and the benchmark of
 * the classifier: response, stage, class, and reroute (yes, no, maybe: would the same message
 * plausibly be taken from another address). tests/data/replies-open.jsonl is one: public texts,
 * each with the place where it was found in `source`.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/classify.h"
#include "policy/config_node.h"

enum reroute { REROUTE_NO, REROUTE_MAYBE, REROUTE_YES };

struct labelled_reply {
    struct span response;
    enum reply_stage stage;
    enum reply_class klass;
    enum reroute reroute;
};

struct labelled_replies {
    struct arena *arena; /* holds the texts */
    struct labelled_reply *items;
    size_t n;
};

/* What a verdict did with the one decision that counts: another route, or not. */
enum decision { DECISION_RIGHT, DECISION_WRONGLY_REROUTED, DECISION_MISSED };

static inline enum decision
decision_of(const struct labelled_reply *reply, const struct classify_verdict *verdict)
{
    bool rerouted = verdict->action == REPLY_ACTION_REROUTE;
    return rerouted && reply->reroute == REROUTE_NO     ? DECISION_WRONGLY_REROUTED
           : !rerouted && reply->reroute == REROUTE_YES ? DECISION_MISSED
                                                        : DECISION_RIGHT;
}

static inline struct span
member(const struct config_node *object, const char *key)
{
    const struct config_node *node = config_node_get(object, key);
    return node == NULL ? SPAN_NONE : node->text;
}

static inline bool
labelled_reply_read(struct arena *arena, struct span line, struct labelled_reply *ret)
{
    struct config_problems problems = {0};
    const struct config_node *object = config_parse(arena, "replies", line, &problems);
    struct span stage = member(object, "stage"), reroute = member(object, "reroute");
    config_problems_release(&problems);
    ret->response = member(object, "response");
    ret->stage = REPLY_STAGE_UNKNOWN;
    ret->reroute = span_eq(reroute, SPAN("yes"))  ? REROUTE_YES
                   : span_eq(reroute, SPAN("no")) ? REROUTE_NO
                                                  : REROUTE_MAYBE;
    return ret->response.p != NULL && reply_class_parse(member(object, "class"), &ret->klass) &&
           (stage.n == 0 || reply_stage_parse(stage, &ret->stage));
}

/* All replies of a file; ends the program with what is wrong. */
static inline struct labelled_replies
labelled_replies_read(const char *path)
{
    struct labelled_replies replies = {.arena = arena_new()};
    char *line = NULL;
    size_t cap = 0, number = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    for (ssize_t n; (n = getline(&line, &cap, file)) > 0;) {
        struct span text = span_trim(span_of(line, (size_t)n));
        number++;
        if (text.n == 0)
            continue;
        replies.items = xrealloc(replies.items, (replies.n + 1) * sizeof(replies.items[0]));
        if (!labelled_reply_read(replies.arena, text, &replies.items[replies.n++])) {
            fprintf(stderr, "%s:%zu: not a labelled reply\n", path, number);
            exit(1);
        }
    }
    free(line);
    fclose(file);
    return replies;
}

static inline void
labelled_replies_release(struct labelled_replies *replies)
{
    arena_free(replies->arena);
    free(replies->items);
}
