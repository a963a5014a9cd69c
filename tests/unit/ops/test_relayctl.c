/*
 * relayctl as a program, without a daemon: usage errors and their exit codes, and the verbs that
 * work offline.
 */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "relayd/net/tls.h"
#include "run_ctl.h"

static char dir[64];

static int
setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/test_relayctl.XXXXXX");
    return mkdtemp(dir) == NULL;
}

static int
teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static void
put_file(const char *name, const char *text)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static struct strbuf
get_file(const char *name, mode_t *ret_mode)
{
    char path[160], buf[4096];
    struct strbuf text = STRBUF_INIT;
    struct stat st;
    size_t n;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(stat(path, &st), 0);
    *ret_mode = st.st_mode & 07777;
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
        strbuf_add(&text, buf, n);
    fclose(f);
    strbuf_add(&text, "", 0);
    return text;
}

/* ---- usage ---- */

static const struct {
    const char *command, *says;
} misused[] = {
    {"", "no verb"},
    {"frobnicate", "unknown verb frobnicate"},
    {"queue", "a second word is missing"},
    {"queue frobnicate", "unknown verb queue frobnicate"},
    {"--nonsense", "unknown option --nonsense"},
    {"status --nonsense", "status: unknown option --nonsense"},
    {"status extra", "extra is one argument too many"},
    {"queue show", "ID is missing"},
    {"queue list --limit", "--limit needs a value"},
    {"queue list --limit x", "--limit: expected a number"},
    {"queue list --limit 0", "--limit: expected a number"},
    {"queue list --limit 1 --limit 2", "--limit is given twice"},
    {"queue list --state lost", "expected scheduled, in_hand or held"},
    {"queue list --older 5", "--older:"},
    {"queue list --domain a..b", "--domain:"},
    {"queue remove", "what?"},
    {"queue remove cn.0000000000000 --all", "give an ID, or a filter, or --all"},
    {"queue remove --all --domain a.example", "give an ID, or a filter, or --all"},
    {"queue remove --all=yes", "--all takes no value"},
    {"routes pin a.example", "DOMAIN ROUTE is missing"},
    {"routes pin a.example us", "--for DURATION is missing"},
    {"suspend a.example --for 0", "--for DURATION is missing"},
    {"dkim keygen", "--domain D is missing"},
    {"dkim keygen --domain a.example --selector s --type dsa", "expected rsa or ed25519"},
    {"dkim keygen --domain a.example --selector s --type ed25519 --bits 2048", "for RSA keys"},
    {"dkim keygen --domain a.example --selector s --bits 512", "--bits: expected a number"},
    {"dkim check --key f", "--key needs --domain and --selector"},
    {"user add bob", "--file FILE is missing"},
    {"user remove bob", "--file FILE is missing"},
    {"tls self-signed", "--name HOST is missing"},
    {"classify --stage dance", "--stage: expected connect"},
    {"-c a -s b status", "exclude each other"},
};

static void
a_wrong_command_line_says_why_and_exits_64(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(misused); i++) {
        struct run run = run_ctl(dir, misused[i].command, NULL);
        if (run.status != 64 || strstr(run.err.p, misused[i].says) == NULL ||
            strstr(run.err.p, "usage: relayctl") == NULL)
            fail_msg("relayctl %s: exit %d, %s", misused[i].command, run.status, run.err.p);
        assert_string_equal(run.out.p, "");
        run_release(&run);
    }
}

static const char *const online[] = {
    "status",
    "queue list",
    "queue show cn.0000000000000",
    "queue body cn.0000000000000",
    "queue retry --all",
    "queue hold --domain a.example --reason x",
    "explain a@b.example",
    "routes",
    "routes learned",
    "routes forget a.example",
    "routes pin a.example us --for 1h",
    "suspend us --for 1h",
    "resume us",
    "trace cn.0000000000000",
    "reload",
};

static void
without_a_daemon_there_is_one_line_and_exit_69(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(online); i++) {
        char command[256];
        snprintf(command, sizeof(command), "-s %s/none.sock %s", dir, online[i]);
        struct run run = run_ctl(dir, command, NULL);
        assert_int_equal(run.status, 69);
        assert_true(strncmp(run.err.p, "relayctl: relayd is not running (", 33) == 0);
        assert_ptr_equal(strchr(run.err.p, '\n'), run.err.p + run.err.n - 1);
        assert_string_equal(run.out.p, "");
        run_release(&run);
    }
}

static void
help_and_version_go_to_standard_output(void **state)
{
    (void)state;
    static const char *const commands[] = {"--help",      "-h",        "queue --help",
                                           "dkim --help", "--version", "queue list --help",
                                           "status -h",   "help"};
    for (size_t i = 0; i < N_ELEMENTS(commands); i++) {
        struct run run = run_ctl(dir, commands[i], NULL);
        assert_int_equal(run.status, 0);
        assert_true(run.out.n > 0);
        assert_string_equal(run.err.p, "");
        assert_null(strchr(run.out.p, '\033'));
        run_release(&run);
    }
}

