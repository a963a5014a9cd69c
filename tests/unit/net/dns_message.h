/*
 * dns_message - writes DNS answers for tests, well-formed or not.
 */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct dns_message {
    uint8_t p[65535];
    size_t n;
};

static inline void
put_bytes(struct dns_message *m, const void *p, size_t n)
{
    assert(m->n + n <= sizeof(m->p));
    memcpy(m->p + m->n, p, n);
    m->n += n;
}

static inline void
put_u8(struct dns_message *m, unsigned v)
{
    uint8_t b = (uint8_t)v;
    put_bytes(m, &b, 1);
}

static inline void
put_u16(struct dns_message *m, unsigned v)
{
    put_u8(m, v >> 8);
    put_u8(m, v & 255);
}

static inline void
put_u32(struct dns_message *m, uint32_t v)
{
    put_u16(m, v >> 16);
    put_u16(m, v & 65535);
}

static inline void
put_name(struct dns_message *m, const char *name)
{
    while (*name != '\0') {
        size_t n = strcspn(name, ".");
        put_u8(m, (unsigned)n);
        put_bytes(m, name, n);
        name += n + (name[n] == '.');
    }
    put_u8(m, 0);
}

/* One more record in a section: 0 answer, 1 authority, 2 additional. */
static inline void
count_one(struct dns_message *m, int section)
{
    uint8_t *p = m->p + 6 + 2 * section;
    unsigned n = (p[0] << 8 | p[1]) + 1u;
    p[0] = (uint8_t)(n >> 8);
    p[1] = (uint8_t)n;
}

/* Header and question; flags as in the second 16 bits, with QR and RD set by this. */
static inline void
put_header(struct dns_message *m, unsigned id, unsigned flags, const char *name, unsigned type)
{
    m->n = 0;
    put_u16(m, id);
    put_u16(m, 0x8180 | flags);
    put_u16(m, 1);
    put_u32(m, 0);
    put_u16(m, 0);
    put_name(m, name);
    put_u16(m, type);
    put_u16(m, 1);
}

/* A record's head; returns where its data length is, for end_record(). */
static inline size_t
begin_record(struct dns_message *m, int section, const char *owner, unsigned type, uint32_t ttl_s)
{
    count_one(m, section);
    put_name(m, owner);
    put_u16(m, type);
    put_u16(m, 1);
    put_u32(m, ttl_s);
    put_u16(m, 0);
    return m->n - 2;
}

static inline void
end_record(struct dns_message *m, size_t at)
{
    size_t n = m->n - at - 2;
    m->p[at] = (uint8_t)(n >> 8);
    m->p[at + 1] = (uint8_t)n;
}

static inline void
put_a(struct dns_message *m, const char *owner, uint32_t ttl_s, uint32_t ip)
{
    size_t at = begin_record(m, 0, owner, 1, ttl_s);
    put_u32(m, ip);
    end_record(m, at);
}

static inline void
put_aaaa(struct dns_message *m, const char *owner, uint32_t ttl_s, const uint8_t ip[16])
{
    size_t at = begin_record(m, 0, owner, 28, ttl_s);
    put_bytes(m, ip, 16);
    end_record(m, at);
}

static inline void
put_mx(struct dns_message *m, const char *owner, uint32_t ttl_s, unsigned pref, const char *host)
{
    size_t at = begin_record(m, 0, owner, 15, ttl_s);
    put_u16(m, pref);
    put_name(m, host);
    end_record(m, at);
}

static inline void
put_cname(struct dns_message *m, const char *owner, uint32_t ttl_s, const char *target)
{
    size_t at = begin_record(m, 0, owner, 5, ttl_s);
    put_name(m, target);
    end_record(m, at);
}

static inline void
put_soa(struct dns_message *m, const char *owner, uint32_t ttl_s, uint32_t minimum_s)
{
    size_t at = begin_record(m, 1, owner, 6, ttl_s);
    put_name(m, "ns.test");
    put_name(m, "root.test");
    for (int i = 0; i < 4; i++)
        put_u32(m, 3600);
    put_u32(m, minimum_s);
    end_record(m, at);
}
