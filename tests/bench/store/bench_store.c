/*
 * bench_store - how many messages a second go through the store, and what they cost.
 *
 *   bench_store [-n messages] [-f in-flight] [-b body bytes] [-s standing] [-d dir] [-r]
 *
 * Each message is added (one recipient), and finished as delivered once its commit has come back,
 * with `in-flight` messages under way at a time; -s leaves so many others in the queue meanwhile;
 * -r also reads each body, as a delivery does. CPU is of each thread, from its own clock.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "relayd/store/store.h"

struct bench {
    struct store *store;
    struct queue *queue;
    struct inbox *inbox;
    size_t n_messages, n_in_flight, body_bytes, standing;
    bool with_reads;
    size_t started, finished, failed;
    char *body;
    uint64_t commits, records;
};

struct item {
    struct bench *bench;
    struct store_op op;
    struct store_read read;
    struct queue_rcpt rcpt;
    struct span body;
    struct queue_change change;
    char *buf;
    char address[64];
};

static msec_t
wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (msec_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static double
seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void item_add(struct item *item);

static void
on_finished(struct store_op *op)
{
    struct item *item = CONTAINER_OF(op, struct item, op);
    struct bench *b = item->bench;
    b->finished++;
    b->failed += op->code != ERR_OK || item->change.code != ERR_OK;
    if (b->started < b->n_messages)
        item_add(item);
}

static void
item_finish(struct item *item)
{
    item->change = (struct queue_change){.id = item->op.add.msg.id,
                                         .revision = 1,
                                         .verb = QUEUE_FINISH,
                                         .result = QUEUE_DELIVERED,
                                         .finished_at = wall_ms(),
                                         .detail = SPAN("250 2.0.0 Ok: queued as 4XyZ")};
    item->op.kind = STORE_OUTCOMES;
    item->op.done = on_finished;
    memset(&item->op.outcomes, 0, sizeof(item->op.outcomes));
    item->op.outcomes.changes = &item->change;
    item->op.outcomes.n_changes = 1;
    store_submit(item->bench->store, &item->op);
}

static void
on_read(struct store_read *read)
{
    struct item *item = CONTAINER_OF(read, struct item, read);
    item->bench->failed += read->code != ERR_OK || read->body.n != item->body.n;
    item_finish(item);
}

static void
on_added(struct store_op *op)
{
    struct item *item = CONTAINER_OF(op, struct item, op);
    item->bench->failed += op->code != ERR_OK;
    if (!item->bench->with_reads) {
        item_finish(item);
        return;
    }
    item->read.kind = STORE_READ_BODY;
    item->read.done = on_read;
    item->read.body.id = op->add.msg.id;
    item->read.body.offset = 0;
    item->read.body.buf = item->buf;
    item->read.body.cap = item->body.n;
    store_read(item->bench->store, &item->read);
}

static void
fill(struct item *item)
{
    struct bench *b = item->bench;
    struct queue_msg *m = &item->op.add.msg;
    size_t at = strlen(item->address);
    if (at == 0)
        at = (size_t)snprintf(item->address, sizeof(item->address), "user%zu@d%zu.example",
                              b->started, b->started % 1000);
    const char *domain = strchr(item->address, '@') + 1;
    item->rcpt = (struct queue_rcpt){
        .state = QUEUE_FRESH, .address = span_str(item->address), .domain = span_str(domain)};
    item->body = span_of(b->body, b->body_bytes);
    item->op.kind = STORE_ADD;
    memset(&item->op.add, 0, sizeof(item->op.add));
    m->id = queue_id_new(b->queue, wall_ms());
    m->arrived_at = wall_ms();
    m->body_bytes = b->body_bytes;
    m->size_bytes = b->body_bytes + 600;
    m->sender = SPAN("newsletter@company.example");
    m->client = SPAN("192.0.2.17 mail.company.example");
    m->received = SPAN("Received: from mail.company.example (192.0.2.17) by cn.relay.example\r\n"
                       "\twith ESMTP id cn.032YFWNM00000 for <x@y.example>; Mon, 1 Jan 2024\r\n");
    item->op.add.rcpts = &item->rcpt;
    item->op.add.n_rcpts = 1;
    item->op.add.body = &item->body;
    item->op.add.n_body = 1;
}

static void
item_add(struct item *item)
{
    item->bench->started++;
    fill(item);
    item->op.done = on_added;
    store_submit(item->bench->store, &item->op);
}

static void
on_commit(void *arg, const struct store_commit *commit)
{
    struct bench *b = arg;
    b->commits++;
    b->records += commit->n_records;
}

static void
on_standing(struct store_op *op)
{
    struct item *item = CONTAINER_OF(op, struct item, op);
    item->bench->failed += op->code != ERR_OK;
    item->bench->finished++;
}

/* Mail that only lies there, so that trees are as deep as in a real backlog. */
static void
add_standing(struct bench *b)
{
    struct item *items = xcalloc(1000, sizeof(*items));
    for (size_t done = 0; done < b->standing; done += 1000) {
        b->finished = 0;
        for (size_t i = 0; i < 1000; i++) {
            items[i].bench = b;
            items[i].address[0] = '\0';
            b->started = done + i;
            fill(&items[i]);
            items[i].op.done = on_standing;
            store_submit(b->store, &items[i].op);
        }
        while (b->finished < 1000) {
            inbox_wait(b->inbox, -1);
            inbox_run(b->inbox);
        }
    }
    free(items);
    b->started = b->finished = 0;
}

