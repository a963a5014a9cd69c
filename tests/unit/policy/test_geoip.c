/* The country of an address, and databases that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "policy/geoip.h"
#include "tests/unit/policy/mmdb_write.h"

static const struct mmdb_row rows[] = {
    {"192.0.2.0/25", "US", "DE"},     {"192.0.2.128/25", NULL, "CN"},
    {"198.51.100.7/32", "cn", NULL},  {"203.0.113.0/24", NULL, NULL},
    {"2001:db8::/33", "JP", NULL},    {"10.0.0.0/8", "US", "US"},
    {"198.51.100.8/32", "USA", NULL},
};

static char dir[] = "/tmp/test_geoip.XXXXXX", path[64];

static int
setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/c.mmdb", dir);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static struct geoip *
open_rows(void)
{
    struct strbuf bytes = STRBUF_INIT;
    struct geoip *geoip = NULL;
    struct err err;
    mmdb_make(&bytes, "Test-Country", rows, N_ELEMENTS(rows));
    mmdb_save(path, strbuf_span(&bytes));
    strbuf_release(&bytes);
    if (geoip_open(path, &geoip, &err) != ERR_OK)
        fail_msg("%s", err.text);
    return geoip;
}

/* "" without a country. */
static const char *
country(const struct geoip *geoip, const char *address)
{
    static char code[3];
    struct ip ip;
    assert_true(ip_parse(span_str(address), &ip));
    return geoip_country(geoip, &ip, code) ? code : "";
}

static void
an_address_has_the_country_that_the_database_says(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"192.0.2.1", "US"},      {"192.0.2.127", "US"},
        {"192.0.2.128", "CN"}, /* not said where it is: where it is registered */
        {"198.51.100.7", "CN"},   {"198.51.100.6", ""},
        {"198.51.100.8", ""}, /* no code of two letters */
        {"203.0.113.9", ""},      {"2001:db8::1", "JP"},
        {"2001:db8:8000::1", ""}, {"10.1.2.3", ""}, /* special, whatever the database says */
        {"127.0.0.1", ""},        {"::1", ""},
    };
    struct geoip *geoip = open_rows();
    for (size_t i = 0; i < N_ELEMENTS(cases); i++)
        assert_string_equal(country(geoip, cases[i][0]), cases[i][1]);
    assert_string_equal(country(NULL, "192.0.2.1"), "");
    geoip_close(geoip);
    geoip_close(NULL);
}

/* cp and rsync --inplace cut the file off that others have mapped. */
static void
a_file_that_is_written_over_does_not_hurt_who_has_it_open(void **state)
{
    (void)state;
    struct geoip *geoip = open_rows();
    mmdb_save(path, SPAN(""));
    assert_string_equal(country(geoip, "192.0.2.1"), "US");
    assert_string_equal(country(geoip, "2001:db8::1"), "JP");
    geoip_close(geoip);
}

static void
it_lives_as_long_as_somebody_holds_it(void **state)
{
    (void)state;
    struct geoip *geoip = open_rows();
    assert_ptr_equal(geoip_take(geoip), geoip);
    assert_null(geoip_take(NULL));
    geoip_close(geoip);
    assert_string_equal(country(geoip, "192.0.2.1"), "US");
    geoip_close(geoip);
}

static void
refused(struct span bytes, const char *expected)
{
    struct geoip *geoip = NULL;
    struct err err = {.text = ""};
    mmdb_save(path, bytes);
    enum err_code code = geoip_open(path, &geoip, &err);
    if (code != ERR_INVAL || strstr(err.text, expected) == NULL)
        fail_msg("%s: %s, expected %s", err_code_name(code), err.text, expected);
    assert_null(geoip);
}

static void
what_is_no_database_of_countries_is_refused(void **state)
{
    (void)state;
    struct strbuf bytes = STRBUF_INIT;
    static const struct mmdb_row no_country[] = {{"192.0.2.0/24", NULL, NULL}};
    mmdb_make(&bytes, "Test-ASN", no_country, 1);
    refused(strbuf_span(&bytes), "no country in it (its type is Test-ASN)");
    refused(SPAN(""), "a file that is not empty");
    refused(SPAN("<html>not found</html>\n"), "invalid metadata");
    strbuf_reset(&bytes);
    mmdb_make(&bytes, "Test-Country", rows, N_ELEMENTS(rows));
    refused(span_first(strbuf_span(&bytes), bytes.n - 200), "invalid metadata");
    strbuf_release(&bytes);
}

static void
a_database_that_cannot_be_opened_says_why(void **state)
{
    (void)state;
    struct geoip *geoip = NULL;
    struct err err;
    assert_int_equal(geoip_open("/nowhere/c.mmdb", &geoip, &err), ERR_NOT_FOUND);
    assert_string_equal(err.text, "No such file or directory");
    assert_int_equal(geoip_open(dir, &geoip, &err), ERR_INVAL);
    if (geteuid() == 0)
        return; /* root may read what it likes */
    mmdb_save(path, SPAN("x"));
    assert_int_equal(chmod(path, 0), 0);
    assert_int_equal(geoip_open(path, &geoip, &err), ERR_PERM);
    assert_int_equal(chmod(path, 0600), 0);
}

/* Every byte of tree and data damaged in turn: opened or refused, and every look-up ends. */
static void
damage_is_found_when_it_is_opened_or_does_no_harm(void **state)
{
    (void)state;
    struct strbuf bytes = STRBUF_INIT;
    size_t n_refused = 0;
    mmdb_make(&bytes, "Test-Country", rows, N_ELEMENTS(rows));
    for (size_t i = 0; i < bytes.n; i++) {
        static const uint8_t damage[] = {0xff, 0x00, 0x20};
        for (size_t k = 0; k < N_ELEMENTS(damage); k++) {
            char was = bytes.p[i];
            struct geoip *geoip = NULL;
            bytes.p[i] = (char)damage[k];
            mmdb_save(path, strbuf_span(&bytes));
            bytes.p[i] = was;
            if (geoip_open(path, &geoip, NULL) != ERR_OK) {
                n_refused++;
                continue;
            }
            for (size_t r = 0; r < N_ELEMENTS(rows); r++) {
                struct cidr block;
                char code[3] = "";
                assert_int_equal(cidr_parse(span_str(rows[r].block), &block, NULL), ERR_OK);
                if (geoip_country(geoip, &block.ip, code))
                    assert_int_equal(strlen(code), 2);
            }
            geoip_close(geoip);
        }
    }
    assert_true(n_refused > bytes.n / 4);
    strbuf_release(&bytes);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_has_the_country_that_the_database_says),
        cmocka_unit_test(a_file_that_is_written_over_does_not_hurt_who_has_it_open),
        cmocka_unit_test(it_lives_as_long_as_somebody_holds_it),
        cmocka_unit_test(what_is_no_database_of_countries_is_refused),
        cmocka_unit_test(a_database_that_cannot_be_opened_says_why),
        cmocka_unit_test(damage_is_found_when_it_is_opened_or_does_no_harm),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
