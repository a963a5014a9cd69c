/*
 * smtpc_model - what a client that follows RFC 5321 and behaviour.md makes of a server's bytes,
 * written down a second time: which commands it sends, what it wants next, and what becomes of each
 * recipient. For tests of relayd/deliver/smtpc.c.
 */
#pragma once

#include "relayd/deliver/smtpc.h"

#define MODEL_RCPTS_MAX 6
#define MODEL_COMMANDS_MAX 32

struct smtpc_model_conf {
    bool hop, gone_is_path, auth;
    enum tls_level tls;
};

enum model_command {
    SAYS_NOTHING, /* the greeting is awaited */
    SAYS_EHLO,
    SAYS_HELO,
    SAYS_STARTTLS,
    SAYS_AUTH_PLAIN,
    SAYS_AUTH_LOGIN,
    SAYS_USER,
    SAYS_PASSWORD,
    SAYS_RSET,
    SAYS_MAIL,
    SAYS_RCPT,
    SAYS_DATA,
    SAYS_EMPTY_DOT,
    SAYS_DOT,
    SAYS_QUIT,
};

/* What a recipient is told, or waits for. */
enum model_fate {
    FATE_ASK,
    FATE_TAKEN,
    FATE_AGAIN,   /* a 452: perhaps another group */
    FATE_REFUSED, /* in a session that had served before: until DATA shows that it is in step */
    FATE_TOLD,
};

struct model_told {
    enum outcome_kind kind;
    int code; /* 0: not by a reply */
    bool path, twice;
};

struct model_message {
    unsigned n_rcpts;
    uint64_t size_bytes;
    bool utf8;
};

struct smtpc_model {
    struct smtpc_model_conf conf;
    struct smtpc_host host;

    /* What is predicted. */
    enum smtpc_want want;
    enum smtpc_end end;
    struct strbuf said; /* commands put out, by name, one in a line */
    enum model_fate fates[MODEL_RCPTS_MAX];
    struct model_told told[MODEL_RCPTS_MAX];
    bool busy; /* a transaction is in hand */

    /* The session. */
    bool tls, tls_heard, shaking, in_body, at_dot, needs_rset, idled, took_mail;
    struct smtpc_offers offers;
    unsigned n_txns;

    /* Commands without a reply; those before `sent` have left. */
    struct {
        enum model_command command;
        unsigned rcpt;
    } waiting[MODEL_COMMANDS_MAX];
    unsigned n_waiting, n_sent;
    enum model_command answered; /* the command whose reply is being looked at */

    /* A reply that comes in. */
    char line[SMTP_REPLY_LINE_MAX];
    size_t line_n, reply_n, n_lines;
    int code;
    struct enh enh;
    bool trouble; /* it speaks of relaying: a hop's own trouble */
    struct strbuf text;

    /* The transaction. */
    struct model_message message;
    bool reused, heard, early; /* early: half a reply was there before the dot had left */
    struct {
        enum { NEXT_RSET, NEXT_MAIL, NEXT_RCPT, NEXT_DATA, NEXT_NONE } next;
        unsigned next_rcpt, n_asked, n_taken;
        bool mail_ok, ended, delivered;
    } group;
};

void smtpc_model_init(struct smtpc_model *m, const struct smtpc_model_conf *conf);
void smtpc_model_release(struct smtpc_model *m);
void smtpc_model_open(struct smtpc_model *m, const struct smtpc_host *host);
void smtpc_model_tls_up(struct smtpc_model *m);
void smtpc_model_input(struct smtpc_model *m, struct span bytes);
void smtpc_model_lost(struct smtpc_model *m, enum smtpc_loss loss);
void smtpc_model_start(struct smtpc_model *m, const struct model_message *message);
void smtpc_model_idle(struct smtpc_model *m);
void smtpc_model_body_sent(struct smtpc_model *m);
void smtpc_model_body_failed(struct smtpc_model *m);
void smtpc_model_decide(struct smtpc_model *m);
void smtpc_model_quit(struct smtpc_model *m);
/* What was said has left. */
void smtpc_model_flushed(struct smtpc_model *m);
