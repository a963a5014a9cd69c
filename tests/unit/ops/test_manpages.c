/*
 * The manual and the program say the same: every verb and every option of the verb table stands in
 * relayctl(1), in the line of its verb, and the pages are good mdoc.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "run_ctl.h"

#define MAN TESTS_DIR "/../etc/man/"

static struct strbuf
output_of(const char *command)
{
    struct strbuf text = STRBUF_INIT;
    char buf[8192];
    size_t n;
    FILE *f = popen(command, "r");
    assert_non_null(f);
    while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
        strbuf_add(&text, buf, n);
    pclose(f);
    strbuf_add(&text, "", 0);
    return text;
}

static void
pages_are_good_mdoc(void **state)
{
    (void)state;
    static const char *const pages[] = {MAN "relayd.8", MAN "relayctl.1"};
    for (size_t i = 0; i < N_ELEMENTS(pages); i++) {
        char command[512];
        assert_int_equal(access(pages[i], R_OK), 0);
        /* Pages that are not installed yet cannot be found: that alone is no fault. */
        snprintf(command, sizeof(command),
                 "mandoc -Tlint %s 2>&1 | grep -v 'referenced manual not found'", pages[i]);
        CLEANUP(strbuf_release) struct strbuf said = output_of(command);
        assert_string_equal(said.p, "");
    }
}

static bool
begins_with_word(struct span line, const char *verb)
{
    struct span rest = span_from(line, strlen(verb));
    return span_starts(line, span_str(verb)) && (rest.n == 0 || rest.p[0] == ' ');
}

/* The line of relayctl(1), as shown, that begins with the verb and with no longer one. Tags of a
 * list are indented by five blanks. */
static struct span
line_of_verb(struct span page, const cJSON *verbs, const char *verb)
{
    while (page.n > 0) {
        struct span line = span_cut(&page, '\n');
        const cJSON *other;
        bool longer = false;
        if (!span_starts(line, SPAN("     ")) || line.n < 6 || line.p[5] == ' ')
            continue;
        line = span_from(line, 5);
        cJSON_ArrayForEach(other, verbs)
        {
            const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(other, "verb"));
            longer = longer || (strlen(name) > strlen(verb) && begins_with_word(line, name));
        }
        if (begins_with_word(line, verb) && !longer)
            return line;
    }
    return SPAN_NONE;
}

static void
every_verb_and_option_is_in_the_manual(void **state)
{
    (void)state;
    CLEANUP(strbuf_release)
    struct strbuf page = output_of("mandoc -Tascii -Owidth=400 " MAN "relayctl.1 | col -b");
    struct run run = run_ctl(NULL, "help --json", NULL);
    assert_int_equal(run.status, 0);
    cJSON *verbs = cJSON_Parse(run.out.p), *verb, *option;
    assert_true(cJSON_GetArraySize(verbs) >= 25);
    cJSON_ArrayForEach(verb, verbs)
    {
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(verb, "verb"));
        struct span line = line_of_verb(strbuf_span(&page), verbs, name);
        if (line.p == NULL)
            fail_msg("relayctl(1) does not know the verb %s", name);
        cJSON_ArrayForEach(option, cJSON_GetObjectItem(verb, "options"))
        {
            const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(option, "name"));
            if (span_find(line, span_str(text)) == SIZE_MAX)
                fail_msg("relayctl(1): %s lacks %s: %.*s", name, text, SPAN_ARG(line));
        }
    }
    cJSON_Delete(verbs);
    run_release(&run);
}

static void
every_verb_has_its_help(void **state)
{
    (void)state;
    struct run run = run_ctl(NULL, "help --json", NULL);
    cJSON *verbs = cJSON_Parse(run.out.p), *verb, *option;
    assert_non_null(verbs);
    cJSON_ArrayForEach(verb, verbs)
    {
        char command[128];
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(verb, "verb"));
        snprintf(command, sizeof(command), "%s --help", name);
        struct run help = run_ctl(NULL, command, NULL);
        assert_int_equal(help.status, 0);
        assert_string_equal(help.err.p, "");
        assert_non_null(strstr(help.out.p, name));
        cJSON_ArrayForEach(option, cJSON_GetObjectItem(verb, "options")) assert_non_null(
            strstr(help.out.p, cJSON_GetStringValue(cJSON_GetObjectItem(option, "help"))));
        run_release(&help);
    }
    cJSON_Delete(verbs);
    run_release(&run);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_good_mdoc),
        cmocka_unit_test(every_verb_and_option_is_in_the_manual),
        cmocka_unit_test(every_verb_has_its_help),
    };
    run_find();
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
