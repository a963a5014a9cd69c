/*
 * smtpd_world - what the daemon around the protocol core would answer, and what clients say: tables
 * that the dialogues are made of, and their meaning for the model.
 *
 * Every answer follows from the addresses alone, so that core and model are told the same however
 * late they ask.
 */
#pragma once

#include "policy/base/span.h"

#include <stdbool.h>
#include <stdint.h>

/* What an angle-bracketed path means. */
struct world_path {
    const char *text;    /* as the client writes it, with its brackets */
    const char *address; /* as it is handed on; NULL: bad syntax (501) */
    const char *domain;  /* canonical; "" of the null path */
    bool utf8;           /* the local part needs SMTPUTF8 */
    bool inside;         /* a literal that is refused (550) */
};

extern const struct world_path world_paths[];
extern const unsigned world_n_paths;
/* Of a path as a client wrote it; one whose address is NULL when it is in no table. */
const struct world_path *world_path(struct span text);

/* Parameters of MAIL and RCPT: text, and the reply they cause by themselves (0: none). */
struct world_param {
    const char *text;
    const char *key; /* given twice: 501 */
    unsigned mail, rcpt;
};
extern const struct world_param world_params[];
extern const unsigned world_n_params;

/* Responses of AUTH, in base64; decoded by hand. */
struct world_response {
    const char *text;
    const char *plain; /* fields divided by '/'; NULL: bad base64 */
};
extern const struct world_response world_responses[];
extern const unsigned world_n_responses;

/* The answers; an empty span is yes. */
struct span world_begin(struct span sender);
struct span world_verdict(struct span address, struct span *ret_instead);
struct span world_rcpt(struct span address);
struct span world_end(struct span sender);
bool world_password(struct span password);

#define WORLD_GIVE_UP "452 4.3.1 no room"
#define WORLD_SRS_DOMAIN "fwd.test"
