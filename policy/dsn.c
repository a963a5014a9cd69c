/*
 * dsn.c - putting a report together: header, text for people, fields for machines, the original.
 *
 *   multipart/report (RFC 6522)
 *     text/plain                    dsn_text.c
 *     message/delivery-status       RFC 3464; message/global-delivery-status with UTF-8 addresses
 *     message/rfc822, text/rfc822-headers, message/global, message/global-headers
 *
 * Used by relayd/record.
 */
#include "policy/dsn_internal.h"

#include <assert.h>
#include <stdio.h>

#include "policy/base/mailbox.h"
#include "policy/base/mem.h"
#include "policy/header.h"

#define BOUNDARY_MAX 100
#define TEXT_LINE_MAX 78 /* longer lines of text make it quoted-printable */

struct build {
    const struct dsn_report *report;
    struct strbuf *out;
    char boundary[BOUNDARY_MAX];
    enum dsn_charset charset; /* of the fields for machines */
    bool full;                /* the whole original is returned */
    bool original_8bit;       /* what is returned of it holds octets above 127 */
    struct span head;         /* of the original, as far as it is returned */
};

bool
dsn_wanted(enum dsn_kind kind, unsigned notify, bool null_sender)
{
    static const unsigned bits[] = {
        [DSN_FAILED] = DSN_NOTIFY_FAILURE,
        [DSN_DELAYED] = DSN_NOTIFY_DELAY,
        [DSN_SUCCESS] = DSN_NOTIFY_SUCCESS,
    };
    if (null_sender || (notify & DSN_NOTIFY_NEVER) != 0)
        return false;
    if (notify == 0)
        return kind != DSN_SUCCESS;
    return (notify & bits[kind]) != 0;
}

/* -- the plan ------------------------------------------------------------------------------------
 */

/* The original's header block up to DSN_HEAD_MAX_BYTES, whole fields only. */
static struct span
head_returned(struct span head)
{
    struct header_field field;
    struct span rest = head;
    size_t n = 0;
    if (head.n <= DSN_HEAD_MAX_BYTES)
        return head;
    while (header_field_next(&rest, &field) && n + field.whole.n <= DSN_HEAD_MAX_BYTES)
        n += field.whole.n;
    return span_first(head, n);
}

static bool
has_text(struct span s, const char *text)
{
    return span_find(s, span_str(text)) != SIZE_MAX;
}

/* A boundary that stands nowhere in the original: its sender may know how ours are made. */
static void
boundary_choose(struct build *b)
{
    const struct dsn_original *original = b->report->original;
    unsigned i = 0;
    do {
        snprintf(b->boundary, sizeof(b->boundary), "=_%.*s.%u",
                 (int)(b->report->notice_id.n > 60 ? 60 : b->report->notice_id.n),
                 b->report->notice_id.p, i++);
    } while (has_text(b->head, b->boundary) || (b->full && has_text(original->body, b->boundary)));
}

static bool
any_utf8_address(const struct dsn_report *report)
{
    if (!dsn_is_ascii(report->original->sender))
        return true;
    for (size_t i = 0; i < report->n_rcpts; i++)
        if (!dsn_is_ascii(report->rcpts[i].address))
            return true;
    return false;
}

static void
build_plan(struct build *b)
{
    const struct dsn_original *original = b->report->original;
    b->charset = any_utf8_address(b->report) ? DSN_UTF8 : DSN_ASCII;
    /* RET is about failures only: other reports return the headers (RFC 3461 section 4.3). */
    b->full = b->report->kind == DSN_FAILED && original->ret_full &&
              original->size_bytes <= DSN_FULL_MAX_BYTES &&
              original->head.n + original->body.n + 2 >= original->size_bytes;
    b->head = b->full ? original->head : head_returned(original->head);
    b->original_8bit = b->full ? original->has_8bit : !dsn_is_ascii(b->head);
    boundary_choose(b);
}

