/*
 * dkim.c - the signer: RSA signatures by libopendkim, Ed25519 ones by dkim_eddsa.c, one pass over
 * the body for all of them.
 *
 *   choose fields ─▶ match keys ─▶ open one handle for each RSA key ─▶ body pieces to all ─▶ finish
 *
 * This is the only file that includes libopendkim. What it is never given: DKIM_OPTS_SKIPHDRS and
 * dkim_chunk() (out-of-bounds writes), DKIM_LIBFLAGS_FIXCRLF (hashes that depend on the pieces), a
 * zero-length or malformed field (assertions), a private key (dkim_keys.c), mail to verify.
 */
#include "policy/dkim_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include <opendkim/dkim.h>

#include "policy/base/mem.h"
#include "policy/header.h"

#define FIELD_START "DKIM-Signature: "

struct dkim_signer {
    DKIM_LIB *lib;
    struct dkim_eddsa *eddsa;
    struct dkim_selection selection; /* of the message in hand */
};

void
dkim_signer_free(struct dkim_signer *signer)
{
    if (signer == NULL)
        return;
    if (signer->lib != NULL)
        dkim_close(signer->lib);
    dkim_eddsa_free(signer->eddsa);
    free(signer);
}

static void *
lib_alloc(void *closure, size_t n)
{
    (void)closure;
    return xmalloc(n);
}

static void
lib_free(void *closure, void *p)
{
    (void)closure;
    free(p);
}

enum err_code
dkim_signer_new(struct dkim_signer **ret, struct err *err)
{
    struct dkim_signer *signer = xcalloc(1, sizeof(*signer));
    enum err_code code = dkim_eddsa_new(&signer->eddsa, err);
    if (code == ERR_OK) {
        signer->lib = dkim_init(lib_alloc, lib_free);
        if (signer->lib == NULL)
            code = err_set(err, ERR_IO, "libopendkim does not start");
        else if (!dkim_libfeature(signer->lib, DKIM_FEATURE_SHA256) ||
                 !dkim_libfeature(signer->lib, DKIM_FEATURE_OVERSIGN))
            code = err_set(err, ERR_IO, "libopendkim was built without SHA-256 or oversigning");
        else if (dkim_options(signer->lib, DKIM_OP_SETOPT, DKIM_OPTS_OVERSIGNHDRS,
                              (void *)dkim_oversigned, sizeof(char **)) != DKIM_STAT_OK)
            code = err_set(err, ERR_IO, "libopendkim does not take the oversigned names");
    }
    if (code != ERR_OK) {
        dkim_signer_free(signer);
        return code;
    }
    *ret = signer;
    return ERR_OK;
}

const char *
dkim_verdict_name(enum dkim_verdict verdict)
{
    static const char *const names[] = {"signed", "no_key", "present", "unsigned"};
    return names[verdict];
}

void
dkim_result_release(struct dkim_result *result)
{
    for (size_t i = 0; i < result->n_signatures; i++)
        free(result->signatures[i].field);
    result->n_signatures = 0;
}

/* -- one message ------------------------------------------------------------------------------- */

/* A signature in the making. */
struct work {
    struct dkim_identity identity;
    DKIM *handle; /* of libopendkim; NULL for Ed25519 */
};

struct session {
    struct dkim_signer *signer;
    const struct dkim_message *message;
    struct work works[DKIM_SIGNATURES_MAX];
    size_t n_works;
    bool has_eddsa;
    struct dkim_body_check check;
};

static enum err_code
library_error(const struct session *s, const struct work *w, const char *call, DKIM_STAT status,
              struct err *err)
{
    const char *detail = w->handle == NULL ? NULL : dkim_geterror(w->handle);
    return err_set(err, ERR_IO, "%.*s: signing as %.*s failed at %s: %s%s%s",
                   SPAN_ARG(s->message->id), SPAN_ARG(w->identity.domain), call,
                   dkim_getresultstr(status), detail == NULL ? "" : ": ",
                   detail == NULL ? "" : detail);
}

