/*
 * spf.c - the walk over the records (RFC 7208 sections 4 to 6).
 *
 * An include opens a frame above the one that names it, a redirect takes the place of the frame it
 * stands in; SPF_TERMS_MAX bounds both, so the frames are an array and nothing recurses. What is
 * not known is noted as a question, counts as "does not match", and leaves the walk without a
 * result. Called by relayd/facts_spf.c.
 */
#include "policy/spf_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "policy/base/mem.h"

#define FRAMES_MAX (SPF_TERMS_MAX + 1)
#define WHY_TERM_MAX 60   /* octets of a term in a reason */
#define WHY_DOMAIN_MAX 80 /* and of a domain */

struct frame {
    struct spf_name domain;
    const struct spf_policy *policy;
    size_t next;                    /* of its terms */
    const struct spf_term *include; /* of the frame below, that led here; NULL: the first frame */
};

struct walk {
    const struct spf_query *query;
    const struct spf_answers *answers;
    struct spf_verdict *ret;
    struct span local, sender_domain;
    struct frame frames[FRAMES_MAX];
    size_t n_frames;
    unsigned n_terms, n_voids;
    bool term_void; /* a look-up of the present term found nothing */
    bool pending;   /* something was not known: no result */
};

enum step {
    STEP_NEXT,    /* no match: the next term, of whatever frame is on top now */
    STEP_MATCH,   /* or, within: there are records */
    STEP_UNKNOWN, /* noted; else as STEP_NEXT */
    STEP_OVER,    /* the walk has ended */
};

const char *
spf_result_name(enum spf_result result)
{
    static const char *const names[] = {"none",     "neutral",   "pass",     "fail",
                                        "softfail", "temperror", "permerror"};
    return names[result];
}

/* ---- results ---- */

__attribute__((format(printf, 3, 4))) static enum step
over(struct walk *w, enum spf_result result, const char *fmt, ...)
{
    va_list ap;
    w->ret->result = result;
    va_start(ap, fmt);
    vsnprintf(w->ret->why, sizeof(w->ret->why), fmt, ap);
    va_end(ap);
    return STEP_OVER;
}

/* For reasons: printable, and not long. */
struct word {
    char text[WHY_DOMAIN_MAX + 4];
};

static struct word
word(struct span s, size_t max)
{
    struct word ret = {""};
    size_t n = s.n < max ? s.n : max;
    for (size_t i = 0; i < n; i++)
        ret.text[i] = s.p[i] > ' ' && s.p[i] < 0x7f ? s.p[i] : '?';
    if (s.n > max)
        memcpy(ret.text + n, "...", 4);
    return ret;
}

static struct word
domain_word(const struct spf_name *name)
{
    return word(span_of(name->octets, name->n), WHY_DOMAIN_MAX);
}

/*
 * The frame on top has come to `result`, by `term` or (NULL) by its end. The first frame's is that
 * of the check. That of an include: pass makes the include match, anything else does not
 * (section 5.2); errors never come here, they end the walk where they occur.
 */
static enum step
finish(struct walk *w, enum spf_result result, const struct spf_term *term)
{
    struct frame *f = &w->frames[w->n_frames - 1];
    char inner[2 * WHY_DOMAIN_MAX + 20];

    if (term == NULL)
        snprintf(inner, sizeof(inner), "no term matches at %s", domain_word(&f->domain).text);
    else
        snprintf(inner, sizeof(inner), "%s at %s", word(term->text, WHY_TERM_MAX).text,
                 domain_word(&f->domain).text);
    if (w->n_frames == 1)
        return over(w, result, "%s", inner);
    while (w->n_frames > 1) {
        if (result != SPF_PASS) {
            w->n_frames--;
            return STEP_NEXT;
        }
        term = f->include;
        result = term->result;
        f = &w->frames[--w->n_frames - 1];
    }
    return over(w, result, "%s at %s (%s)", word(term->text, WHY_TERM_MAX).text,
                domain_word(&f->domain).text, inner);
}

/* ---- questions ---- */

static void
note(struct walk *w, enum spf_type type, const char *name)
{
    struct spf_verdict *ret = w->ret;
    w->pending = true;
    for (size_t i = 0; i < ret->n_questions; i++)
        if (ret->questions[i].type == type && strcmp(ret->questions[i].name, name) == 0)
            return;
    if (ret->n_questions == SPF_ASK_MAX)
        return;
    struct spf_question *q = &ret->questions[ret->n_questions++];
    q->type = type;
    snprintf(q->name, sizeof(q->name), "%s", name);
}

/* NULL: not known, and noted. */
static const struct spf_answer *
ask_host(struct walk *w, enum spf_type type, const char *name)
{
    const struct spf_answer *a = spf_answers_find(w->answers, type, name);
    if (a == NULL) {
        note(w, type, name);
        return NULL;
    }
    if (a->ttl_s < w->ret->ttl_s)
        w->ret->ttl_s = a->ttl_s;
    w->term_void |= a->status == SPF_VOID;
    return a;
}

