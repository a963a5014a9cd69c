/*
 * What a verb of the control API acts on: a filter that is not understood is refused. Left out, it
 * would match more than was meant, and `remove` would remove it.
 */
#include "relayd/api_internal.h"
#include "relayd/ops/control_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "policy/base/mem.h"

#define WALL ((msec_t)1789887600000)

static struct daemon the_daemon;
static struct api the_api = {.d = &the_daemon};

/* A call whose client has gone: answers are dropped. */
static struct control_call *
call_new(struct control *control, const char *json)
{
    struct control_call *call = xcalloc(1, sizeof(*call));
    call->control = control;
    call->body = cJSON_Parse(json);
    assert_non_null(call->body);
    LIST_INSERT_HEAD(&control->calls, call, link);
    return call;
}

static bool
takes(const char *json, struct api_filter *ret)
{
    struct control control = {.log = the_daemon.log, .loop = the_daemon.loop};
    struct control_call *call = call_new(&control, json);
    if (!api_filter_parse(&the_api, call, true, ret)) {
        assert_true(LIST_EMPTY(&control.calls)); /* it was answered */
        return false;
    }
    /* Its texts live in the call and in *ret; only numbers are looked at afterwards. */
    control_call_free(call);
    return true;
}

static void
a_member_of_another_type_is_refused_and_not_left_out(void **state)
{
    static const char *const bad[] = {
        "{\"id\":5}",          "{\"domain\":[\"a.test\"]}", "{\"domain\":\"a.test\",\"state\":1}",
        "{\"sender\":null}",   "{\"older_ms\":\"60000\"}",  "{\"older_ms\":null}",
        "{\"route\":1}",       "{\"reason\":false}",        "{\"domain\":\"a.test\",\"id\":null}",
        "{\"older_ms\":true}",
    };
    struct api_filter f;
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(bad); i++)
        if (takes(bad[i], &f))
            fail_msg("taken: %s", bad[i]);
}

static void
an_age_that_is_none_is_refused(void **state)
{
    static const char *const bad[] = {"{\"older_ms\":-1}", "{\"older_ms\":1e300}",
                                      "{\"older_ms\":-1e300}", "{\"older_ms\":9223372036854775808}",
                                      "{\"older_ms\":18446744073709551615}"};
    struct api_filter f;
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(bad); i++)
        if (takes(bad[i], &f))
            fail_msg("taken: %s", bad[i]);
    assert_true(takes("{\"older_ms\":60000}", &f));
    assert_true(f.any_field && f.filter.arrived_before == WALL - 60000);
    assert_true(takes("{\"older_ms\":0}", &f));
    assert_false(f.any_field); /* names nothing: `all` has to be said */
}

static void
an_age_beyond_the_clock_matches_nothing(void **state)
{
    struct api_filter f;
    struct loop *loop = the_daemon.loop;
    (void)state;
    the_daemon.loop = loop_new_stepped(5000); /* a clock that was never set */
    assert_true(takes("{\"older_ms\":5000}", &f));
    assert_int_equal(f.filter.arrived_before, 1); /* 0 would be any */
    loop_free(the_daemon.loop);
    the_daemon.loop = loop;
}

static void
a_sender_longer_than_any_is_refused_and_not_cut(void **state)
{
    char json[700] = "{\"sender\":\"";
    struct api_filter f;
    (void)state;
    memset(json + 11, 'a', 600);
    memcpy(json + 611, "\"}", 3);
    assert_false(takes(json, &f));
    assert_true(takes("{\"sender\":\"\"}", &f));
    assert_true(f.filter.sender_null);
}

static int
setup(void **state)
{
    (void)state;
    the_daemon.loop = loop_new_stepped(WALL);
    the_daemon.log = log_new(NULL);
    log_set_level(the_daemon.log, LOG_ALERT);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    loop_free(the_daemon.loop);
    log_free(the_daemon.log);
    return 0;
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_member_of_another_type_is_refused_and_not_left_out),
        cmocka_unit_test(an_age_that_is_none_is_refused),
        cmocka_unit_test(an_age_beyond_the_clock_matches_nothing),
        cmocka_unit_test(a_sender_longer_than_any_is_refused_and_not_cut),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
