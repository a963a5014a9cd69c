/*
 * dsn_text.c - the part of a report that people read, in English and Chinese.
 *
 * Texts are templates; {name} is replaced by one of the facts in `struct facts`. The peer's words
 * are quoted as they came, never translated.
 */
#include "policy/dsn_internal.h"

#include <assert.h>
#include <stdio.h>

#include "policy/base/mem.h"
#include "policy/header.h"

#define LISTED_MAX 50u /* recipients spelt out; the machine's part holds all of them */

struct words {
    const char *subject[3]; /* by enum dsn_kind */
    const char *greeting;
    const char *intro[3];
    const char *advice[3];
    const char *postmaster;
    const char *sent;
    const char *action[4]; /* by enum dsn_action */
    const char *expired, *retry_until, *status, *route, *route_host, *no_reason, *more;
    const char *headers, *full;
};

static const struct words all_words[] = {
    [DSN_EN] =
        {
            .subject = {"Undeliverable: your message was not delivered",
                        "Delayed: your message has not been delivered yet",
                        "Delivered: your message has been passed on"},
            .greeting = "This is the mail relay {host} (node {node}).",
            .intro = {"Your message could not be delivered to the recipients below. This is final: "
                      "it is not tried again.",
                      "Your message could not be delivered to the recipients below yet. It is "
                      "still being tried; you need not send it again.",
                      "Your message has been handed on to the recipients below, as you asked to "
                      "be told."},
            .advice = {"Please check the address and the reason given, and turn to the recipient's "
                       "mail administrator with this report if the reason lies there.",
                       "You will be told if it has to be given up.", NULL},
            .postmaster = "For help write to {postmaster} and give the id {id}.",
            .sent = "Message {id}, received {arrived}.",
            .action = {"was not delivered", "is delayed", "was delivered",
                       "was passed on to a host that does not confirm delivery"},
            .expired = "Given up: the time for delivery ran out.",
            .retry_until = "It will be tried until {until}.",
            .status = "Status: {status}",
            .route = "{at}, by route \"{route}\":",
            .route_host = "{at}, by route \"{route}\", host {mta}{ip}:",
            .no_reason = "(no reason was given)",
            .more = "... and {more} more: see the second part of this report.",
            .headers = "The headers of your message follow in the third part.",
            .full = "Your message follows in the third part.",
        },
    [DSN_ZH] =
        {
            .subject = {"退信：您的邮件未能送达", "延迟：您的邮件尚未送达", "送达：您的邮件已转交"},
            .greeting = "这里是邮件中继服务器 {host}（节点 {node}）。",
            .intro = {"您的邮件未能送达以下收件人。这是最终结果，系统不会再次尝试投递。",
                      "您的邮件暂时未能送达以下收件人。系统仍在继续尝试，您无需重新发送。",
                      "按您的要求通知：您的邮件已转交给以下收件人。"},
            .advice =
                {"请检查收件人地址和下面给出的原因；如果原因在对方，请将本报告转交对方的邮件管"
                 "理员。",
                 "如果最终放弃投递，系统会再通知您。", NULL},
            .postmaster = "如需帮助，请联系 {postmaster}，并提供邮件编号 {id}。",
            .sent = "邮件编号 {id}，接收时间 {arrived}。",
            .action = {"未能送达", "延迟", "已送达", "已转交给一台不提供送达确认的主机"},
            .expired = "投递期限已过，已放弃投递。",
            .retry_until = "系统将继续尝试到 {until}。",
            .status = "状态码：{status}",
            .route = "{at}，经线路“{route}”：",
            .route_host = "{at}，经线路“{route}”，对方主机 {mta}{ip}：",
            .no_reason = "（对方没有说明原因）",
            .more = "……另有 {more} 个收件人，见本报告的第二部分。",
            .headers = "第三部分是您的邮件的信头。",
            .full = "第三部分是您的邮件原文。",
        },
};

struct fact {
    const char *name;
    struct span value; /* clean */
};

struct writer {
    const struct words *words;
    const struct dsn_report *report;
    struct strbuf *out;
};

/* Append a template with the facts in it. */
static void
expand(struct strbuf *out, const char *text, const struct fact *facts, size_t n)
{
    struct span rest = span_str(text);
    while (rest.n > 0) {
        struct span plain = span_first(rest, span_find_byte(rest, '{'));
        strbuf_add_span(out, plain);
        rest = span_from(rest, plain.n + 1);
        if (rest.n == 0)
            return;
        struct span name = span_cut(&rest, '}');
        size_t i = 0;
        while (i < n && !span_eq(name, span_str(facts[i].name)))
            i++;
        assert(i < n); /* every template names facts that are there */
        strbuf_add_span(out, facts[i].value);
    }
}

static void
line(struct writer *w, const char *indent, const char *text, const struct fact *facts, size_t n)
{
    strbuf_add_str(w->out, indent);
    expand(w->out, text, facts, n);
    strbuf_add_str(w->out, "\r\n");
}