/* ---- users ---- */

/* Asks libcrypt itself whether the line of `name` holds this password. */
static bool
user_works(const char *file, const char *name, const char *password)
{
    mode_t mode;
    CLEANUP(strbuf_release) struct strbuf text = get_file(file, &mode);
    void *library = dlopen("libcrypt.so.1", RTLD_NOW);
    char *(*crypt)(const char *, const char *);
    assert_non_null(library);
    *(void **)&crypt = dlsym(library, "crypt");
    assert_non_null(crypt);
    struct span rest = strbuf_span(&text);
    while (rest.n > 0) {
        struct span hash = span_cut(&rest, '\n');
        if (!span_eq(span_cut(&hash, ':'), span_str(name)))
            continue;
        CLEANUP(freep) char *setting = xstrndup(hash.p, hash.n);
        assert_true(strncmp(setting, "$y$", 3) == 0);
        const char *got = crypt(password, setting);
        return got != NULL && strcmp(got, setting) == 0;
    }
    return false;
}

static void
users_are_added_changed_and_removed(void **state)
{
    (void)state;
    mode_t mode;
    struct run run = run_ctl(dir, "user add cn --file users", "tops3cret\nnot this\n");
    assert_int_equal(run.status, 0);
    assert_null(strstr(run.out.p, "tops3cret"));
    run_release(&run);
    struct strbuf text = get_file("users", &mode);
    assert_int_equal(mode, 0600);
    assert_null(strstr(text.p, "tops3cret"));
    strbuf_release(&text);
    assert_true(user_works("users", "cn", "tops3cret"));
    assert_false(user_works("users", "cn", "tops3cre"));

    run = run_ctl(dir, "--json user add --generate --file=users office", NULL);
    assert_int_equal(run.status, 0);
    cJSON *json = cJSON_Parse(run.out.p);
    const char *password = cJSON_GetStringValue(cJSON_GetObjectItem(json, "password"));
    assert_non_null(password);
    assert_true(user_works("users", "office", password));
    cJSON_Delete(json);
    run_release(&run);

    run = run_ctl(dir, "user add cn --file users", "changed"); /* no line end */
    assert_int_equal(run.status, 0);
    run_release(&run);
    assert_true(user_works("users", "cn", "changed"));

    run = run_ctl(dir, "user remove cn --file users", NULL);
    assert_int_equal(run.status, 0);
    run_release(&run);
    assert_false(user_works("users", "cn", "changed"));
    run = run_ctl(dir, "user remove cn --file users", NULL);
    assert_int_equal(run.status, 66);
    run_release(&run);
}

static void
a_bad_name_or_password_leaves_no_file(void **state)
{
    (void)state;
    static const struct {
        const char *command, *input;
    } cases[] = {
        {"user add a:b --file none", "x\n"},
        {"user add cn --file none", ""},
        {"user add cn --file none", "\n"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        char path[160];
        struct run run = run_ctl(dir, cases[i].command, cases[i].input);
        assert_int_equal(run.status, 65);
        assert_true(run.err.n > 0);
        snprintf(path, sizeof(path), "%s/none", dir);
        assert_int_not_equal(access(path, F_OK), 0);
        run_release(&run);
    }
}

/* ---- keys ---- */

static void
keygen_makes_a_private_file_and_prints_its_record(void **state)
{
    (void)state;
    mode_t mode;
    struct run run = run_ctl(dir, "dkim keygen --domain MyDomain.com --selector cn", NULL);
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.out.p, "cn._domainkey.mydomain.com"));
    assert_non_null(strstr(run.out.p, "v=DKIM1"));
    /* an RSA record is longer than one string of DNS may be */
    const char *open = strchr(run.out.p, '"');
    int strings = 0;
    while (open != NULL) {
        const char *close = strchr(open + 1, '"');
        assert_non_null(close);
        assert_true(close - open - 1 <= 255);
        strings++;
        open = strchr(close + 1, '"');
    }
    assert_true(strings >= 2);
    run_release(&run);
    struct strbuf pem = get_file("mydomain.com.pem", &mode);
    assert_int_equal(mode, 0600);
    assert_non_null(strstr(pem.p, "-----BEGIN PRIVATE KEY-----"));

    run = run_ctl(dir, "dkim keygen --domain mydomain.com --selector cn", NULL);
    assert_int_equal(run.status, 1); /* never overwritten */
    assert_non_null(strstr(run.err.p, "is not overwritten"));
    run_release(&run);
    struct strbuf again = get_file("mydomain.com.pem", &mode);
    assert_string_equal(again.p, pem.p);
    strbuf_release(&pem);
    strbuf_release(&again);

    run = run_ctl(dir,
                  "--json dkim keygen --domain mydomain.com --selector e1 --type ed25519 "
                  "--out e1.pem",
                  NULL);
    assert_int_equal(run.status, 0);
    cJSON *json = cJSON_Parse(run.out.p);
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItem(json, "value"));
    assert_true(strncmp(value, "v=DKIM1; k=ed25519; p=", 22) == 0);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(json, "name")),
                        "e1._domainkey.mydomain.com");
    cJSON_Delete(json);
    run_release(&run);
}

