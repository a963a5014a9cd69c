/*
 * How it works: line by line with memchr. As long as lines are clean, one run grows over all of
 * them; only a dot at the start of a line, or a stray CR or LF, ends the run and adds a constant
 * piece. A clean chunk is a single piece, whatever its size.
 */
#include "relayd/deliver/body.h"

#include <assert.h>

/* Pieces being written, and the run [start, at) of the input that leaves as it is. */
struct sink {
    struct span *pieces;
    size_t n;
    const char *start;
};

static void
piece(struct sink *k, struct span s)
{
    if (s.n > 0)
        k->pieces[k->n++] = s;
}

/* End the run before `at`, put `constant` out, go on at `next`. At most two pieces. */
static void
interrupt(struct sink *k, const char *at, struct span constant, const char *next)
{
    piece(k, span_of(k->start, (size_t)(at - k->start)));
    piece(k, constant);
    k->start = next;
}

/* What the CR at the end of the last input turns into now that the next byte is known. */
static void
held_cr(struct body_stuffer *b, struct sink *k, const char **at, char next)
{
    b->cr_held = false;
    if (next == '\n') {
        interrupt(k, *at, SPAN("\r\n"), *at + 1);
        (*at)++;
        b->mid_line = false;
    } else {
        interrupt(k, *at, SPAN(" "), *at);
        b->mid_line = true;
    }
}

/* One line, or what there is of it: [at, end). Returns where to go on. */
static const char *
line(struct body_stuffer *b, struct sink *k, const char *at, const char *end)
{
    if (!b->mid_line && *at == '.')
        interrupt(k, at, SPAN("."), at);
    const char *lf = memchr(at, '\n', (size_t)(end - at));
    const char *stop = lf == NULL ? end : lf;
    const char *cr = memchr(at, '\r', (size_t)(stop - at));
    if (cr != NULL && cr + 1 < stop) { /* a bare CR in mid-line */
        interrupt(k, cr, SPAN(" "), cr + 1);
        b->mid_line = true;
        return cr + 1;
    }
    if (lf == NULL && cr != NULL) { /* the input ends in CR: wait for what follows */
        interrupt(k, cr, SPAN(""), end);
        b->cr_held = true;
        b->mid_line = true;
        return end;
    }
    b->mid_line = lf == NULL;
    if (lf != NULL && cr == NULL)
        interrupt(k, lf, SPAN("\r\n"), lf + 1);
    return lf == NULL ? end : lf + 1;
}

size_t
body_stuff(struct body_stuffer *b, struct span input, struct span *pieces, size_t max,
           size_t *ret_used)
{
    assert(max >= BODY_PIECES_MIN);
    struct sink k = {.pieces = pieces, .start = input.p};
    const char *at = input.p;
    const char *end = input.n == 0 ? input.p : input.p + input.n;
    if (at != end && b->cr_held)
        held_cr(b, &k, &at, *at);
    /* A line adds at most 4 pieces: run, dot, run, line end; the last run needs one more. */
    while (at != end && k.n + 5 <= max)
        at = line(b, &k, at, end);
    piece(&k, span_of(k.start, (size_t)(at - k.start)));
    assert(k.n <= max);
    *ret_used = (size_t)(at - input.p);
    return k.n;
}

struct span
body_end(struct body_stuffer *b)
{
    struct span s = b->mid_line || b->cr_held ? SPAN("\r\n.\r\n") : SPAN(".\r\n");
    *b = (struct body_stuffer){0};
    return s;
}