/* CPU seconds of the threads of this name, from the scheduler's statistics. */
static double
thread_cpu(const char *name)
{
    double total = 0;
    DIR *dir = opendir("/proc/self/task");
    struct dirent *e;
    while (dir != NULL && (e = readdir(dir)) != NULL) {
        char path[320], comm[32] = "";
        unsigned long long ns = 0;
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "re");
        if (f == NULL)
            continue;
        if (fscanf(f, "%31s", comm) != 1)
            comm[0] = '\0';
        fclose(f);
        snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", e->d_name);
        f = fopen(path, "re");
        if (f != NULL && strcmp(comm, name) == 0 && fscanf(f, "%llu", &ns) == 1)
            total += (double)ns / 1e9;
        if (f != NULL)
            fclose(f);
    }
    if (dir != NULL)
        closedir(dir);
    return total;
}

static void
run(struct bench *b)
{
    struct item *items = xcalloc(b->n_in_flight, sizeof(*items));
    struct store_numbers n;
    b->commits = b->records = 0;
    double start = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    double loop = seconds(CLOCK_THREAD_CPUTIME_ID), writer = thread_cpu("store-writer"),
           readers = thread_cpu("store-reader");
    for (size_t i = 0; i < b->n_in_flight; i++) {
        items[i].bench = b;
        items[i].buf = xmalloc(b->body_bytes);
        if (b->started < b->n_messages)
            item_add(&items[i]);
    }
    while (b->finished < b->n_messages) {
        inbox_wait(b->inbox, -1);
        inbox_run(b->inbox);
    }
    double took = seconds(CLOCK_MONOTONIC) - start, per = 1e6 / (double)b->n_messages;
    store_numbers(b->store, &n);
    printf("%zu messages of %zu bytes, %zu in flight, %zu standing%s: %.0f msgs/s\n", b->n_messages,
           b->body_bytes, b->n_in_flight, b->standing, b->with_reads ? ", bodies read" : "",
           (double)b->n_messages / took);
    printf("CPU us/msg: writer %.1f, loop %.1f, readers %.1f, all %.1f\n",
           (thread_cpu("store-writer") - writer) * per,
           (seconds(CLOCK_THREAD_CPUTIME_ID) - loop) * per,
           (thread_cpu("store-reader") - readers) * per,
           (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) * per);
    printf("%llu commits, %.1f messages and %.1f records each; file %.1f MB; failed %zu\n",
           (unsigned long long)b->commits, 2.0 * (double)b->n_messages / (double)b->commits / 2,
           (double)b->records / (double)b->commits, (double)n.queue.file_bytes / 1e6, b->failed);
    for (size_t i = 0; i < b->n_in_flight; i++)
        free(items[i].buf);
    free(items);
}

static bool
arguments(struct bench *b, char **dir, int argc, char **argv)
{
    int c;
    while ((c = getopt(argc, argv, "n:f:b:s:d:r")) != -1) {
        switch (c) {
        case 'n':
            b->n_messages = strtoull(optarg, NULL, 10);
            break;
        case 'f':
            b->n_in_flight = strtoull(optarg, NULL, 10);
            break;
        case 'b':
            b->body_bytes = strtoull(optarg, NULL, 10);
            break;
        case 's':
            b->standing = strtoull(optarg, NULL, 10) / 1000 * 1000;
            break;
        case 'd':
            *dir = optarg;
            break;
        case 'r':
            b->with_reads = true;
            break;
        default:
            return false;
        }
    }
    return b->n_messages > 0 && b->n_in_flight > 0;
}

int
main(int argc, char **argv)
{
    struct bench b = {.n_messages = 100000, .n_in_flight = 500, .body_bytes = 4096};
    char made[] = "/tmp/bench-store-XXXXXX", *dir = made;
    struct err err;
    if (!arguments(&b, &dir, argc, argv) || (dir == made && mkdtemp(made) == NULL)) {
        fputs("usage: bench_store [-n messages] [-f in-flight] [-b bytes] [-s standing] [-d dir] "
              "[-r]\n",
              stderr);
        return 64;
    }
    struct queue_options options = {.path = dir, .node = "bench"};
    if (queue_open(&options, &b.queue, NULL, &err) != ERR_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    b.body = xcalloc(1, b.body_bytes + 1);
    memset(b.body, 'x', b.body_bytes);
    b.inbox = inbox_new(NULL);
    struct store_options store_options = {
        .queue = b.queue, .inbox = b.inbox, .arg = &b, .on_commit = on_commit};
    if (store_new(&store_options, &b.store, &err) != ERR_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    add_standing(&b);
    run(&b);
    store_free(b.store);
    inbox_run(b.inbox);
    inbox_free(b.inbox);
    queue_close(b.queue);
    free(b.body);
    if (dir == made) {
        static const char *const files[] = {"data.mdb", "lock.mdb", "relayd.lock"};
        for (size_t i = 0; i < N_ELEMENTS(files); i++) {
            char path[128];
            snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
            unlink(path);
        }
        rmdir(dir);
    }
    return b.failed == 0 ? 0 : 1;
}
