/*
 * data - the body filter. Called by verb_data.c.
 *
 * Two machines share one state. The careful one takes octet by octet and knows every rule:
 *
 *             '.' (DATA)          CR            LF
 *   LINE_START ────────▶ DOT ───────▶ DOT_CR ───────▶ the end
 *     │  ▲                │ else: drop │ else: drop the dot, a bare CR
 *     │  └──LF── CR ◀─CR──┼─┐          │
 *     └─ else ─▶ TEXT ◀───┴─┘◀─────────┘
 *
 * The fast one runs from LINE_START or TEXT over whole clean lines with memchr and hands them on in
 * place; at anything else it stops, and the careful one takes the line. A bare LF starts a line of
 * the message, but never LINE_START: a dot behind it is only a dot.
 */
#include "relayd/accept/data.h"

#include <assert.h>

enum state { LINE_START, TEXT, CR, DOT, DOT_CR, ENDED };

/* Where in the message we are: the first line decides whether it has a header at all. */
enum part {
    NAME,   /* in what may be the first field's name */
    BLANKS, /* behind it, before a colon (RFC 5322 section 4.5) */
    HEADER,
    BODY
};

#define TAIL_FROM (DATA_LINE_MAX - 3) /* columns from here on wait in `tail` */
/* One octet can put out the tail, a break, a blank and itself. */
#define SCRATCH_FULL (DATA_SCRATCH_BYTES - 16)
#define CAREFUL_MIN 256 /* after something unclean, so that dirty input is not cut into crumbs */

struct out {
    char *p;
    size_t n;
};

void
data_init(struct data *d, const struct data_limits *limits)
{
    *d = (struct data){.limits = *limits, .state = LINE_START, .part = NAME};
}

static void
set_fault(struct data *d, enum data_fault fault)
{
    if (d->fault == DATA_FAULT_NONE)
        d->fault = (uint8_t)fault;
}

static void
put(struct out *out, const char *p, size_t n)
{
    memcpy(out->p + out->n, p, n);
    out->n += n;
}

static void
count(struct data *d, uint64_t n)
{
    d->n_bytes += n;
    if (d->n_bytes > d->limits.message_bytes)
        set_fault(d, DATA_FAULT_SIZE);
    if (d->part != BODY) {
        d->n_header_bytes += n;
        if (d->n_header_bytes > d->limits.header_bytes)
            set_fault(d, DATA_FAULT_HEADER);
    }
}

static void
flush_tail(struct data *d, struct out *out)
{
    put(out, d->tail, d->n_tail);
    d->n_tail = 0;
}

/* Is octet 999, `c`, inside a UTF-8 character that began in the tail? Then the break goes before
 * that; the result is how much of the tail stays on the line. */
static size_t
break_at(const struct data *d, char c)
{
    if (((unsigned char)c & 0xc0) != 0x80)
        return d->n_tail;
    for (size_t i = d->n_tail; i-- > 0;) {
        unsigned char t = (unsigned char)d->tail[i];
        if ((t & 0xc0) == 0xc0)
            return i;
        if (t < 0x80)
            break;
    }
    return d->n_tail;
}

static void
break_line(struct data *d, char c, struct out *out)
{
    size_t keep = break_at(d, c), rest = d->n_tail - keep;

    put(out, d->tail, keep);
    put(out, "\r\n ", 3);
    put(out, d->tail + keep, rest);
    d->n_tail = 0;
    d->column = (uint32_t)(1 + rest);
    d->lines_broken++;
}

/* Does the first line look like a field so far? */
static void
judge_first_line(struct data *d, char c)
{
    bool blank = c == ' ' || c == '\t';

    if (c == ':' && d->column > 0)
        d->part = HEADER;
    else if (d->column >= TAIL_FROM)
        d->part = BODY; /* no name is so long, and a body line has to be watched from here on */
    else if (blank && d->column > 0)
        d->part = BLANKS;
    else if (d->part == BLANKS || c < 33 || c > 126 || c == ':')
        d->part = BODY;
}

static void
text(struct data *d, char c, struct out *out)
{
    if (d->part < HEADER)
        judge_first_line(d, c);
    count(d, 1);
    /* After a fault the fast machine lets lines of any length pass, and nothing is handed on. */
    if (d->part == BODY && d->fault == DATA_FAULT_NONE) {
        if (d->column == DATA_LINE_MAX)
            break_line(d, c, out);
        if (d->column >= TAIL_FROM) {
            assert(d->n_tail < sizeof d->tail);
            d->tail[d->n_tail++] = c;
            d->column++;
            return;
        }
    }
    put(out, &c, 1);
    d->column++;
}

static void
newline(struct data *d, struct out *out)
{
    flush_tail(d, out);
    count(d, 2);
    put(out, "\r\n", 2);
    if (d->part < HEADER || (d->part == HEADER && d->column == 0))
        d->part = BODY;
    d->column = 0;
}

static void
bare_newline(struct data *d, char c, struct out *out)
{
    d->newlines_fixed++;
    if (d->limits.reject_newlines)
        set_fault(d, DATA_FAULT_NEWLINE);
    if (c == '\n')
        newline(d, out);
    else
        text(d, ' ', out);
}

/* An octet where nothing is pending. */
static void
plain(struct data *d, char c, struct out *out)
{
    d->state = TEXT;
    if (c == '\r') {
        d->state = CR;
    } else if (c == '\n') {
        bare_newline(d, c, out);
    } else {
        if (c == '\0')
            set_fault(d, DATA_FAULT_NUL);
        text(d, c, out);
    }
}

