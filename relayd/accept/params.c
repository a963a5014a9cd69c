/*
 * params - parameters of MAIL and RCPT. Called by verb_mail.c and verb_rcpt.c.
 */
#include "relayd/accept/internal.h"

bool
span_is_ascii(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] >= 128)
            return false;
    return true;
}

int
param_next(struct span *rest, struct smtpd_param *ret)
{
    while (rest->n > 0 && *rest->p == ' ')
        *rest = span_from(*rest, 1);
    if (rest->n == 0)
        return 0;

    struct span word = span_cut(rest, ' ');
    *ret = (struct smtpd_param){.value = word, .has_value = span_find_byte(word, '=') != SIZE_MAX};
    ret->key = span_cut(&ret->value, '=');
    for (size_t i = 0; i < ret->key.n; i++) {
        char c = ret->key.p[i];
        if (!ascii_alpha(c) && !ascii_digit(c) && !(c == '-' && i > 0))
            return -1;
    }
    if (ret->key.n == 0 || (ret->has_value && ret->value.n == 0))
        return -1;
    return span_find_byte(ret->value, '=') == SIZE_MAX ? 1 : -1;
}

unsigned
param_notify(struct span value)
{
    static const struct {
        const char *name;
        unsigned bit;
    } words[] = {{"NEVER", ACCEPT_NOTIFY_NEVER},
                 {"SUCCESS", ACCEPT_NOTIFY_SUCCESS},
                 {"FAILURE", ACCEPT_NOTIFY_FAILURE},
                 {"DELAY", ACCEPT_NOTIFY_DELAY}};
    unsigned bits = 0;
    bool more = true;

    while (more) {
        more = span_find_byte(value, ',') != SIZE_MAX;
        struct span word = span_cut(&value, ',');
        unsigned bit = 0;
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
            if (span_ieq(word, span_str(words[i].name)))
                bit = words[i].bit;
        if (bit == 0 || (bits & bit) != 0)
            return 0;
        bits |= bit;
    }
    /* NEVER stands alone. */
    return (bits & ACCEPT_NOTIFY_NEVER) != 0 && bits != ACCEPT_NOTIFY_NEVER ? 0 : bits;
}

static bool
xtext_valid(struct span text)
{
    struct strbuf plain = STRBUF_INIT;
    bool ok = xtext_decode(text, &plain);

    strbuf_release(&plain);
    return ok;
}

/* RFC 6533 section 3: \x{HEX} of a code point that needs it; never of a control character, which
 * does not come as it is, either: where SMTPUTF8 is not offered it would have to go as \x{HEX}. */
static bool
utf8_addr_valid(struct span text)
{
    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        bool c1 = c == 0xc2 && i + 1 < text.n && (unsigned char)text.p[i + 1] < 0xa0;
        if (c < 33 || c == '=' || c == '+' || c == 127 || c1)
            return false;
        if (c != '\\')
            continue;
        unsigned long value = 0;
        size_t digits = 0, at = i + 3;
        if (text.n - i < 5 || text.p[i + 1] != 'x' || text.p[i + 2] != '{')
            return false;
        for (; at < text.n && text.p[at] != '}'; at++, digits++) {
            char h = text.p[at];
            if (!ascii_digit(h) && !(h >= 'A' && h <= 'F'))
                return false;
            value = value * 16 + (unsigned long)(ascii_digit(h) ? h - '0' : h - 'A' + 10);
            if (value > 0x10ffff)
                return false;
        }
        bool control = value < 32 || (value >= 127 && value < 160);
        if (at == text.n || digits == 0 || control || (value >= 0xd800 && value <= 0xdfff))
            return false;
        i = at;
    }
    return mailbox_utf8_valid(text);
}

bool
param_orcpt_valid(struct span value)
{
    struct span address = value;

    if (value.n > ACCEPT_ORCPT_MAX || span_find_byte(value, ';') == SIZE_MAX)
        return false;
    struct span type = span_cut(&address, ';');
    for (size_t i = 0; i < type.n; i++)
        if (!ascii_alpha(type.p[i]) && !ascii_digit(type.p[i]) && type.p[i] != '-')
            return false;
    if (type.n == 0 || address.n == 0)
        return false;
    return span_ieq(type, SPAN("utf-8")) ? utf8_addr_valid(address) : xtext_valid(address);
}

bool
param_envid_valid(struct span value)
{
    return value.n > 0 && value.n <= ACCEPT_ENVID_MAX && xtext_valid(value);
}
