/*
 * The hashes below are postsrsd's own test vectors (secret tops3cr3t, 2020-01-01 00:01:00 UTC),
 * written out to six characters, and values made by Python's hmac module over the same input.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "policy/base/mem.h"
#include "policy/config.h"
#include "policy/srs.h"

#define NOW ((msec_t)1577836860000)

static const struct span vector_secrets[] = {{"tops3cr3t", 9}};
static const struct srs vectors = {
    .domain = {"example.com", 11}, .secrets = vector_secrets, .n_secrets = 1};
static const struct span two_secrets[] = {{"0123456789abcdef-first", 22},
                                          {"second-secret-0123456789", 24}};

/* What becomes of `sender`, whose domain is what follows its last "@". */
static const char *
forward_at(const struct srs *srs, const char *sender, msec_t at)
{
    static struct strbuf out;
    strbuf_reset(&out);
    bool fine = srs_forward(srs, span_str(sender), span_str(strrchr(sender, '@') + 1), at, &out);
    return fine ? out.p : NULL;
}

static const char *
forward(const char *sender)
{
    return forward_at(&vectors, sender, NOW);
}

static enum srs_fault
reverse_at(const struct srs *srs, const char *rcpt, msec_t at, const char **ret)
{
    static struct strbuf out;
    struct mailbox m;
    assert_int_equal(mailbox_parse(span_str(rcpt), MAILBOX_UTF8, &m), MAILBOX_OK);
    strbuf_reset(&out);
    enum srs_fault fault = srs_reverse(srs, &m, at, &out);
    if (fault != SRS_OK)
        assert_int_equal(out.n, 0);
    *ret = out.p;
    return fault;
}

static void
assert_reverse(const char *rcpt, const char *want)
{
    const char *got;
    enum srs_fault fault = reverse_at(&vectors, rcpt, NOW, &got);
    if (fault != SRS_OK)
        fail_msg("%s: fault %d", rcpt, (int)fault);
    assert_string_equal(got, want);
}

static void
assert_fault_at(const char *rcpt, msec_t at, enum srs_fault want)
{
    const char *got;
    enum srs_fault fault = reverse_at(&vectors, rcpt, at, &got);
    if (fault != want)
        fail_msg("%s: fault %d, not %d", rcpt, (int)fault, (int)want);
}

static void
assert_fault(const char *rcpt, enum srs_fault want)
{
    assert_fault_at(rcpt, NOW, want);
}

static void
a_sender_becomes_what_postsrsd_makes_of_it(void **state)
{
    (void)state;
    assert_string_equal(forward("test@otherdomain.com"),
                        "SRS0=vmyz7B=2W=otherdomain.com=test@example.com");
    assert_string_equal(forward("Test.User+Tag@otherdomain.com"),
                        "SRS0=TbxDjz=2W=otherdomain.com=Test.User+Tag@example.com");
    assert_reverse("SRS0=vmyz7B=2W=otherdomain.com=test@example.com", "test@otherdomain.com");
    /* of the day before */
    assert_reverse("SRS0=XjO9OM=2V=otherdomain.com=test@example.com", "test@otherdomain.com");
}

static void
any_separator_stands_behind_the_tag(void **state)
{
    (void)state;
    assert_reverse("SRS0+vmyz7B=2W=otherdomain.com=test@example.com", "test@otherdomain.com");
    assert_reverse("SRS0-vmyz7B=2W=otherdomain.com=test@example.com", "test@otherdomain.com");
    assert_fault("SRS0_vmyz7B=2W=otherdomain.com=test@example.com", SRS_NONE);
    assert_fault("SRS0=vmyz7B+2W+otherdomain.com+test@example.com", SRS_FORGED);
}

static void
case_does_not_matter_on_the_way_back(void **state)
{
    (void)state;
    assert_reverse("srs0=vmyz7b=2w=otherdomain.com=test@example.com", "test@otherdomain.com");
    assert_reverse("SRS0=VMYZ7B=2W=OTHERDOMAIN.COM=TEST@EXAMPLE.COM", "TEST@OTHERDOMAIN.COM");
    assert_reverse("srs0=tbxdjz=2w=otherdomain.com=test.user+tag@example.com",
                   "test.user+tag@otherdomain.com");
    assert_reverse("srs1=6zqiim=otherdomain.com==abcd=2w=orig.test=joe@example.com",
                   "SRS0=abcd=2w=orig.test=joe@otherdomain.com");
}

