/*
 * intake - takes a message from accept into the queue: header checks, our own fields, signatures,
 * one store operation. The sink of accept; the reply to the final dot is sent when it is durable.
 *
 *    begin ─▶ chunk* ─▶ end ─▶ sign ─▶ ADD ─▶ 250 and on to schedule
 *               │ beyond INTAKE_SMALL_MAX                 small: one buffer, one operation
 *               └─▶ CHUNK* ─▶ end ─▶ sign ─▶ ADD_BIG     big: at most two pieces in memory
 */
#pragma once

#include "policy/base/msec.h"
#include "relayd/accept/accept.h"
#include "relayd/relay.h"
#include "relayd/settings.h"

#define INTAKE_SMALL_MAX ((size_t)256 << 10) /* bodies up to this stay in memory until stored */
#define INTAKE_CREDIT_MS (5 * SECOND)        /* how long MAIL waits for room before 452 4.3.1 */

struct intake;
struct log;
struct store;
struct workers;

struct intake_env {
    struct loop *loop;
    struct log *log;
    struct store *store;
    struct queue *queue;
    struct workers *workers;
    void *arg;
    /* The settings in force, held until given back. */
    struct settings *(*settings_take)(void *arg);
    void (*settings_give)(void *arg, struct settings *settings);
    /* Has a header with this fingerprint crashed us before? */
    bool (*poison)(void *arg, uint64_t print);
    /* A message is durable: it and its recipients are the callee's now. */
    void (*stored)(void *arg, struct msg *msg, struct msg_body *body, struct rcpt *const *rcpts,
                   size_t n_rcpts);
};

struct intake_numbers {
    uint64_t messages, bytes, refused, full, failed, signatures, unsigned_by_form;
    size_t open; /* under way */
};

/* The sink exists before the queue is open (listeners are bound as root); it takes messages only
 * after intake_start(). */
struct intake *intake_new(void);
void intake_start(struct intake *intake, const struct intake_env *env);
/* No message is under way any more. */
void intake_free(struct intake *intake);
/* For accept_env.sink; sink_arg is the intake. */
const struct accept_sink *intake_sink(void);
void intake_numbers(const struct intake *intake, struct intake_numbers *ret);
