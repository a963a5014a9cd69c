/*
 * verb_rcpt - RCPT: who may be written to. Called by smtpd.c.
 *
 *   syntax ─▶ relaying denied? ─▶ parameters ─▶ seen before? ─▶ too many? ─▶ VERDICT ─▶ [BEGIN] ─▶
 * RCPT
 *
 * A stranger gets past the second step only with an address at srs.domain; whether that is a good
 * one is the verdict's business.
 */
#include "relayd/accept/internal.h"

#include "policy/base/domain.h"
#include "policy/base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

/* Refused recipients count as errors for strangers only: a customer's mailing list has many dead
 * addresses, a spammer tries many. */
static void
refuse(struct smtpd *s, const char *text)
{
    struct smtpd_txn *t = s->txn;

    t->n_refused++;
    s->counts.rcpts_refused++;
    if (!s->client.trusted)
        s->counts.errors++;
    smtpd_refusal(s, text);
    rcpt_drop(s);
}

static void
refuse_foreign(struct smtpd *s, struct span reply)
{
    struct smtpd_txn *t = s->txn;

    t->n_refused++;
    s->counts.rcpts_refused++;
    smtpd_reply_foreign(s, reply, "45");
    struct span said = smtpd_last_reply(s);
    if (!s->client.trusted && !span_starts(said, SPAN("452")))
        s->counts.errors++;
    smtpd_tell(s, SMTPD_EVENT_REFUSED, said, false);
    rcpt_drop(s);
}

void
rcpt_drop(struct smtpd *s)
{
    free(s->txn->rcpt_node);
    s->txn->rcpt_node = NULL;
    s->txn->rcpt = (struct accept_rcpt){.notify = 0};
    s->txn->rcpt_stranger = false;
}

static const char *
path_take(struct span *arg, struct mailbox *ret)
{
    size_t length;

    if (!span_istarts(*arg, SPAN("TO:")))
        return "501 5.5.4 RCPT TO:<address> is needed";
    *arg = span_trim(span_from(*arg, 3));
    switch (mailbox_path_parse(*arg, MAILBOX_POSTMASTER | MAILBOX_UTF8, ret, &length)) {
    case MAILBOX_OK:
        break;
    case MAILBOX_TOO_LONG:
        return "501 5.1.3 recipient address too long";
    case MAILBOX_ROUTE:
        return "501 5.1.3 source routes are not accepted";
    case MAILBOX_NO_DOMAIN:
        return "501 5.1.3 recipient address has no domain";
    case MAILBOX_QUAD:
        return "501 5.1.3 an IP address for a domain needs brackets";
    default:
        return "501 5.1.3 bad recipient address syntax";
    }
    *arg = span_from(*arg, length);
    return arg->n == 0 || *arg->p == ' ' ? NULL : "501 5.1.3 bad recipient address syntax";
}

/* A literal of our own address, or of one that is not on the Internet, would loop or reach inside.
 */
static bool
literal_allowed(const struct smtpd *s, const struct ip *ip)
{
    if (ip->family == 0)
        return true;
    for (size_t i = 0; i < s->conf->n_own; i++)
        if (ip_eq(&s->conf->own[i], ip))
            return false;
    return !ip_is_special(ip);
}

/* The canonical domain of `m` into `ret`, and its address when it is a literal. NULL, or the reply.
 */
static const char *
domain_take(const struct mailbox *m, char ret[DOMAIN_BUF], struct ip *ret_literal)
{
    char text[IP_TEXT_MAX];

    *ret_literal = (struct ip){.family = 0};
    if (!m->literal)
        return domain_normalise(m->domain, ret, NULL) == ERR_OK ? NULL
                                                                : "501 5.1.3 bad recipient domain";
    if (!ip_parse(mailbox_literal(m), ret_literal))
        return "501 5.1.3 bad address literal";
    snprintf(ret, DOMAIN_BUF, ret_literal->family == 6 ? "[IPv6:%s]" : "[%s]",
             ip_format(ret_literal, text));
    return NULL;
}

struct params {
    unsigned notify;
    struct span orcpt;
};

static const char *
params_take(struct span rest, struct params *p)
{
    struct smtpd_param param;
    int more;

    while ((more = param_next(&rest, &param)) > 0) {
        if (span_ieq(param.key, SPAN("NOTIFY"))) {
            if (p->notify != 0)
                return "501 5.5.4 parameter given twice";
            p->notify = param_notify(param.value);
            if (p->notify == 0)
                return "501 5.5.4 bad NOTIFY";
        } else if (span_ieq(param.key, SPAN("ORCPT"))) {
            if (p->orcpt.n > 0)
                return "501 5.5.4 parameter given twice";
            p->orcpt = param.value;
            if (!param_orcpt_valid(param.value))
                return "501 5.5.4 bad ORCPT";
        } else {
            return "555 5.5.4 parameter not known";
        }
    }
    return more < 0 ? "501 5.5.4 bad parameter syntax" : NULL;
}

