/*
 * Keys are (kind, text): a domain exactly, a domain's subdomains, an address, an address with any
 * local part; the last two once for recipients and once for senders; an MX host, the hosts below a
 * name, a country. Each leads to a chain of rule numbers, ascending.
 *
 *   slots: hash tag, entry     open addressing, at most 2/3 full, sized once; the few keys of facts
 *                              have slots of their own, which stay in the processor's cache
 *   entry: text, rule, next    12 bytes a key; the texts lie end to end in one pool
 *
 * A look-up of a domain asks for its text once and for each parent once ("*." of any depth), only
 * of kinds that occur. A miss touches one slot.
 */
#include "policy/route_index.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/map.h"
#include "policy/config_build.h"

#define LINE_PROBLEMS_MAX 20 /* of one domains_file */
#define ADDRESS_MAX 512      /* longest address that a pattern can match exactly */

enum key_kind {
    KEY_DOMAIN,
    KEY_DOMAIN_BELOW,
    KEY_RCPT,
    KEY_RCPT_ANY,
    KEY_RCPT_ANY_BELOW,
    KEY_SENDER,
    KEY_SENDER_ANY,
    KEY_SENDER_ANY_BELOW,
    KEY_RCPT_BELOW, /* local@*.domain */
    KEY_SENDER_BELOW,
    KEY_MX, /* from here on: facts */
    KEY_MX_BELOW,
    KEY_COUNTRY,
    KEY__COUNT,
};

struct entry {
    uint32_t text;      /* offset in the pool */
    uint32_t next;      /* index + 1 of the next rule with the same key */
    uint16_t n;         /* length of the text */
    uint16_t rule : 12; /* CONFIG_RULES_MAX */
    uint16_t kind : 4;
};
_Static_assert(CONFIG_RULES_MAX == 1 << 12, "entry.rule holds every rule number");
_Static_assert(KEY__COUNT <= 1 << 4, "entry.kind holds every kind");

struct slot {
    uint32_t tag;   /* upper half of the hash */
    uint32_t entry; /* index + 1; 0: free */
};

struct table {
    struct slot *slots;
    uint64_t mask; /* number of slots - 1 */
};

struct route_index {
    struct table names, facts;
    const struct entry *entries;
    const char *pool;
    size_t n_words;
    bool has[KEY__COUNT];
    struct rule_set none[ROUTE_MATCH__COUNT];
};

/* While building: arrays that grow. */
struct draft {
    struct builder *b;
    struct entry *entries;
    size_t n, cap;
    struct strbuf pool;
    bool has[KEY__COUNT];
    bool full; /* reported: the pool's offsets would not fit */
};

static uint64_t
hash_key(enum key_kind kind, struct span text)
{
    /* Keys come from the administrator, so a fixed seed will do; the kind makes many tables of one.
     */
    return map_hash((struct map_seed){kind, 0x72656c617964u}, text);
}

static void
draft_add(struct draft *d, enum key_kind kind, const struct rule *rule, struct span text)
{
    if (d->pool.n + text.n > UINT32_MAX || d->n == UINT32_MAX - 1) {
        if (!d->full)
            CONFIG_FAULT(d->b, rule->mark, "transport_map", "more names than fit into memory");
        d->full = true;
        return;
    }
    if (d->n == d->cap) {
        d->cap = d->cap == 0 ? 64 : d->cap * 2;
        d->entries = xrealloc(d->entries, d->cap * sizeof(*d->entries));
    }
    d->entries[d->n++] = (struct entry){.text = (uint32_t)d->pool.n,
                                        .n = (uint16_t)text.n,
                                        .rule = (uint16_t)(rule->no & (CONFIG_RULES_MAX - 1)),
                                        .kind = (uint16_t)(kind & 15)};
    strbuf_add_span(&d->pool, text);
    d->has[kind] = true;
}

static void
add_pattern(struct draft *d, const struct rule *rule, const struct domain_pattern *p)
{
    draft_add(d, p->subdomains ? KEY_DOMAIN_BELOW : KEY_DOMAIN, rule, span_str(p->name));
}

/* "local@domain" with the local part's ASCII letters lowered; .n 0 when it is too long to matter.
 */
