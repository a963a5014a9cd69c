/*
 * kill -9 at any instant: what was acknowledged is there, what was finished is gone, and the queue
 * is sound. A child adds, defers and finishes mail as fast as it can and tells each completion over
 * a pipe; the parent kills it, opens the queue and compares. RELAYD_CRASH_KILLS sets how often.
 */
#include "tests/unit/queue/fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "relayd/store/store.h"

#define IN_FLIGHT 48
#define KILLS 25
#define ACKS_MAX 200000

enum what { ADDED = 1, DEFERRED, FINISHING, FINISHED };

struct ack {
    uint64_t id;
    uint32_t what, n_rcpts;
    uint64_t body_bytes;
};

/* ------------------------------------------------------------------------------------- child */

struct item {
    struct store_op op;
    struct queue_rcpt rcpts[3];
    struct queue_change changes[3];
    struct span body, part;
    uint64_t id;
    size_t n_rcpts, sent; /* bytes of a big body that are stored */
    char *bytes;
};

static struct store *store;
static struct queue *queue;
static int ack_fd;
static unsigned seed;

static unsigned
dice(unsigned sides)
{
    seed = seed * 1103515245u + 12345u;
    return seed / 65536u % sides;
}

static void
tell(const struct item *item, enum what what)
{
    struct ack ack = {item->id, what, (uint32_t)item->n_rcpts, item->body.n};
    if (write(ack_fd, &ack, sizeof(ack)) != sizeof(ack))
        _exit(3); /* nobody listens any more */
}

static void item_add(struct item *item);

static void
must(const struct store_op *op)
{
    if (op->code == ERR_OK)
        return;
    fprintf(stderr, "child: op %d: %s\n", (int)op->kind, op->err.text);
    _exit(4);
}

static void
on_finished(struct store_op *op)
{
    struct item *item = CONTAINER_OF(op, struct item, op);
    must(op);
    tell(item, FINISHED);
    free(item->bytes);
    item_add(item);
}

static void
item_change(struct item *item, enum queue_verb verb, void (*done)(struct store_op *))
{
    for (size_t i = 0; i < item->n_rcpts; i++) {
        uint32_t revision = item->changes[i].new_revision;
        item->changes[i] = (struct queue_change){.id = item->id,
                                                 .no = (uint32_t)i,
                                                 .revision = revision == 0 ? 1 : revision,
                                                 .verb = verb,
                                                 .due_at = T0 + dice(1000),
                                                 .result = QUEUE_FAILED,
                                                 .finished_at = T0 + dice(1000)};
    }
    memset(&item->op, 0, sizeof(item->op));
    item->op.kind = STORE_OUTCOMES;
    item->op.done = done;
    item->op.outcomes.changes = item->changes;
    item->op.outcomes.n_changes = item->n_rcpts;
    store_submit(store, &item->op);
}

static void
on_deferred(struct store_op *op)
{
    struct item *item = CONTAINER_OF(op, struct item, op);
    must(op);
    tell(item, DEFERRED);
    if (dice(4) == 0) { /* this one stays */
        free(item->bytes);
        item_add(item);
        return;
    }
    tell(item, FINISHING);
    item_change(item, QUEUE_FINISH, on_finished);
}

static void
on_added(struct store_op *op)
{
    struct item *item = CONTAINER_OF(op, struct item, op);
    must(op);
    tell(item, ADDED);
    if (dice(2) == 0) {
        item_change(item, QUEUE_DEFER, on_deferred);
        return;
    }
    tell(item, FINISHING);
    item_change(item, QUEUE_FINISH, on_finished);
}

static void
fill_add(struct item *item, enum store_kind kind)
{
    memset(&item->op, 0, sizeof(item->op));
    item->op.kind = kind;
    item->op.done = on_added;
    item->op.add.msg = (struct queue_msg){.id = item->id,
                                          .arrived_at = T0,
                                          .size_bytes = item->body.n + 9,
                                          .body_bytes = item->body.n,
                                          .sender = SPAN("a@src.test")};
    item->op.add.rcpts = item->rcpts;
    item->op.add.n_rcpts = item->n_rcpts;
    item->op.add.body = &item->body;
    item->op.add.n_body = 1;
}

