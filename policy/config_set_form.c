/* Values that have a form of their own: selectors, addresses, hosts with ports, pins, replies. */
#include "policy/config_set.h"

#include <stdio.h>

#include "policy/dkim.h"

static void
set_selector(const struct setting *s)
{
    char name[DOMAIN_BUF];
    if (!setting_has_line(s))
        return;
    if (dkim_selector_normalise(s->node->text, name, NULL) != ERR_OK)
        setting_fault(s, s->node, "is no selector");
    else
        setting_put_text(s, span_str(name));
}

static void
set_mailbox(const struct setting *s)
{
    if (!setting_has_line(s))
        return;
    struct span text = s->node->text;
    const char *at = memrchr(text.p, '@', text.n);
    struct span local = span_first(text, at == NULL ? 0 : (size_t)(at - text.p));
    bool fine = local.n > 0 && local.n <= 64;
    for (size_t i = 0; i < local.n; i++)
        fine = fine && strchr(" <>()[]\\,;:@\"", local.p[i]) == NULL;
    char domain[DOMAIN_BUF];
    if (!fine || domain_normalise(span_from(text, local.n + 1), domain, NULL) != ERR_OK) {
        setting_fault(s, s->node, "is no mail address");
        return;
    }
    *SETTING_FIELD(s, const char *) = arena_printf(s->b->arena, "%.*s@%s", SPAN_ARG(local), domain);
}

static void
set_listen(const struct setting *s)
{
    struct ip ip;
    uint16_t port;
    struct err err;
    char text[IP_PORT_TEXT_MAX + 16];
    if (!setting_has_line(s))
        return;
    struct span address = s->node->text;
    if (span_istarts(address, SPAN("localhost:"))) {
        snprintf(text, sizeof(text), "127.0.0.1:%.*s",
                 (int)(address.n - 10 < 8 ? address.n - 10 : 8), address.p + 10);
        address = span_str(text);
    }
    if (ip_port_parse(address, 0, &ip, &port, &err) != ERR_OK) {
        setting_refuse(s, s->node, err.text);
        return;
    }
    setting_put_text(s, span_str(ip_port_format(&ip, port, text)));
    memcpy(s->base + s->option->at_n, &ip, sizeof(ip));
    memcpy(s->base + s->option->at_extra, &port, sizeof(port));
}

/* HOST, HOST:PORT, [V6], [V6]:PORT, V6 -> host and port text (port.p NULL: none). */
static bool
split_endpoint(struct span text, struct span *host, struct span *port)
{
    *port = SPAN_NONE;
    *host = text;
    if (text.p[0] == '[') {
        size_t end = span_find_byte(text, ']');
        if (end == SIZE_MAX)
            return false;
        *host = span_of(text.p + 1, end - 1);
        struct span rest = span_from(text, end + 1);
        if (rest.n == 0)
            return true;
        *port = span_from(rest, 1);
        return rest.p[0] == ':';
    }
    const char *colon = memchr(text.p, ':', text.n);
    if (colon == NULL || memchr(colon + 1, ':', (size_t)(text.p + text.n - colon - 1)) != NULL)
        return true;
    *port = text;
    *host = span_cut(port, ':');
    return true;
}

static void
set_endpoint(const struct setting *s)
{
    struct hop *hop = (void *)s->base;
    struct span host, port;
    uint64_t number = 0;
    if (!setting_has_line(s))
        return;
    if (!split_endpoint(s->node->text, &host, &port) ||
        (port.p != NULL &&
         (number_parse(port, &number, NULL) != ERR_OK || number == 0 || number > 65535))) {
        setting_fault(s, s->node, "is no host with a port");
        return;
    }
    struct ip ip = {0};
    char name[DOMAIN_BUF] = "";
    struct err err;
    if (!ip_parse(host, &ip) && domain_normalise(host, name, &err) != ERR_OK) {
        setting_refuse(s, s->node, err.text);
        return;
    }
    hop->address = arena_strndup(s->b->arena, s->node->text.p, s->node->text.n);
    hop->host = arena_strdup(s->b->arena, name);
    hop->ip = ip;
    hop->port = (uint16_t)number;
}

