/*
 * How it works: the end is looked for in the whole input; its lines are unstuffed and normalised
 * into one text; faults are those of the first octet of that text that has one; at last the long
 * lines of the body are broken.
 */
#include "tests/dialog/models/data_model.h"

/* A text that grows under limits, octet by octet. */
struct growing {
    const struct data_limits *limits;
    struct strbuf text;
    enum data_fault fault;
    size_t line;    /* where the current one begins */
    size_t body_at; /* where the body begins; SIZE_MAX: not yet */
    enum { HEADER_UNKNOWN, HEADER_NO, HEADER_YES } header;
};

static void
fault(struct growing *g, enum data_fault f)
{
    if (g->fault == DATA_FAULT_NONE)
        g->fault = f;
}

/* Is the first line a field, as far as `line` goes: name, blanks, colon (RFC 5322 section 4.5)? */
static bool
is_field(struct span line)
{
    size_t name = 0;

    while (name < line.n && line.p[name] > 32 && line.p[name] < 127 && line.p[name] != ':')
        name++;
    size_t colon = name;
    while (colon < line.n && (line.p[colon] == ' ' || line.p[colon] == '\t'))
        colon++;
    return name > 0 && colon < line.n && line.p[colon] == ':' && colon <= DATA_LINE_MAX - 3;
}

/* Is there a header at all? Asked when the first line is whole, or longer than a name may be. */
static bool
has_header(struct growing *g)
{
    if (g->header == HEADER_UNKNOWN)
        g->header = is_field(span_first(strbuf_span(&g->text), g->line == 0 ? g->text.n : g->line))
                        ? HEADER_YES
                        : HEADER_NO;
    return g->header == HEADER_YES;
}

static void
measure(struct growing *g)
{
    if (g->text.n > g->limits->message_bytes)
        fault(g, DATA_FAULT_SIZE);
    if (g->body_at == SIZE_MAX && g->text.n > g->limits->header_bytes && has_header(g))
        fault(g, DATA_FAULT_HEADER);
}

static void
octet(struct growing *g, char c)
{
    if (c == '\0')
        fault(g, DATA_FAULT_NUL);
    strbuf_add_byte(&g->text, c);
    measure(g);
}

static void
newline(struct growing *g)
{
    size_t length = g->text.n - g->line;

    strbuf_add_str(&g->text, "\r\n");
    measure(g);
    if (g->body_at == SIZE_MAX) {
        bool first = g->line == 0;
        if (first && !is_field(span_first(strbuf_span(&g->text), length)))
            g->body_at = 0;
        else if (length == 0)
            g->body_at = g->text.n;
    }
    g->line = g->text.n;
}

static void
normalise(struct growing *g, struct span in)
{
    bool crlf_before = true; /* at the start of a line as the client wrote it */

    for (size_t i = 0; i < in.n; i++) {
        bool crlf = in.p[i] == '\r' && i + 1 < in.n && in.p[i + 1] == '\n';
        bool bare = !crlf && (in.p[i] == '\r' || in.p[i] == '\n');
        bool stuffed = in.p[i] == '.' && crlf_before && g->limits->dots;
        crlf_before = crlf;
        if (bare && g->limits->reject_newlines)
            fault(g, DATA_FAULT_NEWLINE);
        if (crlf || in.p[i] == '\n')
            newline(g);
        else if (!stuffed)
            octet(g, bare ? ' ' : in.p[i]);
        i += crlf;
    }
}

/* How much of a line stays when it is broken: no UTF-8 character is cut in two. */
static size_t
break_at(struct span line)
{
    if (((unsigned char)line.p[DATA_LINE_MAX] & 0xc0) != 0x80)
        return DATA_LINE_MAX;
    for (size_t i = DATA_LINE_MAX - 1; i >= DATA_LINE_MAX - 3; i--) {
        if (((unsigned char)line.p[i] & 0xc0) == 0xc0)
            return i;
        if ((unsigned char)line.p[i] < 0x80)
            break;
    }
    return DATA_LINE_MAX;
}

static void
break_lines(struct span text, size_t body_at, struct strbuf *out)
{
    struct strbuf line = STRBUF_INIT;

    body_at = body_at == SIZE_MAX ? text.n : body_at;
    strbuf_add_span(out, span_first(text, body_at));
    text = span_from(text, body_at);
    while (text.n > 0) {
        size_t n = span_find(text, SPAN("\r\n"));
        strbuf_reset(&line);
        strbuf_add_span(&line, span_first(text, n == SIZE_MAX ? text.n : n));
        text = span_from(text, n == SIZE_MAX ? text.n : n + 2);
        while (line.n > DATA_LINE_MAX) {
            size_t keep = break_at(strbuf_span(&line));
            strbuf_add(out, line.p, keep);
            strbuf_add_str(out, "\r\n");
            strbuf_consume(&line, keep - 1);
            line.p[0] = ' ';
        }
        strbuf_add_span(out, strbuf_span(&line));
        if (n != SIZE_MAX)
            strbuf_add_str(out, "\r\n");
    }
    strbuf_release(&line);
}

void
data_model(const struct data_limits *limits, struct span in, bool last, struct data_model *ret)
{
    struct growing g = {.limits = limits, .text = STRBUF_INIT, .body_at = SIZE_MAX};

    *ret = (struct data_model){.ended = last, .used = in.n};
    if (limits->dots) {
        size_t dot = span_starts(in, SPAN(".\r\n")) ? 0 : span_find(in, SPAN("\r\n.\r\n"));
        if (dot != SIZE_MAX) {
            dot += in.p[dot] == '\r' ? 2 : 0;
            ret->used = dot + 3;
            ret->ended = true;
            in = span_first(in, dot);
        }
    }
    if (!ret->ended && span_ends(in, SPAN("\r")))
        in.n--;
    normalise(&g, in);
    if (last && g.text.n > g.line)
        newline(&g); /* BDAT may end in mid-line */
    ret->fault = g.fault;
    ret->n_bytes = g.text.n;
    if (g.body_at == SIZE_MAX && g.text.n > 0 &&
        !is_field(span_first(strbuf_span(&g.text), g.line == 0 ? g.text.n : g.line)))
        g.body_at = 0;
    break_lines(strbuf_span(&g.text), g.body_at, &ret->out);
    strbuf_release(&g.text);
}