#define PART (4 * QUEUE_CHUNK_BYTES)

static void
on_part(struct store_op *op)
{
    struct item *item = CONTAINER_OF(op, struct item, op);
    must(op);
    if (item->sent == item->body.n) {
        fill_add(item, STORE_ADD_BIG);
    } else {
        item->part = span_first(span_from(item->body, item->sent), PART);
        memset(&item->op, 0, sizeof(item->op));
        item->op.kind = STORE_CHUNK;
        item->op.done = on_part;
        item->op.chunk.id = item->id;
        item->op.chunk.offset = item->sent;
        item->op.chunk.bytes = &item->part;
        item->op.chunk.n_bytes = 1;
        item->sent += item->part.n;
    }
    store_submit(store, &item->op);
}

static void
item_add(struct item *item)
{
    static const char *const addresses[] = {"x@d.test", "y@e.test", "z@d.test"};
    size_t n = dice(10) == 0 ? 20000 + dice(200000) : dice(6000);
    item->id = queue_id_new(queue, T0);
    item->n_rcpts = 1 + dice(3);
    item->bytes = body_bytes(n, (unsigned)item->id);
    item->body = span_of(item->bytes, n);
    item->sent = 0;
    for (size_t i = 0; i < item->n_rcpts; i++) {
        item->rcpts[i] = recipient((uint32_t)i, addresses[i]);
        item->changes[i].new_revision = 0;
    }
    if (n > 100000) {
        item->op.code = ERR_OK;
        on_part(&item->op);
        return;
    }
    fill_add(item, STORE_ADD);
    store_submit(store, &item->op);
}

static int
child(const char *dir, int fd, unsigned first_seed)
{
    struct queue_options options = {.path = dir, .max_bytes = 1024ull * MIB};
    struct inbox *inbox = inbox_new(NULL);
    struct item *items = xcalloc(IN_FLIGHT, sizeof(*items));
    struct err err;
    ack_fd = fd;
    seed = first_seed;
    if (queue_open(&options, &queue, NULL, &err) != ERR_OK) {
        fprintf(stderr, "child: %s\n", err.text);
        return 5;
    }
    struct store_options store_options = {.queue = queue, .inbox = inbox, .history_rows = 1000};
    if (store_new(&store_options, &store, &err) != ERR_OK)
        return 6;
    for (size_t i = 0; i < IN_FLIGHT; i++)
        item_add(&items[i]);
    for (;;) {
        inbox_wait(inbox, -1);
        inbox_run(inbox);
    }
}

/* ------------------------------------------------------------------------------------ parent */

struct ledger {
    struct ack acks[ACKS_MAX]; /* the last word on each id that is still of interest */
    size_t n;
    size_t n_told;
};

static void
note(struct ledger *l, const struct ack *ack)
{
    l->n_told++;
    for (size_t i = l->n; i-- > 0;) { /* the one meant is near the end */
        if (l->acks[i].id != ack->id)
            continue;
        if (ack->what == FINISHED)
            l->acks[i] = *ack;
        else
            l->acks[i].what = ack->what;
        return;
    }
    assert_true(l->n < ACKS_MAX);
    l->acks[l->n++] = *ack;
}

static pid_t
start_child(const char *self, const char *dir, int *ret_fd, unsigned first_seed)
{
    int ends[2];
    char fd_text[16], seed_text[16];
    assert_int_equal(pipe(ends), 0);
    snprintf(fd_text, sizeof(fd_text), "%d", ends[1]);
    snprintf(seed_text, sizeof(seed_text), "%u", first_seed);
    pid_t pid = fork(); /* no environment is open in the parent now */
    assert_true(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        execl(self, self, "--child", dir, fd_text, seed_text, (char *)NULL);
        _exit(9);
    }
    close(ends[1]);
    *ret_fd = ends[0];
    return pid;
}