/* -- header --------------------------------------------------------------------------------------
 */

/* The original's Message-ID, when it is one short word in angle brackets: for threading. */
static struct span
original_message_id(struct span head)
{
    struct header_facts facts;
    if (header_scan(head, SPAN_NONE, &facts, NULL) != ERR_OK)
        return SPAN_NONE;
    struct span id = span_trim(facts.message_id);
    bool fine = id.n > 2 && id.n < DSN_NAME_MAX && id.p[0] == '<' && id.p[id.n - 1] == '>';
    for (size_t i = 0; i < id.n && fine; i++)
        fine = id.p[i] > ' ' && id.p[i] < 127;
    return fine ? id : SPAN_NONE;
}

static void
header_build(struct build *b)
{
    const struct dsn_report *r = b->report;
    struct strbuf *out = b->out;

    header_add_date(r->now, out);
    strbuf_add_str(out, "From: Mail Delivery System <MAILER-DAEMON@");
    strbuf_add_span(out, r->hostname);
    strbuf_add_str(out, ">\r\nTo: <");
    dsn_clean(r->original->sender, DSN_ADDRESS_MAX, b->charset, out);
    strbuf_add_str(out, ">\r\nSubject: ");
    dsn_encoded_words(span_str(dsn_subject(r)), out);
    strbuf_add_str(out, "\r\n");
    header_add_message_id(r->notice_id, r->hostname, out);
    struct span id = original_message_id(r->original->head);
    if (id.n > 0) {
        dsn_field("In-Reply-To", id, out);
        dsn_field("References", id, out);
    }
    /* RFC 3834 section 5: keeps auto-responders from answering. The report type is the subtype of
     * the second part (RFC 6522 section 3). */
    strbuf_printf(out,
                  "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
                  "Content-Type: multipart/report; report-type=%sdelivery-status;\r\n"
                  "\tboundary=\"%s\"\r\n",
                  b->charset == DSN_UTF8 ? "global-" : "", b->boundary);
    if (b->original_8bit || b->charset == DSN_UTF8)
        strbuf_add_str(out, "Content-Transfer-Encoding: 8bit\r\n");
    strbuf_add_str(out, "\r\n");
}

static void
part_start(struct build *b, const char *type, const char *encoding)
{
    strbuf_printf(b->out, "\r\n--%s\r\nContent-Type: %s\r\n", b->boundary, type);
    if (encoding != NULL)
        strbuf_printf(b->out, "Content-Transfer-Encoding: %s\r\n", encoding);
    strbuf_add_str(b->out, "\r\n");
}

/* -- the part for people
 * --------------------------------------------------------------------------- */

static bool
needs_encoding(struct span text)
{
    if (!dsn_is_ascii(text))
        return true;
    while (text.n > 0)
        if (span_cut(&text, '\n').n > TEXT_LINE_MAX)
            return true;
    return false;
}

static void
text_build(struct build *b)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    dsn_text(b->report, b->full, &text);
    bool encode = needs_encoding(strbuf_span(&text));
    part_start(b, "text/plain; charset=utf-8", encode ? "quoted-printable" : "7bit");
    if (encode)
        dsn_quoted_printable(strbuf_span(&text), b->out);
    else
        strbuf_add_span(b->out, strbuf_span(&text));
}

/* -- the part for machines
 * ------------------------------------------------------------------------- */

/* "NAME: TYPE; VALUE", the value cleaned. */
static void
typed_field(struct build *b, const char *name, const char *type, struct span value, size_t max)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    if (value.n == 0)
        return;
    if (type != NULL)
        strbuf_printf(&text, "%s; ", type);
    dsn_clean(value, max, b->charset, &text);
    dsn_field(name, strbuf_span(&text), b->out);
}

static void
date_field(struct build *b, const char *name, msec_t at)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    if (at <= 0)
        return;
    header_date_format(at, &text);
    dsn_field(name, strbuf_span(&text), b->out);
}

