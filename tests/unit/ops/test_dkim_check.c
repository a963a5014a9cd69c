/*
 * relayctl dkim check against a name server that runs in a child and knows what the tests gave it:
 * the selector says which answer is wanted.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "run_ctl.h"

static char dir[64];
static pid_t server;
static char record[2000]; /* of the key in d.example.pem */

/* ---- the name server ---- */

/* One TXT record for the name asked, its value in strings of at most 255 octets. */
static size_t
add_txt(unsigned char *p, const char *value)
{
    static const unsigned char head[] = {0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60};
    size_t n = strlen(value), at = sizeof(head) + 2;
    memcpy(p, head, sizeof(head));
    for (size_t done = 0; done < n;) {
        size_t piece = n - done < 255 ? n - done : 255;
        p[at++] = (unsigned char)piece;
        memcpy(p + at, value + done, piece);
        at += piece;
        done += piece;
    }
    size_t data = at - sizeof(head) - 2;
    p[sizeof(head)] = (unsigned char)(data >> 8);
    p[sizeof(head) + 1] = (unsigned char)data;
    return at;
}

/* Turns the question in `p` into its answer; returns its length. */
static size_t
answer(unsigned char *p, size_t n)
{
    const char *label = (const char *)p + 13;
    size_t end = 12;
    while (end < n && p[end] != 0)
        end += p[end] + 1u;
    end += 5; /* the root, type and class */
    p[2] |= 0x80;
    p[3] = 0x80;
    memset(p + 6, 0, 6); /* no answers, no EDNS */
    if (strncmp(label, "none", 4) == 0) {
        p[3] |= 3;
        return end;
    }
    if (strncmp(label, "broken", 6) == 0) {
        p[3] |= 2;
        return end;
    }
    const char *value = record;
    if (strncmp(label, "other", 5) == 0)
        value = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    if (strncmp(label, "revoked", 7) == 0)
        value = "v=DKIM1; p=";
    p[7] = 1;
    end += add_txt(p + end, value);
    if (strncmp(label, "twice", 5) == 0) {
        p[7] = 2;
        end += add_txt(p + end, value);
    }
    return end;
}

static void
serve(int fd)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        unsigned char packet[4096];
        struct sockaddr_in from;
        socklen_t from_n = sizeof(from);
        ssize_t n = recvfrom(fd, packet, 512, 0, (struct sockaddr *)&from, &from_n);
        if (n > 12)
            sendto(fd, packet, answer(packet, (size_t)n), 0, (struct sockaddr *)&from, from_n);
    }
}

static int
write_config(unsigned port)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/r.yaml", dir);
    FILE *f = fopen(path, "w");
    if (f == NULL)
        return -1;
    fprintf(f,
            "node: {name: good, hostname: mail.example.org}\n"
            "listeners: [{address: \"127.0.0.1:2525\"}]\n"
            "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
            "resolver: {servers: [\"127.0.0.1:%u\"], timeout: 1s}\n"
            "transport_map: [{default: true, route: direct}]\n"
            "dkim:\n"
            "  - {domains: [d.example, \"*.d.example\"], key_file: d.example.pem}\n"
            "  - {domains: [e.example], key_file: d.example.pem, selector: other}\n",
            port);
    return fclose(f);
}

static int
make_key(void)
{
    struct run run = run_ctl(dir, "--json dkim keygen --domain d.example --selector good", NULL);
    cJSON *json = cJSON_Parse(run.out.p);
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItem(json, "value"));
    if (value != NULL)
        snprintf(record, sizeof(record), "%s", value);
    cJSON_Delete(json);
    run_release(&run);
    return record[0] == '\0';
}

static int
setup(void **state)
{
    (void)state;
    struct sockaddr_in addr = {.sin_family = AF_INET};
    socklen_t n = sizeof(addr);
    snprintf(dir, sizeof(dir), "/tmp/test_dkim.XXXXXX");
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (mkdtemp(dir) == NULL || fd < 0 || bind(fd, (struct sockaddr *)&addr, n) != 0 ||
        getsockname(fd, (struct sockaddr *)&addr, &n) != 0 || make_key() != 0)
        return -1;
    server = fork();
    if (server == 0)
        serve(fd);
    close(fd);
    return write_config(ntohs(addr.sin_port));
}

static int
teardown(void **state)
{
    (void)state;
    char command[128];
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static const struct {
    const char *selector, *says;
    int status;
} cases[] = {
    {"good", "matches", 0},    {"other", "ed25519", 1},       {"none", "NXDOMAIN", 1},
    {"revoked", "revoked", 1}, {"twice", "2 TXT records", 1}, {"broken", "no record", 75},
};

static void
each_answer_of_dns_has_its_verdict(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        char command[256];
        snprintf(command, sizeof(command),
                 "-c r.yaml dkim check --domain D.example --selector %s --key d.example.pem",
                 cases[i].selector);
        struct run run = run_ctl(dir, command, NULL);
        if (run.status != cases[i].status || strstr(run.out.p, cases[i].says) == NULL)
            fail_msg("%s: exit %d, %s%s", cases[i].selector, run.status, run.out.p, run.err.p);
        run_release(&run);
    }
}

static void
the_keys_of_the_configuration_are_checked_each_once(void **state)
{
    (void)state;
    struct run run = run_ctl(dir, "-c r.yaml --json dkim check", NULL);
    assert_int_equal(run.status, 1); /* e.example publishes another key */
    cJSON *list = cJSON_Parse(run.out.p);
    assert_int_equal(cJSON_GetArraySize(list), 2);
    const cJSON *first = cJSON_GetArrayItem(list, 0), *second = cJSON_GetArrayItem(list, 1);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(first, "name")),
                        "good._domainkey.d.example");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(first, "ok")));
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(second, "ok")));
    cJSON_Delete(list);
    run_release(&run);

    run = run_ctl(dir, "-c r.yaml dkim check --domain d.example", NULL);
    assert_int_equal(run.status, 0);
    run_release(&run);
    run = run_ctl(dir, "-c r.yaml dkim check --domain f.example", NULL);
    assert_int_equal(run.status, 66);
    run_release(&run);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_answer_of_dns_has_its_verdict),
        cmocka_unit_test(the_keys_of_the_configuration_are_checked_each_once),
    };
    run_find();
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
