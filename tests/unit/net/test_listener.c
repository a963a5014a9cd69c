/* Listeners: accepting, pausing, running out of descriptors, unix sockets. */
#include "net_test.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "relayd/net/listener.h"

#define FDS_MAX 128

struct rig {
    struct loop *loop;
    struct listener *listener;
    int fds[FDS_MAX];
    size_t n, n_max_in_tick, n_in_tick;
    int n_exhausted, exhausted_errno;
    struct net_addr peer, local;
    bool close_in_callback;
};

static void
on_accept(void *arg, int fd, const struct net_addr *peer, const struct net_addr *local)
{
    struct rig *rig = arg;
    assert_true(rig->n < FDS_MAX);
    rig->fds[rig->n++] = fd;
    if (++rig->n_in_tick > rig->n_max_in_tick)
        rig->n_max_in_tick = rig->n_in_tick;
    rig->peer = *peer;
    rig->local = *local;
    if (rig->close_in_callback) {
        listener_close(rig->listener);
        rig->listener = NULL;
    }
}

static void
on_exhausted(void *arg, int fd, int error)
{
    struct rig *rig = arg;
    rig->n_exhausted++;
    rig->exhausted_errno = error;
    assert_int_equal(write(fd, "421 full\r\n", 10), 10);
}

static const struct listener_ops ops = {on_accept, on_exhausted};

static struct net_addr
loopback(const char *ip)
{
    struct net_addr addr = {0};
    assert_true(ip_parse(span_str(ip), &addr.ip));
    return addr;
}

static int
setup(void **state)
{
    struct rig *rig = xcalloc(1, sizeof(*rig));
    rig->loop = loop_new_stepped(0);
    *state = rig;
    return 0;
}

static int
teardown(void **state)
{
    struct rig *rig = *state;
    listener_close(rig->listener);
    for (size_t i = 0; i < rig->n; i++)
        close(rig->fds[i]);
    loop_free(rig->loop);
    free(rig);
    return 0;
}

static void
listen_on(struct rig *rig, const char *ip)
{
    struct err err;
    struct net_addr addr = loopback(ip);
    assert_int_equal(listener_open(&addr, &rig->listener, &err), ERR_OK);
    assert_true(listener_addr(rig->listener)->port != 0);
}

static int
connect_to(const struct net_addr *addr)
{
    struct sockaddr_storage ss;
    socklen_t len = net_addr_to_sockaddr(addr, &ss);
    int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&ss, len) != 0)
        assert_int_equal(errno, EINPROGRESS);
    return fd;
}

