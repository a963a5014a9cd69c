/*
 * dkim_canon.c - relaxed canonicalisation, for the signatures that libopendkim does not make.
 *
 * Input is CRLF text that dkim_select.c has passed, so a CR is always followed by an LF and the LF
 * alone tells the end of a line, whatever the pieces are.
 */
#include "policy/dkim_internal.h"

static bool
is_white(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/*
 * How much of the text, from its start, is its own relaxed form: words with one blank between them,
 * lines that begin and end with a word. Nearly everything is, so this is the loop that counts.
 */
static size_t
plain_length(struct span text)
{
    size_t i = 0;
    for (;;) {
        while (i < text.n && (unsigned char)text.p[i] > ' ')
            i++;
        size_t left = text.n - i;
        if (left > 1 && text.p[i] == ' ' && (unsigned char)text.p[i + 1] > ' ')
            i++;
        else if (left > 2 && text.p[i] == '\r' && (unsigned char)text.p[i + 2] > ' ')
            i += 2;
        else if (left > 0 && !is_white(text.p[i]))
            i++; /* another control character */
        else
            return i;
    }
}

void
dkim_canon_header(const struct dkim_field *field, struct strbuf *out)
{
    for (size_t i = 0; i < field->name_length; i++)
        strbuf_add_byte(out, ascii_lower(field->text.p[i]));
    strbuf_add_byte(out, ':');

    struct span rest = span_from(field->text, field->name_length);
    rest = span_trim(span_from(rest, span_find_byte(rest, ':') + 1));
    while (rest.n > 0) {
        size_t n = plain_length(rest), blanks;
        strbuf_add(out, rest.p, n);
        for (blanks = n; blanks < rest.n && is_white(rest.p[blanks]);)
            blanks++;
        if (blanks > n)
            strbuf_add_byte(out, ' ');
        rest = span_from(rest, blanks);
    }
}

void
dkim_canon_body_start(struct dkim_canon_body *body, EVP_MD_CTX *hash)
{
    body->hash = hash;
    body->n_newlines = 0;
    body->any = body->blank = body->failed = false;
    body->n = 0;
}

static void
body_flush(struct dkim_canon_body *body)
{
    body->failed |= EVP_DigestUpdate(body->hash, body->buf, body->n) != 1;
    body->n = 0;
}

static void
body_put(struct dkim_canon_body *body, const char *p, size_t n)
{
    if (n > sizeof(body->buf) - body->n)
        body_flush(body);
    if (n >= sizeof(body->buf)) {
        body->failed |= EVP_DigestUpdate(body->hash, p, n) != 1;
        return;
    }
    memcpy(body->buf + body->n, p, n);
    body->n += n;
}

void
dkim_canon_body_add(struct dkim_canon_body *body, struct span piece)
{
    for (size_t i = 0; i < piece.n;) {
        if (piece.p[i] == '\n') {
            body->n_newlines++;
            body->blank = false; /* blanks at the end of a line are dropped */
            i++;
        } else if (piece.p[i] == '\r') {
            i++;
        } else if (piece.p[i] == ' ' || piece.p[i] == '\t') {
            body->blank = true;
            i++;
        } else {
            size_t start = i;
            for (; body->n_newlines > 0; body->n_newlines--)
                body_put(body, "\r\n", 2);
            if (body->blank)
                body_put(body, " ", 1);
            body->blank = false;
            body->any = true;
            i += plain_length(span_from(piece, i));
            body_put(body, piece.p + start, i - start);
        }
    }
}

/* Empty lines at the end are dropped; a body that is not empty then ends in one CRLF. */
bool
dkim_canon_body_finish(struct dkim_canon_body *body)
{
    if (body->any)
        body_put(body, "\r\n", 2);
    body_flush(body);
    return !body->failed;
}
