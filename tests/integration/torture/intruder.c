/*
 * Somebody who can already run code inside relayd, as after a bug of ours: preloaded, it waits for
 * a message that says INTRUDER and tries what he would try. Each line on stderr is one attempt:
 * "intruder: NAME 0" (it worked) or the errno. A message that says INTRUDER-CALL-59 makes that
 * call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void
tell(const char *name, long result)
{
    dprintf(2, "intruder: %s %d\n", name, result >= 0 ? 0 : errno);
}

/* In the directory that the test names by its own environment variable. */
static const char *
in(const char *variable, const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", getenv(variable), name);
    return path;
}

static void
attempt(void)
{
    const struct rlimit limit = {1000000, 1000000};

    tell("read-config", open(in("INTRUDER_CONFIG", "relayd.yaml"), O_RDONLY));
    tell("write-config", open(in("INTRUDER_CONFIG", "relayd.yaml"), O_WRONLY | O_APPEND));
    tell("new-in-config", open(in("INTRUDER_CONFIG", "new.yaml"), O_WRONLY | O_CREAT, 0600));
    tell("unlink-config", unlink(in("INTRUDER_CONFIG", "users")));
    tell("new-in-queue", open(in("INTRUDER_QUEUE", "new"), O_RDWR | O_CREAT, 0600));
    tell("symlink-in-queue", symlink("/etc/passwd", in("INTRUDER_QUEUE", "link")));
    tell("directory-in-queue", mkdir(in("INTRUDER_QUEUE", "sub"), 0700));
    tell("read-elsewhere", open(in("INTRUDER_ELSEWHERE", "secret"), O_RDONLY));
    tell("write-elsewhere", open(in("INTRUDER_ELSEWHERE", "secret"), O_WRONLY));
    tell("new-elsewhere", open(in("INTRUDER_ELSEWHERE", "new"), O_WRONLY | O_CREAT, 0600));
    tell("list-elsewhere", open(getenv("INTRUDER_ELSEWHERE"), O_RDONLY | O_DIRECTORY));
    tell("read-root", open("/root", O_RDONLY | O_DIRECTORY));
    tell("read-var", open("/var", O_RDONLY | O_DIRECTORY));
    tell("write-etc", open("/etc/passwd", O_WRONLY | O_APPEND));
    tell("new-in-tmp", open("/tmp/relayd-intruder", O_WRONLY | O_CREAT, 0600));
    tell("memory-of-init", open("/proc/1/mem", O_RDONLY));
    tell("raw-socket", socket(AF_INET, SOCK_RAW, 1));
    tell("packet-socket", socket(AF_PACKET, SOCK_RAW, 0));
    tell("signal-init", kill(1, 0));
    tell("fork", fork());
    tell("become-root", setuid(0));
    tell("be-traced", prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
    tell("dump-core", setrlimit(RLIMIT_CORE, &limit));
    tell("type-into-terminal", ioctl(0, 0x5412 /* TIOCSTI */, "x"));
    tell("chown", chown(in("INTRUDER_QUEUE", "new"), 0, 0));
    dprintf(2, "intruder: done\n");
}

static void
look(const void *bytes, size_t n)
{
    static const char call[] = "INTRUDER-CALL-", all[] = "INTRUDER-TRIES";
    const char *at;

    if (n == 0)
        return;
    if ((at = memmem(bytes, n, call, sizeof(call) - 1)) != NULL)
        tell("call", syscall(atoi(at + sizeof(call) - 1), 0, 0, 0, 0, 0));
    if (memmem(bytes, n, all, sizeof(all) - 1) != NULL)
        attempt();
}

ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
    ssize_t (*real)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    for (size_t i = 0; i < msg->msg_iovlen; i++)
        look(msg->msg_iov[i].iov_base, msg->msg_iov[i].iov_len);
    return real(fd, msg, flags);
}
