/* Values that are lists: the list's kind and length here, each element by a function of its type.
 */
#include "policy/config_set.h"

#include <assert.h>

#define COUNT_MAX 1000000 /* of a list whose row says nothing */

/* One element into `out`; false when it is wrong and was reported. */
typedef bool element_fn(const struct setting *s, const struct config_node *node, void *out);

static bool
count_fits(const struct setting *s, size_t n)
{
    size_t max = s->option->max == 0 ? COUNT_MAX : s->option->max;
    if (n >= s->option->min && n <= max)
        return true;
    setting_fault(s, s->node, "of %zu stands here, from %zu to %zu fit", n, (size_t)s->option->min,
                  max);
    return false;
}

/* All elements into a new array; wrong ones are reported and left out. */
static void *
read_list(const struct setting *s, size_t size, element_fn *element, size_t *ret_n)
{
    *ret_n = 0;
    if (s->node->kind != CONFIG_SEQUENCE) {
        setting_fault(s, s->node, "stands here");
        return NULL;
    }
    if (!count_fits(s, s->node->n_children))
        return NULL;
    char *items = arena_alloc(s->b->arena, s->node->n_children * size);
    for (const struct config_node *node = s->node->first; node != NULL; node = node->next)
        if (element(s, node, items + *ret_n * size))
            ++*ret_n;
    return items;
}

static void
set_list(const struct setting *s, size_t size, element_fn *element)
{
    size_t n;
    void *items = read_list(s, size, element, &n);
    if (items == NULL)
        return;
    memcpy(s->base + s->option->at, &items, sizeof(items));
    memcpy(s->base + s->option->at_n, &n, sizeof(n));
}

static bool
duration_element(const struct setting *s, const struct config_node *node, void *out)
{
    msec_t value;
    if (!setting_duration(s, node, &value))
        return false;
    if (value == 0) {
        setting_refuse(s, node, "a duration of nothing, expected more than 0");
        return false;
    }
    memcpy(out, &value, sizeof(value));
    return true;
}

static bool
port_element(const struct setting *s, const struct config_node *node, void *out)
{
    return setting_port(s, node, out);
}

static bool
cidr_element(const struct setting *s, const struct config_node *node, void *out)
{
    struct err err;
    if (!setting_has_text(s, node))
        return false;
    if (cidr_parse(node->text, out, &err) == ERR_OK)
        return true;
    setting_refuse(s, node, err.text);
    return false;
}

static bool
domain_element(const struct setting *s, const struct config_node *node, void *out)
{
    return setting_domain(s, node, out);
}

static bool
parse_pattern(const struct setting *s, const struct config_node *node, struct span text,
              struct domain_pattern *ret)
{
    struct err err;
    char name[DOMAIN_BUF];
    if (domain_pattern_parse(text, name, ret, &err) != ERR_OK) {
        setting_refuse(s, node, err.text);
        return false;
    }
    ret->name = arena_strdup(s->b->arena, name);
    return true;
}

static bool
pattern_element(const struct setting *s, const struct config_node *node, void *out)
{
    return setting_has_text(s, node) && parse_pattern(s, node, node->text, out);
}

/* The local part without its quotes and backslashes (RFC 5321 section 4.1.2). */
static struct span
unquote(struct arena *arena, struct span local)
{
    if (local.n < 2 || local.p[0] != '"' || local.p[local.n - 1] != '"')
        return span_of(arena_strndup(arena, local.p, local.n), local.n);
    char *out = arena_alloc(arena, local.n);
    size_t n = 0;
    for (size_t i = 1; i < local.n - 1; i++) {
        if (local.p[i] == '\\' && i + 2 < local.n)
            i++;
        out[n++] = local.p[i];
    }
    return span_of(out, n);
}

static bool
address_element(const struct setting *s, const struct config_node *node, void *out)
{
    struct address_pattern *pattern = out;
    if (!setting_has_text(s, node))
        return false;
    struct span text = node->text;
    if (span_eq(text, SPAN("<>"))) {
        *pattern = (struct address_pattern){.null_sender = true};
        return true;
    }
    const char *at = memrchr(text.p, '@', text.n);
    if (at == NULL || at == text.p) {
        setting_refuse(s, node,
                       "no '@' with something before it, expected local@domain or *@domain");
        return false;
    }
    struct span local = span_first(text, (size_t)(at - text.p));
    struct address_pattern made = {0};
    if (!parse_pattern(s, node, span_from(text, local.n + 1), &made.domain))
        return false;
    if (!span_eq(local, SPAN("*"))) {
        if (local.p[0] != '"' && span_find_byte(local, '*') != SIZE_MAX) {
            setting_refuse(s, node, "'*' stands for a whole local part only, as in *@domain");
            return false;
        }
        made.local = unquote(s->b->arena, local);
    }
    *pattern = made;
    return true;
}

