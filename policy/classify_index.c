/*
 * classify_index.c - which branches of the rules a text may match, found in one pass.
 *
 * Each literal hangs in a table by three of its octets, where the list was shortest when it came;
 * the text is walked once, and what hangs at each of its triples is compared in full.
 */
#include "policy/classify_internal.h"

#include "policy/base/mem.h"

#define SLOT_NONE UINT32_MAX

struct entry {
    struct classify_literal literal;
    uint8_t at;     /* of the three octets in the literal */
    uint32_t piece; /* that needs it */
    uint32_t next;  /* in the same slot */
};

struct classify_index {
    uint32_t slots[4096];    /* first entries, SLOT_NONE: none */
    uint16_t lengths[4096];  /* of the lists, for the choice of the next one */
    unsigned char fold[256]; /* lower case */
    struct entry *entries;
    uint32_t n, cap;
};

struct classify_index *
classify_index_new(void)
{
    struct classify_index *index = xcalloc(1, sizeof(*index));
    memset(index->slots, 0xff, sizeof(index->slots));
    for (int c = 0; c < 256; c++)
        index->fold[c] = (unsigned char)ascii_lower((char)c);
    return index;
}

void
classify_index_free(struct classify_index *index)
{
    if (index == NULL)
        return;
    free(index->entries);
    free(index);
}

static inline unsigned
slot_of(unsigned char a, unsigned char b, unsigned char c)
{
    return (((unsigned)a << 16 | (unsigned)b << 8 | c) * 2654435761u) >> 20;
}

static unsigned
slot_at(const struct classify_literal *literal, size_t at)
{
    const unsigned char *text = (const unsigned char *)literal->text + at;
    return slot_of(text[0], text[1], text[2]);
}

void
classify_index_add(struct classify_index *index, const struct classify_literal *literal,
                   uint32_t piece)
{
    size_t best = 0;
    for (size_t i = 1; i + CLASSIFY_LITERAL_MIN <= literal->n; i++)
        if (index->lengths[slot_at(literal, i)] < index->lengths[slot_at(literal, best)])
            best = i;
    if (index->n == index->cap) {
        index->cap = index->cap == 0 ? 1024 : index->cap * 2;
        index->entries = xrealloc(index->entries, index->cap * sizeof(index->entries[0]));
    }
    unsigned slot = slot_at(literal, best);
    index->entries[index->n] = (struct entry){*literal, (uint8_t)best, piece, index->slots[slot]};
    index->slots[slot] = index->n++;
    index->lengths[slot]++;
}

/* Whether the literal stands around the triple at `i`. */
static inline bool
stands(const struct entry *entry, const unsigned char *text, size_t n, size_t i)
{
    if (entry->at > i || entry->literal.n > n - (i - entry->at))
        return false;
    const unsigned char *start = text + i - entry->at;
    for (unsigned k = 0; k < entry->literal.n; k++)
        if (start[k] != (unsigned char)entry->literal.text[k])
            return false;
    return true;
}

void
classify_index_find(const struct classify_index *index, struct span text, uint64_t *hits)
{
    unsigned char folded[CLASSIFY_TEXT_MAX];
    size_t n = text.n < sizeof(folded) ? text.n : sizeof(folded);
    for (size_t i = 0; i < n; i++)
        folded[i] = index->fold[(unsigned char)text.p[i]];
    for (size_t i = 0; i + CLASSIFY_LITERAL_MIN <= n; i++) {
        uint32_t e = index->slots[slot_of(folded[i], folded[i + 1], folded[i + 2])];
        for (; e != SLOT_NONE; e = index->entries[e].next) {
            const struct entry *entry = &index->entries[e];
            if (stands(entry, folded, n, i))
                hits[entry->piece / 64] |= UINT64_C(1) << entry->piece % 64;
        }
    }
}