static void
octet(struct data *d, char c, struct out *out)
{
    switch ((enum state)d->state) {
    case LINE_START:
        if (c == '.' && d->limits.dots)
            d->state = DOT;
        else
            plain(d, c, out);
        return;
    case TEXT:
        plain(d, c, out);
        return;
    case CR:
        if (c == '\n') {
            newline(d, out);
            d->state = LINE_START;
        } else {
            bare_newline(d, '\r', out);
            plain(d, c, out);
        }
        return;
    case DOT:
        if (c == '\r')
            d->state = DOT_CR;
        else
            plain(d, c, out);
        return;
    case DOT_CR:
        if (c == '\n') {
            d->state = ENDED;
        } else {
            bare_newline(d, '\r', out);
            plain(d, c, out);
        }
        return;
    case ENDED:
        assert(!"octets behind the end");
    }
}

/* Text without anything special in it, at once: as much as needs no rule but copying. */
static size_t
plain_run(struct data *d, struct span in, struct out *out)
{
    size_t max = SCRATCH_FULL - out->n, n = 0;

    if (d->part < HEADER || d->n_tail > 0 || d->state != TEXT)
        return 0;
    if (d->part == BODY) {
        size_t room = d->column < TAIL_FROM ? TAIL_FROM - d->column : 0;
        max = max < room ? max : room;
    }
    if (in.n < max)
        max = in.n;
    if (d->n_bytes + max > d->limits.message_bytes ||
        (d->part != BODY && d->n_header_bytes + max > d->limits.header_bytes))
        return 0; /* octet by octet to the limit */
    while (n < max && in.p[n] != '\r' && in.p[n] != '\n' && in.p[n] != '\0')
        n++;
    put(out, in.p, n);
    count(d, n);
    d->column += (uint32_t)n;
    return n;
}

/* Octet by octet until the scratch is full, or the next line may be clean. Returns what it took. */
static size_t
careful(struct data *d, struct span in, struct out *out)
{
    uint64_t dirt = d->newlines_fixed + d->lines_broken;
    size_t i = 0;
    bool dirty = false;

    while (i < in.n && d->state != ENDED && out->n < SCRATCH_FULL) {
        i += plain_run(d, span_from(in, i), out);
        if (i == in.n || out->n >= SCRATCH_FULL)
            break;
        octet(d, in.p[i++], out);
        dirty = dirty || d->state == DOT;
        if (d->state == LINE_START && d->part >= HEADER &&
            (out->n >= CAREFUL_MIN || (!dirty && dirt == d->newlines_fixed + d->lines_broken)))
            break;
    }
    return i;
}

/* May these n octets of a line, and its CRLF when it is `whole`, be handed on as they are? */
static bool
is_clean(const struct data *d, const char *p, size_t n, bool whole)
{
    size_t total = n + (whole ? 2 : 0);

    if (d->n_bytes + total > d->limits.message_bytes)
        return false;
    if (d->part == BODY) {
        if (d->column + n > (whole ? DATA_LINE_MAX : TAIL_FROM))
            return false;
    } else if (d->n_header_bytes + total > d->limits.header_bytes) {
        return false;
    }
    return memchr(p, '\n', n) == NULL && memchr(p, '\0', n) == NULL;
}

/* Over whole clean lines, and the clean beginning of the last one. Returns what it took. */
static size_t
fast(struct data *d, struct span in)
{
    const char *p = in.p, *end = in.p + in.n;

    if (d->part < HEADER || d->n_tail > 0 || (d->state != LINE_START && d->state != TEXT))
        return 0;
    while (p < end && !(d->state == LINE_START && *p == '.' && d->limits.dots)) {
        const char *cr = memchr(p, '\r', (size_t)(end - p));
        const char *stop = cr == NULL ? end : cr;
        bool whole = cr != NULL && cr + 1 < end;
        size_t n = (size_t)(stop - p), with_newline = n + (whole ? 2 : 0);

        if ((whole && cr[1] != '\n') || (d->fault == DATA_FAULT_NONE && !is_clean(d, p, n, whole)))
            break;
        count(d, with_newline);
        d->column += (uint32_t)n;
        if (!whole) {
            if (n > 0)
                d->state = TEXT;
            p = stop;
            break;
        }
        if (d->part == HEADER && d->column == 0)
            d->part = BODY;
        d->column = 0;
        d->state = LINE_START;
        p = stop + 2;
    }
    return (size_t)(p - in.p);
}

enum data_event
data_next(struct data *d, struct span *in, char *scratch, struct span *ret_out)
{
    while (in->n > 0 && d->state != ENDED) {
        struct out out = {scratch, 0};
        struct span result = {in->p, fast(d, *in)};
        size_t taken = result.n;

        if (taken == 0) {
            taken = careful(d, *in, &out);
            result = span_of(out.p, out.n);
        }
        *in = span_from(*in, taken);
        if (result.n > 0 && d->fault == DATA_FAULT_NONE) {
            d->n_out += result.n;
            *ret_out = result;
            return DATA_OUT;
        }
    }
    return d->state == ENDED ? DATA_END : DATA_NEED;
}

struct span
data_finish(struct data *d, char *scratch)
{
    struct out out = {scratch, 0};

    assert(!d->limits.dots && d->state != ENDED);
    if (d->state == CR)
        bare_newline(d, '\r', &out);
    if (d->column > 0)
        newline(d, &out);
    d->state = ENDED;
    if (d->fault != DATA_FAULT_NONE)
        return SPAN_NONE;
    d->n_out += out.n;
    return span_of(out.p, out.n);
}

bool
data_ended(const struct data *d)
{
    return d->state == ENDED;
}
