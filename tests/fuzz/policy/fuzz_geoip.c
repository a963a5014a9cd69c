/* Any bytes as a country database: refused, or it answers any address with a code or without. */
#include "policy/geoip.h"
#include "tests/fuzz/check.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static void
look_up(const struct geoip *geoip, uint32_t seed)
{
    for (unsigned i = 0; i < 16; i++) {
        struct ip ip = {.family = i % 2 == 0 ? 4 : 6};
        char code[3] = "";
        for (unsigned k = 0; k < (ip.family == 4 ? 4 : 16); k++) {
            seed = seed * 1664525u + 1013904223u;
            ip.bytes[k] = (uint8_t)(i < 2 ? 0xc0 : seed >> 24);
        }
        if (geoip_country(geoip, &ip, code))
            CHECK(code[0] >= 'A' && code[0] <= 'Z' && code[1] >= 'A' && code[1] <= 'Z' &&
                  code[2] == '\0');
    }
}

const char *__lsan_default_suppressions(void);

/* What libmaxminddb 1.7.1 makes of metadata that is broken it does not free. That ours is closed,
 * and with it what the library holds, is seen by the unit test. */
const char *
__lsan_default_suppressions(void)
{
    return "leak:libmaxminddb\n";
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct geoip *geoip = NULL;
    struct err err = {.text = ""};
    char path[40];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    CHECK(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (geoip_open(path, &geoip, &err) == ERR_OK)
        look_up(geoip, (uint32_t)n);
    else
        CHECK(err.text[0] != '\0');
    geoip_close(geoip);
    close(fd);
    return 0;
}