static struct span
address_key(char buf[static ADDRESS_MAX], struct span local, struct span domain)
{
    if (local.n + 1 + domain.n > ADDRESS_MAX)
        return SPAN_NONE;
    for (size_t i = 0; i < local.n; i++)
        buf[i] = ascii_lower(local.p[i]);
    buf[local.n] = '@';
    memcpy(buf + local.n + 1, domain.p, domain.n);
    return span_of(buf, local.n + 1 + domain.n);
}

static void
add_address(struct draft *d, const struct rule *rule, const struct address_pattern *p, bool sender)
{
    char buf[ADDRESS_MAX];
    if (p->null_sender) {
        draft_add(d, sender ? KEY_SENDER : KEY_RCPT, rule, SPAN("<>"));
        return;
    }
    struct span domain = span_str(p->domain.name);
    if (p->local.p == NULL) {
        enum key_kind any = sender ? KEY_SENDER_ANY : KEY_RCPT_ANY;
        draft_add(d, p->domain.subdomains ? any + 1 : any, rule, domain);
        return;
    }
    struct span key = address_key(buf, p->local, domain);
    enum key_kind kind = sender ? KEY_SENDER : KEY_RCPT;
    if (p->domain.subdomains)
        kind = sender ? KEY_SENDER_BELOW : KEY_RCPT_BELOW;
    if (key.n > 0)
        draft_add(d, kind, rule, key);
}

/* One line of a domains_file: a pattern, or nothing but a comment. False when it is wrong. */
static bool
add_line(struct draft *d, struct rule *rule, struct span line, struct err *err)
{
    struct span rest = line;
    line = span_trim(span_cut(&rest, '#'));
    if (line.n == 0)
        return true;
    char name[DOMAIN_BUF];
    struct domain_pattern pattern;
    if (domain_pattern_parse(line, name, &pattern, err) != ERR_OK)
        return false;
    add_pattern(d, rule, &pattern);
    rule->n_file_domains++;
    return true;
}

static void
add_lines(struct draft *d, struct rule *rule, struct span text)
{
    struct config_mark mark = {rule->domains_file, 0, 1};
    unsigned n_wrong = 0;
    if (span_starts(text, SPAN("\xef\xbb\xbf")))
        text = span_from(text, 3); /* a byte order mark, as editors on Windows write it */
    while (text.n > 0) {
        struct span line = span_cut(&text, '\n');
        struct err err;
        mark.line++;
        if (add_line(d, rule, line, &err) || ++n_wrong > LINE_PROBLEMS_MAX)
            continue;
        line = span_trim(line);
        CONFIG_FAULT(d->b, mark, "", "\"%.*s\": %s", (int)(line.n < 60 ? line.n : 60), line.p,
                     err.text);
    }
    if (n_wrong > LINE_PROBLEMS_MAX)
        CONFIG_FAULT(d->b, mark, "", "%u more lines like these", n_wrong - LINE_PROBLEMS_MAX);
}

static void
add_file(struct draft *d, struct rule *rule, const struct config_node *node)
{
    struct builder *b = d->b;
    struct config_blob blob;
    struct err err;
    const struct config_node *at = config_node_get(node, "domains_file");
    const char *path = arena_printf(b->arena, "transport_map[%u].domains_file", rule->no);
    enum err_code code =
        b->source->read(b->source->ctx, rule->domains_file, CONFIG_DOMAINS_FILE_MAX, &blob, &err);
    if (code == ERR_PERM) {
        const char *user = b->source->user != NULL ? b->source->user : b->config->user;
        CONFIG_FAULT(b, at->mark, path,
                     "%s: user %s cannot read it (%s), make it readable: chown %s %s",
                     rule->domains_file, user, err.text, user, rule->domains_file);
        return;
    }
    if (code != ERR_OK) {
        CONFIG_FAULT(b, at->mark, path, "%s: %s", rule->domains_file, err.text);
        return;
    }
    add_lines(d, rule, span_of(blob.bytes, blob.n));
    if (rule->n_file_domains == 0)
        CONFIG_WARN(b, at->mark, path, "%s holds no domain, so the rule matches nothing by it",
                    rule->domains_file);
    free(blob.bytes);
}