static void
keygen_takes_the_selector_of_the_configuration(void **state)
{
    (void)state;
    put_file("small.yaml", "node: {name: berlin, hostname: mail.example.org}\n"
                           "listeners: [{address: \"127.0.0.1:2525\"}]\n"
                           "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
                           "transport_map: [{default: true, route: direct}]\n");
    struct run run = run_ctl(dir, "-c small.yaml dkim keygen --domain d.example --out b.pem", NULL);
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.out.p, "berlin._domainkey.d.example"));
    run_release(&run);
    run = run_ctl(dir, "-c nothing.yaml dkim keygen --domain d.example --out c.pem", NULL);
    assert_int_equal(run.status, 64);
    run_release(&run);
}

static void
keygen_takes_a_selector_of_digits_as_the_configuration_does(void **state)
{
    (void)state;
    struct run run =
        run_ctl(dir, "dkim keygen --domain d.example --selector 20240601 --out dated.pem", NULL);
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.out.p, "20240601._domainkey.d.example"));
    run_release(&run);
    run = run_ctl(dir, "dkim keygen --domain d.example --selector a..b --out none.pem", NULL);
    assert_int_equal(run.status, 64);
    run_release(&run);
}

static void
self_signed_prints_the_pin_of_what_it_wrote(void **state)
{
    (void)state;
    mode_t mode;
    char path[160], pin[TLS_PIN_TEXT_BYTES];
    struct tls_pin cert, spki;
    struct err err;
    struct run run = run_ctl(dir, "tls self-signed --name mail-us.example", NULL);
    assert_int_equal(run.status, 0);
    snprintf(path, sizeof(path), "%s/fullchain.pem", dir);
    assert_int_equal(tls_pins_of_file(path, &cert, &spki, &err), ERR_OK);
    assert_non_null(strstr(run.out.p, tls_pin_format(&cert, pin)));
    assert_non_null(strstr(run.out.p, tls_pin_format(&spki, pin)));
    run_release(&run);
    struct strbuf key = get_file("privkey.pem", &mode);
    assert_int_equal(mode, 0600);
    assert_non_null(strstr(key.p, "PRIVATE KEY"));
    strbuf_release(&key);

    struct tls_server_config config = {.certificate_file = path};
    char key_path[160];
    snprintf(key_path, sizeof(key_path), "%s/privkey.pem", dir);
    config.private_key_file = key_path;
    struct tls_ctx *ctx;
    assert_int_equal(tls_server_new(&config, &ctx, &err), ERR_OK);
    tls_ctx_free(ctx);

    /* The certificate is in the way: the key that was made for it goes again. */
    run = run_ctl(dir, "tls self-signed --name x.example --key other.pem", NULL);
    assert_int_equal(run.status, 1);
    snprintf(path, sizeof(path), "%s/other.pem", dir);
    assert_int_not_equal(access(path, F_OK), 0);
    run_release(&run);
}

/* ---- classify ---- */

static void
classify_answers_line_by_line(void **state)
{
    (void)state;
    struct run run =
        run_ctl(dir, "classify --stage rcpt",
                "{\"response\": \"550 5.1.1 <a@b.example>: user unknown\"}\n"
                "\n"
                "{\"response\": \"451 4.7.1 Greylisted, try again later\", \"stage\": \"rcpt\"}\n");
    assert_int_equal(run.status, 0);
    struct span out = strbuf_span(&run.out);
    struct span line = span_cut(&out, '\n');
    cJSON *first = cJSON_ParseWithLength(line.p, line.n);
    line = span_cut(&out, '\n');
    cJSON *second = cJSON_ParseWithLength(line.p, line.n);
    assert_int_equal(out.n, 0);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(first, "class")), "bad-mailbox");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(first, "action")), "bounce");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(first, "response")),
                        "550 5.1.1 <a@b.example>: user unknown");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(second, "class")), "greylisted");
    assert_non_null(cJSON_GetStringValue(cJSON_GetObjectItem(second, "rule")));
    cJSON_Delete(first);
    cJSON_Delete(second);
    run_release(&run);
}

