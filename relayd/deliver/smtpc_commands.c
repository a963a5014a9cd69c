/*
 * MAIL and RCPT with what this host offers, and what it cannot be given at all.
 */
#include "relayd/deliver/smtpc_private.h"

#include "policy/base/mailbox.h"
#include "policy/base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

/* Intake lets no such address in; a command must not be split by one all the same. */
static bool
txn_has_control(const struct deliver_txn *txn)
{
    bool has =
        span_has_control(txn->sender) || span_has_control(txn->ret) || span_has_control(txn->envid);
    for (size_t i = 0; !has && i < txn->n_rcpts; i++)
        has = span_has_control(txn->rcpts[i].address) || span_has_control(txn->rcpts[i].orcpt);
    return has;
}

bool
smtpc_fits(const struct smtpc *s, const struct deliver_txn *txn, struct outcome *ret)
{
    uint64_t max = s->offers.size_max;
    if (max > 0 && txn->size_bytes > max) {
        outcome_set(ret, OUTCOME_FAILED, ORIGIN_PEER, "mail", "5.3.4",
                    "the message of %" PRIu64 " bytes exceeds this host's stated limit of %" PRIu64,
                    txn->size_bytes, max);
        return false;
    }
    if (txn->needs_smtputf8 && !s->offers.smtputf8) {
        outcome_set(ret, OUTCOME_FAILED, ORIGIN_PEER, "mail", "5.6.7",
                    "the message needs SMTPUTF8, which this host does not offer");
        return false;
    }
    if (txn_has_control(txn)) {
        outcome_set(ret, OUTCOME_FAILED, ORIGIN_LOCAL, "mail", "5.1.3",
                    "an address holds a control character");
        return false;
    }
    return true;
}

bool
smtpc_txn_fits(const struct smtpc *s, const struct deliver_txn *txn)
{
    struct outcome o;
    return smtpc_fits(s, txn, &o);
}

void
smtpc_send_mail(struct smtpc *s)
{
    const struct deliver_txn *txn = s->txn;
    const struct smtpc_offers *o = &s->offers;
    char size[32] = "";
    if (o->size)
        snprintf(size, sizeof(size), " SIZE=%" PRIu64, txn->size_bytes);
    bool ret = o->dsn && txn->ret.n > 0, envid = o->dsn && txn->envid.n > 0;
    smtpc_send(s, CMD_MAIL, 0, "MAIL FROM:<%.*s>%s%s%s%s%.*s%s%.*s", SPAN_ARG(txn->sender), size,
               o->eight_bit && txn->is_8bit ? " BODY=8BITMIME" : "",
               txn->needs_smtputf8 ? " SMTPUTF8" : "", ret ? " RET=" : "",
               SPAN_ARG(ret ? txn->ret : SPAN_NONE), envid ? " ENVID=" : "",
               SPAN_ARG(envid ? txn->envid : SPAN_NONE));
}

/* " NOTIFY=FAILURE,DELAY", or "" */
static void
notify_format(unsigned notify, char *buf, size_t size)
{
    static const char *const names[] = {"NEVER", "SUCCESS", "FAILURE", "DELAY"};
    size_t n = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < N_ELEMENTS(names); i++)
        if ((notify >> i & 1) != 0)
            n += (size_t)snprintf(buf + n, size - n, "%s%s", n == 0 ? " NOTIFY=" : ",", names[i]);
    assert(n < size);
}

/* The ORCPT as this transaction can say it; left out when it grew too long. `ascii` holds it. */
static struct span
orcpt_of(const struct smtpc *s, const struct deliver_rcpt *rcpt, struct strbuf *ascii)
{
    if (!s->offers.dsn || rcpt->orcpt.n == 0)
        return SPAN_NONE;
    if (s->txn->needs_smtputf8)
        return rcpt->orcpt;
    utf8_addr_to_ascii(rcpt->orcpt, ascii);
    return ascii->n <= SMTPC_ORCPT_MAX ? strbuf_span(ascii) : SPAN_NONE;
}

void
smtpc_send_rcpt(struct smtpc *s, size_t i)
{
    const struct deliver_rcpt *rcpt = &s->txn->rcpts[i];
    CLEANUP(strbuf_release) struct strbuf ascii = STRBUF_INIT;
    struct span orcpt = orcpt_of(s, rcpt, &ascii);
    char notify[48] = "";
    if (s->offers.dsn)
        notify_format(rcpt->notify, notify, sizeof(notify));
    smtpc_send(s, CMD_RCPT, i, "RCPT TO:<%.*s>%s%s%.*s", SPAN_ARG(rcpt->address), notify,
               orcpt.n > 0 ? " ORCPT=" : "", SPAN_ARG(orcpt));
}