static void
a_connection_is_given_with_both_addresses(void **state)
{
    struct rig *rig = *state;
    struct sockaddr_in sa;
    socklen_t len = sizeof(sa);
    int value = 0;
    socklen_t value_len = sizeof(value);
    listen_on(rig, "127.0.0.1");
    int client = connect_to(listener_addr(rig->listener)); /* before it is started */
    listener_start(rig->listener, rig->loop, &ops, rig);
    WAIT_FOR(rig->loop, rig->n == 1);
    getsockname(client, (struct sockaddr *)&sa, &len);
    struct net_addr expected = net_addr_from_sockaddr((struct sockaddr *)&sa);
    assert_true(net_addr_eq(&rig->peer, &expected));
    assert_true(net_addr_eq(&rig->local, listener_addr(rig->listener)));
    assert_true((fcntl(rig->fds[0], F_GETFL) & O_NONBLOCK) != 0);
    assert_true((fcntl(rig->fds[0], F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(getsockopt(rig->fds[0], IPPROTO_TCP, TCP_NODELAY, &value, &value_len), 0);
    assert_true(value != 0);
    close(client);
}

static void
a_wildcard_listener_tells_the_address_connected_to(void **state)
{
    struct rig *rig = *state;
    listen_on(rig, "0.0.0.0");
    listener_start(rig->listener, rig->loop, &ops, rig);
    struct net_addr to = loopback("127.0.0.77");
    to.port = listener_addr(rig->listener)->port;
    int client = connect_to(&to);
    WAIT_FOR(rig->loop, rig->n == 1);
    assert_true(net_addr_eq(&rig->local, &to));
    close(client);
}

static void
ipv6_and_ipv4_of_one_port_are_two_listeners(void **state)
{
    struct rig *rig = *state;
    struct listener *v6;
    struct err err;
    listen_on(rig, "0.0.0.0");
    struct net_addr addr = loopback("::");
    addr.port = listener_addr(rig->listener)->port;
    assert_int_equal(listener_open(&addr, &v6, &err), ERR_OK);
    listener_close(v6);
}

static void
what_cannot_be_bound_is_named(void **state)
{
    struct rig *rig = *state;
    struct listener *other;
    struct err err;
    char text[NET_ADDR_TEXT_BYTES];
    listen_on(rig, "127.0.0.1");
    assert_int_equal(listener_open(listener_addr(rig->listener), &other, &err), ERR_BUSY);
    assert_non_null(strstr(err.text, net_addr_format(listener_addr(rig->listener), text)));
    struct net_addr foreign = loopback("192.0.2.1");
    assert_int_equal(listener_open(&foreign, &other, &err), ERR_INVAL);
    struct net_addr none = {0};
    assert_int_equal(listener_open(&none, &other, &err), ERR_INVAL);
}

static void
bursts_are_bounded_and_pauses_kept(void **state)
{
    struct rig *rig = *state;
    int clients[LISTENER_BURST + 8];
    size_t n = N_ELEMENTS(clients);
    listen_on(rig, "127.0.0.1");
    for (size_t i = 0; i < n; i++)
        clients[i] = connect_to(listener_addr(rig->listener));
    listener_start(rig->listener, rig->loop, &ops, rig);
    listener_pause(rig->listener);
    listener_pause(rig->listener);
    for (int i = 0; i < 5; i++)
        loop_run_once(rig->loop, 0);
    assert_int_equal(rig->n, 0);
    listener_resume(rig->listener);
    for (int i = 0; i < 1000 && rig->n < n; i++) {
        rig->n_in_tick = 0;
        loop_run_once(rig->loop, 2);
    }
    assert_int_equal(rig->n, n);
    assert_int_equal(rig->n_max_in_tick, LISTENER_BURST);
    for (size_t i = 0; i < n; i++)
        close(clients[i]);
}

static void
closing_inside_the_callback_ends_the_burst(void **state)
{
    struct rig *rig = *state;
    int clients[3];
    listen_on(rig, "127.0.0.1");
    for (int i = 0; i < 3; i++)
        clients[i] = connect_to(listener_addr(rig->listener));
    rig->close_in_callback = true;
    listener_start(rig->listener, rig->loop, &ops, rig);
    WAIT_FOR(rig->loop, rig->n == 1);
    for (int i = 0; i < 5; i++)
        loop_run_once(rig->loop, 0);
    assert_int_equal(rig->n, 1);
    for (int i = 0; i < 3; i++)
        close(clients[i]);
}

/* Take every descriptor there is. */
static size_t
exhaust(int *fds, size_t max)
{
    size_t n = 0;
    while (n < max && (fds[n] = dup(0)) >= 0)
        n++;
    assert_true(n < max);
    assert_int_equal(errno, EMFILE);
    return n;
}

static void
without_descriptors_it_rests_instead_of_spinning(void **state)
{
    struct rig *rig = *state;
    struct rlimit old, small = {100, 0};
    int hoard[200], clients[3];
    struct strbuf seen = STRBUF_INIT;

    listen_on(rig, "127.0.0.1");
    for (int i = 0; i < 3; i++)
        clients[i] = connect_to(listener_addr(rig->listener));
    listener_start(rig->listener, rig->loop, &ops, rig);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    size_t n = exhaust(hoard, N_ELEMENTS(hoard));

    for (int i = 0; i < 20; i++)
        loop_run_once(rig->loop, 0);
    assert_int_equal(rig->n_exhausted, 1); /* one was told, then quiet */
    assert_int_equal(rig->exhausted_errno, EMFILE);
    assert_int_equal(rig->n, 0);
    assert_int_equal(dup(0), -1); /* the reserve is taken again */
    clock_step(loop_clock(rig->loop), LISTENER_PAUSE_MS);
    for (int i = 0; i < 20; i++)
        loop_run_once(rig->loop, 0);
    assert_int_equal(rig->n_exhausted, 2);
    while (n > 0)
        close(hoard[--n]);
    for (int i = 0; i < 20; i++)
        loop_run_once(rig->loop, 0);
    assert_int_equal(rig->n, 0);
    clock_step(loop_clock(rig->loop), LISTENER_PAUSE_MS);
    WAIT_FOR(rig->loop, rig->n == 1);
    assert_int_equal(rig->n_exhausted, 2);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    fd_read(clients[0], &seen);
    assert_true(span_eq(strbuf_span(&seen), SPAN("421 full\r\n")));
    for (int i = 0; i < 3; i++)
        close(clients[i]);
    strbuf_release(&seen);
}

/* ---- unix sockets ---- */

static int
unix_connect(const char *path)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    strcpy(sun.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0)
        return fd;
    close(fd);
    return -1;
}

static void
a_unix_socket_has_its_mode_and_goes_with_the_listener(void **state)
{
    struct rig *rig = *state;
    char dir[] = "/tmp/relayd-listener-XXXXXX", path[64], text[NET_ADDR_TEXT_BYTES];
    struct stat st;
    struct err err;
    struct listener *second;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/control.sock", dir);
    assert_int_equal(listener_open_unix(path, 0660, &rig->listener, &err), ERR_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    assert_int_equal(listener_chown(rig->listener, getuid(), getgid(), &err), ERR_OK);
    listener_start(rig->listener, rig->loop, &ops, rig);
    int client = unix_connect(path);
    assert_true(client >= 0);
    WAIT_FOR(rig->loop, rig->n == 1);
    assert_string_equal(net_addr_format(&rig->peer, text), "local");
    assert_int_equal(listener_open_unix(path, 0660, &second, &err),
                     ERR_BUSY); /* somebody answers */
    listener_close(rig->listener);
    assert_int_equal(stat(path, &st), -1);
    close(client);

    /* What a dead process left is replaced; anything but a socket is not. */
    int stale = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    strcpy(sun.sun_path, path);
    assert_int_equal(bind(stale, (struct sockaddr *)&sun, sizeof(sun)), 0);
    close(stale);
    assert_int_equal(listener_open_unix(path, 0600, &rig->listener, &err), ERR_OK);
    listener_close(rig->listener);
    rig->listener = NULL;
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(listener_open_unix(path, 0600, &second, &err), ERR_BUSY);
    unlink(path);
    rmdir(dir);
    assert_int_equal(listener_open_unix(path, 0600, &second, &err), ERR_INVAL); /* no directory */
    char longest[200];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(listener_open_unix(longest, 0600, &second, &err), ERR_INVAL);
}

int
main(int argc, char **argv)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_connection_is_given_with_both_addresses),
        T(a_wildcard_listener_tells_the_address_connected_to),
        T(ipv6_and_ipv4_of_one_port_are_two_listeners),
        T(what_cannot_be_bound_is_named),
        T(bursts_are_bounded_and_pauses_kept),
        T(closing_inside_the_callback_ends_the_burst),
        T(without_descriptors_it_rests_instead_of_spinning),
        T(a_unix_socket_has_its_mode_and_goes_with_the_listener),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