static void
add_rule(struct draft *d, struct rule *rule, const struct config_node *node)
{
    for (size_t i = 0; i < rule->n_domains; i++)
        add_pattern(d, rule, &rule->domains[i]);
    for (size_t i = 0; i < rule->n_recipients; i++)
        add_address(d, rule, &rule->recipients[i], false);
    for (size_t i = 0; i < rule->n_senders; i++)
        add_address(d, rule, &rule->senders[i], true);
    for (size_t i = 0; i < rule->n_mx; i++)
        draft_add(d, rule->mx[i].subdomains ? KEY_MX_BELOW : KEY_MX, rule,
                  span_str(rule->mx[i].name));
    for (size_t i = 0; i < rule->n_mx_country; i++)
        draft_add(d, KEY_COUNTRY, rule, span_str(rule->mx_country[i]));
    if (rule->domains_file[0] != '\0' && (d->b->flags & CONFIG_LOAD_OUTLINE) == 0)
        add_file(d, rule, node);
}

static bool
is_entry(const struct route_index *index, const struct slot *slot, uint64_t hash,
         enum key_kind kind, struct span text)
{
    if (slot->tag != (uint32_t)(hash >> 32))
        return false;
    const struct entry *e = &index->entries[slot->entry - 1];
    return e->kind == kind && e->n == text.n && memcmp(index->pool + e->text, text.p, text.n) == 0;
}

/* The slot of this key, or the free one where it belongs. */
static struct slot *
find_slot(const struct route_index *index, uint64_t hash, enum key_kind kind, struct span text)
{
    const struct table *table = kind < KEY_MX ? &index->names : &index->facts;
    for (uint64_t i = hash & table->mask;; i = (i + 1) & table->mask) {
        struct slot *slot = &table->slots[i];
        if (slot->entry == 0 || is_entry(index, slot, hash, kind, text))
            return slot;
    }
}

/* Put entry `no` into its slot, or at the end of the chain that begins there. */
static void
insert(struct route_index *index, struct entry *entries, uint32_t no)
{
    struct entry *e = &entries[no];
    struct span text = span_of(index->pool + e->text, e->n);
    uint64_t hash = hash_key(e->kind, text);
    struct slot *slot = find_slot(index, hash, e->kind, text);
    if (slot->entry == 0) {
        *slot = (struct slot){.tag = (uint32_t)(hash >> 32), .entry = no + 1};
        return;
    }
    struct entry *last = &entries[slot->entry - 1];
    while (last->next != 0)
        last = &entries[last->next - 1];
    if (last->rule != e->rule) /* entries come rule by rule: else it is the same line again */
        last->next = no + 1;
}

static struct table
make_table(struct arena *arena, size_t n)
{
    uint64_t n_slots = 16;
    while (n_slots < n + n / 2)
        n_slots *= 2;
    return (struct table){arena_alloc(arena, n_slots * sizeof(struct slot)), n_slots - 1};
}

static struct route_index *
finish(struct draft *d)
{
    struct arena *arena = d->b->arena;
    struct route_index *index = arena_alloc(arena, sizeof(*index));
    struct entry *entries = arena_alloc(arena, d->n * sizeof(*entries));
    size_t n_facts = 0;
    for (size_t i = 0; i < d->n; i++)
        n_facts += d->entries[i].kind >= KEY_MX;
    if (d->n > 0)
        memcpy(entries, d->entries, d->n * sizeof(*entries));
    index->entries = entries;
    index->pool = arena_strndup(arena, d->pool.p, d->pool.n);
    index->names = make_table(arena, d->n - n_facts);
    index->facts = make_table(arena, n_facts);
    memcpy(index->has, d->has, sizeof(index->has));
    for (size_t i = 0; i < d->n; i++)
        insert(index, entries, (uint32_t)i);
    return index;
}

static void
set_bit(struct rule_set *set, unsigned rule)
{
    set->words[rule / 64] |= (uint64_t)1 << rule % 64;
}