static void
set_ip(const struct setting *s)
{
    struct ip ip;
    if (!setting_has_text(s, s->node))
        return;
    if (!ip_parse(s->node->text, &ip) || ip.family != (s->option->type == OPT_IP4 ? 4 : 6))
        setting_fault(s, s->node, "is none");
    else
        *SETTING_FIELD(s, struct ip) = ip;
}

static int
hex_value(char c)
{
    c = ascii_lower(c);
    return ascii_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 64 digits, also with colons between the bytes as openssl prints them. */
static bool
parse_digest(struct span text, uint8_t digest[32])
{
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] == ':' && n % 2 == 0 && n > 0)
            continue;
        int value = hex_value(text.p[i]);
        if (value < 0 || n == 64)
            return false;
        digest[n / 2] = (uint8_t)(digest[n / 2] << 4 | value);
        n++;
    }
    return n == 64;
}

static void
set_pin(const struct setting *s)
{
    struct config_pin pin = {0};
    if (!setting_has_text(s, s->node))
        return;
    struct span digits = s->node->text, kind = span_cut(&digits, ':');
    if (span_ieq(kind, SPAN("SHA256")))
        pin.kind = CONFIG_PIN_CERT;
    else if (span_ieq(kind, SPAN("SPKI")))
        pin.kind = CONFIG_PIN_SPKI;
    if (pin.kind == CONFIG_PIN_NONE || !parse_digest(digits, pin.digest))
        setting_fault(s, s->node, "is no fingerprint");
    else
        *SETTING_FIELD(s, struct config_pin) = pin;
}

/* 5xx and an enhanced code of class 5 (RFC 2034), since it is sent as it stands. */
static void
set_reply(const struct setting *s)
{
    if (!setting_has_line(s))
        return;
    struct span text = s->node->text, rest = text, code = span_cut(&rest, ' '),
                enh = span_cut(&rest, ' ');
    uint64_t number;
    bool fine = code.n == 3 && span_u64(code, &number) && number >= 500 && number <= 559 &&
                enh.n >= 5 && enh.p[0] == '5' && enh.p[1] == '.' && rest.n > 0 && text.n <= 400;
    unsigned dots = 0;
    for (size_t i = 0; i < enh.n; i++) {
        fine =
            fine && (ascii_digit(enh.p[i]) || (enh.p[i] == '.' && ascii_digit(enh.p[enh.n - 1])));
        dots += enh.p[i] == '.';
    }
    fine = fine && dots == 2 && span_find(enh, SPAN("..")) == SIZE_MAX;
    for (size_t i = 0; i < text.n; i++)
        fine = fine && (unsigned char)text.p[i] < 128;
    if (!fine)
        setting_fault(s, s->node, "is no 5xx reply with an enhanced code and a text in ASCII");
    else
        setting_put_text(s, text);
}

static void
set_log_target(const struct setting *s)
{
    struct config_log *log = &s->b->config->log;
    if (!setting_has_line(s))
        return;
    log->file = "";
    if (span_eq(s->node->text, SPAN("stderr"))) {
        log->target = CONFIG_LOG_STDERR;
    } else if (span_eq(s->node->text, SPAN("syslog"))) {
        log->target = CONFIG_LOG_SYSLOG;
    } else {
        log->target = CONFIG_LOG_FILE;
        log->file = config_resolve(s->b, s->node->mark, s->node->text);
    }
}

setting_fn *
setting_form_fn(enum option_type type)
{
    static setting_fn *const fns[] = {
        [OPT_SELECTOR] = set_selector,
        [OPT_MAILBOX] = set_mailbox,
        [OPT_LISTEN] = set_listen,
        [OPT_ENDPOINT] = set_endpoint,
        [OPT_IP4] = set_ip,
        [OPT_IP6] = set_ip,
        [OPT_PIN] = set_pin,
        [OPT_REPLY] = set_reply,
        [OPT_LOG_TARGET] = set_log_target,
    };
    return type < N_ELEMENTS(fns) ? fns[type] : NULL;
}
