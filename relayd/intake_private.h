/*
 * intake_private - what intake.c, intake_head.c and intake_body.c share.
 */
#pragma once

#include "policy/base/mem.h"
#include "policy/header.h"
#include "relayd/intake.h"
#include "relayd/message.h"
#include "relayd/net/loop.h"
#include "relayd/sign.h"
#include "relayd/store/store.h"

struct intake {
    struct intake_env env;
    struct intake_numbers numbers;
};

struct piece;

/* One message on its way in. */
struct intake_msg {
    struct intake *intake;
    struct accept_txn *t; /* NULL: the client has gone, or has its answer */
    struct settings *settings;
    uint64_t id;
    char id_text[RELAY_ID_TEXT];
    msec_t begun_at; /* monotonic */
    struct store_credit credit;
    bool has_credit;
    struct timer timer;
    struct queue_rcpt *rcpts; /* their spans point into texts[] */
    char **texts;
    size_t n_rcpts, rcpts_cap;
    /* the bytes */
    struct msg_body *body; /* all of them while small */
    size_t body_cap, head_seen;
    bool big;            /* they go to the queue's `incoming` in pieces */
    struct piece *piece; /* the one being filled */
    size_t piece_n, pieces_out;
    uint64_t stored; /* handed to the store in pieces */
    enum err_code piece_code;
    struct err piece_err;
    bool waiting; /* accept waits for accept_resume() */
    bool ended, signing, handed_over;
    /* the header */
    struct arena *arena;       /* the header block of a big message */
    struct span head;          /* the client's fields, without the empty line */
    uint64_t print;            /* fingerprint of the header as it came */
    struct header_facts facts; /* of it; body_at counts from the first of the client's bytes */
    struct strbuf received, added;
    uint64_t lines_broken, newlines_fixed;
    /* what is stored and logged */
    struct queue_msg msg;
    char *sender, *client;
    char protocol[24], tls[80], user[128], message_id[256];
    struct sign_job *sign; /* NULL: no key fits */
    struct span bytes;
    struct store_op op;
};

/* All pieces are here, and the message has ended: sign and store it. */
void intake_complete(struct intake_msg *m);
/* Its client has gone or has its answer: it goes, unless the store or a worker still has something
 * of it. */
void intake_try_end(struct intake_msg *m);

/* ---- intake_body.c ---- */

/* Add to m->body, which is there then also when `bytes` is empty. */
void intake_body_add(struct intake_msg *m, struct span bytes);
/* The body turns out to be big: from here on it goes to the disk as it comes. */
void intake_become_big(struct intake_msg *m);
void intake_pieces_add(struct intake_msg *m, struct span bytes);
/* Hand the piece that is being filled to the store. */
void intake_piece_submit(struct intake_msg *m);

/* ---- intake_head.c ---- */

/* Has the header block ended within m->body? Looks only at what it has not seen yet. */
bool intake_head_is_whole(struct intake_msg *m);

/*
 * Check the header, fold what is too long, make Received, Date and Message-ID. The client's bytes
 * from the first one are in m->body. Returns NULL, or the reply that refuses the message.
 */
const char *intake_head(struct intake_msg *m);

/* Fill m->msg but for sizes and signatures; called when the message has ended. */
void intake_envelope(struct intake_msg *m);
