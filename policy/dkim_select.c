/*
 * dkim_select.c - which fields are signed, and what can't be signed by its form.
 *
 * Only fields to be signed are handed to a signer at all: libopendkim then needs no list of names
 * (a regular expression behind a lock), never sees a malformed DKIM-Signature, and its h= stays
 * within the 4,096 octets beyond which it silently drops names.
 */
#include "policy/dkim_internal.h"

#include "policy/base/mem.h"
#include "policy/header.h"

/* RFC 6376 section 5.4.1, the MIME fields, and what mail programs show or act on. */
static const char *const signed_names[] = {
    "From",
    "Reply-To",
    "Subject",
    "Date",
    "To",
    "Cc",
    "Sender",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Resent-Date",
    "Resent-From",
    "Resent-Sender",
    "Resent-To",
    "Resent-Cc",
    "Resent-Message-ID",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-ID",
    "Content-Description",
    "Content-Disposition",
    "Content-Language",
};

const char *const dkim_oversigned[] = {"From", "To", "Cc", "Subject", "Date", "Reply-To", NULL};

static bool
is_signed_name(struct span name)
{
    for (size_t i = 0; i < N_ELEMENTS(signed_names); i++)
        if (span_ieq(name, span_str(signed_names[i])))
            return true;
    return false;
}

/* Only CRLF, and no NUL: libopendkim cuts a field there. */
static bool
is_clean(struct span text)
{
    for (struct span rest = text;;) {
        size_t cr = span_find_byte(rest, '\r');
        size_t lf = span_find_byte(span_first(rest, cr), '\n');
        if (lf != SIZE_MAX)
            return false;
        if (cr == SIZE_MAX)
            return span_find_byte(text, '\0') == SIZE_MAX;
        if (cr + 1 >= rest.n || rest.p[cr + 1] != '\n')
            return false;
        rest = span_from(rest, cr + 2);
    }
}

static const char *
select_field(const struct header_field *field, struct dkim_selection *selection,
             size_t *names_bytes)
{
    struct span text =
        span_first(field->whole, (size_t)(field->value.p - field->whole.p) + field->value.n);
    *names_bytes += field->name.n + 1;
    if (selection->n_fields == DKIM_SIGNED_FIELDS_MAX || *names_bytes > DKIM_FIELD_NAMES_MAX)
        return "too many fields would have to be signed";
    if (!is_clean(text))
        return "a header field holds a bare CR, a bare LF or a NUL";
    /* White space to libopendkim, but not to RFC 6376 section 3.4.2: other verifiers would find the
     * signature broken. */
    if (span_find_byte(text, '\v') != SIZE_MAX || span_find_byte(text, '\f') != SIZE_MAX)
        return "a header field holds a vertical tab or a form feed";
    selection->fields[selection->n_fields++] = (struct dkim_field){text, field->name.n};
    return NULL;
}

/* Goes on after a refusal: whether it matters depends on the From field, which may come later. */
static void
select_block(struct span block, struct dkim_selection *selection, size_t *names_bytes)
{
    struct header_field field;
    while (header_field_next(&block, &field)) {
        /* RFC 5322 section 4.5: verifiers refuse the whole message (dkimpy a blank, libopendkim a
         * tab), whether the field is signed or not. */
        if (field.whole.p[field.name.n] != ':' && selection->refusal == NULL)
            selection->refusal = "a blank stands before the colon of a field";
        if (!is_signed_name(field.name))
            continue;
        if (selection->from.p == NULL && span_ieq(field.name, SPAN("From")))
            selection->from = field.value;
        if (selection->refusal == NULL)
            selection->refusal = select_field(&field, selection, names_bytes);
    }
    if (block.n > 0 && selection->refusal == NULL)
        selection->refusal = "a line in the header block is no field";
}

void
dkim_select(const struct dkim_message *message, struct dkim_selection *ret)
{
    size_t names_bytes = 0;
    ret->n_fields = 0;
    ret->from = SPAN_NONE;
    ret->refusal = NULL;
    for (size_t i = 0; dkim_oversigned[i] != NULL; i++)
        names_bytes += strlen(dkim_oversigned[i]) + 1;
    for (size_t i = 0; i < message->n_head; i++)
        select_block(message->head[i], ret, &names_bytes);
}

/* The value of tag `name` in a tag list (RFC 6376 section 3.2), blanks at its ends removed. */
static struct span
tag_value(struct span tags, struct span name)
{
    while (tags.n > 0) {
        struct span value = span_cut(&tags, ';');
        struct span tag = span_cut(&value, '=');
        if (span_eq(span_trim(tag), name))
            return span_trim(value);
    }
    return SPAN_NONE;
}

bool
dkim_is_signed_by(const struct dkim_message *message, struct span domain, struct span selector)
{
    for (size_t i = 0; i < message->n_head; i++) {
        struct header_field field;
        struct span rest = message->head[i];
        while (header_field_next(&rest, &field))
            if (span_ieq(field.name, SPAN("DKIM-Signature")) &&
                span_ieq(tag_value(field.value, SPAN("d")), domain) &&
                span_ieq(tag_value(field.value, SPAN("s")), selector))
                return true;
    }
    return false;
}

void
dkim_body_check(struct dkim_body_check *check, struct span piece)
{
    if (piece.n == 0 || check->refusal != NULL)
        return;
    check->any = true;
    if (span_find_byte(piece, '\0') != SIZE_MAX)
        check->refusal = "the body holds a NUL";
    /* Each CR must be followed by an LF, and each LF preceded by a CR: across pieces, too. */
    size_t i = 0;
    if (check->after_cr && piece.p[0] != '\n')
        check->refusal = "the body holds a bare CR";
    else if (check->after_cr)
        i = 1;
    check->after_cr = false;
    check->ends_with_newline = i == 1 && piece.n == 1;
    while (i < piece.n) {
        struct span rest = span_from(piece, i);
        size_t lf = span_find_byte(rest, '\n');
        size_t cr = span_find_byte(span_first(rest, lf), '\r');
        if (lf != SIZE_MAX && cr != SIZE_MAX && cr + 1 == lf) {
            i += lf + 1;
            check->ends_with_newline = i == piece.n;
        } else if (lf == SIZE_MAX && cr != SIZE_MAX && cr + 1 == rest.n) {
            check->after_cr = true;
            return;
        } else {
            if (cr != SIZE_MAX || lf != SIZE_MAX)
                check->refusal = "the body holds a bare CR or a bare LF";
            check->ends_with_newline = false;
            return;
        }
    }
}

const char *
dkim_body_refusal(const struct dkim_body_check *check)
{
    if (check->refusal != NULL)
        return check->refusal;
    return check->any && !check->ends_with_newline ? "the body does not end with CRLF" : NULL;
}
