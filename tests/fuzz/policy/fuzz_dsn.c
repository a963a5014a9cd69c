/*
 * fuzz_dsn - reports whose every text from outside is arbitrary: replies, names, addresses, xtext,
 * and the original. Whatever they hold, the report keeps its parts, its fields and its lines.
 *
 * Input: two octets of flags, then texts, each an octet for its length and so many octets; the rest
 * is the original, header first.
 */
#include "policy/base/mem.h"
#include "policy/dsn.h"
#include "policy/header.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

#define NOW ((msec_t)1700591100000)
#define RCPTS 3
#define LINE_MAX 998

static struct span
take(struct span *in)
{
    if (in->n == 0)
        return SPAN_NONE;
    size_t n = (unsigned char)in->p[0];
    struct span text = span_first(span_from(*in, 1), n);
    *in = span_from(*in, 1 + text.n);
    return text;
}

/* What accept hands on: CRLF lines of at most 998 octets, no NUL; `head`: and no empty line. */
static void
normalise(struct span text, bool head, struct strbuf *out)
{
    size_t line = 0;

    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        if (c == '\r' || c == '\0')
            continue;
        if (c != '\n' && line < LINE_MAX) {
            strbuf_add_byte(out, c);
            line++;
            continue;
        }
        if (line > 0 || !head)
            strbuf_add_str(out, "\r\n");
        line = 0;
    }
    if (line > 0)
        strbuf_add_str(out, "\r\n");
}

/* The value of boundary="..." in the report's header. */
static struct span
boundary_of(struct span head)
{
    size_t at = span_find(head, SPAN("\r\n\tboundary=\""));
    CHECK(at != SIZE_MAX);
    struct span rest = span_from(head, at + strlen("\r\n\tboundary=\""));
    return span_cut(&rest, '"');
}

static bool
is_ascii(struct span text)
{
    for (size_t i = 0; i < text.n; i++)
        if ((unsigned char)text.p[i] > 126)
            return false;
    return true;
}

/* A line of the machine's part: a field that a report may have, more of the one before, or the
 * empty line between recipients. */
static void
check_field(struct span line, size_t *finals, size_t *actions)
{
    static const char *const names[] = {
        "Reporting-MTA: dns; ",
        "Original-Envelope-Id: ",
        "Received-From-MTA: dns; ",
        "Arrival-Date: ",
        "X-Relayd-Node: ",
        "X-Relayd-Id: ",
        "Original-Recipient: ",
        "Final-Recipient: ",
        "Action: ",
        "Status: ",
        "Remote-MTA: dns; ",
        "Diagnostic-Code: ",
        "Last-Attempt-Date: ",
        "Final-Log-ID: ",
        "Will-Retry-Until: ",
        "X-Relayd-Route: ",
        "X-Relayd-Refusal: ",
    };
    bool known = line.n == 0 || line.p[0] == ' ';

    for (size_t i = 0; i < N_ELEMENTS(names); i++) {
        /* Without the last blank: a value may begin on the next line, or be empty. */
        struct span name = span_str(names[i]);
        name.n = span_find_byte(name, ':') + 1;
        known = known || span_starts(line, name);
    }
    CHECK(known);
    *finals += span_starts(line, SPAN("Final-Recipient:"));
    *actions += span_starts(line, SPAN("Action:"));
}

static void
check_body(const struct dsn_report *report, struct span body, struct span boundary)
{
    CLEANUP(strbuf_release) struct strbuf open = STRBUF_INIT, close = STRBUF_INIT;
    size_t part = 0, closed = 0, finals = 0, actions = 0;
    bool in_fields = false;

    strbuf_printf(&open, "--%.*s", SPAN_ARG(boundary));
    strbuf_printf(&close, "--%.*s--", SPAN_ARG(boundary));
    while (body.n > 0) {
        struct span line = span_cut(&body, '\n');
        CHECK(line.n > 0 && line.p[line.n - 1] == '\r' && line.n - 1 <= LINE_MAX);
        line.n--;
        CHECK(span_find_byte(line, '\r') == SIZE_MAX && span_find_byte(line, '\0') == SIZE_MAX);
        if (span_eq(line, strbuf_span(&close)))
            closed++;
        if (span_eq(line, strbuf_span(&open))) {
            part++;
            in_fields = false;
        } else if (part == 2 && in_fields) {
            check_field(line, &finals, &actions);
        } else if (line.n == 0) {
            in_fields = part == 2;
        }
        CHECK(closed == 0 || body.n == 0);
    }
    CHECK(part == 3 && closed == 1);
    CHECK(finals <= report->n_rcpts && actions == report->n_rcpts);
}

