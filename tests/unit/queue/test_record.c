#include "tests/unit/queue/fixture.h"

#include "queue/checksum.h"
#include "queue/record.h"

static void
the_checksum_is_crc32c_with_and_without_the_processor(void **state)
{
    (void)state;
    char bytes[300];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * 7);
    /* The check value of CRC-32C in every catalogue of CRCs. */
    assert_int_equal(checksum(0, "123456789", 9), 0xe3069283u);
    assert_int_equal(checksum_portable(0, "123456789", 9), 0xe3069283u);
    for (size_t n = 0; n < sizeof(bytes); n++) {
        assert_int_equal(checksum(0, bytes, n), checksum_portable(0, bytes, n));
        assert_int_equal(checksum(checksum(0, bytes, n / 3), bytes + n / 3, n - n / 3),
                         checksum(0, bytes, n));
    }
}

/* ------------------------------------------------------------------------------- round trips */

static struct record_msg
full_message(void)
{
    struct record_msg r = {
        .msg = {.id = 77,
                .arrived_at = T0,
                .size_bytes = 5000,
                .body_bytes = 4,
                .flags = QUEUE_MSG_8BIT | QUEUE_MSG_SMTPUTF8 | (QUEUE_MSG_USER << 3),
                .sender = SPAN("a@b.test"),
                .client = SPAN("192.0.2.1 x"),
                .ret = SPAN("HDRS"),
                .envid = SPAN("env+20id"),
                .received = SPAN("Received: x\r\n"),
                .added = SPAN("Date: now\r\n"),
                .n_signatures = 2,
                .signatures = {{SPAN("b.test"), SPAN("cn"), SPAN("DKIM-Signature: 1\r\n")},
                               {SPAN("c.test"), SPAN(""), SPAN("DKIM-Signature: 2\r\n")}}}};
    return r;
}

/* Encodes with the body "body" behind the head. */
static struct span
encode_msg(struct record_msg *r, char *to)
{
    size_t head = record_msg_size(r);
    memcpy(to + head, "body", 4);
    r->body_sum = checksum(0, "body", 4);
    record_msg_encode(r, to, head);
    return span_of(to, head + 4);
}

static void
a_message_comes_back_as_it_was(void **state)
{
    (void)state;
    char bytes[1024];
    struct record_msg in = full_message(), out;
    struct span record = encode_msg(&in, bytes);
    OK(record_msg_decode(77, record, &out, err));
    OK(record_body_check(&out, err));
    assert_int_equal(out.version, RECORD_VERSION);
    assert_int_equal(out.msg.id, 77);
    assert_int_equal(out.msg.arrived_at, T0);
    assert_int_equal(out.msg.size_bytes, 5000);
    assert_int_equal(out.msg.flags, in.msg.flags);
    assert_span(out.msg.sender, "a@b.test");
    assert_span(out.msg.client, "192.0.2.1 x");
    assert_span(out.msg.ret, "HDRS");
    assert_span(out.msg.envid, "env+20id");
    assert_span(out.msg.received, "Received: x\r\n");
    assert_span(out.msg.added, "Date: now\r\n");
    assert_int_equal(out.msg.n_signatures, 2);
    assert_span(out.msg.signatures[0].selector, "cn");
    assert_span(out.msg.signatures[1].domain, "c.test");
    assert_span(out.msg.signatures[1].selector, "");
    assert_span(out.msg.signatures[1].field, "DKIM-Signature: 2\r\n");
    assert_span(out.msg.body, "body");
    assert_int_equal(out.unknown.n, 0);
}

static struct record_rcpt
full_recipient(void)
{
    struct record_rcpt r = {.rcpt = {.id = 5,
                                     .no = 6,
                                     .revision = 0xfffffffeu,
                                     .state = QUEUE_SCHEDULED,
                                     .due_at = T0 + 1,
                                     .notify = QUEUE_NOTIFY_DELAY,
                                     .address = SPAN("\xc3\xbc@d.test"),
                                     .domain = SPAN("d.test"),
                                     .orcpt = SPAN("rfc822;x"),
                                     .attempts = SPAN("one\0two")}};
    return r;
}