/* Make the recipient in hand of `m`, whose canonical domain is `domain`: its texts in one block. */
static void
rcpt_fill(struct smtpd_txn *t, const struct mailbox *m, struct span domain,
          const struct ip *literal, const struct params *p)
{
    struct span shown = span_is_ascii(m->domain) ? m->domain : domain;
    size_t n_key = m->local.n + 1 + domain.n, n_address = m->local.n + 1 + shown.n;
    struct smtpd_rcpt_node *node = xmalloc(sizeof *node + n_key + n_address + p->orcpt.n);
    char *key = node->text, *address = key + n_key, *orcpt = address + n_address;

    node->n_key = n_key;
    memcpy(key, m->local.p, m->local.n);
    key[m->local.n] = '@';
    memcpy(key + m->local.n + 1, domain.p, domain.n);
    memcpy(address, m->local.p, m->local.n);
    address[m->local.n] = '@';
    memcpy(address + m->local.n + 1, shown.p, shown.n);
    if (p->orcpt.n > 0)
        memcpy(orcpt, p->orcpt.p, p->orcpt.n);
    t->rcpt = (struct accept_rcpt){
        .address = span_of(address, n_address),
        .mailbox = {.local = span_of(address, m->local.n),
                    .domain = span_of(address + m->local.n + 1, shown.n),
                    .literal = m->literal,
                    .quoted = m->quoted,
                    .utf8 = !span_is_ascii(m->local)},
        .domain = span_of(key + m->local.n + 1, domain.n),
        .literal = *literal,
        .notify = p->notify,
        .orcpt = span_of(orcpt, p->orcpt.n),
    };
    free(t->rcpt_node);
    t->rcpt_node = node;
}

static struct span
node_key(const struct smtpd_rcpt_node *node)
{
    return span_of(node->text, node->n_key);
}

/* One recipient, the usual number, costs no map. */
static bool
was_seen(struct smtpd *s, struct span key)
{
    struct smtpd_txn *t = s->txn;

    if (t->n_rcpts <= 1)
        return t->n_rcpts == 1 && span_eq(node_key(t->rcpts), key);
    return map_get(&t->seen, key) != NULL;
}

static void
remember(struct smtpd *s)
{
    struct smtpd_txn *t = s->txn;
    struct smtpd_rcpt_node *node = t->rcpt_node, *first = t->rcpts;

    node->next = t->rcpts;
    t->rcpts = node;
    t->rcpt_node = NULL;
    if (++t->n_rcpts == 2) {
        map_init(&t->seen, s->conf->seed);
        map_put(&t->seen, node_key(first), first);
    }
    if (t->n_rcpts >= 2)
        map_put(&t->seen, node_key(node), node);
}

static void
taken(struct smtpd *s)
{
    smtpd_reply(s, "250 2.1.5 ok");
    s->txn->rcpt = (struct accept_rcpt){.notify = 0};
    s->txn->rcpt_stranger = false;
    if (s->state == SMTPD_MAIL)
        smtpd_set_state(s, SMTPD_RCPT);
}

/* Is the recipient in hand there already, or one too many? Then it has its reply. */
static bool
settled_by_number(struct smtpd *s)
{
    if (was_seen(s, node_key(s->txn->rcpt_node))) {
        rcpt_drop(s);
        smtpd_reply(s, "250 2.1.5 ok, once is enough");
        return true;
    }
    if (s->txn->n_rcpts >= s->conf->max_rcpts) {
        s->txn->n_refused++;
        s->counts.rcpts_refused++;
        smtpd_refusal(s, "452 4.5.3 too many recipients, send the rest in another transaction");
        rcpt_drop(s);
        return true;
    }
    return false;
}

/* May a stranger ask for this recipient? If not, he has his reply. */
static bool
stranger_may_ask(struct smtpd *s, struct span domain)
{
    struct smtpd_txn *t = s->txn;

    if (s->conf->srs_domain[0] == '\0' || !span_eq(domain, span_str(s->conf->srs_domain))) {
        const char *text = s->undecided ? "450 4.7.1 not known yet who may relay, try again"
                                        : "554 5.7.1 relay access denied";
        t->n_refused++;
        s->counts.rcpts_refused++;
        s->counts.relay_denied += !s->undecided;
        /* Who has to wait may be a customer with a long list; who comes with another one is not. */
        s->counts.errors += !s->undecided || s->counts.rcpts_refused > s->conf->max_rcpts;
        smtpd_reply(s, text);
        smtpd_tell(s, SMTPD_EVENT_REFUSED, span_str(text), !s->undecided);
        rcpt_drop(s);
        return false;
    }
    if (t->mail.size_bytes > s->conf->stranger_bytes) {
        refuse(s, "552 5.3.4 message too large for a returned one");
        return false;
    }
    if (t->max_bytes > s->conf->stranger_bytes)
        t->max_bytes = s->conf->stranger_bytes;
    t->rcpt_stranger = true;
    return true;
}

