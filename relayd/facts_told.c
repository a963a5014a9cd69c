/*
 * facts_told - what is odd about a domain's DNS is told once, not at every attempt and every
 * message. A table of hashes, each domain at one place in it: one that another domain took the
 * place of is told again, so that whoever makes up domains costs us no memory. A reload forgets.
 */
#include "relayd/facts_private.h"

#include <string.h>

#include "policy/base/map.h"

void
facts_told_forget(struct facts *facts)
{
    memset(facts->told, 0, sizeof(facts->told));
}

void
facts_tell(struct facts *facts, enum log_level level, const char *event, const char *domain,
           unsigned kinds, const char *reason)
{
    struct log_line line;
    if (facts->log == NULL)
        return;
    uint64_t hash = map_hash(facts->told_seed, span_str(domain));
    uint64_t *place = &facts->told[hash % FACTS_TOLD_MAX];
    uint64_t mark = hash * 31 + kinds + 1;
    if (*place == mark)
        return;
    *place = mark;
    log_begin(facts->log, &line, level, event);
    log_cstr(&line, "domain", domain);
    log_cstr(&line, "reason", reason);
    log_end(&line);
}