static void
check_report(const struct dsn_report *report, struct span text, const struct dsn_built *built)
{
    struct span head = span_first(text, built->body_at), body = span_from(text, built->body_at);
    struct header_facts facts;

    CHECK(span_ends(head, SPAN("\r\n\r\n")));
    CHECK(header_scan(head, SPAN("h"), &facts, NULL) == ERR_OK);
    CHECK(!facts.broken && !facts.has_nul && facts.has_date && facts.has_message_id);
    CHECK(facts.body_at == head.n);
    CHECK(facts.n_fields >= 8 && facts.n_fields <= 11);
    CHECK(!facts.has_8bit || !is_ascii(report->original->sender));
    CHECK(built->is_8bit || is_ascii(text));
    check_body(report, body, boundary_of(head));
}

static void
rcpt_fill(struct dsn_rcpt *rcpt, struct dsn_refusal refusals[2], unsigned flags, struct span *in)
{
    for (size_t i = 0; i < 2; i++)
        refusals[i] = (struct dsn_refusal){.route = take(in),
                                           .mta = take(in),
                                           .ip = take(in),
                                           .at = NOW - MINUTE,
                                           .code = i == (flags & 1) ? 550 : 0,
                                           .text = take(in)};
    *rcpt = (struct dsn_rcpt){.address = take(in),
                              .orcpt = take(in),
                              .action = (enum dsn_action)(flags >> 1 & 3),
                              .status = {flags >> 3 & 7, 1, 65535},
                              .last_attempt_at = NOW - MINUTE,
                              .will_retry_until = NOW + DAY,
                              .final_log_id = take(in),
                              .expired = (flags & 64) != 0,
                              .refusals = refusals,
                              .n_refusals = flags >> 6 & 3};
    if (rcpt->n_refusals > 2)
        rcpt->n_refusals = 2;
    if (rcpt->address.n == 0)
        rcpt->address = SPAN("x@d.test"); /* a recipient always has one */
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const enum dsn_language languages[] = {DSN_EN, DSN_ZH};
    CLEANUP(strbuf_release)
    struct strbuf head = STRBUF_INIT, body = STRBUF_INIT, out = STRBUF_INIT;
    struct dsn_refusal refusals[RCPTS][2];
    struct dsn_rcpt rcpts[RCPTS];
    struct dsn_built built;
    struct err err;

    if (n < 2)
        return 0;
    unsigned flags = data[0];
    struct span in = span_of(data + 2, n - 2);
    struct dsn_original original = {.sender = take(&in),
                                    .envid = take(&in),
                                    .id = SPAN("cn.0123456789abc"),
                                    .client = take(&in),
                                    .ret_full = (flags & 4) != 0,
                                    .arrived_at = NOW - DAY};
    for (size_t i = 0; i < RCPTS; i++)
        rcpt_fill(&rcpts[i], refusals[i], data[1] ^ (unsigned)(i * 37), &in);
    struct span split = in;
    size_t end = span_find(split, SPAN("\n\n"));
    normalise(span_first(split, end), true, &head);
    normalise(span_from(split, end == SIZE_MAX ? split.n : end + 2), false, &body);
    original.head = strbuf_span(&head);
    original.body = strbuf_span(&body);
    original.has_8bit = !is_ascii(original.head) || !is_ascii(original.body);
    original.size_bytes = head.n + 2 + body.n + ((flags & 8) != 0);
    struct dsn_report report = {.kind = (flags & 3) % 3,
                                .languages = languages + (flags >> 4 & 1),
                                .n_languages = (flags & 16) != 0 ? 1 : 1 + (flags >> 5 & 1),
                                .node = SPAN("cn"),
                                .hostname = SPAN("relay.example.org"),
                                .postmaster = SPAN("postmaster@example.org"),
                                .notice_id = SPAN("cn.0123456789abd"),
                                .now = NOW,
                                .original = &original,
                                .rcpts = rcpts,
                                .n_rcpts = 1 + (flags >> 6) % RCPTS};
    enum err_code code = dsn_build(&report, &out, &built, &err);
    CHECK((code == ERR_OK) == (original.sender.n > 0));
    if (code == ERR_OK)
        check_report(&report, strbuf_span(&out), &built);
    return 0;
}
