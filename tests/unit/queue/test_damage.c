/*
 * A09: one flipped bit anywhere in the data file. A child opens the queue, reads, delivers, adds
 * and delivers again as the daemon would: it may refuse the file with a sentence, or set one
 * message aside by name; it never crashes, hangs, reads another content, or loses sight of a
 * recipient.
 *
 * DAMAGE_FLIPS and DAMAGE_SEED choose how many flips, and which; a failure tells byte and bit.
 */
#include "tests/unit/queue/fixture.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#define FLIPS 150
#define PATIENCE_SECONDS 10 /* for what takes milliseconds */
#define MESSAGES 90
#define LANES_MAX 64

/* How a child ends, besides crashing. */
enum end { SOUND = 0, REFUSED = 10, SET_ASIDE, WRONG_CONTENT = 20, VANISHED, UNNAMED, STUCK };

struct sent {
    uint64_t id;
    uint32_t n_rcpts;
    size_t bytes;
    char domain[24];
    bool done; /* by the child */
};

static struct sent sent[MESSAGES];
static char *image; /* of the sound file */
static size_t image_bytes;

/* ------------------------------------------------------------------------------------ making */

static const size_t body_sizes[] = {40, 300, 900, 1800, 3000, 7000, 15000, 20000, 50000};

static void
add_sent(struct fixture *f, struct queue_batch *batch, struct sent *s, unsigned i)
{
    struct queue_rcpt rcpts[3];
    char addresses[3][48];
    s->bytes = body_sizes[i % N_ELEMENTS(body_sizes)];
    s->n_rcpts = 1 + i % 3;
    snprintf(s->domain, sizeof(s->domain), "d%u.test", i % 20);
    for (uint32_t no = 0; no < s->n_rcpts; no++) {
        snprintf(addresses[no], sizeof(addresses[no]), "u%u-%u@%s", i, (unsigned)no, s->domain);
        rcpts[no] = recipient(no, addresses[no]);
        if (i % 4 == 1)
            rcpts[no].state = QUEUE_HELD;
        else if (i % 4 != 0)
            rcpts[no].state = QUEUE_SCHEDULED, rcpts[no].due_at = T0 + 60000 * (msec_t)i;
    }
    CLEANUP(freep) char *bytes = body_bytes(s->bytes, i);
    struct span body = span_of(bytes, s->bytes);
    struct queue_msg msg = message(f, s->bytes);
    s->id = msg.id;
    OK(queue_add(batch, &msg, rcpts, s->n_rcpts, &body, 1, err));
}

/* A queue with a past: tables of several levels, a free list, history, facts, half a body. */
static void
image_make(struct fixture *f)
{
    static char part[QUEUE_CHUNK_BYTES];
    struct span half = span_of(part, sizeof(part));
    fixture_open(f);
    for (unsigned i = 0; i < 400; i++) {
        uint64_t id = add_one(f, "gone@past.test");
        struct queue_change c = {.id = id,
                                 .revision = 1,
                                 .verb = QUEUE_FINISH,
                                 .result = QUEUE_DELIVERED,
                                 .finished_at = T0 + i};
        assert_int_equal(apply_one(f, &c), ERR_OK);
    }
    for (unsigned i = 0; i < MESSAGES; i++) {
        char key[32];
        struct queue_batch *batch = begin(f);
        add_sent(f, batch, &sent[i], i);
        snprintf(key, sizeof(key), "learn:d%u.test", i);
        OK(queue_state_put(batch, span_str(key), SPAN("some fact"), err));
        commit(batch);
    }
    struct queue_batch *batch = begin(f);
    OK(queue_incoming_chunk(batch, queue_id_new(f->queue, T0), 0, &half, 1, err));
    commit(batch);
    fixture_close(f);
    char name[128];
    snprintf(name, sizeof(name), "%s/data.mdb", f->dir);
    int fd = open(name, O_RDONLY);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    image_bytes = (size_t)st.st_size;
    image = xmalloc(image_bytes);
    assert_int_equal(read(fd, image, image_bytes), (ssize_t)image_bytes);
    close(fd);
}

static void
image_write(struct fixture *f, size_t byte, unsigned bit)
{
    char name[128];
    snprintf(name, sizeof(name), "%s/data.mdb", f->dir);
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    image[byte] = (char)(image[byte] ^ (1 << bit));
    assert_int_equal(write(fd, image, image_bytes), (ssize_t)image_bytes);
    image[byte] = (char)(image[byte] ^ (1 << bit));
    close(fd);
}

/* -------------------------------------------------------------------------------- the child */

static struct sent *
sent_of(uint64_t id)
{
    for (size_t i = 0; i < MESSAGES; i++)
        if (sent[i].id == id)
            return &sent[i];
    return NULL;
}