static void
a_foreign_srs0_becomes_srs1_and_goes_back_to_its_first_hop(void **state)
{
    (void)state;
    static const struct {
        const char *sender, *rewritten;
    } cases[] = {
        {"SRS0=AbCd=2W=orig.test=joe@otherdomain.com",
         "SRS1=6zqIIM=otherdomain.com==AbCd=2W=orig.test=joe@example.com"},
        {"SRS0+AbCd=2W=orig.test=joe@otherdomain.com",
         "SRS1=WShD7c=otherdomain.com=+AbCd=2W=orig.test=joe@example.com"},
        {"SRS0-AbCd=2W=orig.test=joe@otherdomain.com",
         "SRS1=F6DBza=otherdomain.com=-AbCd=2W=orig.test=joe@example.com"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        assert_string_equal(forward(cases[i].sender), cases[i].rewritten);
        assert_reverse(cases[i].rewritten, cases[i].sender);
    }
}

static void
a_foreign_srs1_keeps_its_first_hop(void **state)
{
    (void)state;
    assert_string_equal(forward("SRS1=anyhash=first.test==AbCd=2W=orig.test=joe@second.test"),
                        "SRS1=16UeWx=first.test==AbCd=2W=orig.test=joe@example.com");
    assert_reverse("SRS1=16UeWx=first.test==AbCd=2W=orig.test=joe@example.com",
                   "SRS0=AbCd=2W=orig.test=joe@first.test");
    /* a hop that is no name is not kept, for nothing could go there */
    assert_non_null(strstr(forward("SRS1=x=first/hop==AbCd=2W=orig.test=joe@second.test"),
                           "=second.test=SRS1=x=first/hop==AbCd"));
}

static void
a_stamp_of_one_character_is_read(void **state)
{
    (void)state;
    const msec_t at = 20481 * DAY; /* day 1 of its 1024 */
    assert_string_equal(forward_at(&vectors, "SRS0=AbCd=B=orig.test=joe@first.test", at),
                        "SRS1=6TbABx=first.test==AbCd=B=orig.test=joe@example.com");
    assert_fault_at("SRS1=6TbABx=first.test==AbCd=B=orig.test=joe@example.com", at + 22 * DAY,
                    SRS_EXPIRED);
}

static void
foreign_srs_without_a_good_stamp_is_wrapped_like_any_sender(void **state)
{
    (void)state;
    static const struct {
        const char *sender, *rewritten;
    } cases[] = {
        {"SRS0=opaque+string@otherdomain.com",
         "SRS0=B+hUBY=2W=otherdomain.com=SRS0=opaque+string@example.com"},
        {"SRS0=AbCd=AA=orig.test=joe@otherdomain.com",
         "SRS0=q8IEUh=2W=otherdomain.com=SRS0=AbCd=AA=orig.test=joe@example.com"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        assert_string_equal(forward(cases[i].sender), cases[i].rewritten);
        assert_reverse(cases[i].rewritten, cases[i].sender);
    }
}

static void
mail_that_comes_round_gets_our_own_first_address_again(void **state)
{
    (void)state;
    assert_string_equal(forward("SRS1=xxxx=example.com==PPJ2t5=2W=orig.test=joe@second.test"),
                        "SRS0=PPJ2t5=2W=orig.test=joe@example.com");
    assert_reverse("SRS0=PPJ2t5=2W=orig.test=joe@example.com", "joe@orig.test");
    /* with a hash that is not ours it is a sender like any other */
    assert_non_null(strstr(forward("SRS1=xxxx=example.com==AAAAAA=2W=orig.test=joe@second.test"),
                           "=2W=second.test=SRS1=xxxx="));
}

static void
what_would_decode_to_our_own_domain_is_refused_though_signed(void **state)
{
    (void)state;
    assert_fault("SRS0=lYwb8w=2W=example.com=SRS0=x@example.com", SRS_FORGED);
    assert_fault("SRS0=lYwb8w=2W=EXAMPLE.com=SRS0=x@example.com", SRS_FORGED);
    assert_fault("SRS1=ZnG5Ln=example.com==AbCd=2W=orig.test=joe@example.com", SRS_FORGED);
}

static void
quoted_local_parts_keep_their_meaning(void **state)
{
    (void)state;
    static const struct {
        const char *sender, *rewritten, *back;
    } cases[] = {
        {"\"john doe\"@src.test", "\"SRS0=W5lT6o=2W=src.test=john doe\"@example.com",
         "\"john doe\"@src.test"},
        {"\"a\\\"b\\\\c\"@src.test", "\"SRS0=zlIDdY=2W=src.test=a\\\"b\\\\c\"@example.com",
         "\"a\\\"b\\\\c\"@src.test"},
        {"\".dots..here.\"@src.test", "\"SRS0=evooFT=2W=src.test=.dots..here.\"@example.com",
         "\".dots..here.\"@src.test"},
        {"\"\"@otherdomain.com", "SRS0=LqLaso=2W=otherdomain.com=@example.com",
         "\"\"@otherdomain.com"},
        /* quotes that mean nothing are not kept */
        {"\"test\"@otherdomain.com", "SRS0=vmyz7B=2W=otherdomain.com=test@example.com",
         "test@otherdomain.com"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        assert_string_equal(forward(cases[i].sender), cases[i].rewritten);
        assert_reverse(cases[i].rewritten, cases[i].back);
    }
    assert_reverse("\"SRS0=vmyz7B=2W=otherdomain.com=test\"@example.com", "test@otherdomain.com");
    assert_reverse("\"S\\RS0=vmyz7B=2W=otherdomain.com=test\"@example.com", "test@otherdomain.com");
}

static void
utf8_senders_and_address_literals_go_there_and_back(void **state)
{
    (void)state;
    static const struct {
        const char *sender, *rewritten;
    } cases[] = {
        {"用户@src.test", "SRS0=farBqY=2W=src.test=用户@example.com"},
        {"用户@xn--fsqu00a.test", "SRS0=bOEKZ6=2W=xn--fsqu00a.test=用户@example.com"},
        {"joe@[192.0.2.1]", "\"SRS0=cwYaCr=2W=[192.0.2.1]=joe\"@example.com"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        assert_string_equal(forward(cases[i].sender), cases[i].rewritten);
        assert_reverse(cases[i].rewritten, cases[i].sender);
    }
}

static void
the_first_secret_signs_and_all_verify(void **state)
{
    (void)state;
    const struct srs both = {SPAN("example.com"), two_secrets, 2};
    const struct srs second = {SPAN("example.com"), two_secrets + 1, 1};
    const char *got;

    assert_string_equal(forward_at(&both, "test@otherdomain.com", NOW),
                        "SRS0=aD44jR=2W=otherdomain.com=test@example.com");
    assert_string_equal(forward_at(&second, "test@otherdomain.com", NOW),
                        "SRS0=7y8MLN=2W=otherdomain.com=test@example.com");
    const char *by_first = "SRS0=aD44jR=2W=otherdomain.com=test@example.com";
    const char *by_second = "SRS0=7y8MLN=2W=otherdomain.com=test@example.com";
    assert_int_equal(reverse_at(&both, by_first, NOW, &got), SRS_OK);
    assert_int_equal(reverse_at(&both, by_second, NOW, &got), SRS_OK);
    assert_int_equal(reverse_at(&second, by_second, NOW, &got), SRS_OK);
    assert_int_equal(reverse_at(&second, by_first, NOW, &got), SRS_FORGED);
}

static void
an_address_lives_21_days_and_may_be_a_day_ahead(void **state)
{
    (void)state;
    static const char *const zero = "SRS0=vmyz7B=2W=otherdomain.com=test@example.com";
    static const char *const one = "SRS1=16UeWx=first.test==AbCd=2W=orig.test=joe@example.com";
    const char *got;

    for (int day = -30; day <= 1024 + 30; day++) {
        int age = day < 1024 - 1 ? day : day - 1024;
        enum srs_fault want = age >= -1 && age <= 21 ? SRS_OK : SRS_EXPIRED;
        if (reverse_at(&vectors, zero, NOW + day * DAY, &got) != want ||
            reverse_at(&vectors, one, NOW + day * DAY, &got) != want)
            fail_msg("day %d", day);
    }
    /* whole days of UTC: until the end of the last one */
    assert_fault_at(zero, NOW - MINUTE + 22 * DAY - 1, SRS_OK);
    assert_fault_at(zero, NOW - MINUTE + 22 * DAY, SRS_EXPIRED);
}

static void
the_stamp_is_the_day_of_arrival(void **state)
{
    (void)state;
    char first[300];
    snprintf(first, sizeof(first), "%s", forward("test@otherdomain.com"));
    assert_string_equal(forward_at(&vectors, "test@otherdomain.com", NOW + 23 * HOUR), first);
    assert_string_not_equal(forward_at(&vectors, "test@otherdomain.com", NOW + DAY), first);
    assert_non_null(strstr(forward_at(&vectors, "test@a.test", 20480 * DAY), "=AA=a.test="));
    assert_non_null(strstr(forward_at(&vectors, "test@a.test", 20479 * DAY), "=77=a.test="));
}

/* Two dots in a row are no mailbox, which RCPT refuses before. */
static void
assert_not_taken(const char *text)
{
    struct mailbox m;
    if (mailbox_parse(span_str(text), 0, &m) == MAILBOX_OK)
        assert_fault(text, SRS_FORGED);
    else
        assert_non_null(strstr(text, ".."));
}

static void
nothing_of_a_signed_address_can_be_changed(void **state)
{
    (void)state;
    static const char *const good[] = {
        "SRS0=vmyz7B=2W=otherdomain.com=test@example.com",
        "SRS1=16UeWx=first.test==AbCd=2W=orig.test=joe@example.com",
    };
    for (size_t i = 0; i < N_ELEMENTS(good); i++) {
        size_t n_local = (size_t)(strchr(good[i], '@') - good[i]);
        /* Behind the tag: each character replaced by another one, dropped, and doubled. */
        for (size_t k = 5; k < n_local; k++) {
            char text[200];
            snprintf(text, sizeof(text), "%s", good[i]);
            text[k] = text[k] == 'z' || text[k] == 'Z' ? 'q' : 'z';
            assert_not_taken(text);
            snprintf(text, sizeof(text), "%.*s%s", (int)k, good[i], good[i] + k + 1);
            assert_not_taken(text);
            snprintf(text, sizeof(text), "%.*s%c%s", (int)k, good[i], good[i][k], good[i] + k);
            assert_not_taken(text);
        }
    }
}

static void
what_is_no_whole_srs_address_is_refused(void **state)
{
    (void)state;
    static const char *const forged[] = {
        "SRS0=@example.com",
        "SRS0=vmyz7B@example.com",
        "SRS0=vmyz7B=2W@example.com",
        "SRS0=vmyz7B=2W=otherdomain.com@example.com",
        "SRS0=RrXqoc=2W==test@example.com", /* signed, but nowhere */
        "SRS0==2W=otherdomain.com=test@example.com",
        "SRS0=vmyz=2W=otherdomain.com=test@example.com", /* postsrsd's four characters */
        "SRS0=vmyz7BI=2W=otherdomain.com=test@example.com",
        "SRS0=vmyz7B=2=Wotherdomain.com=test@example.com", /* the same hash, another day */
        "SRS1=@example.com",
        "SRS1=16UeWx=first.test@example.com",
        "SRS1=chaIfI=otherdomain.com==opaque+string@example.com", /* signed, without a stamp */
        "SRS1=16UeWx=first.test=AbCd=2W=orig.test=joe@example.com",
    };
    static const char *const none[] = {
        "test@example.com",
        "SRS0@example.com",
        "SRS2=a=b=c=d@example.com",
        "postmaster@example.com",
        "test%otherdomain.com@example.com",
        "otherdomain.com!test@example.com",
        "\"test@otherdomain.com\"@example.com",
        "xSRS0=vmyz7B=2W=otherdomain.com=test@example.com",
        "\" SRS0=vmyz7B=2W=otherdomain.com=test\"@example.com",
    };
    for (size_t i = 0; i < N_ELEMENTS(forged); i++)
        assert_fault(forged[i], SRS_FORGED);
    for (size_t i = 0; i < N_ELEMENTS(none); i++)
        assert_fault(none[i], SRS_NONE);
}

static void
set_domain(char *end)
{
    memcpy(end, "@a.test", sizeof("@a.test"));
}

static void
an_address_that_could_not_come_back_is_not_given_out(void **state)
{
    (void)state;
    char sender[600], longest[600];
    const char *got;
    size_t overhead = strlen("SRS0=HHHHHH=TT=a.test=");

    memset(sender, 'x', sizeof(sender));
    set_domain(sender + SRS_LOCAL_MAX - overhead);
    snprintf(longest, sizeof(longest), "%s", forward(sender));
    assert_int_equal(strchr(longest, '@') - longest, SRS_LOCAL_MAX);
    assert_int_equal(reverse_at(&vectors, longest, NOW, &got), SRS_OK);
    assert_string_equal(got, sender);

    sender[SRS_LOCAL_MAX - overhead] = 'x';
    set_domain(sender + SRS_LOCAL_MAX - overhead + 1);
    assert_null(forward(sender));

    /* The whole address has a limit of its own. */
    char domain[SRS_ADDRESS_MAX];
    snprintf(domain, sizeof(domain), "%0*d.%0*d.test", 60, 0, 60, 0);
    const struct srs far = {span_str(domain), vector_secrets, 1};
    size_t n = SRS_ADDRESS_MAX - overhead - 1 - strlen(domain);
    memset(sender, 'x', sizeof(sender));
    set_domain(sender + n);
    snprintf(longest, sizeof(longest), "%s", forward_at(&far, sender, NOW));
    assert_int_equal(strlen(longest), SRS_ADDRESS_MAX);
    assert_int_equal(reverse_at(&far, longest, NOW, &got), SRS_OK);
    sender[n] = 'x';
    set_domain(sender + n + 1);
    assert_null(forward_at(&far, sender, NOW));
}

static void
only_senders_of_other_domains_are_rewritten(void **state)
{
    (void)state;
    const char *local[] = {"mydomain.com"};
    struct config config = {.local_domains = local, .n_local_domains = 1};
    struct srs off = {.domain = SPAN_NONE};

    assert_true(srs_applies(&vectors, SPAN("a@b.test"), SPAN("b.test"), &config));
    assert_true(srs_applies(&vectors, SPAN("a@[192.0.2.1]"), SPAN("[192.0.2.1]"), &config));
    assert_true(srs_applies(&vectors, SPAN("a@x.mydomain.com"), SPAN("x.mydomain.com"), &config));
    assert_false(srs_applies(&vectors, SPAN("a@mydomain.com"), SPAN("mydomain.com"), &config));
    assert_false(srs_applies(&vectors, SPAN("a@MyDomain.com"), SPAN("mydomain.com"), &config));
    assert_false(srs_applies(&vectors, SPAN("a@example.com"), SPAN("example.com"), &config));
    assert_false(srs_applies(&vectors, SPAN(""), SPAN(""), &config));
    assert_false(srs_applies(&off, SPAN("a@b.test"), SPAN("b.test"), &config));
}

static void
a_configuration_without_srs_applies_to_nobody(void **state)
{
    (void)state;
    struct config config = {.srs = {.domain = ""}};
    struct srs srs = srs_of(&config);
    assert_false(srs_applies(&srs, SPAN("a@b.test"), SPAN("b.test"), &config));
    struct span secrets[] = {SPAN("one"), SPAN("two")};
    config.srs = (struct config_srs){.domain = "fwd.test", .secrets = secrets, .n_secrets = 2};
    srs = srs_of(&config);
    assert_true(srs_applies(&srs, SPAN("a@b.test"), SPAN("b.test"), &config));
    assert_int_equal(srs.n_secrets, 2);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sender_becomes_what_postsrsd_makes_of_it),
        cmocka_unit_test(any_separator_stands_behind_the_tag),
        cmocka_unit_test(case_does_not_matter_on_the_way_back),
        cmocka_unit_test(a_foreign_srs0_becomes_srs1_and_goes_back_to_its_first_hop),
        cmocka_unit_test(a_foreign_srs1_keeps_its_first_hop),
        cmocka_unit_test(a_stamp_of_one_character_is_read),
        cmocka_unit_test(foreign_srs_without_a_good_stamp_is_wrapped_like_any_sender),
        cmocka_unit_test(mail_that_comes_round_gets_our_own_first_address_again),
        cmocka_unit_test(what_would_decode_to_our_own_domain_is_refused_though_signed),
        cmocka_unit_test(quoted_local_parts_keep_their_meaning),
        cmocka_unit_test(utf8_senders_and_address_literals_go_there_and_back),
        cmocka_unit_test(the_first_secret_signs_and_all_verify),
        cmocka_unit_test(an_address_lives_21_days_and_may_be_a_day_ahead),
        cmocka_unit_test(the_stamp_is_the_day_of_arrival),
        cmocka_unit_test(nothing_of_a_signed_address_can_be_changed),
        cmocka_unit_test(what_is_no_whole_srs_address_is_refused),
        cmocka_unit_test(an_address_that_could_not_come_back_is_not_given_out),
        cmocka_unit_test(only_senders_of_other_domains_are_rewritten),
        cmocka_unit_test(a_configuration_without_srs_applies_to_nobody),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
