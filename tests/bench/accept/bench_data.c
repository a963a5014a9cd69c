/* The body filter over ordinary mail: octets a second, and time for a message of 10 KB. */
#include "policy/base/mem.h"
#include "relayd/accept/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double
seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
measure(const char *name, const char *line, size_t n_bytes)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    struct data_limits limits = {.message_bytes = 1 << 30, .header_bytes = 1 << 20, .dots = true};
    char scratch[DATA_SCRATCH_BYTES];
    size_t rounds = ((size_t)200 << 20) / n_bytes, n_chunks = 0;

    strbuf_add_str(&text, "From: a@src.test\r\nTo: b@dst.test\r\nSubject: bench\r\n\r\n");
    while (text.n < n_bytes)
        strbuf_add_str(&text, line);
    strbuf_add_str(&text, ".\r\n");
    double begun = seconds();
    for (size_t i = 0; i < rounds; i++) {
        struct span in = strbuf_span(&text), out;
        struct data d;
        data_init(&d, &limits);
        while (data_next(&d, &in, scratch, &out) == DATA_OUT)
            n_chunks++;
        if (!data_ended(&d))
            abort();
    }
    double each = (seconds() - begun) / (double)rounds;
    printf("%-28s %8zu octets  %9.2f us  %8.0f MB/s  %.1f chunks\n", name, text.n, each * 1e6,
           (double)text.n / each / 1e6, (double)n_chunks / (double)rounds);
}

int
main(void)
{
    static const char line[] =
        "ordinary lines of seventy octets or so, as most mail programs do\r\n";

    measure("clean, 10 KB", line, 10240);
    measure("clean, 1 MB", line, 1 << 20);
    measure("base64, 1 MB",
            "TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcyByZWFzb24sIGJ1dCBieSB0aGlz\r\n",
            1 << 20);
    measure("a dot in front of each line", "..stuffed lines, each and every one of them\r\n",
            1 << 20);
    measure("bare LF, 1 MB", "lines that end in LF alone, all of them to be repaired\n\r\n",
            1 << 20);
    return 0;
}