/* Reads the message as a delivery would; false when it is set aside. Ends the child when what it
 * reads is not what was sent. */
static bool
reads_as_sent(struct fixture *f, const struct sent *s)
{
    struct queue_mail mail = {.txn_id = 0};
    struct err err;
    CLEANUP(freep) char *want = body_bytes(s->bytes, (unsigned)(s - sent));
    CLEANUP(freep) char *got = xmalloc(QUEUE_PAGE_BYTES);
    size_t n = 0, at = 0;
    if (queue_read_mail(f->reader, s->id, &mail, &err) != ERR_OK)
        return false;
    bool same = span_eq(mail.msg.sender, SPAN("alice@src.test")) && mail.n_rcpts <= s->n_rcpts &&
                mail.msg.body_bytes == s->bytes;
    for (size_t i = 0; i < mail.n_rcpts; i++) {
        char address[48];
        snprintf(address, sizeof(address), "u%u-%u@%s", (unsigned)(s - sent),
                 (unsigned)mail.rcpts[i].no, s->domain);
        same = same && span_eq(mail.rcpts[i].address, span_str(address));
    }
    queue_mail_release(&mail);
    do {
        if (queue_read_body(f->reader, s->id, at, got, QUEUE_PAGE_BYTES, &n, &err) != ERR_OK)
            return false;
        same = same && at + n <= s->bytes && memcmp(want + at, got, n) == 0;
        at += n;
    } while (same && n > 0);
    if (!same || at != s->bytes)
        _exit(WRONG_CONTENT);
    return true;
}

struct work {
    struct queue_change changes[3 * MESSAGES];
    size_t n;
    uint32_t n_bad;
};

static void
take_page(struct fixture *f, struct work *w, struct queue_page *page)
{
    w->n_bad += page->n_bad;
    for (size_t i = 0; i < page->n_rows; i++) {
        const struct queue_rcpt *r = &page->rows[i].rcpt;
        struct sent *s = sent_of(r->id);
        if (s == NULL || r->no >= s->n_rcpts || w->n == N_ELEMENTS(w->changes))
            _exit(WRONG_CONTENT);
        if (!reads_as_sent(f, s)) {
            w->n_bad++;
            continue;
        }
        w->changes[w->n++] = (struct queue_change){.id = r->id,
                                                   .no = r->no,
                                                   .revision = r->revision,
                                                   .verb = QUEUE_FINISH,
                                                   .result = QUEUE_DELIVERED,
                                                   .finished_at = T0};
    }
    queue_page_release(page);
}

/* Everything that waits, the way the schedule finds it. */
static void
collect(struct fixture *f, struct work *w)
{
    struct err err;
    struct queue_page page;
    struct queue_key after = {0};
    struct queue_lane_row lanes[LANES_MAX];
    struct queue_filter held = {.states = 1u << QUEUE_HELD};
    uint64_t last, txn;
    size_t n_lanes = 0;
    bool more = true;
    *w = (struct work){.n = 0};
    while (more) {
        page = (struct queue_page){.txn_id = 0};
        more = queue_page_fresh(f->reader, &after, 1000, &page, &err) == ERR_OK && page.more;
        take_page(f, w, &page);
    }
    if (queue_lanes(f->reader, NULL, LANES_MAX, lanes, &n_lanes, &last, &more, &txn, &err) !=
        ERR_OK)
        n_lanes = 0;
    for (size_t i = 0; i < n_lanes; i++) {
        struct queue_due_key due = {0};
        page = (struct queue_page){.txn_id = 0};
        if (queue_page_lane(f->reader, lanes[i].lane, &due, INT64_MAX, 1000, &page, &err) == ERR_OK)
            take_page(f, w, &page);
    }
    after = (struct queue_key){0};
    page = (struct queue_page){.txn_id = 0};
    if (queue_list(f->reader, &held, &after, 1000, &page, &err) == ERR_OK)
        take_page(f, w, &page);
}

static void
must(enum err_code code)
{
    if (code != ERR_OK)
        _exit(STUCK);
}

/* Deliver `n` of the changes, and in between let new mail use the pages that they leave. */
static void
deliver(struct fixture *f, struct work *w, size_t from, size_t n)
{
    struct queue_batch *batch = NULL;
    struct err err;
    uint64_t txn;
    must(queue_begin(f->queue, &batch, &err));
    for (size_t i = from; i < from + n && i < w->n; i++)
        must(queue_apply(batch, &w->changes[i], &err));
    must(queue_commit(batch, &txn, &err));
    for (size_t i = from; i < from + n && i < w->n; i++)
        sent_of(w->changes[i].id)->n_rcpts--;
}

