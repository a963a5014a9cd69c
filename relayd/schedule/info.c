/*
 * info - what is told of the sites: to status, metrics, explain and the routes verb.
 */
#include "relayd/schedule/internal.h"

#include <string.h>

const char *
site_state_name(enum site_state state)
{
    static const char *const names[] = {"up", "down", "probing"};
    return names[state];
}

static struct site_info
info_of(const struct site *site)
{
    const struct schedule *s = site->schedule;
    bool up = site->state == SITE_UP;
    return (struct site_info){
        .name = site->name,
        .route = site->route,
        .state = site->state,
        .use = site_usable(site),
        .suspended = site_suspended(site),
        .curable = site->curable,
        .n_ready = site->n_ready,
        .n_busy = site->n_busy,
        .n_connections = site->n_links,
        .probe_at = up ? 0 : clock_wall(s->clock) + site->probe_at - clock_now(s->clock),
        .failures = site->failures,
        .slowed = site->shape.slowed,
        .failure = up ? NULL : outcome_kept_text(site->failure),
    };
}

void
schedule_sites(struct schedule *s, void (*each)(void *arg, const struct site_info *info), void *arg)
{
    size_t pos = 0;
    struct span key;
    void *value;
    while (map_next(&s->sites, &pos, &key, &value)) {
        struct site_info info = info_of(value);
        each(arg, &info);
    }
}

struct site_search {
    const char *route, *name;
    struct site_info *ret;
    bool found;
};

static void
match_site(void *arg, const struct site_info *info)
{
    struct site_search *search = arg;
    if (strcmp(info->route, search->route) != 0 || strcmp(info->name, search->name) != 0)
        return;
    *search->ret = *info;
    search->found = true;
}

bool
schedule_site_find(struct schedule *s, const char *route, const char *name, struct site_info *ret)
{
    struct site_search search = {route, name, ret, false};
    schedule_sites(s, match_site, &search);
    return search.found;
}

bool
schedule_site_chosen(const struct schedule *s, const char *route, const char *key,
                     enum config_tls tls, struct site_info *ret)
{
    const struct site *site = site_find(s, route, key, tls);
    if (site != NULL)
        *ret = info_of(site);
    return site != NULL;
}

/* ---- the worst ---- */

bool
site_in_trouble(const struct site_info *info)
{
    return info->state != SITE_UP || info->suspended;
}

const char *
site_trouble_name(const struct site_info *info)
{
    return info->suspended ? "suspended" : site_state_name(info->state);
}

/* By name at the end, so that the choice stays the same as long as nothing happens. */
static bool
is_worse(const struct site_info *a, const struct site_info *b)
{
    if (a->n_ready != b->n_ready)
        return a->n_ready > b->n_ready;
    if (a->failures != b->failures)
        return a->failures > b->failures;
    return strcmp(a->name, b->name) < 0;
}

struct worst {
    struct site_info *list;
    size_t n, max;
};

static void
add_worst(void *arg, const struct site_info *info)
{
    struct worst *w = arg;
    size_t at = w->n;

    if (!site_in_trouble(info) ||
        (w->n == w->max && (w->max == 0 || !is_worse(info, &w->list[w->n - 1]))))
        return;
    if (w->n < w->max)
        w->n++;
    else
        at--;
    for (; at > 0 && is_worse(info, &w->list[at - 1]); at--)
        w->list[at] = w->list[at - 1];
    w->list[at] = *info;
}

size_t
schedule_worst(struct schedule *s, struct site_info *ret, size_t max)
{
    struct worst worst = {ret, 0, max};
    schedule_sites(s, add_worst, &worst);
    return worst.n;
}
