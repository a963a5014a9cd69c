#include "relayd/net/dns_name.h"

#include <assert.h>

#include "policy/base/span.h"

#define LABEL_MAX 63
#define NAME_WIRE_MAX 255

/* Adds one octet of a label as text; dots and odd octets are escaped, so that no two names look
 * alike. */
static size_t
octet_text(char *out, uint8_t c)
{
    if (c > ' ' && c < 0x7f && c != '.' && c != '\\') {
        *out = ascii_lower((char)c);
        return 1;
    }
    out[0] = '\\';
    out[1] = (char)('0' + c / 100);
    out[2] = (char)('0' + c / 10 % 10);
    out[3] = (char)('0' + c % 10);
    return 4;
}

size_t
dns_name_read(const uint8_t *message, size_t n, size_t at, char ret[DNS_NAME_BYTES])
{
    size_t after = 0, n_out = 0, n_wire = 1, limit = n;

    for (;;) {
        if (at >= limit)
            return 0;
        uint8_t len = message[at];
        if (len == 0)
            break;
        if ((len & 0xc0) == 0xc0) {
            if (at + 2 > n)
                return 0;
            size_t target = (size_t)(message[at] & 0x3f) << 8 | message[at + 1];
            if (after == 0)
                after = at + 2;
            if (target >= at || target < DNS_HEADER_BYTES)
                return 0; /* backwards only: that ends */
            limit = at;
            at = target;
            continue;
        }
        n_wire += len + 1u;
        if ((len & 0xc0) != 0 || at + 1 + len > n || n_wire > NAME_WIRE_MAX)
            return 0;
        if (n_out > 0)
            ret[n_out++] = '.';
        for (size_t i = 0; i < len; i++)
            n_out += octet_text(ret + n_out, message[at + 1 + i]);
        at += 1u + len;
    }
    ret[n_out] = '\0';
    return after != 0 ? after : at + 1;
}

/* The octet that \DDD at `at` of `s` stands for; -1 when there is none. */
static int
escaped_octet(struct span s, size_t at)
{
    uint64_t octet;
    if (at + 4 > s.n || !span_u64(span_of(s.p + at + 1, 3), &octet) || octet > 255)
        return -1;
    return (int)octet;
}

bool
dns_name_canonical(const char *name, char ret[DNS_NAME_BYTES])
{
    struct span s = span_str(name);
    size_t label = 0, n_wire = 0, n_out = 0;

    if (span_ends(s, SPAN(".")))
        s = span_first(s, s.n - 1);
    for (size_t i = 0; i < s.n; i++, n_wire++) {
        int c = (unsigned char)s.p[i];
        if (n_wire == NAME_WIRE_MAX - 2)
            return false;
        if (c == '.') {
            if (label == 0)
                return false;
            label = 0;
            ret[n_out++] = '.';
            continue;
        }
        if (c <= ' ' || c >= 0x7f || ++label > LABEL_MAX)
            return false;
        if (c == '\\') {
            if ((c = escaped_octet(s, i)) < 0)
                return false;
            i += 3;
        }
        n_out += octet_text(ret + n_out, (uint8_t)c);
    }
    ret[n_out] = '\0';
    return label > 0;
}

uint8_t *
dns_name_write(uint8_t *p, const char *name)
{
    for (struct span rest = span_str(name); rest.n > 0;) {
        struct span label = span_cut(&rest, '.');
        uint8_t *length = p++;
        for (size_t i = 0; i < label.n; i++) {
            bool escaped = label.p[i] == '\\';
            *p++ = (uint8_t)(escaped ? escaped_octet(label, i) : label.p[i]);
            i += escaped ? 3 : 0;
        }
        *length = (uint8_t)(p - length - 1);
        assert(*length > 0 && *length <= LABEL_MAX);
    }
    *p++ = 0;
    return p;
}
