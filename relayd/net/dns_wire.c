/*
 * dns_wire - walks over an answer several times instead of keeping a table of it: once for each
 * link of the CNAME chain, and once to collect. Messages are small, and nothing has to be allocated
 * for records that nobody asked for.
 */
#include "relayd/net/dns_wire.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"

#define TYPE_NS 2
#define TYPE_OPT 41
#define CLASS_IN 1
#define FLAG_AA 0x04    /* of octet 2 */
#define FLAG_RA 0x80    /* of octet 3 */
#define EDNS_BYTES 1232 /* fits every path without fragments (DNS flag day 2020) */

enum rcode { RCODE_NOERROR = 0, RCODE_FORMERR = 1, RCODE_NXDOMAIN = 3 };
enum section { SECTION_ANSWER, SECTION_AUTHORITY, SECTION_ADDITIONAL };

struct message {
    const uint8_t *p;
    size_t n;
};

/* One resource record; the spans of offsets are inside the message. */
struct record {
    char owner[DNS_NAME_BYTES];
    uint16_t type, klass;
    uint32_t ttl_s;
    size_t data, data_end;
    enum section section;
};

/* Where a walk stands. */
struct walk {
    struct message m;
    size_t at;
    unsigned left[3]; /* records still to come, by section */
    unsigned n_seen;
};

static uint16_t
get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t
get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void
put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

/* ---- the question ---- */

size_t
dns_question(uint8_t ret[DNS_QUESTION_BYTES], uint16_t id, const char *name, uint16_t type,
             bool edns)
{
    uint8_t *p = ret;
    put16(p, id);
    put16(p + 2, 0x0120); /* RD, AD: we want to know whether it was validated (RFC 6840 5.7) */
    put16(p + 4, 1);
    put16(p + 6, 0);
    put16(p + 8, 0);
    put16(p + 10, edns ? 1 : 0);
    p += DNS_HEADER_BYTES;
    p = dns_name_write(p, name);
    put16(p, type);
    put16(p + 2, CLASS_IN);
    p += 4;
    if (edns) {
        static const uint8_t opt[11] = {0, 0, TYPE_OPT, EDNS_BYTES >> 8, EDNS_BYTES & 255};
        memcpy(p, opt, sizeof(opt));
        p += sizeof(opt);
    }
    return (size_t)(p - ret);
}

/* ---- walking ---- */

/* Check header and question; the walk then stands at the first record. */
static bool
walk_begin(struct walk *w, struct message m, const char *name, uint16_t type)
{
    char asked[DNS_NAME_BYTES];
    if (m.n < DNS_HEADER_BYTES || (m.p[2] & 0x80) == 0 || (m.p[2] & 0x78) != 0 ||
        get16(m.p + 4) != 1)
        return false;
    size_t at = dns_name_read(m.p, m.n, DNS_HEADER_BYTES, asked);
    if (at == 0 || at + 4 > m.n || strcmp(asked, name) != 0 || get16(m.p + at) != type ||
        get16(m.p + at + 2) != CLASS_IN)
        return false;
    *w = (struct walk){.m = m, .at = at + 4};
    for (int i = 0; i < 3; i++)
        w->left[i] = get16(m.p + 6 + 2 * i);
    return true;
}

/* The next record: 1; none left: 0; malformed: -1. */
static int
walk_next(struct walk *w, struct record *r)
{
    int section = w->left[0] > 0 ? 0 : w->left[1] > 0 ? 1 : w->left[2] > 0 ? 2 : 3;
    if (section == 3 || w->n_seen == DNS_WALK_RECORDS_MAX)
        return 0;
    size_t at = dns_name_read(w->m.p, w->m.n, w->at, r->owner);
    if (at == 0 || at + 10 > w->m.n)
        return -1;
    const uint8_t *p = w->m.p + at;
    r->section = (enum section)section;
    r->type = get16(p);
    r->klass = get16(p + 2);
    r->ttl_s = get32(p + 4);
    r->data = at + 10;
    r->data_end = r->data + get16(p + 8);
    if (r->data_end > w->m.n)
        return -1;
    if (r->ttl_s > INT32_MAX)
        r->ttl_s = 0; /* RFC 2181 section 8 */
    w->left[section]--;
    w->n_seen++;
    w->at = r->data_end;
    return 1;
}