/* ENVID and ORCPT came as xtext and are shown decoded (RFC 3464 sections 2.2.1 and 2.3.1); what
 * does not decode is shown as it came. */
static void
xtext_field(struct build *b, const char *name, const char *type, struct span xtext, size_t max)
{
    CLEANUP(strbuf_release) struct strbuf plain = STRBUF_INIT;
    bool decoded = xtext_decode(xtext, &plain);
    typed_field(b, name, type, decoded ? strbuf_span(&plain) : xtext, max);
}

static void
original_recipient(struct build *b, struct span orcpt)
{
    char type[32];
    struct span address = orcpt;
    struct span before = span_cut(&address, ';');
    if (address.n == 0 || before.n == 0 || before.n >= sizeof(type) || !dsn_is_ascii(before))
        return;
    snprintf(type, sizeof(type), "%.*s", SPAN_ARG(before));
    for (char *c = type; *c != '\0'; c++)
        if (!ascii_alpha(*c) && !ascii_digit(*c) && *c != '-')
            return; /* not an address type: nothing a client may send */
    xtext_field(b, "Original-Recipient", type, address, DSN_ADDRESS_MAX);
}

/* The newest refusal as Diagnostic-Code: "smtp; 550 5.1.1 ..." when a peer said it, else our own.
 */
static void
diagnostic_field(struct build *b, const char *name, const struct dsn_refusal *refusal)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    if (refusal->code == 0 && refusal->text.n == 0)
        return;
    strbuf_add_str(&text, refusal->code != 0 ? "smtp; " : "X-relayd; ");
    dsn_refusal_words(refusal, b->charset, &text);
    dsn_field(name, strbuf_span(&text), b->out);
}

/* What the other routes said: "X-Relayd-Refusal: us; mx.example; 550 ...". */
static void
other_refusal(struct build *b, const struct dsn_refusal *refusal)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    dsn_clean(refusal->route, DSN_NAME_MAX, b->charset, &text);
    strbuf_add_str(&text, "; ");
    dsn_clean(refusal->mta, DSN_NAME_MAX, b->charset, &text);
    strbuf_add_str(&text, "; ");
    dsn_refusal_words(refusal, b->charset, &text);
    dsn_field("X-Relayd-Refusal", strbuf_span(&text), b->out);
}

/* Its own status, in the class that its action needs, or X.0.0. */
static struct enh
rcpt_status(const struct dsn_rcpt *rcpt)
{
    static const uint8_t classes[] = {
        [DSN_ACTION_FAILED] = 5,
        [DSN_ACTION_DELAYED] = 4,
        [DSN_ACTION_DELIVERED] = 2,
        [DSN_ACTION_RELAYED] = 2,
    };
    struct enh status = rcpt->status;
    uint8_t klass = classes[rcpt->action];
    if (status.klass == 0)
        status = (struct enh){.klass = klass};
    /* A recipient given up in time keeps the 4.X.X that says why (RFC 3464 section 2.3.4). */
    if (status.klass != klass && !(klass == 5 && status.klass == 4 && rcpt->expired))
        status.klass = klass;
    return status;
}

