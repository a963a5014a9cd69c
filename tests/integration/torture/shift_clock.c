/*
 * shift_clock - wall time that a test moves while a program runs; monotonic time is left alone.
 *
 *     SHIFT_CLOCK_FILE=FILE LD_PRELOAD=shift_clock.so PROGRAM...
 *
 * FILE holds one native int64: seconds to add to the wall clock. It is mapped, so that a change is
 * seen by the next call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t none, *shift_s = &none;
static int (*real_gettime)(clockid_t id, struct timespec *ts);

__attribute__((constructor)) static void
shift_map(void)
{
    const char *path = getenv("SHIFT_CLOCK_FILE");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);

    real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (p == MAP_FAILED || real_gettime == NULL)
        abort();
    shift_s = p;
    close(fd);
}

int
clock_gettime(clockid_t id, struct timespec *ts)
{
    int rc = real_gettime(id, ts);
    if (rc == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        ts->tv_sec += *shift_s;
    return rc;
}

time_t
time(time_t *ret)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (ret != NULL)
        *ret = ts.tv_sec;
    return ts.tv_sec;
}

int
gettimeofday(struct timeval *tv, void *zone)
{
    struct timespec ts;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &ts);
    *tv = (struct timeval){ts.tv_sec, ts.tv_nsec / 1000};
    return 0;
}