/* A name that fills the record's data from `at` to its end. */
static bool
data_name(const struct message *m, const struct record *r, size_t at, char out[DNS_NAME_BYTES])
{
    return at < r->data_end && dns_name_read(m->p, m->n, at, out) == r->data_end;
}

/* What is known before records are collected. */
struct survey {
    char name[DNS_NAME_BYTES]; /* where the chain stands */
    uint32_t ttl_s;            /* least of the chain */
    unsigned n_cnames;
    bool has_soa, has_ns; /* in the authority section */
    uint32_t negative_ttl_s;
    int rcode; /* with the upper bits of OPT */
};

/* One pass: does `s->name` lead on? 1: yes, s->name moved; 0: no; -1: malformed. */
static int
chain_step(const struct walk *start, struct survey *s)
{
    struct walk w = *start;
    struct record r;
    int more;
    while ((more = walk_next(&w, &r)) > 0) {
        if (r.section != SECTION_ANSWER)
            return 0;
        if (r.type != DNS_CNAME || r.klass != CLASS_IN || strcmp(r.owner, s->name) != 0)
            continue;
        if (!data_name(&w.m, &r, r.data, s->name))
            return -1;
        if (r.ttl_s < s->ttl_s)
            s->ttl_s = r.ttl_s;
        s->n_cnames++;
        return 1;
    }
    return more;
}

/* The SOA of a negative answer (RFC 2308 section 5), and the upper bits of the rcode. */
static bool
survey_rest(const struct walk *start, struct survey *s)
{
    struct walk w = *start;
    struct record r;
    int more;
    while ((more = walk_next(&w, &r)) > 0) {
        if (r.section == SECTION_ADDITIONAL && r.type == TYPE_OPT && r.owner[0] == '\0')
            s->rcode |= (int)(get32(w.m.p + r.data - 6) >> 24) << 4;
        s->has_ns = s->has_ns || (r.section == SECTION_AUTHORITY && r.type == TYPE_NS);
        if (r.section != SECTION_AUTHORITY || r.type != DNS_SOA || s->has_soa)
            continue;
        if (r.data_end - r.data < 22) /* two names and five numbers */
            return false;
        uint32_t minimum = get32(w.m.p + r.data_end - 4);
        s->has_soa = true;
        s->negative_ttl_s = r.ttl_s < minimum ? r.ttl_s : minimum;
    }
    return more == 0;
}

/* ---- collecting ---- */

/* Records under way: their texts are offsets into `pool` until it stands still. */
struct harvest {
    struct dns_record records[DNS_RECORDS_MAX];
    size_t host_at[DNS_RECORDS_MAX], data_at[DNS_RECORDS_MAX];
    size_t n;
    bool truncated;
    uint32_t ttl_s;
    struct strbuf pool;
};

static bool
take_host(struct harvest *h, const struct message *m, const struct record *r, size_t at)
{
    char host[DNS_NAME_BYTES];
    if (!data_name(m, r, at, host))
        return false;
    h->records[h->n].host_ok = domain_valid_host(span_str(host));
    h->records[h->n].host = ""; /* for real when the pool stands still */
    h->host_at[h->n] = h->pool.n;
    strbuf_add(&h->pool, host, strlen(host) + 1);
    return true;
}

/* The strings of a TXT record joined (RFC 7208 section 3.3). */
static bool
take_text(struct harvest *h, const struct message *m, const struct record *r)
{
    size_t n = 0;
    for (size_t at = r->data; at < r->data_end;) {
        size_t len = m->p[at++];
        if (at + len > r->data_end)
            return false;
        strbuf_add(&h->pool, m->p + at, len);
        at += len;
        n += len;
    }
    h->records[h->n].data = span_of("", n);
    return true;
}

static bool
take_address(struct harvest *h, const struct message *m, const struct record *r)
{
    size_t n = r->data_end - r->data;
    if (n != (r->type == DNS_A ? 4u : 16u))
        return false;
    if (r->type == DNS_A) {
        struct sockaddr_in sa = {.sin_family = AF_INET};
        memcpy(&sa.sin_addr, m->p + r->data, n);
        h->records[h->n].ip = ip_from_sockaddr((const struct sockaddr *)&sa, NULL);
    } else {
        struct sockaddr_in6 sa = {.sin6_family = AF_INET6};
        memcpy(&sa.sin6_addr, m->p + r->data, n);
        h->records[h->n].ip = ip_from_sockaddr((const struct sockaddr *)&sa, NULL);
    }
    return true;
}

