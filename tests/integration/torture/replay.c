/*
 * replay - cuts the power at every place of a recorded run where something became durable, or was
 * promised, and judges what the disk may hold then.
 *
 *   replay [--seed N] [--draws N] [--share I/N] [--acked] LOG LEDGER DIR
 *   replay --list LOG LEDGER DIR              the numbers of the cuts where something is not synced
 *   replay --only STATE LOG LEDGER DIR        judge this one, leave it in DIR as it was found, and
 *                                             say who is owed a delivery
 *
 * With --acked all of the ledger was acknowledged before the recording began, and cuts count from
 * the daemon's start.
 *
 * A cut is after every record that is not a plain write: unsynced sectors grow with those, and any
 * subset of them is drawn at the next cut anyway. Acknowledgements that follow each other directly
 * are one cut, and a remote's 250 alone is none: what may be absent only grows with it. At each cut
 * where something is not durable: none of it, all of it, and `draws` times sectors by chance.
 *
 * A state is named CUT.FATE.SEED. Prints the states that must not be, at most ten, and one line of
 * numbers; exits 1 when there was any.
 */
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "replay_disk.h"
#include "replay_oracle.h"

#define SHOWN_MAX 10
#define HANG_SECONDS 20 /* for one state, which takes milliseconds */

struct run {
    const char *map;
    uint64_t used;
    const char *dir;
    struct disk disk;
    struct ledger ledger;
    uint64_t seed, draws;
    uint64_t share, shares; /* this process looks at every shares-th cut */
    bool acked, started;
    bool list, only; /* only the state only_cut.only_fate.only_seed */
    uint64_t only_cut, only_seed;
    enum disk_fate only_fate;
    uint64_t n_cuts, n_states, n_bad;
    uint64_t n_syncs, n_dsyncs, n_acks, n_taken, n_unsynced;
};

static const char *const fates[] = {"none", "all", "random"};

static char now_at[64]; /* the state being looked at, for a crash in the library */

static void
on_crash(int number)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "BAD %s: signal %d\n", now_at, number);
    if (write(STDOUT_FILENO, text, (size_t)n) < 0)
        _exit(3);
    _exit(2);
}

/* fdatasync of a rebuilt file is of no use to anybody. */
int
fdatasync(int fd)
{
    (void)fd;
    return 0;
}

static void
rebuild(struct run *run, enum disk_fate fate, uint64_t seed)
{
    if (!disk_rebuild(&run->disk, fate, seed, run->dir)) {
        perror(run->dir);
        exit(3);
    }
}

static void
state_judge(struct run *run, uint64_t cut, enum disk_fate fate, uint64_t seed)
{
    char why[1024];
    snprintf(now_at, sizeof(now_at), "%" PRIu64 ".%s.%" PRIu64, cut, fates[fate], seed);
    rebuild(run, fate, seed);
    run->n_states++;
    alarm(HANG_SECONDS);
    if (!oracle_judge(&run->ledger, run->dir, why, sizeof(why)) && run->n_bad++ < SHOWN_MAX)
        printf("BAD %s: %s\n", now_at, why);
    alarm(0);
}

static void
cut_judge(struct run *run, uint64_t cut)
{
    bool unsynced = run->disk.n_pending > 0;
    run->n_cuts++;
    run->n_unsynced += unsynced;
    if (run->list && unsynced)
        printf("CUT %" PRIu64 "\n", cut);
    if (run->only && cut == run->only_cut) {
        state_judge(run, cut, run->only_fate, run->only_seed);
        rebuild(run, run->only_fate, run->only_seed);
    }
    if (run->only || run->list)
        return;
    if (cut % run->shares != run->share)
        return;
    state_judge(run, cut, DISK_NONE, 0);
    if (!unsynced)
        return;
    state_judge(run, cut, DISK_ALL, 0);
    uint64_t stream = run->seed ^ (cut * 0x100000001b3ull);
    for (uint64_t i = 0; i < run->draws; i++)
        state_judge(run, cut, DISK_RANDOM, disk_random(&stream, UINT64_MAX));
}

/* ------------------------------------------------------------------------------------ log */

static const struct record *
record_at(const struct run *run, uint64_t at)
{
    return at < run->used ? (const struct record *)(run->map + at) : NULL;
}

static uint64_t
record_end(const struct record *r, uint64_t at)
{
    return (at + sizeof(*r) + r->n + 7) / 8 * 8;
}

static void
books_step(struct run *run, const struct record *r)
{
    struct span text = span_of((const char *)(r + 1), r->n);
    run->n_syncs += r->kind == RECORD_SYNC_END;
    run->n_dsyncs += r->kind == RECORD_DONE;
    if (r->kind == RECORD_ACK) {
        ledger_ack(&run->ledger, text);
        run->n_acks++;
    } else if (r->kind == RECORD_TAKEN) {
        ledger_taken(&run->ledger, text);
        run->n_taken++;
    }
}