static const struct spf_answer *
ask(struct walk *w, enum spf_type type, const struct spf_name *name)
{
    char text[SPF_NAME_BYTES];
    spf_name_format(name, text);
    return ask_host(w, type, text);
}

static enum spf_type
address_type(const struct walk *w)
{
    return w->query->ip.family == 4 ? SPF_A : SPF_AAAA;
}

static bool
has_address(const struct walk *w, const struct spf_answer *a, const struct spf_term *term)
{
    const struct ip *ip = &w->query->ip;
    unsigned bits = term == NULL ? 128 : ip->family == 4 ? term->bits4 : term->bits6;
    struct ip wanted = ip_prefix(ip, bits);
    for (size_t i = 0; i < a->n; i++) {
        struct ip block = ip_prefix(&a->ips[i], bits);
        if (ip_eq(&block, &wanted))
            return true;
    }
    return false;
}

/* ---- the names of an address (section 5.5) ---- */

enum rank { RANK_SAME, RANK_UNDER, RANK_OTHER };

static enum rank
host_rank(struct span host, struct span domain)
{
    if (span_ieq(host, domain))
        return RANK_SAME;
    if (host.n > domain.n + 1 && host.p[host.n - domain.n - 1] == '.' && span_iends(host, domain))
        return RANK_UNDER;
    return RANK_OTHER;
}

/*
 * A name of the address that leads back to it, the nearest to `domain` first, `worst` at the most.
 * STEP_MATCH: *ret_host. An answer that fails is a name that does not count.
 */
static enum step
find_validated(struct walk *w, struct span domain, enum rank worst, const char **ret_host)
{
    struct spf_name reverse;
    spf_name_reverse(&w->query->ip, &reverse);
    const struct spf_answer *ptr = ask(w, SPF_PTR, &reverse);
    if (ptr == NULL)
        return STEP_UNKNOWN;

    bool unknown = false;
    for (unsigned rank = RANK_SAME; rank <= worst && !unknown; rank++) {
        for (size_t i = 0; i < ptr->n; i++) {
            struct span host = span_str(ptr->hosts[i]);
            if (host.n == 0 || host_rank(host, domain) != rank)
                continue;
            const struct spf_answer *a = ask_host(w, address_type(w), ptr->hosts[i]);
            unknown |= a == NULL;
            if (a != NULL && has_address(w, a, NULL)) {
                *ret_host = ptr->hosts[i];
                return STEP_MATCH;
            }
        }
    }
    return unknown ? STEP_UNKNOWN : STEP_NEXT;
}

/* ---- mechanisms ---- */

/* STEP_OVER when this term is one too many. */
static enum step
count_term(struct walk *w)
{
    if (++w->n_terms > SPF_TERMS_MAX)
        return over(w, SPF_PERMERROR, "more than %d terms that need DNS", SPF_TERMS_MAX);
    return STEP_NEXT;
}

/* The name that a domain-spec (empty: the record's own) means. STEP_MATCH: *ret; STEP_NEXT: it is
 * none that can be asked for. */
static enum step
target(struct walk *w, const struct frame *f, struct span spec, struct spf_name *ret)
{
    struct spf_macros m = {.local = w->local,
                           .sender_domain = w->sender_domain,
                           .helo = w->query->helo,
                           .domain = span_of(f->domain.octets, f->domain.n),
                           .validated = SPAN("unknown"),
                           .ip = &w->query->ip};
    if (spec.n == 0) {
        *ret = f->domain;
        return STEP_MATCH;
    }
    unsigned uses = spf_domain_spec_uses(spec);
    w->ret->personal |= (uses & (SPF_USES_LOCAL | SPF_USES_HELO)) != 0;
    if ((uses & SPF_USES_VALIDATED) != 0) {
        const char *host;
        enum step step = find_validated(w, m.domain, RANK_OTHER, &host);
        if (step == STEP_UNKNOWN)
            return step;
        if (step == STEP_MATCH)
            m.validated = span_str(host);
    }
    return spf_domain_spec_expand(spec, &m, ret) ? STEP_MATCH : STEP_NEXT;
}

/* Records of the term's target. STEP_MATCH: *ret has some. */
static enum step
look_up(struct walk *w, const struct frame *f, const struct spf_term *term, enum spf_type type,
        const struct spf_answer **ret)
{
    struct spf_name name;
    enum step step = count_term(w);
    if (step == STEP_OVER)
        return step;
    step = target(w, f, term->domain, &name);
    if (step != STEP_MATCH)
        return step;
    *ret = ask(w, type, &name);
    if (*ret == NULL)
        return STEP_UNKNOWN;
    if ((*ret)->status == SPF_ERROR)
        return over(w, SPF_TEMPERROR, "no answer from DNS about %s, for %s at %s",
                    domain_word(&name).text, word(term->text, WHY_TERM_MAX).text,
                    domain_word(&f->domain).text);
    return (*ret)->status == SPF_FOUND ? STEP_MATCH : STEP_NEXT;
}

