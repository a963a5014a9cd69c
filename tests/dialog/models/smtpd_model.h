/*
 * smtpd_model - a client's session with our server, as RFC 5321, its extensions and behaviour.md
 * have it, written down a second time: for tests of relayd/accept/smtpd.h, which must give the same
 * replies and hand the same messages on. Knows the commands of smtpd_world.h only.
 */
#pragma once

#include "tests/dialog/models/data_model.h"
#include "tests/dialog/models/smtpd_world.h"

#define MODEL_ERRORS_MAX 20
#define MODEL_RCPTS_MAX 8

struct smtpd_model_conf {
    bool trusted, starttls, auth, require_auth, reject_newlines, srs;
    uint64_t message_bytes, stranger_bytes, header_bytes;
    unsigned max_rcpts; /* up to MODEL_RCPTS_MAX */
};

/* What an answer is awaited for. */
enum model_ask { ASK_NOTHING, ASK_TLS, ASK_AUTH, ASK_VERDICT, ASK_BEGIN, ASK_RCPT, ASK_END };

enum model_mode { IN_COMMANDS, IN_AUTH, IN_LONG_LINE, IN_DATA, IN_CHUNK };

struct model_txn {
    bool open, bdat;
    const struct world_path *sender;
    uint64_t size, max_bytes;
    struct {
        struct span address, domain;
    } rcpts[MODEL_RCPTS_MAX], rcpt; /* taken; and the one in hand */
    unsigned n_rcpts, n_refused;
    bool utf8, sink;
    int refusal;       /* the message is refused already: the code at its end */
    struct strbuf raw; /* octets of BDATs */
};

struct smtpd_model {
    struct smtpd_model_conf conf;
    struct strbuf in;
    struct strbuf replies; /* a code for each reply, one in a line */
    struct strbuf sink;    /* what the sink was asked and told, one in a line */
    bool hello, tls, user, trusted, stopping, closed;
    enum model_ask ask;
    enum model_mode mode;
    unsigned errors;
    struct model_txn txn;
    bool plain, has_name, good; /* AUTH: mechanism, LOGIN's second step, the password */
    uint64_t chunk_left;
    bool chunk_last;
    int chunk_refusal;
};

void smtpd_model_init(struct smtpd_model *m, const struct smtpd_model_conf *conf);
void smtpd_model_release(struct smtpd_model *m);
/* Bytes of the client. */
void smtpd_model_input(struct smtpd_model *m, struct span bytes);
/* The answer that is awaited is given, as smtpd_world says. */
void smtpd_model_answer(struct smtpd_model *m);
/* The deadline has passed; the daemon stops; the sink gives up. */
void smtpd_model_timeout(struct smtpd_model *m);
void smtpd_model_stop(struct smtpd_model *m);
void smtpd_model_give_up(struct smtpd_model *m);