/* ISO 3166-1, and XK, which databases use for Kosovo. A code that is none never matches. */
static const char country_codes[] =
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN "
    "BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ "
    "DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL "
    "GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM "
    "JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME "
    "MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP "
    "NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD "
    "SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO "
    "TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW";

static bool
country_element(const struct setting *s, const struct config_node *node, void *out)
{
    if (!setting_has_text(s, node))
        return false;
    struct span text = node->text, rest = span_str(country_codes);
    if (text.n != 2 || !ascii_alpha(text.p[0]) || !ascii_alpha(text.p[1])) {
        setting_fault(s, node, "is no country code");
        return false;
    }
    const char *code = arena_printf(s->b->arena, "%c%c", text.p[0] & ~0x20, text.p[1] & ~0x20);
    while (rest.n > 0)
        if (span_eq(span_cut(&rest, ' '), span_str(code))) {
            memcpy(out, &code, sizeof(code));
            return true;
        }
    setting_fault(s, node,
                  strcmp(code, "UK") == 0 ? "is no country code of ISO 3166-1, which has GB"
                                          : "is no country code of ISO 3166-1");
    return false;
}

static bool
server_element(const struct setting *s, const struct config_node *node, void *out)
{
    struct config_server *server = out;
    struct err err;
    if (!setting_has_text(s, node))
        return false;
    if (ip_port_parse(node->text, 53, &server->ip, &server->port, &err) == ERR_OK)
        return true;
    setting_refuse(s, node, err.text);
    return false;
}

static bool
word_element(const struct setting *s, const struct config_node *node, void *out)
{
    return setting_word(s, node, out);
}

static bool
route_element(const struct setting *s, const struct config_node *node, void *out)
{
    return setting_route(s, node, out);
}

static void
set_durations(const struct setting *s)
{
    set_list(s, sizeof(msec_t), duration_element);
}

static void
set_ports(const struct setting *s)
{
    set_list(s, sizeof(uint16_t), port_element);
}

static void
set_cidrs(const struct setting *s)
{
    if (s->node->kind != CONFIG_SCALAR) {
        set_list(s, sizeof(struct cidr), cidr_element);
        return;
    }
    struct cidr *one = arena_alloc(s->b->arena, sizeof(*one));
    size_t n = cidr_element(s, s->node, one);
    memcpy(s->base + s->option->at, &one, sizeof(one));
    memcpy(s->base + s->option->at_n, &n, sizeof(n));
}

static void
set_domains(const struct setting *s)
{
    set_list(s, sizeof(const char *), domain_element);
}

static void
set_patterns(const struct setting *s)
{
    set_list(s, sizeof(struct domain_pattern), pattern_element);
}

static void
set_addresses(const struct setting *s)
{
    set_list(s, sizeof(struct address_pattern), address_element);
}

static void
set_countries(const struct setting *s)
{
    set_list(s, sizeof(const char *), country_element);
}

static void
set_servers(const struct setting *s)
{
    set_list(s, sizeof(struct config_server), server_element);
}

static void
set_words(const struct setting *s)
{
    set_list(s, sizeof(unsigned), word_element);
}

static void
set_routes(const struct setting *s)
{
    set_list(s, sizeof(unsigned), route_element);
}

static void
set_flags(const struct setting *s)
{
    size_t n;
    unsigned *words = read_list(s, sizeof(*words), word_element, &n);
    for (size_t i = 0; i < n; i++)
        SETTING_FIELD(s, bool)[words[i]] = true;
}

static void
set_fences(const struct setting *s)
{
    size_t n;
    unsigned *routes = read_list(s, sizeof(*routes), route_element, &n);
    for (size_t i = 0; i < n; i++)
        *SETTING_FIELD(s, route_mask) |= (route_mask)1 << routes[i];
}

setting_fn *
setting_list_fn(enum option_type type)
{
    static setting_fn *const fns[] = {
        [OPT_DURATIONS] = set_durations, [OPT_PORTS] = set_ports,
        [OPT_CIDRS] = set_cidrs,         [OPT_DOMAINS] = set_domains,
        [OPT_PATTERNS] = set_patterns,   [OPT_ADDRESSES] = set_addresses,
        [OPT_COUNTRIES] = set_countries, [OPT_SERVERS] = set_servers,
        [OPT_WORDS] = set_words,         [OPT_FLAGS] = set_flags,
        [OPT_ROUTES] = set_routes,       [OPT_FENCES] = set_fences,
    };
    return type < N_ELEMENTS(fns) ? fns[type] : NULL;
}
