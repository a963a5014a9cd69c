#include "relayd/ops/page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "relayd/ops/api.h"
#include "relayd/ops/log.h"

static char *
page_of(const char *json)
{
    struct strbuf out = STRBUF_INIT;
    cJSON *status = cJSON_Parse(json);
    assert_non_null(status);
    page_status(status, &out);
    cJSON_Delete(status);
    return strbuf_take(&out);
}

static void
what_others_said_cannot_become_markup(void **state)
{
    (void)state;
    CLEANUP(freep)
    char *page = page_of("{\"node\":\"<cn>\",\"state\":\"running\",\"sites\":[{\"site\":\"mx\","
                         "\"last_reply\":\"550 <script>alert('x')</script> & \\\"q\\\"\\u0007\"}],"
                         "\"rates\":{\"<b>\":{\"minute\":1}}}");
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "<cn>"));
    assert_null(strstr(page, "<b>"));
    assert_non_null(strstr(page, "550 &lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; "
                                 "&quot;q&quot;\\x07"));
}

static void
facts_and_lists_are_shown_and_what_is_empty_is_not(void **state)
{
    (void)state;
    CLEANUP(freep)
    char *page = page_of("{\"node\":\"cn\",\"state\":\"running\",\"hostname\":\"smtp.example\","
                         "\"queue\":{\"messages\":12},\"alerts\":[],"
                         "\"routes\":[{\"name\":\"us\",\"state\":\"down\",\"waiting\":7}]}");
    assert_non_null(strstr(page, "<h1>cn: running</h1>"));
    assert_non_null(strstr(page, "<th>messages</th><td>12</td>"));
    assert_non_null(strstr(page, "<td>us</td><td>-</td><td>down</td><td>-</td><td>7</td>"));
    assert_null(strstr(page, "Alerts"));
    assert_null(strstr(page, "region"));
}

static void
an_empty_status_is_still_a_page(void **state)
{
    (void)state;
    CLEANUP(freep) char *page = page_of("{}");
    assert_true(span_starts(span_str(page), SPAN("<!DOCTYPE html>")));
    assert_true(span_ends(span_str(page), SPAN("</html>\n")));
}

/* ---- api.h: moments and texts in JSON ---- */

static void
moments_survive_the_api(void **state)
{
    (void)state;
    static const msec_t moments[] = {1, 951782399999, 1789887600123, 253402300799999};
    for (size_t i = 0; i < N_ELEMENTS(moments); i++) {
        char buf[LOG_TIME_BYTES];
        msec_t back = 0;
        assert_true(api_time_parse(log_time_format(moments[i], buf), &back));
        assert_int_equal(back, moments[i]);
    }
    msec_t at;
    assert_false(api_time_parse("", &at));
    assert_false(api_time_parse("2026-09-20T07:00:00Z", &at));
    assert_false(api_time_parse("2026-09-20 07:00:00.123Z", &at));
    assert_false(api_time_parse("2026-09-20T07:00:0x.123Z", &at));
    cJSON *json = cJSON_CreateObject();
    api_add_time(json, "never", 0);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(json, "never")));
    cJSON_Delete(json);
}

static void
bytes_that_are_no_text_become_text_in_json(void **state)
{
    (void)state;
    cJSON *json = cJSON_CreateObject();
    api_add_span(json, "empty", SPAN_NONE);
    api_add_span(json, "odd", span_of("a\xff\0\xe4\xb8\xad", 6));
    assert_string_equal(api_str(json, "empty", "?"), "");
    assert_string_equal(api_str(json, "odd", "?"), "a\xef\xbf\xbd\xef\xbf\xbd\xe4\xb8\xad");
    cJSON_Delete(json);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_others_said_cannot_become_markup),
        cmocka_unit_test(facts_and_lists_are_shown_and_what_is_empty_is_not),
        cmocka_unit_test(an_empty_status_is_still_a_page),
        cmocka_unit_test(moments_survive_the_api),
        cmocka_unit_test(bytes_that_are_no_text_become_text_in_json),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
