#include "relayd/net/sdnotify.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE_BYTES 512 /* a longer status line is cut */

/* Where systemd listens: set once by sdnotify_init() in main, read by the loop. */
static struct sockaddr_un socket_addr;
static socklen_t socket_addr_len;
static msec_t watchdog_ms;

static bool
number_of_env(const char *name, uint64_t *ret)
{
    const char *text = getenv(name);
    char *end;
    if (text == NULL || *text < '0' || *text > '9')
        return false;
    *ret = strtoull(text, &end, 10);
    return *end == '\0';
}

bool
sdnotify_init(void)
{
    uint64_t usec, pid;
    const char *path = getenv("NOTIFY_SOCKET");
    size_t n = path == NULL ? 0 : strlen(path);

    socket_addr_len = 0;
    watchdog_ms = 0;
    if (n > 1 && n < sizeof(socket_addr.sun_path) && (path[0] == '/' || path[0] == '@')) {
        socket_addr = (struct sockaddr_un){.sun_family = AF_UNIX};
        memcpy(socket_addr.sun_path, path, n);
        if (path[0] == '@')
            socket_addr.sun_path[0] = '\0'; /* abstract: its length ends the name, not a NUL */
        socket_addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    }
    bool ours = !number_of_env("WATCHDOG_PID", &pid) || pid == (uint64_t)getpid();
    if (ours && number_of_env("WATCHDOG_USEC", &usec) && usec > 0 && usec < UINT64_MAX / 2)
        watchdog_ms = (msec_t)(usec / 2000) > 0 ? (msec_t)(usec / 2000) : 1;
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    return socket_addr_len > 0;
}

static void
notify(const char *message)
{
    if (socket_addr_len == 0)
        return;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    (void)!sendto(fd, message, strlen(message), MSG_NOSIGNAL | MSG_DONTWAIT,
                  (const struct sockaddr *)&socket_addr, socket_addr_len);
    close(fd);
}

/* `state`, and a STATUS line on which control characters cannot start another assignment. */
static void
notify_status(const char *state, const char *status)
{
    char message[MESSAGE_BYTES];
    int used = snprintf(message, sizeof(message), "%s%s%s%s", state, *state != '\0' ? "\n" : "",
                        status == NULL ? "" : "STATUS=", status == NULL ? "" : status);
    if (status != NULL && used > 0) {
        char *line = strstr(message, "STATUS=");
        for (; line != NULL && *line != '\0'; line++)
            if ((unsigned char)*line < ' ')
                *line = ' ';
    }
    notify(message);
}

void
sdnotify_ready(const char *status)
{
    notify_status("READY=1", status);
}

void
sdnotify_reloading(void)
{
    char message[MESSAGE_BYTES];
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    snprintf(message, sizeof(message), "RELOADING=1\nMONOTONIC_USEC=%lld\n",
             (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000);
    notify(message);
}

void
sdnotify_stopping(const char *status)
{
    notify_status("STOPPING=1", status);
}

void
sdnotify_status(const char *status)
{
    notify_status("", status);
}

void
sdnotify_watchdog(void)
{
    notify("WATCHDOG=1\n");
}

void
sdnotify_extend_ms(msec_t ms)
{
    char message[MESSAGE_BYTES];
    snprintf(message, sizeof(message), "EXTEND_TIMEOUT_USEC=%lld\n", (long long)ms * 1000);
    notify(message);
}

msec_t
sdnotify_watchdog_ms(void)
{
    return watchdog_ms;
}