/* One record of the type asked for; false when its data is malformed. */
static bool
take(struct harvest *h, const struct message *m, const struct record *r)
{
    h->records[h->n] = (struct dns_record){0};
    h->data_at[h->n] = h->pool.n;
    switch (r->type) {
    case DNS_MX:
        if (r->data_end - r->data < 3)
            return false;
        h->records[h->n].preference = get16(m->p + r->data);
        return take_host(h, m, r, r->data + 2);
    case DNS_PTR:
    case DNS_CNAME:
        return take_host(h, m, r, r->data);
    case DNS_A:
    case DNS_AAAA:
        return take_address(h, m, r);
    case DNS_TXT:
        return take_text(h, m, r);
    default:
        h->records[h->n].data = span_of("", r->data_end - r->data);
        strbuf_add(&h->pool, m->p + r->data, r->data_end - r->data);
        return true;
    }
}

/* There is no room for one more: an MX that is better than the worst one takes its place. */
static bool
take_better(struct harvest *h, const struct message *m, const struct record *r)
{
    size_t n = h->n, worst = 0;
    if (r->type != DNS_MX || r->data_end - r->data < 3)
        return r->type != DNS_MX;
    for (size_t i = 1; i < n; i++)
        if (h->records[i].preference > h->records[worst].preference)
            worst = i;
    if (get16(m->p + r->data) >= h->records[worst].preference)
        return true;
    h->n = worst;
    bool ok = take(h, m, r);
    h->n = n;
    return ok;
}

static bool
collect(const struct walk *start, const char *name, uint16_t type, struct harvest *h)
{
    struct walk w = *start;
    struct record r;
    int more;
    while ((more = walk_next(&w, &r)) > 0 && r.section == SECTION_ANSWER) {
        if (r.type != type || r.klass != CLASS_IN || strcmp(r.owner, name) != 0)
            continue;
        if (h->n == DNS_RECORDS_MAX) {
            h->truncated = true;
            if (!take_better(h, &w.m, &r))
                return false;
            continue;
        }
        if (!take(h, &w.m, &r))
            return false;
        if (r.ttl_s < h->ttl_s)
            h->ttl_s = r.ttl_s;
        h->n++;
    }
    return more >= 0;
}

/* Everything in one block: the struct, the records, their texts, the name. */
static struct dns_found *
found_make(const struct harvest *h, const char *name)
{
    size_t n_name = strlen(name) + 1;
    size_t records_bytes = h->n * sizeof(h->records[0]);
    size_t bytes = sizeof(struct dns_found) + records_bytes + h->pool.n + n_name;
    struct dns_found *f = xcalloc(1, bytes);
    f->records = (struct dns_record *)(f + 1);
    char *pool = (char *)f->records + records_bytes;

    if (h->n > 0)
        memcpy(f->records, h->records, records_bytes);
    if (h->pool.n > 0)
        memcpy(pool, h->pool.p, h->pool.n);
    for (size_t i = 0; i < h->n; i++) {
        if (f->records[i].host != NULL)
            f->records[i].host = pool + h->host_at[i];
        if (f->records[i].data.p != NULL)
            f->records[i].data.p = pool + h->data_at[i];
    }
    f->name = memcpy(pool + h->pool.n, name, n_name);
    f->n_records = h->n;
    f->bytes = bytes;
    f->truncated = h->truncated;
    return f;
}

static uint32_t
clamp(uint32_t ttl_s, uint32_t max_s)
{
    return ttl_s < DNS_TTL_MIN_S ? DNS_TTL_MIN_S : ttl_s > max_s ? max_s : ttl_s;
}

/* No answer but where to ask (RFC 2308 section 2.2), from a server that neither is responsible nor
 * asks others for us: it proves nothing. */
static bool
is_referral(const struct message *m, const struct survey *s)
{
    bool responsible = (m->p[2] & FLAG_AA) != 0, asks_others = (m->p[3] & FLAG_RA) != 0;
    return s->rcode == RCODE_NOERROR && get16(m->p + 6) == 0 && s->has_ns && !s->has_soa &&
           !responsible && !asks_others;
}