static bool
is_cut(const struct record *r, const struct record *next)
{
    switch ((enum record_kind)r->kind) {
    case RECORD_WRITE:
    case RECORD_TRUNCATE:
    case RECORD_START:
    case RECORD_UNDONE:
    case RECORD_FAILED:
    case RECORD_TAKEN:
        return next == NULL;
    case RECORD_ACK:
        return next == NULL || next->kind != RECORD_ACK;
    case RECORD_CREATE:
    case RECORD_RENAME:
    case RECORD_UNLINK:
    case RECORD_WRITE_SYNC:
    case RECORD_DONE:
    case RECORD_SYNC_BEGIN:
    case RECORD_SYNC_END:
        break;
    }
    return true;
}

static void
run_all(struct run *run)
{
    uint64_t cut = 0;
    for (uint64_t at = sizeof(struct record_head), end; at < run->used; at = end, cut++) {
        const struct record *r = record_at(run, at);
        end = record_end(r, at);
        disk_step(&run->disk, r, at);
        books_step(run, r);
        run->started |= r->kind == RECORD_START;
        if (run->started && is_cut(r, record_at(run, end)))
            cut_judge(run, cut);
        if (run->only && run->n_states > 0)
            return;
    }
}

static bool
log_open(struct run *run, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, RECORD_LOG_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED)
        return false;
    const struct record_head *head = map;
    run->map = map;
    run->used = head->used;
    return strcmp(head->magic, RECORD_MAGIC) == 0;
}

/* ----------------------------------------------------------------------------------- main */

static bool
only_parse(struct run *run, const char *text)
{
    char fate[16];
    run->only = true;
    if (sscanf(text, "%" SCNu64 ".%15[a-z].%" SCNu64, &run->only_cut, fate, &run->only_seed) != 3)
        return false;
    for (size_t i = 0; i < sizeof(fates) / sizeof(fates[0]); i++)
        if (strcmp(fates[i], fate) == 0) {
            run->only_fate = (enum disk_fate)i;
            return true;
        }
    return false;
}

static void
watch(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGALRM};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        signal(numbers[i], on_crash);
}

/* For --only: who is still owed a delivery, as the recipients' addresses. */
static void
owed_print(const struct run *run)
{
    for (size_t i = 0; i < run->ledger.n_rcpts; i++) {
        const struct promise_rcpt *r = run->ledger.by_address[i];
        const struct promise *p = run->ledger.promises;
        while (r < p->rcpts || r >= p->rcpts + p->n_rcpts)
            p++;
        if (p->acked && !r->taken && !r->told)
            printf("OWED %.*s\n", (int)r->address.n, r->address.p);
    }
}

static bool
arguments_read(struct run *run, int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", 1, 0, 's'}, {"draws", 1, 0, 'd'}, {"acked", 0, 0, 'a'}, {"share", 1, 0, 'h'},
        {"only", 1, 0, 'o'}, {"list", 0, 0, 'l'},  {0, 0, 0, 0}};
    bool good = true;
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 's')
            run->seed = strtoull(optarg, NULL, 10);
        else if (c == 'd')
            run->draws = strtoull(optarg, NULL, 10);
        else if (c == 'a')
            run->acked = true;
        else if (c == 'o')
            good &= only_parse(run, optarg);
        else if (c == 'l')
            run->list = true;
        else if (c != 'h' || sscanf(optarg, "%" SCNu64 "/%" SCNu64, &run->share, &run->shares) != 2)
            good = false;
    }
    return good && argc - optind == 3 && run->shares > 0;
}

int
main(int argc, char **argv)
{
    struct run run = {.draws = 8, .shares = 1};
    if (!arguments_read(&run, argc, argv)) {
        fprintf(stderr, "usage: replay [--seed N] [--draws N] [--share I/N] [--acked] "
                        "[--only STATE] [--list] LOG LEDGER DIR\n");
        return 64;
    }
    run.dir = argv[optind + 2];
    disk_init(&run.disk);
    if (!log_open(&run, argv[optind]) || !ledger_read(argv[optind + 1], &run.ledger)) {
        fprintf(stderr, "replay: %s or %s cannot be read\n", argv[optind], argv[optind + 1]);
        return 64;
    }
    if (run.acked)
        ledger_ack_all(&run.ledger);
    watch();
    run_all(&run);
    if (run.only)
        owed_print(&run);
    printf("states=%" PRIu64 " cuts=%" PRIu64 " unsynced=%" PRIu64 " syncs=%" PRIu64
           " dsyncs=%" PRIu64 " acks=%" PRIu64 " taken=%" PRIu64
           " unknown=%zu failed=%d bad=%" PRIu64 "\n",
           run.n_states, run.n_cuts, run.n_unsynced, run.n_syncs, run.n_dsyncs, run.n_acks,
           run.n_taken, run.ledger.n_unknown, run.disk.failed, run.n_bad);
    disk_free(&run.disk);
    ledger_free(&run.ledger);
    return run.n_bad > 0;
}