static void
add_more(struct fixture *f)
{
    static char bytes[30000];
    struct span body = span_of(bytes, sizeof(bytes));
    struct err err;
    uint64_t txn;
    memset(bytes, 0xEE, sizeof(bytes));
    for (int i = 0; i < 12; i++) {
        struct queue_batch *batch;
        struct queue_rcpt rcpt = recipient(0, "new@held.test");
        struct queue_msg msg = message(f, sizeof(bytes));
        rcpt.state = QUEUE_HELD;
        must(queue_begin(f->queue, &batch, &err));
        must(queue_add(batch, &msg, &rcpt, 1, &body, 1, &err));
        if (i % 3 == 0) {
            struct queue_change c = {.id = msg.id,
                                     .revision = 1,
                                     .verb = QUEUE_FINISH,
                                     .result = QUEUE_REMOVED,
                                     .finished_at = T0};
            must(queue_commit(batch, &txn, &err));
            must(queue_begin(f->queue, &batch, &err));
            must(queue_apply(batch, &c, &err));
        }
        must(queue_commit(batch, &txn, &err));
    }
}

/* What is left must be one message at the most, and it must be named. */
static enum end
judge(struct fixture *f, uint32_t n_bad)
{
    struct queue_verify *v = queue_verify_new();
    struct queue_verify_result r;
    struct err err;
    size_t n_left = 0;
    for (size_t i = 0; i < MESSAGES; i++)
        n_left += sent[i].n_rcpts > 0;
    do
        must(queue_verify_step(v, f->reader, &r, &err));
    while (!r.finished);
    queue_verify_free(v);
    if (n_left > 1)
        return VANISHED;
    if (n_left == 1 && (n_bad == 0 || r.n_findings == 0))
        return UNNAMED;
    return n_left == 1 || r.n_findings > 0 ? SET_ASIDE : SOUND;
}

static enum end
child(struct fixture *f)
{
    static struct work w;
    struct err err = {.text = ""};
    alarm(PATIENCE_SECONDS);
    if (queue_open(&f->options, &f->queue, &f->info, &err) != ERR_OK)
        return strchr(err.text, '\n') == NULL && strlen(err.text) > 20 ? REFUSED : UNNAMED;
    must(queue_reader_new(f->queue, &f->reader, &err));
    collect(f, &w);
    uint32_t n_bad = w.n_bad;
    deliver(f, &w, 0, w.n / 2);
    add_more(f);
    for (size_t i = w.n / 2; i < w.n; i++) /* the pages of the first half are used again by now */
        if (!reads_as_sent(f, sent_of(w.changes[i].id)))
            _exit(WRONG_CONTENT);
    deliver(f, &w, w.n / 2, w.n);
    enum end end = judge(f, n_bad);
    queue_reader_free(f->reader);
    queue_close(f->queue);
    return end;
}

/* ------------------------------------------------------------------------------- the parent */

static const char *
end_name(int status)
{
    static const char *const bad[] = {"read another content", "lost sight of several messages",
                                      "named nothing", "could not go on"};
    if (WIFSIGNALED(status))
        return strsignal(WTERMSIG(status));
    int code = WEXITSTATUS(status);
    return code >= WRONG_CONTENT && code <= STUCK ? bad[code - WRONG_CONTENT] : "failed";
}

static void
one_flipped_bit_harms_one_message_at_most(void **state)
{
    struct fixture *f = *state;
    const char *flips_text = getenv("DAMAGE_FLIPS"), *seed_text = getenv("DAMAGE_SEED");
    long flips = flips_text == NULL ? FLIPS : atol(flips_text), bad = 0;
    unsigned ends[SET_ASIDE + 1] = {0};
    unsigned seed = seed_text == NULL ? (unsigned)time(NULL) : (unsigned)atol(seed_text);
    srandom(seed);
    image_make(f);
    for (long i = 0; i < flips; i++) {
        size_t byte = (size_t)random() % image_bytes;
        unsigned bit = (unsigned)random() % 8;
        if (i % 3 == 0) /* every third one into the beginning of a page, where its order is kept */
            byte = byte / 4096 * 4096 + byte % 64;
        image_write(f, byte, bit);
        pid_t pid = fork();
        if (pid == 0)
            _exit((int)child(f));
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) <= SET_ASIDE) {
            ends[WEXITSTATUS(status)]++;
            continue;
        }
        bad++;
        printf("seed %u: bit %u of byte %zu (page %zu, at %zu): %s\n", seed, bit, byte, byte / 4096,
               byte % 4096, end_name(status));
    }
    printf("%ld flips of %zu bytes: %u without harm, %u refused, %u set a message aside\n", flips,
           image_bytes, ends[SOUND], ends[REFUSED], ends[SET_ASIDE]);
    free(image);
    if (bad > 0)
        fail_msg("%ld of %ld flips did harm", bad, flips);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup_closed, fixture_teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(one_flipped_bit_harms_one_message_at_most),
    };
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0); /* nothing here is about syncing */
    RUN_TESTS(tests);
}