static void
session_release(struct session *s)
{
    for (size_t i = 0; i < s->n_works; i++)
        if (s->works[i].handle != NULL)
            dkim_free(s->works[i].handle);
}

/* Start libopendkim on one RSA signature: fields, and the end of the header. */
static enum err_code
rsa_start(struct session *s, struct work *w, struct err *err)
{
    static const char id[] = "relayd"; /* only for the library's own messages */
    const struct dkim_selection *selection = &s->signer->selection;
    uint64_t now = (uint64_t)(s->message->now / SECOND);
    DKIM_STAT status =
        dkim_options(s->signer->lib, DKIM_OP_SETOPT, DKIM_OPTS_FIXEDTIME, &now, sizeof(now));
    if (status != DKIM_STAT_OK)
        return library_error(s, w, "dkim_options", status, err);

    w->handle = dkim_sign(
        s->signer->lib, (const unsigned char *)id, NULL, (dkim_sigkey_t)dkim_key_token(),
        (const unsigned char *)w->identity.selector.p, (const unsigned char *)w->identity.domain.p,
        DKIM_CANON_RELAXED, DKIM_CANON_RELAXED, DKIM_SIGN_RSASHA256, -1, &status);
    if (w->handle == NULL)
        return library_error(s, w, "dkim_sign", status, err);
    for (size_t i = 0; i < selection->n_fields; i++) {
        struct span text = selection->fields[i].text;
        status = dkim_header(w->handle, (unsigned char *)text.p, text.n);
        if (status != DKIM_STAT_OK)
            return library_error(s, w, "dkim_header", status, err);
    }
    status = dkim_eoh(w->handle);
    return status == DKIM_STAT_OK ? ERR_OK : library_error(s, w, "dkim_eoh", status, err);
}

static enum err_code
body_piece(struct session *s, struct span piece, struct err *err)
{
    dkim_body_check(&s->check, piece);
    if (s->has_eddsa)
        dkim_eddsa_body_add(s->signer->eddsa, piece);
    for (size_t i = 0; i < s->n_works; i++) {
        struct work *w = &s->works[i];
        if (w->handle == NULL)
            continue;
        DKIM_STAT status = dkim_body(w->handle, (unsigned char *)piece.p, piece.n);
        if (status != DKIM_STAT_OK)
            return library_error(s, w, "dkim_body", status, err);
    }
    return ERR_OK;
}

static enum err_code
body_read(struct session *s, struct err *err)
{
    const struct dkim_body *body = &s->message->body;
    for (;;) {
        struct span piece = SPAN_NONE;
        enum err_code code = body->next(body->arg, &piece, err);
        if (code != ERR_OK || piece.n == 0)
            return code;
        code = body_piece(s, piece, err);
        if (code != ERR_OK || s->check.refusal != NULL)
            return code;
    }
}

static enum err_code
rsa_finish(struct session *s, struct work *w, struct strbuf *out, struct err *err)
{
    unsigned char *text;
    size_t n;

    dkim_key_lend(w->identity.key);
    DKIM_STAT status = dkim_eom(w->handle, NULL);
    if (status == DKIM_STAT_OK)
        status = dkim_getsighdr_d(w->handle, strlen(FIELD_START), &text, &n);
    if (status != DKIM_STAT_OK) {
        enum err_code code = library_error(s, w, "dkim_eom", status, err);
        dkim_free(w->handle);
        w->handle = NULL;
        dkim_key_unlend(true);
        return code;
    }
    strbuf_add_str(out, FIELD_START);
    strbuf_add(out, text, n);
    strbuf_add_str(out, "\r\n");
    dkim_free(w->handle);
    w->handle = NULL;
    dkim_key_unlend(false);
    return ERR_OK;
}