static void
mark_missing_matchers(struct route_index *index, const struct config *config)
{
    for (unsigned i = 0; i < config->n_rules; i++) {
        const struct rule *rule = &config->rules[i];
        if (rule->n_domains == 0 && rule->domains_file[0] == '\0')
            set_bit(&index->none[ROUTE_MATCH_DOMAIN], i);
        if (rule->n_recipients == 0)
            set_bit(&index->none[ROUTE_MATCH_RCPT], i);
        if (rule->n_senders == 0)
            set_bit(&index->none[ROUTE_MATCH_SENDER], i);
        if (rule->n_mx == 0)
            set_bit(&index->none[ROUTE_MATCH_MX], i);
        if (rule->n_mx_country == 0)
            set_bit(&index->none[ROUTE_MATCH_COUNTRY], i);
    }
}

const struct route_index *
route_index_build(struct builder *b)
{
    struct draft d = {.b = b};
    struct config *config = b->config;
    const struct config_node *map = config_given(b, "transport_map", NULL);
    const struct config_node *node = map == NULL ? NULL : map->first;
    for (size_t i = 0; i < config->n_rules; i++, node = node->next)
        add_rule(&d, &config->rules[i], node);
    struct route_index *index = finish(&d);
    index->n_words = (config->n_rules + 63) / 64;
    mark_missing_matchers(index, config);
    free(d.entries);
    strbuf_release(&d.pool);
    return index;
}

size_t
route_index_words(const struct route_index *index)
{
    return index->n_words;
}

const struct rule_set *
route_index_none(const struct route_index *index, enum route_matcher matcher)
{
    return &index->none[matcher];
}

static void
look_up(const struct route_index *index, enum key_kind kind, struct span text, struct rule_set *ret)
{
    if (!index->has[kind])
        return;
    const struct slot *slot = find_slot(index, hash_key(kind, text), kind, text);
    for (uint32_t at = slot->entry; at != 0; at = index->entries[at - 1].next)
        set_bit(ret, index->entries[at - 1].rule);
}

/* The domain itself under `exact`, every parent under `below`. */
static void
look_up_domain(const struct route_index *index, enum key_kind exact, enum key_kind below,
               struct span domain, struct rule_set *ret)
{
    look_up(index, exact, domain, ret);
    if (!index->has[below] || (domain.n > 0 && domain.p[0] == '['))
        return; /* the dots of an address literal separate no labels */
    for (struct span parent = domain_parent(domain); parent.n > 0; parent = domain_parent(parent))
        look_up(index, below, parent, ret);
}

static void
clear(const struct route_index *index, struct rule_set *set)
{
    memset(set->words, 0, index->n_words * sizeof(set->words[0]));
}

void
route_index_domain(const struct route_index *index, struct span domain, struct rule_set *ret)
{
    clear(index, ret);
    look_up_domain(index, KEY_DOMAIN, KEY_DOMAIN_BELOW, domain, ret);
}

void
route_index_address(const struct route_index *index, enum route_matcher matcher, struct span local,
                    struct span domain, bool null_sender, struct rule_set *ret)
{
    bool sender = matcher == ROUTE_MATCH_SENDER;
    enum key_kind exact = sender ? KEY_SENDER : KEY_RCPT;
    enum key_kind any = sender ? KEY_SENDER_ANY : KEY_RCPT_ANY;
    enum key_kind below = sender ? KEY_SENDER_BELOW : KEY_RCPT_BELOW;
    char buf[ADDRESS_MAX];

    clear(index, ret);
    if (null_sender) {
        look_up(index, exact, SPAN("<>"), ret);
        return;
    }
    look_up_domain(index, any, any + 1, domain, ret);
    struct span key = address_key(buf, local, domain);
    if (key.n == 0)
        return;
    look_up(index, exact, key, ret);
    if (!index->has[below])
        return;
    for (struct span parent = domain_parent(domain); parent.n > 0; parent = domain_parent(parent)) {
        key = address_key(buf, local, parent);
        look_up(index, below, key, ret);
    }
}

void
route_index_mx(const struct route_index *index, const char *const *hosts, size_t n_hosts,
               struct rule_set *ret)
{
    clear(index, ret);
    for (size_t i = 0; i < n_hosts; i++)
        look_up_domain(index, KEY_MX, KEY_MX_BELOW, span_str(hosts[i]), ret);
}

void
route_index_country(const struct route_index *index, const char *code, struct rule_set *ret)
{
    clear(index, ret);
    look_up(index, KEY_COUNTRY, span_str(code), ret);
}