/* Read completions until `kill_after` of them, kill, and read what was still in the pipe. */
static void
run_and_kill(pid_t pid, int fd, size_t kill_after, struct ledger *l)
{
    struct ack ack;
    size_t n = 0;
    int status;
    ssize_t got;
    while ((got = read(fd, &ack, sizeof(ack))) == sizeof(ack)) {
        note(l, &ack);
        if (++n == kill_after)
            assert_int_equal(kill(pid, SIGKILL), 0);
    }
    assert_int_equal(got, 0);
    close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("the child ended by itself: status %x", (unsigned)status);
}

static void
body_is_whole(struct fixture *f, const struct ack *ack)
{
    char *want = body_bytes(ack->body_bytes, (unsigned)ack->id), *buf = xmalloc(QUEUE_PAGE_BYTES);
    size_t at = 0, n;
    do {
        OK(queue_read_body(f->reader, ack->id, at, buf, QUEUE_PAGE_BYTES, &n, err));
        assert_memory_equal(buf, want + at, n);
        at += n;
    } while (n > 0);
    assert_int_equal(at, ack->body_bytes);
    free(want);
    free(buf);
}

/* What the parent was told must hold; an id told FINISHING may be there or not. */
static void
compare(struct fixture *f, struct ledger *l, bool with_bodies)
{
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++) {
        struct ack *a = &l->acks[i];
        struct queue_mail m = {0};
        enum err_code code = queue_read_mail(f->reader, a->id, &m, NULL);
        if (a->what == FINISHED
                ? code != ERR_NOT_FOUND
                : code != ERR_OK && !(a->what == FINISHING && code == ERR_NOT_FOUND))
            fail_msg("message %llx was told %u and is %s", (unsigned long long)a->id, a->what,
                     err_code_name(code));
        if (code == ERR_OK) {
            assert_int_equal(m.n_rcpts, a->n_rcpts);
            for (size_t r = 0; r < m.n_rcpts; r++)
                if (a->what == DEFERRED)
                    assert_int_equal(m.rcpts[r].state, QUEUE_SCHEDULED);
            if (with_bodies)
                body_is_whole(f, a);
        }
        queue_mail_release(&m);
        if (code == ERR_OK)
            l->acks[kept++] = *a; /* finished ones are forgotten: ids never come back */
    }
    l->n = kept;
}

static void
nothing_acknowledged_is_lost_by_kill_9(void **state)
{
    struct fixture *f = *state;
    static struct ledger ledger;
    char self[256];
    const char *wanted = getenv("RELAYD_CRASH_KILLS");
    unsigned kills = wanted == NULL ? KILLS : (unsigned)strtoul(wanted, NULL, 10);
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    assert_true(n > 0);
    self[n] = '\0';
    seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    f->options.max_bytes = 1024ull * MIB;
    for (unsigned i = 0; i < kills; i++) {
        int fd;
        size_t kill_after = 1 + dice(i % 2 == 0 ? 1500 : 100);
        pid_t pid = start_child(self, f->dir, &fd, dice(1u << 15));
        run_and_kill(pid, fd, kill_after, &ledger);
        fixture_open(f);
        compare(f, &ledger, i % 5 == 4 || i + 1 == kills);
        assert_sound(f);
        assert_int_equal(stats_of(f).incoming, 0);
        fixture_close(f);
    }
    print_message("%u kills, %zu completions told, %zu messages left\n", kills, ledger.n_told,
                  ledger.n);
    assert_true(ledger.n_told > kills);
}

int
main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "--child") == 0)
        return child(argv[2], (int)strtol(argv[3], NULL, 10), (unsigned)strtoul(argv[4], NULL, 10));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_acknowledged_is_lost_by_kill_9,
                                        fixture_setup_closed, fixture_teardown),
    };
    RUN_TESTS(tests);
}