static enum err_code
signature_finish(struct session *s, struct work *w, struct dkim_result *result, struct err *err)
{
    struct strbuf field = STRBUF_INIT;
    enum err_code code;
    if (w->handle == NULL)
        code = dkim_eddsa_sign(s->signer->eddsa, &s->signer->selection, &w->identity,
                               s->message->now, &field, err);
    else
        code = rsa_finish(s, w, &field, err);
    if (code != ERR_OK) {
        strbuf_release(&field);
        return code;
    }
    struct dkim_signature *signature = &result->signatures[result->n_signatures++];
    snprintf(signature->domain, sizeof(signature->domain), "%.*s", SPAN_ARG(w->identity.domain));
    snprintf(signature->selector, sizeof(signature->selector), "%.*s",
             SPAN_ARG(w->identity.selector));
    signature->field_bytes = field.n;
    signature->field = strbuf_take(&field);
    return ERR_OK;
}

/* Everything from the first handle to the last signature. */
static enum err_code
session_run(struct session *s, struct dkim_result *result, struct err *err)
{
    enum err_code code = ERR_OK;
    for (size_t i = 0; i < s->n_works && code == ERR_OK; i++)
        if (dkim_key_type(s->works[i].identity.key) == DKIM_KEY_RSA)
            code = rsa_start(s, &s->works[i], err);
    if (code == ERR_OK && s->has_eddsa)
        code = dkim_eddsa_body_start(s->signer->eddsa, err);
    if (code == ERR_OK)
        code = body_read(s, err);
    if (code != ERR_OK)
        return code;

    const char *refusal = dkim_body_refusal(&s->check);
    if (refusal != NULL) {
        result->verdict = DKIM_VERDICT_UNSIGNED;
        snprintf(result->reason, sizeof(result->reason), "%s", refusal);
        return ERR_OK;
    }
    if (s->has_eddsa)
        code = dkim_eddsa_body_finish(s->signer->eddsa, err);
    for (size_t i = 0; i < s->n_works && code == ERR_OK; i++)
        code = signature_finish(s, &s->works[i], result, err);
    result->verdict = DKIM_VERDICT_SIGNED;
    return code;
}

/* Which signatures to make; false when there is none, with the verdict that says why. */
static bool
session_plan(struct session *s, const struct dkim_keyring *ring, struct dkim_result *result)
{
    struct dkim_identity identities[DKIM_SIGNATURES_MAX];
    char from[HEADER_DOMAIN_MAX + 1];
    struct dkim_selection *selection = &s->signer->selection;

    dkim_select(s->message, selection);
    result->verdict = DKIM_VERDICT_NO_KEY;
    if (selection->from.p == NULL || !header_from_domain(selection->from, from) ||
        domain_normalise(span_str(from), result->from_domain, NULL) != ERR_OK)
        return false;
    size_t n = dkim_keyring_match(ring, span_str(result->from_domain), identities);
    for (size_t i = 0; i < n; i++) {
        if (dkim_is_signed_by(s->message, identities[i].domain, identities[i].selector))
            continue;
        s->works[s->n_works++] = (struct work){.identity = identities[i]};
        s->has_eddsa |= dkim_key_type(identities[i].key) == DKIM_KEY_ED25519;
    }
    if (n > 0 && s->n_works == 0)
        result->verdict = DKIM_VERDICT_PRESENT;
    if (s->n_works > 0 && selection->refusal != NULL) {
        result->verdict = DKIM_VERDICT_UNSIGNED;
        snprintf(result->reason, sizeof(result->reason), "%s", selection->refusal);
        s->n_works = 0;
    }
    return s->n_works > 0;
}

enum err_code
dkim_signer_sign(struct dkim_signer *signer, const struct dkim_keyring *ring,
                 const struct dkim_message *message, struct dkim_result *ret, struct err *err)
{
    struct session s = {.signer = signer, .message = message};
    enum err_code code = ERR_OK;

    ret->n_signatures = 0;
    ret->from_domain[0] = ret->reason[0] = '\0';
    if (session_plan(&s, ring, ret))
        code = session_run(&s, ret, err);
    session_release(&s);
    if (code != ERR_OK)
        dkim_result_release(ret);
    return code;
}