static void
rcpt_build(struct build *b, const struct dsn_rcpt *rcpt)
{
    static const char *const actions[] = {
        [DSN_ACTION_FAILED] = "failed",
        [DSN_ACTION_DELAYED] = "delayed",
        [DSN_ACTION_DELIVERED] = "delivered",
        [DSN_ACTION_RELAYED] = "relayed",
    };
    char status[16];
    const struct dsn_refusal *newest = rcpt->n_refusals > 0 ? &rcpt->refusals[0] : NULL;

    strbuf_add_str(b->out, "\r\n");
    original_recipient(b, rcpt->orcpt);
    typed_field(b, "Final-Recipient", dsn_is_ascii(rcpt->address) ? "rfc822" : "utf-8",
                rcpt->address, DSN_ADDRESS_MAX);
    dsn_field("Action", span_str(actions[rcpt->action]), b->out);
    dsn_field("Status", span_str(enh_format(rcpt_status(rcpt), status)), b->out);
    if (newest != NULL) {
        typed_field(b, "Remote-MTA", "dns", newest->mta, DSN_NAME_MAX);
        diagnostic_field(b, "Diagnostic-Code", newest);
    }
    date_field(b, "Last-Attempt-Date", rcpt->last_attempt_at);
    typed_field(b, "Final-Log-ID", NULL, rcpt->final_log_id, DSN_NAME_MAX);
    if (rcpt->action == DSN_ACTION_DELAYED)
        date_field(b, "Will-Retry-Until", rcpt->will_retry_until);
    if (newest != NULL)
        typed_field(b, "X-Relayd-Route", NULL, newest->route, DSN_NAME_MAX);
    for (size_t i = 1; i < rcpt->n_refusals && i < DSN_REFUSALS_MAX; i++)
        other_refusal(b, &rcpt->refusals[i]);
}

static void
status_build(struct build *b)
{
    const struct dsn_report *r = b->report;
    bool utf8 = b->charset == DSN_UTF8;
    part_start(b, utf8 ? "message/global-delivery-status" : "message/delivery-status",
               utf8 ? "8bit" : NULL);
    typed_field(b, "Reporting-MTA", "dns", r->hostname, DSN_NAME_MAX);
    xtext_field(b, "Original-Envelope-Id", NULL, r->original->envid, DSN_NAME_MAX);
    typed_field(b, "Received-From-MTA", "dns", r->original->client, DSN_NAME_MAX);
    date_field(b, "Arrival-Date", r->original->arrived_at);
    typed_field(b, "X-Relayd-Node", NULL, r->node, DSN_NAME_MAX);
    typed_field(b, "X-Relayd-Id", NULL, r->original->id, DSN_NAME_MAX);
    for (size_t i = 0; i < r->n_rcpts; i++)
        rcpt_build(b, &r->rcpts[i]);
}

/* -- the original
 * ---------------------------------------------------------------------------------- */

static void
original_build(struct build *b)
{
    bool utf8 = b->charset == DSN_UTF8;
    const char *type = b->full ? (utf8 ? "message/global" : "message/rfc822")
                               : (utf8 ? "message/global-headers" : "text/rfc822-headers");
    part_start(b, type, b->original_8bit ? "8bit" : NULL);
    strbuf_add_span(b->out, b->head);
    if (!b->full)
        return;
    strbuf_add_str(b->out, "\r\n");
    strbuf_add_span(b->out, b->report->original->body);
}

enum err_code
dsn_build(const struct dsn_report *report, struct strbuf *out, struct dsn_built *ret,
          struct err *err)
{
    struct build b = {.report = report, .out = out};
    size_t start = out->n;

    assert(report->n_languages > 0);
    if (report->original->sender.n == 0)
        return err_set(err, ERR_INVAL, "a message with a null sender gets no report");
    if (report->n_rcpts == 0)
        return err_set(err, ERR_INVAL, "a report needs a recipient to tell of");
    if (report->n_rcpts > DSN_RCPTS_MAX)
        return err_set(err, ERR_LIMIT, "%zu recipients in one report, at most %u", report->n_rcpts,
                       DSN_RCPTS_MAX);
    build_plan(&b);
    header_build(&b);
    size_t body_at = out->n - start;
    strbuf_add_str(out, "This is a delivery report in MIME format (RFC 3464).\r\n");
    text_build(&b);
    status_build(&b);
    original_build(&b);
    strbuf_printf(out, "\r\n--%s--\r\n", b.boundary);
    *ret = (struct dsn_built){
        .body_at = body_at,
        .is_8bit = b.original_8bit || b.charset == DSN_UTF8,
        .smtputf8 = !dsn_is_ascii(report->original->sender),
    };
    return ERR_OK;
}