void
verb_rcpt(struct smtpd *s, struct span arg)
{
    struct smtpd_txn *t = s->txn;
    char domain[DOMAIN_BUF] = "";
    struct params p = {.notify = 0};
    struct mailbox m = {.quoted = false};
    struct ip literal;

    if (t->refusal != NULL) { /* the sink has given up meanwhile */
        refuse_foreign(s, span_str(t->refusal));
        return;
    }
    const char *refusal = path_take(&arg, &m);
    if (refusal == NULL && m.domain.n == 0 &&
        mailbox_parse(span_str(s->conf->postmaster), 0, &m) != MAILBOX_OK)
        refusal = "550 5.1.1 there is no postmaster here";
    if (refusal == NULL)
        refusal = params_take(arg, &p);
    if (refusal == NULL && !t->mail.smtputf8 && !span_is_ascii(p.orcpt))
        refusal = "501 5.5.4 a non-ASCII ORCPT needs SMTPUTF8"; /* RFC 6533 section 3 */
    if (refusal != NULL) {
        smtpd_error(s, refusal);
        return;
    }
    if (m.utf8 && !t->mail.smtputf8) {
        smtpd_error(s, "553 5.6.7 a non-ASCII address needs SMTPUTF8");
        return;
    }
    refusal = domain_take(&m, domain, &literal);
    if (refusal != NULL) {
        smtpd_error(s, refusal);
        return;
    }
    rcpt_fill(t, &m, span_str(domain), &literal, &p);
    if (!s->client.trusted && !stranger_may_ask(s, span_str(domain)))
        return;
    if (!literal_allowed(s, &literal))
        refuse(s, ACCEPT_LITERAL_REPLY);
    else if (!settled_by_number(s))
        s->want = SMTPD_WANT_VERDICT;
}

/* The verdict names another address (an SRS address decoded): the recipient becomes that one. */
static bool
rcpt_replace(struct smtpd *s, struct span instead)
{
    struct accept_rcpt *r = &s->txn->rcpt;
    struct params p = {.notify = r->notify};
    char domain[DOMAIN_BUF] = "", orcpt[ACCEPT_ORCPT_MAX];
    struct mailbox m;
    struct ip literal;

    if (mailbox_parse(instead, MAILBOX_UTF8, &m) != MAILBOX_OK ||
        domain_take(&m, domain, &literal) != NULL || !literal_allowed(s, &literal))
        return false;
    if (r->orcpt.n > 0)
        p.orcpt = span_of(memcpy(orcpt, r->orcpt.p, r->orcpt.n), r->orcpt.n);
    rcpt_fill(s->txn, &m, span_str(domain), &literal, &p);
    return true;
}

void
smtpd_verdict(struct smtpd *s, struct span reply, struct span instead)
{
    assert(s->want == SMTPD_WANT_VERDICT);
    s->want = SMTPD_WANT_INPUT;
    s->verb = "RCPT";
    smtpd_rearm(s);
    if (reply.n == 0 && s->txn->refusal != NULL)
        reply = span_str(s->txn->refusal); /* the sink gave up while the verdict was awaited */
    if (reply.n > 0) {
        refuse_foreign(s, reply);
        return;
    }
    if (instead.n > 0) {
        if (!rcpt_replace(s, instead)) {
            refuse(s, "550 5.1.1 no such address");
            return;
        }
        if (settled_by_number(s))
            return;
    }
    s->want = s->txn->has_sink ? SMTPD_WANT_RCPT : SMTPD_WANT_BEGIN;
    s->txn->has_sink = true;
}

void
rcpt_begun(struct smtpd *s, struct span refusal)
{
    s->verb = "RCPT";
    if (refusal.n == 0) {
        s->want = SMTPD_WANT_RCPT;
        return;
    }
    s->txn->has_sink = false;
    refuse_foreign(s, refusal);
}

void
rcpt_taken(struct smtpd *s, struct span refusal)
{
    s->verb = "RCPT";
    if (refusal.n > 0) {
        refuse_foreign(s, refusal);
        return;
    }
    remember(s);
    taken(s);
}
