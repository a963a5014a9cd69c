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
#include "relayd/message.h"
#include "relayd/ops/log.h"

/* ---- links ---- */

/* The only place where a state changes: counts and the list of idle ones go with it. */
static void
set_state(struct site_link *link, enum link_state state)
{
    struct site *site = link->site;
    struct schedule *s = site->schedule;
    enum link_state old = link->state;

    assert(old != state);
    if (old == LINK_RESOLVING || old == LINK_OPENING)
        site->n_open--;
    if (state == LINK_RESOLVING || state == LINK_OPENING)
        site->n_open++;
    if (old == LINK_READY) {
        *link->idle_prev = link->idle_next;
        if (link->idle_next != NULL)
            link->idle_next->idle_prev = link->idle_prev;
        else
            s->idle_tail = link->idle_prev;
    }
    if (state == LINK_READY) {
        link->idle_next = NULL;
        link->idle_prev = s->idle_tail;
        *s->idle_tail = link;
        s->idle_tail = &link->idle_next;
    }
    link->state = state;
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
    site->schedule->n_links++;
    site->schedule->n_unproven += !site->proven;
    set_state(link, LINK_RESOLVING);
    return link;
}

void
link_met_free(struct link_met *met)
{
    if (met == NULL)
        return;
    free(met->peer);
    free(met->host);
    free(met);
}

void
link_free(struct site_link *link)
{
    struct site *site = link->site;

    if (link->state != LINK_DEAD)
        set_state(link, LINK_DEAD);
    assert(link->n_rcpts == 0);
    *link->prev = link->next;
    if (link->next != NULL)
        link->next->prev = link->prev;
    site->n_links--;
    site->schedule->n_links--;
    site->schedule->n_unproven -= !site->proven;
    facts_cancel(link->facts);
    free(link->domain);
    link_met_free(link->met);
    free(link);
}

void
link_ready(struct site_link *link)
{
    assert(link->state == LINK_OPENING || (link->state == LINK_BUSY && link->n_rcpts == 0));
    set_state(link, LINK_READY);
}

void
link_died(struct site_link *link)
{
    assert(link->state == LINK_LOADING);
    set_state(link, LINK_DEAD);
}

void
link_quit(struct site_link *link)
{
    struct schedule *s = link->site->schedule;

    switch (link->state) {
    case LINK_RESOLVING:
        link_free(link);
        break;
    case LINK_OPENING:
    case LINK_READY:
        set_state(link, LINK_CLOSING);
        s->env.ops->quit(s->env.arg, link->conn);
        break;
    case LINK_LOADING:
    case LINK_BUSY:
        s->env.ops->quit(s->env.arg, link->conn);
        break;
    case LINK_NEW:
    case LINK_CLOSING:
    case LINK_DEAD:
        break;
    }
}

