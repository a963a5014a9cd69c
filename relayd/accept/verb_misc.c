/*
 * verb_misc - the commands that carry no mail: RSET, NOOP, QUIT, VRFY, EXPN, HELP. Called by
 * smtpd.c.
 */
#include "relayd/accept/internal.h"

void
verb_rset(struct smtpd *s, struct span arg)
{
    if (arg.n > 0) {
        smtpd_error(s, "501 5.5.4 RSET takes no parameter");
        return;
    }
    smtpd_txn_end(s);
    smtpd_reply(s, "250 2.0.0 ok");
}

void
verb_noop(struct smtpd *s, struct span arg)
{
    (void)arg; /* any string, RFC 5321 section 4.1.1.9 */
    smtpd_reply(s, "250 2.0.0 ok");
}

void
verb_quit(struct smtpd *s, struct span arg)
{
    if (arg.n > 0) {
        smtpd_error(s, "501 5.5.4 QUIT takes no parameter");
        return;
    }
    smtpd_replyf(s, "221 2.0.0 %s closing", s->conf->hostname);
    smtpd_close(s, "quit", NULL);
}

/* We know no mailboxes, and would not tell (RFC 5321 section 7.3). */
void
verb_vrfy(struct smtpd *s, struct span arg)
{
    if (arg.n == 0)
        smtpd_error(s, "501 5.5.4 VRFY needs an address");
    else
        smtpd_reply(s, "252 2.0.0 cannot verify, send the mail to find out");
}

void
verb_expn(struct smtpd *s, struct span arg)
{
    (void)arg;
    smtpd_refusal(s, "502 5.5.1 EXPN is not offered");
}

void
verb_help(struct smtpd *s, struct span arg)
{
    (void)arg;
    smtpd_reply(s, "214 2.0.0 RFC 5321");
}