static void
a_recipient_comes_back_as_it_was(void **state)
{
    (void)state;
    char bytes[512];
    struct record_rcpt in = full_recipient(), out;
    size_t size = record_rcpt_size(&in);
    record_rcpt_encode(&in, bytes, size);
    OK(record_rcpt_decode(5, 6, span_of(bytes, size), &out, err));
    assert_int_equal(out.rcpt.revision, 0xfffffffeu);
    assert_int_equal(out.rcpt.state, QUEUE_SCHEDULED);
    assert_int_equal(out.rcpt.due_at, T0 + 1);
    assert_int_equal(out.rcpt.notify, QUEUE_NOTIFY_DELAY);
    assert_span(out.rcpt.address, "\xc3\xbc@d.test");
    assert_span(out.rcpt.domain, "d.test");
    assert_span(out.rcpt.orcpt, "rfc822;x");
    assert_int_equal(out.rcpt.attempts.n, 7);
}

static void
history_and_state_come_back_as_they_were(void **state)
{
    (void)state;
    char bytes[512];
    struct record_past past = {.past = {.id = 9,
                                        .no = 1,
                                        .finished_at = T0,
                                        .arrived_at = T0 - 5,
                                        .result = QUEUE_FAILED,
                                        .sender = SPAN(""),
                                        .address = SPAN("x@y.test"),
                                        .detail = SPAN("why")}},
                       past_out;
    struct record_fact fact = {.value = SPAN("value")}, fact_out;
    size_t size = record_past_size(&past);
    record_past_encode(&past, bytes, size);
    OK(record_past_decode(T0, 9, 1, span_of(bytes, size), &past_out, err));
    assert_int_equal(past_out.past.arrived_at, T0 - 5);
    assert_int_equal(past_out.past.result, QUEUE_FAILED);
    assert_span(past_out.past.address, "x@y.test");
    assert_span(past_out.past.detail, "why");
    size = record_fact_size(&fact);
    record_fact_encode(SPAN("learned:x"), &fact, bytes, size);
    OK(record_fact_decode(SPAN("learned:x"), span_of(bytes, size), &fact_out, err));
    assert_span(fact_out.value, "value");
    FAILS(ERR_CORRUPT, record_fact_decode(SPAN("learned:y"), span_of(bytes, size), &fact_out, err));
}

static void
fields_of_a_newer_program_survive_a_rewrite(void **state)
{
    (void)state;
    char bytes[1024], again[1024];
    struct record_rcpt in = full_recipient(), out, rewritten;
    in.version = RECORD_VERSION + 3;
    in.unknown = SPAN("\x05later\x00\x01");
    size_t size = record_rcpt_size(&in);
    record_rcpt_encode(&in, bytes, size);
    OK(record_rcpt_decode(5, 6, span_of(bytes, size), &out, err));
    assert_int_equal(out.version, RECORD_VERSION + 3);
    out.rcpt.revision = 3;
    size = record_rcpt_size(&out);
    record_rcpt_encode(&out, again, size);
    OK(record_rcpt_decode(5, 6, span_of(again, size), &rewritten, err));
    assert_int_equal(rewritten.version, RECORD_VERSION + 3);
    assert_int_equal(rewritten.rcpt.revision, 3);
    assert_true(span_eq(rewritten.unknown, in.unknown));

    struct record_msg msg = full_message(), msg_out;
    msg.version = 200;
    msg.unknown = SPAN("new field");
    struct span record = encode_msg(&msg, bytes);
    OK(record_msg_decode(77, record, &msg_out, err));
    assert_int_equal(msg_out.version, 200);
    assert_span(msg_out.unknown, "new field");
    assert_span(msg_out.msg.body, "body");
}

/* ----------------------------------------------------------------------------------- damage */

static void
every_flipped_bit_of_a_record_is_noticed(void **state)
{
    (void)state;
    char bytes[1024];
    struct record_msg msg = full_message(), msg_out;
    struct record_rcpt rcpt = full_recipient(), rcpt_out;
    struct span record = encode_msg(&msg, bytes);
    for (size_t bit = 0; bit < record.n * 8; bit++) {
        bytes[bit / 8] ^= (char)(1 << bit % 8);
        if (record_msg_decode(77, record, &msg_out, NULL) == ERR_OK &&
            record_body_check(&msg_out, NULL) == ERR_OK)
            fail_msg("bit %zu of a message is not noticed", bit);
        bytes[bit / 8] ^= (char)(1 << bit % 8);
    }
    size_t size = record_rcpt_size(&rcpt);
    record_rcpt_encode(&rcpt, bytes, size);
    for (size_t bit = 0; bit < size * 8; bit++) {
        bytes[bit / 8] ^= (char)(1 << bit % 8);
        if (record_rcpt_decode(5, 6, span_of(bytes, size), &rcpt_out, NULL) == ERR_OK)
            fail_msg("bit %zu of a recipient is not noticed", bit);
        bytes[bit / 8] ^= (char)(1 << bit % 8);
    }
}