void
links_quit(struct site *site)
{
    for (struct site_link *link = site->links, *next; link != NULL; link = next) {
        next = link->next;
        link_quit(link);
    }
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

/* Could the first one who waits here go another way? */
static bool
has_fallback(const struct site *site)
{
    struct ways ways;
    plan_ways(site->schedule, site->ready, &ways);
    return ways.n > 1;
}

/* Not needed after all. */
static void
link_drop(struct site_link *link)
{
    struct site *site = link->site;
    link_free(link);
    pump_slots(site->schedule);
    site_pump(site);
}

/* Those of one family; none: `ret->outcome` says so. */
static void
keep_family(const struct facts_endpoints *all, const struct site *site,
            struct facts_endpoint list[static FACTS_ENDPOINTS_MAX], struct facts_endpoints *ret)
{
    *ret = (struct facts_endpoints){.list = list, .key = all->key, .more = all->more};
    for (size_t i = 0; i < all->n && ret->n < FACTS_ENDPOINTS_MAX; i++)
        if (all->list[i].ip.family == site->family)
            list[ret->n++] = all->list[i];
    ret->ok = ret->n > 0;
    if (ret->ok)
        return;
    outcome_set(&ret->outcome, OUTCOME_DEFERRED, ORIGIN_DNS, "dns", "4.4.3",
                "no IPv%u address of %s is left", site->family, site->name);
    ret->outcome.path = true;
}

static void
on_endpoints(void *arg, const struct facts_endpoints *endpoints)
{
    struct site_link *link = arg;
    struct site *site = link->site;
    struct schedule *s = site->schedule;

    link->facts = NULL;
    if (link->domain != NULL && strcmp(endpoints->key, site->hosts) != 0) {
        /* The domain has moved to other hosts: its mail must not come here any more, and what they
         * say is nothing to the other domains that are served here. */
        site_replan(site, link->domain);
        link_drop(link);
        return;
    }
    struct facts_endpoint list[FACTS_ENDPOINTS_MAX];
    struct facts_endpoints of_family;
    if (endpoints->ok && site->family != 0) {
        keep_family(endpoints, site, list, &of_family);
        endpoints = &of_family;
    }
    if (!endpoints->ok) {
        schedule_link_failed(link, &endpoints->outcome);
        return;
    }
    if (site->n_ready == 0) {
        link_drop(link);
        return;
    }
    if (!outage_may_open(site)) { /* it has begun while the addresses were looked up */
        link_drop(link);
        return;
    }
    link->first = endpoints->list[0].ip;
    site->more = endpoints->more;
    const struct schedule_target target = {
        .route = site->route,
        .hop = site_hop(site),
        .site = site->name,
        .tls = site->tls,
        .has_fallback = has_fallback(site),
        .max_messages = site_shape(site).max_messages_per_connection,
        .endpoints = endpoints,
    };
    assert((target.hop == NULL) == (link->domain != NULL));
    set_state(link, LINK_OPENING);
    link->conn = s->env.ops->open(s->env.arg, link, &target);
}

void
link_open(struct site *site)
{
    struct schedule *s = site->schedule;
    const struct hop *hop = site_hop(site);
    struct site_link *link = link_new(site);

    site->tried_at = clock_wall(s->clock);
    site->more = false;
    if (hop != NULL) {
        link->facts = facts_hop_start(s->env.facts, hop, site->port, on_endpoints, link);
    } else {
        link->domain = xstrndup(site->ready->domain.p, site->ready->domain.n);
        link->facts = facts_direct_start(s->env.facts, link->domain, on_endpoints, link);
    }
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
    site->schedule->n_busy--;
    for (size_t i = 0; i < n; i++) {
        rcpt_set_site(link->rcpts[i], NULL);
        link->rcpts[i]->stage = STAGE_FACTS;
    }
    for (size_t i = 0; i < n; i++)
        plan_rcpt(site->schedule, link->rcpts[i]);
}

static void
link_send(struct site_link *link)
{
    struct schedule *s = link->site->schedule;
    set_state(link, LINK_BUSY);
    s->env.ops->send(s->env.arg, link->conn, link->rcpts, link->n_rcpts);
}

struct load {
    struct store_read read;
    struct site_link *link;
};

/* The message can't be read: forget it when it is gone, hold it when it is damaged. */
static void
load_failed(struct site_link *link, const struct store_read *read)
{
    struct schedule *s = link->site->schedule;

    if (read->code != ERR_NOT_FOUND)
        log_alert(s->env.log, "queue_damaged", "%s: %s", link->rcpts[0]->msg->id_text,
                  read->err.text);
    for (size_t i = 0; i < link->n_rcpts; i++) {
        struct rcpt *rcpt = link->rcpts[i];
        if (read->code == ERR_NOT_FOUND) {
            schedule_leave(s, rcpt, read->txn_id);
        } else if (read->code == ERR_CORRUPT) {
            rcpt->stage = STAGE_RECORDING;
            s->n_recording++;
            s->env.ops->hold(s->env.arg, rcpt, span_str(read->err.text));
        } else {
            postpone_rcpt(s, rcpt, clock_wall(s->clock) + MINUTE);
        }
    }
    link->n_rcpts = 0;
    link->site->n_busy--;
    s->n_busy--;
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
    bool good = read->code == ERR_OK;

    if (good && !s->stopped)
        take_mail(s, link->rcpts[0]->msg, &read->mail.mail);
    else if (!s->stopped)
        load_failed(link, read);
    if (good)
        queue_mail_release(&read->mail.mail);
    free(load);
    if (s->stopped)
        return;
    if (good && !dead && !s->draining && s->env.ops->ready(s->env.arg, link->conn)) {
        link_send(link);
        return;
    }
    if (good)
        link_unsend(link);
    if (dead)
        link_free(link);
    else
        set_state(link, s->env.ops->ready(s->env.arg, link->conn) ? LINK_READY : LINK_CLOSING);
    pump_slots(s);
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
    s->n_busy++;
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
    set_state(link, LINK_LOADING);
    store_read(s->env.store, &load->read);
}
