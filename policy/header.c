/*
 * header.c - walking over header fields, the facts of a block, and the fields we add.
 *
 * Used by intake (facts, Received, Date, Message-ID), accept (block end, long lines) and the signer
 * (fields one by one). The walk looks at each line with memchr and at one octet behind it; only the
 * few fields that matter are looked into. Reading a From value is in header_from.c.
 */
#include "policy/header.h"

#include <assert.h>

#define HELO_MAX 255u

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The length of a field name at the start of `line`, and the place of its colon; 0: no field. */
static size_t
name_length(struct span line, size_t *ret_colon)
{
    size_t n = 0, colon;
    while (n < line.n && line.p[n] > ' ' && line.p[n] < 127 && line.p[n] != ':')
        n++;
    for (colon = n; colon < line.n && is_blank(line.p[colon]);)
        colon++;
    if (n == 0 || colon >= line.n || line.p[colon] != ':')
        return 0;
    *ret_colon = colon;
    return n;
}

/* Octets up to and including the next LF; all of it when there is none. */
static size_t
line_length(struct span text)
{
    size_t at = span_find_byte(text, '\n');
    return at == SIZE_MAX ? text.n : at + 1;
}

static struct span
without_newline(struct span line)
{
    if (line.n > 0 && line.p[line.n - 1] == '\n')
        line.n--;
    if (line.n > 0 && line.p[line.n - 1] == '\r')
        line.n--;
    return line;
}

bool
header_field_next(struct span *rest, struct header_field *ret)
{
    size_t colon, name = name_length(*rest, &colon);
    if (name == 0)
        return false;

    size_t end = line_length(*rest);
    while (end < rest->n && is_blank(rest->p[end]))
        end += line_length(span_from(*rest, end));
    ret->whole = span_first(*rest, end);
    ret->name = span_first(*rest, name);
    ret->value = span_from(without_newline(ret->whole), colon + 1);
    *rest = span_from(*rest, end);
    return true;
}

size_t
header_block_end(struct span text, size_t seen)
{
    if (span_starts(text, SPAN("\r\n")))
        return 2;
    /* The four octets may lie across the border between old and new. */
    size_t start = seen > 3 ? seen - 3 : 0;
    size_t at = start >= text.n ? SIZE_MAX : span_find(span_from(text, start), SPAN("\r\n\r\n"));
    return at == SIZE_MAX ? SIZE_MAX : start + at + 4;
}

bool
header_first_line_is_body(struct span text)
{
    size_t colon;
    return text.n > 0 && !span_starts(text, SPAN("\r\n")) && name_length(text, &colon) == 0;
}

static bool
has_8bit(struct span s)
{
    uint64_t word;
    size_t i = 0;
    for (; i + sizeof(word) <= s.n; i += sizeof(word)) {
        memcpy(&word, s.p + i, sizeof(word));
        if ((word & 0x8080808080808080u) != 0)
            return true;
    }
    for (; i < s.n; i++)
        if ((unsigned char)s.p[i] > 127)
            return true;
    return false;
}

static void
first_value(struct span *value, const struct header_field *field)
{
    if (value->p == NULL)
        *value = field->value;
}

/* Fields are told apart by their length first: most are none of these. */
static void
note_field(struct header_facts *facts, const struct header_field *field, struct span hostname)
{
    facts->n_fields++;
    switch (field->name.n) {
    case 4:
        if (span_ieq(field->name, SPAN("From")))
            first_value(&facts->from, field);
        else if (span_ieq(field->name, SPAN("Date")))
            facts->has_date = true;
        break;
    case 7:
        if (span_ieq(field->name, SPAN("Subject")))
            first_value(&facts->subject, field);
        break;
    case 8:
        if (span_ieq(field->name, SPAN("Received"))) {
            facts->n_received++;
            facts->n_received_ours += header_received_is_ours(field->value, hostname);
        }
        break;
    case 10:
        if (span_ieq(field->name, SPAN("Message-ID"))) {
            facts->has_message_id = true;
            first_value(&facts->message_id, field);
        }
        break;
    case 14:
        if (span_ieq(field->name, SPAN("DKIM-Signature")))
            facts->has_dkim_signature = true;
        break;
    default:
        break;
    }
}

