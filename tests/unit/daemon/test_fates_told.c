/* Who is told of an outcome: senders by notices, and verbs that were faster. */
#include "policy/header.h"
#include "tests/unit/daemon/fates_rig.h"

static void
recipients_who_fail_together_share_a_notice(void **state)
{
    (void)state;
    struct outcome no = reply(550, "5.1.1", "no such user");
    struct outcome ok = reply(250, "2.0.0", "ok");
    uint64_t id = mail_make(&(struct mail){0}, 3); /* neither loaded nor in memory: it is read */
    struct attempt attempts[3] = {attempt_of(0, &no), attempt_of(1, &ok), attempt_of(2, &no)};
    record_attempts(t.record, attempts, 3);
    wait_recorded(3);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "Final-Recipient: rfc822; rcpt0@one.test");
    assert_told(0, "Final-Recipient: rfc822; rcpt2@one.test");
    assert_null(strstr(t.told[0].text, "rcpt1@one.test"));
    assert_told(0, "Auto-Submitted: auto-replied");
    assert_told(0, "Subject: hello");
    assert_told(0, "DKIM-Signature: v=1");
    assert_told(0, "the body");
    assert_int_equal(stats_of(&t.f).messages, 1); /* the notice, in the same commit */
    struct queue_mail mail = mail_of(&t.f, t.told[0].id);
    assert_int_equal(mail.n_rcpts, 1);
    assert_span(mail.rcpts[0].address, "alice@src.test");
    assert_int_equal(mail.rcpts[0].state, QUEUE_FRESH);
    assert_true(mail.msg.id != id);
    queue_mail_release(&mail);
}

static void
notify_is_honoured(void **state)
{
    (void)state;
    static const struct {
        const char *sender;
        uint8_t notify;
        int code;
        size_t n_told;
        bool passed_on;
    } cases[] = {
        {NULL, 0, 550, 1, false},
        {NULL, QUEUE_NOTIFY_NEVER, 550, 0, false},
        {NULL, QUEUE_NOTIFY_SUCCESS, 550, 0, false},
        {NULL, QUEUE_NOTIFY_FAILURE, 550, 1, false},
        {"", QUEUE_NOTIFY_FAILURE, 550, 0, false},
        {NULL, 0, 250, 0, false},
        {NULL, QUEUE_NOTIFY_SUCCESS, 250, 1, false},
        {NULL, QUEUE_NOTIFY_SUCCESS, 250, 0, true}, /* the next host will tell */
        {"", QUEUE_NOTIFY_SUCCESS, 250, 0, false},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct outcome o = reply(cases[i].code, cases[i].code == 250 ? "2.0.0" : "5.1.1", "text");
        mail_make(&(struct mail){.sender = cases[i].sender, .notify = cases[i].notify}, 1);
        struct attempt a = attempt_of(0, &o);
        a.dsn_passed_on = cases[i].passed_on;
        t.n_told = 0;
        record_attempts(t.record, &a, 1);
        wait_recorded(1);
        assert_int_equal(t.fates[0], FATE_FINISHED);
        if (t.n_told != cases[i].n_told)
            fail_msg("case %zu: %zu notices", i, t.n_told);
        if (cases[i].code == 250 && t.n_told == 1)
            assert_told(0, "Action: relayed");
    }
}

static void
the_sender_is_warned_once_for_each_age(void **state)
{
    (void)state;
    struct outcome later = reply(550, "5.7.1", "Greylisted: a 5xx that is not one");
    uint64_t id = mail_make(&(struct mail){0}, 1);
    clock_step(t.clock, 4 * HOUR - MINUTE);
    assert_false(record_overdue(t.record, t.rcpts[0]));
    record_all(&later);
    assert_int_equal(t.n_told, 0);
    clock_step(t.clock, 2 * MINUTE);
    mail_again(id);
    assert_true(record_overdue(t.record, t.rcpts[0]));
    record_all(&later);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "Action: delayed");
    assert_told(0, "Status: 4.7.1"); /* of a delay, whatever the reply was */
    /* The reply is a 5xx: for a day from the first one (RFC 3464 section 2.3.9). */
    CLEANUP(strbuf_release) struct strbuf until = STRBUF_INIT;
    strbuf_add_str(&until, "Will-Retry-Until: ");
    header_date_format(T0 + 4 * HOUR - MINUTE + RETRY_SOFT_REJECT_MAX, &until);
    assert_told(0, until.p);
    mail_again(id);
    assert_false(record_overdue(t.record, t.rcpts[0]));
    record_all(&later);
    assert_int_equal(t.n_told, 1);
    struct queue_mail mail;
    struct attempts a = attempts_in_queue(id, &mail);
    assert_int_equal(a.count, 3);
    assert_int_equal(a.warned, 1);
    queue_mail_release(&mail);
}

