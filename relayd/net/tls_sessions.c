#include "relayd/net/tls_sessions.h"

#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "policy/base/span.h"
#include "relayd/net/tls.h"

struct place {
    char *key; /* NULL = empty */
    SSL_SESSION *session;
    msec_t made_at;
};

struct tls_sessions {
    size_t n;
    struct place places[TLS_SESSIONS_MAX];
};

static struct place *
place_of(struct tls_sessions *s, const char *key)
{
    /* Peers choose names and so collisions; all they win is a full handshake. */
    return &s->places[span_hash(span_str(key)) % TLS_SESSIONS_MAX];
}

static void
place_clear(struct tls_sessions *s, struct place *place)
{
    if (place->key == NULL)
        return;
    free(place->key);
    SSL_SESSION_free(place->session);
    *place = (struct place){0};
    s->n--;
}

struct tls_sessions *
tls_sessions_new(void)
{
    return xcalloc(1, sizeof(struct tls_sessions));
}

void
tls_sessions_free(struct tls_sessions *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < TLS_SESSIONS_MAX; i++)
        place_clear(s, &s->places[i]);
    free(s);
}

void
tls_sessions_put(struct tls_sessions *s, const char *key, SSL_SESSION *session, msec_t made_at)
{
    struct place *place = place_of(s, key);
    char *copy = xstrdup(key);
    place_clear(s, place);
    *place = (struct place){copy, session, made_at};
    s->n++;
}

SSL_SESSION *
tls_sessions_take(struct tls_sessions *s, const char *key, msec_t now)
{
    struct place *place = place_of(s, key);
    if (place->key == NULL || strcmp(place->key, key) != 0)
        return NULL;
    SSL_SESSION *session = place->session;
    bool usable = SSL_SESSION_is_resumable(session) && now - place->made_at < TLS_SESSION_LIFE_MS;
    if (usable)
        SSL_SESSION_up_ref(session);
    if (!usable || SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION)
        place_clear(s, place);
    return usable ? session : NULL;
}

void
tls_sessions_drop(struct tls_sessions *s, const char *key)
{
    struct place *place = place_of(s, key);
    if (place->key != NULL && strcmp(place->key, key) == 0)
        place_clear(s, place);
}

size_t
tls_sessions_n(const struct tls_sessions *s)
{
    return s->n;
}
