/* PROXY headers: what is taken, what needs more, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "relayd/net/proxy.h"

#define V2 "\r\n\r\n\0\r\nQUIT\n"

struct example {
    struct span in;
    enum proxy_status status;
    size_t len; /* consumed */
    bool local;
    const char *source, *destination;
};

static const struct example examples[] = {
    {SPAN("PROXY TCP4 192.0.2.1 192.0.2.2 1234 25\r\nEHLO"), PROXY_OK, 40, false, "192.0.2.1:1234",
     "192.0.2.2:25"},
    {SPAN("PROXY TCP6 2001:db8::1 2001:db8::2 65535 25\r\n"), PROXY_OK, 45, false,
     "[2001:db8::1]:65535", "[2001:db8::2]:25"},
    {SPAN("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"), PROXY_OK, 37, false, "192.0.2.1:1",
     "[::1]:2"},
    {SPAN("PROXY UNKNOWN\r\n"), PROXY_OK, 15, true, "local", "local"},
    {SPAN("PROXY UNKNOWN ffff:f::1 whatever 0 0\r\n"), PROXY_OK, 38, true, "local", "local"},
    /* not yet whole */
    {SPAN(""), PROXY_MORE, 0, false, NULL, NULL},
    {SPAN("P"), PROXY_MORE, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1"), PROXY_MORE, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1 192.0.2.2 1234 25\r"), PROXY_MORE, 0, false, NULL, NULL},
    {SPAN("\r\n\r\n"), PROXY_MORE, 0, false, NULL, NULL},
    /* no header, or a broken one */
    {SPAN("EHLO x\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXI"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n"), PROXY_MORE, 0, false, NULL, NULL},
    /* version 2 */
    {SPAN(V2 "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00\x19"
             "EHLO"),
     PROXY_OK, 28, false, "192.0.2.1:1234", "192.0.2.2:25"},
    {SPAN(V2 "\x21\x21\x00\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
             "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x04\xd2\x00\x19"),
     PROXY_OK, 52, false, "[2001:db8::1]:1234", "[2001:db8::2]:25"},
    {SPAN(V2 "\x21\x11\x00\x0f\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00\x19\x04\x00\x00"),
     PROXY_OK, 31, false, "192.0.2.1:1234", "192.0.2.2:25"}, /* a TLV behind the addresses */
    {SPAN(V2 "\x20\x00\x00\x00"), PROXY_OK, 16, true, "local", "local"},
    {SPAN(V2 "\x20\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00\x19"), PROXY_OK, 28,
     true, "local", "local"},
    {SPAN(V2 "\x21\x31\x00\x00"), PROXY_OK, 16, true, "local", "local"},
    {SPAN(V2 "\x21\x12\x00\x00"), PROXY_OK, 16, true, "local", "local"}, /* a datagram */
    {SPAN(V2 "\x21\x11\x00"), PROXY_MORE, 0, false, NULL, NULL},
    {SPAN(V2 "\x21\x11\x00\x0c\xc0"), PROXY_MORE, 0, false, NULL, NULL},
    {SPAN(V2 "\x31\x11\x00\x0c"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN(V2 "\x22\x11\x00\x0c"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN(V2 "\x21\x11\x00\x0b\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00"), PROXY_BAD, 0, false,
     NULL, NULL},
    {SPAN(V2 "\x21\x21\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00\x19"), PROXY_BAD, 0,
     false, NULL, NULL},
    {SPAN(V2 "\x21\x11\xff\xff"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("\r\n\r\n\0\r\nQUIX"), PROXY_BAD, 0, false, NULL, NULL},
    {SPAN("\r\nEHLO"), PROXY_BAD, 0, false, NULL, NULL},
};

static void
headers_are_told_from_what_is_none(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(examples); i++) {
        const struct example *e = &examples[i];
        struct proxy_info info;
        size_t len = 12345;
        char text[NET_ADDR_TEXT_BYTES];
        print_message("example %zu\n", i);
        assert_int_equal(proxy_parse(e->in, &info, &len), e->status);
        if (e->status != PROXY_OK) {
            assert_int_equal(len, 12345);
            continue;
        }
        assert_int_equal(len, e->len);
        assert_int_equal(info.local, e->local);
        assert_string_equal(net_addr_format(&info.source, text), e->source);
        assert_string_equal(net_addr_format(&info.destination, text), e->destination);
        assert_int_equal(info.version, e->in.p[0] == 'P' ? 1 : 2);
    }
}

static void
every_beginning_of_a_header_asks_for_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(examples); i++) {
        struct proxy_info info;
        size_t len;
        if (examples[i].status != PROXY_OK)
            continue;
        for (size_t n = 0; n < examples[i].len; n++) {
            /* In a block of that very size, so that reading behind it shows. */
            char *part = xmalloc(n);
            memcpy(part, examples[i].in.p, n);
            assert_int_equal(proxy_parse(span_of(part, n), &info, &len), PROXY_MORE);
            free(part);
        }
    }
}

static void
a_line_without_end_is_refused_at_its_limit(void **state)
{
    (void)state;
    char line[200] = "PROXY UNKNOWN ";
    struct proxy_info info;
    size_t len;
    memset(line + 14, 'x', sizeof(line) - 14);
    assert_int_equal(proxy_parse(span_of(line, PROXY_V1_BYTES_MAX - 1), &info, &len), PROXY_MORE);
    assert_int_equal(proxy_parse(span_of(line, PROXY_V1_BYTES_MAX), &info, &len), PROXY_BAD);
    line[PROXY_V1_BYTES_MAX - 2] = '\r';
    line[PROXY_V1_BYTES_MAX - 1] = '\n';
    assert_int_equal(proxy_parse(span_of(line, sizeof(line)), &info, &len), PROXY_OK);
    assert_int_equal(len, PROXY_V1_BYTES_MAX);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_told_from_what_is_none),
        cmocka_unit_test(every_beginning_of_a_header_asks_for_more),
        cmocka_unit_test(a_line_without_end_is_refused_at_its_limit),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