static enum dns_walk
conclude(const struct walk *start, uint16_t type, const struct survey *s, struct harvest *h,
         struct dns_found **ret)
{
    enum dns_walk walk = DNS_WALK_ANSWER;
    if (s->rcode == RCODE_NOERROR && !collect(start, s->name, type, h))
        return DNS_WALK_BROKEN;
    struct dns_found *f = found_make(h, s->name);
    f->rcode = s->rcode;
    f->n_cnames = s->n_cnames;
    f->ad = (start->m.p[3] & 0x20) != 0;
    f->null_mx = type == DNS_MX && f->n_records == 1 && f->records[0].host[0] == '\0';
    if (f->n_records > 0) {
        f->status = DNS_OK;
        f->ttl_s = clamp(h->ttl_s < s->ttl_s ? h->ttl_s : s->ttl_s, DNS_TTL_MAX_S);
    } else {
        uint32_t ttl_s = s->has_soa ? s->negative_ttl_s : DNS_NEGATIVE_DEFAULT_S;
        f->status = s->rcode == RCODE_NXDOMAIN ? DNS_NXDOMAIN : DNS_NODATA;
        f->ttl_s = clamp(ttl_s < s->ttl_s ? ttl_s : s->ttl_s, DNS_NEGATIVE_MAX_S);
        if (f->status == DNS_NODATA && s->n_cnames > 0 && !s->has_soa)
            walk = DNS_WALK_CHASE;
    }
    if (walk == DNS_WALK_CHASE)
        f->ttl_s = clamp(s->ttl_s, DNS_TTL_MAX_S);
    *ret = f;
    return walk;
}

enum dns_walk
dns_walk(struct span message, const char *name, uint16_t type, struct dns_found **ret_found,
         int *ret_rcode)
{
    struct message m = {(const uint8_t *)message.p, message.n};
    struct walk start;
    struct survey s = {.ttl_s = DNS_TTL_MAX_S};
    int more = 0;

    /* A server that does not know EDNS may send nothing but its header. One that answers with an
     * OPT knows it and means something else (RFC 6891 section 7); c-ares, which sees that too,
     * would cut an OPT off the end of a question that has none. */
    if (m.n >= DNS_HEADER_BYTES && (m.p[2] & 0x80) != 0 && (m.p[3] & 15) == RCODE_FORMERR &&
        get16(m.p + 10) == 0)
        return DNS_WALK_FORMERR;
    if (!walk_begin(&start, m, name, type))
        return DNS_WALK_BROKEN;
    s.rcode = m.p[3] & 15;
    if (!survey_rest(&start, &s))
        return DNS_WALK_BROKEN;
    *ret_rcode = s.rcode;
    if (s.rcode != RCODE_NOERROR && s.rcode != RCODE_NXDOMAIN)
        return DNS_WALK_FAILED;
    if ((m.p[2] & 2) != 0)
        return DNS_WALK_BROKEN; /* truncated, and c-ares has already tried TCP */
    if (is_referral(&m, &s))
        return DNS_WALK_REFERRAL;
    snprintf(s.name, sizeof(s.name), "%s", name);
    while (type != DNS_CNAME && (more = chain_step(&start, &s)) > 0)
        if (s.n_cnames > DNS_CNAME_MAX)
            return DNS_WALK_LOOP;
    if (more < 0)
        return DNS_WALK_BROKEN;
    struct harvest *h = xcalloc(1, sizeof(*h));
    h->ttl_s = DNS_TTL_MAX_S;
    enum dns_walk walk = conclude(&start, type, &s, h, ret_found);
    strbuf_release(&h->pool);
    free(h);
    return walk;
}

const char *
dns_rcode_name(int rcode)
{
    static const char *const names[] = {"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN",
                                        "NOTIMP",  "REFUSED", "YXDOMAIN", "YXRRSET",
                                        "NXRRSET", "NOTAUTH", "NOTZONE"};
    if (rcode == 16)
        return "BADVERS";
    return rcode >= 0 && (size_t)rcode < N_ELEMENTS(names) ? names[rcode] : "unknown rcode";
}
