/*
 * record - turns outcomes into facts: what is stored, logged, counted, and who is told.
 *
 *   attempts ─▶ classify ─▶ another route open? ─▶ reroute (nothing is stored)
 *                  │ no
 *                  ├─ delivered ─▶ FINISH
 *                  ├─ deferred ──▶ DEFER at the next moment of the schedule
 *                  └─ failed, or expired ─▶ FINISH and a notice to the sender
 *                            all of one transaction: one operation, notices in the same commit
 *
 * The single way back into the store. A recipient stays in hand until its operation is done.
 */
#pragma once

#include "relayd/net/loop.h"
#include "relayd/relay.h"
#include "relayd/settings.h"
#include "relayd/store/store.h"

struct log;
struct metrics;
struct record;
struct workers;

struct record_env {
    struct loop *loop;
    struct log *log;
    struct metrics *metrics;
    struct store *store;
    struct queue *queue;
    struct workers *workers;
    void *arg;
    struct settings *(*settings_take)(void *arg);
    void (*settings_give)(void *arg, struct settings *settings);
    /* Its route failed this recipient, by a refusal or on the path: is it on its way by another? */
    enum rerouted (*reroute)(void *arg, struct rcpt *rcpt, const struct reroute *why);
    /* Its route took this recipient; said before anything is stored. */
    void (*delivered)(void *arg, struct rcpt *rcpt);
    /* A refusal named our address: true when it is on its way to the other family's of the same
     * hosts. */
    bool (*other_family)(void *arg, struct rcpt *rcpt, uint8_t family,
                         const struct outcome *refusal);
    /* After how long of nothing but 4xx its rule gives it to the next route; 0: never. */
    msec_t (*fallback_after)(void *arg, const struct rcpt *rcpt);
    /* It is not; has one of its routes not refused it in this attempt? */
    bool (*route_left)(void *arg, const struct rcpt *rcpt);
    /* When the hop that failed it is probed next; 0: it is no hop, or up. */
    msec_t (*probe_at)(void *arg, const struct rcpt *rcpt);
    /* The site says that we are too fast. */
    void (*slow)(void *arg, const struct rcpt *rcpt);
    /* The queue has stored the recipient's fate. */
    void (*recorded)(void *arg, struct rcpt *rcpt, enum rcpt_fate fate, msec_t due_at,
                     uint64_t txn);
    /* A notice of ours is durable: to be scheduled like any message. */
    void (*stored)(void *arg, struct msg *msg, struct msg_body *body, struct rcpt *const *rcpts,
                   size_t n_rcpts);
};

struct record *record_new(const struct record_env *env);
void record_free(struct record *r);

/* The outcomes of one message's recipients (all STAGE_RECORDING) in one transaction. */
void record_attempts(struct record *r, struct attempt *attempts, size_t n);
/* A rule, or damage, says that this recipient (STAGE_RECORDING) is to be held. */
void record_hold(struct record *r, struct rcpt *rcpt, struct span reason);
/* The route that the administrator wants first, kept in the attempt record; empty: none. */
struct span record_wanted_route(const struct rcpt *rcpt);
/* Could another route cure this failure of all hosts of a site? */
bool record_curable(struct record *r, const struct outcome *o, const char *host);
/* Has its expiry, or a delay notice to its sender, fallen due? */
bool record_overdue(struct record *r, const struct rcpt *rcpt);
/* How many attempts ended how, since the start. */
struct record_numbers {
    uint64_t delivered, deferred, failed, rerouted;
};
void record_numbers(const struct record *r, struct record_numbers *ret);
/* When a message expires, by the settings in force. */
msec_t record_expires_at(struct record *r, const struct queue_msg *q);
