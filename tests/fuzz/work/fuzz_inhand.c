/* Any bytes as the file of what was in hand at a crash: marks of crashes, or none. */
#include "relayd/work/inhand.c" /* its mapping is for good, and has to be undone here */

#include "tests/fuzz/check.h"

#include <stdio.h>

static void
reopen(const char *path, struct inhand_mark *marks, size_t *n_marks)
{
    struct err err = {.text = ""};

    CHECK(inhand_open(path, marks, n_marks, &err) == ERR_OK && *n_marks <= INHAND_SLOTS);
    munmap(mapped, sizeof(struct file));
    mapped = NULL;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static char path[64];
    struct inhand_mark marks[INHAND_SLOTS];
    size_t n_marks = SIZE_MAX;

    if (path[0] == '\0')
        snprintf(path, sizeof path, "/dev/shm/fuzz_inhand.%d", (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, "relayd-in-hand-1", 16) == 16);
    CHECK(n == 0 || pwrite(fd, bytes, n, bytes[0] & 16) == (ssize_t)n);
    close(fd);
    reopen(path, marks, &n_marks);
    for (size_t i = 0; i < n_marks; i++)
        CHECK(marks[i].signal != 0 && (marks[i].id != 0 || marks[i].print != 0));
    reopen(path, marks, &n_marks);
    CHECK(n_marks == 0); /* told once */
    unlink(path);
    return 0;
}