static void
classify_keeps_step_over_lines_it_cannot_read(void **state)
{
    (void)state;
    struct run run = run_ctl(dir, "classify",
                             "550 no\n"
                             "{\"response\": 5}\n"
                             "{\"response\": \"250 ok\", \"stage\": \"dance\"}\n"
                             "{\"response\": \"250 ok\", \"stage\": \"dot\"}\n");
    int lines = 0, errors = 0;
    struct span out = strbuf_span(&run.out);
    assert_int_equal(run.status, 65);
    while (out.n > 0) {
        struct span line = span_cut(&out, '\n');
        cJSON *json = cJSON_ParseWithLength(line.p, line.n);
        assert_non_null(json);
        lines++;
        errors += cJSON_GetObjectItem(json, "error") != NULL;
        cJSON_Delete(json);
    }
    assert_int_equal(lines, 4);
    assert_int_equal(errors, 3);
    run_release(&run);
}

static void
classify_uses_the_rules_of_the_configuration_first(void **state)
{
    (void)state;
    put_file("rules.yaml", "node: {name: cn, hostname: mail.example.org}\n"
                           "listeners: [{address: \"127.0.0.1:2525\"}]\n"
                           "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
                           "transport_map: [{default: true, route: direct}]\n"
                           "classify: {rules: [{name: mine, class: rate-limited, "
                           "match: \"purple\"}]}\n");
    struct run run = run_ctl(dir, "-c rules.yaml classify", "{\"response\": \"550 purple\"}\n");
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.out.p, "\"class\":\"rate-limited\""));
    assert_non_null(strstr(run.out.p, "\"rule\":\"mine\""));
    run_release(&run);
    run = run_ctl(dir, "classify", "{\"response\": \"550 purple\"}\n");
    assert_null(strstr(run.out.p, "\"mine\""));
    run_release(&run);
}

/* ---- configuration ---- */

static void
check_reports_every_problem_and_exits_78(void **state)
{
    (void)state;
    put_file("bad.yaml", "node: {name: cn, hostname: mail.example.org}\n"
                         "listners: []\n"
                         "transport_map: [{default: true, route: nowhere}]\n");
    struct run run = run_ctl(dir, "-c bad.yaml check", NULL);
    assert_int_equal(run.status, 78);
    assert_non_null(strstr(run.err.p, "bad.yaml:2:"));
    assert_non_null(strstr(run.err.p, "bad.yaml:3:"));
    run_release(&run);
    run = run_ctl(dir, "-c bad.yaml --json check", NULL);
    assert_int_equal(run.status, 78);
    cJSON *json = cJSON_Parse(run.out.p);
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(json, "ok")));
    assert_true(cJSON_GetArraySize(cJSON_GetObjectItem(json, "problems")) >= 2);
    cJSON_Delete(json);
    run_release(&run);
}

static void
verify_offline_of_a_queue_that_is_not_there_says_so(void **state)
{
    (void)state;
    char config[400];
    snprintf(config, sizeof(config),
             "node: {name: cn, hostname: mail.example.org}\n"
             "listeners: [{address: \"127.0.0.1:2525\"}]\n"
             "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
             "transport_map: [{default: true, route: direct}]\n"
             "queue: {path: %s/queue}\ncontrol: {socket: %s/none.sock}\n",
             dir, dir);
    put_file("queue.yaml", config);
    struct run run = run_ctl(dir, "-c queue.yaml verify", NULL);
    assert_int_equal(run.status, 66);
    assert_non_null(strstr(run.err.p, "/queue"));
    char path[160];
    snprintf(path, sizeof(path), "%s/queue", dir);
    assert_int_not_equal(access(path, F_OK), 0); /* looking makes nothing */
    run_release(&run);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_command_line_says_why_and_exits_64),
        cmocka_unit_test(without_a_daemon_there_is_one_line_and_exit_69),
        cmocka_unit_test(help_and_version_go_to_standard_output),
        cmocka_unit_test(users_are_added_changed_and_removed),
        cmocka_unit_test(a_bad_name_or_password_leaves_no_file),
        cmocka_unit_test(keygen_makes_a_private_file_and_prints_its_record),
        cmocka_unit_test(keygen_takes_the_selector_of_the_configuration),
        cmocka_unit_test(keygen_takes_a_selector_of_digits_as_the_configuration_does),
        cmocka_unit_test(self_signed_prints_the_pin_of_what_it_wrote),
        cmocka_unit_test(classify_answers_line_by_line),
        cmocka_unit_test(classify_keeps_step_over_lines_it_cannot_read),
        cmocka_unit_test(classify_uses_the_rules_of_the_configuration_first),
        cmocka_unit_test(check_reports_every_problem_and_exits_78),
        cmocka_unit_test(verify_offline_of_a_queue_that_is_not_there_says_so),
    };
    run_find();
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