static void
a_notice_that_fails_goes_to_the_postmaster_and_is_held_then(void **state)
{
    (void)state;
    struct outcome no = reply(550, "5.1.1", "no such user");
    mail_make(&(struct mail){.sender = "", .flags = QUEUE_MSG_NOTICE}, 1);
    record_all(&no);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_string_equal(t.told[0].to, "pm@cn.example");
    assert_string_equal(t.told[0].text, TEXT); /* as it was */
    assert_true(t.told[0].flags & MSG_POSTMASTER);
    assert_int_equal(log_alerts_total(t.log), 1);

    mail_make(&(struct mail){.sender = "", .flags = QUEUE_MSG_NOTICE | MSG_POSTMASTER}, 1);
    record_all(&no);
    assert_int_equal(t.fates[0], FATE_HELD);
    assert_int_equal(t.n_told, 1);
    assert_int_equal(stats_of(&t.f).held, 1);
    assert_int_equal(log_alerts_total(t.log), 2);
}

/* A verb makes the recipient's revision another one. */
static void
change_behind(uint64_t id, uint32_t no, enum queue_verb verb)
{
    struct queue_change c = {.id = id, .no = no, .revision = 1, .verb = verb, .due_at = T0};
    c.result = QUEUE_REMOVED;
    c.finished_at = T0;
    assert_int_equal(apply_one(&t.f, &c), ERR_OK);
}

static void
a_verb_that_was_faster_wins_and_the_others_are_told_of(void **state)
{
    (void)state;
    struct outcome no = reply(550, "5.1.1", "no such user");
    uint64_t id = mail_make(&(struct mail){0}, 3);
    change_behind(id, 1, QUEUE_HOLD);
    record_all(&no);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.fates[1], FATE_CHANGED);
    assert_int_equal(t.fates[2], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "rcpt0@one.test");
    assert_told(0, "rcpt2@one.test");
    assert_null(strstr(t.told[0].text, "rcpt1@one.test"));
    assert_int_equal(stats_of(&t.f).held, 1);
    assert_int_equal(stats_of(&t.f).messages, 2);
}

static void
a_delivery_is_told_of_whatever_a_verb_did_to_others(void **state)
{
    (void)state;
    struct outcome ok = reply(250, "2.0.0", "ok"), no = reply(550, "5.1.1", "no such user");
    uint64_t id =
        mail_make(&(struct mail){.notify = QUEUE_NOTIFY_SUCCESS | QUEUE_NOTIFY_FAILURE}, 4);
    change_behind(id, 1, QUEUE_HOLD);
    change_behind(id, 3, QUEUE_FINISH); /* delivered and removed at once */
    struct attempt attempts[] = {attempt_of(0, &ok), attempt_of(1, &no), attempt_of(2, &no),
                                 attempt_of(3, &ok)};
    record_attempts(t.record, attempts, 4);
    wait_recorded(4);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.fates[1], FATE_CHANGED);
    assert_int_equal(t.fates[2], FATE_FINISHED);
    assert_int_equal(t.fates[3], FATE_CHANGED);
    assert_int_equal(t.n_told, 2);
    assert_told(0, "Final-Recipient: rfc822; rcpt2@one.test");
    assert_told(1, "Action: relayed");
    assert_told(1, "Final-Recipient: rfc822; rcpt0@one.test");
    assert_told(1, "Final-Recipient: rfc822; rcpt3@one.test");
    for (size_t i = 0; i < 2; i++)
        assert_null(strstr(t.told[i].text, "rcpt1@one.test"));
    assert_int_equal(stats_of(&t.f).held, 1);
    assert_int_equal(stats_of(&t.f).messages, 3); /* the one on hold, and two notices */

    /* Nothing but the notice remains. */
    id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_SUCCESS | QUEUE_NOTIFY_FAILURE}, 2);
    change_behind(id, 1, QUEUE_HOLD);
    t.n_told = 0;
    record_attempts(t.record, (struct attempt[]){attempt_of(0, &ok), attempt_of(1, &no)}, 2);
    wait_recorded(2);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.fates[1], FATE_CHANGED);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "Final-Recipient: rfc822; rcpt0@one.test");
}

static void
a_delivery_counts_whatever_a_verb_did(void **state)
{
    (void)state;
    struct outcome ok = reply(250, "2.0.0", "ok"), later = reply(451, "4.3.0", "busy");
    uint64_t id = mail_make(&(struct mail){0}, 3);
    for (uint32_t i = 0; i < 2; i++)
        change_behind(id, i, QUEUE_HOLD);
    change_behind(id, 2, QUEUE_FINISH);
    struct attempt attempts[] = {attempt_of(0, &ok), attempt_of(1, &later), attempt_of(2, &ok)};
    record_attempts(t.record, attempts, 3);
    wait_recorded(3);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.fates[1], FATE_CHANGED);
    assert_int_equal(t.fates[2], FATE_CHANGED);
    assert_int_equal(stats_of(&t.f).recipients, 1);
    assert_int_equal(stats_of(&t.f).held, 1);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(recipients_who_fail_together_share_a_notice),
        T(notify_is_honoured),
        T(the_sender_is_warned_once_for_each_age),
        T(a_notice_that_fails_goes_to_the_postmaster_and_is_held_then),
        T(a_verb_that_was_faster_wins_and_the_others_are_told_of),
        T(a_delivery_is_told_of_whatever_a_verb_did_to_others),
        T(a_delivery_counts_whatever_a_verb_did),
    };
    RUN_TESTS(tests);
}
