/*
 * dkim_keyring.c - which keys sign for which From domain.
 *
 * Patterns stand sorted by (name, subdomains, order of the configuration); a look-up asks for the
 * exact name and then for a wildcard at each of its parents, so its cost grows with the number of
 * labels and not with that of the entries.
 */
#include "policy/dkim_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"

struct ring_entry {
    struct dkim_key *key;
    struct span domain, selector; /* malloc'd C strings */
};

struct ring_pattern {
    char *name; /* without "*." */
    bool subdomains;
    size_t entry; /* its index, which is the order of the configuration */
};

struct dkim_keyring {
    struct ring_entry *entries;
    struct ring_pattern *patterns;
    size_t n_entries, n_patterns, patterns_cap;
};

struct dkim_keyring *
dkim_keyring_new(void)
{
    return xcalloc(1, sizeof(struct dkim_keyring));
}

void
dkim_keyring_free(struct dkim_keyring *ring)
{
    if (ring == NULL)
        return;
    for (size_t i = 0; i < ring->n_entries; i++) {
        dkim_key_free(ring->entries[i].key);
        free((void *)ring->entries[i].domain.p);
        free((void *)ring->entries[i].selector.p);
    }
    for (size_t i = 0; i < ring->n_patterns; i++)
        free(ring->patterns[i].name);
    free(ring->entries);
    free(ring->patterns);
    free(ring);
}

size_t
dkim_keyring_count(const struct dkim_keyring *ring)
{
    return ring->n_entries;
}

static struct span
span_copy(struct span s)
{
    return span_of(xstrndup(s.p, s.n), s.n);
}

/* Order of `patterns`, the entry's number left aside. */
static int
pattern_cmp(const struct ring_pattern *pattern, struct span name, bool subdomains)
{
    int c = span_cmp(span_str(pattern->name), name);
    return c != 0 ? c : (int)pattern->subdomains - (int)subdomains;
}

/* The first pattern that is not before (name, subdomains); with `after`, the first one behind. */
static size_t
pattern_bound(const struct dkim_keyring *ring, struct span name, bool subdomains, bool after)
{
    size_t low = 0, high = ring->n_patterns;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = pattern_cmp(&ring->patterns[middle], name, subdomains);
        if (c < 0 || (after && c == 0))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void
pattern_add(struct dkim_keyring *ring, const struct domain_pattern *pattern, size_t entry)
{
    if (ring->n_patterns == ring->patterns_cap) {
        ring->patterns_cap = ring->patterns_cap == 0 ? 16 : ring->patterns_cap * 2;
        ring->patterns = xrealloc(ring->patterns, ring->patterns_cap * sizeof(*ring->patterns));
    }
    /* Behind its equals: they come from earlier entries. */
    size_t at = pattern_bound(ring, span_str(pattern->name), pattern->subdomains, true);
    memmove(ring->patterns + at + 1, ring->patterns + at,
            (ring->n_patterns - at) * sizeof(*ring->patterns));
    ring->n_patterns++;
    ring->patterns[at] = (struct ring_pattern){xstrdup(pattern->name), pattern->subdomains, entry};
}

/* Labels of letters, digits, '-' and '_' (RFC 6376 section 3.1): a selector may be all digits. */
static bool
selector_is_valid(struct span s)
{
    size_t label = 0;
    if (s.n == 0 || s.n > DOMAIN_MAX)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '.' ? label == 0 : !ascii_alpha(c) && !ascii_digit(c) && c != '-' && c != '_')
            return false;
        label = c == '.' ? 0 : label + 1;
        if (label > 63)
            return false;
    }
    return label > 0;
}

enum err_code
dkim_keyring_add(struct dkim_keyring *ring, const struct dkim_entry *entry, struct dkim_key *key,
                 struct err *err)
{
    assert(key != NULL);
    enum err_code code = ERR_OK;
    if (!selector_is_valid(entry->selector))
        code = err_set(err, ERR_INVAL,
                       "a selector has letters, digits, '-', '_' and dots between them");
    else if (entry->domain.n > 0 && !domain_valid_host(entry->domain))
        code = err_set(err, ERR_INVAL, "d= is no domain name");
    else if (entry->n_domains == 0)
        code = err_set(err, ERR_INVAL, "no domain to sign for");
    if (code != ERR_OK) {
        dkim_key_free(key);
        return code;
    }
    ring->entries = xrealloc(ring->entries, (ring->n_entries + 1) * sizeof(*ring->entries));
    ring->entries[ring->n_entries] = (struct ring_entry){
        .key = key,
        .domain = span_copy(entry->domain),
        .selector = span_copy(entry->selector),
    };
    for (size_t i = 0; i < entry->n_domains; i++)
        pattern_add(ring, &entry->domains[i], ring->n_entries);
    ring->n_entries++;
    return ERR_OK;
}

/* Matching patterns, at most one an entry, in the order of the configuration. */
struct match_list {
    size_t n;
    const struct ring_pattern *items[DKIM_SIGNATURES_MAX];
};

static void
match_add(struct match_list *list, const struct ring_pattern *pattern)
{
    size_t at = 0;
    while (at < list->n && list->items[at]->entry < pattern->entry)
        at++;
    /* The exact name was asked first and then the nearest parent: what is there stays. */
    if (at == DKIM_SIGNATURES_MAX || (at < list->n && list->items[at]->entry == pattern->entry))
        return;
    if (list->n == DKIM_SIGNATURES_MAX)
        list->n--;
    memmove(list->items + at + 1, list->items + at, (list->n - at) * sizeof(list->items[0]));
    list->items[at] = pattern;
    list->n++;
}

static void
match_name(const struct dkim_keyring *ring, struct span name, bool subdomains,
           struct match_list *list)
{
    size_t end = pattern_bound(ring, name, subdomains, true);
    for (size_t i = pattern_bound(ring, name, subdomains, false); i < end; i++)
        match_add(list, &ring->patterns[i]);
}

static bool
identity_listed(const struct dkim_identity *list, size_t n, const struct dkim_identity *identity)
{
    for (size_t i = 0; i < n; i++)
        if (span_eq(list[i].domain, identity->domain) &&
            span_ieq(list[i].selector, identity->selector))
            return true;
    return false;
}

size_t
dkim_keyring_match(const struct dkim_keyring *ring, struct span from_domain,
                   struct dkim_identity ret[DKIM_SIGNATURES_MAX])
{
    struct match_list list = {.n = 0};
    match_name(ring, from_domain, false, &list);
    for (struct span p = domain_parent(from_domain); p.n > 0; p = domain_parent(p))
        match_name(ring, p, true, &list);

    size_t n = 0;
    for (size_t i = 0; i < list.n; i++) {
        const struct ring_entry *entry = &ring->entries[list.items[i]->entry];
        struct dkim_identity identity = {
            .domain = entry->domain.n > 0 ? entry->domain : span_str(list.items[i]->name),
            .selector = entry->selector,
            .key = entry->key,
        };
        if (!identity_listed(ret, n, &identity))
            ret[n++] = identity;
    }
    return n;
}
