/*
 * Names in ASCII, nearly all that a relay sees, take a loop over their bytes; only what holds bytes
 * above 127 goes through libidn2, and its answer through the same loop.
 */
#include "policy/base/domain.h"

#include <assert.h>
#include <idn2.h>
#include <string.h>

#include "policy/base/mem.h"

static bool
is_label_byte(char c)
{
    return ascii_alpha(c) || ascii_digit(c) || c == '-' || c == '_';
}

/* NULL when `label` is fine, else what is wrong with it. */
static const char *
label_fault(struct span label)
{
    if (label.n == 0)
        return "has an empty label (two dots, or one in front)";
    if (label.n > 63)
        return "has a label longer than 63 octets";
    for (size_t i = 0; i < label.n; i++)
        if (!is_label_byte(label.p[i]))
            return "has a character that no domain name may hold";
    if (label.p[0] == '-' || label.p[label.n - 1] == '-')
        return "has a label that starts or ends with '-'";
    return NULL;
}

static bool
all_digits(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!ascii_digit(s.p[i]))
            return false;
    return true;
}

/* The same for a whole name in ASCII without trailing dot. */
static const char *
name_fault(struct span name)
{
    if (name.n == 0)
        return "is empty";
    if (name.n > DOMAIN_MAX)
        return "is longer than 253 octets";
    struct span label = SPAN_NONE;
    size_t start = 0;
    for (size_t i = 0; i <= name.n; i++) {
        if (i < name.n && name.p[i] != '.')
            continue;
        label = span_of(name.p + start, i - start);
        const char *fault = label_fault(label);
        if (fault != NULL)
            return fault;
        start = i + 1;
    }
    if (all_digits(label))
        return "ends in a number, as an IP address does";
    return NULL;
}

static bool
is_ascii(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] >= 128)
            return false;
    return true;
}

static enum err_code
normalise_ascii(struct span in, char out[static DOMAIN_BUF], struct err *err)
{
    if (in.n > 1 && in.p[in.n - 1] == '.')
        in.n--;
    const char *fault = name_fault(in);
    if (fault != NULL)
        return err_set(err, ERR_INVAL, "the domain name %s", fault);
    for (size_t i = 0; i < in.n; i++)
        out[i] = ascii_lower(in.p[i]);
    out[in.n] = '\0';
    return ERR_OK;
}

enum err_code
domain_normalise(struct span in, char out[static DOMAIN_BUF], struct err *err)
{
    if (is_ascii(in))
        return normalise_ascii(in, out, err);

    /* A name of 253 octets in A-labels can be longer in UTF-8, but not by more than this. */
    char utf8[4 * DOMAIN_MAX + 1];
    if (in.n >= sizeof(utf8))
        return err_set(err, ERR_INVAL, "the domain name is longer than 253 octets");
    if (memchr(in.p, '\0', in.n) != NULL)
        return err_set(err, ERR_INVAL, "the domain name holds a NUL");
    memcpy(utf8, in.p, in.n);
    utf8[in.n] = '\0';
    char *ascii = NULL;
    int rc = idn2_to_ascii_8z(utf8, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
    if (rc == IDN2_MALLOC)
        out_of_memory();
    if (rc != IDN2_OK)
        return err_set(err, ERR_INVAL, "the domain name is no valid internationalised name: %s",
                       idn2_strerror(rc));
    enum err_code code = normalise_ascii(span_str(ascii), out, err);
    idn2_free(ascii);
    return code;
}

bool
domain_valid_host(struct span name)
{
    return name_fault(name) == NULL;
}

bool
domain_is_under(struct span name, struct span base)
{
    return name.n > base.n + 1 && span_ends(name, base) && name.p[name.n - base.n - 1] == '.';
}

struct span
domain_parent(struct span name)
{
    size_t dot = span_find_byte(name, '.');
    return dot == SIZE_MAX ? span_from(name, name.n) : span_from(name, dot + 1);
}

enum err_code
domain_pattern_parse(struct span text, char out[static DOMAIN_BUF], struct domain_pattern *ret,
                     struct err *err)
{
    bool subdomains = span_starts(text, SPAN("*."));
    struct span name = subdomains ? span_from(text, 2) : text;
    if (span_find_byte(name, '*') != SIZE_MAX)
        return err_set(
            err, ERR_INVAL,
            "'*' stands only in front, as in \"*.example.com\" (any depth of subdomains)");
    enum err_code code = domain_normalise(name, out, err);
    if (code != ERR_OK)
        return code;
    *ret = (struct domain_pattern){.name = out, .subdomains = subdomains};
    return ERR_OK;
}

bool
domain_pattern_matches(const struct domain_pattern *p, struct span name)
{
    struct span base = span_str(p->name);
    return p->subdomains ? domain_is_under(name, base) : span_eq(name, base);
}

const struct domain_pattern *
domain_patterns_find(const struct domain_pattern *patterns, size_t n, struct span name)
{
    for (size_t i = 0; i < n; i++)
        if (domain_pattern_matches(&patterns[i], name))
            return &patterns[i];
    return NULL;
}
