/* "did you mean": the nearest of a few words by Damerau-Levenshtein distance. */
#include "policy/config_build.h"

#define WORD_MAX 64

static size_t
min3(size_t a, size_t b, size_t c)
{
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

/* Insertions, deletions, replacements and swaps of neighbours that turn a into b. */
static size_t
distance(struct span a, struct span b)
{
    size_t rows[3][WORD_MAX + 1];
    for (size_t j = 0; j <= b.n; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a.n; i++) {
        size_t *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= b.n; j++) {
            bool same = ascii_lower(a.p[i - 1]) == ascii_lower(b.p[j - 1]);
            now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + !same);
            if (i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] && a.p[i - 2] == b.p[j - 1] &&
                before[j - 2] + 1 < now[j])
                now[j] = before[j - 2] + 1;
        }
    }
    return rows[a.n % 3][b.n];
}

const char *
config_suggest(struct span word, const char *const *candidates, size_t n)
{
    const char *best = NULL;
    size_t best_distance = word.n / 3 + 1; /* a third of the word may be wrong */
    if (word.n == 0 || word.n > WORD_MAX)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        struct span candidate = span_str(candidates[i]);
        if (candidate.n > WORD_MAX)
            continue;
        size_t d = distance(word, candidate);
        if (d < best_distance || (best == NULL && d == best_distance && d < candidate.n)) {
            best = candidates[i];
            best_distance = d;
        }
    }
    return best;
}