static enum step
mechanism_a(struct walk *w, const struct frame *f, const struct spf_term *term)
{
    const struct spf_answer *a;
    enum step step = look_up(w, f, term, address_type(w), &a);
    return step != STEP_MATCH || has_address(w, a, term) ? step : STEP_NEXT;
}

/* An A record, whatever family the client is of (section 5.7). */
static enum step
mechanism_exists(struct walk *w, const struct frame *f, const struct spf_term *term)
{
    const struct spf_answer *a;
    return look_up(w, f, term, SPF_A, &a);
}

static enum step
mechanism_mx(struct walk *w, const struct frame *f, const struct spf_term *term)
{
    const struct spf_answer *mx;
    bool unknown = false;
    enum step step = look_up(w, f, term, SPF_MX, &mx);

    if (step != STEP_MATCH)
        return step;
    if (mx->n > SPF_MX_MAX)
        return over(w, SPF_PERMERROR, "more than %d MX hosts for %s at %s", SPF_MX_MAX,
                    word(term->text, WHY_TERM_MAX).text, domain_word(&f->domain).text);
    for (size_t i = 0; i < mx->n; i++) {
        if (mx->hosts[i][0] == '\0')
            continue; /* a null MX (RFC 7505) */
        const struct spf_answer *a = ask_host(w, address_type(w), mx->hosts[i]);
        unknown |= a == NULL;
        if (a == NULL || unknown)
            continue;
        if (a->status == SPF_ERROR)
            return over(w, SPF_TEMPERROR, "no answer from DNS about %s, for %s at %s",
                        word(span_str(mx->hosts[i]), WHY_DOMAIN_MAX).text,
                        word(term->text, WHY_TERM_MAX).text, domain_word(&f->domain).text);
        if (has_address(w, a, term))
            return STEP_MATCH;
    }
    return unknown ? STEP_UNKNOWN : STEP_NEXT;
}

static enum step
mechanism_ptr(struct walk *w, const struct frame *f, const struct spf_term *term)
{
    struct spf_name name;
    const char *host;
    enum step step = count_term(w);
    if (step == STEP_OVER)
        return step;
    step = target(w, f, term->domain, &name);
    if (step != STEP_MATCH)
        return step;
    return find_validated(w, span_of(name.octets, name.n), RANK_UNDER, &host);
}

static enum step
mechanism_all(struct walk *w, const struct frame *f, const struct spf_term *term)
{
    (void)w;
    (void)f;
    (void)term;
    return STEP_MATCH;
}

static enum step
mechanism_ip(struct walk *w, const struct frame *f, const struct spf_term *term)
{
    (void)f;
    return cidr_has(&term->block, &w->query->ip) ? STEP_MATCH : STEP_NEXT;
}

/* ---- records ---- */

/* Make a frame of the record of `name`. STEP_NEXT: it is *f now. STEP_MATCH: there is none. */
static enum step
open_record(struct walk *w, const struct spf_name *name, struct frame *f)
{
    struct word domain = domain_word(name);
    if (memchr(name->octets, '.', name->n) == NULL)
        return STEP_MATCH; /* section 4.3: one label is no domain */
    const struct spf_answer *a = ask(w, SPF_TXT, name);
    if (a == NULL)
        return STEP_UNKNOWN;
    if (a->status == SPF_ERROR)
        return over(w, SPF_TEMPERROR, "no answer from DNS about the record of %s", domain.text);
    if (a->n_policies == 0)
        return STEP_MATCH;
    if (a->n_policies > 1)
        return over(w, SPF_PERMERROR, "%u SPF records at %s", a->n_policies, domain.text);
    if (a->policy->fault != NULL)
        return over(w, SPF_PERMERROR, "%s: \"%s\" at %s", a->policy->fault,
                    word(a->policy->culprit, WHY_TERM_MAX).text, domain.text);
    f->domain = *name;
    f->policy = a->policy;
    f->next = 0;
    return STEP_NEXT;
}

/*
 * The record that a domain-spec of `f` leads to, in *into, which may be `f` itself. That there is
 * none is an error here (sections 5.2, 6.1). STEP_NEXT: *into is ready.
 */
