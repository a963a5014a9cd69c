/* What systemd is told, on a socket of our own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "relayd/net/sdnotify.h"

static int fd;

/* Listen like systemd, at a path or (with @) an abstract name. */
static void
manager_open(const char *name)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    strcpy(sun.sun_path, name);
    if (name[0] == '@')
        sun.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sun,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))),
                     0);
    setenv("NOTIFY_SOCKET", name, 1);
}

static void
expect(const char *message)
{
    char buf[1024];
    ssize_t n = recv(fd, buf, sizeof(buf) - 1, 0);
    assert_true(n >= 0);
    buf[n] = '\0';
    assert_string_equal(buf, message);
}

static void
messages_arrive_as_systemd_reads_them(void **state)
{
    (void)state;
    char name[64], buf[1024];
    snprintf(name, sizeof(name), "@relayd-test-%d", (int)getpid());
    manager_open(name);
    setenv("WATCHDOG_USEC", "10000000", 1);
    assert_true(sdnotify_init());
    assert_null(getenv("NOTIFY_SOCKET"));
    assert_int_equal(sdnotify_watchdog_ms(), 5000);
    sdnotify_ready("up\nMAINPID=1");
    expect("READY=1\nSTATUS=up MAINPID=1");
    sdnotify_ready(NULL);
    expect("READY=1\n");
    sdnotify_status("queue 5");
    expect("STATUS=queue 5");
    sdnotify_stopping("draining");
    expect("STOPPING=1\nSTATUS=draining");
    sdnotify_watchdog();
    expect("WATCHDOG=1\n");
    sdnotify_extend_ms(1500);
    expect("EXTEND_TIMEOUT_USEC=1500000\n");
    sdnotify_reloading();
    ssize_t n = recv(fd, buf, sizeof(buf) - 1, 0);
    assert_true(n > 0);
    buf[n] = '\0';
    assert_int_equal(strncmp(buf, "RELOADING=1\nMONOTONIC_USEC=", 27), 0);
    close(fd);
    sdnotify_status("nobody listens any more"); /* is not an error */
}

static void
a_socket_in_the_file_system_works_too(void **state)
{
    (void)state;
    char dir[] = "/tmp/relayd-notify-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
    manager_open(path);
    assert_true(sdnotify_init());
    assert_int_equal(sdnotify_watchdog_ms(), 0);
    sdnotify_status("x");
    expect("STATUS=x");
    close(fd);
    unlink(path);
    rmdir(dir);
}

static void
without_systemd_nothing_happens(void **state)
{
    (void)state;
    unsetenv("NOTIFY_SOCKET");
    assert_false(sdnotify_init());
    sdnotify_ready("x");
    setenv("NOTIFY_SOCKET", "relative/path", 1);
    assert_false(sdnotify_init());
    setenv("WATCHDOG_USEC", "1000000", 1);
    setenv("WATCHDOG_PID", "1", 1); /* meant for another process */
    assert_false(sdnotify_init());
    assert_int_equal(sdnotify_watchdog_ms(), 0);
    setenv("WATCHDOG_USEC", "junk", 1);
    assert_false(sdnotify_init());
    assert_int_equal(sdnotify_watchdog_ms(), 0);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive_as_systemd_reads_them),
        cmocka_unit_test(a_socket_in_the_file_system_works_too),
        cmocka_unit_test(without_systemd_nothing_happens),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
