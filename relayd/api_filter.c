/*
 * api_filter - which recipients a list or a verb means. What a field says wrongly is refused, never
 * left out: a filter without it would match more.
 */
#include <stdio.h>

#include "relayd/api_internal.h"

bool
api_filter_keeps(const struct api_filter *f, const char *state)
{
    static const char *const names[] = {NULL, API_STATE_SCHEDULED, API_STATE_IN_HAND,
                                        API_STATE_HELD};
    return f->state == API_ANY_STATE || strcmp(names[f->state], state) == 0;
}

/* A field as text, from the query or the body; p NULL: not given. */
static struct span
field(const struct control_call *call, bool from_body, const char *name)
{
    return from_body ? span_str(control_body_str(call, name)) : control_query(call, name);
}

static bool
parse_state(struct span text, struct api_filter *ret)
{
    if (span_eq(text, SPAN(API_STATE_SCHEDULED)))
        ret->state = API_SCHEDULED;
    else if (span_eq(text, SPAN(API_STATE_IN_HAND)))
        ret->state = API_IN_HAND;
    else if (span_eq(text, SPAN(API_STATE_HELD)))
        ret->state = API_HELD;
    else
        return false;
    return true;
}

static void
parse_sender(struct span text, struct api_filter *ret)
{
    ret->filter.sender_null = span_eq(text, SPAN("<>")) || text.n == 0;
    snprintf(ret->sender, sizeof(ret->sender), "%.*s", SPAN_ARG(text));
    if (!ret->filter.sender_null)
        ret->filter.sender = span_str(ret->sender);
}

/* A text that is no text in the JSON would be taken for one that is not there. False: the call has
 * been answered. */
static bool
texts_are_texts(struct control_call *call)
{
    static const char *const names[] = {API_F_ID,     API_F_DOMAIN, API_F_STATE,
                                        API_F_SENDER, API_F_ROUTE,  API_F_REASON};
    for (size_t i = 0; i < N_ELEMENTS(names); i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(control_body(call), names[i]);
        if (item != NULL && !cJSON_IsString(item)) {
            control_error(call, ERR_INVAL, "%s: expected a text", names[i]);
            return false;
        }
    }
    return true;
}

/* Likewise; *ret_older is 0 when it is not given. */
static bool
parse_older(struct control_call *call, bool from_body, uint64_t *ret_older)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(control_body(call), API_F_OLDER_MS);
    struct span text = control_query(call, API_F_OLDER_MS);
    bool good;

    *ret_older = 0;
    if (from_body) {
        double older = item == NULL ? 0 : item->valuedouble;
        good = item == NULL || (cJSON_IsNumber(item) && older >= 0 && older <= API_OLDER_MAX_MS);
        if (good)
            *ret_older = (uint64_t)older;
    } else {
        good = text.p == NULL || (span_u64(text, ret_older) && *ret_older <= API_OLDER_MAX_MS);
    }
    if (!good)
        control_error(call, ERR_INVAL,
                      "older_ms: expected a number of milliseconds, 10000d at most");
    return good;
}

bool
api_filter_parse(struct api *api, struct control_call *call, bool from_body, struct api_filter *ret)
{
    struct span id = field(call, from_body, API_F_ID),
                domain = field(call, from_body, API_F_DOMAIN);
    struct span state = field(call, from_body, API_F_STATE);
    struct span sender = field(call, from_body, API_F_SENDER);
    uint64_t older;
    struct err err;

    *ret = (struct api_filter){0};
    if ((from_body && !texts_are_texts(call)) || !parse_older(call, from_body, &older))
        return false;
    if (sender.n >= sizeof(ret->sender)) {
        control_error(call, ERR_INVAL, "sender: longer than any address");
        return false;
    }
    if (id.p != NULL && !api_id_parse(call, id, &ret->filter.id))
        return false;
    if (domain.p != NULL) {
        if (domain_normalise(domain, ret->domain, &err) != ERR_OK) {
            control_error(call, ERR_INVAL, "domain: %s", err.text);
            return false;
        }
        ret->filter.domain = span_str(ret->domain);
    }
    if (state.p != NULL && !parse_state(state, ret)) {
        control_error(call, ERR_INVAL, "state: expected scheduled, in_hand or held");
        return false;
    }
    if (sender.p != NULL)
        parse_sender(sender, ret);
    if (older > 0) {
        msec_t before = clock_wall(loop_clock(api->d->loop)) - (msec_t)older;
        ret->filter.arrived_before = before > 0 ? before : 1; /* 0 would match all */
    }
    ret->any_field =
        id.p != NULL || domain.p != NULL || state.p != NULL || sender.p != NULL || older > 0;
    return true;
}
