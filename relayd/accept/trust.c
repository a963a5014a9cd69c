/*
 * trust - what is known of a session, put to policy/trust.h. Called by session.c and check.c.
 */
#include "policy/trust.h"

#include "relayd/accept/session.h"
#include "relayd/net/conn.h"
#include "relayd/net/tls.h"

/* The digests of the certificate that the client proved to hold the key of. */
static void
take_digests(const struct session *s, struct tls_pin *cert, struct tls_pin *spki,
             struct trust_query *query)
{
    const struct tls_facts *facts = conn_tls_facts(s->conn);

    if (facts == NULL || facts->cert_pin[0] == '\0' || !s->setup->asks_certificate)
        return;
    if (tls_pin_parse(span_str(facts->cert_pin), cert, NULL) == ERR_OK)
        query->cert_digest = cert->sha256;
    if (tls_pin_parse(span_str(facts->spki_pin), spki, NULL) == ERR_OK)
        query->spki_digest = spki->sha256;
}

void
session_judge(struct session *s, struct span user)
{
    const struct trust_names *names = s->accept->env.names;
    struct trust_query query = {
        .peer = s->client.ip, .tls = s->in_tls, .auth_user = user, .names = names};
    struct tls_pin cert, spki;
    struct trust_decision decision;

    s->names_version = names == NULL ? 0 : names->version;
    take_digests(s, &cert, &spki, &query);
    smtpd_set_trusted(s->smtpd, trust_check(s->setup->config, &query, &decision));
    smtpd_set_undecided(s->smtpd, decision.undecided);
}

void
session_judge_again(struct session *s)
{
    const struct trust_names *names = s->accept->env.names;

    if (names != NULL && names->version != s->names_version)
        session_judge(s, smtpd_client(s->smtpd)->user);
}