static enum step
follow(struct walk *w, const struct frame *f, struct span spec, struct frame *into)
{
    struct spf_name name;
    struct word from = domain_word(&f->domain);
    enum step step = count_term(w);
    if (step == STEP_OVER)
        return step;
    step = target(w, f, spec, &name);
    if (step == STEP_UNKNOWN)
        return step;
    if (step == STEP_MATCH) {
        step = open_record(w, &name, into);
        if (step != STEP_MATCH)
            return step;
    }
    return over(w, SPF_PERMERROR, "no SPF record where \"%s\" at %s leads to",
                word(spec, WHY_TERM_MAX).text, from.text);
}

static enum step
mechanism_include(struct walk *w, const struct frame *f, const struct spf_term *term)
{
    assert(w->n_frames < FRAMES_MAX || w->n_terms >= SPF_TERMS_MAX);
    struct frame *inner = &w->frames[w->n_frames];
    enum step step = follow(w, f, term->domain, inner);
    if (step == STEP_NEXT) {
        inner->include = term;
        w->n_frames++;
    }
    return step;
}

static enum step (*const mechanisms[])(struct walk *, const struct frame *,
                                       const struct spf_term *) = {
    [SPF_KIND_ALL] = mechanism_all, [SPF_KIND_INCLUDE] = mechanism_include,
    [SPF_KIND_A] = mechanism_a,     [SPF_KIND_MX] = mechanism_mx,
    [SPF_KIND_PTR] = mechanism_ptr, [SPF_KIND_IP4] = mechanism_ip,
    [SPF_KIND_IP6] = mechanism_ip,  [SPF_KIND_EXISTS] = mechanism_exists,
};

/* ---- the walk ---- */

/* One term of the frame on top, or its end. STEP_NEXT or STEP_OVER. */
static enum step
walk_on(struct walk *w)
{
    struct frame *f = &w->frames[w->n_frames - 1];
    if (f->next == f->policy->n_terms) {
        enum step step = STEP_UNKNOWN;
        if (f->policy->redirect.n > 0 && !f->policy->has_all)
            step = follow(w, f, f->policy->redirect, f);
        return step != STEP_UNKNOWN ? step : finish(w, SPF_NEUTRAL, NULL);
    }
    const struct spf_term *term = &f->policy->terms[f->next++];
    w->term_void = false;
    enum step step = mechanisms[term->kind](w, f, term);
    if (step == STEP_MATCH)
        return finish(w, term->result, term);
    if (step == STEP_OVER)
        return step;
    if (w->term_void && ++w->n_voids > SPF_VOIDS_MAX)
        return over(w, SPF_PERMERROR, "more than %d terms find nothing in DNS", SPF_VOIDS_MAX);
    if (step == STEP_UNKNOWN && spf_answers_count(w->answers) >= SPF_AHEAD_MAX)
        return STEP_OVER;
    return STEP_NEXT;
}

/* Split the sender (sections 2.4 and 4.3). STEP_OVER: there is no domain to ask about. */
static enum step
begin(struct walk *w, struct spf_name *ret)
{
    struct span sender = w->query->sender;

    if (w->query->ip.family == 0)
        return over(w, SPF_NONE, "no address");
    if (sender.n > SPF_SENDER_MAX || w->query->helo.n > SPF_SENDER_MAX)
        return over(w, SPF_NONE, "no mail address");
    size_t at = sender.n;
    while (at > 0 && sender.p[at - 1] != '@')
        at--;
    w->local = span_first(sender, at > 0 ? at - 1 : 0);
    w->sender_domain = span_from(sender, at);
    if (sender.n == 0) {
        w->sender_domain = w->query->helo;
        w->ret->personal = true;
    }
    if (w->local.n == 0)
        w->local = SPAN("postmaster");
    for (size_t i = 0; i < w->sender_domain.n; i++) {
        char c = w->sender_domain.p[i];
        if (!ascii_alpha(c) && !ascii_digit(c) && c != '-' && c != '_' && c != '.')
            return over(w, SPF_NONE, "no domain to ask about");
    }
    return spf_name_make(w->sender_domain, ret) ? STEP_NEXT
                                                : over(w, SPF_NONE, "no domain to ask about");
}

bool
spf_check(const struct spf_query *query, const struct spf_answers *answers, struct spf_verdict *ret)
{
    struct walk w = {.query = query, .answers = answers, .ret = ret};
    struct spf_name domain;

    ret->result = SPF_NONE;
    ret->personal = false;
    ret->ttl_s = UINT32_MAX;
    ret->why[0] = '\0';
    ret->n_questions = 0;
    enum step step = begin(&w, &domain);
    if (step == STEP_NEXT) {
        step = open_record(&w, &domain, &w.frames[0]);
        w.n_frames = 1;
    }
    if (step == STEP_MATCH)
        step = over(&w, SPF_NONE, "no SPF record at %s", domain_word(&domain).text);
    while (step == STEP_NEXT)
        step = walk_on(&w);
    assert(w.pending == (ret->n_questions > 0));
    return !w.pending;
}