static void
a_record_under_another_key_is_noticed(void **state)
{
    (void)state;
    char bytes[1024];
    struct record_rcpt in = full_recipient(), out;
    struct record_msg msg = full_message(), msg_out;
    size_t size = record_rcpt_size(&in);
    record_rcpt_encode(&in, bytes, size);
    FAILS(ERR_CORRUPT, record_rcpt_decode(5, 7, span_of(bytes, size), &out, err));
    FAILS(ERR_CORRUPT, record_rcpt_decode(4, 6, span_of(bytes, size), &out, err));
    struct span record = encode_msg(&msg, bytes);
    FAILS(ERR_CORRUPT, record_msg_decode(78, record, &msg_out, err));
}

static void
a_record_that_is_cut_or_has_no_version_is_refused(void **state)
{
    (void)state;
    char bytes[1024];
    struct record_rcpt in = full_recipient(), out;
    struct record_msg msg = full_message(), msg_out;
    size_t size = record_rcpt_size(&in);
    record_rcpt_encode(&in, bytes, size);
    for (size_t n = 0; n < size; n++)
        FAILS(ERR_CORRUPT, record_rcpt_decode(5, 6, span_of(bytes, n), &out, err));
    in.unknown = SPAN("trailing"); /* but of our own version: not ours */
    size = record_rcpt_size(&in);
    record_rcpt_encode(&in, bytes, size);
    FAILS(ERR_CORRUPT, record_rcpt_decode(5, 6, span_of(bytes, size), &out, err));
    bytes[0] = 0;
    FAILS(ERR_CORRUPT, record_rcpt_decode(5, 6, span_of(bytes, size), &out, err));
    struct span record = encode_msg(&msg, bytes);
    for (size_t n = 0; n < record.n; n++)
        FAILS(ERR_CORRUPT, record_msg_decode(77, span_of(bytes, n), &msg_out, err));
}

static void
a_sealed_record_with_impossible_values_is_refused(void **state)
{
    (void)state;
    char bytes[1024];
    struct record_rcpt in = full_recipient(), out;
    in.rcpt.state = (enum queue_state)9;
    size_t size = record_rcpt_size(&in);
    record_rcpt_encode(&in, bytes, size);
    FAILS(ERR_CORRUPT, record_rcpt_decode(5, 6, span_of(bytes, size), &out, err));
    in = full_recipient();
    in.rcpt.due_at = -1;
    size = record_rcpt_size(&in);
    record_rcpt_encode(&in, bytes, size);
    FAILS(ERR_CORRUPT, record_rcpt_decode(5, 6, span_of(bytes, size), &out, err));
}

static void
a_body_chunk_knows_its_place(void **state)
{
    (void)state;
    char bytes[QUEUE_CHUNK_BYTES + 8] = "some bytes";
    struct span out;
    uint32_t sum = record_chunk_sum(3, 4, span_of(bytes, 10));
    memcpy(bytes + 10, &sum, 4);
    OK(record_chunk_decode(3, 4, span_of(bytes, 14), &out, err));
    assert_span(out, "some bytes");
    FAILS(ERR_CORRUPT, record_chunk_decode(3, 5, span_of(bytes, 14), &out, err));
    FAILS(ERR_CORRUPT, record_chunk_decode(2, 4, span_of(bytes, 14), &out, err));
    FAILS(ERR_CORRUPT, record_chunk_decode(3, 4, span_of(bytes, 13), &out, err));
    FAILS(ERR_CORRUPT, record_chunk_decode(3, 4, span_of(bytes, 4), &out, err));
    FAILS(ERR_CORRUPT, record_chunk_decode(3, 4, span_of(bytes, sizeof(bytes)), &out, err));
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_checksum_is_crc32c_with_and_without_the_processor),
        cmocka_unit_test(a_message_comes_back_as_it_was),
        cmocka_unit_test(a_recipient_comes_back_as_it_was),
        cmocka_unit_test(history_and_state_come_back_as_they_were),
        cmocka_unit_test(fields_of_a_newer_program_survive_a_rewrite),
        cmocka_unit_test(every_flipped_bit_of_a_record_is_noticed),
        cmocka_unit_test(a_record_under_another_key_is_noticed),
        cmocka_unit_test(a_record_that_is_cut_or_has_no_version_is_refused),
        cmocka_unit_test(a_sealed_record_with_impossible_values_is_refused),
        cmocka_unit_test(a_body_chunk_knows_its_place),
    };
    RUN_TESTS(tests);
}