enum err_code
header_scan(struct span text, struct span hostname, struct header_facts *ret, struct err *err)
{
    struct header_facts facts = {0};
    struct header_field field;
    struct span rest = text;

    while (rest.n > 0 && !span_starts(rest, SPAN("\r\n"))) {
        if (header_field_next(&rest, &field)) {
            note_field(&facts, &field, hostname);
        } else {
            facts.broken = true;
            rest = span_from(rest, line_length(rest));
        }
        if ((size_t)(rest.p - text.p) > HEADER_BYTES_MAX)
            return err_set(err, ERR_LIMIT, "the header block is longer than %u octets",
                           HEADER_BYTES_MAX);
    }
    facts.head_bytes = text.n - rest.n;
    facts.body_at = facts.head_bytes + (rest.n > 0 ? 2 : 0);
    struct span block = span_first(text, facts.head_bytes);
    facts.has_8bit = has_8bit(block);
    facts.has_nul = span_find_byte(block, '\0') != SIZE_MAX;
    *ret = facts;
    return ERR_OK;
}

/* -- Received ---------------------------------------------------------------------------------- */

static struct span
skip_blanks(struct span s)
{
    size_t i = 0;
    while (i < s.n && (is_blank(s.p[i]) || s.p[i] == '\r' || s.p[i] == '\n'))
        i++;
    return span_from(s, i);
}

/* Cut a comment, nested ones included, or a word off the front; blanks before it are skipped. */
static struct span
next_word(struct span *rest)
{
    struct span s = skip_blanks(*rest);
    size_t i = 0;
    if (s.n > 0 && s.p[0] == '(') {
        unsigned depth = 0;
        do {
            if (s.p[i] == '\\' && i + 1 < s.n)
                i++;
            else if (s.p[i] == '(')
                depth++;
            else if (s.p[i] == ')')
                depth--;
            i++;
        } while (i < s.n && depth > 0);
    } else {
        while (i < s.n && !is_blank(s.p[i]) && s.p[i] != '\r' && s.p[i] != '\n' && s.p[i] != ';' &&
               s.p[i] != '(')
            i++;
        if (i == 0 && s.n > 0)
            i = 1; /* the semicolon before the date */
    }
    *rest = span_from(s, i);
    return span_first(s, i);
}

bool
header_received_is_ours(struct span value, struct span hostname)
{
    struct span word = next_word(&value);

    if (span_ieq(word, SPAN("from")))
        next_word(&value); /* a client may call itself "by" */
    while (word.n > 0 && !span_ieq(word, SPAN("by")))
        word = next_word(&value);

    struct span host = next_word(&value);
    if (host.n > 1 && host.p[host.n - 1] == '.')
        host.n--;
    if (hostname.n == 0 || !span_ieq(host, hostname))
        return false;
    struct span comment = next_word(&value);
    return !span_starts(comment, SPAN("(")) || span_starts(comment, SPAN("(relayd"));
}

/* What a client calls itself is anything at all; only what a host name or an address literal may
 * hold is passed on. */
static void
add_helo(struct span helo, struct strbuf *out)
{
    if (helo.n == 0)
        strbuf_add_str(out, "unknown");
    for (size_t i = 0; i < helo.n && i < HELO_MAX; i++) {
        char c = helo.p[i];
        bool fine = ascii_alpha(c) || ascii_digit(c) || (c != '\0' && strchr(".-_:[]", c) != NULL);
        strbuf_add_byte(out, fine ? c : '?');
    }
}

/* Text that was parsed already (a path, a cipher name): nothing in it may end the line or the
 * comment that it stands in. */
static void
add_clean(struct span s, struct strbuf *out)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool bad = (unsigned char)c < ' ' || c == 127 || c == '(' || c == ')';
        strbuf_add_byte(out, bad ? '?' : c);
    }
}

void
header_received_format(const struct header_received *received, struct strbuf *out)
{
    bool ipv6 = span_find_byte(received->client_ip, ':') != SIZE_MAX;

    strbuf_add_str(out, "Received: from ");
    add_helo(received->helo, out);
    strbuf_add_str(out, ipv6 ? " ([IPv6:" : " ([");
    add_clean(received->client_ip, out);
    strbuf_add_str(out, "])\r\n\tby ");
    add_clean(received->by, out);
    strbuf_add_str(out, " (relayd");
    if (received->node.n > 0)
        strbuf_add_byte(out, ' ');
    add_clean(received->node, out);
    strbuf_add_str(out, ") with ");
    add_clean(received->protocol, out);
    if (received->tls_version.n > 0) {
        strbuf_add_str(out, "\r\n\t(");
        add_clean(received->tls_version, out);
        strbuf_add_byte(out, ' ');
        add_clean(received->tls_cipher, out);
        strbuf_add_byte(out, ')');
    }
    strbuf_add_str(out, "\r\n\tid ");
    add_clean(received->id, out);
    if (received->rcpt.n > 0) {
        strbuf_add_str(out, " for <");
        add_clean(received->rcpt, out);
        strbuf_add_byte(out, '>');
    }
    strbuf_add_str(out, ";\r\n\t");
    header_date_format(received->now, out);
    strbuf_add_str(out, "\r\n");
}

