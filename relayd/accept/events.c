/*
 * events - what the protocol core tells, as log lines, counters and marks against guessers. Called
 * by the core through smtpd_conf.event.
 */
#include "policy/config.h"
#include "relayd/accept/session.h"
#include "relayd/ops/log.h"

static void
begin_line(struct session *s, struct log_line *line, enum log_level level, const char *event)
{
    char ip[IP_TEXT_MAX];

    log_begin(s->accept->env.log, line, level, event);
    log_uint(line, "conn", s->no);
    log_cstr(line, "client", ip_format(&s->client.ip, ip));
    log_cstr(line, "listener", s->listener->config->text);
}

/* Refused recipients and messages matter to people; a wrong verb only to who looks for it. */
static void
log_refused(struct session *s, const struct smtpd_event *e)
{
    bool mail =
        strcmp(e->verb, "RCPT") == 0 || strcmp(e->verb, "MAIL") == 0 || strcmp(e->verb, "dot") == 0;
    enum log_level level = mail ? LOG_INFO : LOG_DEBUG;
    struct log_line line;

    if (!log_enabled(s->accept->env.log, level))
        return;
    begin_line(s, &line, level, "refused");
    log_cstr(&line, "phase", e->verb);
    if (e->sender.p != NULL)
        log_str(&line, "sender", e->sender);
    if (e->rcpt.n > 0)
        log_str(&line, "rcpt", e->rcpt);
    log_str(&line, "reply", e->text);
    log_bool(&line, "stranger", e->stranger);
    log_end(&line);
}

/* One fixed form, for programs that block guessers: event=auth_failed ... client=192.0.2.1 ... */
static void
log_auth(struct session *s, const struct smtpd_event *e, enum log_level level, const char *event)
{
    struct log_line line;

    begin_line(s, &line, level, event);
    log_cstr(&line, "mechanism", e->verb);
    log_str(&line, "user", e->user);
    log_str(&line, "reason", e->text);
    log_end(&line);
}

/* The only changes to a message that accept makes; intake's `received` line tells the rest. */
static void
log_changes(struct session *s, const struct smtpd_event *e)
{
    struct log_line line;

    if (e->body->newlines_fixed == 0 && e->body->lines_broken == 0)
        return;
    begin_line(s, &line, LOG_INFO, "normalised");
    log_str(&line, "sender", e->sender);
    log_uint(&line, "newlines", e->body->newlines_fixed);
    log_uint(&line, "lines_broken", e->body->lines_broken);
    log_str(&line, "reply", e->text);
    log_end(&line);
}

static void
on_auth_failed(struct session *s, const struct smtpd_event *e)
{
    struct accept *a = s->accept;

    a->stats.auth_failed++;
    log_auth(s, e, LOG_WARNING, "auth_failed");
    if (guard_failed(a->guard, &s->client.ip, clock_now(a->clock))) {
        struct log_line line;
        begin_line(s, &line, LOG_WARNING, "auth_throttled");
        log_ms(&line, "for", GUARD_BLOCK_MS);
        log_end(&line);
    }
}

void
session_event(void *arg, const struct smtpd_event *e)
{
    struct session *s = arg;
    struct accept_stats *stats = &s->accept->stats;

    switch (e->kind) {
    case SMTPD_EVENT_REFUSED:
        stats->messages_refused += strcmp(e->verb, "dot") == 0;
        stats->rcpts_refused += strcmp(e->verb, "RCPT") == 0 && e->rcpt.n > 0;
        stats->relay_denied += e->stranger;
        log_refused(s, e);
        break;
    case SMTPD_EVENT_ACCEPTED:
        stats->messages++;
        stats->bytes += e->body->size_bytes;
        log_changes(s, e);
        break;
    case SMTPD_EVENT_AUTH_OK:
        stats->auth_ok++;
        log_auth(s, e, LOG_INFO, "auth_ok");
        break;
    case SMTPD_EVENT_AUTH_FAILED:
        on_auth_failed(s, e);
        break;
    }
}
