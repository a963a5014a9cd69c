/*
 * run_ctl - run the relayctl that was built beside the test program, and keep what it says.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/base/span.h"

struct run {
    int status; /* exit code; 128 + signal */
    struct strbuf out, err;
};

static char run_program[PATH_MAX]; /* set by run_find() */

/* build/tests/test_x -> build/bin/relayctl */
static inline void
run_find(void)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n < 0 ? 0 : n] = '\0';
    snprintf(run_program, sizeof(run_program), "%.4000s/../bin/relayctl", dirname(self));
}

static inline void
run_release(struct run *run)
{
    strbuf_release(&run->out);
    strbuf_release(&run->err);
}

static inline void
run_collect(int out, int err, struct run *run)
{
    struct pollfd fds[2] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
    struct strbuf *to[2] = {&run->out, &run->err};
    for (int open = 2; open > 0;) {
        char buf[65536];
        poll(fds, 2, -1);
        for (int i = 0; i < 2; i++) {
            if (fds[i].fd < 0 || fds[i].revents == 0)
                continue;
            ssize_t n = read(fds[i].fd, buf, sizeof(buf));
            if (n > 0) {
                strbuf_add(to[i], buf, (size_t)n);
            } else {
                close(fds[i].fd);
                fds[i].fd = -1;
                open--;
            }
        }
    }
    strbuf_reserve(&run->out, 1);
    run->out.p[run->out.n] = '\0';
    strbuf_reserve(&run->err, 1);
    run->err.p[run->err.n] = '\0';
}

/* Runs relayctl in `dir` (NULL: here) with the words of `command`, split at single spaces, and
 * `input` on its standard input. */
static inline struct run
run_ctl(const char *dir, const char *command, const char *input)
{
    struct run run = {0};
    char *copy = xstrdup(command), *argv[40] = {run_program}, *save = NULL;
    int in[2], out[2], err[2], n = 1;
    for (char *word = strtok_r(copy, " ", &save); word != NULL && n < 39;
         word = strtok_r(NULL, " ", &save))
        argv[n++] = word;
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0)
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        if (dir != NULL && chdir(dir) != 0)
            _exit(126);
        execv(run_program, argv);
        _exit(127);
    }
    free(copy);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    if (input != NULL && write(in[1], input, strlen(input)) != (ssize_t)strlen(input))
        fprintf(stderr, "relayctl did not read its input\n");
    close(in[1]);
    run_collect(out[0], err[0], &run);
    int status;
    waitpid(pid, &status, 0);
    run.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return run;
}