/* -- lines, dates ------------------------------------------------------------------------------ */

/* The last place up to HEADER_LINE_MAX at which `line` can be folded; 0: none. A fold comes before
 * a blank, behind the colon, with something other than blanks on both sides. */
static size_t
fold_place(struct span line)
{
    size_t colon = 0, first = 0, last = line.n;
    if (!is_blank(line.p[0]) && name_length(line, &colon) == 0)
        return 0;
    while (first < line.n && is_blank(line.p[first]))
        first++;
    while (last > 0 && is_blank(line.p[last - 1]))
        last--;
    size_t lowest = colon > first ? colon : first;
    for (size_t at = last <= HEADER_LINE_MAX ? last : HEADER_LINE_MAX; at > lowest; at--)
        if (at < last && is_blank(line.p[at]))
            return at;
    return 0;
}

bool
header_line_fold(struct span line, struct strbuf *out)
{
    size_t start = out->n;
    while (line.n > HEADER_LINE_MAX) {
        size_t at = fold_place(line);
        if (at == 0) {
            strbuf_truncate(out, start);
            return false;
        }
        strbuf_add_span(out, span_first(line, at));
        strbuf_add_str(out, "\r\n");
        line = span_from(line, at);
    }
    strbuf_add_span(out, line);
    strbuf_add_str(out, "\r\n");
    return true;
}

/* Year, month and day of a number of days since 1970: years run from March, so that the leap day
 * comes last; 719,468 days lie between 0000-03-01 and 1970-01-01. */
static void
civil_date(int64_t days, int *ret_year, int *ret_month, int *ret_day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int day_of_era = (int)(days - era * 146097);
    int year = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    int march_month = (5 * day_of_year + 2) / 153;
    *ret_day = day_of_year - (153 * march_month + 2) / 5 + 1;
    *ret_month = march_month < 10 ? march_month + 3 : march_month - 9;
    *ret_year = (int)(year + era * 400) + (*ret_month <= 2);
}

/* `n` digits, at most four. */
static void
add_digits(struct strbuf *out, int value, int n)
{
    char text[4];
    for (int i = n - 1; i >= 0; i--, value /= 10)
        text[i] = (char)('0' + value % 10);
    strbuf_add(out, text, (size_t)n);
}

void
header_date_format(msec_t at, struct strbuf *out)
{
    static const char *const days[] = {"Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"};
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    int year, month, day;
    assert(at >= 0);
    int64_t day_number = at / DAY;
    int second = (int)(at % DAY / SECOND);

    civil_date(day_number, &year, &month, &day);
    if (year > 9999)
        year = 9999; /* no clock of ours; the format has four digits */
    strbuf_add_str(out, days[day_number % 7]);
    strbuf_add_str(out, ", ");
    add_digits(out, day, day < 10 ? 1 : 2);
    strbuf_add_byte(out, ' ');
    strbuf_add_str(out, months[month - 1]);
    strbuf_add_byte(out, ' ');
    add_digits(out, year, 4);
    strbuf_add_byte(out, ' ');
    add_digits(out, second / 3600, 2);
    strbuf_add_byte(out, ':');
    add_digits(out, second / 60 % 60, 2);
    strbuf_add_byte(out, ':');
    add_digits(out, second % 60, 2);
    strbuf_add_str(out, " +0000");
}

void
header_add_date(msec_t at, struct strbuf *out)
{
    strbuf_add_str(out, "Date: ");
    header_date_format(at, out);
    strbuf_add_str(out, "\r\n");
}

void
header_add_message_id(struct span id, struct span host, struct strbuf *out)
{
    strbuf_add_str(out, "Message-ID: <");
    strbuf_add_span(out, id);
    strbuf_add_byte(out, '@');
    strbuf_add_span(out, host);
    strbuf_add_str(out, ">\r\n");
}
