/*
 * link - one connection of a site as schedule sees it: from the look-up of its addresses to its
 * end, and the message it carries. Called by pump.c.
 *
 *    RESOLVING ─▶ OPENING ─▶ READY ─▶ LOADING ─▶ BUSY ─┐
 *        │ no address │ failed  ▲      (from the queue) │
 *        ▼            ▼         └───────────────────────┘      closed at any state: gone
 *      gone         gone
 */
#include "relayd/schedule/internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"

/* ---- links ---- */

void
link_free(struct site_link *link)
{
    struct site *site = link->site;
    struct schedule *s = site->schedule;

    *link->prev = link->next;
    if (link->next != NULL)
        link->next->prev = link->prev;
    site->n_links--;
    s->n_links--;
    free(link);
    pump_slots(s);
}

static struct site_link *
link_new(struct site *site)
{
    struct site_link *link = xcalloc(1, sizeof(*link));
    link->site = site;
    link->next = site->links;
    link->prev = &site->links;
    if (link->next != NULL)
        link->next->prev = &link->next;
    site->links = link;
    site->n_links++;
    site->n_open++;
    site->schedule->n_links++;
    return link;
}

const char *
schedule_link_site(const struct site_link *link)
{
    return link->site->name;
}

const char *
schedule_link_route(const struct site_link *link)
{
    return link->site->route;
}

bool
schedule_link_is_hop(const struct site_link *link)
{
    return site_hop(link->site) != NULL;
}

/* Could the first one who waits here go another way? */
static bool
has_fallback(const struct site *site)
{
    struct route_decision d;
    const struct rcpt *rcpt = site->ready;
    if (rcpt == NULL)
        return false;
    struct route_query query;
    plan_query(rcpt, &query);
    route_decide(site->schedule->config, &query, &d);
    return d.action == ROUTE_DELIVER && d.n_routes > 1;
}

static void
on_endpoints(void *arg, const struct facts_endpoints *endpoints)
{
    struct site_link *link = arg;
    struct site *site = link->site;
    struct schedule *s = site->schedule;

    link->facts = NULL;
    if (!endpoints->ok) {
        schedule_link_failed(link, &endpoints->outcome);
        return;
    }
    const struct schedule_target target = {
        .route = site->route,
        .hop = site_hop(site),
        .site = site->name,
        .tls = site->tls,
        .has_fallback = has_fallback(site),
        .max_messages = site_shape(site).max_messages_per_connection,
        .endpoints = endpoints,
    };
    link->state = LINK_OPENING;
    link->conn = s->env.ops->open(s->env.arg, link, &target);
}

void
link_open(struct site *site)
{
    struct schedule *s = site->schedule;
    const struct hop *hop = site_hop(site);
    struct site_link *link = link_new(site);

    link->state = LINK_RESOLVING;
    if (hop != NULL)
        link->facts = facts_hop_start(s->env.facts, hop, site->port, on_endpoints, link);
    else
        link->facts = facts_direct_start(s->env.facts, site->domain, on_endpoints, link);
}

/* ---- transactions ---- */

size_t
site_take_group(struct site *site, struct rcpt *ret[LINK_RCPTS_MAX])
{
    size_t n = 0;
    struct msg *msg = site->ready->msg;
    for (struct rcpt *rcpt = msg->rcpts; rcpt != NULL && n < LINK_RCPTS_MAX;
         rcpt = rcpt->next_of_msg) {
        if (rcpt->stage != STAGE_READY || rcpt->site != site)
            continue;
        site_remove(site, rcpt);
        ret[n++] = rcpt;
    }
    assert(n > 0);
    return n;
}

/* The message is here, but the connection went on its way while it was being read. */
static void
link_unsend(struct site_link *link)
{
    struct site *site = link->site;
    size_t n = link->n_rcpts;

    link->n_rcpts = 0;
    site->n_busy--;
    for (size_t i = 0; i < n; i++) {
        rcpt_set_site(link->rcpts[i], NULL);
        plan_rcpt(site->schedule, link->rcpts[i]);
    }
}

static void
link_send(struct site_link *link)
{
    struct schedule *s = link->site->schedule;
    link->state = LINK_BUSY;
    s->env.ops->send(s->env.arg, link->conn, link->rcpts, link->n_rcpts);
}

struct load {
    struct store_read read;
    struct site_link *link;
};

/* The message can't be read: hold it where it is, or forget it when it is gone. */
static void
load_failed(struct site_link *link, const struct store_read *read)
{
    struct schedule *s = link->site->schedule;
    bool gone = read->code == ERR_NOT_FOUND;

    if (!gone)
        log_alert(s->env.log, "queue_damaged", "%s: %s", link->rcpts[0]->msg->id_text,
                  read->err.text);
    for (size_t i = 0; i < link->n_rcpts; i++) {
        struct rcpt *rcpt = link->rcpts[i];
        rcpt->stage = STAGE_RECORDING;
        s->n_recording++;
        if (gone)
            schedule_recorded(s, rcpt, FATE_CHANGED, 0, read->txn_id);
        else
            s->env.ops->hold(s->env.arg, rcpt, span_str(read->err.text));
    }
    link->n_rcpts = 0;
    link->site->n_busy--;
}

static void
take_mail(struct schedule *s, struct msg *msg, const struct queue_mail *mail)
{
    if (!msg->loaded)
        msg_load(msg, &mail->msg);
    if (msg->body != NULL || mail->msg.flags & QUEUE_MSG_CHUNKED)
        return;
    struct msg_body *body = xmalloc(sizeof(*body) + mail->msg.body.n);
    body->n = mail->msg.body.n;
    if (body->n > 0)
        memcpy(body->bytes, mail->msg.body.p, body->n);
    hand_set_body(&s->hand, msg, body, clock_now(s->clock));
}

static void
load_done(struct store_read *read)
{
    struct load *load = CONTAINER_OF(read, struct load, read);
    struct site_link *link = load->link;
    struct site *site = link->site;
    struct schedule *s = site->schedule;
    bool dead = link->state == LINK_DEAD;

    if (s->stopped) {
        if (read->code == ERR_OK)
            queue_mail_release(&read->mail.mail);
        free(load);
        return;
    }
    if (read->code != ERR_OK) {
        load_failed(link, read);
    } else {
        take_mail(s, link->rcpts[0]->msg, &read->mail.mail);
        queue_mail_release(&read->mail.mail);
        if (!dead && s->env.ops->ready(s->env.arg, link->conn)) {
            free(load);
            link_send(link);
            return;
        }
        link_unsend(link);
    }
    free(load);
    if (dead) {
        link_free(link);
    } else {
        link->state = LINK_READY;
    }
    site_pump(site);
    pump_drained(s);
}

void
link_begin(struct site_link *link)
{
    struct site *site = link->site;
    struct schedule *s = site->schedule;

    link->n_rcpts = site_take_group(site, link->rcpts);
    for (size_t i = 0; i < link->n_rcpts; i++)
        link->rcpts[i]->stage = STAGE_BUSY;
    site->n_busy++;
    site->used_at = clock_now(s->clock);
    if (link->rcpts[0]->msg->loaded) {
        link_send(link);
        return;
    }
    struct load *load = xcalloc(1, sizeof(*load));
    load->link = link;
    load->read.kind = STORE_READ_MAIL;
    load->read.done = load_done;
    load->read.mail.id = link->rcpts[0]->key.id;
    link->state = LINK_LOADING;
    store_read(s->env.store, &load->read);
}
