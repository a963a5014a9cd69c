/*
 * delivery - joins schedule's links to deliver's connections: builds the target from the settings,
 * a transaction from a message in hand (with a rewritten sender where SRS applies), feeds its body
 * from memory or from the queue, and turns what comes back into attempts.
 */
#pragma once

#include "relayd/deliver/deliver.h"
#include "relayd/relay.h"
#include "relayd/schedule/schedule.h"
#include "relayd/settings.h"

#define DELIVERY_IDLE_MS (10 * SECOND)
#define DELIVERY_IDLE_HOP_MS (60 * SECOND)
#define DELIVERY_SESSION_MS (5 * MINUTE)

struct delivery;
struct log;

struct delivery_env {
    struct loop *loop;
    struct log *log;
    struct store *store;
    void *arg;
    struct settings *(*settings_take)(void *arg);
    void (*settings_give)(void *arg, struct settings *settings);
    /* The outcomes of one transaction; its recipients are STAGE_RECORDING. */
    void (*attempted)(void *arg, struct attempt *attempts, size_t n);
};

struct delivery *delivery_new(const struct delivery_env *env);
/* Cut every connection, without a callback; reads of bodies may still come back. */
void delivery_stop(struct delivery *d);
/* Stopped, and every read has come back. */
void delivery_free(struct delivery *d);

/* As schedule_ops. */
void *
delivery_open(struct delivery *d, struct site_link *link, const struct schedule_target *target);
void delivery_send(void *conn, struct rcpt *const *rcpts, size_t n);
void delivery_quit(void *conn);
bool delivery_ready(void *conn);

/* Connections that are open or being opened, idle ones included. */
size_t delivery_connections(const struct delivery *d);