static struct span
clean(struct strbuf *buf, struct span text, size_t max)
{
    strbuf_reset(buf);
    dsn_clean(text, max, DSN_UTF8, buf);
    return strbuf_span(buf);
}

static void
refusal_text(struct writer *w, const struct dsn_refusal *refusal)
{
    CLEANUP(strbuf_release)
    struct strbuf at = STRBUF_INIT, route = STRBUF_INIT, mta = STRBUF_INIT, ip = STRBUF_INIT;
    header_date_format(refusal->at, &at);
    if (refusal->ip.n > 0) {
        strbuf_add_str(&ip, " [");
        dsn_clean(refusal->ip, DSN_NAME_MAX, DSN_ASCII, &ip);
        strbuf_add_byte(&ip, ']');
    }
    struct fact facts[] = {
        {"at", strbuf_span(&at)},
        {"route", clean(&route, refusal->route, DSN_NAME_MAX)},
        {"mta", clean(&mta, refusal->mta, DSN_NAME_MAX)},
        {"ip", strbuf_span(&ip)},
    };
    line(w, "    ", refusal->mta.n > 0 ? w->words->route_host : w->words->route, facts,
         N_ELEMENTS(facts));
    strbuf_add_str(w->out, "        ");
    if (refusal->code == 0 && refusal->text.n == 0)
        strbuf_add_str(w->out, w->words->no_reason);
    else
        dsn_refusal_words(refusal, DSN_UTF8, w->out);
    strbuf_add_str(w->out, "\r\n");
}

static void
rcpt_text(struct writer *w, const struct dsn_rcpt *rcpt)
{
    CLEANUP(strbuf_release) struct strbuf until = STRBUF_INIT;
    char status[16];
    struct fact facts[] = {{"status", SPAN_NONE}, {"until", SPAN_NONE}};

    strbuf_add_str(w->out, "<");
    dsn_clean(rcpt->address, DSN_ADDRESS_MAX, DSN_UTF8, w->out);
    strbuf_printf(w->out, ">: %s\r\n", w->words->action[rcpt->action]);
    if (rcpt->status.klass != 0) {
        facts[0].value = span_str(enh_format(rcpt->status, status));
        line(w, "    ", w->words->status, facts, 2);
    }
    for (size_t i = 0; i < rcpt->n_refusals && i < DSN_REFUSALS_MAX; i++)
        refusal_text(w, &rcpt->refusals[i]);
    if (rcpt->expired)
        line(w, "    ", w->words->expired, NULL, 0);
    if (rcpt->action == DSN_ACTION_DELAYED && rcpt->will_retry_until > 0) {
        header_date_format(rcpt->will_retry_until, &until);
        facts[1].value = strbuf_span(&until);
        line(w, "    ", w->words->retry_until, facts, 2);
    }
    strbuf_add_str(w->out, "\r\n");
}

static void
language_text(struct writer *w, bool returned_full)
{
    const struct dsn_report *r = w->report;
    CLEANUP(strbuf_release) struct strbuf arrived = STRBUF_INIT, postmaster = STRBUF_INIT;
    char more[32];
    header_date_format(r->original->arrived_at, &arrived);
    snprintf(more, sizeof(more), "%zu", r->n_rcpts > LISTED_MAX ? r->n_rcpts - LISTED_MAX : 0);
    struct fact facts[] = {
        {"host", r->hostname},
        {"node", r->node},
        {"id", r->original->id},
        {"arrived", strbuf_span(&arrived)},
        {"postmaster", clean(&postmaster, r->postmaster, DSN_ADDRESS_MAX)},
        {"more", span_str(more)},
    };
    size_t n = N_ELEMENTS(facts);

    line(w, "", w->words->greeting, facts, n);
    line(w, "", w->words->sent, facts, n);
    strbuf_add_str(w->out, "\r\n");
    line(w, "", w->words->intro[r->kind], facts, n);
    strbuf_add_str(w->out, "\r\n");
    for (size_t i = 0; i < r->n_rcpts && i < LISTED_MAX; i++)
        rcpt_text(w, &r->rcpts[i]);
    if (r->n_rcpts > LISTED_MAX) {
        line(w, "", w->words->more, facts, n);
        strbuf_add_str(w->out, "\r\n");
    }
    if (w->words->advice[r->kind] != NULL)
        line(w, "", w->words->advice[r->kind], facts, n);
    if (r->postmaster.n > 0)
        line(w, "", w->words->postmaster, facts, n);
    line(w, "", returned_full ? w->words->full : w->words->headers, facts, n);
}

const char *
dsn_subject(const struct dsn_report *report)
{
    return all_words[report->languages[0]].subject[report->kind];
}

void
dsn_text(const struct dsn_report *report, bool returned_full, struct strbuf *out)
{
    for (size_t i = 0; i < report->n_languages && i < DSN_LANGUAGES_MAX; i++) {
        struct writer w = {&all_words[report->languages[i]], report, out};
        if (i > 0)
            strbuf_add_str(out, "\r\n----------------------------------------\r\n\r\n");
        language_text(&w, returned_full);
    }
}
